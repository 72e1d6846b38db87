# SPDX-License-Identifier: BSD-3-Clause
"""Maps of a trace for people and for JSON: entries sorted by value, histograms with bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overlays.bpf.isa import signed
from overlays.bpf.trace.events import text_of
from overlays.bpf.trace.types import HIST_NEGATIVE, Kind, MapKind, TraceMap

BAR = 52
Part = int | str | tuple[int, ...]  # of a key: number, text, stack
Row = tuple[bytes, bytes, int]  # key, value, thread, as maps are read


@dataclass(frozen=True, slots=True)
class Context:
    """How addresses become names, and what the ids of stacks stand for."""

    symbolize: Callable[[int], str] = hex
    stacks: Mapping[int, Sequence[int]] | None = None


def stacks_of(rows: Iterable[Row]) -> dict[int, list[int]]:
    """The stacks by id, from the rows of their map."""
    found = {}
    for key, value, _ in rows:
        addresses = [int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8)]
        found[int.from_bytes(key, "little")] = [address for address in addresses if address]
    return found


def _parts(m: TraceMap, key: bytes, context: Context) -> tuple[Part, ...]:
    parts: list[Part] = []
    at = 0
    for value in m.keys or []:
        raw = key[at : at + value.size]
        at += value.size
        number = int.from_bytes(raw, "little")
        if value.kind is Kind.STRING:
            parts.append(text_of(raw))
        elif value.kind is Kind.ADDRESS:
            parts.append(context.symbolize(number))
        elif value.kind is Kind.STACK:
            known = (context.stacks or {}).get(number)
            parts.append(tuple(known) if known is not None else ())
        else:
            parts.append(signed(number, 64))
    return tuple(parts)


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little", signed=True)


def _value(m: TraceMap, raw: bytes, context: Context) -> int | str | None:
    """None: nothing was put in yet."""
    if m.kind is MapKind.AVG:
        count = _number(raw[8:])
        return int(_number(raw) / count) if count else None
    if m.kind in (MapKind.MIN, MapKind.MAX):
        return _number(raw) if _number(raw[8:]) else None
    if m.value.kind is Kind.STRING:
        return text_of(raw)
    if m.value.kind is Kind.ADDRESS:
        return context.symbolize(_number(raw) & 2**64 - 1)
    return _number(raw)


def table(
    m: TraceMap, rows: Iterable[Row], context: Context
) -> list[tuple[tuple[Part, ...], int | str]]:
    """Keys and values, least value first."""
    found = [(_parts(m, key, context), _value(m, value, context)) for key, value, _ in rows]
    filled = [(key, value) for key, value in found if value is not None]
    return sorted(filled, key=lambda row: (isinstance(row[1], str), row[1], str(row[0])))


def histograms(
    m: TraceMap, rows: Iterable[Row], context: Context
) -> list[tuple[tuple[Part, ...], dict[int, int]]]:
    """Counts by slot for each key, least total first."""
    found: dict[tuple[Part, ...], dict[int, int]] = {}
    for key, value, _ in rows:
        slot = int.from_bytes(key[-8:] if m.keys else key, "little")
        count = _number(value)
        if count and slot < m.slots:
            found.setdefault(_parts(m, key, context), {})[slot] = count
    return sorted(found.items(), key=lambda item: (sum(item[1].values()), str(item[0])))


def _short(number: int) -> str:
    for suffix in ("", "K", "M", "G", "T", "P"):
        if abs(number) < 1024:
            return f"{number}{suffix}"
        number //= 1024
    return f"{number}E"


def slot_bounds(m: TraceMap, slot: int) -> tuple[int | None, int | None]:
    """[from, to) of a slot; None: open."""
    if m.kind is MapKind.HIST:
        if slot == HIST_NEGATIVE:
            return None, 0
        return (0, 1) if slot == 0 else (1 << (slot - 1), 1 << slot)
    least, most, step = m.bounds
    if slot == 0:
        return None, least
    if slot == m.slots - 1:
        return most, None
    low = least + (slot - 1) * step
    return low, min(low + step, most)


def _label(m: TraceMap, slot: int) -> str:
    low, high = slot_bounds(m, slot)
    shorten = _short if m.kind is MapKind.HIST else str
    if low is None:
        assert high is not None
        return f"(..., {shorten(high)})"
    if high is None:
        return f"[{shorten(low)}, ...)"
    return f"[{shorten(low)}]" if high - low == 1 else f"[{shorten(low)}, {shorten(high)})"


def _in_order(m: TraceMap, slots: Mapping[int, int]) -> list[int]:
    """All slots from the first that has something to the last."""
    negative = [HIST_NEGATIVE] if m.kind is MapKind.HIST and HIST_NEGATIVE in slots else []
    others = [slot for slot in slots if not (m.kind is MapKind.HIST and slot == HIST_NEGATIVE)]
    return negative + (list(range(min(others), max(others) + 1)) if others else [])


def bars(m: TraceMap, slots: Mapping[int, int]) -> list[str]:
    most = max(slots.values(), default=1)
    lines = []
    for slot in _in_order(m, slots):
        count = slots.get(slot, 0)
        bar = "@" * (count * BAR // most)
        lines.append(f"{_label(m, slot):<16} {count:>8} |{bar:<{BAR}}|")
    return lines


def _key_text(name: str, parts: tuple[Part, ...], context: Context) -> str:
    if not parts:
        return name
    texts = []
    for part in parts:
        if isinstance(part, tuple):
            lines = [f"\n    {context.symbolize(address)}" for address in part]
            texts.append("".join(lines) + "\n" if lines else "?")
        else:
            texts.append(str(part))
    return f"{name}[{', '.join(texts)}]"


def render(m: TraceMap, rows: Iterable[Row], context: Context | None = None, top: int = 0) -> str:
    """A map as text, ended by a newline; empty if there is nothing in it."""
    context = context or Context()
    lines: list[str] = []
    if m.is_histogram:
        found = histograms(m, rows, context)
        for parts, slots in found[-top:] if top else found:
            lines += [f"{_key_text(m.name, parts, context)}:", *bars(m, slots), ""]
    else:
        entries = table(m, rows, context)
        for key, value in entries[-top:] if top else entries:
            lines.append(f"{_key_text(m.name, key, context)}: {value}")
    return "".join(f"{line}\n" for line in lines)


def to_json(
    m: TraceMap, rows: Iterable[Row], context: Context | None = None, top: int = 0
) -> dict[str, Any]:
    """The same for -f json, in bpftrace's form: {"type": …, "data": {name: …}}."""
    context = context or Context()

    def plain(parts: tuple[Part, ...]) -> str:
        names = (
            ";".join(map(context.symbolize, part)) if isinstance(part, tuple) else str(part)
            for part in parts
        )
        return ",".join(names)

    if m.is_histogram:
        found = histograms(m, rows, context)
        keyed: dict[str, Any] = {
            plain(parts): [_slot_json(m, slot, slots.get(slot, 0)) for slot in _in_order(m, slots)]
            for parts, slots in (found[-top:] if top else found)
        }
        kind = "hist" if m.kind is MapKind.HIST else "lhist"
    else:
        entries = table(m, rows, context)
        keyed = {plain(parts): value for parts, value in (entries[-top:] if top else entries)}
        kind = "map"
    data = keyed if m.keys else keyed.get("")
    return {"type": kind, "data": {m.name: data}}


def _slot_json(m: TraceMap, slot: int, count: int) -> dict[str, int]:
    low, high = slot_bounds(m, slot)
    found = {"count": count}
    if low is not None:
        found["min"] = low
    if high is not None:
        found["max"] = high - 1
    return found
