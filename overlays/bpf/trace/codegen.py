# SPDX-License-Identifier: BSD-3-Clause
"""From a parsed expression to an object of eBPF programs, and to what is needed to show its results.

Each probe becomes one program per function that it names. What a program prints goes into a ring buffer as numbers
and strings; the text is made on the host (events.py). Every object passes the verifier before it is returned.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass

from overlays.bpf import asm, verifier
from overlays.bpf.helpers import Kind as ProgramKind
from overlays.bpf.helpers import MapType
from overlays.bpf.model import MAX_PROGRAMS, BpfError, MapDef, Object, Program
from overlays.bpf.objects import parse_period
from overlays.bpf.trace.analyse import AGGREGATES, Analysis, expressions, variables
from overlays.bpf.trace.ast import (
    Assign,
    Attach,
    Binary,
    Call,
    Do,
    Expr,
    If,
    MapRef,
    Name,
    Number,
    Probe,
    Statement,
    String,
    TraceError,
    Variable,
)
from overlays.bpf.trace.expressions import _STACKS, Expressions
from overlays.bpf.trace.parser import error_at, parse
from overlays.bpf.trace.types import (
    HIST_NEGATIVE,
    Format,
    Kind,
    MapKind,
    TraceMap,
    Types,
    Value,
)

ENTRIES = 1024  # of a map with keys
STACK_ENTRIES, STACK_DEPTH = 256, 32
RING_BYTES = 65_536
MAX_KEY = 256

# Kinds of events: the low half of a record's first 8 bytes; the high half says which format or map.
EVENT_PRINTF, EVENT_PRINT, EVENT_CLEAR, EVENT_ZERO, EVENT_EXIT = range(1, 6)
_MAP_EVENTS = {"print": EVENT_PRINT, "clear": EVENT_CLEAR, "zero": EVENT_ZERO}
_CONVERSION = re.compile(r"%[-0+ #]*\d*(?:\.\d+)?(?:hh|h|ll|l|z|j|t)?([a-zA-Z%])")

Functions = Callable[[str], list[str]]


@dataclass(slots=True)
class Trace:
    """What an expression was compiled to."""

    text: str
    object: Object
    maps: list[TraceMap]
    formats: list[Format]
    stacks: int | None  # index of the map of stacks
    events: int | None  # index of the ring buffer


class _Body(Expressions):
    """Statements of one probe at one place."""

    formats: list[Format]
    order: list[str]

    def run(self, probe: Probe) -> list[str]:
        for assignment in variables(probe):
            value = self.type_of(assignment.value)
            size = 8
            if value.kind is Kind.STRING:
                size = 16 if value.size <= 16 else 64
            place = self.room(size, assignment.at)
            assert isinstance(assignment.target, Variable)
            self.variables[assignment.target.name] = (Value(value.kind, size, value.ctype), place)
            self.zero(place, size)
        if probe.filter is not None:
            self.unless(probe.filter, "out")
        self.block(probe.body)
        self.emit("out:", "mov %r0, 0", "exit")
        uses_context = any("%r6" in line for line in self.lines)
        return (["mov %r6, %r1"] if uses_context else []) + self.lines

    def block(self, body: list[Statement]) -> None:
        for statement in body:
            low = self.low
            match statement:
                case Assign(target=Variable()):
                    self.assign_variable(statement)
                case Assign():
                    self.assign_map(statement)
                case Do():
                    self.do(statement.call)
                case If():
                    other, end = self.label(), self.label()
                    self.unless(statement.condition, other)
                    self.block(statement.yes)
                    self.emit(f"ja {end}", f"{other}:")
                    self.block(statement.no)
                    self.emit(f"{end}:")
            self.low = low

    def combined(self, statement: Assign) -> Expr:
        """The value of an assignment like *=."""
        if statement.op == "=":
            return statement.value
        return Binary(statement.at, statement.op[:-1], statement.target, statement.value)

    def assign_variable(self, statement: Assign) -> None:
        assert isinstance(statement.target, Variable)
        value, place = self.variables[statement.target.name]
        is_string = self.type_of(statement.value).kind is Kind.STRING
        if is_string != (value.kind is Kind.STRING):
            raise self.fail(
                statement.at,
                f"{statement.target.name} is a string in one place and a number in another",
            )
        if is_string:
            if statement.op != "=":
                raise self.fail(statement.at, "strings can only be assigned with =")
            # Made apart: the variable may be part of its own new value.
            made = self.room(value.size, statement.at)
            self.string(statement.value, made, value.size)
            self.copy("%r10", made, place, value.size, value.size)
            return
        self.number(self.combined(statement))
        self.emit(f"stxdw [%r10{place:+d}], %r0")

    # ---- maps

    def assign_map(self, statement: Assign) -> None:
        target = statement.target
        assert isinstance(target, MapRef)
        m = self.maps[target.name]
        value = statement.value
        if isinstance(value, Call) and value.name in AGGREGATES:
            self.aggregate(m, target, value)
        elif m.value.kind is Kind.STRING:
            if statement.op != "=":
                raise self.fail(statement.at, "strings can only be assigned with =")
            place = self.room(m.value.size, statement.at)
            self.string(value, place, m.value.size)
            self.update(m, self.key(target), place, 0)
        elif statement.op in ("+=", "-="):
            self.number(value)
            if statement.op == "-=":
                self.emit("neg %r0")
            self.add(m, target)
        else:
            self.number(self.combined(statement))
            place = self.room(8, statement.at)
            self.emit(f"stxdw [%r10{place:+d}], %r0")
            self.update(m, self.key(target), place, 0)

    def map_and_key(self, m: TraceMap, key: int) -> None:
        self.emit(f"lddw %r1, map {m.index}")
        self.frame_address("%r2", key)

    def update(self, m: TraceMap, key: int, place: int, flags: int) -> None:
        self.map_and_key(m, key)
        self.frame_address("%r3", place)
        self.emit(f"mov %r4, {flags}", "call map_update_elem")

    def add(self, m: TraceMap, target: MapRef) -> None:
        """Add r0 to a value."""
        held = self.hold(target.at)
        key = self.key(target)
        self.take(held, "%r3")
        self.map_and_key(m, key)
        self.emit("call map_add")

    def aggregate(self, m: TraceMap, target: MapRef, call: Call) -> None:
        if m.kind is MapKind.COUNT:
            key = self.key(target)
            self.map_and_key(m, key)
            self.emit("mov %r3, 1", "call map_add")
            return
        self.number(call.args[0])
        if m.kind is MapKind.SUM:
            self.add(m, target)
        elif m.is_histogram:
            self.slot(m)
            held = self.hold(call.at)
            key = self.key(target, 8)
            self.take(held, "%r1")
            self.emit(f"stxdw [%r10{key + m.key_size - 8:+d}], %r1")
            self.map_and_key(m, key)
            self.emit("mov %r3, 1", "call map_add")
        else:
            held = self.hold(call.at)
            end = self.label()
            self.entry(m, target, end)
            self.take(held, "%r1")
            self.fold(m, end)
            self.emit(f"{end}:")

    def slot(self, m: TraceMap) -> None:
        """The slot of a histogram for the number in r0."""
        first, last, end = self.label(), self.label(), self.label()
        if m.kind is MapKind.HIST:
            self.emit(f"jslt %r0, 0, {first}", "mov %r1, %r0", "call log2", f"ja {end}")
            self.emit(f"{first}:", f"mov %r0, {HIST_NEGATIVE}", f"{end}:")
            return
        least, most, step = m.bounds
        self.emit(f"jslt %r0, {least}, {first}", f"jsge %r0, {most}, {last}")
        self.emit(f"sub %r0, {least}", f"div %r0, {step}", "add %r0, 1", f"ja {end}")
        self.emit(f"{first}:", "mov %r0, 0", f"ja {end}")
        self.emit(f"{last}:", f"mov %r0, {m.slots - 1}", f"{end}:")

    def entry(self, m: TraceMap, target: MapRef, end: str) -> None:
        """The address of a value of 16 bytes in r0; it comes into being as zeros."""
        key = self.key(target)
        there = self.label()
        self.map_and_key(m, key)
        self.emit("call map_lookup_elem", f"jne %r0, 0, {there}")
        place = self.room(16, target.at)
        self.zero(place, 16)
        self.update(m, key, place, 1)
        self.map_and_key(m, key)
        self.emit("call map_lookup_elem", f"jeq %r0, 0, {end}", f"{there}:")

    def fold(self, m: TraceMap, end: str) -> None:
        """The number in r1 into the value at r0: {sum, count} or {extreme, count}."""
        if m.kind is MapKind.AVG:
            self.emit("lock add [%r0], %r1")
        else:
            keep = self.label()
            jump = "jsle" if m.kind is MapKind.MIN else "jsge"
            self.emit("ldxdw %r2, [%r0+8]", f"jeq %r2, 0, {keep}", "ldxdw %r2, [%r0]")
            self.emit(f"{jump} %r2, %r1, {end}", f"{keep}:", "stxdw [%r0], %r1")
        self.emit("mov %r1, 1", "lock add [%r0+8], %r1")

    # ---- calls

    def do(self, call: Call) -> None:
        if call.name == "printf":
            self.printf(call)
        elif call.name in _MAP_EVENTS:
            self.map_event(call)
        elif call.name == "exit" and not call.args:
            self.event(EVENT_EXIT, 0, self.room(8, call.at), 8)
            self.emit("ja out")
        elif call.name == "signal" and len(call.args) == 1:
            self.number(call.args[0])
            self.emit("mov %r1, %r0", "call send_signal")
        elif call.name == "delete" and len(call.args) == 1 and isinstance(call.args[0], MapRef):
            target = call.args[0]
            m = self.maps[target.name]
            if not m.keys or m.is_histogram:
                raise self.fail(call.at, f"{m.name} has no single entries: use clear({m.name})")
            self.map_and_key(m, self.key(target))
            self.emit("call map_delete_elem")
        else:
            raise self.fail(
                call.at,
                f"{call.name}() is not known here, or has other arguments: try printf, print, clear, zero, delete,"
                " signal, exit",
            )

    def event(self, kind: int, which: int, place: int, size: int) -> None:
        self.constant("%r1", which << 32 | kind)
        self.emit(f"stxdw [%r10{place:+d}], %r1", f"lddw %r1, map {self.indexes['events']}")
        self.frame_address("%r2", place)
        self.emit(f"mov %r3, {size}", "mov %r4, 0", "call ringbuf_output")

    def map_event(self, call: Call) -> None:
        target = call.args[0] if call.args else None
        if not isinstance(target, MapRef) or target.keys:
            raise self.fail(
                call.at, f"{call.name}() takes a map without keys, as in {call.name}(@)"
            )
        top = call.args[1] if len(call.args) == 2 and call.name == "print" else Number(call.at, 0)
        if len(call.args) > 2 or not isinstance(top, Number):
            raise self.fail(call.at, "print() takes a map and how many of its entries to show")
        if target.name not in self.order:
            raise self.fail(target.at, f"nothing is ever put into {target.name}")
        place = self.room(16, call.at)
        self.constant("%r0", top.value)
        self.emit(f"stxdw [%r10{place + 8:+d}], %r0")
        self.event(_MAP_EVENTS[call.name], self.order.index(target.name), place, 16)

    def printf(self, call: Call) -> None:
        if not call.args or not isinstance(call.args[0], String):
            raise self.fail(call.at, 'printf() takes a format first, as in printf("%d\\n", arg0)')
        text = call.args[0].value
        conversions = [found for found in _CONVERSION.findall(text) if found != "%"]
        values = [self.type_of(argument) for argument in call.args[1:]]
        if len(conversions) != len(values):
            what = f"the format has {len(conversions)} conversions, and there are {len(values)} arguments"
            raise self.fail(call.at, what)
        for conversion, value, argument in zip(conversions, values, call.args[1:], strict=True):
            if conversion not in "diuxXocsp":
                raise self.fail(
                    call.args[0].at, f"%{conversion} is not known: use d i u x X o c s p"
                )
            if (value.kind is Kind.INT) is (conversion == "s"):
                what = (
                    "is a number: read a string with str(…)"
                    if conversion == "s"
                    else "is no number: use %s"
                )
                raise self.fail(argument.at, f"this {what}")
        sizes = [(value.size + 7) // 8 * 8 for value in values]
        place = self.room(8 + sum(sizes), call.at)
        at = place + 8
        for argument, value, size in zip(call.args[1:], values, sizes, strict=True):
            if value.kind is Kind.STRING:
                self.string(argument, at, size)
            else:
                self.number(argument)
                self.emit(f"stxdw [%r10{at:+d}], %r0")
            at += size
        shown = [Value(value.kind, size) for value, size in zip(values, sizes, strict=True)]
        form = Format(text, shown)
        if form not in self.formats:
            self.formats.append(form)
        self.event(EVENT_PRINTF, self.formats.index(form), place, 8 + sum(sizes))


class _Compiler:
    def __init__(self, text: str, functions: Functions | None, types: Types | None) -> None:
        self.text, self.functions, self.types = text, functions, types
        self.probes = parse(text)
        self.analysis = Analysis(self.fail)
        self.formats: list[Format] = []
        self.definitions: list[MapDef] = []
        self.indexes: dict[str, int] = {}

    def fail(self, at: int, what: str) -> TraceError:
        return error_at(self.text, at, what)

    def targets(self, attach: Attach) -> list[str]:
        """The functions that a probe names."""
        if attach.kind not in ("entry", "return"):
            return [""]
        pattern = attach.target
        if not any(c in pattern for c in "*?["):
            if self.functions is not None and not self.functions(pattern):
                raise self.fail(attach.at, f"there is no function {pattern}")
            return [pattern]
        if self.functions is None:
            raise self.fail(attach.at, "patterns need a kernel with symbols")
        found = [name for name in self.functions(pattern) if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise self.fail(attach.at, f"no function matches {pattern}")
        if len(found) > MAX_PROGRAMS:
            raise self.fail(
                attach.at,
                f"{len(found)} functions match {pattern}; at most {MAX_PROGRAMS} can be traced",
            )
        return found

    def places(self) -> list[tuple[Probe, Attach, str]]:
        found = [
            (p, attach, name)
            for p in self.probes
            for attach in p.attach
            for name in self.targets(attach)
        ]
        if len(found) > MAX_PROGRAMS:
            raise self.fail(0, f"{len(found)} probes are more than {MAX_PROGRAMS}")
        return found

    def body(self, attach: Attach, function: str) -> _Body:
        body = _Body(attach.kind, function, self.analysis.maps, self.indexes, self.types, self.fail)
        body.formats = self.formats
        body.order = list(self.analysis.maps)
        return body

    def analyse(self, places: list[tuple[Probe, Attach, str]]) -> None:
        # Twice: a map's type may depend on one that is only assigned further down.
        for _ in range(2):
            for probe, attach, function in places:
                body = self.body(attach, function)
                for assignment in variables(probe):
                    assert isinstance(assignment.target, Variable)
                    body.variables[assignment.target.name] = (body.type_of(assignment.value), 0)
                self.analyse_probe(probe, body)
        for m in self.analysis.maps.values():
            if m.kind is None:
                raise self.fail(self.text.find(m.name), f"nothing is ever put into {m.name}")
            if m.key_size > MAX_KEY:
                raise self.fail(
                    self.text.find(m.name), f"the keys of {m.name} have more than {MAX_KEY} bytes"
                )

    def analyse_probe(self, probe: Probe, body: _Body) -> None:
        def visit(statements: list[Statement]) -> None:
            for statement in statements:
                if isinstance(statement, Assign):
                    self.analysis.assign(statement, body.type_of)
                elif isinstance(statement, If):
                    visit(statement.yes)
                    visit(statement.no)

        visit(probe.body)
        for expr in expressions(probe):
            if isinstance(expr, MapRef):
                self.analysis.use(expr, body.type_of)

    def define_maps(self) -> None:
        for m in self.analysis.maps.values():
            m.index = len(self.definitions)
            name = f"map_{m.name[1:]}"[:31]
            if m.keys:
                entries = ENTRIES * (4 if m.is_histogram else 1)
                definition = MapDef(name, MapType.HASH, m.key_size, m.value_size, entries)
            else:
                slots = m.slots if m.is_histogram else 1
                definition = MapDef(name, MapType.ARRAY, 4, m.value_size, slots)
            self.definitions.append(definition)
        used = {e.name for p in self.probes for e in expressions(p) if isinstance(e, Name)}
        if used & set(_STACKS):
            self.indexes["stacks"] = len(self.definitions)
            self.definitions.append(
                MapDef("stacks", MapType.STACK, 4, STACK_DEPTH * 8, STACK_ENTRIES)
            )
        # Always there; without events it is left out again.
        self.indexes["events"] = len(self.definitions)

    def program(self, number: int, probe: Probe, attach: Attach, function: str) -> Program:
        kind, period = {
            "entry": (ProgramKind.ENTRY, 0),
            "return": (ProgramKind.RETURN, 0),
            "interval": (ProgramKind.TIMER, 0),
        }.get(attach.kind, (ProgramKind.EXEC, 0))
        name = f"probe_{number}"
        if attach.kind == "interval":
            try:
                period = parse_period(attach.target)
            except BpfError as error:
                raise self.fail(attach.at, error.message) from error
        elif kind is ProgramKind.EXEC:
            name = f"{attach.kind}_{number}"
        insns = asm.assemble("\n".join(self.body(attach, function).run(probe)))
        return Program(name, kind, function, insns, period)

    def compile(self) -> Trace:
        places = self.places()
        self.analyse(places)
        self.define_maps()
        programs = [self.program(number, *place) for number, place in enumerate(places)]
        events = self.indexes["events"]
        has_events = any(
            insn.opcode == 0x18 and insn.src == 5 and insn.imm == events
            for program in programs
            for insn in program.insns
        )
        if has_events:
            self.definitions.append(MapDef("events", MapType.RINGBUF, 0, 0, RING_BYTES))
        obj = Object("trace", self.definitions, programs)
        verifier.require_verified(obj)
        return Trace(
            self.text,
            obj,
            list(self.analysis.maps.values()),
            self.formats,
            self.indexes.get("stacks"),
            events if has_events else None,
        )


def compile_trace(
    text: str, *, functions: Functions | None = None, types: Types | None = None
) -> Trace:
    """Compile an expression.

    :param functions: the names of functions that match a pattern; None: any name is taken as it is.
    :param types: what is known of the application's types.
    :raise TraceError: with the place in the text.
    """
    return _Compiler(text, functions, types).compile()
