# SPDX-License-Identifier: BSD-3-Clause
"""Compare what an overlay declares with what the kernel defines, by the DWARF of both.

A wrong extern declaration compiles and links, and then passes garbage at run time. Compared is what decides how values
travel: the number of parameters, and the class and size of each type; not signedness, not what pointers point to.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

from overlays import link
from overlays.errors import OverlayError
from overlays.kernel import Kernel
from overlays.overlay import Overlay

_TRANSPARENT = {
    "DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type",
    "DW_TAG_atomic_type",
}  # fmt: skip
_POINTERS = {
    "DW_TAG_pointer_type": "*", "DW_TAG_reference_type": "&", "DW_TAG_rvalue_reference_type": "&&",
}  # fmt: skip
_AGGREGATES = {
    "DW_TAG_structure_type": "struct", "DW_TAG_class_type": "class", "DW_TAG_union_type": "union",
}  # fmt: skip
_FLOATS = {4, 3, 0x0F}  # DW_ATE_float, complex, decimal
_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """How a value travels: its class, its size (None: not known), and how the source spells it."""

    kind: str  # void, integer, float, pointer, aggregate, array, function
    size: int | None
    text: str

    def fits(self, other: Shape) -> bool:
        if self.kind != other.kind:
            return False
        return self.size is None or other.size is None or self.size == other.size


@dataclass(frozen=True, slots=True)
class Declaration:
    """A function or a variable."""

    name: str
    result: Shape  # or the variable's type
    parameters: tuple[Shape, ...] | None  # None: a variable, or () of old C
    variadic: bool
    function: bool

    def fits(self, other: Declaration) -> bool:
        if self.function != other.function or not self.result.fits(other.result):
            return False
        if self.parameters is None or other.parameters is None:
            return True
        return (
            self.variadic == other.variadic
            and len(self.parameters) == len(other.parameters)
            and all(a.fits(b) for a, b in zip(self.parameters, other.parameters, strict=True))
        )

    def __str__(self) -> str:
        space = "" if self.result.text.endswith("*") else " "
        if not self.function:
            return f"{self.result.text}{space}{self.name}"
        inside = [p.text for p in self.parameters or ()] + ["..."] * self.variadic
        listed = ", ".join(inside) or ("void" if self.parameters is not None else "")
        return f"{self.result.text}{space}{self.name}({listed})"


def compare(overlay: Overlay, kernel: Kernel) -> tuple[list[str], list[str]]:
    """
    Mismatches, each a sentence with both declarations, and warnings about what could not be compared.

    Imports for which either side has no DWARF are passed over.
    """
    try:
        targets = link.resolve(overlay, kernel)
        names = {overlay.object.symbols[i].name: t for i, t in targets.items() if t}
        here = dict(_declared(overlay.elf, set(names)))
    except OverlayError:
        raise
    except Exception as error:
        return [], [f"the overlay's debugging information cannot be read: {error}"]
    mismatches: list[str] = []
    for name, declaration in sorted(here.items()):
        target = names[name]
        try:
            there = _defined(kernel, target.name, target.address, target.kind == "function")
        except Exception as error:
            return mismatches, [f"the kernel's debugging information cannot be read: {error}"]
        if there and not declaration.fits(there):
            where = kernel.source(target.address) if target.kind == "function" else None
            mismatches.append(
                f"{name}: declared as `{declaration}`, but the kernel has `{there}`"
                + (f" ({where})" if where else "")
            )
    return mismatches, []


def _declared(data: bytes, names: set[str]) -> Iterator[tuple[str, Declaration]]:
    """The overlay's external declarations of these names."""
    file = ELFFile(io.BytesIO(data))
    if not file.has_dwarf_info():
        return
    for unit in file.get_dwarf_info().iter_CUs():
        for die in unit.get_top_DIE().iter_children():
            if "DW_AT_declaration" not in die.attributes:
                continue
            name = _text(die, "DW_AT_linkage_name") or _text(die, "DW_AT_name")
            if name in names and not _text(die, "DW_AT_name").startswith("__builtin_"):
                declaration = _declaration(die, name)
                if declaration:
                    yield name, declaration


def _defined(kernel: Kernel, name: str, address: int, function: bool) -> Declaration | None:
    """The kernel's definition of a symbol."""
    if kernel.lines is None:
        return None
    units = kernel.lines.units(address if function else None)
    for unit in units:
        for die in unit.get_top_DIE().iter_children():
            if die.tag != ("DW_TAG_subprogram" if function else "DW_TAG_variable"):
                continue
            if "DW_AT_declaration" in die.attributes or "DW_AT_external" not in die.attributes:
                continue
            if name in (_text(die, "DW_AT_linkage_name"), _text(die, "DW_AT_name")):
                return _declaration(die, name)
    return None


def _declaration(die: Any, name: str) -> Declaration | None:
    if die.tag == "DW_TAG_variable":
        return Declaration(name, _shape(die), None, variadic=False, function=False)
    if die.tag != "DW_TAG_subprogram":
        return None
    children = list(die.iter_children())
    parameters = tuple(_shape(c) for c in children if c.tag == "DW_TAG_formal_parameter")
    variadic = any(c.tag == "DW_TAG_unspecified_parameters" for c in children)
    known = "DW_AT_prototyped" in die.attributes or bool(parameters)
    return Declaration(name, _shape(die), parameters if known else None, variadic, function=True)


def _shape(die: Any, depth: int = 0) -> Shape:
    """The type that a DIE refers to."""
    if "DW_AT_type" not in die.attributes or depth > _DEPTH:
        return Shape("void", 0, "void")
    return _of_type(die.get_DIE_from_attribute("DW_AT_type"), depth + 1)


def _of_type(die: Any, depth: int) -> Shape:
    tag = die.tag
    name = _text(die, "DW_AT_name")
    size = die.attributes["DW_AT_byte_size"].value if "DW_AT_byte_size" in die.attributes else None
    if tag in _TRANSPARENT:
        inner = _shape(die, depth)
        if tag == "DW_TAG_const_type":
            text = f"{inner.text} const" if inner.kind == "pointer" else f"const {inner.text}"
        else:
            text = name if tag == "DW_TAG_typedef" else inner.text
        return Shape(inner.kind, inner.size, text)
    if tag in _POINTERS:
        target = _shape(die, depth)
        star = _POINTERS[tag]
        return Shape("pointer", 8, target.text + ("" if target.text.endswith("*") else " ") + star)
    if tag == "DW_TAG_base_type":
        encoding = die.attributes["DW_AT_encoding"].value
        return Shape("float" if encoding in _FLOATS else "integer", size, name)
    if tag == "DW_TAG_enumeration_type":
        return Shape("integer", size, f"enum {name}" if name else "enum")
    if tag in _AGGREGATES:
        return Shape("aggregate", size, f"{_AGGREGATES[tag]} {name}".rstrip())
    if tag == "DW_TAG_array_type":
        element = _shape(die, depth)
        count = _count(die)
        total = None if count is None or element.size is None else count * element.size
        return Shape("array", total, f"{element.text}[{'' if count is None else count}]")
    if tag == "DW_TAG_subroutine_type":
        inside = ", ".join(
            _shape(c, depth).text for c in die.iter_children() if c.tag == "DW_TAG_formal_parameter"
        )
        return Shape("function", None, f"{_shape(die, depth).text}({inside})")
    return Shape(tag, size, name or tag)


def _count(die: Any) -> int | None:
    total = 1
    for child in die.iter_children():
        attributes = child.attributes
        if "DW_AT_count" in attributes:
            total *= attributes["DW_AT_count"].value
        elif "DW_AT_upper_bound" in attributes:
            total *= attributes["DW_AT_upper_bound"].value + 1
        else:
            return None  # extern int table[];
    return total


def _text(die: Any, attribute: str) -> str:
    value = die.attributes.get(attribute)
    return value.value.decode(errors="replace") if value is not None else ""
