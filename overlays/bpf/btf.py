# SPDX-License-Identifier: BSD-3-Clause
"""The little of BTF that is needed: sizes of types, definitions of maps, and lines of instructions."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from overlays.bpf.model import BpfError, Line

_MAGIC = 0xEB9F
(
    INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC,
    FLOAT, DECL_TAG, TYPE_TAG, ENUM64,
) = range(1, 20)  # fmt: skip

# Bytes behind the common 12 of a type: fixed, and per element of vlen.
_EXTRA = {INT: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8), FUNC_PROTO: (0, 8), VAR: (4, 0),
          DATASEC: (0, 12), DECL_TAG: (4, 0), ENUM64: (0, 12)}  # fmt: skip


@dataclass(slots=True)
class Type:
    name: str
    kind: int
    size: int  # or the type it refers to
    extra: tuple[int, ...] = ()
    members: list[tuple[str, int]] = field(default_factory=list)  # of a struct: name, type


class Btf:
    """The types of a .BTF section; numbers as in the section, 0 is void."""

    def __init__(self, data: bytes) -> None:
        try:
            self._read(data)
        except (struct.error, IndexError) as error:
            raise BpfError(f"the BTF section is damaged: {error}") from error

    def _read(self, data: bytes) -> None:
        magic, _, _, header, types_at, types_len, names_at, names_len = struct.unpack_from(
            "<HBBIIIII", data
        )
        if magic != _MAGIC:
            raise BpfError("the BTF section does not begin as BTF does")
        self.names = data[header + names_at : header + names_at + names_len]
        self.types: list[Type] = [Type("void", 0, 0)]
        at, end = header + types_at, header + types_at + types_len
        while at < end:
            name, info, size = struct.unpack_from("<III", data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _EXTRA.get(kind, (0, 0))
            extra = struct.unpack_from(f"<{(fixed + each * count) // 4}I", data, at + 12)
            members = []
            if kind in (STRUCT, UNION):
                members = [(self.name(extra[i]), extra[i + 1]) for i in range(0, len(extra), 3)]
            self.types.append(Type(self.name(name), kind, size, extra, members))
            at += 12 + fixed + each * count

    def name(self, offset: int) -> str:
        end = self.names.index(b"\0", offset)
        return self.names[offset:end].decode("utf-8", "replace")

    def resolve(self, number: int) -> Type:
        """Through typedefs and qualifiers."""
        for _ in range(32):
            found = self.types[number]
            if found.kind not in (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG, VAR):
                return found
            number = found.size
        raise BpfError("a type in the BTF section refers to itself")

    def size_of(self, number: int) -> int:
        found = self.resolve(number)
        if found.kind == PTR:
            return 8
        if found.kind == ARRAY:
            return self.size_of(found.extra[0]) * found.extra[2]
        if found.kind in (INT, STRUCT, UNION, ENUM, FLOAT, ENUM64):
            return found.size
        raise BpfError(f"type {found.name or number} has no size")

    def variable(self, name: str) -> Type | None:
        """The type of a global variable."""
        for found in self.types:
            if found.kind == VAR and found.name == name:
                return self.resolve(found.size)
        return None

    def map_attributes(self, definition: Type) -> dict[str, int]:
        """What a map in libbpf's notation says: numbers (__uint), and sizes of types (__type)."""
        attributes = {}
        for name, number in definition.members:
            pointer = self.resolve(number)
            if pointer.kind != PTR:
                raise BpfError(f"member {name} of a map is neither __uint() nor __type()")
            target = self.resolve(pointer.size)
            if name in ("key", "value"):
                attributes[f"{name}_size"] = self.size_of(pointer.size)
            elif target.kind == ARRAY:
                attributes[name] = target.extra[2]
            else:
                raise BpfError(f"member {name} of a map is not known")
        return attributes


def read_lines(btf: Btf, data: bytes) -> dict[str, dict[int, Line]]:
    """Lines by section and offset in bytes, from .BTF.ext."""
    try:
        return _read_lines(btf, data)
    except (struct.error, ValueError, IndexError) as error:
        raise BpfError(f"the BTF.ext section is damaged: {error}") from error


def _read_lines(btf: Btf, data: bytes) -> dict[str, dict[int, Line]]:
    magic, _, _, header, _, _, lines_at, lines_len = struct.unpack_from("<HBBIIIII", data)
    if magic != _MAGIC:
        raise ValueError("wrong magic")
    lines: dict[str, dict[int, Line]] = {}
    at, end = header + lines_at, header + lines_at + lines_len
    if lines_len == 0:
        return lines
    (record,) = struct.unpack_from("<I", data, at)
    if record < 16:
        raise ValueError("records are too short")
    at += 4
    while at < end:
        section, count = struct.unpack_from("<II", data, at)
        at += 8
        here = lines.setdefault(btf.name(section), {})
        for _ in range(count):
            offset, file, text, position = struct.unpack_from("<IIII", data, at)
            at += record
            here[offset] = Line(btf.name(file), position >> 10, btf.name(text).strip())
    return lines
