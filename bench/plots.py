# SPDX-License-Identifier: BSD-3-Clause
"""Plots of a run: every value as a dot, medians as bars; curves over the number of VMs; how far each goal is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 30.0  # from this ratio of largest to smallest median on, the scale is logarithmic
OURS, PEERS = "#2f6fa7", "#b06a2c"
PEER = re.compile(
    r"ssh|guest agent|local|Linux|ext4|QEMU's|diod|without|domain off|bare|ControlMaster"
)


def is_peer(case: str) -> bool:
    """What stands beside ours, and has the other colour."""
    if case.startswith(("our server", "the same, in turns")) or ": our server" in case:
        return False
    return PEER.search(case) is not None


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, for the last step only

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), dpi=100)
    figure.savefig(path.with_suffix(".png"), dpi=110)


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def suite(rows: Sequence[Row], path: Path) -> bool:
    """A suite's rows, a panel for each unit; False if there is nothing to draw."""
    units = list(dict.fromkeys(row.unit for row in rows if row.values))
    if not units:
        return False
    if path.name == "scale":
        _curves(rows, path)
        return True
    panels = [[r for r in rows if r.unit == unit and r.values][::-1] for unit in units]
    figure = _figure(10, 0.5 + sum(0.75 + 0.26 * len(panel) for panel in panels))
    grids = figure.subplots(
        len(units), 1, squeeze=False, height_ratios=[2 + len(panel) for panel in panels]
    )[:, 0]
    for axes, unit, shown in zip(grids, units, panels, strict=True):
        _panel(axes, unit, shown)
    _save(figure, path)
    return True


def _panel(axes: Any, unit: str, rows: Sequence[Row]) -> None:
    medians = [row.median for row in rows if row.median > 0]
    logarithmic = bool(medians) and max(medians) > WIDE * min(medians)
    for at, row in enumerate(rows):
        colour = PEERS if is_peer(row.case) else OURS
        spread = [at + ((i * 7) % 11 - 5) / 22 for i in range(len(row.values))]
        values = [max(v, min(medians) / 100) for v in row.values] if logarithmic else row.values
        # As an image also in SVG: a dot each would be megabytes.
        axes.scatter(values, spread, s=7, alpha=0.35, color=colour, linewidths=0, rasterized=True)
        axes.plot([row.median] * 2, [at - 0.38, at + 0.38], color="black", linewidth=2)
        axes.annotate(
            _number(row.median), (1.01, at), xycoords=("axes fraction", "data"),
            fontsize=8, va="center",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.case for row in rows], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    better = "more" if rows[0].better == "higher" else "less"
    axes.set_xlabel(f"{unit} ({better} is better; right: median)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _curves(rows: Sequence[Row], path: Path) -> None:
    """Medians over the number of VMs, with the values; the cases end in ", N VMs"."""
    lines: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        found = re.fullmatch(r"(.*), (\d+) VMs", row.case)
        if found and row.values:
            lines.setdefault(found[1], []).append((int(found[2]), row))
    across = 2
    down = -(-len(lines) // across)
    figure = _figure(10, 2.5 * down)
    grids = figure.subplots(down, across, squeeze=False)
    for axes in list(grids.flat)[len(lines) :]:
        axes.set_axis_off()
    for axes, (name, points) in zip(grids.flat, lines.items(), strict=False):
        for count, row in points:
            axes.scatter(
                [count] * len(row.values), row.values, s=7, alpha=0.35, color=OURS,
                linewidths=0, rasterized=True,
            )  # fmt: skip
        axes.plot([n for n, _ in points], [r.median for _, r in points], "k-o", markersize=3)
        axes.set_title(f"{name} [{points[0][1].unit}]", fontsize=9)
        axes.set_xlabel("VMs", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xticks([n for n, _ in points])
        axes.ticklabel_format(axis="y", style="plain")
        # Single values far out are drawn, but do not set the scale of what is to be read.
        axes.set_ylim(0, 1.15 * max(r.p95 for _, r in points))
        axes.grid(alpha=0.3)
    _save(figure, path)


def goals(reached: Sequence[tuple[str, float]], path: Path) -> None:
    """How many times better than its goal each figure is: right of 1 is met."""
    shown = list(reached)[::-1]
    figure = _figure(10, 0.9 + 0.3 * len(shown))
    axes = figure.subplots()
    for at, (_, factor) in enumerate(shown):
        axes.barh(at, factor - 1, left=1, color=OURS if factor >= 1 else PEERS, height=0.6)
        axes.annotate(
            f"{factor:.2f} ×", (1.01, at), xycoords=("axes fraction", "data"), fontsize=8,
            va="center",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="x", labelsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.set_xlabel("times better than its goal: right of the line is met", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)
