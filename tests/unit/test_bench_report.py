# SPDX-License-Identifier: BSD-3-Clause
"""The report of a bench: each figure of the design has a line, peers and failures are named, moves are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import plots, report
from bench.measure import Row, load, save

TOP = Path(__file__).parents[2]
ECHO = "console echo `\\n` → prompt"


def result(directory: Path, rows: list[Row]) -> Path:
    directory.mkdir()
    save(rows, directory / "raw.jsonl")
    (directory / "conditions.json").write_text(json.dumps({"accelerator": "tcg"}))
    return directory


def test_every_figure_of_the_design_has_a_line_and_a_suite() -> None:
    lines = report.goals([])
    assert len(lines) == len(report.FIGURES)
    assert all("not measured: the suite `" in line for line in lines)
    assert set(report.FIGURES.values()) <= set(command.SUITES)


def test_a_goal_shows_ratio_and_verdict() -> None:
    rows = [
        Row("console", "ssh", "us", [100.0] * 9),
        Row("console", "ours", "us", [20.0] * 9, against="ssh", goal=0.5, figure=ECHO),
    ]
    line = next(text for text in report.goals(rows) if ECHO in text)
    assert line == f"| {ECHO} | 20.0 us | ssh | 0.20 [0.20, 0.20] | ≤ 0.5 | met |"
    assert report.reach(rows[1], rows) == pytest.approx(2.5)


def test_a_suite_that_failed_says_so_at_its_figures() -> None:
    rows = [Row("boot", "the suite", "", missing="OSError: no | QEMU\nhere")]
    line = next(text for text in report.goals(rows) if "boot to first prompt" in text)
    assert "not measured: OSError: no \\| QEMU here" in line


def test_a_missing_peer_leaves_our_own_value() -> None:
    why = "ssh is missing: apt-get install openssh-client"
    rows = [Row("console", "ours", "us", [20.0], figure="`uioctl exec` wall time", missing=why)]
    rows[0].figure = "`uioctl exec` wall time, whole process"
    line = next(text for text in report.goals(rows) if "uioctl exec" in text)
    assert "20.0 us" in line
    assert why in line


def test_results_hold_conditions_cases_and_plots(tmp_path: Path) -> None:
    rows = [
        Row("boot", "ours", "ms", [1.0, 2.0, 3.0], goal=5.0, figure="boot to first prompt"),
        Row("boot", "Linux", "ms", missing="no such package"),
        Row("scale", "start, 1 VMs", "ms", [4.0]),
        Row("scale", "start, 2 VMs", "ms", [5.0, 6.0], against="start, 1 VMs"),
    ]
    directory = result(tmp_path / "run", rows)
    report.write(directory)
    text = (directory / "RESULTS.md").read_text()
    assert "| accelerator | tcg |" in text
    assert "| ours | 2.00 | 3.00 | ms | 3 |  |  |" in text
    assert "| Linux | not measured: no such package |" in text
    assert "| start, 2 VMs | 5.50 | 6.00 | ms | 2 | 1.38 [" in text
    for name in ("boot", "scale", "goals"):
        assert (directory / f"{name}.svg").stat().st_size > 1000
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_may_lie_elsewhere_than_its_plots(tmp_path: Path) -> None:
    directory = result(tmp_path / "results", [Row("boot", "ours", "ms", [1.0, 2.0])])
    report.note_time(directory, "boot", 61.7)
    report.write(directory, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "![boot](results/boot.svg)" in text and "`results/raw.jsonl`" in text
    assert "| time | 1.0 min: boot 62 s |" in text
    assert not (directory / "RESULTS.md").exists()


def test_a_goal_within_the_interval_is_said_to_be(tmp_path: Path) -> None:
    base = [1.0, 1.1, 0.9, 1.2, 0.8, 1.3, 0.7] * 5
    rows = [
        Row("console", "ssh", "us", base),
        Row("console", "ours", "us", [v * 0.99 for v in base[::-1]], against="ssh", goal=1.0),
    ]
    rows[1].figure = ECHO
    line = next(text for text in report.goals(rows) if ECHO in text)
    assert line.endswith("| met; the goal lies within the interval |")
    rows[1].goal = 2.0
    line = next(text for text in report.goals(rows) if ECHO in text)
    assert line.endswith("| met |")


@pytest.fixture
def suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose modules are suites too, also in processes of their own."""
    directory = tmp_path / "suites"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(
        f"import bench\nbench.__path__.append({str(directory)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{directory}:{TOP}")
    return directory


def run(
    monkeypatch: pytest.MonkeyPatch, suites: Path, texts: dict[str, str], *arguments: str
) -> int:
    """`python -m bench` with these suites."""
    for name, text in texts.items():
        (suites / f"{name}.py").write_text(
            "import os\nfrom bench.measure import Row\ndef measure(quick):\n" + text
        )
    monkeypatch.setattr(command, "SUITES", {name: command.Suite("", 1, 1) for name in texts})
    monkeypatch.setattr(report, "conditions", lambda *_: {"accelerator": "tcg", "commit": "c",
                        "when": "now", "load before it began": "0"})  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    return command.main()


def test_a_suite_that_fails_keeps_its_rows_and_the_other_suites(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suites: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    texts = {
        "broken": "  yield Row('broken', 'before', 'us', [1.0])\n  1 / 0\n",
        "killed": "  yield Row('killed', 'before', 'us', [1.0])\n  os.kill(os.getpid(), 9)\n",
        "elsewhere": "  from bench.guest import NotHere\n  raise NotHere('no such')\n  yield\n",
        "sound": "  yield Row('sound', 'case', 'us', [2.0])\n",
    }
    assert run(monkeypatch, suites, texts, "--quick", "--out", str(tmp_path / "out")) == 1
    rows = load(tmp_path / "out" / "raw.jsonl")
    assert [(row.suite, row.case) for row in rows] == [
        ("broken", "before"), ("broken", "the suite"),
        ("killed", "before"), ("killed", "the suite"),
        ("elsewhere", "the suite"), ("sound", "case"),
    ]  # fmt: skip
    assert rows[1].missing == "ZeroDivisionError: division by zero"
    assert rows[3].missing == "its process ended with status -9"
    known = json.loads((tmp_path / "out" / "conditions.json").read_text())
    assert set(known["seconds"]) == set(texts)
    assert (tmp_path / "out" / "RESULTS.md").exists()
    said = capfd.readouterr().err
    assert "bench: killed (2 of 4): about" in said and "left" in said
    assert "bench: failed: broken, killed\n" in said


def test_a_suite_that_hangs_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suites: Path
) -> None:
    hanging = (
        "  import subprocess\n"
        "  process = subprocess.Popen(['sleep', '1000'])\n"
        "  yield Row('hanging', 'child', 'pid', [process.pid])\n"
        "  process.wait()\n"
    )
    monkeypatch.setattr(command, "LIMIT_S", {False: 2, True: 2})
    assert run(monkeypatch, suites, {"hanging": hanging}, "--out", str(tmp_path / "out")) == 1
    rows = load(tmp_path / "out" / "raw.jsonl")
    assert rows[-1].missing == "it took longer than 2 s"
    child = Path(f"/proc/{int(rows[0].values[0])}")
    assert not child.exists() or "sleep" not in (child / "cmdline").read_text()


@pytest.mark.parametrize(
    ("case", "peer"),
    [
        ("newline to prompt on uIO-console", False),
        ("the same, in turns with ssh", False),
        ("newline to prompt over ssh, Linux VM", True),
        ("stat: our server, Linux guest, msize 64 KiB", False),
        ("stat: ext4 on virtio-blk, Linux guest", True),
    ],
)
def test_peers_have_a_colour_of_their_own(case: str, peer: bool) -> None:
    assert plots.is_peer(case) == peer


def test_suites_are_added_to_the_results_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suites: Path
) -> None:
    rows = [Row("first", "case", "us", [1.0]), Row("again", "case", "us", [9.0])]
    directory = result(tmp_path / "run", rows)
    (directory / "note.md").write_text("kept")
    texts = {"again": "  yield Row('again', 'case', 'us', [2.0])\n"}
    assert run(monkeypatch, suites, texts, "--add", "--out", str(directory), "again") == 0
    found = load(directory / "raw.jsonl")
    assert [(r.suite, r.values) for r in found] == [("first", [1.0]), ("again", [2.0])]
    known = json.loads((directory / "conditions.json").read_text())
    assert known["accelerator"] == "tcg"
    assert known["added"].startswith("again: ")
    assert "kept" in (directory / "RESULTS.md").read_text()
    # Without --add nothing of a run before stays.
    (directory / "first.svg").touch()
    assert run(monkeypatch, suites, texts, "--out", str(directory)) == 0
    assert [r.suite for r in load(directory / "raw.jsonl")] == ["again"]
    assert not (directory / "first.svg").exists() and not (directory / "note.md").exists()
