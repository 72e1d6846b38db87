# SPDX-License-Identifier: BSD-3-Clause
"""RESULTS.md and plots from the raw values of a run; and what moved between two runs."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

from bench.guest import accelerator, kernel_paths
from bench.measure import Row, load, ratio, verdict


def line(row: Row) -> str:
    """A row on a terminal."""
    if not row.values:
        return f"{row.suite:<10} {row.case:<52} not measured: {row.missing}"
    return f"{row.suite:<10} {row.case:<52} {row.median:12.1f} {row.unit:<6} p95 {row.p95:.1f}"


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "?"
    return done.stdout.strip().split("\n")[0]


def conditions() -> dict[str, str]:
    """Machine, accelerator, versions, commit."""
    model = [
        text.partition(":")[2].strip()
        for text in Path("/proc/cpuinfo").read_text().splitlines()
        if text.startswith("model name")
    ]
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{model[0] if model else platform.machine()}, {len(model)} cores seen",
        "host kernel": platform.release(),
        "accelerator": accelerator(),
        "guest kernel": kernel_paths()[0].name,
        "QEMU": _said(["qemu-system-x86_64", "--version"]),
        "Python": platform.python_version(),
        "commit": _said(["git", "describe", "--always", "--dirty"]),
    }


def note_conditions(directory: Path) -> None:
    """Write down what a run that begins now is run with."""
    (directory / "conditions.json").write_text(json.dumps(conditions(), indent=1) + "\n")


def write(directory: Path) -> None:
    """RESULTS.md and one plot a suite."""
    rows = load(directory / "raw.jsonl")
    known = json.loads((directory / "conditions.json").read_text())
    text = ["# Results\n", "Made by `make bench`; raw values in `raw.jsonl`.\n"]
    text += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in known.items()), ""]
    goals = [row for row in rows if row.figure]
    if goals:
        text += [
            "## Goals\n",
            "| figure | median | compared with | ratio | goal | |",
            "|---|---|---|---|---|---|",
        ]
        text += [_goal(row, rows) for row in goals]
        text.append("")
    for suite, group in groupby(rows, lambda row: row.suite):
        members = list(group)
        text += [
            f"## {suite}\n",
            "| case | median | p95 | unit | samples |",
            "|---|---|---|---|---|",
        ]
        text += [
            f"| {r.case} | {r.median:.1f} | {r.p95:.1f} | {r.unit} | {len(r.values)} |"
            if r.values
            else f"| {r.case} | not measured: {r.missing} | | | |"
            for r in members
        ]
        if _plot(members, directory / suite):
            text += ["", f"![{suite}]({suite}.svg)"]
        text.append("")
    (directory / "RESULTS.md").write_text("\n".join(text))


def _goal(row: Row, rows: list[Row]) -> str:
    if not row.values:
        return f"| {row.figure} | not measured: {row.missing} | | | | |"
    by_case = {r.case: r for r in rows if r.suite == row.suite}
    sign = "≤" if row.better == "lower" else "≥"
    shown, compared = f"{row.median:.1f} {row.unit}", ""
    if row.against is not None:
        middle, low, high = ratio(row.values, by_case[row.against].values)
        compared, found = row.against, f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    elif row.reference is not None:
        compared, found = (
            f"{row.reference:g} {row.unit} (paper's code)",
            f"{row.median / row.reference:.2f}",
        )
    else:
        found = ""
    return f"| {row.figure} | {shown} | {compared} | {found} | {sign} {row.goal:g} | {verdict(row, by_case)} |"


def _plot(rows: list[Row], path: Path) -> bool:
    """Every value as a dot, the median as a bar. Rows of one unit; False if there is nothing to draw."""
    units = {row.unit for row in rows if row.values}
    if not units:
        return False
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, for the last step only

    figure = Figure(figsize=(8, 1 + 0.32 * len(rows) + 0.7 * len(units)), layout="constrained")
    grids = figure.subplots(len(units), 1, squeeze=False)[:, 0]
    for axes, unit in zip(grids, sorted(units), strict=True):
        shown = [row for row in rows if row.unit == unit and row.values][::-1]
        for at, row in enumerate(shown):
            spread = [at + ((i * 7) % 11 - 5) / 25 for i in range(len(row.values))]
            axes.scatter(row.values, spread, s=3, alpha=0.35, color="#4878a8")
            axes.plot([row.median] * 2, [at - 0.35, at + 0.35], color="black", linewidth=1.5)
        axes.set_yticks(range(len(shown)), [row.case for row in shown], fontsize=7)
        axes.set_xlabel(unit)
        axes.set_xlim(left=0)
    figure.savefig(path.with_suffix(".svg"))
    figure.savefig(path.with_suffix(".png"), dpi=110)
    return True


def compare(old: Path, new: Path) -> int:
    """What moved by more than its confidence interval allows for."""
    before = {(r.suite, r.case): r for r in load(old / "raw.jsonl") if r.values}
    moved = 0
    for row in load(new / "raw.jsonl"):
        was = before.get((row.suite, row.case))
        if was is None or not row.values:
            continue
        middle, low, high = ratio(row.values, was.values)
        if low > 1.05 or high < 0.95:
            moved += 1
            print(
                f"{row.suite:<10} {row.case:<52} {was.median:.1f} → {row.median:.1f} {row.unit} (× {middle:.2f})"
            )
    print(f"{moved} of {len(before)} moved")
    return 0


def main() -> int:
    """`python -m bench.report OLD NEW`."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=compare.__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    return compare(options.old, options.new)


if __name__ == "__main__":
    sys.exit(main())
