# SPDX-License-Identifier: BSD-3-Clause
"""The verifier's verdicts, in words; and that nothing it accepts ever faults the machine."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bpf"))

from generate import MAPS, generate
from machine import Machine, build_runner

from overlays.bpf import asm, isa, scalars, verifier
from overlays.bpf import compile as bpf_compile
from overlays.bpf.check import CheckError, check
from overlays.bpf.helpers import CTX_SIZE, Kind
from overlays.bpf.isa import Insn
from overlays.bpf.model import MAX_INSNS, Object, Program
from overlays.bpf.scalars import Scalar

HERE = Path(__file__).resolve().parents[1] / "bpf"
SPELT_OUT = {
    "KEY": "stdw [%r10-8], 1\nstdw [%r10-16], 1",
    "LOOKUP 0": "stdw [%r10-8], 1\nlddw %r1, map 0\nmov %r2, %r10\nadd %r2, -8\ncall map_lookup_elem",
}


def verdicts() -> list[tuple[str, Kind, str | None, str]]:
    """(name, kind, words of the refusal, program) from verdicts.txt."""
    rows = []
    for entry in re.split(r"^== ", (HERE / "verdicts.txt").read_text(), flags=re.M)[1:]:
        lines = [line for line in entry.splitlines() if line and not line.startswith("#")]
        name, rest = lines[0], lines[1:]
        kind = Kind.RETURN
        if rest[0].startswith("kind "):
            kind = Kind[rest.pop(0).removeprefix("kind ").upper()]
        verdict, _, words = rest.pop(0).partition(" ")
        assert verdict in ("accept", "refuse") and bool(words) == (verdict == "refuse"), name
        text = "\n".join(SPELT_OUT.get(line, line) for line in rest)
        rows.append((name, kind, words or None, text))
    return rows


def bounds() -> list[tuple[str, Kind, str | None, str]]:
    """Each kind of memory, each size of access, at each end: just inside and just outside."""
    rows = []
    regions = {
        "context": ("mov %r6, %r1", 0, CTX_SIZE, False),
        "frame": ("mov %r6, %r10", -512, 0, True),
        "value": ("lddw %r6, value 0+0", 0, 64, True),
        "constant": ("lddw %r6, value 1+0", 0, 24, False),
        "hash": ("KEY\nlddw %r1, map 2\nmov %r2, %r10\nadd %r2, -8\ncall map_lookup_elem\n"
                 "jeq %r0, 0, exit\nmov %r6, %r0", 0, 32, True),
        "thread": ("KEY\nlddw %r1, map 4\nmov %r2, %r10\nadd %r2, -8\ncall map_lookup_elem\n"
                   "jeq %r0, 0, exit\nmov %r6, %r0", 0, 16, True),
    }  # fmt: skip
    for name, (setup, low, high, writable) in regions.items():
        setup = setup.replace("KEY", SPELT_OUT["KEY"])
        for suffix, size in (("b", 1), ("h", 2), ("w", 4), ("dw", 8)):
            for at in (low - 1, low, high - size, high - size + 1):
                inside = low <= at <= high - size
                written = (
                    f"stdw [%r10{min(max(at, -512) // 8 * 8, -8):+d}], 0\nstdw [%r10-8], 0"
                    if name == "frame"
                    else ""
                )
                end = "mov %r0, 0\nexit"
                words = None if inside else f"{size} bytes at offset {at} are"
                if writable or not inside:
                    text = f"{setup}\nst{suffix} [%r6{at:+d}], 1\n{end}"
                    refusal = words if writable else "cannot be written"
                    rows.append((f"{name} write {size} at {at}", Kind.RETURN, refusal, text))
                text = f"{setup}\n{written}\nldx{suffix} %r7, [%r6{at:+d}]\n{end}"
                rows.append((f"{name} read {size} at {at}", Kind.RETURN, words, text))
    return rows


TABLE = verdicts() + bounds()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(build_runner()) as started:
        yield started


def program_of(text: str, kind: Kind = Kind.RETURN) -> Program:
    return Program("test", kind, "" if kind in (Kind.TIMER, Kind.EXEC) else "f", asm.assemble(text))


def run_some(machine: Machine, program: Program, seed: int, times: int) -> None:
    """An accepted program runs without a fault, whatever its context and maps hold."""
    period = 1_000_000 if program.kind is Kind.TIMER else 0
    program.period_ns = period
    loaded = machine.load(Object("test", MAPS, [program]).to_wire())
    assert "error" not in loaded, loaded
    choose = random.Random(seed)
    for _ in range(times):
        machine.ask("set", "thread", choose.randrange(3))
        words = [
            choose.choice([0, 1, 5, 63, 64, 1 << 63, scalars.U64, choose.getrandbits(64), choose.getrandbits(32)])
            for _ in range(CTX_SIZE // 8)
        ]  # fmt: skip
        answer = machine.run(0, b"".join(word.to_bytes(8, "little") for word in words))
        if answer["status"] != 0:
            listing = "\n".join(f"{pc}: {line}" for pc, line in asm.disassemble(program.insns))
            pytest.fail(f"seed {seed} was accepted and faults: {answer}\n{listing}")


def test_the_table_is_of_some_size() -> None:
    names = [name for name, *_ in TABLE]
    assert len(names) > 300
    refused = sum(words is not None for _, _, words, _ in TABLE)
    assert len(names) // 3 < refused < 2 * len(names) // 3


@pytest.mark.parametrize(("name", "kind", "words", "text"), TABLE, ids=[row[0] for row in TABLE])
def test_verdict(machine: Machine, name: str, kind: Kind, words: str | None, text: str) -> None:
    program = program_of(text, kind)
    report = verifier.verify_program(program, MAPS, 20_000)
    if words is None:
        assert report.accepted, str(report)
        run_some(machine, program, 1, 4)
    else:
        assert words in report.reason or (words == "a loop" and "too complex" in report.reason), (
            str(report)
        )
        assert str(report).startswith(f"test: refused at instruction {report.pc}: ")


def test_refusals_point_at_source_and_registers(tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(
        "#include <uio/bpf.h>\n"
        "UIO_MAP(table, UIO_MAP_HASH, uint64_t, uint64_t, 8);\n"
        'UIO_ENTRY("f") int bad(struct uio_ctx *ctx)\n{\n'
        "\tuint64_t key = ctx->args[0];\n"
        "\tuint64_t *value = uio_map_lookup(&table, &key);\n"
        "\treturn (int)*value;\n}\n"
    )
    obj = bpf_compile.load(source)
    (report,) = verifier.verify(obj)
    assert not report.accepted and not obj.verified
    assert report.line is not None and report.line.number == 7
    text = str(report)
    assert f"{source}:7" in text and "return (int)*value;" in text
    assert "ldxdw %r0, [%r0]" in text and "r0 = value of table, or NULL" in text


def test_what_clang_makes_of_the_example_is_accepted() -> None:
    obj = bpf_compile.load(HERE / "programs/everything.bpf.c")
    reports = verifier.verify(obj)
    assert all(report.accepted for report in reports), "\n".join(map(str, reports))
    assert obj.verified and obj.to_wire()[12] == 1


def test_accepted_random_programs_never_fault(machine: Machine) -> None:
    accepted = 0
    for seed in range(500):
        obj = generate(seed)
        if verifier.verify_program(obj.programs[0], obj.maps, 5_000).accepted:
            accepted += 1
            run_some(machine, obj.programs[0], seed, 3)
    assert accepted > 200


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=1000, max_value=1 << 40))
def test_accepted_programs_of_any_seed_never_fault(seed: int) -> None:
    obj = generate(seed)
    if verifier.verify_program(obj.programs[0], obj.maps, 5_000).accepted:
        with Machine(build_runner()) as own:
            run_some(own, obj.programs[0], seed, 2)


def mutated(choose: random.Random) -> list[Insn]:
    """A few instructions with fields that are often wrong."""
    text = "mov %r0, 0\nlddw %r1, map 2\nldxdw %r2, [%r10-8]\ncall ktime_get_ns\njeq %r0, 1, +1\nmov %r0, 1\nexit"
    insns = asm.assemble(text)
    for _ in range(choose.randrange(1, 4)):
        at = choose.randrange(len(insns))
        field = choose.choice(["opcode", "dst", "src", "offset", "imm"])
        value = {
            "opcode": choose.randrange(256),
            "dst": choose.randrange(16),
            "src": choose.randrange(16),
            "offset": choose.choice([0, 1, -1, 8, 16, 32, 3, -5]),
            "imm": choose.choice([0, 1, 5, 16, 32, 64, 0x51, 0xE1, 1003, -3]),
        }[field]
        insns[at] = insns[at]._replace(**{field: value})
    return insns


def test_both_checks_of_form_agree(machine: Machine) -> None:
    """The host's check and the guest's give the same verdict in the same words."""
    agreed = {True: 0, False: 0}
    for seed in range(3000):
        insns = mutated(random.Random(seed))
        what = ""
        try:
            check(insns, Kind.RETURN, MAPS)
        except CheckError as error:
            what = f"test, {error}"
        answer = machine.load(
            Object("test", MAPS, [Program("test", Kind.RETURN, "f", insns)]).to_wire()
        )
        assert answer.get("error", "") == what, (seed, asm.disassemble(insns))
        agreed[what == ""] += 1
    assert min(agreed.values()) > 300


def test_too_many_instructions() -> None:
    with pytest.raises(CheckError, match="too many"):
        check([Insn(isa.EXIT)] * (MAX_INSNS + 1), Kind.EXEC, [])


# ---- numbers

_ENDS = [
    0,
    1,
    2,
    7,
    63,
    64,
    (1 << 31) - 1,
    1 << 31,
    scalars.U32,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    scalars.U64,
]
numbers = st.one_of(
    st.sampled_from(_ENDS),
    st.integers(0, 80),
    st.integers(0, scalars.U64),
    st.integers(scalars.U64 - 99, scalars.U64),
)


@st.composite
def known(draw: st.DrawFn) -> tuple[Scalar, int]:
    """What may be known of a number, and the number."""
    number, other = draw(numbers), draw(numbers)
    match draw(st.integers(0, 3)):
        case 0:
            return scalars.const(number), number
        case 1:
            return scalars.between(min(number, other), max(number, other)), number
        case 2:
            ends = sorted((isa.signed(number, 64), isa.signed(other, 64)))
            return scalars.between_signed(*ends), number
        case _:
            found = scalars.make(
                number & ~other, other, 0, scalars.U64, scalars.S64_MIN, scalars.S64_MAX
            )
            assert found is not None
            return found, number


def contains(known_number: Scalar, number: int) -> bool:
    return scalars.covers(known_number, scalars.const(number))


def computed(op: str, a: int, b: int, bits: int) -> int:
    """What the machine computes, in plain integers."""
    low = (1 << bits) - 1
    a, b = a & low, b & low
    sa, sb = isa.signed(a, bits), isa.signed(b, bits)
    quotient = 0 if b == 0 else abs(sa) // abs(sb) * (1 if (sa < 0) == (sb < 0) else -1)
    return {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a // b if b else 0, "mod": a % b if b else a,
        "sdiv": quotient, "smod": sa - quotient * sb, "or": a | b, "and": a & b, "xor": a ^ b,
        "lsh": a << b % bits, "rsh": a >> b % bits, "arsh": sa >> b % bits,
    }[op] & low  # fmt: skip


OPERATIONS = [
    "add",
    "sub",
    "mul",
    "div",
    "mod",
    "sdiv",
    "smod",
    "or",
    "and",
    "xor",
    "lsh",
    "rsh",
    "arsh",
]


@settings(max_examples=400, deadline=None)
@given(known(), known(), st.sampled_from([32, 64]))
def test_operations_contain_what_is_computed(
    a: tuple[Scalar, int], b: tuple[Scalar, int], bits: int
) -> None:
    for op in OPERATIONS:
        result = scalars.operate(op, a[0], b[0], bits)
        assert contains(result, computed(op, a[1], b[1], bits)), (op, a, b, result)


@settings(max_examples=400, deadline=None)
@given(known(), known(), st.sampled_from([32, 64]))
def test_comparisons_keep_what_is_compared(
    a: tuple[Scalar, int], b: tuple[Scalar, int], bits: int
) -> None:
    low = (1 << bits) - 1
    x, y = a[1] & low, b[1] & low
    sx, sy = isa.signed(x, bits), isa.signed(y, bits)
    outcomes = {
        "jeq": x == y, "jne": x != y, "jgt": x > y, "jge": x >= y, "jlt": x < y, "jle": x <= y, "jset": x & y != 0,
        "jsgt": sx > sy, "jsge": sx >= sy, "jslt": sx < sy, "jsle": sx <= sy,
    }  # fmt: skip
    for op, outcome in outcomes.items():
        found = scalars.compare(op, a[0], b[0], outcome, bits)
        assert found is not None, (op, a, b)
        assert contains(found[0], a[1]) and contains(found[1], b[1]), (op, a, b, found)


@settings(max_examples=300, deadline=None)
@given(known(), st.sampled_from([8, 16, 32]))
def test_conversions_contain_what_is_converted(a: tuple[Scalar, int], bits: int) -> None:
    assert contains(scalars.truncate(a[0], bits), a[1] & ((1 << bits) - 1))
    assert contains(scalars.sign_extend(a[0], bits), isa.signed(a[1], bits) & scalars.U64)
    assert contains(scalars.negated(a[0]), -a[1] & scalars.U64)
