# SPDX-License-Identifier: BSD-3-Clause
"""Samples and what can be said of them: interleaved runs, medians, ratios with confidence intervals, JSON lines.

Every suite yields `Row`s; every value is kept. What is compared is taken in turns (A B A B) within one run, so that
what else the machine does falls on both.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

RESAMPLES = 1000


@dataclass
class Row:
    """One measured quantity.

    :ivar case: what was measured, in words. :ivar unit: of the values.
    :ivar against: the case of the same suite that it is compared with, if any.
    :ivar goal: the most (`better` lower) or least (higher) that the median, or with `against` the ratio, should be.
    :ivar missing: why there are no values.
    :ivar paired: each value was taken next to the one of `against` with the same number: the ratio is that of pairs.
    """

    suite: str
    case: str
    unit: str
    values: list[float] = field(default_factory=list)
    better: Literal["lower", "higher"] = "lower"
    against: str | None = None
    goal: float | None = None
    reference: float | None = (
        None  # a figure from elsewhere, in the same unit: the paper's implementation
    )
    figure: str = ""  # the row of the design's table of figures that it answers
    missing: str = ""
    paired: bool = False

    @property
    def median(self) -> float:
        """Of all values."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """The 95th percentile."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def timed(call: Callable[[], object]) -> float:
    """Microseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def in_turns(
    cases: Mapping[str, Callable[[], object]], samples: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Microseconds of each case's call, taken in turns, after a warm-up that is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm_up + samples):
        for name, call in cases.items():
            took = timed(call)
            if number >= warm_up:
                found[name].append(took)
    return found


def ratio(of: list[float], to: list[float], seed: int = 1) -> tuple[float, float, float]:
    """The ratio of the medians, and its 95 % confidence interval by bootstrap."""
    draw = random.Random(seed)
    middle = _quotient(statistics.median(of), statistics.median(to))
    found = sorted(
        _quotient(
            statistics.median(draw.choices(of, k=len(of))),
            statistics.median(draw.choices(to, k=len(to))),
        )
        for _ in range(RESAMPLES)
    )
    return middle, found[int(RESAMPLES * 0.025)], found[int(RESAMPLES * 0.975)]


def factor(row: Row, base: Row, seed: int = 1) -> tuple[float, float, float]:
    """How many times the base's value a row has, and the 95 % confidence interval."""
    if not row.paired or len(row.values) != len(base.values):
        return ratio(row.values, base.values, seed)
    pairs = [_quotient(a, b) for a, b in zip(row.values, base.values, strict=True)]
    return ratio(pairs, [1.0], seed)


def _quotient(of: float, to: float) -> float:
    """Of what may be nothing, such as memory lost: equal is 1, anything against nothing without bound."""
    if to == 0:
        return 1.0 if of == 0 else math.copysign(math.inf, of)
    return of / to


def verdict(row: Row, rows: Mapping[str, Row]) -> str:
    """`met`, `missed`, or nothing where there is no goal."""
    if row.goal is None or not row.values:
        return ""
    value = row.median
    if row.against is not None:
        base = rows.get(row.against)
        if base is None or not base.values:
            return ""
        value = factor(row, base)[0]
    elif row.reference is not None:
        value /= row.reference
    good = value <= row.goal if row.better == "lower" else value >= row.goal
    return "met" if good else "missed"


def certain(row: Row, rows: Mapping[str, Row]) -> bool:
    """Whether the verdict would be the same at either end of the confidence interval (where there is one)."""
    base = rows.get(row.against or "")
    if row.goal is None or base is None or not row.values or not base.values:
        return True
    _, low, high = factor(row, base)
    return not low < row.goal < high


def save(rows: Iterable[Row], path: Path) -> None:
    """As JSON lines, appended."""
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def load(path: Path) -> list[Row]:
    """What `save` wrote."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]
