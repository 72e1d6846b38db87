# SPDX-License-Identifier: BSD-3-Clause
"""C types and global variables from a kernel's DWARF, for `uioctl peek`; read only as far as they are asked for.

A variable is looked for in the compilation units whose bytes mention its name alone: parsing all of a large kernel
would take seconds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from uiod.ctl.errors import CtlError

_THROUGH = {f"DW_TAG_{t}_type" for t in ("const", "volatile", "restrict", "atomic")}
_RECORDS = {
    "DW_TAG_structure_type": "struct",
    "DW_TAG_union_type": "union",
    "DW_TAG_class_type": "class",
}
_BOOLEAN, _FLOAT = 2, 4
_SIGNED = (5, 6, 13)
_CHARS = (6, 8)
_DEPTH = 64


@dataclass(slots=True)
class Type:
    """`kind`: int, bool, char, float, enum, pointer, array, struct, function or void."""

    kind: str
    size: int
    name: str
    signed: bool = False
    count: int = 0  # of an array
    names: dict[int, str] = field(default_factory=dict)  # of an enum
    die: Any = None  # whose DW_AT_type is the target, or whose children are the members
    dimensions: tuple[int, ...] = ()  # of an array, from this one on


@dataclass(slots=True)
class Member:
    """`bits`: (lowest bit, number of bits) of a bit field in a value of the type's size."""

    name: str
    offset: int
    type: Type
    bits: tuple[int, int] | None = None


@dataclass(slots=True)
class Variable:
    name: str
    address: int  # link address
    type: Type


class Types:
    """The debugging information of one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        elf = ELFFile(self._file)
        if not elf.has_dwarf_info():
            raise CtlError(
                f"{path} has no debugging information",
                "build the kernel with -g, and set [vm] symbols to the file before stripping",
            )
        self._dwarf: Any = elf.get_dwarf_info()
        self._cache: dict[int, Type] = {}

    def variable(self, name: str) -> Variable | None:
        """A global or static variable; a global one first."""
        found = None
        for unit in self._units_with(name):
            for die in unit.get_top_DIE().iter_children():
                variable = self._variable(die, name)
                if variable is None:
                    continue
                if "DW_AT_external" in die.attributes or "DW_AT_specification" in die.attributes:
                    return variable
                found = found or variable
        return found

    def target(self, kind: Type) -> Type:
        """What a pointer points to, or an array consists of."""
        if kind.kind == "array" and len(kind.dimensions) > 1:
            return self._array(kind.die, kind.dimensions[1:])
        return self._of(kind.die)

    def members(self, record: Type) -> list[Member]:
        """Those of a struct or union, in order; unnamed ones have an empty name."""
        found = []
        for die in record.die.iter_children():
            if die.tag not in ("DW_TAG_member", "DW_TAG_inheritance"):
                continue
            attributes = die.attributes
            if "DW_AT_external" in attributes:
                continue
            location = attributes.get("DW_AT_data_member_location")
            offset = location.value if location and isinstance(location.value, int) else 0
            kind = self._of(die)
            bits = None
            if "DW_AT_bit_size" in attributes:
                size = attributes["DW_AT_bit_size"].value
                if "DW_AT_data_bit_offset" in attributes:
                    first = attributes["DW_AT_data_bit_offset"].value
                    offset = first // 8 // max(kind.size, 1) * kind.size
                    bits = (first - 8 * offset, size)
                else:  # DWARF 3: counted from the most significant bit
                    start = attributes["DW_AT_bit_offset"].value
                    bits = (8 * kind.size - start - size, size)
            found.append(Member(_text(die), offset, kind, bits))
        return found

    def _units_with(self, name: str) -> list[Any]:
        info = self._dwarf.debug_info_sec
        stream = info.stream
        stream.seek(0)
        data = stream.read(info.size)
        wanted = [name.encode() + b"\0"]
        strings = self._dwarf.debug_str_sec
        if strings is not None:
            strings.stream.seek(0)
            table = strings.stream.read(strings.size)
            at = table.find(wanted[0])
            while at >= 0:  # also as the tail of another name
                wanted.append(struct.pack("<I", at))
                at = table.find(wanted[0], at + 1)
        found = []
        for unit in self._dwarf.iter_CUs():
            end = unit.cu_offset + unit["unit_length"] + unit.structs.initial_length_field_size()
            if any(data.find(w, unit.cu_offset, end) >= 0 for w in wanted):
                found.append(unit)
        return found

    def _variable(self, die: Any, name: str) -> Variable | None:
        if die.tag != "DW_TAG_variable" or "DW_AT_location" not in die.attributes:
            return None
        named = die
        if "DW_AT_specification" in die.attributes:
            named = die.get_DIE_from_attribute("DW_AT_specification")
        if _text(named) != name:
            return None
        location = die.attributes["DW_AT_location"].value
        if not isinstance(location, list) or len(location) != 9 or location[0] != 3:  # DW_OP_addr
            return None
        address = int.from_bytes(bytes(location[1:]), "little")
        kind = self._of(die)
        if kind.kind in ("array", "void") or not kind.size:
            kind = self._of(named) if "DW_AT_type" not in die.attributes else kind
        return Variable(name, address, kind)

    def _of(self, die: Any) -> Type:
        """The type that a DIE refers to."""
        alias = ""
        for _ in range(_DEPTH):
            if "DW_AT_type" not in die.attributes:
                return Type("void", 0, alias or "void")
            die = die.get_DIE_from_attribute("DW_AT_type")
            if die.tag == "DW_TAG_typedef":
                alias = alias or _text(die)
            elif die.tag not in _THROUGH:
                if die.offset not in self._cache:
                    self._cache[die.offset] = self._made(die)
                kind = self._cache[die.offset]
                if alias and not kind.name.strip("?"):
                    kind.name = alias
                return kind
        raise CtlError("a type in the debugging information refers to itself")

    def _made(self, die: Any) -> Type:
        attributes = die.attributes
        size = attributes["DW_AT_byte_size"].value if "DW_AT_byte_size" in attributes else 0
        name = _text(die)
        if die.tag == "DW_TAG_base_type":
            encoding = attributes["DW_AT_encoding"].value
            if encoding == _BOOLEAN:
                return Type("bool", size, name)
            if encoding == _FLOAT:
                return Type("float", size, name)
            kind = "char" if encoding in _CHARS and size == 1 else "int"
            return Type(kind, size, name, encoding in _SIGNED)
        if die.tag == "DW_TAG_enumeration_type":
            names = {
                c.attributes["DW_AT_const_value"].value: _text(c)
                for c in die.iter_children()
                if c.tag == "DW_TAG_enumerator"
            }
            return Type("enum", size, name, any(n < 0 for n in names), names=names)
        if die.tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type"):
            return Type("pointer", 8, "", die=die)
        if die.tag == "DW_TAG_array_type":
            return self._array(die, _dimensions(die))
        if die.tag in _RECORDS:
            return Type("struct", size, name, die=die)
        if die.tag == "DW_TAG_subroutine_type":
            return Type("function", 0, name or "function")
        return Type("void", size, name or "void")

    def _array(self, die: Any, dimensions: tuple[int, ...]) -> Type:
        size = self._of(die).size
        for count in dimensions:
            size *= count
        return Type("array", size, "", count=dimensions[0], die=die, dimensions=dimensions)


def _dimensions(die: Any) -> tuple[int, ...]:
    found = []
    for child in die.iter_children():
        if child.tag != "DW_TAG_subrange_type":
            continue
        count = 0  # int table[]
        for attribute, extra in (("DW_AT_count", 0), ("DW_AT_upper_bound", 1)):
            if attribute in child.attributes and isinstance(child.attributes[attribute].value, int):
                count = child.attributes[attribute].value + extra
        found.append(count if 0 <= count < 1 << 32 else 0)
    return tuple(found) or (0,)


def _text(die: Any) -> str:
    value = die.attributes.get("DW_AT_name")
    return value.value.decode(errors="replace") if value is not None else ""
