# SPDX-License-Identifier: BSD-3-Clause
"""The functions of a kernel: which of them programs can be attached to, and why not to the others.

The compiler writes where it left room into the section __patchable_function_entries; nothing is ever searched for in
the text.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from overlays.bpf.model import BpfError, Object
from overlays.errors import did_you_mean, near

SECTION = "__patchable_function_entries"
BEFORE = 5  # bytes of room before a function, where its site is


class Functions:
    """:raise BpfError: the file is no ELF with symbols."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                symbols: Any = elf.get_section_by_name(".symtab")
                table = elf.get_section_by_name(SECTION)
                if symbols is None:
                    raise BpfError(
                        f"{path} has no symbols", "give the ELF with symbols: [vm] symbols"
                    )
                data = table.data() if table is not None else b""
                self.sites = {
                    site for (site,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8])
                }
                self.addresses: dict[str, int] = {}  # of all functions, by name
                local: dict[str, list[int]] = {}
                for symbol in symbols.iter_symbols():
                    if symbol["st_info"]["type"] != "STT_FUNC" or symbol["st_shndx"] == "SHN_UNDEF":
                        continue
                    if symbol["st_info"]["bind"] == "STB_LOCAL":
                        local.setdefault(symbol.name, []).append(symbol["st_value"])
                    else:
                        self.addresses[symbol.name] = symbol["st_value"]
        except (OSError, ELFError) as error:
            raise BpfError(f"cannot read {path}: {error}") from error
        self.several: set[str] = set()  # names that several functions have
        for name, places in local.items():
            if name in self.addresses:
                continue
            room = [place for place in places if place - BEFORE in self.sites]
            if len(places) > 1 and len(room) != 1:
                self.several.add(name)
            self.addresses[name] = (room or places)[0]

    @cached_property
    def names(self) -> list[str]:
        """Those that can be attached to."""
        return sorted(
            name
            for name, address in self.addresses.items()
            if address - BEFORE in self.sites and name not in self.several
        )

    def matching(self, pattern: str) -> list[str]:
        if not any(c in pattern for c in "*?["):
            return [pattern] if pattern in self.addresses else []
        return fnmatch.filter(self.names, pattern)

    def find(self, name: str) -> int:
        """The link address of a function that can be attached to.

        :raise BpfError: with the reason why there is none
        """
        if name not in self.addresses:
            hint = did_you_mean(near(name, self.names or self.addresses))
            raise BpfError(
                f"there is no function {name} in {self.path.name}; a static one may be part of its callers",
                hint,
            )
        if name in self.several:
            raise BpfError(f"{self.path.name} has several functions {name}, of different files")
        address = self.addresses[name]
        if not self.sites:
            raise BpfError(
                f"{self.path.name} has no function with room for programs",
                "compile the application with -fpatchable-function-entry=7,5",
            )
        if address - BEFORE not in self.sites:
            raise BpfError(
                f"{name} was compiled without room for programs (-fpatchable-function-entry=7,5), like all of the C"
                " library, the kernel and libuio",
                "`uioctl trace -l VM` lists the functions that can be traced",
            )
        return address


def places(obj: Object, functions: Functions | None, slide: int = 0) -> list[tuple[int, int]]:
    """Where the programs of an object are attached: number and address; 0 for timers, none for exec programs.

    :raise BpfError: a function cannot be attached to
    """
    found: list[tuple[int, int]] = []
    for number, program in enumerate(obj.programs):
        kind = program.kind.name
        if kind == "TIMER":
            found.append((number, 0))
        elif kind in ("ENTRY", "RETURN"):
            if functions is None:
                raise BpfError("functions can be found only with the kernel's symbols")
            found += [
                (number, functions.find(name) + slide) for name in _named(program.target, functions)
            ]
    return found


def _named(target: str, functions: Functions) -> Iterable[str]:
    if not any(c in target for c in "*?["):
        return [target]
    found = functions.matching(target)
    if not found:
        raise BpfError(f"no function that can be attached to matches {target}")
    return found
