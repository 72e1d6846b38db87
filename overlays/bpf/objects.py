# SPDX-License-Identifier: BSD-3-Clause
"""From the ELF file that `clang -target bpf` writes to programs and maps.

A program is a global function in a section `uio/entry:FUNC`, `uio/return:FUNC`, `uio/timer:PERIOD` or `uio/exec`.
It gets its own copy of each function that it calls, so that its instructions are complete. Each section of
data becomes an array map with one value.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from overlays.bpf import isa
from overlays.bpf.btf import STRUCT, Btf, read_lines
from overlays.bpf.helpers import Kind, MapType
from overlays.bpf.isa import Insn
from overlays.bpf.model import NAME_MAX, BpfError, Line, MapDef, Object, Program

_EM_BPF = 247
_R_64_64, _R_64_32 = 1, 10
_PERIODS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_SHORTEST_PERIOD_NS = 100_000
_DEFINITION = struct.Struct("<5I")  # struct uio_map_def


def parse_section_name(section: str) -> tuple[Kind, str, int]:
    """(kind, target, period in ns) of a program's section.

    :raise BpfError: it is none.
    """
    what, _, target = section.removeprefix("uio/").partition(":")
    if what in ("entry", "return"):
        if not target:
            raise BpfError(f"section {section} names no function", f"write uio/{what}:FUNCTION")
        return (Kind.ENTRY if what == "entry" else Kind.RETURN), target, 0
    if what == "timer":
        return Kind.TIMER, "", parse_period(target)
    if what == "exec" and not target:
        return Kind.EXEC, "", 0
    raise BpfError(
        f"section {section} is no place for a program",
        "use uio/entry:FUNC, uio/return:FUNC, uio/timer:10ms or uio/exec",
    )


def parse_period(text: str) -> int:
    match = re.fullmatch(r"(\d+)(ns|us|ms|s)", text)
    if match is None:
        raise BpfError(f"{text!r} is no period", "write for example 10ms or 1s")
    period = int(match[1]) * _PERIODS[match[2]]
    if not _SHORTEST_PERIOD_NS <= period < 1 << 63:
        raise BpfError(f"a period of {text} is too short or too long", "100us is the shortest")
    return period


@dataclass(slots=True)
class _Symbol:
    name: str
    section: int
    value: int
    size: int
    kind: str
    is_global: bool


@dataclass(slots=True)
class _Function:
    """One function as it lies in its section."""

    name: str
    section: int
    start: int  # in bytes
    insns: list[Insn]


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.elf = ELFFile(io.BytesIO(data))
        if self.elf["e_machine"] not in ("EM_BPF", _EM_BPF) or self.elf["e_type"] != "ET_REL":
            raise BpfError(f"{name} is no object file for BPF", "compile with clang -target bpf -c")
        if not self.elf.little_endian:
            raise BpfError(f"{name} is big-endian", "compile with clang -target bpfel")
        self.name = name
        self.sections = list(self.elf.iter_sections())
        self.symbols = self._symbols()
        self.relocations = self._relocations()
        self.btf = Btf(self._data(".BTF")) if self._has(".BTF") else None
        self.lines: dict[str, dict[int, Line]] = {}
        if self.btf is not None and self._has(".BTF.ext"):
            self.lines = read_lines(self.btf, self._data(".BTF.ext"))
        self.maps: list[MapDef] = []
        self.map_of_symbol: dict[tuple[int, int], int] = {}  # (section, offset) in .maps
        self.map_of_section: dict[int, int] = {}

    def _has(self, section: str) -> bool:
        return any(s.name == section for s in self.sections)

    def _data(self, section: str) -> bytes:
        return next(bytes(s.data()) for s in self.sections if s.name == section)

    def _symbols(self) -> list[_Symbol]:
        table = next((s for s in self.sections if isinstance(s, SymbolTableSection)), None)
        if table is None:
            raise BpfError(f"{self.name} has no symbols")
        found = []
        for s in table.iter_symbols():
            section = s["st_shndx"] if isinstance(s["st_shndx"], int) else -1
            if s["st_shndx"] == "SHN_COMMON":
                raise BpfError(f"{s.name} is a common symbol", "compile with -fno-common")
            kind = str(s["st_info"]["type"]).removeprefix("STT_")
            is_global = s["st_info"]["bind"] != "STB_LOCAL"
            found.append(_Symbol(s.name, section, s["st_value"], s["st_size"], kind, is_global))
        return found

    def _relocations(self) -> dict[int, dict[int, tuple[int, _Symbol]]]:
        """By section and offset: type and symbol."""
        found: dict[int, dict[int, tuple[int, _Symbol]]] = {}
        for section in self.sections:
            if not isinstance(section, RelocationSection):
                continue
            if section.is_RELA():
                raise BpfError("relocations with addends are not of clang's BPF")
            target = self.sections[section["sh_info"]]
            if not target["sh_flags"] & 2:  # not allocated: debugging information
                continue
            here = found.setdefault(section["sh_info"], {})
            for relocation in section.iter_relocations():
                index = relocation["r_info_sym"]
                if index >= len(self.symbols):
                    raise BpfError("a relocation refers to a symbol that does not exist")
                here[relocation["r_offset"]] = (relocation["r_info_type"], self.symbols[index])
        return found

    # ---- maps and globals

    def read_maps(self) -> None:
        for index, section in enumerate(self.sections):
            allocated = bool(section["sh_flags"] & 2)
            if section.name == ".maps":
                self._read_map_section(index, bytes(section.data()))
            elif allocated and not section["sh_flags"] & 4 and section["sh_size"] > 0:
                if index in self.relocations:
                    symbol = next(iter(self.relocations[index].values()))[1]
                    raise BpfError(
                        f"{section.name} contains the address of {symbol.name or 'something'}",
                        "globals of BPF programs cannot contain pointers",
                    )
                self._add_data(index, section.name, section)

    def _add_data(self, index: int, name: str, section: Any) -> None:
        header = section.header
        size = header["sh_size"]
        empty = header["sh_type"] == "SHT_NOBITS"
        data = b"" if empty else bytes(section.data())
        readonly = not header["sh_flags"] & 1
        self.map_of_section[index] = len(self.maps)
        self.maps.append(
            MapDef(name[:NAME_MAX], MapType.ARRAY, 4, size, 1, readonly, data.rstrip(b"\0"))
        )

    def _read_map_section(self, index: int, data: bytes) -> None:
        for symbol in self.symbols:
            if symbol.section == index and symbol.kind == "OBJECT":
                content = data[symbol.value : symbol.value + symbol.size]
                self.map_of_symbol[index, symbol.value] = len(self.maps)
                self.maps.append(self._read_map(symbol.name, content))

    def _read_map(self, name: str, content: bytes) -> MapDef:
        if len(content) >= _DEFINITION.size and any(content[:4]):
            kind, key, value, entries, flags = _DEFINITION.unpack_from(content)
        else:
            definition = self.btf.variable(name) if self.btf is not None else None
            if self.btf is None or definition is None or definition.kind != STRUCT:
                raise BpfError(f"map {name} has no definition", "compile with -g, or use UIO_MAP()")
            attributes = self.btf.map_attributes(definition)
            kind = attributes.get("type", 0)
            key, value = attributes.get("key_size", 0), attributes.get("value_size", 0)
            entries, flags = attributes.get("max_entries", 0), attributes.get("map_flags", 0)
        if kind not in list(MapType) or flags:
            raise BpfError(f"map {name} is of a type or has flags that uIO does not know")
        return MapDef(name, MapType(kind), key, value, entries)

    # ---- functions

    def function_at(self, section: int, offset: int) -> _Function:
        for symbol in self.symbols:
            if symbol.section == section and symbol.kind == "FUNC" and symbol.value == offset:
                data = bytes(self.sections[section].data())[offset : offset + symbol.size]
                if not data:
                    raise BpfError(f"function {symbol.name} is empty")
                return _Function(symbol.name, section, offset, isa.decode(data))
        raise BpfError(f"no function at offset {offset} of {self.sections[section].name}")

    def callee(self, function: _Function, at: int) -> _Function:
        """The function that the call at an instruction goes to."""
        offset = function.start + at * 8
        insn = function.insns[at]
        relocation = self.relocations.get(function.section, {}).get(offset)
        if relocation is None:
            return self.function_at(function.section, offset + 8 + insn.imm * 8)
        kind, symbol = relocation
        if symbol.section < 1:
            raise BpfError(
                f"{function.name} calls {symbol.name}, which is not defined",
                "programs call their own functions and the helpers of uio/bpf.h alone",
            )
        if kind != _R_64_32:
            raise BpfError(f"a relocation of type {kind} at a call in {function.name}")
        return self.function_at(symbol.section, symbol.value + (insn.imm + 1) * 8)

    def relocate_load(self, function: _Function, at: int) -> list[Insn]:
        """A 64-bit load with its relocation, if it has one, applied."""
        insn, second = function.insns[at], function.insns[at + 1]
        relocation = self.relocations.get(function.section, {}).get(function.start + at * 8)
        if relocation is None:
            return [insn, second]
        kind, symbol = relocation
        offset = symbol.value + insn.imm
        if kind != _R_64_64:
            raise BpfError(f"a relocation of type {kind} at a load in {function.name}")
        if (index := self.map_of_symbol.get((symbol.section, offset))) is not None:
            return isa.lddw(insn.dst, index, isa.IMM64_MAP)
        if (index := self.map_of_section.get(symbol.section)) is not None:
            return isa.lddw(insn.dst, index | offset << 32, isa.IMM64_MAP_VALUE)
        what = f"the address of {symbol.name}" if symbol.name else "an address"
        raise BpfError(f"{function.name} takes {what}, which is no map or global of the file")

    def link(self, entry: _Function) -> tuple[list[Insn], dict[int, str], dict[int, Line]]:
        """A program: its function, and behind it those that it calls."""
        functions = [entry]
        starts = {(entry.section, entry.start): 0}
        insns: list[Insn] = []
        names: dict[int, str] = {}
        lines: dict[int, Line] = {}
        calls: list[tuple[int, tuple[int, int]]] = []
        for function in functions:  # grows as calls are found
            base = len(insns)
            starts[function.section, function.start] = base
            names[base] = function.name
            section_lines = self.lines.get(self.sections[function.section].name, {})
            at = 0
            while at < len(function.insns):
                insn = function.insns[at]
                line = section_lines.get(function.start + at * 8)
                if line is not None:
                    lines[base + at] = line
                if insn.opcode == isa.LDDW and at + 1 < len(function.insns):
                    insns += self.relocate_load(function, at)
                    at += 2
                    continue
                if insn.opcode == isa.CALL and insn.src == isa.CALL_LOCAL:
                    target = self.callee(function, at)
                    key = (target.section, target.start)
                    if key not in starts:
                        starts[key] = -1
                        functions.append(target)
                    calls.append((len(insns), key))
                insns.append(insn)
                at += 1
        for at, key in calls:
            insns[at] = insns[at]._replace(imm=starts[key] - at - 1)
        return insns, names, lines

    def read(self) -> Object:
        self.read_maps()
        programs = []
        for symbol in self.symbols:
            if symbol.kind != "FUNC" or not symbol.is_global or symbol.section < 1:
                continue
            section = self.sections[symbol.section].name
            if not section.startswith("uio/"):
                continue
            kind, target, period = parse_section_name(section)
            entry = self.function_at(symbol.section, symbol.value)
            insns, names, lines = self.link(entry)
            programs.append(Program(symbol.name, kind, target, insns, period, 0, 0, lines, names))
        if not programs:
            raise BpfError(
                f"{self.name} contains no programs",
                'put a function into a section, for example with UIO_ENTRY("function")',
            )
        return Object(self.name[:NAME_MAX], self.maps, programs)


def read_object(data: bytes, name: str) -> Object:
    """Read an ELF file's bytes.

    :raise BpfError: with a message for its author.
    """
    try:
        return _Reader(data, name).read()
    except (ELFError, OverflowError, ValueError, KeyError, IndexError, struct.error) as error:
        raise BpfError(f"{name} is a damaged object file: {error}") from error


def load_object(path: Path) -> Object:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BpfError(f"cannot read {path}: {error.strerror}") from error
    name = path.name.removesuffix(".o").removesuffix(".bpf")
    return read_object(data, re.sub(r"[^!-~]", "_", name) or "object")
