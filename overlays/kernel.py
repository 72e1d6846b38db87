# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's ELF as overlays see it: symbols by name and by address, build-id, source lines.

Symbols come from `.symtab` in one pass; DWARF is opened only when somebody asks for a source line or a type. The file
belongs to the operator, yet whatever is wrong with it becomes a KernelError.
"""

from __future__ import annotations

import bisect
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overlays import elf
from overlays.errors import KernelError, near

if TYPE_CHECKING:
    from overlays.lines import LineTable

Kind = Literal["function", "object", "other"]

MODULE = ".uio.module."  # a section of this prefix holds a part of libuio that is loaded on demand
OVERRIDE = "uio_libc_"  # a kernel symbol of this prefix wins over the plain name (libuio's API)

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")

_PT_LOAD, _PT_NOTE = 1, 4
_PF_X = 1
_NT_GNU_BUILD_ID = 3
_MAX_TABLE = 256 << 20
_MAX_MODULE = 1 << 20


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of the kernel; addresses are link addresses."""

    name: str
    address: int
    size: int
    kind: Kind
    absolute: bool = False
    thread_local: bool = False
    indirect: bool = False  # STT_GNU_IFUNC


@dataclass(frozen=True)
class Kernel:
    path: Path
    build_id: bytes  # empty if the file has none
    link_base: int
    text: range  # executable
    image: range  # everything that is loaded
    modules: dict[str, bytes] = field(repr=False)  # of libuio, by name: objects for this kernel
    _symtab: bytes = field(repr=False)
    _strtab: bytes = field(repr=False)
    _locals: int = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Kernel:
        """Read a kernel with symbols (the .dbg file of a Unikraft build); raises KernelError."""
        try:
            with open(path, "rb") as file:
                return _read(Path(path), file.fileno())
        except OSError as error:
            raise KernelError(f"{path}: {error.strerror}") from None
        except (struct.error, IndexError, ValueError):
            raise KernelError(
                f"{path}: the ELF file is cut off or damaged", "build or copy it again"
            ) from None

    def lookup(self, name: str) -> Symbol | None:
        """The global symbol of this name."""
        return self.globals.get(name)

    def for_overlay(self, name: str) -> Symbol | None:
        """What an overlay gets that imports this name: libuio's own version first."""
        return self.globals.get(OVERRIDE + name) or self.globals.get(name)

    def nearest(self, address: int) -> tuple[Symbol, int] | None:
        """The symbol (global or local) that holds a link address or precedes it, and the offset into it."""
        addresses, order = self._by_address
        index = bisect.bisect_right(addresses, address) - 1
        if index < 0 or address not in self.image:
            return None
        symbol = self._symbol(order[index])
        return symbol, address - symbol.address

    def near_names(self, name: str, n: int = 3) -> list[str]:
        """Global names like this one, best first."""
        plain = (g.removeprefix(OVERRIDE) for g in self.globals)
        return near(name, dict.fromkeys(plain), n)

    def source(self, address: int) -> str | None:
        """`file:line` of a link address, None without debugging information."""
        return self.lines.find(address) if self.lines else None

    @cached_property
    def lines(self) -> LineTable | None:
        from overlays.lines import LineTable  # noqa: PLC0415  pyelftools is slow to import

        return LineTable.open(self.path)

    @cached_property
    def globals(self) -> dict[str, Symbol]:
        found: dict[str, Symbol] = {}
        weak: dict[str, Symbol] = {}
        first = self._locals * _SYM.size
        for index, fields in enumerate(
            _SYM.iter_unpack(memoryview(self._symtab)[first:]), self._locals
        ):
            name, info, _, shndx, _, _ = fields
            bind = info >> 4
            if shndx == elf.SHN_UNDEF or not name or bind == elf.STB_LOCAL:
                continue
            symbol = self._symbol(index)
            (weak if bind == elf.STB_WEAK else found).setdefault(symbol.name, symbol)
        return {**weak, **found}

    @cached_property
    def _by_address(self) -> tuple[list[int], list[int]]:
        """Addresses, and the index of the best symbol at each: functions and objects, with a size, global."""
        best: dict[int, tuple[int, int]] = {}
        for index, (name, info, _, shndx, value, size) in enumerate(_SYM.iter_unpack(self._symtab)):
            type_ = info & 15
            if shndx in (elf.SHN_UNDEF, elf.SHN_ABS) or not name or type_ > elf.STT_FUNC:
                continue
            rank = 4 * (type_ != elf.STT_NOTYPE) + 2 * (size > 0) + (info >> 4 == elf.STB_GLOBAL)
            if value not in best or best[value][0] < rank:
                best[value] = (rank, index)
        addresses = sorted(best)
        return addresses, [best[a][1] for a in addresses]

    def _symbol(self, index: int) -> Symbol:
        name, info, _, shndx, value, size = _SYM.unpack_from(self._symtab, index * _SYM.size)
        end = self._strtab.index(b"\0", name) if name < len(self._strtab) else name
        text = self._strtab[name:end].decode(errors="replace")
        type_ = info & 15
        indirect = type_ == elf.STT_GNU_IFUNC
        kind: Kind = "other"
        if type_ == elf.STT_FUNC or indirect:
            kind = "function"
        elif type_ in (elf.STT_OBJECT, elf.STT_COMMON):
            kind = "object"
        elif type_ == elf.STT_NOTYPE and shndx != elf.SHN_ABS:  # from assembler: judge by the place
            kind = "function" if value in self.text else "object"
        return Symbol(text, value, size, kind, shndx == elf.SHN_ABS, type_ == elf.STT_TLS, indirect)

    def symbols(self) -> Iterator[Symbol]:
        """All global symbols."""
        return iter(self.globals.values())


def _pread(fd: int, size: int, offset: int) -> bytes:
    if size > _MAX_TABLE or offset >= 1 << 63:
        raise struct.error
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise struct.error
    return data


def _read(path: Path, fd: int) -> Kernel:
    head = os.pread(fd, _EHDR.size, 0)
    if head[:4] != b"\x7fELF":
        raise KernelError(f"{path} is no ELF file", "give the kernel that the linker wrote")
    ident, e_type, machine, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, names = (
        _EHDR.unpack(head)
    )
    if ident[4] != 2 or machine != elf.EM_X86_64:
        raise KernelError(
            f"{path} is not a 64-bit x86-64 file",
            "give the linker's own output, not the 32-bit copy that boot loaders want",
        )
    if e_type not in (2, 3) or phsize != _PHDR.size:
        raise KernelError(f"{path} is no linked program", "give the kernel, not one of its objects")
    loads = []
    notes = []
    for fields in _PHDR.iter_unpack(_pread(fd, phnum * _PHDR.size, phoff)):
        type_, flags, offset, vaddr, _, filesz, memsz, _ = fields
        if type_ == _PT_LOAD and memsz:
            loads.append((vaddr, memsz, flags))
        elif type_ == _PT_NOTE:
            notes.append((offset, filesz))
    if not loads:
        raise KernelError(f"{path} has nothing to load", "give the kernel itself")
    sections = []
    if shnum and shsize == _SHDR.size:
        sections = list(_SHDR.iter_unpack(_pread(fd, shnum * _SHDR.size, shoff)))
    table = next((s for s in sections if s[1] == elf.SHT_SYMTAB), None)
    if table is None or not table[5]:
        raise KernelError(
            f"{path} has no symbols",
            "give the file from before stripping; Unikraft writes it beside the kernel as NAME.dbg",
        )
    notes += [(s[4], s[5]) for s in sections if s[1] == 7]
    strings = sections[table[6]]
    executable = [(v, v + m) for v, m, f in loads if f & _PF_X]
    if len(executable) == 0:
        raise KernelError(f"{path} has no executable segment", "give the kernel itself")
    if table[5] % _SYM.size:
        raise struct.error
    text = _sections_text(sections) or range(
        min(a for a, _ in executable), max(b for _, b in executable)
    )
    return Kernel(
        path=path,
        build_id=_build_id(fd, notes),
        link_base=loads[0][0],
        text=text,
        image=range(min(v for v, _, _ in loads), max(v + m for v, m, _ in loads)),
        modules=_modules(fd, sections, sections[names]),
        _symtab=_pread(fd, table[5], table[4]),
        _strtab=_pread(fd, strings[5], strings[4]),
        _locals=min(table[7], table[5] // _SYM.size),
    )


def _sections_text(sections: list[tuple[int, ...]]) -> range | None:
    """The span of executable sections: tighter than segments where a kernel has a single one with all rights."""
    spans = [
        (s[3], s[3] + s[5])
        for s in sections
        if s[1] == elf.SHT_PROGBITS and s[2] & elf.SHF_ALLOC and s[2] & elf.SHF_EXECINSTR and s[5]
    ]
    if not spans:
        return None
    return range(min(a for a, _ in spans), max(b for _, b in spans))


def _modules(fd: int, sections: list[tuple[int, ...]], names: tuple[int, ...]) -> dict[str, bytes]:
    table = _pread(fd, names[5], names[4])
    found = {}
    for section in sections:
        name = table[section[0] : table.index(b"\0", section[0])].decode(errors="replace")
        if name.startswith(MODULE) and section[1] == elf.SHT_PROGBITS:
            if section[5] > _MAX_MODULE:
                raise struct.error
            found[name.removeprefix(MODULE)] = _pread(fd, section[5], section[4])
    return found


def _build_id(fd: int, notes: list[tuple[int, int]]) -> bytes:
    for offset, size in notes:
        if size > 1 << 20:
            continue
        data = _pread(fd, size, offset)
        at = 0
        while at + _NOTE.size <= size:
            namesz, descsz, type_ = _NOTE.unpack_from(data, at)
            name = at + _NOTE.size
            desc = name + (namesz + 3 & ~3)
            if desc + descsz > size:
                break
            if type_ == _NT_GNU_BUILD_ID and data[name : name + namesz] == b"GNU\0":
                return data[desc : desc + descsz]
            at = desc + (descsz + 3 & ~3)
    return b""
