# SPDX-License-Identifier: BSD-3-Clause
"""Arguments and structures of the application, from its DWARF, read only as far as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.elf.elffile import ELFFile

from overlays.bpf.model import BpfError
from overlays.bpf.trace.types import CType

_REGISTERS = 6  # of integer arguments in the System V ABI
_ENCODING_BOOLEAN, _ENCODING_FLOAT, _ENCODINGS_SIGNED = 2, 4, (5, 6, 13)
_THROUGH = {f"DW_TAG_{tag}_type" for tag in ("const", "volatile", "restrict", "atomic")} | {
    "DW_TAG_typedef"
}
_VOID = CType("void", 0, name="void")


class DwarfTypes:
    """The types of one kernel file.

    :param address_of: the address of a function, to find its part of the file at once.
    """

    def __init__(self, path: Path, address_of: Callable[[str], int | None] | None = None) -> None:
        try:
            self._file = path.open("rb")
            elf = ELFFile(self._file)
            self._dwarf: Any = elf.get_dwarf_info() if elf.has_dwarf_info() else None
        except (OSError, ELFError, DWARFError) as error:
            raise BpfError(f"cannot read debugging information from {path}: {error}") from error
        self._address_of = address_of
        self._functions: dict[str, Any] = {}
        self._types: dict[int, CType] = {}

    def close(self) -> None:
        self._file.close()

    # ---- functions

    def arguments(self, function: str) -> dict[str, tuple[int, CType]]:
        die = self._function(function)
        found: dict[str, tuple[int, CType]] = {}
        register = 0
        for child in die.iter_children() if die is not None else ():
            if child.tag != "DW_TAG_formal_parameter":
                continue
            ctype = self._type_of(child)
            name = self._name(child)
            if ctype.kind in ("int", "pointer"):
                if name and register < _REGISTERS:
                    found[name] = (register, ctype)
                register += 1
            elif ctype.kind == "struct" and ctype.size <= 16:
                register += (ctype.size + 7) // 8
        return found

    def result(self, function: str) -> CType | None:
        die = self._function(function)
        return self._type_of(die) if die is not None and "DW_AT_type" in die.attributes else None

    def _units(self, function: str) -> Iterator[Any]:
        """The compilation units in which a function may be, the likely one first."""
        address = self._address_of(function) if self._address_of is not None else None
        ranges = self._dwarf.get_aranges() if address is not None else None
        offset = ranges.cu_offset_at_addr(address) if ranges is not None else None
        if offset is not None:
            yield self._dwarf.get_CU_at(offset)
        for unit in self._dwarf.iter_CUs():
            if unit.cu_offset != offset:
                yield unit

    def _function(self, function: str) -> Any:
        if self._dwarf is None:
            return None
        if function not in self._functions:
            try:
                self._functions[function] = self._find(function)
            except (DWARFError, ELFError, KeyError, ValueError) as error:
                raise BpfError(
                    f"the debugging information on {function} is damaged: {error}"
                ) from error
        return self._functions[function]

    def _find(self, function: str) -> Any:
        for unit in self._units(function):
            for die in unit.get_top_DIE().iter_children():
                is_definition = "DW_AT_declaration" not in die.attributes
                if die.tag == "DW_TAG_subprogram" and is_definition and self._name(die) == function:
                    return die
        return None

    # ---- types

    @staticmethod
    def _name(die: Any) -> str:
        name = die.attributes.get("DW_AT_name")
        if name is None and "DW_AT_specification" in die.attributes:
            name = die.get_DIE_from_attribute("DW_AT_specification").attributes.get("DW_AT_name")
        return name.value.decode("utf-8", "replace") if name is not None else ""

    def _type_of(self, die: Any) -> CType:
        for _ in range(64):
            if "DW_AT_type" not in die.attributes:
                return _VOID
            die = die.get_DIE_from_attribute("DW_AT_type")
            if die.tag not in _THROUGH:
                return self._ctype(die)
        raise BpfError("a type in the debugging information refers to itself")

    def _ctype(self, die: Any) -> CType:
        if die.offset not in self._types:
            self._types[die.offset] = self._made(die)
        return self._types[die.offset]

    def _made(self, die: Any) -> CType:
        size_attribute = die.attributes.get("DW_AT_byte_size")
        size = int(size_attribute.value) if size_attribute is not None else 0
        name = self._name(die)
        if die.tag == "DW_TAG_base_type":
            encoding = die.attributes["DW_AT_encoding"].value
            if encoding == _ENCODING_FLOAT or size > 8:
                return CType("float", size, True, name)
            return CType("int", size, encoding in _ENCODINGS_SIGNED, name)
        if die.tag == "DW_TAG_enumeration_type":
            return CType("int", size, False, f"enum {name}")
        if die.tag == "DW_TAG_pointer_type":
            return CType("pointer", 8, False, "pointer", lambda: self._type_of(die))
        if die.tag == "DW_TAG_array_type":
            element = self._type_of(die)
            return CType("array", element.size * self._count(die), False, name, lambda: element)
        if die.tag in ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type"):
            return CType("struct", size, False, f"struct {name}", None, lambda: self._members(die))
        return CType("void", size, False, name)

    @staticmethod
    def _count(die: Any) -> int:
        count = 1
        for child in die.iter_children():
            if child.tag != "DW_TAG_subrange_type":
                continue
            for name, extra in (("DW_AT_count", 0), ("DW_AT_upper_bound", 1)):
                attribute = child.attributes.get(name)
                if attribute is not None and isinstance(attribute.value, int):
                    count *= attribute.value + extra
                    break
            else:
                return 0
        return count

    def _members(self, die: Any, depth: int = 0) -> dict[str, tuple[int, CType]]:
        found: dict[str, tuple[int, CType]] = {}
        for child in die.iter_children():
            if child.tag != "DW_TAG_member" or "DW_AT_bit_size" in child.attributes:
                continue
            location = child.attributes.get("DW_AT_data_member_location")
            if location is not None and not isinstance(location.value, int):
                continue
            offset = location.value if location is not None else 0
            ctype = self._type_of(child)
            name = self._name(child)
            if name:
                found[name] = (offset, ctype)
            elif ctype.members is not None and depth < 8:
                for inner, (inner_offset, inner_type) in ctype.members().items():
                    found.setdefault(inner, (offset + inner_offset, inner_type))
        return found
