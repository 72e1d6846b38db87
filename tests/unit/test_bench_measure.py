# SPDX-License-Identifier: BSD-3-Clause
"""The logic of the benches: samples, ratios, verdicts, what is kept. Nothing here looks at how long something took."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.measure import Row, in_turns, load, ratio, save, verdict


def row(values: list[float], **more: object) -> Row:
    return Row("s", "ours", "us", values, **more)  # type: ignore[arg-type]


def test_cases_are_taken_in_turns_and_the_warm_up_is_thrown_away() -> None:
    order: list[str] = []
    found = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 4, 2)
    assert order == ["a", "b"] * 6
    assert {name: len(values) for name, values in found.items()} == {"a": 4, "b": 4}


def test_a_ratio_of_medians_lies_within_its_interval() -> None:
    of, to = [2.0 + i / 100 for i in range(30)], [1.0 + i / 100 for i in range(30)]
    middle, low, high = ratio(of, to)
    assert low <= middle <= high
    assert middle == pytest.approx(2.145 / 1.145)
    assert 1.7 < low < high < 2.1
    assert ratio(of, to) == (middle, low, high), "the same values have the same interval"


def test_a_ratio_to_nothing_has_no_bound_and_nothing_equals_nothing() -> None:
    assert ratio([0.0], [0.0]) == (1.0, 1.0, 1.0)
    assert ratio([4.0], [0.0]) == (math.inf, math.inf, math.inf)


def test_one_outlier_moves_neither_median_nor_ratio() -> None:
    quiet = [1.0] * 30
    assert ratio([*quiet[:-1], 1000.0], quiet) == (1.0, 1.0, 1.0)
    assert max(row([*quiet[:-1], 1000.0]).values) == 1000.0


def test_a_row_has_median_and_95th_percentile() -> None:
    assert row([float(i) for i in range(100)]).median == 49.5
    assert row([float(i) for i in range(100)]).p95 == 95.0
    assert row([7.0]).p95 == 7.0


BASE = {"base": Row("s", "base", "us", [10.0, 10.0, 10.0])}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (row([5.0], goal=5.0), "met"),
        (row([5.1], goal=5.0), "missed"),
        (row([5.0], goal=5.0, better="higher"), "met"),
        (row([4.9], goal=5.0, better="higher"), "missed"),
        (row([5.0], goal=0.5, against="base"), "met"),
        (row([5.0], goal=0.4, against="base"), "missed"),
        (row([9.0], goal=0.5, against="base", better="higher"), "met"),
        (row([50.0], goal=0.6, reference=100.0), "met"),
        (row([70.0], goal=0.6, reference=100.0), "missed"),
        (row([5.0]), ""),
        (row([], goal=5.0), ""),
        (row([5.0], goal=0.5, against="not there"), ""),
    ],
)
def test_a_verdict_compares_with_goal_base_or_reference(of: Row, said: str) -> None:
    assert verdict(of, BASE) == said


def test_rows_come_back_as_they_were_saved(tmp_path: Path) -> None:
    rows = [row([1.5, 2.5], goal=3.0), Row("s", "none", "", missing="no such peer")]
    save(rows[:1], tmp_path / "raw.jsonl")
    save(rows[1:], tmp_path / "raw.jsonl")
    assert [asdict(r) for r in load(tmp_path / "raw.jsonl")] == [asdict(r) for r in rows]
