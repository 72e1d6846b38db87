# SPDX-License-Identifier: BSD-3-Clause
"""The verifier: walks every path of a program with what is known of its registers, and accepts it only if no access,
call or loop can go wrong. What it accepts never faults the checked interpreter in the guest.

Paths that reach an instruction with no more possibilities than an earlier, finished one are not walked again
(state.py, flow.py). A path that comes back to the same state has made no progress and may never end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from overlays.bpf import asm, isa, memory, scalars, state
from overlays.bpf.calls import Call
from overlays.bpf.check import CheckError, check, jump_target
from overlays.bpf.flow import Flow
from overlays.bpf.helpers import HELPERS, Kind
from overlays.bpf.isa import Insn
from overlays.bpf.memory import Refusal
from overlays.bpf.model import BpfError, Line, MapDef, Object, Program
from overlays.bpf.scalars import Scalar
from overlays.bpf.state import MAX_FRAMES, Base, Frame, Pointer, State, Value

MAX_WALKED = 200_000  # instructions over all paths; also bounds the instructions of any run
_MAX_CLOSED = 64  # finished states that are kept per instruction
_MAX_OPEN = 16  # unfinished ones that are looked at


@dataclass(slots=True)
class Report:
    """The verdict on one program."""

    program: str
    walked: int  # instructions looked at, over all paths
    reason: str = ""  # why it is refused; empty: it is accepted
    pc: int = 0
    insn: str = ""
    line: Line | None = None
    registers: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        if self.accepted:
            return f"{self.program}: accepted after {self.walked} instructions"
        where = f" ({self.line})" if self.line else ""
        text = [f"{self.program}: refused at instruction {self.pc}{where}: {self.reason}"]
        if self.line and self.line.text:
            text.append(f"    {self.line.text}")
        if self.insn:
            text.append(f"  {self.pc}: {self.insn}")
        text += [f"      {register}" for register in self.registers]
        return "\n".join(text)


class _Node:
    """A state that was seen at an instruction; finished when all paths from it have ended well."""

    __slots__ = ("branches", "parent", "pc", "state")

    def __init__(self, parent: _Node | None, pc: int, seen: State) -> None:
        self.parent, self.pc, self.state = parent, pc, seen
        self.branches = 1


class _Verifier:
    def __init__(self, program: Program, maps: list[MapDef], max_walked: int) -> None:
        self.program, self.maps, self.max_walked = program, maps, max_walked
        self.insns = program.insns
        self.flow = Flow(self.insns)
        self.walked = 0
        self.ids = 0
        # Per instruction: states on the path that is being walked, and finished ones.
        self.open: dict[int, list[_Node]] = {}
        self.closed: dict[int, deque[_Node]] = {}
        self.pending: list[tuple[int, State, _Node | None]] = []
        self.pc = 0
        self.state = State()
        self.points = set(self.flow.targets)
        for pc, insn in enumerate(self.insns):
            if insn.opcode == isa.CALL and insn.src == isa.CALL_LOCAL:
                self.points |= {pc + 1, pc + 1 + insn.imm}

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    # ---- walking

    def run(self) -> None:
        start = State()
        start.frames = [Frame(-1)]
        start.regs[1] = Pointer(Base.CTX, 0, scalars.const(0))
        start.regs[isa.FP] = Pointer(Base.FRAME, 0, scalars.const(0))
        self.pending.append((0, start, None))
        while self.pending:
            self.pc, self.state, node = self.pending.pop()
            self.walk(node)

    def walk(self, node: _Node | None) -> None:
        """One path to its end; the other ways of each branch are left pending."""
        while True:
            if self.pc in self.points:
                if self.was_here():
                    break
                node = self.remember(node)
            self.walked += 1
            if self.walked > self.max_walked:
                raise Refusal(
                    f"too complex: more than {self.max_walked} instructions over all paths;"
                    " a loop may run too long, or not end"
                )
            other = self.step()
            if other is not None:
                self.pending.append((*other, node))
                if node is not None:
                    node.branches += 1
            if self.pc < 0:
                break
        self.end_path(node)

    def end_path(self, node: _Node | None) -> None:
        while node is not None:
            node.branches -= 1
            if node.branches > 0:
                return
            # Paths are walked depth first, so this one is the last that was opened here.
            self.open[node.pc].pop()
            self.closed.setdefault(node.pc, deque(maxlen=_MAX_CLOSED)).append(node)
            node = node.parent

    def masks(self) -> list[tuple[int, int]]:
        found = []
        for number in range(len(self.state.frames)):
            if number + 1 < len(self.state.frames):
                # What a caller has in r0 to r5 is gone when it goes on.
                pc, kept = self.state.frames[number + 1].return_pc, ~0b111111
            else:
                pc, kept = self.pc, -1
            found.append((self.flow.live[pc] & kept, self.flow.deciding[pc] & kept))
        return found

    def was_here(self) -> bool:
        masks = self.masks()
        state.tidy(self.state, masks)
        for node in self.closed.get(self.pc, ()):
            if state.covers(node.state, self.state, masks):
                return True
        for node in self.open.get(self.pc, ())[-_MAX_OPEN:]:
            if state.covers(node.state, self.state, masks, exact=True):
                raise Refusal("a loop that comes back with nothing changed: it may not end")
        return False

    def remember(self, parent: _Node | None) -> _Node:
        node = _Node(parent, self.pc, self.state.copy())
        self.open.setdefault(self.pc, []).append(node)
        return node

    # ---- one instruction

    def step(self) -> tuple[int, State] | None:
        """Change the state and pc (-1: the path ends); another way to go on, if there is one."""
        insn = self.insns[self.pc]
        if insn.cls in (isa.ALU, isa.ALU64):
            self.alu(insn)
        elif insn.opcode == isa.LDDW:
            self.lddw(insn)
            self.pc += 1
        elif insn.cls in (isa.LDX, isa.ST, isa.STX):
            self.access(insn)
        elif insn.opcode in (isa.JA, isa.JA32):
            self.pc = jump_target(insn, self.pc) or 0
            return None
        elif insn.opcode == isa.EXIT:
            self.exit()
            return None
        elif insn.opcode == isa.CALL and insn.src == isa.CALL_LOCAL:
            self.call_local(insn)
            return None
        elif insn.opcode in (isa.CALL, isa.CALLX):
            self.call_helper(insn)
        else:
            return self.branch(insn)
        self.pc += 1
        return None

    def read(self, number: int) -> Scalar | Pointer:
        value = self.state.regs[number]
        if value is None:
            raise Refusal(f"r{number} is read, but nothing was written to it")
        return value

    def operand(self, insn: Insn) -> Scalar | Pointer:
        return self.read(insn.src) if insn.is_x else scalars.const(insn.imm)

    def alu(self, insn: Insn) -> None:
        regs = self.state.regs
        bits = 32 if insn.cls == isa.ALU else 64
        if insn.op == isa.END:
            regs[insn.dst] = self.byte_order(insn)
            return
        name = isa.ALU_OPS[insn.op]
        if name == "mov":
            regs[insn.dst] = self.moved(insn, bits)
            return
        left = self.read(insn.dst)
        if name == "neg":
            if isinstance(left, Scalar):
                negated = scalars.negated(scalars.truncate(left, bits))
                regs[insn.dst] = scalars.truncate(negated, bits)
            else:
                regs[insn.dst] = scalars.between(0, (1 << bits) - 1)
            return
        right = self.operand(insn)
        if isinstance(left, Scalar) and isinstance(right, Scalar):
            name = "s" + name if insn.offset else name
            regs[insn.dst] = scalars.operate(name, left, right, bits)
        else:
            regs[insn.dst] = self.pointer_alu(name, left, right, bits)

    def byte_order(self, insn: Insn) -> Scalar:
        value = self.read(insn.dst)
        bits = insn.imm
        if not isinstance(value, Scalar):
            return scalars.between(0, (1 << bits) - 1)
        if insn.cls == isa.ALU and not insn.is_x:
            return scalars.truncate(value, bits)
        return scalars.swap(value, bits)

    def moved(self, insn: Insn, bits: int) -> Scalar | Pointer:
        value = self.operand(insn)
        if isinstance(value, Pointer):
            if bits == 64 and not insn.offset:
                return value
            return scalars.between(0, (1 << bits) - 1)
        if insn.offset:
            return scalars.truncate(scalars.sign_extend(value, insn.offset), bits)
        if insn.is_x and not value.is_const and value.id == 0:
            # What a comparison shows of one copy holds for the other.
            value = value._replace(id=self.new_id())
            self.state.regs[insn.src] = value
        return scalars.truncate(value, bits)

    def pointer_alu(
        self, name: str, left: Scalar | Pointer, right: Scalar | Pointer, bits: int
    ) -> Scalar | Pointer:
        for value in (left, right):
            if isinstance(value, Pointer) and value.maybe_null:
                raise Refusal("arithmetic on a pointer that may be NULL: test it first")
        if bits == 64 and name in ("add", "sub"):
            if isinstance(left, Pointer) and isinstance(right, Scalar):
                pointer, number = left, right
            elif isinstance(right, Pointer) and isinstance(left, Scalar) and name == "add":
                pointer, number = right, left
            else:
                return scalars.UNKNOWN
            if pointer.base is not Base.MAP:
                return pointer._replace(offset=scalars.operate(name, pointer.offset, number, 64))
        return scalars.between(0, (1 << bits) - 1)

    def lddw(self, insn: Insn) -> None:
        second = self.insns[self.pc + 1]
        if insn.src == isa.IMM64_MAP:
            self.state.regs[insn.dst] = Pointer(Base.MAP, insn.imm, scalars.const(0))
        elif insn.src == isa.IMM64_MAP_VALUE:
            offset = scalars.const(second.imm)
            self.state.regs[insn.dst] = Pointer(Base.VALUE, insn.imm, offset)
        else:
            self.state.regs[insn.dst] = scalars.const(isa.imm64(insn, second))

    def access(self, insn: Insn) -> None:
        size = isa.SIZE_BYTES[insn.opcode & 0x18]
        mode = insn.opcode & 0xE0
        if insn.cls == isa.LDX:
            base = self.read(insn.src)
            value = memory.load(self.state, base, insn.offset, size, self.maps, f"r{insn.src}")
            if mode == isa.MEMSX:
                known = value if isinstance(value, Scalar) else scalars.UNKNOWN
                value = scalars.sign_extend(known, 8 * size)
            self.state.regs[insn.dst] = value
            return
        base, name = self.read(insn.dst), f"r{insn.dst}"
        if insn.cls == isa.STX and mode == isa.ATOMIC:
            self.atomic(insn, base, size)
            return
        stored = self.read(insn.src) if insn.cls == isa.STX else scalars.const(insn.imm)
        tracked = insn.dst == isa.FP
        memory.store(
            self.state, (base, name), insn.offset, size, stored, self.maps, tracked=tracked
        )

    def atomic(self, insn: Insn, base: Value, size: int) -> None:
        self.read(insn.src)
        if insn.imm == isa.CMPXCHG:
            self.read(0)
        memory.atomic(self.state, base, insn.offset, size, self.maps, f"r{insn.dst}")
        if insn.imm == isa.CMPXCHG:
            self.state.regs[0] = scalars.between(0, (1 << 8 * size) - 1)
        elif insn.imm & isa.FETCH:
            self.state.regs[insn.src] = scalars.between(0, (1 << 8 * size) - 1)

    # ---- calls

    def call_local(self, insn: Insn) -> None:
        if len(self.state.frames) == MAX_FRAMES:
            raise Refusal(f"calls are nested deeper than {MAX_FRAMES}")
        frame = Frame(self.pc + 1)
        frame.regs[1:6] = self.state.regs[1:6]
        frame.regs[isa.FP] = Pointer(Base.FRAME, len(self.state.frames), scalars.const(0))
        self.state.frames.append(frame)
        self.pc += 1 + insn.imm

    def exit(self) -> None:
        result = self.read(0)
        if len(self.state.frames) == 1:
            if self.state.records:
                raise Refusal("a record of a ring buffer is neither submitted nor discarded")
            self.pc = -1
            return
        depth = len(self.state.frames) - 1
        frame = self.state.frames.pop()
        self.state.regs[0] = result
        self.state.regs[1:6] = [None] * 5

        def gone(value: Scalar | Pointer) -> Value:
            """A pointer into the frame that ended is only a number now."""
            if isinstance(value, Pointer) and value.base is Base.FRAME and value.which == depth:
                return scalars.UNKNOWN
            return value

        self.state.map_values(gone)
        self.pc = frame.return_pc

    def call_helper(self, insn: Insn) -> None:
        number: int | None = insn.imm
        if insn.opcode == isa.CALLX:
            number = memory.constant(self.read(insn.dst))
        helper = HELPERS.get(number) if number is not None else None
        if helper is None:
            raise Refusal("a call of a helper that is not known, or does not exist")
        if self.program.kind not in helper.kinds:
            raise Refusal(f"{helper.name} cannot be called by this kind of program")
        Call(self.state, helper, self.maps, self.new_id).apply()

    # ---- branches

    def branch(self, insn: Insn) -> tuple[int, State] | None:
        target = jump_target(insn, self.pc)
        assert target is not None
        left, right = self.read(insn.dst), self.operand(insn)
        name = isa.JMP_OPS[insn.op]
        bits = 32 if insn.cls == isa.JMP32 else 64
        if isinstance(left, Scalar) and isinstance(right, Scalar):
            ways = self.number_ways(insn, name, left, right, bits)
        else:
            ways = self.pointer_ways(name, left, right, bits)
        taken, straight = ways
        if straight is None:
            assert taken is not None
            taken(self.state)
            self.pc = target
            return None
        other = None
        if taken is not None:
            other = self.state.copy()
            taken(other)
        straight(self.state)
        self.pc += 1
        return (target, other) if other is not None else None

    def number_ways(
        self, insn: Insn, name: str, left: Scalar, right: Scalar, bits: int
    ) -> tuple[Callable[[State], None] | None, Callable[[State], None] | None]:
        """What each way shows of the operands, as changes of a state; None: it cannot be taken."""

        def narrow(taken: bool) -> Callable[[State], None] | None:
            found = scalars.compare(name, left, right, taken, bits)
            if found is None:
                return None

            def change(changed: State) -> None:
                self.narrow(changed, insn.dst, left, found[0])
                if insn.is_x:
                    self.narrow(changed, insn.src, right, found[1])

            return change

        if insn.is_x and insn.dst == insn.src:
            always = name in ("jeq", "jge", "jle", "jsge", "jsle")
            if name != "jset":
                return (_nothing, None) if always else (None, _nothing)
            return _nothing, _nothing
        return narrow(True), narrow(False)

    def narrow(self, changed: State, number: int, old: Scalar, new: Scalar) -> None:
        """A register, and all copies of its number."""
        if old.id == 0:
            changed.regs[number] = new
            return

        def narrower(value: Scalar | Pointer) -> Value:
            if isinstance(value, Scalar) and value.id == old.id:
                return scalars.intersect(value, new) or value
            return value

        changed.map_values(narrower)

    def pointer_ways(
        self, name: str, left: Scalar | Pointer, right: Scalar | Pointer, bits: int
    ) -> tuple[Callable[[State], None] | None, Callable[[State], None] | None]:
        null = memory.constant(right) == 0
        if not isinstance(left, Pointer) or not null or name not in ("jeq", "jne") or bits == 32:
            return _nothing, _nothing
        if not left.maybe_null:
            if memory.is_inside(left, self.maps):
                return (None, _nothing) if name == "jeq" else (_nothing, None)
            return _nothing, _nothing

        def is_null(changed: State) -> None:
            changed.records -= {left.id}
            changed.map_values(lambda value: scalars.const(0) if _same(value, left) else value)

        def is_valid(changed: State) -> None:
            keep = left.id if left.base is Base.RECORD else 0
            changed.map_values(
                lambda value: (
                    value._replace(maybe_null=False, id=keep)
                    if isinstance(value, Pointer) and _same(value, left)
                    else value
                )
            )

        return (is_null, is_valid) if name == "jeq" else (is_valid, is_null)


def _nothing(_: State) -> None:
    """A way that shows nothing new."""


def _same(value: Scalar | Pointer, pointer: Pointer) -> bool:
    return isinstance(value, Pointer) and value.maybe_null and value.id == pointer.id


def _registers(verifier: _Verifier) -> list[str]:
    regs = verifier.state.regs if verifier.state.frames else []
    return [
        f"r{number} = {state.describe(value, verifier.maps)}"
        for number, value in enumerate(regs)
        if value is not None and number != isa.FP
    ]


def verify_program(program: Program, maps: list[MapDef], max_walked: int = MAX_WALKED) -> Report:
    """The verdict on one program."""
    try:
        check(program.insns, Kind(program.kind), maps)
    except CheckError as error:
        insn = ""
        if error.pc < len(program.insns):
            insn = asm.disassemble_one(program.insns, error.pc)
        return Report(program.name, 0, error.what, error.pc, insn, program.line(error.pc))
    verifier = _Verifier(program, maps, max_walked)
    try:
        verifier.run()
    except (Refusal, scalars.Contradiction) as refusal:
        pc = verifier.pc
        return Report(
            program.name,
            verifier.walked,
            str(refusal) or "what is known of the numbers here contradicts itself",
            pc,
            asm.disassemble_one(program.insns, pc),
            program.line(pc),
            _registers(verifier),
        )
    return Report(program.name, verifier.walked)


def verify(obj: Object, max_walked: int = MAX_WALKED) -> list[Report]:
    """The verdicts on all programs of an object, which is marked as verified if all are accepted."""
    reports = [verify_program(program, obj.maps, max_walked) for program in obj.programs]
    obj.verified = all(report.accepted for report in reports)
    return reports


def require_verified(obj: Object) -> None:
    """:raise BpfError: a program is refused."""
    refused = [str(report) for report in verify(obj) if not report.accepted]
    if refused:
        raise BpfError("\n".join(refused))
