# SPDX-License-Identifier: BSD-3-Clause
"""The text of a kernel: what its file says, and whether that is what a running machine has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from overlays.bpf.functions import BEFORE


class Image:
    """What is in the kernel's file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.text = {
                section["sh_addr"]: section.data()
                for section in elf.iter_sections("SHT_PROGBITS")
                if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
            }
            symtab: Any = elf.get_section_by_name(".symtab")
            table = list(symtab.iter_symbols())
        self.symbols = {s.name: s["st_value"] for s in table}
        self.functions = [
            range(s["st_value"] - BEFORE, s["st_value"] + s["st_size"])
            for s in table
            if s["st_info"]["type"] == "STT_FUNC"
        ]

    def changed(self, read: Callable[[int, int], bytes]) -> list[int]:
        """Addresses at which the text of the machine, whose memory that reads, is not the file's."""
        places: list[int] = []
        for start, text in self.text.items():
            pairs = enumerate(zip(read(start, len(text)), text, strict=True))
            places += [start + i for i, (a, b) in pairs if a != b]
        if "KERNEL" in os.environ:
            # Unikraft's first page tables and descriptors lie in the text, and change by themselves.
            places = [a for a in places if any(a in function for function in self.functions)]
        return places
