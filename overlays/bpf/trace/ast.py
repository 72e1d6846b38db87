# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a trace expression. `at` is the position in the text, for messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlays.bpf.model import BpfError


class TraceError(BpfError):
    """The expression is not of the language, or asks for what cannot be; the message shows where."""


@dataclass(slots=True)
class Number:
    at: int
    value: int


@dataclass(slots=True)
class String:
    at: int
    value: str


@dataclass(slots=True)
class Name:
    """A builtin: arg0, tid, comm, …"""

    at: int
    name: str


@dataclass(slots=True)
class Variable:
    """$name: of one run of one probe."""

    at: int
    name: str


@dataclass(slots=True)
class MapRef:
    """@name[keys]"""

    at: int
    name: str
    keys: list[Expr] = field(default_factory=list)


@dataclass(slots=True)
class Unary:
    at: int
    op: str  # - ! ~ *
    operand: Expr


@dataclass(slots=True)
class Binary:
    at: int
    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Ternary:
    at: int
    condition: Expr
    yes: Expr
    no: Expr


@dataclass(slots=True)
class Cast:
    """(uint32_t)x, or (uint32_t *)x with stars = 1"""

    at: int
    type: str
    stars: int
    operand: Expr


@dataclass(slots=True)
class Member:
    """x->name, x.name"""

    at: int
    operand: Expr
    name: str
    arrow: bool


@dataclass(slots=True)
class Call:
    at: int
    name: str
    args: list[Expr]


Expr = Number | String | Name | Variable | MapRef | Unary | Binary | Ternary | Cast | Member | Call


@dataclass(slots=True)
class Assign:
    """target op value; op is =, +=, …"""

    at: int
    target: Variable | MapRef
    op: str
    value: Expr


@dataclass(slots=True)
class Do:
    """A call for its effect."""

    at: int
    call: Call


@dataclass(slots=True)
class If:
    at: int
    condition: Expr
    yes: list[Statement]
    no: list[Statement]


Statement = Assign | Do | If


@dataclass(slots=True)
class Attach:
    at: int
    kind: str  # entry, return, interval, BEGIN, END
    target: str  # function pattern, or period


@dataclass(slots=True)
class Probe:
    attach: list[Attach]
    filter: Expr | None
    body: list[Statement]
