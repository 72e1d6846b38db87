# SPDX-License-Identifier: BSD-3-Clause
"""Maps, helpers and budgets of libuio's eBPF machine, and what a fuzzer makes of it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bpf"))

from machine import BUILD, INCLUDES, WARNINGS, Machine, build, build_runner, sources

from overlays.bpf import asm
from overlays.bpf.helpers import CTX_SIZE, Kind, MapType
from overlays.bpf.model import MapDef, Object, Program

ENOENT, E2BIG, EEXIST, EINVAL, EPERM, EFAULT = 2, 7, 17, 22, 1, 14


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(build_runner()) as started:
        yield started


def load(
    machine: Machine, maps: list[MapDef], text: str = "mov %r0, 0\nexit", kind: Kind = Kind.RETURN
) -> None:
    target = "" if kind is Kind.EXEC else "f"
    answer = machine.load(
        Object("test", maps, [Program("p", kind, target, asm.assemble(text))]).to_wire()
    )
    assert "error" not in answer, answer


def number(value: int, size: int = 8) -> str:
    return value.to_bytes(size, "little").hex()


def keys(machine: Machine, index: int = 0) -> set[int]:
    rows = machine.ask("map", index)["entries"][:-1]
    return {int.from_bytes(bytes.fromhex(key), "little") for key, _, _ in rows}


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH])
@pytest.mark.parametrize(("size", "key_size"), [(1, 8), (5, 3), (64, 8), (100, 17)])
def test_hash_maps_do_what_dictionaries_do(
    machine: Machine, kind: MapType, size: int, key_size: int
) -> None:
    """Against a model, through inserts, updates with each flag, lookups and deletions."""
    load(machine, [MapDef("m", kind, key_size, 8, size)])
    model: OrderedDict[int, int] = OrderedDict()
    choose = random.Random(size * key_size)
    for step in range(1500):
        key = choose.randrange(size * 2 + 1)
        hexed = number(key, key_size)
        action = choose.randrange(10)
        if action < 5:
            flags = choose.choice([0, 0, 0, 1, 2, 3])
            expected = 0
            if flags == 3:
                expected = -EINVAL
            elif key in model:
                expected = -EEXIST if flags == 1 else 0
            elif flags == 2:
                expected = -ENOENT
            elif len(model) == size:
                if kind is MapType.LRU_HASH:
                    model.popitem(last=False)
                else:
                    expected = -E2BIG
            assert machine.ask("update", 0, hexed, number(step), flags)["result"] == expected
            if expected == 0:
                model[key] = step
                model.move_to_end(key)
        elif action < 8:
            found = machine.ask("lookup", 0, hexed)["value"]
            assert found == (number(model[key]) if key in model else None)
            if key in model:
                model.move_to_end(key)
        elif action == 8:
            expected = 0 if model.pop(key, None) is not None else -ENOENT
            assert machine.ask("delete", 0, hexed)["result"] == expected
        else:
            assert keys(machine) == set(model)
            assert machine.ask("map", 0)["count"] == len(model)
    machine.ask("clear", 0)
    assert keys(machine) == set()
    assert machine.ask("update", 0, number(1, key_size), number(1))["result"] == 0


def test_arrays_have_all_their_entries_and_no_others(machine: Machine) -> None:
    load(machine, [MapDef("m", MapType.ARRAY, 4, 12, 3)])
    assert machine.ask("update", 0, number(2, 4), number(9, 12))["result"] == 0
    assert machine.ask("update", 0, number(3, 4), number(9, 12))["result"] == -E2BIG
    assert machine.ask("update", 0, number(0, 4), number(9, 12), 1)["result"] == -EEXIST
    assert machine.ask("lookup", 0, number(2, 4))["value"] == number(9, 12)
    assert machine.ask("lookup", 0, number(3, 4))["value"] is None
    assert machine.ask("delete", 0, number(0, 4))["result"] == -EINVAL
    assert len(machine.ask("map", 0)["entries"][:-1]) == 3


def test_threads_have_values_of_their_own(machine: Machine) -> None:
    load(machine, [MapDef("m", MapType.THREAD_ARRAY, 4, 8, 2)])
    for thread in range(1, 40):
        machine.ask("set", "thread", thread)
        result = machine.ask("update", 0, number(1, 4), number(thread))["result"]
        assert result == (0 if thread <= 32 else -E2BIG)
    machine.ask("set", "thread", 7)
    assert machine.ask("lookup", 0, number(1, 4))["value"] == number(7)
    rows = machine.ask("map", 0)["entries"][:-1]
    assert {(value, thread) for key, value, thread in rows if key == number(1, 4)} == {
        (number(thread), thread) for thread in range(1, 33)
    }


RESERVE = """
ldxdw %r6, [%r1+8]
lddw %r1, map 0
mov %r2, 24
mov %r3, 0
call ringbuf_reserve
jeq %r0, 0, full
stxdw [%r0+0], %r6
mov %r1, %r0
mov %r2, 0
call ringbuf_submit
mov %r0, 0
exit
full:
mov %r0, 1
exit
"""


def context(*args: int) -> bytes:
    words = [0, *args]
    return b"".join(word.to_bytes(8, "little") for word in words).ljust(CTX_SIZE, b"\0")


def test_ring_buffers_keep_order_and_drop_when_full(machine: Machine) -> None:
    load(machine, [MapDef("ring", MapType.RINGBUF, 0, 0, 256)], RESERVE)
    queue: deque[int] = deque()
    choose = random.Random(1)
    drops = 0
    for step in range(2000):
        if choose.random() < 0.55:
            answer = machine.run(0, context(step))
            if answer["r0"] == 0:
                queue.append(step)
                assert answer["wakes"] == 1
            else:
                drops += 1
                assert len(queue) >= 6  # of 8 that fit, less what lies at the end
        else:
            answer = machine.ask("ring", 0, 1)
            records = answer["records"][:-1]
            assert answer["drops"] == drops
            expected = [number(queue.popleft()) + number(0) * 2] if queue else []
            assert records == expected
    assert drops > 0


def test_a_record_that_a_program_keeps_is_discarded_at_its_end(machine: Machine) -> None:
    text = RESERVE.replace("mov %r1, %r0\nmov %r2, 0\ncall ringbuf_submit\n", "")
    load(machine, [MapDef("ring", MapType.RINGBUF, 0, 0, 128)], text)
    for _ in range(20):
        assert machine.run(0, context(1))["r0"] == 0
        assert machine.ask("ring", 0)["records"] == [None]


def test_stacks_have_one_id_each(machine: Machine) -> None:
    text = "lddw %r2, map 0\nldxdw %r3, [%r1+8]\ncall get_stackid\nexit"
    load(machine, [MapDef("stacks", MapType.STACK, 4, 32, 64)], text)

    def id_of(ip: int, depth: int, flags: int = 0) -> int:
        ctx = bytearray(context(flags))
        ctx[0:8] = ip.to_bytes(8, "little")
        ctx[80:88] = (depth - 1).to_bytes(8, "little")  # the runner's stacks follow from ip and sp
        return int(machine.run(0, bytes(ctx))["r0"])

    first, second = id_of(0x1000, 3), id_of(0x2000, 2)
    assert first != second and id_of(0x1000, 3) == first and id_of(0x1000, 2) != first
    rows = {key: value for key, value, _ in machine.ask("map", 0)["entries"][:-1]}
    assert rows[number(first, 4)] == number(0x1000) + number(0x1010) + number(0x1020) + number(0)
    assert id_of(0x1000, 3, 1) not in (first, second)
    assert id_of(0x1000, 1, 1) == 2**64 - EFAULT
    assert id_of(0x1000, 1, 1 << 20) == 2**64 - EINVAL


@pytest.mark.parametrize("definition", [
    MapDef("m", MapType.ARRAY, 8, 8, 1), MapDef("m", MapType.ARRAY, 4, 0, 1), MapDef("m", MapType.HASH, 0, 8, 1),
    MapDef("m", MapType.HASH, 8, 8, 0), MapDef("m", MapType.HASH, 300, 8, 1), MapDef("m", MapType.RINGBUF, 0, 0, 100),
    MapDef("m", MapType.RINGBUF, 4, 0, 128), MapDef("m", MapType.STACK, 4, 12, 1),
    MapDef("m", MapType.STACK, 4, 4096, 1),
    MapDef("m", MapType.ARRAY, 4, 1 << 21, 1), MapDef("m", MapType.ARRAY, 4, 8, 1 << 21),
])  # fmt: skip
def test_maps_that_cannot_be(machine: Machine, definition: MapDef) -> None:
    obj = Object(
        "test", [definition], [Program("p", Kind.RETURN, "f", asm.assemble("mov %r0, 0\nexit"))]
    )
    assert machine.load(obj.to_wire())["error"] == "a map's definition is not valid: m"


def test_maps_have_a_limit_of_memory(machine: Machine) -> None:
    maps = [MapDef(f"m{i}", MapType.ARRAY, 4, 1 << 20, 20) for i in range(4)]
    obj = Object("test", maps, [Program("p", Kind.RETURN, "f", asm.assemble("mov %r0, 0\nexit"))])
    assert machine.load(obj.to_wire())["error"] == "no room for a map: m3"


# ---- programs that the verifier would refuse still cannot do harm


def test_values_end_where_they_end(machine: Machine) -> None:
    """Values of 12 bytes lie 16 apart; what is between is nobody's."""
    maps = [MapDef("m", MapType.ARRAY, 4, 12, 4), MapDef("c", MapType.ARRAY, 4, 12, 4, True)]
    for index, offset, size, write, good in [
        (0, 0, "dw", True, True), (0, 4, "dw", True, True), (0, 5, "dw", True, False), (0, 12, "b", False, False),
        (0, 16, "dw", True, True), (0, 11, "h", False, False), (0, 48, "w", True, True), (0, 60, "b", False, False),
        (0, -1, "b", False, False), (1, 0, "b", False, True), (1, 0, "b", True, False), (1, 16, "b", True, False),
    ]:  # fmt: skip
        access = f"stx{size} [%r1{offset:+d}], %r0" if write else f"ldx{size} %r2, [%r1{offset:+d}]"
        load(machine, maps, f"lddw %r1, value {index}+0\nmov %r0, 0\n{access}\nexit")
        assert (machine.run()["status"] == 0) is good, (index, offset, size, write)


def test_the_context_is_read_only(machine: Machine) -> None:
    load(machine, [], "mov %r0, 0\nstxdw [%r1], %r0\nexit")
    answer = machine.run(0, context(1))
    assert (answer["status"], answer["pc"], answer["size"]) == (3, 1, 8)
    assert machine.run(0, context(1), rights="rw")["status"] == 0


def test_a_record_cannot_be_touched_after_its_end(machine: Machine) -> None:
    text = RESERVE.replace("mov %r0, 0\nexit\nfull", "stxdw [%r9], %r6\nexit\nfull").replace(
        "stxdw [%r0+0]", "mov %r9, %r0\nstxdw [%r0+0]"
    )
    load(machine, [MapDef("ring", MapType.RINGBUF, 0, 0, 128)], text)
    assert machine.run(0, context(1))["why"] == "touched memory that is not its own"


def test_budgets_end_a_program(machine: Machine) -> None:
    load(machine, [], "mov %r0, 0\nloop:\nadd %r0, 1\njlt %r0, 1000, loop\nexit")
    assert machine.run()["used"] == 2002
    machine.ask("set", "budget", 2002)
    assert machine.run()["status"] == 0
    machine.ask("set", "budget", 2001)
    assert machine.run()["why"] == "used up its instructions"
    machine.ask("set", "budget", 20_000)
    load(machine, [], "loop:\nja loop")
    answer = machine.run()
    assert (answer["why"], answer["used"]) == ("used up its instructions", 1 << 20)


def test_time_ends_a_program(machine: Machine) -> None:
    load(machine, [], "loop:\nja loop")
    machine.ask("set", "budget", 1 << 50)
    machine.ask("set", "time", 1_000_000)
    assert machine.run()["why"] == "used up its time"


PRINT = [
    ("plain", [], "plain"),
    ("%d|%i|%u|%x|%X|%o", [2**64 - 5, 7, 2**32 - 1], "-5|7|4294967295|0|0|0"),
    ("%ld %lu %lx", [2**64 - 5, 2**64 - 1, 255], "-5 18446744073709551615 ff"),
    ("%5d|%-5d|%05d", [42, 42, 2**64 - 42], "   42|42   |-0042"),
    ("%p %c%%", [0x1234, 65], "0x1234 A%"),
    ("%s", [0], "(null)"),
    ("%s", [16], ""),
    ("%q %", [], "%q %"),
    ("%300d", [1], " " * 255),
    ("%lld%zu%hd", [2**63, 3, 2**16], "-9223372036854775808365536"),
]


@pytest.mark.parametrize(("text", "args", "expected"), PRINT)
def test_formats(machine: Machine, text: str, args: list[int], expected: str) -> None:
    raw = text.encode() + b"\0"
    setup = "\n".join(f"lddw %r{3 + i}, {value:#x}" for i, value in enumerate([*args, 0, 0, 0][:3]))
    load(
        machine,
        [MapDef("f", MapType.ARRAY, 4, len(raw), 1, True, raw)],
        f"lddw %r1, value 0+0\nmov %r2, {len(raw)}\n{setup}\ncall trace_printk\nexit",
    )
    answer = machine.run()
    assert bytes.fromhex(answer["text"]).decode() == expected
    assert answer["r0"] == len(expected)


def test_reads_of_foreign_memory_may_fail(machine: Machine) -> None:
    text = """
    stdw [%r10-8], 77
    ldxdw %r3, [%r1+8]
    mov %r1, %r10
    add %r1, -8
    mov %r2, 8
    call {}
    ldxdw %r1, [%r10-8]
    jne %r1, 0, bad
    exit
    bad:
    mov %r0, 1
    exit
    """
    for helper in ("probe_read_kernel", "probe_read_kernel_str"):
        load(machine, [], text.format(helper))
        assert machine.run(0, context(16))["r0"] == 2**64 - EFAULT


@pytest.mark.parametrize(
    ("s", "t", "expected"),
    [("abc", "abc", 0), ("abc", "abd", -1), ("abc", "ab", 99), ("", "a", -97), ("", "", 0)],
)
def test_strings_compare(machine: Machine, s: str, t: str, expected: int) -> None:
    maps = [
        MapDef(name, MapType.ARRAY, 4, max(len(text), 1), 1, True, text.encode())
        for name, text in (("s", s), ("t", t))
    ]
    load(
        machine,
        maps,
        f"lddw %r1, value 0+0\nmov %r2, {max(len(s), 1)}\nlddw %r3, value 1+0\nmov %r4, {max(len(t), 1)}\n"
        "call strings_compare\nexit",
    )
    assert machine.run()["r0"] == expected & 2**64 - 1


def test_read_only_maps_stay_as_they_are(machine: Machine) -> None:
    text = """
    stdw [%r10-8], 0
    lddw %r1, map 0
    mov %r2, %r10
    add %r2, -8
    mov %r3, 1
    call map_add
    exit
    """
    load(machine, [MapDef("c", MapType.ARRAY, 4, 8, 1, True)], text)
    assert machine.run()["r0"] == 2**64 - EPERM


# ---- how it is built, and the fuzzer


@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
def test_compiles_without_warnings_and_floating_point(compiler: str, tmp_path: Path) -> None:
    flags = [*WARNINGS, "-Wpedantic", "-O2", "-mgeneral-regs-only", "-ffreestanding", "-c"]
    for source in sources():
        output = tmp_path / f"{Path(source).stem}.o"
        subprocess.run([compiler, *flags, *INCLUDES, source, "-o", str(output)], check=True)
    undefined = subprocess.run(
        ["nm", "-u", *map(str, tmp_path.glob("*.o"))], capture_output=True, text=True, check=True
    ).stdout.split()
    needed = {name for name in undefined if name != "U" and not name.endswith(":")}
    allowed = {
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "memchr",
        "strlen",
        "uio_port_alloc",
        "uio_port_free",
    }
    assert {name for name in needed if not name.startswith("uio_bpf_")} <= allowed


@pytest.mark.timeout(300)
def test_fuzzer_finds_no_way_out() -> None:
    """A fixed number of runs; docs/bpf.md says how to run it for longer."""
    flags = ["-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    fuzzer = build("fuzz-vm", "fuzz_vm.c", "clang-14", flags)
    crashes = BUILD / "crashes"
    crashes.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(fuzzer), "-runs=150000", "-seed=1", "-max_len=1200", f"-artifact_prefix={crashes}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
