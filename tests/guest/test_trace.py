# SPDX-License-Identifier: BSD-3-Clause
"""Tracing a running application: what is seen is right, what runs is not harmed, and nothing stays behind."""

from __future__ import annotations

import json
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import vm
from kernel_text import Image

from overlays.bpf import asm, session
from overlays.bpf.helpers import Kind
from overlays.bpf.model import Object, Program
from overlays.bpf.trace.codegen import compile_trace
from uiod.ctl import execstream
from uiod.ctl.bpf_stream import Stream, Vm, request_body
from uiod.ctl.errors import ApiError, CtlError
from uiod.ctl.settings import settings
from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]


IMAGES: dict[str, Image] = {}  # by the name of the machine that runs it


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    config = vm.prepare(tmp_path_factory.mktemp("trace"), ["set_count", "memory"])
    with vm.machine(config, timeout_s=230) as running:
        IMAGES[running.name] = Image(vm.kernel()[1])
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The application `traced`, which calls its functions all the time and counts mistakes."""
    config = vm.prepare(tmp_path_factory.mktemp("traced"), ["memory"], app="traced")
    with vm.machine(config, timeout_s=230) as running:
        IMAGES[running.name] = Image(vm.kernel("traced")[1])
        yield running


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the text is the file's again, and no session is left."""
    yield
    for process in Tracer.running:
        process.kill()
        process.communicate()
    Tracer.running.clear()
    for name in ("guest", "traced"):
        if name in request.fixturenames:
            machine: Machine = request.getfixturevalue(name)
            until_nothing_is_loaded(machine)
            assert changed(machine) == [], "the text is not as it was"


def number_in(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


def changed(machine: Machine) -> list[int]:
    return IMAGES[machine.name].changed(
        lambda start, size: machine.exec("memory", f"{start:x}", f"{size:x}").stdout
    )


def until_nothing_is_loaded(machine: Machine) -> None:
    deadline = time.monotonic() + 30
    while len(machine.exec("bpf", "ls").text.splitlines()) > 1:
        assert time.monotonic() < deadline, machine.exec("bpf", "ls").text
    assert machine.exec("bpf", "ls").text.startswith("missed ")


def known(machine: Machine) -> Vm:
    settings.runtime_dir = str(machine.root)
    return Vm(machine.name)


class Tracer:
    """`uioctl trace` in a process of its own, attached."""

    running: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, machine: Machine, expression: str, *options: str) -> None:
        command = [
            sys.executable,
            "-c",
            "import sys; from uiod.ctl.main import main; sys.exit(main())",
        ]
        command += ["--runtime-dir", str(machine.root), "trace", *options, machine.name, expression]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running.append(self.process)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        assert said.startswith("Tracing"), said + self.process.stderr.read()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: int = signal.SIGINT) -> str:
        """Ctrl-C: the rest of its output."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out


def uioctl(machine: Machine, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from uiod.ctl.main import main; sys.exit(main())"]
    command += ["--runtime-dir", str(machine.root), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def set_count(machine: Machine, *values: int) -> None:
    for value in values:
        assert machine.exec("set_count", str(value)).code == 0


# ---- what is seen


def test_arguments_are_printed_as_they_come(guest: Machine) -> None:
    tracer = Tracer(guest, 'entry:set_count { printf("%ld by %s\\n", arg0, comm); }')
    for value in (3, 1 << 40, 5):
        set_count(guest, value)
        assert tracer.line().startswith(f"{value} by ")
    assert tracer.end() == ""


def test_maps_are_printed_at_the_end(guest: Machine) -> None:
    tracer = Tracer(
        guest,
        "entry:set_count { @ = count(); @by[arg0] = count(); @total = sum(arg0); }"
        " return:set_count { @took = hist(elapsed_ns); @tids[tid] = count(); @most = max(elapsed_ns); }",
    )
    set_count(guest, 7, 7, 9)
    out = tracer.end()
    assert "@: 3\n" in out
    assert "@by[7]: 2\n" in out
    assert "@by[9]: 1\n" in out
    assert "@total: 23\n" in out
    assert sum(int(n) for n in re.findall(r"\[\S+ \S+\s+(\d+) \|", out)) == 3
    assert len(re.findall(r"@tids\[\d+\]: 1", out)) == 3  # each command is a thread of its own
    assert number_in(out, r"@most: (\d+)") > 0


def test_filters_and_types_of_the_application(guest: Machine) -> None:
    tracer = Tracer(guest, 'entry:set_count /args.value > 10/ { printf("%d\\n", args.value * 2); }')
    set_count(guest, 5, 11)
    assert tracer.line() == "22\n"
    assert tracer.end() == ""


def test_stacks_begin_with_the_function(guest: Machine) -> None:
    tracer = Tracer(
        guest, "entry:set_count { @[stack] = count(); } return:set_count { @r[stack] = count(); }"
    )
    set_count(guest, 1)
    stacks = re.findall(r"@r?\[\n\s+(\S+)\n\s+(\S+)", tracer.end())
    assert [first for first, _ in stacks] == ["set_count", "set_count"]
    # The way back is the real one also where the return address was replaced.
    assert "uio_bpf" not in str(stacks)


def test_json_and_a_duration(guest: Machine) -> None:
    tracer = Tracer(
        guest, 'entry:set_count { printf("%d\\n", arg0); @ = count(); }', "-f", "json", "-d", "5s"
    )
    set_count(guest, 4)
    lines = [json.loads(line) for line in tracer.process.communicate(timeout=60)[0].splitlines()]
    assert lines == [{"type": "printf", "data": "4\n"}, {"type": "map", "data": {"@": 1}}]
    assert tracer.process.returncode == 0


def test_timers_and_exit(guest: Machine) -> None:
    tracer = Tracer(
        guest,
        'BEGIN { printf("first\\n"); } interval:50ms { @n = count(); printf("tick\\n"); }'
        ' interval:330ms { exit(); } END { printf("last\\n"); }',
    )
    out, _ = tracer.process.communicate(timeout=60)
    assert tracer.process.returncode == 0
    lines = out.splitlines()
    assert lines[0] == "first"
    assert "last" in lines
    ticks = lines.count("tick")
    assert 1 <= ticks <= 20
    assert f"@n: {ticks}" in lines


def test_several_programs_at_a_function_run_in_order(guest: Machine) -> None:
    with Stream(known(guest).api, both := compile_trace(
        'entry:set_count { printf("a"); } entry:set_count { printf("b"); } return:set_count { printf("c"); }'
    ).object) as stream:  # fmt: skip
        stream.attach(known(guest).places(both))
        other = Tracer(guest, "entry:set_count { @ = count(); }")
        set_count(guest, 1, 2)
        assert other.end() == "@: 2\n"
        set_count(guest, 3)
        records = []
        stream.counts()
        while stream.events:
            records.append(session.event_of(stream.events.popleft().payload)[1])
        assert [record[4:8] for record in records] == [struct.pack("<I", n) for n in (0, 1, 2)] * 3


def test_bad_addresses_read_as_zero(guest: Machine) -> None:
    tracer = Tracer(
        guest,
        'entry:set_count { printf("%d %d %s.\\n", *(uint64_t *)8, *(uint32_t *)0x8000000000000000,'
        " str(0x7fffffffff00)); }",
    )
    set_count(guest, 1)
    assert tracer.line() == "0 0 .\n"
    tracer.end()


# ---- what is refused


@pytest.mark.parametrize(("expression", "says"), [
    ("entry:snprintf { @ = count(); }", "without room"),
    ("entry:set_cout { @ = count(); }", "did you mean set_count"),
    ("entry:nosuch_* { @ = count(); }", "no function matches"),
    ("entry:set_count { @ = kount(); }", "kount"),
])  # fmt: skip
def test_what_cannot_be_traced_says_why(guest: Machine, expression: str, says: str) -> None:
    done = uioctl(guest, "trace", guest.name, expression)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_functions_are_listed(guest: Machine) -> None:
    assert "set_count" in uioctl(guest, "trace", "-l", guest.name).stdout.split()
    assert uioctl(guest, "trace", "-l", guest.name, "set_c*").stdout == "set_count\n"
    assert "without room" in uioctl(guest, "trace", "-l", guest.name, "snprintf").stderr


@pytest.mark.parametrize("offset", [-1, 1, 2, 7])
def test_the_guest_attaches_at_functions_alone(guest: Machine, offset: int) -> None:
    machine = known(guest)
    obj = compile_trace("entry:set_count { @ = count(); }").object
    address = machine.functions.find("set_count") + offset
    with Stream(machine.api, obj) as stream, pytest.raises(CtlError, match="no function"):
        stream.attach([(0, address)])


def test_only_the_daemon_begins_sessions(guest: Machine) -> None:
    with pytest.raises(Exception, match="POST /v1/bpf"):
        guest.exec("bpf", "session", stdin=b"x")


def test_what_the_verifier_refuses_is_not_sent(guest: Machine) -> None:
    loop = Object("bad", [], [Program("p", Kind.EXEC, "", asm.assemble("l: ja l\nexit"))])
    for wire in (request_body(loop), {"object": "AAAA"}, {"object": "?"}):
        with pytest.raises(ApiError) as error:
            guest.api.request("POST", "/v1/bpf", wire, upgrade="uio-exec/1").sock.close()
        assert error.value.http in (400, 422)


# ---- files of programs


PROGRAM = """
#include <uio/bpf.h>
UIO_MAP(hits, UIO_MAP_HASH, uint64_t, uint64_t, 64);
UIO_ENTRY("set_count") int hit(struct uio_ctx *ctx)
{
	uint64_t key = UIO_ARG(ctx, 0, uint64_t);
	uio_map_add(&hits, &key, 1);
	return 0;
}
UIO_EXEC int add(struct uio_ctx *ctx)
{
	char text[16];
	long sum = 0;
	for (int i = 0; i < 3; i++) {
		if (uio_exec_arg(i, text, sizeof(text)) != 1)
			break;
		sum += text[0] - '0';
	}
	uio_printk("%d arguments\\n", UIO_ARG(ctx, 0, int));
	return sum;
}
"""


def test_a_file_is_run_attached_and_detached(guest: Machine, tmp_path: Path) -> None:
    source = tmp_path / "count.bpf.c"
    source.write_text(PROGRAM)
    ran = uioctl(guest, "bpf", "run", guest.name, str(source), "3", "4", "5")
    assert (ran.returncode, ran.stdout) == (12, "3 arguments\n"), ran.stderr
    attached = uioctl(guest, "bpf", "attach", guest.name, str(source))
    assert attached.returncode == 0, attached.stderr
    number = attached.stdout.strip()
    set_count(guest, 5, 5, 6)
    listed = json.loads(uioctl(guest, "bpf", "ls", "--json", guest.name).stdout)
    hit = next(p for p in listed if p.get("program") == "hit")
    assert (hit["target"], hit["runs"], hit["faults"]) == ("set_count", 3, 0)
    maps = uioctl(guest, "bpf", "maps", guest.name, number).stdout.splitlines()
    assert sorted(maps) == ["hits[5] = 2", "hits[6] = 1"]
    assert uioctl(guest, "bpf", "maps", guest.name, number, "nosuch").returncode == 1
    assert uioctl(guest, "bpf", "detach", guest.name, number).returncode == 0
    assert uioctl(guest, "bpf", "detach", guest.name, number).returncode == 1


# ---- ends that are not in order


def test_a_client_that_is_killed_leaves_nothing_attached(guest: Machine) -> None:
    tracer = Tracer(
        guest,
        "entry:set_count { @ = count(); } return:set_count { @r = count(); } interval:5ms { @t = count(); }",
    )
    set_count(guest, 1)
    tracer.process.kill()
    tracer.process.wait()
    until_nothing_is_loaded(guest)


def test_hostile_clients_are_survived(guest: Machine) -> None:
    chance = random.Random(8)
    obj = compile_trace(
        "entry:set_count { @[arg0] = count(); } interval:1ms { @t = count(); }"
    ).object
    address = known(guest).functions.find("set_count")
    indexes, addresses = [0, 1, 2, 63, 64, 0xFFFFFFFF], [0, address, address - 5, 8]
    for number in range(60):
        pieces = []
        for _ in range(chance.randrange(1, 12)):
            kind = chance.choice([*range(1, 12), 0x80, 0x90, 255])
            payload = chance.choice([
                chance.randbytes(chance.randrange(40)),
                struct.pack("<IIQ", chance.choice(indexes), 0, chance.choice(addresses)),
                struct.pack("<I", chance.choice([0, 1, 2, 5, 0xFFFFFFFF])),
                b"",
            ])  # fmt: skip
            length = (
                len(payload)
                if chance.random() < 0.9
                else chance.choice([0, 4096, 4097, 1 << 20, 0xFFFFFFFF])
            )
            pieces.append(
                struct.pack("<BBHI", kind, chance.random() < 0.05, chance.randrange(65536), length)
                + payload
            )
        reply = guest.api.request(
            "POST", "/v1/bpf", request_body(obj), upgrade="uio-exec/1", timeout=30
        )
        with reply:
            reply.sock.sendall(execstream.message(execstream.STDIN, b"".join(pieces)))
            reply.sock.sendall(execstream.message(execstream.END_OF_STDIN))
            if number % 3:  # the others hang up
                while reply.sock.recv(65536):
                    pass
    set_count(guest, 12)


# ---- functions that are not easy, under load


HARD = ("fib", "many", "scale", "make_triple", "jumper", "deep", "tail", "serve", "last_words")


def value(machine: Machine, name: str) -> int:
    raw = machine.exec("memory", f"{IMAGES[machine.name].symbols[name]:x}", "8").stdout
    return int.from_bytes(raw, "little")


def until_rounds(machine: Machine, more: int) -> None:
    deadline = time.monotonic() + 60
    wanted = value(machine, "rounds") + more
    while value(machine, "rounds") < wanted:
        assert time.monotonic() < deadline, "the application does not go on"


def test_no_function_notices(traced: Machine) -> None:
    probes = " ".join(
        f"entry:{f} {{ @e_{f} = count(); }} return:{f} {{ @r_{f} = count(); @s[stack] = count(); }}"
        for f in HARD
    )
    tracer = Tracer(traced, probes)
    until_rounds(traced, 200)
    out = tracer.end()
    counts = {name: int(n) for name, n in re.findall(r"@(\w+): (\d+)", out)}
    assert set(counts) == {f"{kind}_{f}" for kind in "er" for f in HARD}
    assert abs(counts["e_many"] - counts["r_many"]) <= 1
    assert abs(counts["e_serve"] - 2 * counts["e_many"]) <= 2
    assert abs(counts["e_deep"] - 21 * counts["e_jumper"]) <= 21
    assert value(traced, "mistakes") == 0
    until_rounds(traced, 100)


def test_recursion_is_seen_as_it_is(traced: Machine) -> None:
    tracer = Tracer(
        traced,
        "entry:many { @rounds = count(); } entry:fib { @calls = count(); } return:fib { @[retval] = count(); }"
        " return:tail { @t[retval] = count(); } return:jumper { @j[retval] = count(); }",
    )
    until_rounds(traced, 100)
    out = tracer.end()
    rounds = number_in(out, r"@rounds: (\d+)")
    # fib(10) is called twice a round, with 177 calls in all each time, of which one returns 55.
    calls = number_in(out, r"@calls: (\d+)")
    assert 2 * 177 * (rounds - 1) <= calls <= 2 * 177 * (rounds + 1)
    assert abs(number_in(out, r"@\[55\]: (\d+)") - 2 * rounds) <= 4
    assert re.findall(r"@t\[(\d+)\]", out) == ["55"]
    assert re.findall(r"@j\[(\d+)\]", out) == ["7"]
    assert value(traced, "mistakes") == 0


def test_fields_behind_pointers(traced: Machine) -> None:
    tracer = Tracer(
        traced,
        "entry:serve { @[args.r->id, str(args.r->name), args.r->method.len, args.r->method.flags] = count();"
        " @next[args.r->next->id] = count(); }",
    )
    until_rounds(traced, 50)
    out = tracer.end()
    assert re.findall(r"@\[(.*)\]:", out) == ["1, first, 10, 0", "2, second, 20, 3"]
    assert sorted(re.findall(r"@next\[(\d+)\]", out)) == ["0", "2"]


def test_attaching_and_detaching_under_load(traced: Machine) -> None:
    obj = compile_trace(
        " ".join(f"entry:{f} {{ @e = count(); }} return:{f} {{ @r = count(); }}" for f in HARD)
    ).object
    machine = known(traced)
    places = machine.places(obj)
    with Stream(machine.api, obj) as stream:
        for _ in range(40):
            stream.attach(places)
            stream.detach()
        stream.attach(places)
    until_rounds(traced, 50)
    assert value(traced, "mistakes") == 0
