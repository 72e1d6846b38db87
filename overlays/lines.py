# SPDX-License-Identifier: BSD-3-Clause
"""Source lines from DWARF, one compilation unit at a time.

pyelftools does the reading. A hostile file can make it raise anything, so every error in it means "not known" here.
"""

from __future__ import annotations

import bisect
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.dwarf.descriptions import describe_form_class
from elftools.elf.elffile import ELFFile

from overlays.elf import SHT_SYMTAB, Object


class LineTable:
    """Answers `file:line` for addresses; keeps what it has decoded."""

    def __init__(self, dwarf: Any) -> None:
        self._dwarf = dwarf
        self._units: dict[int, tuple[list[int], list[str | None]]] = {}
        self._ranges: list[tuple[int, int, int]] | None = None  # low, high, offset of the unit

    @classmethod
    def open(cls, path: Path) -> LineTable | None:
        """The table of a linked program, None if it has no DWARF that can be read."""
        try:
            # Kept open: pyelftools reads on demand.
            return cls.of(ELFFile(open(path, "rb")))
        except Exception:
            return None

    @classmethod
    def of(cls, file: ELFFile) -> LineTable | None:
        if not file.has_dwarf_info():
            return None
        return cls(file.get_dwarf_info())

    def find(self, address: int) -> str | None:
        try:
            return self._find(address)
        except Exception:
            return None

    def _find(self, address: int) -> str | None:
        for low, high, offset in self._unit_ranges():
            if low <= address < high:
                starts, places = self._unit(offset)
                index = bisect.bisect_right(starts, address) - 1
                if index >= 0 and (place := places[index]):
                    return place
        return None

    def units(self, address: int | None) -> Iterator[Any]:
        """The compilation units that hold a text address; all of them for None. May raise anything."""
        if address is None:
            yield from self._dwarf.iter_CUs()
            return
        for low, high, offset in self._unit_ranges():
            if low <= address < high:
                yield self._dwarf.get_CU_at(offset)

    def _unit_ranges(self) -> list[tuple[int, int, int]]:
        if self._ranges is None:
            ranges: list[tuple[int, int, int]] = []
            aranges = self._dwarf.get_aranges()
            for entry in aranges.entries if aranges else ():
                ranges.append(
                    (entry.begin_addr, entry.begin_addr + entry.length, entry.info_offset)
                )
            known = {offset for _, _, offset in ranges}
            for (
                unit
            ) in self._dwarf.iter_CUs():  # those that aranges leave out (clang's, assembler's)
                if unit.cu_offset not in known:
                    ranges += [(a, b, unit.cu_offset) for a, b in self._ranges_of(unit)]
            self._ranges = ranges
        return self._ranges

    def _ranges_of(self, unit: Any) -> Iterator[tuple[int, int]]:
        top = unit.get_top_DIE()
        attributes = top.attributes
        low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
        if "DW_AT_ranges" in attributes:
            lists = self._dwarf.range_lists()
            base = low
            for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu=unit):
                if hasattr(entry, "base_address"):
                    base = entry.base_address
                elif getattr(entry, "is_absolute", False):
                    yield entry.begin_offset, entry.end_offset
                else:
                    yield base + entry.begin_offset, base + entry.end_offset
        elif "DW_AT_high_pc" in attributes:
            high = attributes["DW_AT_high_pc"]
            absolute = describe_form_class(high.form) == "address"
            yield low, high.value if absolute else low + high.value

    def _unit(self, offset: int) -> tuple[list[int], list[str | None]]:
        if offset not in self._units:
            unit = self._dwarf.get_CU_at(offset)
            rows: dict[int, str | None] = {}
            for address, place in _line_rows(self._dwarf, unit):
                if place or address not in rows:
                    rows[address] = place
            starts = sorted(rows)
            self._units[offset] = (starts, [rows[a] for a in starts])
        return self._units[offset]


def _file_names(header: Any, directory: str) -> dict[int, str]:
    """Numbers of the line program to names, relative to the compilation's directory where that is possible."""
    base = 0 if header.version >= 5 else 1  # DWARF 5 counts from 0 and lists the directory itself
    directories = [d.decode() for d in header.include_directory]
    if header.version < 5:
        directories.insert(0, "")
    names = {}
    for number, entry in enumerate(header.file_entry, base):
        name = entry.name.decode()
        folder = directories[entry.dir_index] if entry.dir_index < len(directories) else ""
        path = os.path.join(folder, name)
        if directory and path.startswith(directory + "/"):
            path = path[len(directory) + 1 :]
        names[number] = path.removeprefix("./")
    return names


class ObjectLines:
    """Answers `file:line` for a place in a section of a relocatable object, where every section begins at 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._rows: dict[int, list[tuple[int, str | None]]] | None = None

    def find(self, section: int, offset: int) -> str | None:
        try:
            if self._rows is None:
                self._rows = _rows(self._data)
            rows = self._rows.get(section, [])
            index = bisect.bisect_right(rows, offset, key=lambda r: r[0]) - 1
            return rows[index][1] if index >= 0 else None
        except Exception:
            return None


_SHIFT = 40  # bits that a section's offsets have in the addresses we make up


def _rows(data: bytes) -> dict[int, list[tuple[int, str | None]]]:
    """
    Line rows by section.

    All sections of an object begin at address 0, so addresses in its line programs do not tell which is meant. A
    copy in which the symbols of section n begin at n << 40 does.
    """
    obj = Object.parse(data)
    copy = bytearray(data)
    table = next(s for s in obj.sections if s.type == SHT_SYMTAB)
    for symbol in obj.symbols:
        if 0 < symbol.shndx < len(obj.sections) and obj.sections[symbol.shndx].executable:
            value = symbol.shndx << _SHIFT | symbol.value
            struct.pack_into("<Q", copy, table.offset + symbol.index * table.entsize + 8, value)
    file = ELFFile(io.BytesIO(copy))
    dwarf = file.get_dwarf_info()
    rows: dict[int, dict[int, str | None]] = {}
    for unit in dwarf.iter_CUs():
        for address, place in _line_rows(dwarf, unit):
            section = rows.setdefault(address >> _SHIFT, {})
            offset = address & (1 << _SHIFT) - 1
            if place or offset not in section:
                section[offset] = place
    return {index: sorted(places.items()) for index, places in rows.items()}


def _line_rows(dwarf: Any, unit: Any) -> Iterator[tuple[int, str | None]]:
    """Address and `file:line` of each row of a unit's line program; None ends a sequence."""
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return
    top = unit.get_top_DIE().attributes
    directory = top["DW_AT_comp_dir"].value.decode() if "DW_AT_comp_dir" in top else ""
    names = _file_names(program.header, directory)
    for entry in program.get_entries():
        if (state := entry.state) is not None:
            place = f"{names.get(state.file, '?')}:{state.line}"
            yield state.address, None if state.end_sequence else place
