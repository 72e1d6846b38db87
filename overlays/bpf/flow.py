# SPDX-License-Identifier: BSD-3-Clause
"""Which registers still matter at an instruction, so that the verifier can tell when it has been there before.

A register is live if its value may still be used; it decides if that use may have a say in which way control goes or
whether an access is allowed. What is only stored in maps or returned does not decide.
"""

from __future__ import annotations

from collections.abc import Sequence

from overlays.bpf import isa
from overlays.bpf.check import jump_target
from overlays.bpf.helpers import HELPERS, Arg
from overlays.bpf.isa import Insn

_ARGS = 0b111110  # r1 to r5
_CLOBBERED = 0b111111
_FP_BIT = 1 << isa.FP


def _effect(insn: Insn) -> tuple[int, int, int, bool]:
    """(registers used, those that decide, those overwritten, whether it copies src's importance from dst's)."""
    dst, src = 1 << insn.dst, 1 << insn.src
    if insn.cls in (isa.ALU, isa.ALU64):
        mov = insn.op == 0xB0
        used = (0 if mov else dst) | (src if insn.is_x and insn.op != isa.END else 0)
        return used, 0, dst, True
    if insn.opcode == isa.LDDW:
        return 0, 0, dst, False
    if insn.cls == isa.LDX:
        return src, src, dst, False
    if insn.cls == isa.ST:
        return dst, dst, 0, False
    if insn.cls == isa.STX:
        if insn.opcode & 0xE0 == isa.ATOMIC:
            fetched = 1 if insn.imm == isa.CMPXCHG else src if insn.imm & isa.FETCH else 0
            used = dst | src | (1 if insn.imm == isa.CMPXCHG else 0)
            return used, used, fetched, False
        # A value in the frame is tracked when it is stored through r10, and only then.
        return dst | src, dst | (src if insn.dst == isa.FP else 0), 0, False
    if insn.opcode == isa.EXIT:
        return 1, 1, 0, False
    if insn.opcode == isa.CALL:
        return *_call_effect(insn), False
    if insn.opcode == isa.CALLX:
        return dst | _ARGS, dst | _ARGS, _CLOBBERED, False
    used = 0
    if insn.op in isa.JMP_OPS:
        used = dst | (src if insn.is_x else 0)
    return used, used, 0, False


def _call_effect(insn: Insn) -> tuple[int, int, int]:
    if insn.src == isa.CALL_LOCAL:
        return _ARGS, _ARGS, _CLOBBERED
    used = deciding = 0
    for number, arg in enumerate(HELPERS[insn.imm].args, 1):
        used |= 1 << number
        if arg != Arg.ANY:
            deciding |= 1 << number
    return used, deciding, _CLOBBERED


def _end_of_main(insns: Sequence[Insn], pcs: Sequence[int]) -> int:
    """Where the first function ends; 0 if it is also called."""
    calls = [
        pc + 1 + insns[pc].imm
        for pc in pcs
        if insns[pc].opcode == isa.CALL and insns[pc].src == isa.CALL_LOCAL
    ]
    return min(calls, default=len(insns))


class Flow:
    """Bit masks of registers, per instruction: as they are before it."""

    def __init__(self, insns: Sequence[Insn]) -> None:
        self.live = [0] * (len(insns) + 1)
        self.deciding = [0] * (len(insns) + 1)
        self.targets: set[int] = set()
        pcs = []
        pc = 0
        while pc < len(insns):
            pcs.append(pc)
            pc += 2 if insns[pc].opcode == isa.LDDW else 1
        effects = {pc: _effect(insns[pc]) for pc in pcs}
        # What the program returns decides nothing; what its functions return may.
        for pc in range(_end_of_main(insns, pcs)):
            if insns[pc].opcode == isa.EXIT and pc in effects:
                effects[pc] = (1, 0, 0, False)
        successors: dict[int, list[int]] = {}
        for pc in pcs:
            insn = insns[pc]
            following = pc + (2 if insn.opcode == isa.LDDW else 1)
            target = jump_target(insn, pc)
            if insn.opcode == isa.EXIT:
                successors[pc] = []
            elif insn.opcode in (isa.JA, isa.JA32):
                assert target is not None
                successors[pc] = [target]
            else:
                successors[pc] = [following] + ([target] if target is not None else [])
            if target is not None:
                self.targets.add(target)
        changed = True
        while changed:
            changed = False
            for pc in reversed(pcs):
                used, decides, written, copies = effects[pc]
                live = deciding = 0
                for successor in successors[pc]:
                    live |= self.live[successor]
                    deciding |= self.deciding[successor]
                if copies and deciding & written:
                    decides |= used
                live = (live & ~written) | used | _FP_BIT
                deciding = (deciding & ~written) | decides | _FP_BIT
                if live != self.live[pc] or deciding != self.deciding[pc]:
                    self.live[pc], self.deciding[pc] = live, deciding
                    changed = True
