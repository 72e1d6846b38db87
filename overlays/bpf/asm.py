# SPDX-License-Identifier: BSD-3-Clause
"""Assembler and disassembler, in the notation of the public bpf_conformance suite with names for maps and helpers.

`lddw %r1, map 0` loads a map, `lddw %r1, value 0+8` an address in the first value of an array; `call NAME` and
`call 5` call helpers, `call local LABEL` a function. The first `exit` is also a label of that name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from overlays.bpf import isa
from overlays.bpf.helpers import BY_NAME, HELPERS
from overlays.bpf.isa import Insn


class AsmError(ValueError):
    """A line that is not an instruction; the message names the line."""


_SIZES = {"w": isa.W, "h": isa.H, "b": isa.B, "dw": isa.DW}
_SIZE_NAMES = {size: name for name, size in _SIZES.items()}
_ALU = {name: op for op, name in isa.ALU_OPS.items()}
_JMP = {name: op for op, name in isa.JMP_OPS.items()}
_ATOMIC = {name: op for op, name in isa.ATOMIC_OPS.items()} | {
    "xchg": isa.XCHG,
    "cmpxchg": isa.CMPXCHG,
}

_MEMORY = re.compile(r"\[%r(\d+)\s*([+-]\s*\w+)?\]")
_ALU_NAME = re.compile(r"(s?(?:div|mod)|[a-z]+?)(32|64)?")
_MOVSX = re.compile(r"movsx(8|16|32)(32|64)")
_SWAP = re.compile(r"(be|le|swap|bswap)(16|32|64)")
_JUMP = re.compile(r"(j[a-z]+?)(32)?")
_LOAD = re.compile(r"(ldx|st|stx|ldxs)(b|h|w|dw)")
_VALUE = re.compile(r"value (\d+)(?:\+(\w+))?")


def _number(text: str) -> int:
    try:
        return int(text.replace(" ", ""), 0)
    except ValueError:
        raise AsmError(f"{text!r} is no number") from None


def _imm32(text: str) -> int:
    value = _number(text)
    if not -(1 << 31) <= value < (1 << 32 if "0x" in text else 1 << 31):
        raise AsmError(f"{text} does not fit into 32 bits")
    return isa.signed(value, 32)


def _offset(text: str) -> int:
    value = _number(text)
    if not -(1 << 15) <= value < 1 << 16:
        raise AsmError(f"{text} does not fit into 16 bits")
    return isa.signed(value, 16)


def _register(text: str) -> int:
    match = re.fullmatch(r"%r(\d+)", text)
    if match is None or int(match[1]) > 15:
        raise AsmError(f"{text!r} is no register")
    return int(match[1])


def _memory(text: str) -> tuple[int, int]:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise AsmError(f"{text!r} is no memory operand")
    return int(match[1]), _offset(match[2]) if match[2] else 0


class _Assembler:
    def __init__(self) -> None:
        self.out: list[Insn] = []
        self.labels: dict[str, int] = {}
        self.pending: list[tuple[int, str]] = []

    def emit(self, *insns: Insn) -> None:
        self.out.extend(insns)

    def target(self, text: str) -> int:
        """A relative target at once, a label later."""
        if text[0] in "+-":
            return _number(text)
        self.pending.append((len(self.out), text))
        return 0

    def line(self, text: str) -> None:
        label = re.match(r"\s*([A-Za-z_]\w*):\s*", text)
        if label is not None:
            if self.labels.get(label[1], len(self.out)) != len(self.out):
                raise AsmError(f"label {label[1]} is there twice")
            self.labels[label[1]] = len(self.out)
            text = text[label.end() :]
        text = text.strip()
        if not text:
            return
        mnemonic, _, rest = text.partition(" ")
        operands = [part.strip() for part in rest.split(",")] if rest.strip() else []
        try:
            self.instruction(mnemonic, operands)
        except IndexError:
            raise AsmError(f"{mnemonic} lacks an operand") from None

    def instruction(self, mnemonic: str, args: list[str]) -> None:
        if mnemonic == "exit":
            self.labels.setdefault("exit", len(self.out))
            self.emit(Insn(isa.EXIT))
        elif mnemonic == "lddw":
            self.lddw(_register(args[0]), args[1])
        elif mnemonic == "call":
            self.call(args[0])
        elif mnemonic == "lock":
            self.atomic(args)
        elif mnemonic == "ja":
            self.emit(Insn(isa.JA, offset=self.target(args[0])))
        elif mnemonic in ("ja32", "gotol"):
            self.emit(Insn(isa.JA32, imm=self.target(args[0])))
        elif (match := _LOAD.fullmatch(mnemonic)) is not None:
            self.load_store(match[1], _SIZES[match[2]], args)
        elif (match := _SWAP.fullmatch(mnemonic)) is not None:
            opcode = {
                "le": isa.ALU | isa.END,
                "be": isa.ALU | isa.END | isa.X,
                "swap": isa.ALU64 | isa.END,
                "bswap": isa.ALU64 | isa.END,
            }[match[1]]
            self.emit(Insn(opcode, _register(args[0]), imm=int(match[2])))
        elif (match := _MOVSX.fullmatch(mnemonic)) is not None:
            cls = isa.ALU if match[2] == "32" else isa.ALU64
            self.emit(
                Insn(
                    cls | 0xB0 | isa.X, _register(args[0]), _register(args[1]), offset=int(match[1])
                )
            )
        elif (match := _JUMP.fullmatch(mnemonic)) is not None and match[1] in _JMP:
            cls = isa.JMP32 if match[2] else isa.JMP
            self.jump(cls | _JMP[match[1]], args)
        elif (match := _ALU_NAME.fullmatch(mnemonic)) is not None:
            self.alu(match[1], isa.ALU if match[2] == "32" else isa.ALU64, args)
        else:
            raise AsmError(f"{mnemonic!r} is no instruction")

    def lddw(self, dst: int, text: str) -> None:
        if text.startswith("map "):
            self.emit(*isa.lddw(dst, _number(text[4:]), isa.IMM64_MAP))
        elif (match := _VALUE.fullmatch(text)) is not None:
            offset = _number(match[2]) if match[2] else 0
            self.emit(*isa.lddw(dst, int(match[1]) | offset << 32, isa.IMM64_MAP_VALUE))
        else:
            self.emit(*isa.lddw(dst, _number(text)))

    def call(self, text: str) -> None:
        mode, _, rest = text.partition(" ")
        if mode == "local":
            self.emit(Insn(isa.CALL, src=isa.CALL_LOCAL, imm=self.target(rest.strip())))
            return
        name = rest.strip() if mode in ("helper", "runtime") else text
        if name.startswith("%"):
            self.emit(Insn(isa.CALLX, _register(name)))
            return
        helper = BY_NAME.get(name)
        number = helper.id if helper else _imm32(name)
        self.emit(Insn(isa.CALL, src=2 if mode == "runtime" else isa.CALL_HELPER, imm=number))

    def atomic(self, args: list[str]) -> None:
        words = args[0].split(None, 2 if args[0].startswith("fetch ") else 1)
        fetch = words[0] == "fetch"
        name, memory = words[-2], words[-1]
        size = isa.DW
        if name.endswith("32"):
            name, size = name[:-2], isa.W
        op = _ATOMIC.get(name)
        if op is None:
            raise AsmError(f"{name!r} is no atomic operation")
        dst, offset = _memory(memory)
        self.emit(
            Insn(
                isa.STX | isa.ATOMIC | size,
                dst,
                _register(args[1]),
                offset,
                op | (isa.FETCH if fetch else 0),
            )
        )

    def load_store(self, kind: str, size: int, args: list[str]) -> None:
        if kind in ("ldx", "ldxs"):
            src, offset = _memory(args[1])
            mode = isa.MEM if kind == "ldx" else isa.MEMSX
            self.emit(Insn(isa.LDX | mode | size, _register(args[0]), src, offset))
            return
        dst, offset = _memory(args[0])
        if kind == "st":
            self.emit(Insn(isa.ST | isa.MEM | size, dst, 0, offset, _imm32(args[1])))
        else:
            self.emit(Insn(isa.STX | isa.MEM | size, dst, _register(args[1]), offset))

    def jump(self, opcode: int, args: list[str]) -> None:
        dst = _register(args[0])
        if args[1].startswith("%"):
            src = _register(args[1])
            self.emit(Insn(opcode | isa.X, dst, src, self.target(args[2])))
        else:
            imm = _imm32(args[1])
            self.emit(Insn(opcode, dst, 0, self.target(args[2]), imm))

    def alu(self, name: str, cls: int, args: list[str]) -> None:
        offset = int(name in ("sdiv", "smod"))
        op = _ALU.get(name[1:] if offset else name)
        if op is None:
            raise AsmError(f"{name!r} is no instruction")
        dst = _register(args[0])
        if name == "neg":
            if len(args) > 1:
                raise AsmError("neg has one operand")
            self.emit(Insn(cls | op, dst))
        elif args[1].startswith("%"):
            self.emit(Insn(cls | op | isa.X, dst, _register(args[1]), offset))
        else:
            self.emit(Insn(cls | op, dst, 0, offset, _imm32(args[1])))

    def resolve(self) -> list[Insn]:
        for at, label in self.pending:
            if label not in self.labels:
                raise AsmError(f"no label {label!r}")
            distance = self.labels[label] - at - 1
            insn = self.out[at]
            if insn.opcode in (isa.CALL, isa.JA32):
                self.out[at] = insn._replace(imm=distance)
            else:
                self.out[at] = insn._replace(offset=distance)
        return self.out


def assemble(text: str) -> list[Insn]:
    """:raise AsmError: with the line's number and text."""
    assembler = _Assembler()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            assembler.line(re.split(r"[#;]", line)[0])
        except AsmError as error:
            raise AsmError(f"line {number}: {error}: {line.strip()}") from None
    return assembler.resolve()


def _memory_text(register: int, offset: int) -> str:
    return f"[%r{register}{offset:+d}]" if offset else f"[%r{register}]"


def _lddw_text(insn: Insn, second: Insn) -> str:
    if insn.src == isa.IMM64_MAP:
        return f"lddw %r{insn.dst}, map {insn.imm}"
    if insn.src == isa.IMM64_MAP_VALUE:
        return f"lddw %r{insn.dst}, value {insn.imm}+{second.imm}"
    return f"lddw %r{insn.dst}, {isa.imm64(insn, second):#x}"


def _alu_text(insn: Insn) -> str:
    width = "32" if insn.cls == isa.ALU else ""
    if insn.op == isa.END:
        name = "swap" if insn.cls == isa.ALU64 else "be" if insn.is_x else "le"
        return f"{name}{insn.imm} %r{insn.dst}"
    name = isa.ALU_OPS.get(insn.op, "?")
    if name == "neg":
        return f"neg{width} %r{insn.dst}"
    if name == "mov" and insn.offset:
        return f"movsx{insn.offset}{width or 64} %r{insn.dst}, %r{insn.src}"
    if insn.offset and name in ("div", "mod"):
        name = "s" + name
    operand = f"%r{insn.src}" if insn.is_x else str(insn.imm)
    return f"{name}{width} %r{insn.dst}, {operand}"


def _jump_text(insn: Insn) -> str:
    if insn.opcode == isa.EXIT:
        return "exit"
    if insn.opcode == isa.JA:
        return f"ja {insn.offset:+d}"
    if insn.opcode == isa.JA32:
        return f"ja32 {insn.imm:+d}"
    if insn.opcode == isa.CALLX:
        return f"call %r{insn.dst}"
    if insn.opcode == isa.CALL:
        if insn.src == isa.CALL_LOCAL:
            return f"call local {insn.imm:+d}"
        helper = HELPERS.get(insn.imm)
        return f"call {helper.name}" if helper else f"call {insn.imm}"
    width = "32" if insn.cls == isa.JMP32 else ""
    operand = f"%r{insn.src}" if insn.is_x else str(insn.imm)
    return f"{isa.JMP_OPS.get(insn.op, '?')}{width} %r{insn.dst}, {operand}, {insn.offset:+d}"


def _memory_insn_text(insn: Insn) -> str:
    size = _SIZE_NAMES[insn.opcode & 0x18]
    mode = insn.opcode & 0xE0
    if insn.cls == isa.LDX:
        kind = "ldxs" if mode == isa.MEMSX else "ldx"
        return f"{kind}{size} %r{insn.dst}, {_memory_text(insn.src, insn.offset)}"
    memory = _memory_text(insn.dst, insn.offset)
    if insn.cls == isa.ST:
        return f"st{size} {memory}, {insn.imm}"
    if mode == isa.MEM:
        return f"stx{size} {memory}, %r{insn.src}"
    width = "32" if size == "w" else ""
    if insn.imm in (isa.XCHG, isa.CMPXCHG):
        name = "xchg" if insn.imm == isa.XCHG else "cmpxchg"
        return f"lock {name}{width} {memory}, %r{insn.src}"
    fetch = "fetch " if insn.imm & isa.FETCH else ""
    name = isa.ATOMIC_OPS.get(insn.imm & ~isa.FETCH, "?")
    return f"lock {fetch}{name}{width} {memory}, %r{insn.src}"


def disassemble_one(insns: Sequence[Insn], pc: int) -> str:
    """The instruction at pc in words; nothing for the second half of a 64-bit load."""
    insn = insns[pc]
    if insn.opcode == isa.LDDW:
        return _lddw_text(insn, insns[pc + 1] if pc + 1 < len(insns) else Insn(0))
    if insn.cls in (isa.ALU, isa.ALU64):
        return _alu_text(insn)
    if insn.cls in (isa.JMP, isa.JMP32):
        return _jump_text(insn)
    if insn.cls == isa.LD:
        return f"? {insn.encode().hex()}"
    return _memory_insn_text(insn)


def disassemble(insns: Sequence[Insn]) -> list[tuple[int, str]]:
    """(index, text) of every instruction; the text assembles to the same bytes."""
    lines = []
    pc = 0
    while pc < len(insns):
        lines.append((pc, disassemble_one(insns, pc)))
        pc += 2 if insns[pc].opcode == isa.LDDW else 1
    return lines
