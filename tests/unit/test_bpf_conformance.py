# SPDX-License-Identifier: BSD-3-Clause
"""Every instruction does what RFC 9669 says, with the machine under sanitizers; what is none is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bpf"))

from machine import DATA, Case, build_runner, run_plugin

from overlays.bpf import asm, isa
from overlays.bpf.isa import Insn

CASES = sorted(DATA.glob("*.data"))
# What is given as bytes has no text.
WITH_TEXT = [path for path in CASES if "-- raw" not in path.read_text()]


@pytest.fixture(scope="module")
def runner() -> Path:
    return build_runner()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_machine_gives_the_result_of_the_file(runner: Path, path: Path) -> None:
    case = Case(path.read_text())
    assert (case.result is None) != (case.error is None)
    r0, said = run_plugin(runner, case)
    assert (r0, said) == (case.result, case.error or "")


@pytest.mark.parametrize("path", WITH_TEXT, ids=lambda path: path.stem)
def test_disassembly_assembles_to_the_same_bytes(path: Path) -> None:
    insns = Case(path.read_text()).insns
    text = "\n".join(line for _, line in asm.disassemble(insns))
    assert asm.assemble(text) == insns


def variants() -> set[tuple[int, int]]:
    """All instructions of RFC 9669: opcode and, where it matters, what else selects the operation."""
    every: set[tuple[int, int]] = set()
    for cls in (isa.ALU, isa.ALU64):
        for op, name in isa.ALU_OPS.items():
            sources = [isa.K] if name == "neg" else [isa.K, isa.X]
            every |= {(cls | op | src, 0) for src in sources}
            if name in ("div", "mod"):
                every |= {(cls | op | src, 1) for src in sources}
    every |= {(isa.ALU | 0xB0 | isa.X, bits) for bits in (8, 16)}
    every |= {(isa.ALU64 | 0xB0 | isa.X, bits) for bits in (8, 16, 32)}
    for opcode in (isa.ALU | isa.END, isa.ALU | isa.END | isa.X, isa.ALU64 | isa.END):
        every |= {(opcode, bits) for bits in (16, 32, 64)}
    for cls in (isa.JMP, isa.JMP32):
        every |= {(cls | op | src, 0) for op in isa.JMP_OPS for src in (isa.K, isa.X)}
    every |= {
        (isa.JA, 0),
        (isa.JA32, 0),
        (isa.EXIT, 0),
        (isa.CALL, 0),
        (isa.CALL, 1),
        (isa.LDDW, 0),
    }
    for size in (isa.B, isa.H, isa.W, isa.DW):
        every |= {(cls | isa.MEM | size, 0) for cls in (isa.LDX, isa.ST, isa.STX)}
        if size != isa.DW:
            every.add((isa.LDX | isa.MEMSX | size, 0))
    for size in (isa.W, isa.DW):
        operations = [op | fetch for op in isa.ATOMIC_OPS for fetch in (0, isa.FETCH)]
        every |= {(isa.STX | isa.ATOMIC | size, op) for op in [*operations, isa.XCHG, isa.CMPXCHG]}
    return every


def variant(insn: Insn) -> tuple[int, int]:
    if insn.cls in (isa.ALU, isa.ALU64):
        return insn.opcode, insn.imm if insn.op == isa.END else insn.offset
    if insn.opcode == isa.CALL:
        return insn.opcode, insn.src
    if insn.cls == isa.STX and insn.opcode & 0xE0 == isa.ATOMIC:
        return insn.opcode, insn.imm
    return insn.opcode, 0


def test_the_files_cover_every_instruction() -> None:
    seen = {
        variant(insn)
        for path in CASES
        if not path.stem.startswith("error-")
        for insn in Case(path.read_text()).insns
    }
    assert variants() - seen == set()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ldxq %r0, [%r1]", "'ldxq' is no instruction"),
        ("mov32 %r0, 0x100000000", "does not fit into 32 bits"),
        ("mov %r0, 2147483648", "does not fit into 32 bits"),
        ("ldxb %r0, [%r1+0x10000]", "does not fit into 16 bits"),
        ("ldxb %r0, %r1", "is no memory operand"),
        ("mov %r16, 1", "is no register"),
        ("ja nowhere", "no label 'nowhere'"),
        ("lock or [%r10-8]", "lacks an operand"),
        ("add %r0", "lacks an operand"),
        ("a:\nmov %r0, 0\na:", "is there twice"),
    ],
)
def test_assembler_refuses(line: str, said: str) -> None:
    with pytest.raises(asm.AsmError, match=said.replace("[", r"\[")):
        asm.assemble(line)
