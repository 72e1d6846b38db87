# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl peek`: values of the running application by its own names and types.

The guest knows no types. DWARF is read here, and memory through the overlay `peek`: one command for the value, however
many pointers lead there, and one for all the texts that it points to.
"""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from uiod.ctl.ctypes_dwarf import Type, Types
from uiod.ctl.debuggee import Debuggee
from uiod.ctl.errors import CtlError
from uiod.ctl.options import Json, VmName, duration
from uiod.ctl.output import Output
from uiod.ctl.peek_expr import Place, Variables, flat_members, parse, spell

_TEXT_MAX = 200  # bytes of a text that is shown
_DEPTH = 8
_FLOATS = {4: "<f", 8: "<d"}


class Word(str):
    """The name of an enumerator, an address: shown without quotes."""

    __slots__ = ()


class Value:
    """Reads one place again and again."""

    def __init__(self, guest: Debuggee, types: Types, place: Place, elements: int) -> None:
        self.guest, self.types, self.place, self.elements = guest, types, place, elements
        self._texts: dict[int, str | None] = {}

    def read(self) -> Any:
        """As JSON has it: numbers, texts, lists, dicts; addresses as 0x… texts."""
        kind, path = self.place.type, self.place.path(self.guest.slide)
        size = 1 if self.place.address_only else kind.size
        if not size:
            raise CtlError(
                f"{spell(kind, self.types)} has no size, so it cannot be shown",
                "a part of an array: NAME[0:8]; an address: &NAME",
            )
        [(address, data)] = self.guest.read([(path, size)])
        if self.place.address_only:
            return self._pointer(address)
        if len(data) < size:
            raise CtlError(f"{address + len(data):#x} cannot be read: a pointer leads nowhere")
        self._texts = {}
        self._collect(kind, data)
        if self._texts:
            wanted = list(self._texts)
            found = self.guest.read([(hex(a), _TEXT_MAX) for a in wanted])
            for pointer, (_, text) in zip(wanted, found, strict=True):
                end = text.find(b"\0")
                shown = text if end < 0 else text[:end]
                more = "…" if end < 0 and text else ""
                self._texts[pointer] = _printable(shown) + more if text else None
        return self._value(kind, data, self.place.bits)

    def _collect(self, kind: Type, data: bytes, depth: int = 0) -> None:
        """The addresses of texts in a value."""
        if depth > _DEPTH:
            return
        if kind.kind == "pointer":
            address = int.from_bytes(data[:8], "little")
            if address and self.types.target(kind).kind == "char":
                self._texts[address] = None
        elif kind.kind == "struct":
            for member in self.types.members(kind):
                end = member.offset + member.type.size
                self._collect(member.type, data[member.offset : end], depth + 1)
        elif kind.kind == "array":
            item = self.types.target(kind)
            if item.kind in ("pointer", "struct", "array") and item.size:
                for i in range(min(kind.count, self.elements)):
                    self._collect(item, data[i * item.size : (i + 1) * item.size], depth + 1)

    def _value(
        self, kind: Type, data: bytes, bits: tuple[int, int] | None = None, depth: int = 0
    ) -> Any:
        if kind.kind in ("int", "bool", "char", "enum"):
            return self._number(kind, data, bits)
        if kind.kind == "float":
            form = _FLOATS.get(kind.size)
            return struct.unpack(form, data)[0] if form else Word("0x" + data[::-1].hex())
        if kind.kind == "pointer":
            address = int.from_bytes(data, "little")
            text = self._texts.get(address)
            return self._pointer(address) if text is None else text
        if depth > _DEPTH:
            return Word("…")
        if kind.kind == "struct":
            return {
                m.name: self._value(
                    m.type, data[m.offset : m.offset + m.type.size], m.bits, depth + 1
                )
                for m in flat_members(kind, self.types)
            }
        if kind.kind == "array":
            item = self.types.target(kind)
            if item.kind == "char" and item.signed:
                return _printable(data.split(b"\0", 1)[0])
            shown = min(kind.count, self.elements)
            values = [self._value(item, data[i * item.size : (i + 1) * item.size], None, depth + 1)
                      for i in range(shown)]  # fmt: skip
            return values + [Word("…")] * (kind.count > shown)
        return Word("0x" + data[::-1].hex()) if data else None

    def _number(self, kind: Type, data: bytes, bits: tuple[int, int] | None) -> Any:
        number = int.from_bytes(data, "little", signed=kind.signed and bits is None)
        if bits is not None:
            number = number >> bits[0] & (1 << bits[1]) - 1
            if kind.signed and number >> bits[1] - 1:
                number -= 1 << bits[1]
        if kind.kind == "bool" and number in (0, 1):
            return bool(number)
        if kind.kind == "enum":
            return Word(kind.names[number]) if number in kind.names else number
        return number

    def _pointer(self, address: int) -> str | None:
        if not address:
            return None
        word = self.guest.word(address)
        return Word(f"{address:#x} <{word}>" if word else f"{address:#x}")


def _printable(data: bytes) -> str:
    text = data.decode(errors="replace")
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def show(value: Any, indent: int = 0) -> str:
    """For people."""
    space = "  " * (indent + 1)
    if isinstance(value, dict):
        lines = [f"{space}{name} = {show(v, indent + 1)}" for name, v in value.items()]
        return "\n".join(["{", *lines, "  " * indent + "}"])
    if isinstance(value, list):
        if any(isinstance(v, dict | list) for v in value):
            lines = [f"{space}[{i}] = {show(v, indent + 1)}" for i, v in enumerate(value)]
            return "\n".join(["{", *lines, "  " * indent + "}"])
        return "{" + ", ".join(show(v) for v in value) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "NULL"
    if isinstance(value, str) and not isinstance(value, Word):
        return f'"{value}"'
    return str(value)


def peek(
    vm: VmName,
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="As in C: a.b, p->m, a[1].")],
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Show it again whenever it has changed.")
    ] = False,
    interval: Annotated[
        str, typer.Option("-i", "--interval", metavar="TIME", help="Between looks with --watch.")
    ] = "1s",
    count: Annotated[
        int, typer.Option("-n", "--count", metavar="N", help="With --watch: so many values.")
    ] = 0,
    elements: Annotated[
        int, typer.Option(metavar="N", min=1, help="Elements of an array to show.")
    ] = 200,
    symbols: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The kernel's ELF with debugging information."),
    ] = None,
    json: Json = False,
) -> None:
    """Show a variable of the running application with its names and types.

    Needs the overlay `peek` in the VM, and a kernel built with -g.

    \b
    Examples:
      uioctl peek web server.clients
      uioctl peek web 'head->next->name'
      uioctl peek web 'table[0:4]' --json
      uioctl peek web requests --watch
    """
    guest = Debuggee(vm, symbols)
    types = Types(guest.path)
    names = [s.name for s in guest.kernel.symbols() if s.kind == "object"]
    place = parse(expression, types, Variables(types, names))
    value = Value(guest, types, place, elements)
    pause = duration(interval, "--interval") if watch else 0.0
    output = Output(json=json)
    last: Any = Value  # nothing that a value is equal to
    shown = 0
    while True:
        now = value.read()
        if now != last:
            last, shown = now, shown + 1
            if json:
                output.json({"time": time.time(), "value": now} if watch else now)
            else:
                output.line(f"{expression} = {show(now)}")
            sys.stdout.flush()
        if not watch or shown == count:
            return
        time.sleep(pause)
