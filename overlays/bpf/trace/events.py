# SPDX-License-Identifier: BSD-3-Clause
"""What programs of a trace send through their ring buffer, and printf's text on the host.

The bytes come from the guest and are believed in nothing: a record that is not of the trace is an error.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from overlays.bpf.model import BpfError
from overlays.bpf.trace.codegen import (
    EVENT_CLEAR,
    EVENT_EXIT,
    EVENT_PRINT,
    EVENT_PRINTF,
    EVENT_ZERO,
    Trace,
)
from overlays.bpf.trace.types import Format, Kind

Symbolize = Callable[[int], str]

_CONVERSION = re.compile(r"%([-0+ #]*)(\d*)(?:\.(\d+))?(hh|h|ll|l|z|j|t)?([a-zA-Z%])")
_MAX_WIDTH = 256
_BITS = {"hh": 8, "h": 16, "": 32}


@dataclass(frozen=True, slots=True)
class Event:
    """kind: printf (text), print, clear, zero (map), exit."""

    kind: str
    text: str = ""
    map: str = ""
    top: int = 0


_MAP_KINDS = {EVENT_PRINT: "print", EVENT_CLEAR: "clear", EVENT_ZERO: "zero"}


def decode(trace: Trace, record: bytes, symbolize: Symbolize = hex) -> Event:
    """:raise BpfError: the record is not one of this trace."""
    if len(record) < 8:
        raise BpfError("an event from the guest is too short")
    kind, which = struct.unpack_from("<II", record)
    if kind == EVENT_EXIT:
        return Event("exit")
    if kind in _MAP_KINDS and which < len(trace.maps) and len(record) == 16:
        (top,) = struct.unpack_from("<Q", record, 8)
        return Event(_MAP_KINDS[kind], map=trace.maps[which].name, top=top)
    if kind == EVENT_PRINTF and which < len(trace.formats):
        form = trace.formats[which]
        if len(record) == 8 + sum(value.size for value in form.args):
            return Event("printf", text=format_text(form, record[8:], symbolize))
    raise BpfError("an event from the guest is not one of this trace")


def format_text(form: Format, payload: bytes, symbolize: Symbolize) -> str:
    """The text of a printf."""
    arguments: list[int | str] = []
    at = 0
    for value in form.args:
        raw = payload[at : at + value.size]
        at += value.size
        if value.kind is Kind.STRING:
            arguments.append(text_of(raw))
        else:
            number = int.from_bytes(raw, "little")
            arguments.append(symbolize(number) if value.kind is Kind.ADDRESS else number)
    remaining = iter(arguments)

    def convert(match: re.Match[str]) -> str:
        flags, width, precision, length, conversion = match.groups()
        if conversion == "%":
            return "%"
        return _converted(
            next(remaining),
            flags,
            min(int(width or 0), _MAX_WIDTH),
            precision,
            length or "",
            conversion,
        )

    return _CONVERSION.sub(convert, form.text)


def text_of(raw: bytes) -> str:
    """A string of the guest's; what is no text is shown as escapes, so that no terminal is moved by it."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _converted(
    value: int | str, flags: str, width: int, precision: str | None, length: str, conversion: str
) -> str:
    if isinstance(value, str):
        text = value[: int(precision)] if precision is not None else value
        return text.ljust(width) if "-" in flags else text.rjust(width)
    if conversion == "c":
        text = chr(value & 0xFF)
        text = text if text.isprintable() else f"\\x{value & 0xFF:02x}"
        return text.ljust(width) if "-" in flags else text.rjust(width)
    bits = 64 if conversion in "ps" else _BITS.get(length, 64)
    value &= (1 << bits) - 1
    if conversion in "di" and value >> (bits - 1):
        value -= 1 << bits
    digits = {"d": "d", "i": "d", "u": "d", "x": "x", "X": "X", "o": "o", "p": "x", "s": "d"}[
        conversion
    ]
    text = format(abs(value), digits)
    sign = "-" if value < 0 else "+" if "+" in flags and conversion in "di" else ""
    if conversion == "p" or ("#" in flags and conversion == "x"):
        sign += "0x"
    if "-" in flags:
        return (sign + text).ljust(width)
    if "0" in flags:
        return sign + text.rjust(width - len(sign), "0")
    return (sign + text).rjust(width)
