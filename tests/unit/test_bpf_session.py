# SPDX-License-Identifier: BSD-3-Clause
"""Sessions with the eBPF machine: the host's codec, and libuio's end in a Linux process under sanitizers.

That one has no functions to attach to; timers, exec programs, maps and all that is hostile are the same everywhere.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import hosted.guest
import pytest
from hosted.client import DATA, ERROR, EXEC, EXIT, OK, Client, exec_payload, parse_exit
from hosted.guest import Guest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlays.bpf import session
from overlays.bpf.functions import Functions, places
from overlays.bpf.model import BpfError
from overlays.bpf.session import Decoder, Message, Type
from overlays.bpf.trace.codegen import compile_trace
from overlays.bpf.trace.events import decode

guest = hosted.guest.guest
hosted_binary = hosted.guest.hosted_binary

# ---- the codec


def test_messages_survive_any_cut() -> None:
    data = b"".join(
        session.message(kind, n, bytes(n))
        for n, kind in enumerate((Type.OK, Type.EVENT, Type.ROWS))
    )
    whole = list(Decoder().feed(data))
    decoder = Decoder()
    assert [m for byte in data for m in decoder.feed(bytes([byte]))] == whole
    assert whole[2] == Message(Type.ROWS, 2, bytes(2))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_messages(data: bytes) -> None:
    try:
        for message in Decoder().feed(data):
            assert message.type in Type
    except BpfError:
        pass


@given(st.binary(max_size=80))
def test_payloads_that_are_not_what_they_should_be(data: bytes) -> None:
    trace = compile_trace("entry:f { @[arg0] = count(); }")
    readers = (session.event_of, session.result_of, session.stopped_of)
    for reader in readers:
        try:
            reader(data)
        except BpfError:
            continue
    for read in (
        lambda: session.row_of(data, trace.object.maps[0]),
        lambda: session.counts_of(data, trace.object),
    ):
        try:
            read()
        except BpfError:
            continue
    session.error_of(data)


# ---- functions


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("functions")
    (home / "a.c").write_text(
        "__attribute__((noinline)) static int twice(int a) { return a * 3; }\n"
        "int open_one(int a) { return twice(a); }\nint open_two(int a) { return a; }\n"
        "__attribute__((patchable_function_entry(0))) int closed(int a) { return a; }\nint main(void) { return 0; }\n"
    )
    (home / "b.c").write_text(
        "__attribute__((noinline)) static int twice(int a) { return a * 2; }\nint b(int a) { return twice(a); }\n"
    )
    path = home / "program"
    flags = ["-O2", "-fno-pie", "-no-pie", "-fpatchable-function-entry=7,5"]
    subprocess.run(["gcc", *flags, "-o", path, home / "a.c", home / "b.c"], check=True)
    return path


def test_functions_with_room_are_found(program: Path) -> None:
    known = Functions(program)
    assert known.matching("open_*") == ["open_one", "open_two"]
    assert known.find("open_one") == known.addresses["open_one"]
    trace = compile_trace(
        "entry:open_* { @ = count(); } interval:1s { @t = count(); }", functions=known.matching
    )
    assert places(trace.object, known, 0x1000) == [
        (0, known.addresses["open_one"] + 0x1000),
        (1, known.addresses["open_two"] + 0x1000),
        (2, 0),
    ]


@pytest.mark.parametrize(("name", "says"), [
    ("closed", "without room"),
    ("twice", "several functions"),
    ("open_on", "did you mean open_one"),
])  # fmt: skip
def test_other_functions_have_a_reason(program: Path, name: str, says: str) -> None:
    with pytest.raises(BpfError) as error:
        Functions(program).find(name)
    assert says in f"{error.value.message} {error.value.hint}"


# ---- libuio's end


class Session:
    """A command `bpf session` of the hosted guest."""

    def __init__(self, client: Client, *argv: str) -> None:
        self.client, self.decoder = client, Decoder()
        self.ident = client.start("bpf", "session", *argv)
        self.messages: list[Message] = []

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 4096):
            self.client.send(DATA, self.ident, 0, data[at : at + 4096])

    def next(self) -> Message:
        while not self.messages:
            self.messages += self.decoder.feed(self.client.expect(DATA, self.ident).payload)
        return self.messages.pop(0)

    def ask(self, data: bytes) -> tuple[Message, list[Message]]:
        """The answer, and what came before it."""
        self.send(data)
        before = []
        while (message := self.next()).type not in session.ENDS:
            before.append(message)
        return message, before

    def end(self) -> int:
        self.client.send(DATA, self.ident, 0)
        return parse_exit(self.client.expect(EXIT, self.ident)).kind


TRACE = compile_trace(
    'BEGIN { @n = count(); @k[7] = sum(5); printf("%d\\n", 42); } interval:2ms { @t = count(); printf("t"); }'
)


def loaded(client: Client) -> Session:
    opened = Session(client)
    TRACE.object.verified = True
    answer, _ = opened.ask(session.load(1, TRACE.object.to_wire()))
    assert answer.type is Type.OK, session.error_of(answer.payload)
    return opened


def test_programs_run_and_maps_are_read(guest: Guest) -> None:
    with guest.connect() as client:
        opened = loaded(client)
        answer, before = opened.ask(session.run(2, 0, ["a"]))
        assert session.result_of(answer.payload)[1].status == 0
        record = session.event_of(before[0].payload)[1]
        assert decode(TRACE, record).text == "42\n"
        index = next(m.index for m in TRACE.maps if m.name == "@k")
        answer, rows = opened.ask(session.read(3, index))
        assert (session.value_of(answer.payload), len(rows)) == (1, 1)
        key, value, _ = session.row_of(rows[0].payload, TRACE.object.maps[index])
        assert (key, value) == (struct.pack("<Q", 7), struct.pack("<Q", 5))
        assert opened.ask(session.zero(4, index))[0].type is Type.OK
        assert session.row_of(
            opened.ask(session.read(5, index))[1][0].payload, TRACE.object.maps[index]
        )[1] == bytes(8)
        assert opened.ask(session.clear(6, index))[0].type is Type.OK
        assert opened.ask(session.read(7, index))[1] == []
        counts = session.counts_of(opened.ask(session.stats(8))[0].payload, TRACE.object)
        assert counts.programs[0] == (1, 0)
        assert opened.end() == OK


def test_timers_tick_without_being_asked(guest: Guest) -> None:
    with guest.connect() as client:
        opened = loaded(client)
        assert opened.ask(session.attach(2, 1))[0].type is Type.OK
        for _ in range(3):
            assert opened.next().type is Type.EVENT
        assert opened.ask(session.detach(3))[0].type is Type.OK
        assert opened.end() == OK


def test_nothing_stays_when_the_host_goes(guest: Guest) -> None:
    before = guest.settle()
    for _ in range(20):
        client = guest.connect()
        loaded(client).ask(session.attach(2, 1))
        client.close()
    assert guest.settle() <= before + 4096


@pytest.mark.parametrize(("data", "says"), [
    (session.load(1, b"x" * 100), "no BPF object"),
    (session.attach(1, 0), "no such program"),
    (session.read(1, 0), "no such map"),
    (session.run(1, 0), "no such exec program"),
    (session.stats(1), "nothing is loaded"),
])  # fmt: skip
def test_requests_that_cannot_be_met(guest: Guest, data: bytes, says: str) -> None:
    with guest.connect() as client:
        opened = Session(client)
        answer, _ = opened.ask(data)
        assert answer.type is Type.ERROR
        assert says in session.error_of(answer.payload)[1]
        assert opened.end() == OK


def test_unverified_objects_need_permission(guest: Guest) -> None:
    TRACE.object.verified = False
    with guest.connect() as client:
        assert Session(client).ask(session.load(1, TRACE.object.to_wire()))[0].type is Type.ERROR
        assert (
            Session(client, "unverified").ask(session.load(1, TRACE.object.to_wire()))[0].type
            is Type.OK
        )


def test_functions_cannot_be_attached_to_here(guest: Guest) -> None:
    trace = compile_trace("entry:f { @ = count(); }")
    trace.object.verified = True
    with guest.connect() as client:
        opened = Session(client)
        opened.ask(session.load(1, trace.object.to_wire()))
        answer, _ = opened.ask(session.attach(2, 0, 0x401000))
        assert "cannot be attached" in session.error_of(answer.payload)[1]


@pytest.mark.parametrize("data", [
    struct.pack("<BBHI", 99, 0, 1, 0),
    struct.pack("<BBHI", 2, 1, 1, 16) + bytes(16),
    struct.pack("<BBHI", 2, 0, 1, 15) + bytes(15),
    struct.pack("<BBHI", 4, 0, 1, 5000) + bytes(5000),
    struct.pack("<BBHI", 1, 0, 1, 0xFFFFFFFF),
])  # fmt: skip
def test_malformed_messages_end_the_session(guest: Guest, data: bytes) -> None:
    with guest.connect() as client:
        opened = Session(client)
        opened.send(data)
        assert parse_exit(client.expect(EXIT, opened.ident)).kind == ERROR


MESSAGES = st.lists(
    st.builds(
        lambda kind, seq, payload: struct.pack("<BBHI", kind, 0, seq, len(payload)) + payload,
        st.integers(1, 9),
        st.integers(0, 65535),
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda a, b: struct.pack("<IIQ", a, 0, b),
                st.integers(0, 3),
                st.integers(0, 2**64 - 1),
            ),
            st.builds(lambda a: struct.pack("<I", a), st.integers(0, 5)),
            st.just(b""),
        ),
    ),
    max_size=12,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=MESSAGES, first=st.booleans(), tail=st.binary(max_size=30))
def test_any_messages(guest: Guest, messages: list[bytes], first: bool, tail: bytes) -> None:
    TRACE.object.verified = True
    with guest.connect() as client:
        ident = 5
        client.send(EXEC, ident, 0, exec_payload(["bpf", "session"]))
        data = (
            (session.load(1, TRACE.object.to_wire()) if first else b"") + b"".join(messages) + tail
        )
        for at in range(0, len(data), 1000):
            client.send(DATA, ident, 0, data[at : at + 1000])
        client.send(DATA, ident, 0)
        client.expect(EXIT, ident)
    assert guest.run("true").status == 0
