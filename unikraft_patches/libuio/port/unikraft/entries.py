# SPDX-License-Identifier: BSD-3-Clause
"""Makes the tables of traceable functions in object files of libraries independent of the code they describe.

The compiler ties its table to a section of code by SHF_LINK_ORDER; GCC before 13 ties that of a whole file to one
function. A linker that drops dead code then drops all of the table with that function, or keeps every function that is
in the table. Without the tie, under a name of debugging information (Makefile.build), the table neither keeps nor
follows anything.

    entries.py OBJECT...
"""

import struct
import sys

SECTION = b".debug_uio_entries"
SHF_LINK_ORDER = 0x80

# Offsets in the headers of ELF64.
E_SHOFF, E_SHENTSIZE = 0x28, 0x3A
SH_FLAGS, SH_OFFSET, SH_LINK = 0x08, 0x18, 0x28


def untie(path: str) -> None:
    with open(path, "r+b") as file:
        elf = bytearray(file.read())
        if elf[:5] != b"\x7fELF\x02":
            raise SystemExit(f"{path}: not a 64-bit ELF file")
        (start,) = struct.unpack_from("<Q", elf, E_SHOFF)
        size, count, names = struct.unpack_from("<HHH", elf, E_SHENTSIZE)
        if count == 0 or names == 0xFFFF:  # the real numbers are in the first header
            (count,) = struct.unpack_from("<Q", elf, start + 0x20)
            (names,) = struct.unpack_from("<I", elf, start + SH_LINK)
        (strings,) = struct.unpack_from("<Q", elf, start + names * size + SH_OFFSET)
        for header in range(start, start + count * size, size):
            name = strings + struct.unpack_from("<I", elf, header)[0]
            (flags,) = struct.unpack_from("<Q", elf, header + SH_FLAGS)
            if elf[name : name + len(SECTION) + 1] == SECTION + b"\0" and flags & SHF_LINK_ORDER:
                struct.pack_into("<Q", elf, header + SH_FLAGS, flags & ~SHF_LINK_ORDER)
                struct.pack_into("<I", elf, header + SH_LINK, 0)
        file.seek(0)
        file.write(elf)


for argument in sys.argv[1:]:
    untie(argument)
