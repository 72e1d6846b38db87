# SPDX-License-Identifier: BSD-3-Clause
"""What the documentation says is so: generated pages are current, names exist, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from uiod import config, configref, manpages
from uiod.errors import ExitStatus
from uiod.metrics import prometheus
from uiod.supervisor import Supervisor

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
FLEET = TOP / "examples" / "fleet"
PAGES = sorted([TOP / "README.md", *DOCS.glob("*.md")])
METRIC = re.compile(r"\buio_(?!vm_module|vm\b|config|timeout)[a-z0-9_]+")


@pytest.fixture
def metrics(tmp_path: Path) -> set[str]:
    """The names of /metrics, of a VM that does not run."""
    path = tmp_path / "t.cfg"
    path.write_text('[vm]\nkernel = "k"\n')
    text = prometheus(Supervisor(config.load(path), tmp_path))
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def base(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_the_configuration_reference_is_current() -> None:
    assert (DOCS / "config.md").read_text() == configref.markdown(), (
        "run: .venv/bin/python -m uiod.configref >docs/config.md"
    )


def test_every_key_is_described_and_nothing_else() -> None:
    keys = {
        f"{table}.{field.name}"
        for table, (kind, _several) in config._TABLES.items()
        for field in msgspec.structs.fields(kind)
    }
    assert set(configref.TEXTS) == keys
    assert set(configref.TABLES) == set(config._TABLES)


@pytest.mark.parametrize("name", manpages.PAGES)
def test_manual_pages_are_roff(name: str) -> None:
    known = {
        ".TH",
        ".SH",
        ".SS",
        ".TP",
        ".PP",
        ".B",
        ".I",
        ".BR",
        ".nf",
        ".fi",
        ".RS",
        ".RE",
        '.\\"',
    }
    lines = manpages.PAGES[name]().splitlines()
    assert lines[1].startswith(".TH")
    assert {line.split()[0] for line in lines if line.startswith(".")} <= known
    assert not [line for line in lines if line.startswith("'")]
    for section in ("NAME", "DESCRIPTION", "SEE ALSO"):
        assert f".SH {section}" in lines


def test_manual_pages_name_every_command_and_key() -> None:
    from uiod.ctl.commands import COMMANDS  # noqa: PLC0415

    uioctl, cfg, uiod = manpages.uioctl(), manpages.cfg(), manpages.uiod()
    assert [c.name for c in COMMANDS if f".SS uioctl {c.name}" not in uioctl] == []
    assert ".SS uioctl overlay build" in uioctl
    keys = [key for table in configref.TABLES for key in configref.keys(table)]
    assert [k.name for k in keys if f".B {k.name} = " not in cfg] == []
    for name in ("start", "check", "run", "schema", "version"):
        assert f".SS uiod {name}" in uiod
    for status in ExitStatus:
        assert f".B {int(status)}\n" in uiod


def test_the_manual_page_shows_text_as_it_is() -> None:
    assert manpages.text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manpages.text("a\\b -c `x` *y* 2*3*4") == "a\\eb \\-c \\fBx\\fR \\fIy\\fR 2*3*4"


def test_every_metric_is_documented(metrics: set[str]) -> None:
    rows = re.findall(r"^\| `(uio_\w+)` \|", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert set(rows) == metrics


def test_every_exit_status_is_documented() -> None:
    text = (DOCS / "operations.md").read_text()
    table = text[text.index("`uiod start` (also") :]
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(ExitStatus)


def test_examples_use_metrics_that_exist(metrics: set[str]) -> None:
    used = {
        base(name)
        for path in [*FLEET.rglob("*"), DOCS / "fleet.md"]
        if path.is_file()
        for name in METRIC.findall(path.read_text())
    }
    assert len(used) >= 10
    assert used <= metrics


def test_the_dashboard_is_one(metrics: set[str]) -> None:
    board: dict[str, Any] = json.loads((FLEET / "grafana-dashboard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(shown) >= 10
    for expression in shown:
        names = METRIC.findall(expression)
        assert names and {base(name) for name in names} <= metrics, expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in board["panels"]]
    for i, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for a, b, c, d in places[i + 1 :]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y, "panels overlap"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_files_named_in_the_walk_are_there() -> None:
    text = (DOCS / "architecture.md").read_text()
    named = set(
        re.findall(
            r"`((?:uiod|console|ninep_server|overlays|cgroup|unikraft_patches)/[\w./@-]+)`", text
        )
    )
    assert len(named) > 15
    assert [name for name in named if not (TOP / name).exists()] == []


@pytest.mark.parametrize(
    "path",
    [*sorted((TOP / "examples").glob("*.cfg")), *sorted(FLEET.glob("**/*.cfg"))],
    ids=lambda path: path.name,
)
def test_example_configurations_are_right(path: Path) -> None:
    config.load(path)


def test_metrics_of_several_vms_are_merged(tmp_path: Path) -> None:
    """examples/fleet/uio-metrics, with an uioctl that plays two VMs."""
    texts = {}
    for name in ("a", "b"):
        path = tmp_path / f"{name}.cfg"
        path.write_text('[vm]\nkernel = "k"\n')
        texts[name] = prometheus(Supervisor(config.load(path), tmp_path))
        (tmp_path / name).write_text(texts[name])
    program = tmp_path / "uioctl"
    program.write_text(
        f"#!/bin/sh\ncase $1 in ps) printf 'a\\nb\\n' ;; metrics) cat {tmp_path}/$2 ;; esac\n"
    )
    program.chmod(0o755)
    output = tmp_path / "uio.prom"
    path_variable = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        [FLEET / "uio-metrics", output], check=True, env={**os.environ, "PATH": path_variable}
    )
    lines = output.read_text().splitlines()
    types = [line for line in lines if line.startswith("# TYPE")]
    assert types == [line for line in texts["a"].splitlines() if line.startswith("# TYPE")]
    samples = {line for line in lines if not line.startswith("#")}
    assert samples == {line for t in texts.values() for line in t.splitlines() if line[0] != "#"}
    seen: list[str] = []  # each metric's samples stand together
    for line in lines:
        name = base(line.split("{")[0]) if line[0] != "#" else line.split()[2]
        if not seen or seen[-1] != name:
            seen.append(name)
    assert len(seen) == len(set(seen))
