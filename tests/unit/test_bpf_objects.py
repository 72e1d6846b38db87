# SPDX-License-Identifier: BSD-3-Clause
"""C goes through clang, the object reader and the wire format into the machine, and does there what it says."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bpf"))

from machine import Machine, build_runner

from overlays.bpf import compile as bpf_compile
from overlays.bpf import model
from overlays.bpf.helpers import HELPERS, Kind, MapType
from overlays.bpf.model import BpfError, MapDef, Object
from overlays.bpf.objects import parse_section_name, read_object

PROGRAMS = Path(__file__).resolve().parents[1] / "bpf/programs"


@pytest.fixture(scope="module")
def everything() -> Object:
    return bpf_compile.load(PROGRAMS / "everything.bpf.c")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(build_runner()) as started:
        yield started


def context(kind: Kind, *args: int, ret: int = 0, elapsed: int = 0, thread: int = 1) -> bytes:
    arguments = [*args, *[0] * (6 - len(args))]
    return struct.pack("<12Q2I", 0x401000, *arguments, ret, elapsed, 0x402000, 4, 0, thread, kind)


def compiled(tmp_path: Path, source: str) -> Object:
    path = tmp_path / "test.bpf.c"
    path.write_text(f"#include <uio/bpf.h>\n{source}")
    return bpf_compile.load(path)


def entries(machine: Machine, obj: Object, name: str) -> dict[int, tuple[int, ...]]:
    """A map's entries, keys and values as numbers."""
    rows = machine.ask("map", obj.map_index(name))["entries"][:-1]
    return {
        int.from_bytes(bytes.fromhex(key), "little"): struct.unpack(
            f"<{len(value) // 16}Q", bytes.fromhex(value)
        )
        for key, value, _ in rows
    }


def test_programs_and_maps_are_found(everything: Object) -> None:
    assert [(p.name, p.kind, p.target) for p in everything.programs] == [
        ("count_entries", Kind.ENTRY, "set_count"),
        ("count_again", Kind.ENTRY, "set_count"),
        ("measure", Kind.RETURN, "set_count"),
        ("tick", Kind.TIMER, ""),
        ("report", Kind.EXEC, ""),
    ]
    assert everything.programs[3].period_ns == 10_000_000
    by_name = {m.name: m for m in everything.maps}
    assert by_name["stats"] == MapDef("stats", MapType.HASH, 8, 24, 64)
    assert by_name["by_btf"] == MapDef("by_btf", MapType.HASH, 4, 24, 16)
    assert by_name["events"].type == MapType.RINGBUF
    assert by_name[".rodata"].readonly and not by_name[".data"].readonly
    assert by_name[".data"].data == b"\x05"


def test_instructions_know_their_lines(everything: Object) -> None:
    program = everything.programs[0]
    line = program.line(len(program.insns) - 1)
    assert line is not None and line.file.endswith("everything.bpf.c")
    assert line.text.startswith("return x > threshold") or "weight" in line.text
    assert "weight" in program.functions.values()


def test_wire_format_and_back(everything: Object) -> None:
    wire = everything.to_wire()
    assert model.from_wire(wire).to_wire() == wire


def test_everything_runs(machine: Machine, everything: Object) -> None:
    loaded = machine.load(everything.to_wire())
    assert loaded["maps"] == len(everything.maps) and loaded["programs"] == 5
    for _ in range(2):
        assert machine.run(0, context(Kind.ENTRY, 9, thread=3))["r0"] == 0
    assert entries(machine, everything, "stats") == {9: (2, 9 + 18, 3)}
    assert machine.run(1, context(Kind.ENTRY, 0, 5))["r0"] == 10
    assert machine.ask("map", everything.map_index("stacks"))["count"] == 1
    answer = machine.run(2, context(Kind.RETURN, ret=7, elapsed=1000))
    assert (answer["r0"], answer["wakes"]) == (0, 1)
    assert machine.run(2, context(Kind.RETURN, ret=-1 & 2**64 - 1))["wakes"] == 0
    records = machine.ask("ring", everything.map_index("events"))["records"][:-1]
    assert len(records) == 1
    _, value, who = struct.unpack("<Qq16s", bytes.fromhex(records[0]))
    assert (value, who.rstrip(b"\0")) == (7, b"thread-1")
    assert machine.run(3, context(Kind.TIMER, 4))["r0"] == 0
    assert entries(machine, everything, "by_btf")[7][:2] == (4, 2)
    answer = machine.run(4, context(Kind.EXEC, 2))
    text = bytes.fromhex(answer["text"]).decode()
    assert text == "calls 7 of argument-0, 2 arguments\ndone\n"
    assert answer["r0"] == 2


def test_helper_tables_are_the_same(machine: Machine) -> None:
    def bits(members: frozenset[Kind] | frozenset[MapType]) -> int:
        return sum(1 << member for member in members)

    ours = [
        [h.id, h.name, h.ret, [*h.args, *[0] * (5 - len(h.args))], bits(h.kinds), bits(h.maps)]
        for h in HELPERS.values()
    ]
    assert machine.ask("helpers") == json.loads(json.dumps(ours))


def test_context_is_laid_out_alike(tmp_path: Path) -> None:
    checks = "\n".join(
        f'_Static_assert(offsetof(struct uio_ctx, {name}) == {offset}, "");'
        for name, offset in (("ip", 0), ("args[5]", 48), ("ret", 56), ("elapsed_ns", 64), ("caller", 72),
                             ("thread", 96), ("kind", 100))
    )  # fmt: skip
    source = tmp_path / "layout.c"
    source.write_text(
        f'#include <uio/bpf.h>\n{checks}\n_Static_assert(sizeof(struct uio_ctx) == 104, "");\n'
    )
    bpf_compile.compile_source(source, tmp_path / "layout.o")
    core = (Path(model.__file__).parents[2] / "unikraft_patches/libuio/core").as_posix()
    source.write_text(
        source.read_text().replace("<uio/bpf.h>", '"bpf.h"').replace("uio_ctx", "bpf_ctx")
    )
    subprocess.run(["gcc", f"-I{core}", "-fsyntax-only", str(source)], check=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("int x;", "contains no programs"),
        ('UIO_SEC("uio/entry:") int f(void *c) { return c != 0; }', "names no function"),
        ('UIO_SEC("uio/uprobe") int f(void *c) { return c != 0; }', "is no place for a program"),
        ('UIO_TIMER("10") int f(void *c) { return c != 0; }', "is no period"),
        ('UIO_TIMER("1us") int f(void *c) { return c != 0; }', "too short"),
        ("extern int g(void); UIO_EXEC int f(void *c) { return c ? g() : 0; }", "not defined"),
        ('static const char *volatile s[] = {"a", "b"}; UIO_EXEC int f(struct uio_ctx *c)'
         " { return s[c->args[0] & 1][0]; }", "cannot contain pointers"),
        ("struct { int a; } m UIO_SEC(\".maps\"); UIO_EXEC int f(void *c)"
         " { return uio_bpf_map_delete_elem(&m, c); }", "neither __uint"),
        ("struct { __uint(type, 99); __type(key, int); __type(value, int); __uint(max_entries, 1); }"
         ' m UIO_SEC(".maps"); UIO_EXEC int f(void *c) { return uio_map_delete(&m, (int *)c); }', "does not know"),
        ("static __attribute__((noinline)) long g(long x) { return x + 1; } UIO_EXEC int f(struct uio_ctx *c)"
         " { long (*volatile p)(long) = g; return p(c->args[0]); }", "takes"),
        ("int f(", "does not compile"),
    ],
)  # fmt: skip
def test_refused_sources(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(BpfError, match=said):
        compiled(tmp_path, source)


def test_damaged_object_files_are_refused_or_read(tmp_path: Path) -> None:
    """Whatever a byte is changed to, the reader ends with an object or a BpfError."""
    output = tmp_path / "e.o"
    bpf_compile.compile_source(PROGRAMS / "everything.bpf.c", output)
    data = output.read_bytes()
    for at in range(0, len(data), 97):
        damaged = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        try:
            read_object(damaged, "e")
        except BpfError:
            continue
    for length in (0, 3, 64, len(data) // 2, len(data) - 1):
        with pytest.raises(BpfError):
            read_object(data[:length], "e")


def test_sections() -> None:
    assert parse_section_name("uio/entry:f") == (Kind.ENTRY, "f", 0)
    assert parse_section_name("uio/timer:250us") == (Kind.TIMER, "", 250_000)


DAMAGE = [
    (0, b"x", "this is no BPF object"),
    (8, b"\0", "size is not that of its parts"),
    (12, b"\x02", "unknown flags"),
    (16, b"\xff", "too many maps"),
    (18, b"\0", "no programs"),
    (28, b"\x01", "unknown flags"),
    (32, b"\0", "the object's name is not valid"),
    (64, b"\x07", "a map's definition is not valid: stats"),
    (64 + 4, b"\0", "a map's definition is not valid: stats"),
    (64 + 8, b"\xff\xff\xff\x7f", "a map's definition is not valid: stats"),
    (64 + 12, b"\0\0\0\0", "a map's definition is not valid: stats"),
    (64 + 20, b"\xff\xff", "a map's initial data is not valid: stats"),
    (64 + 32, b"\x80", "a map's name is not valid"),
    (64 + 640, b"\x05", "a program's kind is not valid: count_entries"),
    (64 + 640 + 4, b"\x01", "a program's instructions are not in the object: count_entries"),
    (64 + 640 + 8, b"\xff\xff", "a program's instructions are not in the object: count_entries"),
    (64 + 640 + 16, b"\x01", "a program's period is not valid: count_entries"),
    (64 + 640 + 40, b"\0", "a program's name is not valid"),
    (64 + 640 + 72, b"\0", "a program's target is not valid: count_entries"),
    (64 + 640 + 1000, b"\xff", "count_entries, instruction 0: no such instruction"),
]


@pytest.mark.parametrize(("at", "bytes_there", "said"), DAMAGE)
def test_damaged_wire_objects_are_refused(
    machine: Machine, everything: Object, at: int, bytes_there: bytes, said: str
) -> None:
    wire = bytearray(everything.to_wire())
    wire[at : at + len(bytes_there)] = bytes_there
    assert said in machine.load(bytes(wire))["error"]


def test_cut_wire_objects_are_refused(machine: Machine, everything: Object) -> None:
    wire = everything.to_wire()
    for length in (*range(0, 80), len(wire) // 2, len(wire) - 1):
        assert "error" in machine.load(wire[:length])


def test_every_flipped_byte_of_a_wire_object_is_survived(
    machine: Machine, everything: Object
) -> None:
    wire = everything.to_wire()
    for at in range(0, len(wire), 3):
        machine.load(wire[:at] + bytes([wire[at] ^ 0x41]) + wire[at + 1 :])
