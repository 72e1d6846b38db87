# SPDX-License-Identifier: BSD-3-Clause
"""What any program must be before its meaning is looked at: the same check as libuio's core/bpf_check.c.

Each instruction is one of the set with its unused fields zero, registers exist, jumps stay in their function and
never hit the second half of a 64-bit load, no function runs off its end, maps and helpers exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from overlays.bpf import isa
from overlays.bpf.helpers import HELPERS, Kind, MapType
from overlays.bpf.isa import Insn
from overlays.bpf.model import MAX_INSNS, MapDef

_NO_INSN = "no such instruction"
_NO_REGISTER = "no such register"
_FP_WRITTEN = "r10 cannot be written"
_ATOMICS = {op | fetch for op in isa.ATOMIC_OPS for fetch in (0, isa.FETCH)} | {
    isa.XCHG,
    isa.CMPXCHG,
}


class CheckError(Exception):
    """The program is malformed at an instruction."""

    def __init__(self, pc: int, what: str) -> None:
        super().__init__(f"instruction {pc}: {what}")
        self.pc = pc
        self.what = what


class _Fields:
    """Which fields of an instruction may be other than zero."""

    def __init__(self, *, writes: bool = False, dst: bool = True, src: bool = False,
                 offset: bool = False, imm: bool = False) -> None:  # fmt: skip
        self.writes, self.dst, self.src, self.offset, self.imm = writes, dst, src, offset, imm


def _alu_fields(insn: Insn) -> _Fields | None:
    if insn.op == isa.END:
        bad = insn.cls == isa.ALU64 and insn.is_x
        return None if bad else _Fields(writes=True, imm=True)
    name = isa.ALU_OPS.get(insn.op)
    if name is None or (name == "neg" and insn.is_x):
        return None
    if name == "neg":
        return _Fields(writes=True)
    offset = name in ("div", "mod", "mov")
    return _Fields(writes=True, src=insn.is_x, imm=not insn.is_x, offset=offset)


def _jump_fields(insn: Insn) -> _Fields | None:
    if insn.opcode == isa.JA:
        return _Fields(dst=False, offset=True)
    if insn.opcode == isa.JA32:
        return _Fields(dst=False, imm=True)
    if insn.opcode == isa.CALL:
        return _Fields(dst=False, src=True, imm=True)
    if insn.opcode == isa.CALLX:
        return _Fields()
    if insn.opcode == isa.EXIT:
        return _Fields(dst=False)
    if insn.op not in isa.JMP_OPS:
        return None
    return _Fields(offset=True, src=insn.is_x, imm=not insn.is_x)


def _memory_fields(insn: Insn) -> _Fields | None:
    mode, size = insn.opcode & 0xE0, insn.opcode & 0x18
    if insn.cls == isa.LDX:
        valid = mode == isa.MEM or (mode == isa.MEMSX and size != isa.DW)
        return _Fields(writes=True, src=True, offset=True) if valid else None
    if insn.cls == isa.ST:
        return _Fields(offset=True, imm=True) if mode == isa.MEM else None
    if mode == isa.MEM:
        return _Fields(src=True, offset=True)
    valid = mode == isa.ATOMIC and size in (isa.W, isa.DW)
    return _Fields(src=True, offset=True, imm=True) if valid else None


def _fields(insn: Insn) -> _Fields | None:
    if insn.cls == isa.LD:
        lddw = insn.opcode == isa.LDDW
        return _Fields(writes=True, src=True, imm=True) if lddw else None
    if insn.cls in (isa.ALU, isa.ALU64):
        return _alu_fields(insn)
    if insn.cls in (isa.JMP, isa.JMP32):
        return _jump_fields(insn)
    return _memory_fields(insn)


class _Checker:
    def __init__(self, insns: Sequence[Insn], kind: Kind, maps: Sequence[MapDef]) -> None:
        self.insns, self.kind, self.maps = insns, kind, maps
        self.second: set[int] = set()
        self.starts: set[int] = {0}

    def lddw(self, pc: int) -> str | None:
        insn = self.insns[pc]
        if pc + 1 == len(self.insns):
            return "half of a 64-bit load"
        second = self.insns[pc + 1]
        if second[:4] != (0, 0, 0, 0):
            return "the second half of a 64-bit load has fields that are not zero"
        if insn.src == isa.IMM64_VALUE:
            return None
        if insn.src not in (isa.IMM64_MAP, isa.IMM64_MAP_VALUE):
            return "a kind of 64-bit load that this machine does not have"
        if not 0 <= insn.imm < len(self.maps):
            return "no such map"
        if insn.src == isa.IMM64_MAP:
            return "a map has no offset" if second.imm else None
        if self.maps[insn.imm].type != MapType.ARRAY:
            return "only an array has values with fixed addresses"
        if not 0 <= second.imm < self.maps[insn.imm].value_size:
            return "an offset outside the map's value"
        return None

    def call(self, insn: Insn) -> str | None:
        if insn.src == isa.CALL_LOCAL:
            return None
        if insn.src != isa.CALL_HELPER:
            return "a kind of call that this machine does not have"
        helper = HELPERS.get(insn.imm)
        if helper is None:
            return "no such helper"
        if self.kind not in helper.kinds:
            return "a helper that this kind of program may not call"
        return None

    def own(self, pc: int) -> str | None:
        insn = self.insns[pc]
        if insn.opcode == isa.LDDW:
            return self.lddw(pc)
        if insn.opcode == isa.CALL:
            return self.call(insn)
        if insn.cls == isa.STX and insn.opcode & 0xE0 == isa.ATOMIC:
            if insn.imm & isa.FETCH and insn.imm != isa.CMPXCHG and insn.src == isa.FP:
                return _FP_WRITTEN
            return None if insn.imm in _ATOMICS else "an atomic operation that does not exist"
        if insn.cls not in (isa.ALU, isa.ALU64):
            return None
        if insn.op == isa.END:
            good = insn.imm in (16, 32, 64)
            return None if good else "a byte swap of a width other than 16, 32 or 64"
        name = isa.ALU_OPS[insn.op]
        if name == "mov" and insn.offset:
            if not insn.is_x:
                return "a sign-extending move of a constant"
            good = insn.offset in ((8, 16) if insn.cls == isa.ALU else (8, 16, 32))
            return None if good else "a sign-extending move of a width that does not exist"
        if name in ("div", "mod") and insn.offset not in (0, 1):
            return "an offset that means nothing"
        return None

    def one(self, pc: int) -> str | None:
        insn = self.insns[pc]
        fields = _fields(insn)
        if fields is None:
            return _NO_INSN
        if insn.dst > isa.FP:
            return _NO_REGISTER
        if not fields.dst and insn.dst:
            return "a destination that means nothing"
        if fields.writes and insn.dst == isa.FP:
            return _FP_WRITTEN
        if fields.src and insn.src > isa.FP:
            return _NO_REGISTER
        if not fields.src and insn.src:
            return "a source that means nothing"
        if not fields.offset and insn.offset:
            return "an offset that means nothing"
        if not fields.imm and insn.imm:
            return "a constant that means nothing"
        return self.own(pc)

    def calls(self) -> None:
        for pc, insn in enumerate(self.insns):
            if pc in self.second or insn.opcode != isa.CALL or insn.src != isa.CALL_LOCAL:
                continue
            target = pc + 1 + insn.imm
            if not 0 <= target < len(self.insns):
                raise CheckError(pc, "a call out of the program")
            if target in self.second:
                raise CheckError(pc, "a call into a 64-bit load")
            self.starts.add(target)

    def function(self, start: int, end: int) -> None:
        for pc in range(start, end):
            target = jump_target(self.insns[pc], pc)
            if pc in self.second or target is None:
                continue
            if not start <= target < end:
                raise CheckError(pc, "a jump out of its function")
            if target in self.second:
                raise CheckError(pc, "a jump into a 64-bit load")
        last = self.insns[end - 1]
        if end - 1 in self.second or last.opcode not in (isa.EXIT, isa.JA, isa.JA32):
            raise CheckError(end - 1, "a function that runs off its end")


def jump_target(insn: Insn, pc: int) -> int | None:
    """Where a jump goes if it is taken; None for other instructions."""
    if insn.opcode == isa.JA32:
        return pc + 1 + insn.imm
    if insn.opcode == isa.JA or (insn.cls in (isa.JMP, isa.JMP32) and insn.op in isa.JMP_OPS):
        return pc + 1 + insn.offset
    return None


def check(insns: Sequence[Insn], kind: Kind, maps: Sequence[MapDef]) -> list[tuple[int, int]]:
    """The program's functions as (start, end).

    :raise CheckError: for the first thing that is wrong.
    """
    if not insns or len(insns) > MAX_INSNS:
        raise CheckError(0, "too many instructions" if insns else "no instructions")
    checker = _Checker(insns, kind, maps)
    pc = 0
    while pc < len(insns):
        what = checker.one(pc)
        if what is not None:
            raise CheckError(pc, what)
        if insns[pc].opcode == isa.LDDW:
            checker.second.add(pc + 1)
            pc += 1
        pc += 1
    checker.calls()
    starts = sorted(checker.starts)
    functions = list(zip(starts, [*starts[1:], len(insns)], strict=True))
    for start, end in functions:
        checker.function(start, end)
    return functions
