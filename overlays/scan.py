# SPDX-License-Identifier: BSD-3-Clause
"""Look for instructions that an overlay may not have, in everything that will be executable.

Two searches. By bytes, at every offset, for forbidden encodings of several bytes (encodings.py). By disassembly, for
all of them: from the start of each section, from each symbol, from each place that a relocation or a direct branch
names; so what the code can reach without computing an address has been seen as the processor sees it. Bytes that
relocations fill in are unknown here: they must lie in an immediate or a displacement, and the linker looks again when
they are known.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import capstone

from overlays import encodings
from overlays.elf import Object, Reloc, Section, Sym
from overlays.link import RULES

_PORTS = "it talks to devices"
_INTERRUPTS = "it changes whether interrupts come, or waits for one"
_FAR = "it changes segments"
_KERNEL = "it enters or leaves the kernel past the gates"
_SYSTEM = "it changes the state of the processor"
_PKRU = "it changes the rights of the protection domain"

#: mnemonic (as capstone spells it, without rep prefixes) -> why not
FORBIDDEN: dict[str, str] = {
    **dict.fromkeys(("in", "insb", "insw", "insd", "out", "outsb", "outsw", "outsd"), _PORTS),
    **dict.fromkeys(
        ("hlt", "cli", "sti", "popf", "popfd", "popfq", "mwait", "mwaitx", "monitor", "monitorx",
         "stgi", "clgi", "umonitor", "umwait", "tpause", "uiret", "stui", "clui", "senduipi"),
        _INTERRUPTS,
    ),
    **dict.fromkeys(
        ("int", "int1", "into", "iret", "iretd", "iretq", "syscall", "sysenter", "sysret", "sysretq",
         "sysexit", "sysexitq", "vmcall", "vmmcall", "vmlaunch", "vmresume", "vmxon", "vmxoff",
         "vmptrld", "vmptrst", "vmclear", "vmread", "vmwrite", "vmfunc", "vmrun", "vmload", "vmsave",
         "skinit", "encls", "enclu", "enclv", "getsec", "rsm", "invept", "invvpid"),
        _KERNEL,
    ),
    **dict.fromkeys(
        ("lcall", "ljmp", "retf", "retfq", "lss", "lfs", "lgs", "lds", "les"), _FAR
    ),
    **dict.fromkeys(
        ("wrmsr", "rdmsr", "lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "invlpg", "invlpga",
         "invpcid", "invlpgb", "tlbsync", "invd", "wbinvd", "wbnoinvd", "xsetbv", "swapgs",
         "wrfsbase", "wrgsbase", "clac", "stac", "pconfig", "wrussd", "wrussq", "wrssd", "wrssq",
         "setssbsy", "clrssbsy", "rstorssp", "hreset"),
        _SYSTEM,
    ),
    **dict.fromkeys(("wrpkru", "xrstor", "xrstor64", "xrstors", "xrstors64"), _PKRU),
}  # fmt: skip

_SPECIAL = re.compile(r"\b[cd]r\d+\b")  # control and debug registers
_SEGMENT = re.compile(r"(?:[cdefg]s|ss)(?:,|\Z)")  # written by `mov` or `pop`
_BRANCH = re.compile(r"(?:j|call|loop|xbegin)")
_PREFIX = re.compile(r"(?:repn?[ez]?|lock|notrack|bnd|xacquire|xrelease|data16|addr32) ")


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to run an overlay."""

    what: str  # the instruction
    why: str
    section: str
    offset: int  # in the section
    file_offset: int
    symbol: str  # "main+0x12", empty if there is none before it
    source: str | None  # "hello.c:12", where DWARF tells
    aligned: bool  # a real instruction, not bytes inside one

    def __str__(self) -> str:
        hidden = "" if self.aligned else " (in the bytes of other instructions)"
        place = self.symbol or f"{self.section}+{self.offset:#x}"
        line = f", {self.source}" if self.source else ""
        return f"{self.what}{hidden} at {place}{line}: {self.why}"


def scan(data: bytes) -> list[Finding]:
    """All findings of an object without its signature, in file order; raises FormatError."""
    obj = Object.parse(data)
    found: dict[tuple[int, int, str], Finding] = {}
    context = _Context(obj)
    for section in obj.sections:
        if not section.executable:
            continue
        for finding in _Sweep(context, section).findings():
            found.setdefault((section.index, finding.offset, finding.what), finding)
    return [found[key] for key in sorted(found)]


class _Context:
    """What the sections of one object share."""

    def __init__(self, obj: Object) -> None:
        self.obj = obj
        self.starts: dict[int, set[int]] = {}
        self.by_section: dict[int, list[Sym]] = {}
        for symbol in obj.symbols:
            if 0 < symbol.shndx < len(obj.sections) and obj.sections[symbol.shndx].executable:
                self.starts.setdefault(symbol.shndx, set()).add(symbol.value)
                if symbol.name:
                    self.by_section.setdefault(symbol.shndx, []).append(symbol)
        for symbols in self.by_section.values():
            symbols.sort(key=lambda s: s.value)
        for index, entries in obj.relocs.items():
            code = obj.sections[index].executable
            for reloc in entries:
                target = obj.symbols[reloc.sym].shndx
                if 0 < target < len(obj.sections) and obj.sections[target].executable:
                    at = obj.symbols[reloc.sym].value + reloc.addend
                    # A field at the end of its instruction is relative to what follows it.
                    if code and reloc.type in RULES and RULES[reloc.type].relative:
                        at += RULES[reloc.type].width
                    self.starts.setdefault(target, set()).add(at)

    def symbol(self, section: Section, offset: int) -> str:
        symbols = self.by_section.get(section.index, [])
        index = bisect.bisect_right(symbols, offset, key=lambda s: s.value) - 1
        if index < 0:
            return ""
        distance = offset - symbols[index].value
        return f"{symbols[index].name}+{distance:#x}" if distance else symbols[index].name

    @cached_property
    def lines(self) -> Any:
        from overlays.lines import ObjectLines  # noqa: PLC0415  only when there is a finding

        return ObjectLines(self.obj.data)

    def finding(self, section: Section, offset: int, what: str, why: str, aligned: bool) -> Finding:
        return Finding(
            what,
            why,
            section.name,
            offset,
            section.offset + offset,
            self.symbol(section, offset),
            self.lines.find(section.index, offset),
            aligned,
        )


class _Sweep:
    """The disassembly of one section from every place where execution may begin."""

    def __init__(self, context: _Context, section: Section) -> None:
        self.context = context
        self.section = section
        self.code = context.obj.bytes_of(section)
        self.relocs = sorted(context.obj.relocs.get(section.index, []), key=lambda r: r.offset)
        self.seen: set[int] = set()
        self.covered: list[tuple[int, int]] = []
        self.md = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.detail = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.detail.detail = True

    def findings(self) -> Iterator[Finding]:
        for offset, encoding in encodings.find(self._masked()):
            yield self._found(offset, encoding.name, encoding.why, aligned=False)
        todo = [0, *sorted(self.context.starts.get(self.section.index, ()))]
        while todo:
            start = todo.pop()
            if 0 <= start < len(self.code) and start not in self.seen:
                yield from self._sweep(start, todo)

    def _masked(self) -> bytes:
        """The code with what relocations will overwrite made harmless, for the search of bytes."""
        code = bytearray(self.code)
        for reloc in self.relocs:
            width = RULES[reloc.type].width if reloc.type in RULES else 0
            end = min(reloc.offset + width, len(code))
            code[reloc.offset : end] = b"\xcc" * (end - reloc.offset)
        return bytes(code)

    def _sweep(self, start: int, todo: list[int]) -> Iterator[Finding]:
        at = start
        known = [r.offset for r in self.relocs]
        for address, size, mnemonic, operands in self.md.disasm_lite(self.code[start:], start):
            if address in self.seen:
                return
            self.seen.add(address)
            at = address + size
            name = _PREFIX.sub("", mnemonic)
            if why := _reason(name, operands):
                yield self._found(address, f"{mnemonic} {operands}".strip(), why, aligned=True)
            first = bisect.bisect_left(known, address)
            last = bisect.bisect_left(known, at)
            if first != last:
                yield from self._fields(address, size, self.relocs[first:last])
            elif _BRANCH.match(name) and operands.startswith("0x"):
                todo.append(int(operands, 16))
        if at < len(self.code):
            yield self._found(
                at,
                "bytes that are no instruction",
                "executable sections hold code only",
                aligned=True,
            )
            # Go on behind it at the next place where somebody begins; nothing in between can be told.

    def _fields(self, address: int, size: int, relocs: list[Reloc]) -> Iterator[Finding]:
        """Relocations may fill immediates and displacements, never what an instruction is."""
        insn = next(self.detail.disasm(self.code[address : address + size], address, 1))
        allowed: set[int] = set()
        for offset, width in (
            (insn.disp_offset, insn.disp_size),
            (insn.imm_offset, insn.imm_size),
        ):
            if offset:
                allowed.update(range(address + offset, address + offset + width))
        for reloc in relocs:
            width = RULES[reloc.type].width if reloc.type in RULES else 0
            if not allowed.issuperset(range(reloc.offset, reloc.offset + width)):
                yield self._found(
                    reloc.offset,
                    "a relocation of an instruction",
                    "what it will be cannot be told in advance",
                    aligned=True,
                )

    def _found(self, offset: int, what: str, why: str, *, aligned: bool) -> Finding:
        return self.context.finding(self.section, offset, what, why, aligned)


def _reason(name: str, operands: str) -> str:
    if why := FORBIDDEN.get(name):
        return why
    if name == "mov":
        if _SPECIAL.search(operands):
            return _SYSTEM
        if _SEGMENT.match(operands):
            return _FAR
    elif name == "pop" and _SEGMENT.match(operands):
        return _FAR
    return ""
