# SPDX-License-Identifier: BSD-3-Clause
"""RESULTS.md and plots from the raw values of a run; and what moved between two runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import plots
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
        "load before it began": f"{os.getloadavg()[0]:.1f} (average of a minute)",
        "accelerator": accelerator(),
        "guest kernel": kernel_paths()[0].name,
        "QEMU": _said(["qemu-system-x86_64", "--version"]),
        "Python": platform.python_version(),
        "commit": _said(["git", "describe", "--always", "--dirty"]),
    }


def note_conditions(directory: Path, added: Sequence[str] = ()) -> None:
    """Write down what a run that begins now is run with; of suites that are added to one, the commit."""
    path, now = directory / "conditions.json", conditions()
    if added:
        known = json.loads(path.read_text())
        later = f"{', '.join(added)}: {now['commit']}, {now['when']}, load {now['load before it began']}"
        known["added"] = "; ".join(filter(None, [known.get("added", ""), later]))
        now = known
    path.write_text(json.dumps(now, indent=1) + "\n")


# The design's table of figures, and the suite that has each: a row's `figure` begins like one of these.
FIGURES = {
    "console echo `\\n` → prompt": "console",
    "command, overlay cached, `hello`": "commands",
    "command, overlay cold (load, link, run)": "commands",
    "console output": "transfer",
    "`cat` of an 86 KB file": "transfer",
    "file read from uIO-fs, 64 KiB chunks": "files",
    "the same in one Linux guest": "files",
    "9P server alone, against Debian's diod": "ninep",
    "loads before failure": "commands",
    "idle cost to the application": "overhead",
    "function traced with a counter": "tracing",
    "guest memory of uIO, idle": "memory",
    "boot to first prompt": "boot",
    "daemon's own memory": "memory",
    "`uioctl exec` wall time, whole process": "console",
}


def write(directory: Path) -> None:
    """RESULTS.md and the plots."""
    rows = load(directory / "raw.jsonl")
    known = json.loads((directory / "conditions.json").read_text())
    text = [
        "# Results\n",
        "Made by `make bench`; every value is in `raw.jsonl`. A ratio is that of the medians, with its 95 % confidence",
        "interval (bootstrap); what is compared was taken in turns. p95: 19 of 20 values are better.\n",
        "| | |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in known.items()),
        "",
        *_note(directory),
        "## Goals\n",
        "| figure | median | compared with | ratio | goal | |",
        "|---|---|---|---|---|---|",
        *goals(rows),
        "",
    ]
    reached = [
        (row.figure, factor)
        for figure in FIGURES
        for row in rows
        if row.figure.startswith(figure) and (factor := reach(row, rows)) is not None
    ]
    if reached:
        plots.goals(reached, directory / "goals")
        text += ["![goals](goals.svg)\n"]
    for suite in dict.fromkeys(row.suite for row in rows):
        members = [row for row in rows if row.suite == suite]
        text += [
            f"## {suite}\n",
            "| case | median | p95 | unit | samples | ratio | to |",
            "|---|---|---|---|---|---|---|",
            *(_case(row, members) for row in members),
        ]
        if plots.suite(members, directory / suite):
            text += ["", f"![{suite}]({suite}.svg)"]
        text.append("")
    (directory / "RESULTS.md").write_text("\n".join(text))


def _note(directory: Path) -> list[str]:
    """What whoever ran it has to say: the directory's note.md."""
    path = directory / "note.md"
    return [path.read_text()] if path.exists() else []


def _number(value: float) -> str:
    return (
        f"{value:.0f}"
        if abs(value) >= 1000
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )


def _figure(value: float) -> str:
    """Three digits, and no exponent for what is large."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _case(row: Row, members: list[Row]) -> str:
    if not row.values:
        return f"| {row.case} | not measured: {_cell(row.missing)} | | | | | |"
    # The 5th percentile where more is better: the bad end.
    bad = row.p95 if row.better == "lower" else sorted(row.values)[int(len(row.values) * 0.05)]
    shown, to = "", _base(row, members)
    if to is not None and to.median:
        middle, low, high = ratio(row.values, to.values)
        shown = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    cells = [row.case, _number(row.median), _number(bad), row.unit, str(len(row.values)), shown]
    return f"| {' | '.join(cells)} | {to.case if to else ''} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _base(row: Row, rows: list[Row]) -> Row | None:
    """What it is compared with, if that was measured."""
    for other in rows:
        if other.suite == row.suite and other.case == row.against and other.values:
            return other
    return None


def reach(row: Row, rows: list[Row]) -> float | None:
    """How many times better than its goal a figure is; None: no goal, or no such factor."""
    if not row.goal or not row.values or not row.figure:
        return None
    value = row.median
    if row.against is not None:
        base = _base(row, rows)
        if base is None:
            return None
        value /= base.median
    elif row.reference is not None:
        value /= row.reference
    if not value:
        return None
    return row.goal / value if row.better == "lower" else value / row.goal


def goals(rows: list[Row]) -> list[str]:
    """A line for each of the design's figures, measured or not."""
    lines = []
    for figure, suite in FIGURES.items():
        members = [row for row in rows if row.figure.startswith(figure)]
        failed = [r.missing for r in rows if r.suite == suite and r.case == "the suite"]
        why = failed[0] if failed else f"the suite `{suite}` was not run to its end"
        lines += [_goal(row, rows) for row in members] or [
            f"| {figure} | not measured: {_cell(why)} | | | | |"
        ]
    return lines


def _goal(row: Row, rows: list[Row]) -> str:
    if not row.values:
        return f"| {row.figure} | not measured: {_cell(row.missing)} | | | | |"
    sign = "≤" if row.better == "lower" else "≥"
    compared = found = ""
    base = _base(row, rows)
    if base is not None:
        middle, low, high = ratio(row.values, base.values)
        compared, found = base.case, f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    elif row.against is None and row.reference is not None:
        compared = f"{row.reference:g} {row.unit} (goal's reference)"
        found = _figure(row.median / row.reference)
    goal, said = (
        (
            f"{sign} {_figure(row.goal)}",
            verdict(row, {r.case: r for r in rows if r.suite == row.suite}),
        )
        if row.goal is not None
        else ("", _cell(row.missing))
    )
    return f"| {row.figure} | {_number(row.median)} {row.unit} | {compared} | {found} | {goal} | {said} |"


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
    """`python -m bench.report OLD NEW`; with one directory, its report is written anew."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=compare.__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?")
    options = parser.parse_args()
    if options.new is None:
        write(options.old)
        return 0
    return compare(options.old, options.new)


if __name__ == "__main__":
    sys.exit(main())
