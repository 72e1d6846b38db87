# SPDX-License-Identifier: BSD-3-Clause
"""The report of a bench: each figure of the design has a line, peers and failures are named, moves are told."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import plots, report
from bench.measure import Row, load, save

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


@pytest.mark.parametrize(
    ("new", "moved"),
    [([10.0] * 20, False), ([10.2] * 20, False), ([20.0] * 20, True), ([5.0] * 20, True)],
)
def test_bench_check_names_what_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: list[float], moved: bool
) -> None:
    old = result(tmp_path / "old", [Row("s", "case", "us", [10.0] * 20)])
    report.compare(old, result(tmp_path / "new", [Row("s", "case", "us", new)]))
    said = capsys.readouterr().out
    assert ("case" in said) == moved
    assert f"{int(moved)} of 1 moved" in said


def test_what_was_not_measured_both_times_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = result(tmp_path / "old", [Row("s", "a", "us", [1.0]), Row("s", "b", "us", missing="x")])
    new = [Row("s", "a", "us", missing="y"), Row("s", "b", "us", [5.0]), Row("s", "c", "us", [1.0])]
    report.compare(old, result(tmp_path / "new", new))
    assert capsys.readouterr().out == "0 of 1 moved\n"


def test_a_suite_that_fails_keeps_its_rows_and_the_other_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(quick: bool) -> Iterator[Row]:
        yield Row("broken", "before", "us", [1.0])
        raise ZeroDivisionError("a mistake")

    def sound(quick: bool) -> Iterator[Row]:
        yield Row("sound", "case", "us", [2.0])

    for name, measure in (("broken", broken), ("sound", sound)):
        module = types.ModuleType(f"bench.{name}")
        module.measure = measure  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    monkeypatch.setattr(command, "SUITES", {"broken": "", "sound": ""})
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--out", str(tmp_path)])
    assert command.main() == 0
    rows = load(tmp_path / "raw.jsonl")
    assert [row.case for row in rows] == ["before", "the suite", "case"]
    assert rows[1].missing == "ZeroDivisionError: a mistake"


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(quick: bool) -> Iterator[Row]:
        yield Row("again", "case", "us", [2.0])

    rows = [Row("first", "case", "us", [1.0]), Row("again", "case", "us", [9.0])]
    directory = result(tmp_path / "run", rows)
    module = types.ModuleType("bench.again")
    module.measure = again  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.again", module)
    monkeypatch.setattr(command, "SUITES", {"again": ""})
    monkeypatch.setattr(sys, "argv", ["bench", "--add", "--out", str(directory), "again"])
    assert command.main() == 0
    found = load(directory / "raw.jsonl")
    assert [(r.suite, r.values) for r in found] == [("first", [1.0]), ("again", [2.0])]
    known = json.loads((directory / "conditions.json").read_text())
    assert known["accelerator"] == "tcg"
    assert known["added"].startswith("again: ")
