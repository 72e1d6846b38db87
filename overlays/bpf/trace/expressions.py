# SPDX-License-Identifier: BSD-3-Clause
"""Code for expressions. A number ends in r0, a string in a place in the frame; r6 is the context throughout.

r7 to r9 hold what is half done; when they are taken, the frame does.
"""

from __future__ import annotations

from collections.abc import Callable

from overlays.bpf.helpers import CTX_FIELDS
from overlays.bpf.trace import types
from overlays.bpf.trace.ast import (
    Binary,
    Call,
    Cast,
    Expr,
    MapRef,
    Member,
    Name,
    Number,
    String,
    Ternary,
    TraceError,
    Unary,
    Variable,
)
from overlays.bpf.trace.types import (
    COMM_SIZE,
    INT,
    STRING_SIZE,
    CType,
    Kind,
    MapKind,
    TraceMap,
    Types,
    Value,
)

FRAME_SIZE = 512
_OPERATIONS = {
    "+": "add", "-": "sub", "*": "mul", "/": "sdiv", "%": "smod", "&": "and", "|": "or", "^": "xor", "<<": "lsh",
    ">>": "arsh",
}  # fmt: skip
_JUMPS = {"==": "jeq", "!=": "jne", "<": "jslt", "<=": "jsle", ">": "jsgt", ">=": "jsge"}
_INVERSE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_LOADS = {1: "b", 2: "h", 4: "w", 8: "dw"}
_TIMES = {"elapsed": 1, "elapsed_ns": 1, "elapsed_us": 1_000, "elapsed_ms": 1_000_000}
_STACKS = ("stack", "kstack", "ustack")
_FUNCTION_ONLY = {"caller", "ip", "func", *_STACKS, *(f"arg{n}" for n in range(6))}

Fail = Callable[[int, str], TraceError]


class Expressions:
    """Emits assembler text for one probe at one place."""

    def __init__(
        self, probe: str, function: str, maps: dict[str, TraceMap], indexes: dict[str, int],
        library: Types | None, fail: Fail,
    ) -> None:  # fmt: skip
        self.probe, self.function, self.maps, self.indexes = probe, function, maps, indexes
        self.types, self.fail = library, fail
        self.lines: list[str] = []
        self.labels = 0
        self.low = 0  # the frame is used down to here
        self.free = ["%r7", "%r8", "%r9"]
        self.variables: dict[str, tuple[Value, int]] = {}

    # ---- bookkeeping

    def emit(self, *lines: str) -> None:
        self.lines += lines

    def label(self) -> str:
        self.labels += 1
        return f"l{self.labels}"

    def room(self, size: int, at: int) -> int:
        """A place in the frame."""
        self.low -= (size + 7) // 8 * 8
        if self.low < -FRAME_SIZE:
            raise self.fail(
                at, f"this needs more than the {FRAME_SIZE} bytes of stack that there are"
            )
        return self.low

    def hold(self, at: int) -> tuple[str, int]:
        """Put r0 aside: a register, or a place in the frame."""
        if self.free:
            register = self.free.pop()
            self.emit(f"mov {register}, %r0")
            return register, 0
        place = self.room(8, at)
        self.emit(f"stxdw [%r10{place:+d}], %r0")
        return "", place

    def take(self, held: tuple[str, int], register: str) -> None:
        """What was put aside, into another register."""
        if held[0]:
            self.emit(f"mov {register}, {held[0]}")
            self.free.append(held[0])
        else:
            self.emit(f"ldxdw {register}, [%r10{held[1]:+d}]")

    def constant(self, register: str, value: int) -> None:
        value &= 2**64 - 1
        signed = value - 2**64 if value >> 63 else value
        if -(1 << 31) <= signed < 1 << 31:
            self.emit(f"mov {register}, {signed}")
        else:
            self.emit(f"lddw {register}, {value:#x}")

    def frame_address(self, register: str, place: int) -> None:
        self.emit(f"mov {register}, %r10", f"add {register}, {place}")

    def context(self, name: str) -> None:
        offset, size = CTX_FIELDS[name]
        self.emit(f"ldx{_LOADS[size]} %r0, [%r6+{offset}]")

    # ---- types

    def type_of(self, expr: Expr) -> Value:
        """What an expression gives, without code for it."""
        match expr:
            case String():
                return Value(Kind.STRING, min(len(expr.value.encode()) + 1, STRING_SIZE))
            case Name(name="comm"):
                return Value(Kind.STRING, COMM_SIZE)
            case Name(name="func" | "probe"):
                return Value(Kind.STRING, STRING_SIZE)
            case Name(name="caller" | "ip"):
                return Value(Kind.ADDRESS)
            case Name(name="retval"):
                result = self.types.result(self.function) if self.types and self.function else None
                return Value(Kind.INT, 8, result)
            case Name():
                return Value(Kind.STACK) if expr.name in _STACKS else INT
            case Call(name="str"):
                return Value(Kind.STRING, self.string_size(expr))
            case Call(name="sym" | "ksym" | "usym"):
                return Value(Kind.ADDRESS)
            case Variable():
                return self.variables[expr.name][0] if expr.name in self.variables else INT
            case MapRef():
                return self.maps[expr.name].value if expr.name in self.maps else INT
            case Ternary():
                yes, no = self.type_of(expr.yes), self.type_of(expr.no)
                return yes if yes.size >= no.size else no
            case Cast():
                return Value(Kind.INT, 8, types.named(expr.type, expr.stars))
            case Member():
                return self.typed(self.member(expr)[1])
            case Unary(op="*"):
                return self.typed(self.pointed(expr.operand, expr.at))
            case _:
                return INT

    def typed(self, ctype: CType) -> Value:
        if ctype.kind == "array" and ctype.target is not None and ctype.target().size == 1:
            return Value(Kind.STRING, STRING_SIZE, ctype)
        return Value(Kind.INT, 8, ctype)

    def string_size(self, call: Call) -> int:
        if len(call.args) < 2:
            return STRING_SIZE
        size = call.args[1]
        if not isinstance(size, Number) or not 1 <= size.value <= STRING_SIZE:
            raise self.fail(call.at, f"the length of a string is a number from 1 to {STRING_SIZE}")
        return size.value

    def pointed(self, expr: Expr, at: int) -> CType:
        """The type that a pointer points to."""
        ctype = self.type_of(expr).ctype
        if ctype is None or ctype.kind not in ("pointer", "array") or ctype.target is None:
            raise self.fail(
                at, "this is no pointer of a known type: cast it, as in *(uint32_t *)arg0"
            )
        return ctype.target()

    def member(self, expr: Member) -> tuple[int, CType]:
        """Offset (or position, of an argument) and type."""
        if isinstance(expr.operand, Name) and expr.operand.name == "args":
            known = self.types.arguments(self.function) if self.types is not None else {}
            if not known:
                what = f"nothing is known of the arguments of {self.function or 'this probe'}"
                raise self.fail(expr.at, f"{what}: the kernel has no debugging information on it")
            if expr.name not in known:
                raise self.fail(
                    expr.at, f"{self.function} has no argument {expr.name}: {', '.join(known)}"
                )
            return known[expr.name]
        struct = (
            self.pointed(expr.operand, expr.at) if expr.arrow else self.type_of(expr.operand).ctype
        )
        members = struct.members() if struct is not None and struct.members is not None else None
        if struct is None or members is None:
            raise self.fail(expr.at, f"this has no members: {expr.name}")
        if expr.name not in members:
            near = ", ".join(list(members)[:8])
            raise self.fail(
                expr.at, f"{struct.name or 'the struct'} has no member {expr.name}: {near}"
            )
        return members[expr.name]

    # ---- numbers

    def number(self, expr: Expr) -> None:
        """Code that leaves a number in r0."""
        if self.type_of(expr).kind is Kind.STRING:
            raise self.fail(expr.at, "a string cannot be used as a number")
        match expr:
            case Number():
                self.constant("%r0", expr.value)
            case Name():
                self.builtin(expr)
            case Variable():
                self.emit(f"ldxdw %r0, [%r10{self.variable(expr):+d}]")
            case MapRef():
                self.map_value(expr)
            case Unary():
                self.unary(expr)
            case Binary():
                self.binary(expr)
            case Ternary():
                self.choose(
                    expr.condition, lambda: self.number(expr.yes), lambda: self.number(expr.no)
                )
            case Cast():
                self.number(expr.operand)
                self.narrow(types.named(expr.type, expr.stars))
            case Member():
                self.load_member(expr)
            case Call(name="sym" | "ksym" | "usym") if len(expr.args) == 1:
                self.number(expr.args[0])
            case Call(name="log2") if len(expr.args) == 1:
                self.number(expr.args[0])
                self.emit("mov %r1, %r0", "call log2")
            case Call():
                raise self.fail(expr.at, f"{expr.name}() is not known here, or has other arguments")

    def builtin(self, expr: Name) -> None:
        name = expr.name
        if name in _FUNCTION_ONLY and self.probe not in ("entry", "return"):
            raise self.fail(expr.at, f"{name} is of functions: there is none in {self.probe}")
        if (name in _TIMES or name == "retval") and self.probe != "return":
            raise self.fail(expr.at, f"{name} is known at the return of a function")
        if name in _TIMES:
            self.context("elapsed_ns")
            if _TIMES[name] > 1:
                self.emit(f"div %r0, {_TIMES[name]}")
        elif name == "retval":
            self.context("ret")
            ctype = self.type_of(expr).ctype
            if ctype is not None and ctype.kind == "int":
                self.narrow(ctype)
        elif name in ("nsecs", "random", "rand"):
            self.emit("call ktime_get_ns" if name == "nsecs" else "call get_prandom_u32")
        elif name in _STACKS:
            self.emit(
                "mov %r1, %r6",
                f"lddw %r2, map {self.indexes['stacks']}",
                "mov %r3, 0",
                "call get_stackid",
            )
        elif name in ("tid", "thread"):
            self.context("thread")
        elif name in CTX_FIELDS and name not in ("kind", "ret", "sp", "fp"):
            self.context(name)
        else:
            raise self.fail(
                expr.at,
                f"{name} is not known: try arg0, retval, elapsed_us, tid, comm, nsecs, stack",
            )

    def variable(self, expr: Variable) -> int:
        if expr.name not in self.variables:
            raise self.fail(expr.at, f"{expr.name} has no value yet")
        return self.variables[expr.name][1]

    def narrow(self, ctype: CType) -> None:
        if ctype.size < 8:
            bits = 8 * ctype.size
            if ctype.signed:
                self.emit(f"movsx{bits}64 %r0, %r0")
            else:
                self.emit("mov32 %r0, %r0" if bits == 32 else f"and %r0, {(1 << bits) - 1}")

    def unary(self, expr: Unary) -> None:
        if expr.op == "*":
            target = self.pointed(expr.operand, expr.at)
            self.number(expr.operand)
            self.load(target, expr.at)
            return
        if expr.op == "!":
            self.truth(expr)
            return
        self.number(expr.operand)
        self.emit("neg %r0" if expr.op == "-" else "xor %r0, -1")

    def binary(self, expr: Binary) -> None:
        if expr.op not in _OPERATIONS:
            self.truth(expr)
            return
        name = _OPERATIONS[expr.op]
        self.number(expr.left)
        if isinstance(expr.right, Number) and -(1 << 31) <= expr.right.value < 1 << 31:
            self.emit(f"{name} %r0, {expr.right.value}")
            return
        held = self.hold(expr.at)
        self.number(expr.right)
        self.emit("mov %r1, %r0")
        self.take(held, "%r0")
        self.emit(f"{name} %r0, %r1")

    def load(self, ctype: CType, at: int) -> None:
        """r0 is an address; what lies there into r0. A struct or array stays an address."""
        if ctype.kind in ("struct", "array"):
            return
        if ctype.size not in _LOADS:
            raise self.fail(at, "this cannot be read as a number")
        place = self.room(8, at)
        self.emit("mov %r3, %r0")
        self.frame_address("%r1", place)
        self.emit(f"mov %r2, {ctype.size}", "call probe_read_kernel")
        load = "ldxs" if ctype.signed and ctype.size < 8 else "ldx"
        self.emit(f"{load}{_LOADS[ctype.size]} %r0, [%r10{place:+d}]")

    def load_member(self, expr: Member) -> None:
        offset, ctype = self.member(expr)
        if isinstance(expr.operand, Name) and expr.operand.name == "args":
            if offset > 5:
                raise self.fail(expr.at, f"{expr.name} is not in a register")
            self.builtin(Name(expr.at, f"arg{offset}"))
            if ctype.kind == "int":
                self.narrow(ctype)
            return
        self.address_of(expr, offset)
        self.load(ctype, expr.at)

    def address_of(self, expr: Member, offset: int) -> None:
        self.number(expr.operand)
        if offset:
            self.emit(f"add %r0, {offset}")

    # ---- truth

    def truth(self, expr: Expr) -> None:
        """1 or 0 in r0."""
        self.choose(expr, lambda: self.emit("mov %r0, 1"), lambda: self.emit("mov %r0, 0"))

    def choose(self, condition: Expr, yes: Callable[[], None], no: Callable[[], None]) -> None:
        other, end = self.label(), self.label()
        self.unless(condition, other)
        free = self.free.copy()
        yes()
        self.emit(f"ja {end}", f"{other}:")
        self.free = free
        no()
        self.emit(f"{end}:")

    def unless(self, expr: Expr, label: str) -> None:
        """Jump if a condition does not hold."""
        match expr:
            case Unary(op="!"):
                self.when(expr.operand, label)
            case Binary(op="&&"):
                self.unless(expr.left, label)
                self.unless(expr.right, label)
            case Binary(op="||"):
                yes = self.label()
                self.when(expr.left, yes)
                self.unless(expr.right, label)
                self.emit(f"{yes}:")
            case Binary() if expr.op in _JUMPS:
                self.compare(expr, _INVERSE[expr.op], label)
            case _:
                self.number(expr)
                self.emit(f"jeq %r0, 0, {label}")

    def when(self, expr: Expr, label: str) -> None:
        """Jump if a condition holds."""
        no = self.label()
        self.unless(expr, no)
        self.emit(f"ja {label}", f"{no}:")

    def compare(self, expr: Binary, op: str, label: str) -> None:
        kinds = {self.type_of(expr.left).kind, self.type_of(expr.right).kind}
        if Kind.STRING in kinds:
            if kinds != {Kind.STRING} or op not in ("==", "!="):
                raise self.fail(expr.at, "a string can only be compared with a string, by == or !=")
            self.compare_strings(expr)
            self.emit(f"{_JUMPS[op]} %r0, 0, {label}")
            return
        self.number(expr.left)
        if isinstance(expr.right, Number) and -(1 << 31) <= expr.right.value < 1 << 31:
            self.emit(f"{_JUMPS[op]} %r0, {expr.right.value}, {label}")
            return
        held = self.hold(expr.at)
        self.number(expr.right)
        self.emit("mov %r1, %r0")
        self.take(held, "%r0")
        self.emit(f"{_JUMPS[op]} %r0, %r1, {label}")

    def compare_strings(self, expr: Binary) -> None:
        places = []
        for side in (expr.left, expr.right):
            size = self.type_of(side).size
            place = self.room(size, side.at)
            self.string(side, place, size)
            places.append((place, size))
        for number, (place, size) in zip((1, 3), places, strict=True):
            self.frame_address(f"%r{number}", place)
            self.emit(f"mov %r{number + 1}, {size}")
        self.emit("call strings_compare")

    # ---- strings

    def string(self, expr: Expr, place: int, size: int) -> None:
        """Code that puts a string into the frame, with zeros behind it."""
        match expr:
            case String():
                self.literal(expr.value, place, size)
            case Name(name="func" | "probe"):
                name = (
                    self.function
                    if expr.name == "func"
                    else f"{self.probe}:{self.function}".rstrip(":")
                )
                self.literal(name, place, size)
            case Name(name="comm"):
                self.frame_address("%r1", place)
                self.emit(f"mov %r2, {size}", "call get_current_comm")
            case Call(name="str") if 1 <= len(expr.args) <= 2:
                self.number(expr.args[0])
                self.read_string(place, size, min(size, self.string_size(expr)))
            case Member():
                offset, ctype = self.member(expr)
                self.address_of(expr, offset)
                self.read_string(place, size, min(size, ctype.size + 1))
            case Variable():
                self.copy(
                    "%r10", self.variable(expr), place, self.variables[expr.name][0].size, size
                )
            case MapRef():
                self.lookup(expr)
                there, end = self.label(), self.label()
                self.emit(f"jne %r0, 0, {there}")
                self.zero(place, size)
                self.emit(f"ja {end}", f"{there}:")
                self.copy("%r0", 0, place, self.maps[expr.name].value.size, size)
                self.emit(f"{end}:")
            case Ternary():
                self.choose(
                    expr.condition,
                    lambda: self.string(expr.yes, place, size),
                    lambda: self.string(expr.no, place, size),
                )
            case _:
                raise self.fail(expr.at, "a string is expected here")

    def literal(self, text: str, place: int, size: int) -> None:
        raw = text.encode()[: size - 1].ljust((size + 7) // 8 * 8, b"\0")
        for at in range(0, len(raw), 8):
            word = int.from_bytes(raw[at : at + 8], "little")
            self.constant("%r1", word)
            self.emit(f"stxdw [%r10{place + at:+d}], %r1")

    def read_string(self, place: int, size: int, length: int) -> None:
        """The string at the address in r0."""
        if length < size:
            self.zero(place, size)
        self.emit("mov %r3, %r0")
        self.frame_address("%r1", place)
        self.emit(f"mov %r2, {length}", "call probe_read_kernel_str")

    def zero(self, place: int, size: int) -> None:
        self.emit(*(f"stdw [%r10{at:+d}], 0" for at in range(place, place + size, 8)))

    def copy(self, base: str, offset: int, place: int, have: int, size: int) -> None:
        """Whole words; have and size are multiples of 8."""
        for at in range(0, size, 8):
            if at < have:
                self.emit(
                    f"ldxdw %r1, [{base}{offset + at:+d}]", f"stxdw [%r10{place + at:+d}], %r1"
                )
            else:
                self.emit(f"stdw [%r10{place + at:+d}], 0")

    # ---- maps

    def key(self, expr: MapRef, extra: int = 0) -> int:
        """The key in the frame; `extra` bytes are left at its end."""
        m = self.maps[expr.name]
        keys = m.keys or []
        place = self.room(max(m.key_size, 8), expr.at)
        at = place
        for part, value in zip(expr.keys, keys, strict=True):
            if value.kind is Kind.STRING:
                self.string(part, at, value.size)
            else:
                self.number(part)
                self.emit(f"stxdw [%r10{at:+d}], %r0")
            at += value.size
        if not keys and not extra:
            self.emit(f"stdw [%r10{place:+d}], 0")
        return place

    def lookup(self, expr: MapRef) -> None:
        """The address of a value in r0, or 0."""
        place = self.key(expr)
        self.emit(f"lddw %r1, map {self.maps[expr.name].index}")
        self.frame_address("%r2", place)
        self.emit("call map_lookup_elem")

    def map_value(self, expr: MapRef) -> None:
        m = self.maps[expr.name]
        if m.kind not in (MapKind.VALUE, MapKind.COUNT, MapKind.SUM):
            raise self.fail(
                expr.at,
                f"{m.name} is made by {m.kind.value if m.kind else '?'}(): it has no single value",
            )
        self.lookup(expr)
        end = self.label()
        self.emit(f"jeq %r0, 0, {end}", "ldxdw %r0, [%r0]", f"{end}:")
