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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from overlays import encodings
from overlays.disasm import Disassembler
from overlays.elf import STT_FUNC, Object, Reloc, Sym
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
_TARGET = re.compile(r"(?:0x[0-9a-f]+|\d+)\Z")
_ADDRESS = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
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
    """Findings in an object without its signature, in file order, at most about MAX_FINDINGS; raises FormatError."""
    obj = Object.parse(data)
    with Disassembler() as disassembler:
        return _Scan(obj, disassembler).run()


class _Scan:
    """The disassembly of all executable sections from every place where execution may begin."""

    def __init__(self, obj: Object, disassembler: Disassembler) -> None:
        self.obj = obj
        self.md = disassembler
        self.code = {s.index: obj.bytes_of(s) for s in obj.sections if s.executable}
        self.relocs = {i: sorted(obj.relocs.get(i, ()), key=lambda r: r.offset) for i in self.code}
        self.reloc_offsets = {i: [r.offset for r in rs] for i, rs in self.relocs.items()}
        self.seen: dict[int, set[int]] = {i: set() for i in self.code}
        self.findings: dict[tuple[int, int], Finding] = {}
        self.spans: dict[int, list[range]] = {
            i: [] for i in self.code
        }  # of findings by disassembly
        self.todo: list[tuple[int, int]] = []

    def run(self) -> list[Finding]:
        for symbol in self.obj.symbols:
            self._enter(symbol.shndx, symbol.value)
        for index, entries in self.obj.relocs.items():
            if (
                index not in self.code
            ):  # pointers to code in data; those in code are seen on the way
                for reloc in entries:
                    # A distance (a jump table of position independent code) is from who knows where.
                    if reloc.type in RULES and not RULES[reloc.type].relative:
                        self._points_to(reloc, 0)
        for index in self.code:
            self._enter(index, 0)
        while self.todo and len(self.findings) < MAX_FINDINGS:
            index, start = self.todo.pop()
            if start not in self.seen[index]:
                self._sweep(index, start)
        for index in self.code:
            self._search(index)
        return [self.findings[key] for key in sorted(self.findings)]

    def _enter(self, index: int, offset: int) -> None:
        if index in self.code and 0 <= offset < len(self.code[index]):
            self.todo.append((index, offset))

    def _points_to(self, reloc: Reloc, distance: int) -> None:
        symbol = self.obj.symbols[reloc.sym]
        self._enter(symbol.shndx, symbol.value + reloc.addend + distance)

    def _sweep(self, index: int, at: int) -> None:
        """Disassemble from a place to the end, or to where that has been done already."""
        code, seen = self.code[index], self.seen[index]
        while at < len(code):
            end = at + _WINDOW
            before = at
            for address, size, mnemonic, operands in self.md.instructions(code[at:end], at):
                if address in seen or len(self.findings) >= MAX_FINDINGS:
                    return
                if address + _LONGEST > end < len(code):
                    break  # it may be cut off here; the next window has all of it
                seen.add(address)
                at = address + size
                self._instruction(index, address, size, mnemonic, operands)
            if at == before:
                # What follows, up to the next place where execution may begin, cannot be told.
                self._found(
                    index, at, "bytes that are no instruction", "executable sections hold code only"
                )
                return

    def _instruction(
        self, index: int, address: int, size: int, mnemonic: str, operands: str
    ) -> None:
        name = _PREFIX.sub("", mnemonic)
        if why := _reason(name, operands):
            self._found(index, address, f"{mnemonic} {operands}".strip(), why)
            self.spans[index].append(range(address, address + size))
        offsets = self.reloc_offsets[index]
        first = bisect.bisect_left(offsets, address)
        last = bisect.bisect_left(offsets, address + size)
        if first != last:
            for reloc in self.relocs[index][first:last]:
                self._field(index, address, size, reloc)
        elif _BRANCH.match(name) and _TARGET.match(operands):
            self._enter(index, int(operands, 0))
        elif name == "lea" and (match := _ADDRESS.search(operands)):
            distance = int(match[2], 0) * (-1 if match[1] == "-" else 1)
            self._enter(index, address + size + distance)

    def _field(self, index: int, address: int, size: int, reloc: Reloc) -> None:
        """A relocation may fill an immediate or a displacement, never decide what an instruction is."""
        rule = RULES.get(reloc.type)
        at = reloc.offset - address
        if rule is None or at + rule.width > size:
            self._found(index, reloc.offset, *_UNTOLD)
            return
        self._points_to(reloc, size - at if rule.relative else 0)
        plain = self.code[index][address : address + size]
        decoded = set()
        for filling in _FILLINGS:
            changed = plain[:at] + filling[: rule.width] + plain[at + rule.width :]
            first = next(self.md.instructions(changed, 0, 1), (0, 0, "", ""))
            decoded.add((first[1], first[2], _NUMBER.sub("", first[3]).replace(" ", "")))
        if len(decoded) != 1 or decoded.pop()[0] != size:
            self._found(index, reloc.offset, *_UNTOLD)

    def _search(self, index: int) -> None:
        """Forbidden encodings at any offset, but for bytes that relocations will overwrite."""
        code = bytearray(self.code[index])
        for reloc in self.relocs[index]:
            width = RULES[reloc.type].width if reloc.type in RULES else 0
            end = min(reloc.offset + width, len(code))
            code[reloc.offset : end] = b"\xcc" * (end - reloc.offset)
        for offset, encoding in encodings.find(bytes(code)):
            if len(self.findings) >= MAX_FINDINGS:
                return
            if not any(offset in span for span in self.spans[index]):
                self._found(index, offset, encoding.name, encoding.why, aligned=False)

    def _found(self, index: int, offset: int, what: str, why: str, aligned: bool = True) -> None:
        section = self.obj.sections[index]
        self.findings.setdefault(
            (index, offset),
            Finding(
                what,
                why,
                section.name,
                offset,
                section.offset + offset,
                self._place(index, offset),
                self.lines.find(index, offset),
                aligned,
            ),
        )

    def _place(self, index: int, offset: int) -> str:
        symbols = self._by_section.get(index, [])
        at = bisect.bisect_right(symbols, offset, key=lambda s: s.value) - 1
        if at < 0:
            return ""
        distance = offset - symbols[at].value
        return f"{symbols[at].name}+{distance:#x}" if distance else symbols[at].name

    @cached_property
    def _by_section(self) -> dict[int, list[Sym]]:
        found: dict[int, list[Sym]] = {}
        for symbol in self.obj.symbols:
            if symbol.shndx in self.code and symbol.name:
                found.setdefault(symbol.shndx, []).append(symbol)
        for symbols in found.values():
            symbols.sort(key=lambda s: (s.value, s.type == STT_FUNC))
        return found

    @cached_property
    def lines(self) -> Any:
        from overlays.lines import ObjectLines  # noqa: PLC0415  slow to import, and rarely needed

        return ObjectLines(self.obj.data)


_WINDOW = 1024  # bytes given to the disassembler at once
_LONGEST = 15  # bytes an instruction can have
MAX_FINDINGS = 200  # a file with more is not worth the time

#: what a relocated field may become, to see whether it changes more than a number
_FILLINGS = (bytes(8), b"\xff" * 8, b"\x55" * 8, b"\xaa" * 8, bytes.fromhex("0f01ef900f01ef90"),
             bytes.fromhex("24c0040c663b8101"))  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]\s*(?:0x[0-9a-f]+|\d+)\b|-?\b(?:0x[0-9a-f]+|\d+)\b")
_UNTOLD = ("a relocation of an instruction", "what it will be cannot be told in advance")


def _reason(name: str, operands: str) -> str:
    if why := FORBIDDEN.get(name):
        return why
    if name == "mov":
        if _SPECIAL.search(operands):
            return _SYSTEM
        if _SEGMENT.match(operands):
            return _FAR
    elif (name in ("call", "jmp") and operands.startswith("ptr ")) or (
        name == "pop" and _SEGMENT.match(operands)
    ):  # a far one has no size
        return _FAR
    return ""
