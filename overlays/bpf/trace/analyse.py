# SPDX-License-Identifier: BSD-3-Clause
"""What each @map is: its kind, the types of its keys and its value, from all places that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlays.bpf.trace.ast import (
    Assign,
    Binary,
    Call,
    Cast,
    Do,
    Expr,
    If,
    MapRef,
    Member,
    Name,
    Number,
    Probe,
    Statement,
    Ternary,
    TraceError,
    Unary,
    Variable,
)  # fmt: skip
from overlays.bpf.trace.types import STRING_SIZE, Kind, MapKind, TraceMap, Value

AGGREGATES = {kind.value: kind for kind in MapKind if kind is not MapKind.VALUE}
_WHOLE = ("print", "clear", "zero")  # take a map without keys


def children(expr: Expr) -> list[Expr]:
    match expr:
        case MapRef():
            return expr.keys
        case Unary() | Cast() | Member():
            return [expr.operand]
        case Binary():
            return [expr.left, expr.right]
        case Ternary():
            return [expr.condition, expr.yes, expr.no]
        case Call():
            return expr.args
        case _:
            return []


def walk(expr: Expr) -> Iterator[Expr]:
    yield expr
    for child in children(expr):
        yield from walk(child)


def statements(body: list[Statement]) -> Iterator[Statement]:
    for statement in body:
        yield statement
        if isinstance(statement, If):
            yield from statements(statement.yes)
            yield from statements(statement.no)


def expressions(probe: Probe) -> Iterator[Expr]:
    """All of a probe, targets of assignments included; whole maps in print() and the like are not."""
    if probe.filter is not None:
        yield from walk(probe.filter)
    for statement in statements(probe.body):
        match statement:
            case Assign():
                yield from walk(statement.target)
                yield from walk(statement.value)
            case Do(call=call):
                whole = call.name in _WHOLE and call.args and isinstance(call.args[0], MapRef)
                for argument in call.args[1:] if whole else call.args:
                    yield from walk(argument)
            case If():
                yield from walk(statement.condition)


def uses(probe: Probe, name: str) -> bool:
    """Whether a builtin occurs."""
    return any(isinstance(expr, Name) and expr.name == name for expr in expressions(probe))


def variables(probe: Probe) -> list[Assign]:
    """The first assignment to each $variable."""
    found: dict[str, Assign] = {}
    for statement in statements(probe.body):
        if isinstance(statement, Assign) and isinstance(statement.target, Variable):
            found.setdefault(statement.target.name, statement)
    return list(found.values())


class Analysis:
    """Collects over all probes; `fail` makes an error with its place."""

    def __init__(self, fail: Callable[[int, str], TraceError]) -> None:
        self.fail = fail
        self.maps: dict[str, TraceMap] = {}

    def use(self, ref: MapRef, type_of: Callable[[Expr], Value]) -> TraceMap:
        """One place where a map is used with its keys."""
        m = self.maps.setdefault(ref.name, TraceMap(ref.name))
        keys = [self.key(type_of(key)) for key in ref.keys]
        if m.keys is None:
            m.keys = keys
        if len(keys) != len(m.keys):
            raise self.fail(
                ref.at, f"{ref.name} has {len(m.keys)} keys elsewhere and {len(keys)} here"
            )
        for number, (old, new) in enumerate(zip(m.keys, keys, strict=True)):
            if (old.kind is Kind.STRING) != (new.kind is Kind.STRING):
                raise self.fail(
                    ref.at,
                    f"key {number + 1} of {ref.name} is a string here or there, but not in both",
                )
            m.keys[number] = new if new.size > old.size else old
        return m

    def key(self, value: Value) -> Value:
        if value.kind is not Kind.STRING:
            return Value(value.kind)
        # A literal may be compared with any other string later.
        size = 16 if value.size <= 16 else STRING_SIZE
        return Value(Kind.STRING, size)

    def set_kind(self, m: TraceMap, kind: MapKind, at: int) -> None:
        if m.kind is not None and m.kind is not kind:
            raise self.fail(
                at, f"{m.name} is used as {m.kind.value} elsewhere and as {kind.value} here"
            )
        m.kind = kind

    def assign(self, statement: Assign, type_of: Callable[[Expr], Value]) -> None:
        target = statement.target
        if not isinstance(target, MapRef):
            return
        m = self.use(target, type_of)
        value = statement.value
        if isinstance(value, Call) and value.name in AGGREGATES:
            if statement.op != "=":
                raise self.fail(statement.at, f"{value.name}() is assigned with =")
            kind = AGGREGATES[value.name]
            self.set_kind(m, kind, value.at)
            self.arguments(m, kind, value)
            return
        self.set_kind(m, MapKind.VALUE, statement.at)
        result = type_of(value)
        if result.kind is Kind.STRING:
            result = self.key(result)
        if m.value.kind is Kind.INT or result.size > m.value.size:
            m.value = Value(result.kind, result.size, result.ctype)

    def arguments(self, m: TraceMap, kind: MapKind, call: Call) -> None:
        count = {MapKind.COUNT: 0, MapKind.LHIST: 4}.get(kind, 1)
        if len(call.args) != count:
            raise self.fail(
                call.at, f"{call.name}() has {count} argument{'s' if count != 1 else ''}"
            )
        if kind is not MapKind.LHIST:
            return
        bounds = []
        for argument in call.args[1:]:
            sign = 1
            if isinstance(argument, Unary) and argument.op == "-":
                sign, argument = -1, argument.operand
            if not isinstance(argument, Number):
                raise self.fail(
                    call.at, "lhist(value, least, most, step) takes numbers for the last three"
                )
            bounds.append(sign * argument.value)
        least, most, step = bounds
        fits = abs(least) < 1 << 31 and abs(most) < 1 << 31
        if step < 1 or most <= least or (most - least) // step > 1000 or not fits:
            raise self.fail(call.at, "lhist() has from 1 to 1000 steps")
        if m.bounds not in ((0, 0, 0), (least, most, step)):
            raise self.fail(call.at, f"{m.name} has other steps elsewhere")
        m.bounds = (least, most, step)
