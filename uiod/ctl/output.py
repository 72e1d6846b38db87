# SPDX-License-Identifier: BSD-3-Clause
"""What commands print: tables that fit the terminal, JSON, or names alone. Data on stdout, remarks on stderr."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from uiod.ctl.errors import printable
from uiod.ctl.settings import settings


class Output:
    """How this command was asked to print."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.as_json = json or settings.json
        self.quiet = quiet

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], objects: Sequence[Any]
    ) -> None:
        """`rows` for people, `objects` as one JSON list for programs; the first cell alone when quiet.

        A column whose name starts with `>` is aligned to the right.
        """
        if self.as_json:
            self.json(list(objects))
        elif self.quiet:
            for row in rows:
                self.line(str(row[0]))
        else:
            for line in layout(columns, rows, terminal_width()):
                self.line(line)

    def fields(self, pairs: Sequence[tuple[str, object]], whole: Any) -> None:
        """One thing: its fields, a line each, or `whole` as JSON."""
        if self.as_json:
            self.json(whole)
            return
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            first, *more = printable(str(value)).split("\n")
            self.line(f"{name + ':':{width + 1}} {first}")
            for line in more:
                self.line(f"{'':{width + 1}} {line}")

    def json(self, value: Any) -> None:
        """A document, indented for a terminal and one line otherwise."""
        indent = 2 if sys.stdout.isatty() else None
        self.line(json.dumps(value, indent=indent, ensure_ascii=False), safe=True)

    def line(self, text: str, *, safe: bool = False) -> None:
        """A line of data."""
        sys.stdout.write((text if safe else printable(text)) + "\n")

    def note(self, text: str) -> None:
        """A remark, which is no data."""
        sys.stdout.flush()
        sys.stderr.write(printable(text) + "\n")


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None if it is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def layout(
    columns: Sequence[str], rows: Sequence[Sequence[object]], width: int | None
) -> list[str]:
    """The lines of a table, no wider than `width`: the widest columns give way first."""
    right = [name.startswith(">") for name in columns]
    table = [[name.removeprefix(">") for name in columns]]
    table += [[printable(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(display_width(row[at]) for row in table) for at in range(len(columns))]
    if width is not None:
        while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 4:
            widths[widths.index(max(widths))] -= 1
    lines = []
    for row in table:
        cells = []
        for at, cell in enumerate(row):
            text = clip(cell, widths[at])
            space = " " * (widths[at] - display_width(text))
            cells.append(space + text if right[at] else text + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def display_width(text: str) -> int:
    """Columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def clip(text: str, width: int) -> str:
    """`text` cut to `width` columns, with … where something is missing."""
    if display_width(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _columns(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def size(value: int | None) -> str:
    """Bytes for people: 64M, 1.5G."""
    if value is None:
        return "-"
    number = float(value)
    for unit in ("", "K", "M", "G"):
        if abs(number) < 1024:
            return (
                f"{number:.0f}{unit}"
                if unit == "" or number == int(number)
                else f"{number:.1f}{unit}"
            )
        number /= 1024
    return f"{number:.1f}T"


def span(seconds: float) -> str:
    """A time span for people: 45s, 3m20s, 5h02m, 3d04h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
