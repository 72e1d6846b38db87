# SPDX-License-Identifier: BSD-3-Clause
"""What moved between two runs: `python -m bench.check OLD NEW`, two directories with results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.measure import Row, load, ratio, verdict

MOVED = 0.05  # by which the whole interval must be away from 1
SAME = ("processor", "accelerator", "guest kernel", "QEMU", "run")  # or they hardly compare


def compare(old: Path, new: Path) -> int:
    """Conditions that differ, what moved by more than its confidence interval allows, verdicts that changed."""
    before, after = _rows(old), _rows(new)
    for text in _conditions(old, new):
        print(text)
    both = [
        key for key, row in after.items() if row.values and key in before and before[key].values
    ]
    moved = 0
    for key in both:
        was, row = before[key], after[key]
        middle, low, high = ratio(row.values, was.values)
        verdicts = verdict(was, _suite(before, key[0])), verdict(row, _suite(after, key[0]))
        said = "" if verdicts[0] == verdicts[1] else f", {verdicts[0]} → {verdicts[1]}"
        if low > 1 + MOVED or high < 1 - MOVED or said:
            moved += 1
            way = "" if 1 - MOVED <= middle <= 1 + MOVED else _way(row, middle)
            print(
                f"{row.suite:<10} {row.case:<52} {was.median:.1f} → {row.median:.1f} {row.unit} "
                f"(× {middle:.2f} [{low:.2f}, {high:.2f}]{way}{said})"
            )
    for word, of, to in (("no longer measured", before, after), ("new", after, before)):
        for (suite, case), row in of.items():
            there = to.get((suite, case))
            if row.values and (there is None or not there.values):
                why = f": {there.missing}" if there is not None else ""
                print(f"{suite:<10} {case:<52} {word}{why}")
    print(f"{moved} of {len(both)} moved")
    return 0


def _way(row: Row, middle: float) -> str:
    return ", better" if (middle < 1) == (row.better == "lower") else ", worse"


def _rows(directory: Path) -> dict[tuple[str, str], Row]:
    return {(row.suite, row.case): row for row in load(directory / "raw.jsonl")}


def _suite(rows: dict[tuple[str, str], Row], suite: str) -> dict[str, Row]:
    return {case: row for (name, case), row in rows.items() if name == suite}


def _conditions(old: Path, new: Path) -> list[str]:
    known = [json.loads((path / "conditions.json").read_text()) for path in (old, new)]
    return [
        f"conditions differ: {key}: {known[0].get(key)} → {known[1].get(key)}"
        for key in SAME
        if known[0].get(key) != known[1].get(key)
    ]


def main() -> int:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m bench.check", description=compare.__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    return compare(options.old, options.new)


if __name__ == "__main__":
    sys.exit(main())
