# SPDX-License-Identifier: BSD-3-Clause
"""Link an overlay against a running kernel on the host: the image of docs/protocol.md §5, ready to be mapped.

Layout: one segment each of code (r-x), constants (r--) and data (rw-), page aligned. Every name the kernel supplies
has an 8-byte slot in the constants, which the guest fills; a function is reached only through its slot (by a stub that
jumps through it), so that the guest can put a gate there. The same overlay, kernel and place give the same bytes.
"""

from __future__ import annotations

import re
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

from overlays import callable as border
from overlays import elf, encodings, manifest
from overlays.elf import Object, Reloc, Section, Sym
from overlays.errors import LinkError, UnluckyPlace, did_you_mean, near
from overlays.kernel import Kernel, Symbol
from overlays.overlay import Overlay

PAGE = 4096
MAX_IMAGE = 64 << 20  # bytes of address space
MAGIC = b"\x00uIOIMG1"
BUILD_ID_BYTES = 20

PROT_R, PROT_W, PROT_X = 1, 2, 4
KIND_FUNCTION, KIND_OBJECT, KIND_BACK, KIND_UNGATED = 1, 2, 3, 4

_HEADER = struct.Struct("<8s32s20sIQQIIII64s32s")
_SEGMENT = struct.Struct("<IIII")
_IMPORT = struct.Struct("<QII")

STUB = 8  # bytes: jmp *slot(%rip), and two of padding
ENTRY = 16  # bytes: lea function(%rip), %r11; jmp *slot(%rip), and padding
_STUB_UD2 = b"\x0f\x0b" + b"\xcc" * 6  # for a weak function that the kernel does not have

R_NONE, R_64, R_PC32, R_PLT32, R_GOTPCREL, R_32, R_32S, R_PC64, R_GOTPCRELX, R_REX_GOTPCRELX = (
    0, 1, 2, 4, 9, 10, 11, 24, 41, 42,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """How one relocation type is computed: S symbol, A addend, P place, G slot."""

    name: str
    width: int
    relative: bool  # minus P
    slot: bool  # G instead of S
    signed: bool


RULES = {
    R_64: Rule("R_X86_64_64", 8, relative=False, slot=False, signed=False),
    R_PC64: Rule("R_X86_64_PC64", 8, relative=True, slot=False, signed=True),
    R_32: Rule("R_X86_64_32", 4, relative=False, slot=False, signed=False),
    R_32S: Rule("R_X86_64_32S", 4, relative=False, slot=False, signed=True),
    R_PC32: Rule("R_X86_64_PC32", 4, relative=True, slot=False, signed=True),
    R_PLT32: Rule("R_X86_64_PLT32", 4, relative=True, slot=False, signed=True),
    R_GOTPCREL: Rule("R_X86_64_GOTPCREL", 4, relative=True, slot=True, signed=True),
    R_GOTPCRELX: Rule("R_X86_64_GOTPCRELX", 4, relative=True, slot=True, signed=True),
    R_REX_GOTPCRELX: Rule("R_X86_64_REX_GOTPCRELX", 4, relative=True, slot=True, signed=True),
}

_OTHER_TYPES = {
    3: "R_X86_64_GOT32", 12: "R_X86_64_16", 13: "R_X86_64_PC16", 14: "R_X86_64_8", 15: "R_X86_64_PC8",
    17: "R_X86_64_DTPOFF64", 18: "R_X86_64_TPOFF64", 19: "R_X86_64_TLSGD", 20: "R_X86_64_TLSLD",
    21: "R_X86_64_DTPOFF32", 22: "R_X86_64_GOTTPOFF", 23: "R_X86_64_TPOFF32", 25: "R_X86_64_GOTOFF64",
    26: "R_X86_64_GOTPC32", 27: "R_X86_64_GOT64", 28: "R_X86_64_GOTPCREL64", 29: "R_X86_64_GOTPC64",
    31: "R_X86_64_PLTOFF64",
}  # fmt: skip
_TLS_TYPES = range(16, 24)


@dataclass(slots=True)
class Segment:
    prot: int
    offset: int = 0
    file_size: int = 0
    mem_size: int = 0


@dataclass(slots=True)
class Layout:
    """Where everything goes, relative to the base; independent of the kernel."""

    segments: list[Segment] = field(default_factory=list)
    size: int = 0
    sections: dict[int, int] = field(default_factory=dict)  # section index -> offset
    commons: dict[int, int] = field(default_factory=dict)  # symbol index -> offset
    slots: dict[int, int] = field(default_factory=dict)  # symbol index -> offset of its slot
    stubs: dict[int, int] = field(default_factory=dict)  # symbol index -> offset of its stub
    entries: dict[border.Place, int] = field(default_factory=dict)  # own function -> offset of its
    back: int = 0  # offset of the slot that the entries jump through


def image_size(overlay: Overlay) -> int:
    """Bytes of address space the overlay takes, a multiple of the page size; raises LinkError."""
    return layout(overlay.object).size


def imports(obj: Object) -> list[Sym]:
    """The undefined symbols that loaded code or data refers to, in the symbol table's order."""
    used = {r.sym for entries in obj.relocs.values() for r in entries}
    return [s for s in obj.undefined() if s.index in used and s.name not in _OWN]


_SHIFTS = 8  # layouts that are tried until no displacement forms a forbidden instruction
_OWN = ("__dso_handle",)  # names the linker itself defines: the base of the image


#: what was found for objects that are still in use: linking again for another place is common
_layouts: weakref.WeakKeyDictionary[Object, Layout] = weakref.WeakKeyDictionary()
_checked: weakref.WeakSet[Object] = weakref.WeakSet()


def layout(obj: Object) -> Layout:
    """Place the sections; raises LinkError where the guest would refuse the object anyway."""
    if (known := _layouts.get(obj)) is None:
        known = _layouts[obj] = _layout(obj)
    return known


def _layout(obj: Object, shift: int = 0) -> Layout:
    # The stubs lie `shift` times 16 bytes behind the code.
    out = Layout()
    groups: dict[int, list[Section]] = {PROT_R | PROT_X: [], PROT_R: [], PROT_R | PROT_W: []}
    for section in obj.allocated():
        groups[_prot(section)].append(section)
    imported = imports(obj)
    slotted = {
        r.sym
        for entries in obj.relocs.values()
        for r in entries
        if r.type in RULES and RULES[r.type].slot
    }
    slotted.update(s.index for s in imported)
    direct = {
        r.sym
        for entries in obj.relocs.values()
        for r in entries
        if r.type in RULES and not RULES[r.type].slot
    }
    handed_out = border.taken(obj)
    end = 0
    for prot, sections in groups.items():
        segment = Segment(prot, end)
        at = end
        sections.sort(key=lambda s: s.type == elf.SHT_NOBITS)  # stable: zeroes go last
        filled = end  # up to here the segment has bytes in the image
        for section in sections:
            at = _aligned(at, section.align)
            out.sections[section.index] = at
            at = _bounded(at + section.size)
            if section.type != elf.SHT_NOBITS:
                filled = at
        if prot & PROT_X:
            at = _aligned(at, 16) + 16 * shift
            for symbol in imported:
                if symbol.index in direct:
                    out.stubs[symbol.index] = at
                    at = _bounded(at + STUB)
            at = _aligned(at, ENTRY) if handed_out else at
            for place in handed_out:
                out.entries[place] = at
                at = _bounded(at + ENTRY)
        elif prot == PROT_R and (slotted or handed_out):
            at = _aligned(at, 8)
            if handed_out:
                out.back = at
                at = _bounded(at + 8)
            for index in sorted(slotted):
                out.slots[index] = at
                at = _bounded(at + 8)
        segment.file_size = (filled if prot & PROT_W else at) - end
        for symbol in obj.symbols if prot & PROT_W else ():
            if symbol.shndx == elf.SHN_COMMON:
                if symbol.value > PAGE:
                    raise LinkError(f"{symbol.name} wants to be aligned to {symbol.value} bytes")
                at = _aligned(at, symbol.value)
                out.commons[symbol.index] = at
                at = _bounded(at + symbol.size)
        segment.mem_size = at - end
        if segment.mem_size:
            out.segments.append(segment)
            end = _aligned(at, PAGE)
    out.size = end
    if not end:
        raise LinkError("it has neither code nor data")
    return out


def _prot(section: Section) -> int:
    if section.flags & elf.SHF_TLS:
        raise LinkError(
            f"section {section.name} holds thread-local variables, which overlays cannot have",
            "make them static",
        )
    if section.flags & elf.SHF_COMPRESSED:
        raise LinkError(f"section {section.name} is compressed and to be loaded")
    if section.executable and section.writable:
        raise LinkError(f"section {section.name} is writable and executable")
    if section.executable and section.type == elf.SHT_NOBITS:
        raise LinkError(f"section {section.name} is executable and has no content")
    if section.type == elf.SHT_PREINIT_ARRAY:
        raise LinkError(f"section {section.name} is for whole programs only")
    if section.align > PAGE:
        raise LinkError(f"section {section.name} wants to be aligned to {section.align} bytes")
    return PROT_R | (PROT_X if section.executable else PROT_W if section.writable else 0)


def _aligned(at: int, align: int) -> int:
    return (at + align - 1) & -align


def _bounded(at: int) -> int:
    if at > MAX_IMAGE:
        raise LinkError(f"it needs more than {MAX_IMAGE >> 20} MiB of memory")
    return at


def entry(obj: Object) -> Sym:
    """The global function `main`; raises LinkError."""
    for symbol in obj.symbols:
        if symbol.name == "main" and symbol.bind != elf.STB_LOCAL and not symbol.undefined:
            if symbol.shndx >= elf.SHN_LORESERVE or not obj.sections[symbol.shndx].executable:
                raise LinkError("its main is no function")
            return symbol
    names = [s.name for s in obj.symbols if s.type == elf.STT_FUNC and s.name]
    raise LinkError(
        "it has no main",
        did_you_mean(near("main", names, 1))
        or 'in C++ it is a function like in C; in Rust, #[no_mangle] pub extern "C"',
    )


def resolve(overlay: Overlay, kernel: Kernel) -> dict[int, Symbol | None]:
    """
    The kernel's symbol for each import; None for weak ones it does not have.

    :raise LinkError: names that are missing, not allowed, or of a kind that cannot be imported; all of them at once.
    """
    found: dict[int, Symbol | None] = {}
    problems: list[str] = []
    hints: list[str] = []
    wanted = list(imports(overlay.object))
    allowed = overlay.manifest.allowed(symbol.name for symbol in wanted)
    for symbol in wanted:
        name = symbol.name
        target = kernel.for_overlay(name)
        if name not in allowed:
            problems.append(f"{name} is not among the imports of its manifest")
        elif target is None and symbol.bind == elf.STB_WEAK:
            found[symbol.index] = None
        elif target is None:
            problems.append(f"the kernel has no {name}")
            if hint := did_you_mean(kernel.near_names(name)):
                hints.append(f"{name}: {hint}")
        elif why := _unfit(target, kernel):
            problems.append(f"{name} {why}")
        else:
            found[symbol.index] = target
    if problems:
        raise LinkError("; ".join(problems), "\n".join(hints))
    return found


def _unfit(target: Symbol, kernel: Kernel) -> str:
    if target.thread_local:
        return "is thread-local in the kernel, which overlays cannot reach"
    if target.indirect:
        return "is chosen at the kernel's start (ifunc), which overlays cannot call"
    if target.absolute or target.kind == "other":
        return "is no function or variable of the kernel"
    if target.kind == "function" and target.address not in kernel.text:
        return "is a function outside the kernel's text"
    if target.address not in kernel.image:
        return "lies outside the kernel's image"
    return ""


def link(overlay: Overlay, kernel: Kernel, *, slide: int, base: int) -> bytes:
    """
    The image of an overlay for one kernel and one place.

    :param slide: run-time minus link-time address of the kernel's symbols.
    :param base: where the guest will map the image; a multiple of the page size.
    :raise LinkError: the overlay does not fit the kernel, or cannot reach it from this base.
    """
    if base % PAGE or not 0 < base < 1 << 47:
        raise LinkError(f"an image cannot be at {base:#x}")
    if len(kernel.build_id) != BUILD_ID_BYTES:
        raise LinkError(
            f"{kernel.path} has no SHA-1 build-id, so nothing proves that it is the running kernel",
            "link the kernel with -Wl,--build-id=sha1",
        )
    plan = layout(overlay.object)
    for shift in range(1, _SHIFTS):
        try:
            return _Linker(overlay, kernel, slide, base, plan).image()
        except UnluckyPlace:
            other = _layout(overlay.object, shift)
            if other.size != plan.size:
                raise
            plan = other
    return _Linker(overlay, kernel, slide, base, plan).image()


class _Linker:
    """One run of link()."""

    def __init__(
        self, overlay: Overlay, kernel: Kernel, slide: int, base: int, plan: Layout
    ) -> None:
        self.overlay = overlay
        self.kernel = kernel
        self.slide = slide
        self.base = base
        self.obj = overlay.object
        self.plan = plan
        self.targets = resolve(overlay, kernel)
        self.memory = bytearray(self.plan.size)

    def image(self) -> bytes:
        check(self.obj)
        main = entry(self.obj)
        for index, offset in self.plan.sections.items():
            content = self.obj.bytes_of(self.obj.sections[index])
            self.memory[offset : offset + len(content)] = content
        self._stubs()
        for index, entries in self.obj.relocs.items():
            section = self.obj.sections[index]
            for reloc in entries:
                self._apply(section, reloc)
        for index, slot in self.plan.slots.items():
            if index not in self.targets:  # the overlay's own symbol
                symbol = self.obj.symbols[index]
                entry_ = self.plan.entries.get((symbol.shndx, symbol.value))
                self._put(slot, self._address(symbol) if entry_ is None else self.base + entry_, 8)
        self._scan()
        init = self._functions(elf.SHT_INIT_ARRAY)
        fini = self._functions(elf.SHT_FINI_ARRAY)
        table = [
            (target.address + self.slide & 0xFFFF_FFFF_FFFF_FFFF, self.plan.slots[index],
             self._kind(self.obj.symbols[index].name, target))
            for index, target in self.targets.items()
            if target is not None
        ]  # fmt: skip
        if self.plan.entries:
            table.append((0, self.plan.back, KIND_BACK))
        return b"".join(
            [
                _HEADER.pack(
                    MAGIC,
                    self.overlay.hash,
                    self.kernel.build_id,
                    self.plan.size,
                    self.base,
                    self._address(main),
                    len(self.plan.segments),
                    len(table),
                    len(init),
                    len(fini),
                    self.overlay.name.encode(),
                    manifest.policy(self.overlay.manifest),
                ),
                *(
                    _SEGMENT.pack(s.offset, s.file_size, s.mem_size, s.prot)
                    for s in self.plan.segments
                ),
                *(_IMPORT.pack(*row) for row in table),
                struct.pack(f"<{len(init) + len(fini)}Q", *init, *fini),
                *(self.memory[s.offset : s.offset + s.file_size] for s in self.plan.segments),
            ]
        )

    def _stubs(self) -> None:
        for index, offset in self.plan.stubs.items():
            if self.targets[index] is None:
                code = _STUB_UD2
            else:
                distance = self.plan.slots[index] - (offset + 6)
                code = b"\xff\x25" + distance.to_bytes(4, "little", signed=True) + b"\x66\x90"
            self.memory[offset : offset + STUB] = code
        for (section, value), offset in self.plan.entries.items():
            function = self.plan.sections[section] + value
            code = b"\x4c\x8d\x1d" + (function - offset - 7).to_bytes(4, "little", signed=True)
            code += b"\xff\x25" + (self.plan.back - offset - 13).to_bytes(4, "little", signed=True)
            self.memory[offset : offset + ENTRY] = code + b"\xcc" * 3

    def _kind(self, name: str, target: Symbol) -> int:
        if target.kind != "function":
            return KIND_OBJECT
        # What libuio has in place of a function of the C library is never pure.
        ours = target.name != name
        ungated = not ours and border.is_ungated(name, self.overlay.manifest.app)
        return KIND_UNGATED if ungated else KIND_FUNCTION

    def _address(self, symbol: Sym) -> int:
        """S: what a reference to the symbol means at run time."""
        if symbol.undefined:
            return self._imported(symbol)
        if symbol.shndx == elf.SHN_ABS:
            return symbol.value
        if symbol.shndx == elf.SHN_COMMON:
            return self.base + self.plan.commons[symbol.index]
        if why := _unusable(self.obj, symbol):
            raise LinkError(why)
        return self.base + self.plan.sections[symbol.shndx] + symbol.value

    def _imported(self, symbol: Sym) -> int:
        if symbol.name in _OWN:
            return self.base
        if symbol.index not in self.targets:
            if symbol.index == 0:
                return 0  # a relocation without a symbol
            raise LinkError(f"{symbol.name} cannot be supplied to an overlay")
        target = self.targets[symbol.index]
        if target is None:
            return 0
        if target.kind == "function":
            return self.base + self.plan.stubs[symbol.index]
        return target.address + self.slide

    def _apply(self, section: Section, reloc: Reloc) -> None:
        if reloc.type == R_NONE:
            return
        symbol = self.obj.symbols[reloc.sym]
        rule = RULES.get(reloc.type)
        if rule is None:
            raise LinkError(_unsupported(section, reloc, symbol))
        if reloc.offset + rule.width > section.size:
            raise LinkError(f"a relocation reaches over the end of section {section.name}")
        offset = self.plan.sections[section.index] + reloc.offset
        place = border.place_of(self.obj, section, reloc)
        if rule.slot:
            value = self.base + self.plan.slots[reloc.sym]
        elif place in self.plan.entries:
            # In `lea` the addend counts from the end of the field.
            value = self.base + self.plan.entries[place] - (4 if rule.relative else 0)
            value -= reloc.addend
        elif (
            reloc.type == R_PLT32
            and symbol.index in self.targets
            and not self.targets[symbol.index]
        ):
            value = self.base + self.plan.stubs[symbol.index]  # a call that must not happen
        else:
            value = self._address(symbol)
        value += reloc.addend - (self.base + offset if rule.relative else 0)
        if rule.width == 4:
            wrapped = value & 0xFFFF_FFFF_FFFF_FFFF
            if rule.signed and wrapped >> 63:
                wrapped -= 1 << 64
            low, high = (-(1 << 31), 1 << 31) if rule.signed else (0, 1 << 32)
            if not low <= wrapped < high:
                raise LinkError(
                    f"{symbol.name or section.name} is out of reach for {rule.name} at {section.name}+"
                    f"{reloc.offset:#x}: base {self.base:#x}, kernel {self.kernel.link_base + self.slide:#x}",
                    "the arena must lie within 2 GiB of the kernel, below 2 GiB for code built without -fpic",
                )
        self._put(offset, value, rule.width)

    def _put(self, offset: int, value: int, width: int) -> None:
        mask = (1 << 8 * width) - 1
        self.memory[offset : offset + width] = (value & mask).to_bytes(width, "little")

    def _executable(self) -> Iterator[Segment]:
        return (s for s in self.plan.segments if s.prot & PROT_X)

    def _scan(self) -> None:
        """Forbidden instructions that only the relocated bytes make up; scan.py has seen the others."""
        for segment in self._executable():
            code = bytes(self.memory[segment.offset : segment.offset + segment.file_size])
            for offset, encoding in encodings.find(code):
                raise UnluckyPlace(
                    f"linked at {self.base:#x}, it holds {encoding.name} at {segment.offset + offset:#x}: "
                    f"{encoding.why}",
                    "if only relocated bytes form it, another base avoids it",
                )

    def _functions(self, type_: int) -> list[int]:
        """The entries of .init_array or .fini_array in the order of the array; fini runs backwards."""
        sections = [
            s for s in self.obj.sections if s.type == type_ and s.index in self.plan.sections
        ]
        sections.sort(key=_priority)
        addresses: list[int] = []
        for section in sections:
            if section.size % 8:
                raise LinkError(f"section {section.name} is no array of functions")
            offset = self.plan.sections[section.index]
            addresses += struct.unpack_from(f"<{section.size // 8}Q", self.memory, offset)
        for address in addresses:
            at = address - self.base
            if not any(s.offset <= at < s.offset + s.file_size for s in self._executable()):
                raise LinkError(
                    f"a constructor or destructor is no code of the overlay: {address:#x}"
                )
        return addresses


def _unusable(obj: Object, symbol: Sym) -> str:
    """Why loaded code cannot refer to a symbol of the overlay itself; empty if it can."""
    if symbol.type == elf.STT_TLS:
        return f"{symbol.name} is thread-local, which overlays cannot have"
    if symbol.type == elf.STT_GNU_IFUNC:
        return f"{symbol.name} is an indirect function, which overlays cannot have"
    if 0 < symbol.shndx < elf.SHN_LORESERVE and not obj.sections[symbol.shndx].allocated:
        name = symbol.name or obj.sections[symbol.shndx].name
        return f"{name} is used by loaded code but lies in a section that is not loaded"
    return ""


def _priority(section: Section) -> int:
    match = re.search(r"\.(\d{1,9})\Z", section.name)
    return int(match[1]) if match else 65536


def _unsupported(section: Section, reloc: Reloc, symbol: Sym) -> str:
    name = _OTHER_TYPES.get(reloc.type, f"type {reloc.type}")
    what = f"relocation {name} of {symbol.name or 'a section'} at {section.name}+{reloc.offset:#x}"
    if reloc.type in _TLS_TYPES:
        return f"{what}: thread-local variables are not possible in overlays"
    return f"{what} is not supported; build with the flags of `uioctl overlay build`"


def check(obj: Object) -> None:
    """Everything link() refuses that does not depend on the kernel or the place; raises LinkError."""
    if obj in _checked:
        return
    layout(obj)
    entry(obj)
    for index, entries in obj.relocs.items():
        section = obj.sections[index]
        if entries and section.type == elf.SHT_NOBITS:
            raise LinkError(f"section {section.name} has relocations and no content")
        for reloc in entries:
            symbol = obj.symbols[reloc.sym]
            if why := _unusable(obj, symbol):
                raise LinkError(why)
            if reloc.type != R_NONE and reloc.type not in RULES:
                raise LinkError(_unsupported(section, reloc, symbol))
            if reloc.type in RULES and reloc.offset + RULES[reloc.type].width > section.size:
                raise LinkError(f"a relocation reaches over the end of section {section.name}")
    _checked.add(obj)
