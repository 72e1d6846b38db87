# SPDX-License-Identifier: BSD-3-Clause
"""Random programs that look as if somebody had written them: most accesses are nearly right, some are not."""

from __future__ import annotations

import random
from collections.abc import Callable

from overlays.bpf import asm
from overlays.bpf.helpers import CTX_SIZE, Kind, MapType
from overlays.bpf.isa import Insn
from overlays.bpf.model import MapDef, Object, Program

MAPS = [
    MapDef("array", MapType.ARRAY, 4, 64, 4, False, b"initial"),
    MapDef("constants", MapType.ARRAY, 4, 24, 1, True, b"constants"),
    MapDef("hash", MapType.HASH, 8, 32, 8),
    MapDef("lru", MapType.LRU_HASH, 4, 12, 4),
    MapDef("threads", MapType.THREAD_ARRAY, 4, 16, 2),
    MapDef("ring", MapType.RINGBUF, 0, 0, 512),
    MapDef("stacks", MapType.STACK, 4, 64, 4),
]
KEYED = {"array": 0, "hash": 2, "lru": 3, "threads": 4}
SIZES = {"b": 1, "h": 2, "w": 4, "dw": 8}
OPERATIONS = [
    "add", "sub", "mul", "div", "sdiv", "or", "and", "lsh", "rsh", "mod", "smod", "xor", "mov", "arsh",
]  # fmt: skip
JUMPS = ["jeq", "jgt", "jge", "jset", "jne", "jsgt", "jsge", "jlt", "jle", "jslt", "jsle"]


class Generator:
    """One program; its text grows by snippets."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.labels = 0
        self.functions: list[list[str]] = []
        self.depth = 0

    def label(self) -> str:
        self.labels += 1
        return f"l{self.labels}"

    def emit(self, *lines: str) -> None:
        self.lines += lines

    def reg(self) -> str:
        return f"%r{self.random.choice([0, 1, 2, 3, 6, 7, 8, 9])}"

    def constant(self) -> int:
        choice = self.random.randrange(4)
        if choice == 0:
            return self.random.choice([0, 1, -1, 7, 8, 63, 64, 0x7FFFFFFF, -0x80000000])
        return (
            self.random.randrange(-8, 80)
            if choice < 3
            else self.random.randrange(-(1 << 31), 1 << 31)
        )

    def near(self, limit: int) -> int:
        """An offset that is mostly inside."""
        if self.random.random() < 0.06:
            return limit + self.random.randrange(-2, 6)
        return self.random.randrange(max(limit, 1))

    # ---- snippets

    def number(self) -> None:
        reg = self.reg()
        choice = self.random.randrange(5)
        if choice == 0:
            self.emit(f"mov {reg}, {self.constant()}")
        elif choice == 1:
            size = self.random.choice(list(SIZES))
            self.emit("mov %r4, %r6" if self.depth else "ldxdw %r4, [%r10-8]")
            self.emit(f"ldx{size} {reg}, [%r4+{self.near(CTX_SIZE - SIZES[size] + 1)}]")
        elif choice == 2:
            self.emit(f"lddw {reg}, {self.random.getrandbits(64):#x}")
        elif choice == 3:
            self.emit("call get_prandom_u32", f"mov {reg}, %r0")
        else:
            self.emit("call ktime_get_ns", f"mov {reg}, %r0")

    def arithmetic(self) -> None:
        name = self.random.choice(OPERATIONS) + self.random.choice(["", "32"])
        operand = self.reg() if self.random.random() < 0.4 else str(self.constant())
        self.emit(f"{name} {self.reg()}, {operand}")

    def unary(self) -> None:
        reg = self.reg()
        self.emit(
            self.random.choice(
                [f"neg {reg}", f"neg32 {reg}", f"be16 {reg}", f"le32 {reg}", f"swap64 {reg}",
                 f"movsx864 {reg}, {self.reg()}", f"movsx1632 {reg}, {self.reg()}",
                 f"movsx3264 {reg}, {self.reg()}", f"mov32 {reg}, {self.reg()}"]
            )
        )  # fmt: skip

    def skip(self) -> None:
        """Something that is only done sometimes."""
        label = self.label()
        operand = self.reg() if self.random.random() < 0.3 else str(self.constant())
        jump = self.random.choice(JUMPS) + self.random.choice(["", "32"])
        self.emit(f"{jump} {self.reg()}, {operand}, {label}")
        for _ in range(self.random.randrange(1, 3)):
            self.snippet()
        self.emit(f"{label}:", f"mov {self.reg()}, {self.constant()}")

    def bound(self, reg: str, limit: int) -> None:
        """Make a number small, in one of the ways in which compilers do."""
        limit = max(limit, 1)
        choice = self.random.randrange(6)
        if choice == 0:
            self.emit(f"and {reg}, {(1 << (limit.bit_length() - 1)) - 1}")
        elif choice == 1:
            self.emit(f"mod {reg}, {limit}")
        elif choice == 2:
            label = self.label()
            op = self.random.choice(["jlt", "jlt32", "jle", "jslt", "jslt32"])
            self.emit(
                f"{op} {reg}, {limit}, {label}",
                f"mov {reg}, {self.random.randrange(limit)}",
                f"{label}:",
            )
        elif choice == 3:
            self.emit(f"and32 {reg}, {limit - 1}")
        elif choice == 4:
            self.emit(f"rsh {reg}, {64 - max(limit.bit_length() - 1, 1)}")
        else:
            label = self.label()
            self.emit(f"mov %r4, {limit}", f"jgt %r4, {reg}, {label}", f"mov {reg}, 0", f"{label}:")

    def memory(self, pointer: str, length: int, *, low: int = 0, write: bool = True) -> None:
        """Loads and stores through a pointer with `length` bytes behind it."""
        other = self.random.choice([r for r in ("%r0", "%r1", "%r2", "%r3", "%r8") if r != pointer])
        size = self.random.choice(list(SIZES))
        if self.random.random() < 0.4:
            # an index that is only known to be small
            index = self.random.choice([r for r in ("%r2", "%r3", "%r8") if r != pointer])
            self.emit(f"mov {index}, %r9")
            room = length - SIZES[size]
            scale = self.random.choice([0, 0, 1, 3])
            self.bound(index, self.near(room + 1) >> scale)
            if scale:
                self.emit(f"lsh {index}, {scale}")
            self.emit(f"add {pointer}, {index}")
            offset = low + self.random.choice([0, 0, self.near(4)])
        else:
            offset = low + self.near(length - SIZES[size] + 1)
        choice = self.random.randrange(5)
        if choice == 0 and write:
            self.emit(f"st{size} [{pointer}{offset:+d}], {self.constant()}")
        elif choice == 1 and write:
            self.emit(f"stx{size} [{pointer}{offset:+d}], %r9")
        elif choice == 2 and write and size in ("w", "dw"):
            name = self.random.choice(["add", "fetch xor", "xchg", "cmpxchg", "fetch or", "and"])
            self.emit("mov %r5, %r9", "mov %r0, 1")
            if self.random.random() < 0.9:
                offset &= -SIZES[size]
            self.emit(f"lock {name}{'32' if size == 'w' else ''} [{pointer}{offset:+d}], %r5")
        elif choice == 3 and size != "dw":
            self.emit(f"ldxs{size} {other}, [{pointer}{offset:+d}]")
        else:
            self.emit(f"ldx{size} {other}, [{pointer}{offset:+d}]")

    def frame(self) -> None:
        if self.random.random() < 0.5:
            size = self.random.choice(list(SIZES))
            value = self.random.choice(["%r9", "%r8", "%r7"])
            at = -self.random.randrange(9, 200)
            self.emit(f"stx{size} [%r10{at:+d}], {value}", f"ldx{size} {self.reg()}, [%r10{at:+d}]")
            return
        self.emit("mov %r1, %r10", "stdw [%r10-64], 0", "stdw [%r10-56], 0", "stdw [%r10-48], 0")
        self.memory("%r1", 24, low=-64)

    def key(self, reg: str, at: int) -> None:
        if self.random.random() < 0.5:
            self.emit(f"stdw [%r10{at:+d}], {self.random.randrange(6)}")
        else:
            self.emit(f"stxdw [%r10{at:+d}], %r9")
        self.emit(f"mov {reg}, %r10", f"add {reg}, {at}")

    def lookup(self) -> None:
        name = self.random.choice(list(KEYED))
        index = KEYED[name]
        self.key("%r2", -16)
        self.emit(f"lddw %r1, map {index}", "call map_lookup_elem")
        label = self.label()
        pointer = self.random.choice(["%r0", "%r7"])
        if pointer != "%r0":
            self.emit(f"mov {pointer}, %r0")
        if self.random.random() < 0.95:
            self.emit(f"jeq %r0, 0, {label}")
        self.memory(pointer, MAPS[index].value_size)
        self.emit(f"{label}:", "mov %r0, 0", "mov %r7, 1")

    def globals(self) -> None:
        index = self.random.randrange(2)
        offset = self.random.randrange(MAPS[index].value_size)
        self.emit(f"lddw %r7, value {index}+{offset}")
        self.memory("%r7", MAPS[index].value_size, low=-offset, write=index == 0)
        self.emit("mov %r7, 3")

    def update(self) -> None:
        name = self.random.choice(list(KEYED))
        self.key("%r2", -16)
        self.emit(f"lddw %r1, map {KEYED[name]}")
        choice = self.random.randrange(3)
        if choice == 0:
            self.emit("mov %r3, %r9", "call map_add")
        elif choice == 1 and name in ("hash", "lru"):
            self.emit("call map_delete_elem")
        else:
            size = MAPS[KEYED[name]].value_size
            if self.random.random() < 0.95:
                self.emit(*(f"stdw [%r10{at:+d}], {at}" for at in range(-96, -96 + size, 8)))
            self.emit("mov %r3, %r10", "add %r3, -96", f"mov %r4, {self.random.randrange(4)}")
            self.emit("call map_update_elem")
        self.after_call()

    def record(self) -> None:
        size = self.random.choice([1, 8, 24, 100])
        self.emit("lddw %r1, map 5", f"mov %r2, {size}", "mov %r3, 0", "call ringbuf_reserve")
        label = self.label()
        self.emit(f"jeq %r0, 0, {label}", "mov %r7, %r0", "mov %r8, %r0")
        self.memory("%r7", size)
        if self.random.random() < 0.96:
            name = self.random.choice(["submit", "discard"])
            self.emit("mov %r1, %r8", "mov %r2, 0", f"call ringbuf_{name}")
        self.emit(f"{label}:", "mov %r7, 5", "mov %r8, 6")
        self.after_call()

    def buffer(self) -> None:
        """A helper with a buffer, sometimes of a size that is only known to be small."""
        size = self.random.choice([1, 8, 16, 33])
        self.emit("mov %r1, %r10", "add %r1, -96")
        if self.random.random() < 0.5:
            self.emit(f"mov %r2, {self.near(size + 1)}")
        else:
            self.emit("mov %r2, %r9")
            self.bound("%r2", size)
            if self.random.random() < 0.7:
                self.emit("add %r2, 1")
        call = self.random.choice(
            ["get_current_comm", "probe_read_kernel", "probe_read_kernel_str"]
        )
        self.emit("mov %r3, %r9", f"call {call}")
        self.after_call()
        if self.random.random() < 0.5:
            self.emit("ldxb %r8, [%r10-96]")

    def context_helper(self) -> None:
        self.emit("ldxdw %r1, [%r10-8]" if not self.depth else "mov %r1, %r6")
        choice = self.random.randrange(4)
        if choice == 0:
            self.emit(
                "mov %r2, %r9",
                "mov %r3, %r10",
                "add %r3, -24",
                "call get_func_arg",
                "ldxdw %r3, [%r10-24]",
            )
            self.emit("mov %r9, %r3")
        elif choice == 1:
            self.emit(
                "lddw %r2, map 6",
                f"mov %r3, {self.random.choice([0, 1, 1024])}",
                "call get_stackid",
            )
        elif choice == 2:
            self.emit("call get_func_ip", "mov %r9, %r0")
        else:
            self.emit("mov %r1, %r9", "call log2", "mov %r9, %r0")
        self.after_call()

    def after_call(self) -> None:
        self.emit(*(f"mov %r{n}, {n}" for n in (1, 2, 3)))
        if self.random.random() < 0.5:
            self.emit("mov %r0, 0")

    def loop(self) -> None:
        label = self.label()
        self.emit("mov %r7, 0", f"stxdw [%r10-{200 + 8 * self.depth}], %r7", f"{label}:")
        self.snippet()
        slot = f"[%r10-{200 + 8 * self.depth}]"
        step = self.random.choice([1, 1, 1, 3])
        self.emit(f"ldxdw %r7, {slot}", f"add %r7, {step}", f"stxdw {slot}, %r7")
        jump = self.random.choice(["jlt", "jle", "jne", "jslt32"])
        self.emit(f"{jump} %r7, {self.random.randrange(1, 10) * step}, {label}")

    def call(self) -> None:
        """A function: it gets a pointer into the frame, the context and a number."""
        name = self.label()
        self.emit("stdw [%r10-64], 1", "stdw [%r10-56], 2")
        self.emit("mov %r1, %r10", "add %r1, -64", "mov %r3, %r9")
        self.emit("ldxdw %r2, [%r10-8]" if not self.depth else "mov %r2, %r6", f"call local {name}")
        self.after_call()
        outside, self.lines = self.lines, []
        self.depth += 1
        self.emit(
            f"{name}:", "mov %r6, %r2", "mov %r9, %r3", "mov %r8, 0", "mov %r7, %r1", "mov %r0, 0"
        )
        if self.random.random() < 0.7:
            self.memory("%r1", 16)
        self.emit(*(f"mov %r{n}, {n}" for n in (1, 2, 3)))
        for _ in range(self.random.randrange(1, 4)):
            self.snippet()
        self.emit(f"mov %r0, {self.reg()}", "exit")
        self.depth -= 1
        self.functions.append(self.lines)
        self.lines = outside

    def snippet(self) -> None:
        choices: list[tuple[Callable[[], None], int]] = [
            (self.number, 3), (self.arithmetic, 6), (self.unary, 2), (self.skip, 4), (self.frame, 3), (self.lookup, 4),
            (self.globals, 3), (self.update, 2), (self.record, 1), (self.buffer, 2), (self.context_helper, 2),
        ]  # fmt: skip
        if self.depth < 2:
            choices += [(self.loop, 2), (self.call, 1)]
        snippets, weights = zip(*choices, strict=True)
        self.random.choices(snippets, weights)[0]()

    def program(self) -> str:
        self.emit("stxdw [%r10-8], %r1", "mov %r6, %r1", "ldxdw %r9, [%r1+8]")
        self.emit(*(f"mov %r{n}, {n}" for n in (0, 1, 2, 3, 7, 8)))
        for _ in range(self.random.randrange(1, 7)):
            self.snippet()
        self.emit("mov %r0, %r9", "exit")
        return "\n".join(self.lines + [line for lines in self.functions for line in lines])


def generate(seed: int) -> Object:
    """An object with one random program; every third has one field of one instruction changed."""
    generator = Generator(seed)
    insns = asm.assemble(generator.program())
    if seed % 3 == 0:
        at = generator.random.randrange(len(insns))
        field = generator.random.choice(["dst", "src", "offset", "imm"])
        insn: Insn = insns[at]
        limit = 10 if field in ("dst", "src") else 40
        insns[at] = insn._replace(**{field: generator.random.randrange(limit)})
    return Object("generated", MAPS, [Program("generated", Kind.RETURN, "f", insns)])
