# SPDX-License-Identifier: BSD-3-Clause
"""Types in the trace language: of values, of maps, and of the application's C."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

STRING_SIZE = 64  # bytes of a string, with its NUL
COMM_SIZE = 16  # of a thread's name


class Kind(enum.Enum):
    """What a value of 8 bytes means, or that it is a string."""

    INT = "int"
    ADDRESS = "address"  # shown as a symbol
    STACK = "stack"  # an id in the map of stacks
    STRING = "string"


@dataclass(frozen=True, slots=True)
class CType:
    """A type of the application: int, pointer, struct, array, or none of them (void)."""

    kind: str
    size: int
    signed: bool = False
    name: str = ""
    target: Callable[[], CType] | None = None  # of pointers and arrays
    members: Callable[[], dict[str, tuple[int, CType]]] | None = None  # name: offset, type


@dataclass(frozen=True, slots=True)
class Value:
    kind: Kind
    size: int = 8
    ctype: CType | None = None


INT = Value(Kind.INT)

_NAMED = {
    "char": (1, True),
    "short": (2, True),
    "int": (4, True),
    "long": (8, True),
    "size_t": (8, False),
    **{
        f"{u}int{8 * n}{t}": (n, not u) for u in ("", "u") for n in (1, 2, 4, 8) for t in ("", "_t")
    },
}


def named(name: str, stars: int = 0) -> CType:
    """A type that is written in a cast."""
    if name in _NAMED:
        size, signed = _NAMED[name]
    else:  # unsigned char, …
        size, signed = _NAMED[name.removeprefix("u")][0], False
    found = CType("int", size, signed, name)
    for _ in range(stars):
        found = pointer_to(found)
    return found


def pointer_to(target: CType) -> CType:
    return CType("pointer", 8, False, f"{target.name} *", lambda: target)


class Types(Protocol):
    """What the trace language asks of the application's debugging information."""

    def arguments(self, function: str) -> dict[str, tuple[int, CType]]:
        """Position and type of each named argument; empty if nothing is known."""

    def result(self, function: str) -> CType | None: ...


class MapKind(enum.Enum):
    """What is done with a map."""

    VALUE = "value"
    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    HIST = "hist"
    LHIST = "lhist"


# Slots of a histogram by powers of two: 0, then 1, 2..3, 4..7, …, and one for negative numbers.
HIST_SLOTS, HIST_NEGATIVE = 66, 65


@dataclass(slots=True)
class TraceMap:
    """An @name: what its keys and values are."""

    name: str
    kind: MapKind | None = None
    keys: list[Value] | None = None
    value: Value = INT
    index: int = 0  # in the object
    bounds: tuple[int, int, int] = (0, 0, 0)  # of lhist: least, most, step

    @property
    def is_histogram(self) -> bool:
        return self.kind in (MapKind.HIST, MapKind.LHIST)

    @property
    def slots(self) -> int:
        if self.kind is MapKind.HIST:
            return HIST_SLOTS
        least, most, step = self.bounds
        return (most - least + step - 1) // step + 2

    @property
    def key_size(self) -> int:
        return sum(key.size for key in self.keys or []) + (8 if self.is_histogram else 0)

    @property
    def value_size(self) -> int:
        if self.kind in (MapKind.AVG, MapKind.MIN, MapKind.MAX):
            return 16
        return self.value.size


@dataclass(slots=True)
class Format:
    """A printf: its text and what its arguments are."""

    text: str
    args: list[Value] = field(default_factory=list)
