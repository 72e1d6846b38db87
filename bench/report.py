# SPDX-License-Identifier: BSD-3-Clause
"""RESULTS.md and plots from the raw values of a run (bench.check compares two)."""

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
from bench.linux_vm import kernel_version
from bench.measure import Row, certain, factor, load, verdict

PAGE, NOTE = "RESULTS.md", "note.md"
WHOLE = "the suite"  # the case of a row that says why a suite did not come to its end


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
    return (done.stdout or done.stderr).strip().split("\n")[0]


# Peer: how it says its version.
PEERS = {
    "ssh": ["ssh", "-V"],
    "dropbear": ["/usr/sbin/dropbear", "-V"],
    "guest agent": ["/usr/sbin/qemu-ga", "--version"],
    "diod": ["dpkg-query", "-W", "-f", "${Version}", "diod"],
}


def conditions(quick: bool = False) -> dict[str, str]:
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
        "run": "quick: few samples" if quick else "full",
        "guest kernel": kernel_paths()[0].name,
        "QEMU": _said(["qemu-system-x86_64", "--version"]),
        "Python": platform.python_version(),
        "peers": ", ".join(f"{name}: {_said(command)}" for name, command in PEERS.items())
        + f", Linux of the VM: {kernel_version()}",
        "commit": _said(["git", "describe", "--always", "--dirty"]),
    }


def note_time(directory: Path, suite: str, took_s: float) -> None:
    """How long a suite took."""
    path = directory / "conditions.json"
    known = json.loads(path.read_text())
    known.setdefault(TOOK, {})[suite] = round(took_s)
    path.write_text(json.dumps(known, indent=1) + "\n")


TOOK = "seconds"


def _took(seconds: dict[str, int]) -> str:
    each = ", ".join(f"{name} {s} s" for name, s in seconds.items())
    return f"{sum(seconds.values()) / 60:.1f} min: {each}"


def note_conditions(directory: Path, now: dict[str, str], added: Sequence[str] = ()) -> None:
    """Write down what a run that begins now is run with; of suites that are added to one, the commit."""
    path = directory / "conditions.json"
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


def write(directory: Path, page: Path | None = None) -> None:
    """The page (RESULTS.md there) and the plots."""
    page = page or directory / PAGE
    there = os.path.relpath(directory, page.parent)
    plot = "" if there == "." else f"{there}/"
    rows = load(directory / "raw.jsonl")
    known = json.loads((directory / "conditions.json").read_text())
    text = [
        "# Results\n",
        f"Made by `make bench`; every value is in `{plot}raw.jsonl`. A ratio is that of the medians, with its",
        "95 % confidence interval (bootstrap); what is compared was taken in turns. p95: 19 of 20 values are better.\n",
        "| | |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in known.items() if k != TOOK),
        f"| time | {_took(known.get(TOOK, {}))} |",
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
        text += [f"![goals]({plot}goals.svg)\n"]
    for suite in dict.fromkeys(row.suite for row in rows):
        members = [row for row in rows if row.suite == suite]
        text += [
            f"## {suite}\n",
            "| case | median | p95 | unit | samples | ratio | to |",
            "|---|---|---|---|---|---|---|",
            *(_case(row, members) for row in members),
        ]
        if plots.suite(members, directory / suite):
            text += ["", f"![{suite}]({plot}{suite}.svg)"]
        text.append("")
    page.write_text("\n".join(text))


def _note(directory: Path) -> list[str]:
    """What whoever ran it has to say: the directory's note.md."""
    path = directory / NOTE
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
        shown = _ratio(row, to)
    cells = [row.case, _number(row.median), _number(bad), row.unit, str(len(row.values)), shown]
    return f"| {' | '.join(cells)} | {to.case if to else ''} |"


def _ratio(row: Row, base: Row) -> str:
    middle, low, high = factor(row, base)
    digits = 4 if high - low < 0.02 and abs(middle - 1) < 0.1 else 2
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


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
        value = factor(row, base)[0]
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
        failed = [r.missing for r in rows if r.suite == suite and r.case == WHOLE]
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
        compared, found = base.case, _ratio(row, base)
    elif row.against is None and row.reference is not None:
        compared = f"{row.reference:g} {row.unit} (goal's reference)"
        found = _figure(row.median / row.reference)
    goal, said = (
        (
            f"{sign} {_figure(row.goal)}",
            _said_of(row, {r.case: r for r in rows if r.suite == row.suite}),
        )
        if row.goal is not None
        else ("", _cell(row.missing))
    )
    return f"| {row.figure} | {_number(row.median)} {row.unit} | {compared} | {found} | {goal} | {said} |"


def _said_of(row: Row, rows: dict[str, Row]) -> str:
    said = verdict(row, rows)
    return said if certain(row, rows) else f"{said}; the goal lies within the interval"


def main() -> int:
    """`python -m bench.report DIRECTORY [PAGE]`: write a report anew."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    options = parser.parse_args()
    write(options.directory, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
