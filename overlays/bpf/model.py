# SPDX-License-Identifier: BSD-3-Clause
"""What a file of programs consists of, and the compact form in which it is sent to the guest (docs/bpf.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from overlays.bpf import isa
from overlays.bpf.helpers import Kind, MapType
from overlays.bpf.isa import Insn
from overlays.errors import OverlayError

MAP_RDONLY = 1
NAME_MAX, TARGET_MAX = 31, 127
MAX_INSNS, MAX_MAPS, MAX_PROGRAMS = 65536, 64, 64

_MAGIC = b"\x00uIOBPF1"
_HEADER = struct.Struct("<8sIIHHIII32s")
_MAP = struct.Struct("<IIIIIIII32s")
_PROGRAM = struct.Struct("<IIIIQQQ32s128s")
_VERIFIED = 1


class BpfError(OverlayError):
    """The file, program or expression cannot be used as it is."""


@dataclass(frozen=True, slots=True)
class MapDef:
    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    readonly: bool = False
    data: bytes = b""  # initial value of entry 0 of an array


@dataclass(frozen=True, slots=True)
class Line:
    """Where an instruction comes from."""

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(slots=True)
class Program:
    name: str
    kind: Kind
    target: str  # the function, for entry and return
    insns: list[Insn]
    period_ns: int = 0
    max_insns: int = 0  # 0: the guest's limit
    max_ns: int = 0
    lines: dict[int, Line] = field(default_factory=dict)  # by instruction
    functions: dict[int, str] = field(default_factory=dict)  # name by first instruction

    def line(self, pc: int) -> Line | None:
        """The line of an instruction: its own, or the nearest before it in its function."""
        start = max((first for first in self.functions if first <= pc), default=0)
        for at in range(pc, start - 1, -1):
            if at in self.lines:
                return self.lines[at]
        return None


@dataclass(slots=True)
class Object:
    name: str
    maps: list[MapDef]
    programs: list[Program]
    verified: bool = False

    def map_index(self, name: str) -> int:
        for index, definition in enumerate(self.maps):
            if definition.name == name:
                return index
        raise BpfError(f"{self.name} has no map {name}")

    def to_wire(self) -> bytes:
        """:raise BpfError: more of something than the format has room for."""
        data = bytearray()
        maps, programs, insns = bytearray(), bytearray(), bytearray()
        if len(self.maps) > MAX_MAPS or len(self.programs) > MAX_PROGRAMS:
            raise BpfError(f"{self.name} has more than {MAX_MAPS} maps or {MAX_PROGRAMS} programs")
        for m in self.maps:
            sizes = (m.key_size, m.value_size, m.max_entries, MAP_RDONLY if m.readonly else 0)
            maps += _MAP.pack(m.type, *sizes, len(data), len(m.data), 0, _name(m.name, NAME_MAX))
            data += m.data
        first = 0
        for p in self.programs:
            programs += _PROGRAM.pack(
                p.kind,
                first,
                len(p.insns),
                0,
                p.period_ns,
                p.max_insns,
                p.max_ns,
                _name(p.name, NAME_MAX),
                _name(p.target, TARGET_MAX),
            )
            insns += isa.encode(p.insns)
            first += len(p.insns)
        if first > MAX_INSNS:
            raise BpfError(f"{self.name} has {first} instructions, more than {MAX_INSNS}")
        size = _HEADER.size + len(maps) + len(programs) + len(insns) + len(data)
        header = _HEADER.pack(
            _MAGIC,
            size,
            _VERIFIED if self.verified else 0,
            len(self.maps),
            len(self.programs),
            first,
            len(data),
            0,
            _name(self.name, NAME_MAX),
        )
        return header + bytes(maps) + bytes(programs) + bytes(insns) + bytes(data)


def _name(name: str, longest: int) -> bytes:
    encoded = name.encode()
    if len(encoded) > longest:
        raise BpfError(f"the name {name!r} is longer than {longest} bytes")
    if not all(0x20 < byte < 0x7F for byte in encoded):
        raise BpfError(f"the name {name!r} has characters other than printable ASCII")
    return encoded


def from_wire(wire: bytes) -> Object:
    """Read what to_wire() made. Lines and names of functions are not in it.

    :raise BpfError: it is something else.
    """
    try:
        return _from_wire(wire)
    except (struct.error, ValueError, IndexError) as error:
        raise BpfError(f"this is no BPF object: {error}") from error


def _from_wire(wire: bytes) -> Object:
    magic, size, flags, nmaps, nprograms, ninsns, data_size, _, name = _HEADER.unpack_from(wire)
    if magic != _MAGIC or size != len(wire):
        raise ValueError("magic or size is wrong")
    at = _HEADER.size
    insns_at = at + nmaps * _MAP.size + nprograms * _PROGRAM.size
    data_at = insns_at + ninsns * 8
    if data_at + data_size != size:
        raise ValueError("the parts are not as long as the whole")
    maps, programs = [], []
    for _ in range(nmaps):
        kind, key, value, entries, map_flags, offset, length, _, raw = _MAP.unpack_from(wire, at)
        at += _MAP.size
        data = wire[data_at + offset : data_at + offset + length]
        readonly = bool(map_flags & MAP_RDONLY)
        maps.append(MapDef(_text(raw), MapType(kind), key, value, entries, readonly, data))
    for _ in range(nprograms):
        kind, first, count, _, period, max_insns, max_ns, raw, target = _PROGRAM.unpack_from(
            wire, at
        )
        at += _PROGRAM.size
        insns = isa.decode(wire[insns_at + first * 8 : insns_at + (first + count) * 8])
        programs.append(
            Program(_text(raw), Kind(kind), _text(target), insns, period, max_insns, max_ns)
        )
    return Object(_text(name), maps, programs, bool(flags & _VERIFIED))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii")
