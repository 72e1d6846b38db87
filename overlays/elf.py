# SPDX-License-Identifier: BSD-3-Clause
"""A strict reader of x86-64 relocatable objects (ET_REL), for files that nobody has vouched for yet.

Every offset, count, index and name is checked before it is used; whatever the bytes are, the only exception is
FormatError. What the sections mean is for scan, link and manifest to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from overlays.errors import FormatError

MAX_FILE = 16 << 20  # bytes of an overlay, signatures included
MAX_SECTIONS = 0xFF00  # more need extended numbering, which no overlay does
MAX_NAME = 4096  # C++ names are long, but not longer

ET_REL = 1
EM_X86_64 = 62

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 1, 2, 3, 4
SHT_NOBITS, SHT_REL = 8, 9
SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY = 14, 15, 16
SHT_SYMTAB_SHNDX = 18

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHF_TLS = 0x400
SHF_COMPRESSED = 0x800

SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2

STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE, STT_COMMON, STT_TLS = range(7)
STT_GNU_IFUNC = 10

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")


@dataclass(frozen=True, slots=True)
class Section:
    index: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int

    @property
    def allocated(self) -> bool:
        return bool(self.flags & SHF_ALLOC)

    @property
    def executable(self) -> bool:
        return bool(self.flags & SHF_EXECINSTR) and self.allocated

    @property
    def writable(self) -> bool:
        return bool(self.flags & SHF_WRITE)


@dataclass(frozen=True, slots=True)
class Sym:
    index: int
    name: str
    bind: int
    type: int
    shndx: int
    value: int
    size: int

    @property
    def undefined(self) -> bool:
        return self.shndx == SHN_UNDEF


@dataclass(frozen=True, slots=True)
class Reloc:
    offset: int
    type: int
    sym: int
    addend: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Object:
    """A parsed relocatable object; the same only as itself."""

    data: bytes
    sections: list[Section]
    symbols: list[Sym]
    relocs: dict[int, list[Reloc]] = field(default_factory=dict)  # of allocated sections

    @classmethod
    def parse(cls, data: bytes) -> Object:
        """Read and check an object; raises FormatError."""
        sections = _sections(data)
        symbols, symtab = _symbols(data, sections)
        relocs = _relocs(data, sections, symbols, symtab)
        return cls(data, sections, symbols, relocs)

    def bytes_of(self, section: Section) -> bytes:
        """A section's bytes in the file; none if it has none there (.bss)."""
        if section.type == SHT_NOBITS:
            return b""
        return self.data[section.offset : section.offset + section.size]

    def section(self, name: str) -> Section | None:
        return next((s for s in self.sections if s.name == name), None)

    def allocated(self) -> Iterator[Section]:
        return (s for s in self.sections if s.allocated)

    def undefined(self) -> list[Sym]:
        """Names the kernel has to supply, in the symbol table's order; GNU ld's own marker is none of them."""
        return [
            s
            for s in self.symbols[1:]
            if s.undefined and s.name and s.name != "_GLOBAL_OFFSET_TABLE_"
        ]


def looks_like_elf(data: bytes) -> bool:
    return data[:4] == b"\x7fELF"


def _sections(data: bytes) -> list[Section]:
    if len(data) > MAX_FILE:
        raise FormatError(f"it has {len(data)} bytes; an overlay has at most {MAX_FILE}")
    if not looks_like_elf(data):
        raise FormatError("it is no ELF file")
    if len(data) < _EHDR.size:
        raise FormatError("the ELF header is cut off")
    ident, e_type, machine, version, _, _, shoff, _, _, _, _, shentsize, shnum, shstrndx = (
        _EHDR.unpack_from(data)
    )
    if ident[4] != 2 or ident[5] != 1 or machine != EM_X86_64:
        raise FormatError("it is not for x86-64 (64 bits, little-endian)")
    if ident[6] != 1 or version != 1:
        raise FormatError("its ELF version is unknown")
    if e_type != ET_REL:
        kind = {2: "a program", 3: "a shared object", 4: "a core dump"}.get(
            e_type, f"of type {e_type}"
        )
        raise FormatError(f"it is {kind}, not a relocatable object")
    if shentsize != _SHDR.size or not 0 < shnum < MAX_SECTIONS:
        raise FormatError("its section table is malformed")
    if shoff < _EHDR.size or shoff + shnum * _SHDR.size > len(data):
        raise FormatError("its section table is outside the file")
    if not 0 < shstrndx < shnum:
        raise FormatError("its section name table does not exist")
    raw = [_SHDR.unpack_from(data, shoff + i * _SHDR.size) for i in range(shnum)]
    names = _strings(data, raw[shstrndx], "section name table")
    sections = []
    for index, (name, type_, flags, _, offset, size, link, info, align, entsize) in enumerate(raw):
        text = _string(names, name, f"the name of section {index}")
        if index == 0:  # reserved; its fields mean nothing without extended numbering
            sections.append(Section(0, "", 0, 0, 0, 0, 0, 0, 0, 0))
            continue
        if type_ != SHT_NOBITS and (offset > len(data) or size > len(data) - offset):
            raise FormatError(f"section {text or index} is outside the file")
        if align & (align - 1):
            raise FormatError(f"section {text or index} has alignment {align}, no power of two")
        if link >= shnum:
            raise FormatError(f"section {text or index} is linked to section {link} of {shnum}")
        sections.append(
            Section(index, text, type_, flags, offset, size, link, info, align or 1, entsize)
        )
    return sections


def _strings(data: bytes, header: tuple[int, ...], what: str) -> bytes:
    type_, offset, size = header[1], header[4], header[5]
    if type_ != SHT_STRTAB or offset > len(data) or size > len(data) - offset:
        raise FormatError(f"its {what} is malformed")
    return data[offset : offset + size]


def _string(table: bytes, offset: int, what: str) -> str:
    end = table.find(b"\0", offset, offset + MAX_NAME) if offset < len(table) else -1
    if end < 0:
        raise FormatError(f"{what} is outside its table, unterminated or too long")
    try:
        return table[offset:end].decode()
    except UnicodeDecodeError:
        raise FormatError(f"{what} is not UTF-8") from None


def _symbols(data: bytes, sections: list[Section]) -> tuple[list[Sym], int]:
    tables = [s for s in sections if s.type == SHT_SYMTAB]
    if len(tables) != 1:
        raise FormatError(f"it has {len(tables)} symbol tables instead of one")
    if any(s.type == SHT_SYMTAB_SHNDX for s in sections):
        raise FormatError("it has extended section numbers, which are not supported")
    table = tables[0]
    if table.entsize != _SYM.size or table.size % _SYM.size or not table.size:
        raise FormatError("its symbol table is malformed")
    strings = sections[table.link]
    if strings.type != SHT_STRTAB:
        raise FormatError("its symbol names are missing")
    names = data[strings.offset : strings.offset + strings.size]
    count = table.size // _SYM.size
    if not 0 < table.info <= count:
        raise FormatError("its symbol table has a wrong count of local symbols")
    symbols = []
    view = memoryview(data)[table.offset : table.offset + table.size]
    for index, (name, info, _, shndx, value, size) in enumerate(_SYM.iter_unpack(view)):
        text = _string(names, name, f"the name of symbol {index}") if name else ""
        if shndx >= len(sections) and shndx not in (SHN_ABS, SHN_COMMON):
            raise FormatError(f"symbol {text or index} is in section {shndx}, which does not exist")
        bind = info >> 4
        if bind != STB_LOCAL and not text and index:
            raise FormatError(f"symbol {index} is global and has no name")
        if 0 < shndx < SHN_LORESERVE and value > sections[shndx].size:
            raise FormatError(f"symbol {text or index} lies behind the end of its section")
        if shndx == SHN_COMMON and (value & (value - 1) or not value):
            raise FormatError(f"common symbol {text} has alignment {value}, no power of two")
        symbols.append(Sym(index, text, bind, info & 15, shndx, value, size))
    return symbols, table.index


def _relocs(
    data: bytes, sections: list[Section], symbols: list[Sym], symtab: int
) -> dict[int, list[Reloc]]:
    found: dict[int, list[Reloc]] = {}
    for section in sections:
        if section.type not in (SHT_RELA, SHT_REL):
            continue
        if not 0 < section.info < len(sections):
            raise FormatError(f"relocations {section.name} are for a section that does not exist")
        target = sections[section.info]
        if not target.allocated:
            continue  # of debugging information: never loaded
        if section.type == SHT_REL:
            raise FormatError(f"relocations {section.name} have no addends; x86-64 uses RELA")
        if section.link != symtab:
            raise FormatError(f"relocations {section.name} refer to no symbol table")
        if section.entsize != _RELA.size or section.size % _RELA.size:
            raise FormatError(f"relocations {section.name} are malformed")
        if section.info in found:
            raise FormatError(f"section {target.name} has two relocation sections")
        view = memoryview(data)[section.offset : section.offset + section.size]
        entries = []
        for offset, info, addend in _RELA.iter_unpack(view):
            if info >> 32 >= len(symbols):
                raise FormatError(
                    f"a relocation of {target.name} names symbol {info >> 32} of {len(symbols)}"
                )
            if offset >= target.size:
                raise FormatError(f"a relocation of {target.name} is outside it, at {offset:#x}")
            entries.append(Reloc(offset, info & 0xFFFFFFFF, info >> 32, addend))
        found[section.info] = entries
    return found
