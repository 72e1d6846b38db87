# SPDX-License-Identifier: BSD-3-Clause
"""Where in a TOML file a key is, which `tomllib` does not tell. For texts that tomllib has accepted."""

from __future__ import annotations

import re

_KEY = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
)
_HEADER = re.compile(r"\s*(\[\[?)\s*(.*?)\s*\]\]?\s*(?:#.*)?$")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*\.?""")
_QUOTES = ('"""', "'''", '"', "'")

Path = tuple[str | int, ...]


def _parts(dotted: str) -> Path:
    return tuple(next(g for g in m.groups() if g is not None) for m in _PART.finditer(dotted))


def lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each table and key: `("net", 0, "kind")` of the first `[[net]]`."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    depth = 0  # of open brackets and braces of a value
    open_quote = ""  # of a string over several lines
    for number, line in enumerate(text.splitlines(), 1):
        if not depth and not open_quote:
            if header := _HEADER.match(line):
                table = _parts(header[2])
                if header[1] == "[[":
                    index = counts[table] = counts.get(table, -1) + 1
                    found.setdefault(table, number)
                    table = (*table, index)
                found.setdefault(table, number)
                continue
            if key := _KEY.match(line):
                found.setdefault((*table, *_parts(key[1])), number)
                line = line[key.end() :]
        depth, open_quote = _skip(line, depth, open_quote)
    return found


def _skip(line: str, depth: int, quote: str) -> tuple[int, str]:
    at = 0
    while at < len(line):
        if quote:
            if quote[0] == '"' and line[at] == "\\":
                at += 2
            elif line.startswith(quote, at):
                at += len(quote)
                quote = ""
            else:
                at += 1
            continue
        if line[at] == "#":
            break
        for candidate in _QUOTES:
            if line.startswith(candidate, at):
                quote = candidate
                break
        if quote:
            at += len(quote)
            continue
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(line[at], 0)
        at += 1
    return depth, quote if len(quote) == 3 else ""
