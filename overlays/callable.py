# SPDX-License-Identifier: BSD-3-Clause
"""Who calls whom over the border of the protection domain: functions of the kernel that need no gate, and functions of
the overlay that somebody else may be given to call.

A reference to such a function of the overlay leads to a stub (`lea function(%rip), %r11; jmp *slot(%rip)`), by which a
caller from outside comes in with the overlay's rights. Calls and jumps inside the overlay stay as they are.
"""

from __future__ import annotations

from overlays import elf
from overlays.elf import Object, Reloc, Section

R_64, R_PC32, R_GOTPCREL, R_32, R_32S, R_GOTPCRELX, R_REX_GOTPCRELX = 1, 2, 9, 10, 11, 41, 42

#: a function of the overlay: section index and offset in it
Place = tuple[int, int]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: They touch nothing but what they are given, so they may run in the overlay's own rights: then they are faster, and
#: a wrong pointer or length harms only the overlay. setjmp and longjmp move on the overlay's own stack.
PURE = _names(
    """
    memcpy memmove memset memcmp memchr memrchr mempcpy memccpy memmem explicit_bzero bcmp bcopy bzero
    strlen strnlen strcmp strncmp strcasecmp strncasecmp strcpy strncpy stpcpy stpncpy strcat strncat strlcpy strlcat
    strchr strrchr strchrnul strstr strcasestr strspn strcspn strpbrk strsep strtok_r
    qsort qsort_r bsearch abs labs llabs div ldiv lldiv ffs ffsl ffsll
    isascii toascii setjmp _setjmp longjmp _longjmp
    __memcpy_chk __memmove_chk __memset_chk __strcpy_chk __strcat_chk __strncpy_chk
    """
)
#: These look at the C library's data too (the locale), which `app = "none"` forbids.
PURE_READING = _names(
    """
    snprintf vsnprintf sprintf vsprintf sscanf vsscanf rand_r
    isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct isspace isupper isxdigit tolower toupper
    """
)


def is_ungated(name: str, app: str) -> bool:
    """Whether an overlay calls this function of the kernel directly, in its own rights."""
    return name in PURE or (app == "read" and name in PURE_READING)


def functions(obj: Object) -> frozenset[Place]:
    """Where the overlay's functions begin; assembler code does not always say what is one."""
    return frozenset(
        (s.shndx, s.value)
        for s in obj.symbols
        if 0 < s.shndx < elf.SHN_LORESERVE
        and obj.sections[s.shndx].executable
        and obj.sections[s.shndx].allocated
        and (s.type == elf.STT_FUNC or (s.type == elf.STT_NOTYPE and s.bind != elf.STB_LOCAL))
    )


def taken(obj: Object) -> list[Place]:
    """The functions whose address is taken, in order."""
    known = functions(obj)
    found = set()
    for index, entries in obj.relocs.items():
        section = obj.sections[index]
        for reloc in entries:
            if (place := place_of(obj, section, reloc)) in known:
                found.add(place)
    return sorted(p for p in found if p is not None)


def place_of(obj: Object, section: Section, reloc: Reloc) -> Place | None:
    """What a relocation that takes an address refers to; None: it is a call, a jump, data of a table for the start."""
    symbol = obj.symbols[reloc.sym]
    if not 0 < symbol.shndx < elf.SHN_LORESERVE:
        return None
    if section.type in (elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY):
        return None
    if reloc.type in (R_64, R_32, R_32S):
        return symbol.shndx, symbol.value + reloc.addend
    if reloc.type == R_PC32 and _is_lea(obj, section, reloc.offset):
        return symbol.shndx, symbol.value + reloc.addend + 4
    if reloc.type in (R_GOTPCREL, R_GOTPCRELX, R_REX_GOTPCRELX):
        return symbol.shndx, symbol.value
    return None


def _is_lea(obj: Object, section: Section, offset: int) -> bool:
    """`lea symbol(%rip), %register`: nothing else with a PC-relative field takes an address."""
    if not section.executable or offset < 2:
        return False
    opcode, modrm = obj.bytes_of(section)[offset - 2 : offset]
    return opcode == 0x8D and modrm & 0xC7 == 0x05
