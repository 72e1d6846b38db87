# SPDX-License-Identifier: BSD-3-Clause
"""`make bench-check`: what is said of two result directories."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench import check
from bench.measure import Row, save

TOP = Path(__file__).parents[2]


def result(directory: Path, rows: list[Row], **conditions: str) -> Path:
    directory.mkdir()
    save(rows, directory / "raw.jsonl")
    (directory / "conditions.json").write_text(json.dumps({"accelerator": "tcg", **conditions}))
    return directory


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ([10.0] * 20, ""),
        ([10.2] * 20, ""),
        ([20.0] * 20, "worse"),
        ([5.0] * 20, "better"),
    ],
)
def test_what_moved_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: list[float], said: str
) -> None:
    old = result(tmp_path / "old", [Row("s", "case", "us", [10.0] * 20)])
    check.compare(old, result(tmp_path / "new", [Row("s", "case", "us", new)]))
    out = capsys.readouterr().out
    assert ("case" in out) == bool(said)
    assert said in out
    assert f"{int(bool(said))} of 1 moved" in out


def test_more_is_better_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = result(tmp_path / "old", [Row("s", "case", "1/s", [10.0] * 20, "higher")])
    new = result(tmp_path / "new", [Row("s", "case", "1/s", [20.0] * 20, "higher")])
    check.compare(old, new)
    assert "better" in capsys.readouterr().out


def test_a_verdict_that_changed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(value: float) -> list[Row]:
        return [Row("s", "case", "us", [value] * 20, goal=0.5, reference=20.0)]

    old, new = result(tmp_path / "old", rows(10.0)), result(tmp_path / "new", rows(10.1))
    check.compare(old, new)
    assert "met → missed" in capsys.readouterr().out


def test_what_was_not_measured_both_times_is_named_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = result(tmp_path / "old", [Row("s", "a", "us", [1.0]), Row("s", "b", "us", missing="x")])
    new = [Row("s", "a", "us", missing="y"), Row("s", "b", "us", [5.0]), Row("s", "c", "us", [1.0])]
    check.compare(old, result(tmp_path / "new", new, accelerator="kvm"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "conditions differ: accelerator: tcg → kvm",
        "s a no longer measured: y",
        "s b new: x",
        "s c new",
        "0 of 0 moved",
    ]


@pytest.mark.parametrize("said", [["{old}", "{new}"], ["OLD={old}", "NEW={new}"]])
def test_make_takes_the_directories_either_way(tmp_path: Path, said: list[str]) -> None:
    old = result(tmp_path / "old", [Row("s", "case", "us", [10.0] * 20)])
    new = result(tmp_path / "new", [Row("s", "case", "us", [20.0] * 20)])
    argv = [text.format(old=old, new=new) for text in said]
    done = subprocess.run(
        ["make", "-s", "bench-check", *argv], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "1 of 1 moved"
