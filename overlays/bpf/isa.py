# SPDX-License-Identifier: BSD-3-Clause
"""The instruction set of RFC 9669 as data: opcode fields, and instructions to and from bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

# Classes
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
# Source operand
K, X = 0x00, 0x08
# Sizes, and their bytes
W, H, B, DW = 0x00, 0x08, 0x10, 0x18
SIZE_BYTES = {W: 4, H: 2, B: 1, DW: 8}
# Modes
IMM, MEM, MEMSX, ATOMIC = 0x00, 0x60, 0x80, 0xC0

ALU_OPS = {
    0x00: "add",
    0x10: "sub",
    0x20: "mul",
    0x30: "div",
    0x40: "or",
    0x50: "and",
    0x60: "lsh",
    0x70: "rsh",
    0x80: "neg",
    0x90: "mod",
    0xA0: "xor",
    0xB0: "mov",
    0xC0: "arsh",
}
END = 0xD0
JMP_OPS = {
    0x10: "jeq",
    0x20: "jgt",
    0x30: "jge",
    0x40: "jset",
    0x50: "jne",
    0x60: "jsgt",
    0x70: "jsge",
    0xA0: "jlt",
    0xB0: "jle",
    0xC0: "jslt",
    0xD0: "jsle",
}
ATOMIC_OPS = {0x00: "add", 0x40: "or", 0x50: "and", 0xA0: "xor"}
FETCH, XCHG, CMPXCHG = 0x01, 0xE1, 0xF1

LDDW = LD | IMM | DW
CALL, CALLX, EXIT = JMP | 0x80, JMP | 0x80 | X, JMP | 0x90
JA, JA32 = JMP, JMP32
CALL_HELPER, CALL_LOCAL = 0, 1
# src of LDDW
IMM64_VALUE, IMM64_MAP, IMM64_MAP_VALUE = 0, 5, 6
FP = 10

_FORMAT = struct.Struct("<BBhi")


class Insn(NamedTuple):
    """One instruction slot; a 64-bit load takes two."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0

    def encode(self) -> bytes:
        return _FORMAT.pack(self.opcode, self.dst | self.src << 4, self.offset, self.imm)

    @property
    def cls(self) -> int:
        return self.opcode & 7

    @property
    def op(self) -> int:
        return self.opcode & 0xF0

    @property
    def is_x(self) -> bool:
        return bool(self.opcode & X)


def encode(insns: Iterable[Insn]) -> bytes:
    return b"".join(insn.encode() for insn in insns)


def decode(data: bytes) -> list[Insn]:
    """:raise ValueError: the bytes are not whole instructions."""
    if len(data) % 8:
        raise ValueError("instructions are 8 bytes each")
    return [
        Insn(opcode, regs & 15, regs >> 4, offset, imm)
        for opcode, regs, offset, imm in _FORMAT.iter_unpack(data)
    ]


def lddw(dst: int, value: int, src: int = IMM64_VALUE) -> list[Insn]:
    """A 64-bit load: both slots."""
    return [
        Insn(LDDW, dst, src, 0, signed(value, 32)),
        Insn(0, imm=signed(value >> 32, 32)),
    ]


def imm64(first: Insn, second: Insn) -> int:
    return first.imm & 0xFFFFFFFF | (second.imm & 0xFFFFFFFF) << 32


def signed(value: int, bits: int) -> int:
    """The low bits of a number as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
