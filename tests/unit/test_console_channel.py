# SPDX-License-Identifier: BSD-3-Clause
"""The host's side of the channel: a session is found in any bytes, credit holds both ways, hostile ones are bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console import channel as ch
from console.channel import Channel, Limits, State
from console.frames import (
    HEADER,
    Credit,
    Digest,
    Exec,
    Exit,
    ExitKind,
    Frame,
    Hello,
    ProtocolError,
    Resident,
    Stream,
    SymbolQuery,
    SymbolReply,
    Sync,
    Type,
    encode_items,
    frame,
)

NONCE = 0x1122334455667788
WINDOW = 1000
HELLO = Hello(nonce=NONCE, window=WINDOW, kernel="test", builtins=("ls",), uptime=5)


def hello(nonce: int = NONCE, **more: Any) -> bytes:
    payload = Hello(**{**HELLO.__dict__, "nonce": nonce, **more})
    return frame(Type.HELLO, 0, 1, payload.encode())


def sent(channel: Channel) -> list[Frame]:
    """What the channel has to send, as frames."""
    data, found = channel.data_to_send(), []
    while data:
        length, _, kind, _, id, arg = HEADER.unpack_from(data)
        found.append(Frame(Type(kind), id, arg, data[16 : 16 + length]))
        data = data[16 + length :]
    return found


def new(limits: Limits | None = None, clock: Any = None) -> Channel:
    nonces = iter(range(NONCE, NONCE + 1000))
    channel = Channel(limits, lambda: next(nonces), clock or (lambda: 0.0))
    assert channel.connect() == []
    assert sent(channel) == [Frame(Type.SYNC, 0, 1, Sync(nonce=NONCE).encode())]
    return channel


def ready(limits: Limits | None = None, clock: Any = None) -> Channel:
    channel = new(limits, clock)
    events = channel.receive_data(hello())
    assert events == [ch.Ready(HELLO)]
    return channel


def start(channel: Channel, stdin: bool = True, credit: int = 100) -> int:
    id = channel.new_id()
    channel.exec(id, Exec(argv=("ls",), stdout_credit=credit, stderr_credit=10), stdin=stdin)
    channel.data_to_send()
    return id


def lost(events: list[ch.Event]) -> ch.Lost:
    found = [event for event in events if isinstance(event, ch.Lost)]
    assert len(found) == 1, events
    return found[0]


# The session


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=20))
def test_a_session_is_found_behind_any_bytes_in_any_pieces(before: bytes, sizes: list[int]) -> None:
    channel = new()
    data = before + hello()
    events = []
    for size in sizes:
        events += channel.receive_data(data[:size])
        data = data[size:]
    events += channel.receive_data(data)
    assert events == [ch.Ready(HELLO)]
    assert channel.state is State.READY


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_session_is_found_after_a_frame_that_was_cut_anywhere(start_: int, end: int) -> None:
    old = frame(Type.DATA, 3, 1, b"x" * 50) + hello(nonce=1) + frame(Type.LOG, 0, 4, b"text" * 10)
    channel = new()
    assert channel.receive_data(old[start_:][:end] + hello()) == [ch.Ready(HELLO)]


@given(st.integers(0, len(hello()) - 1))
def test_a_session_is_found_behind_a_hello_that_was_cut(cut: int) -> None:
    channel = new()
    events = channel.receive_data(hello()[:cut])
    assert events == []
    # What is missing never comes: the guest was restarted, and answers every SYNC.
    nonce = NONCE
    for _ in range(4):
        events = channel.receive_data(hello(nonce) + frame(Type.LOG, 0, 4, b"up"))
        if ch.Logged(4, "up") in events and channel.state is State.READY:
            break
        channel.resync()
        for said in sent(channel):
            if said.type is Type.SYNC:
                nonce = Sync.decode(said.payload).nonce
    else:
        raise AssertionError(events)


def test_a_hello_that_cannot_be_read_is_said_once() -> None:
    channel = new()
    broken = frame(Type.HELLO, 0, 1, HELLO.encode()[:-1])
    events = channel.receive_data(broken * 3)
    assert "cannot be read" in lost(events).reason
    assert channel.receive_data(hello()) == [ch.Ready(HELLO)]


def test_sync_is_repeated_with_the_same_nonce_until_hello() -> None:
    channel = new()
    channel.resync()
    assert sent(channel) == [Frame(Type.SYNC, 0, 1, Sync(nonce=NONCE).encode())]
    channel.receive_data(hello() + hello())
    channel.resync()
    assert sent(channel) == []


def test_hello_of_another_session_is_not_ours() -> None:
    channel = new()
    assert channel.receive_data(hello(nonce=1)) == []
    assert channel.state is State.SYNCHRONISING


def test_another_version_is_said() -> None:
    channel = new()
    data = frame(Type.HELLO, 0, 2, HELLO.encode())
    assert "version 2" in lost(channel.receive_data(data)).reason
    assert [f.type for f in sent(channel)] == [Type.RESET]


def test_connecting_anew_loses_what_was_under_way() -> None:
    channel = ready()
    id = start(channel)
    assert lost(channel.connect()).requests == (id,)
    assert [f.type for f in sent(channel)] == [Type.SYNC]
    assert channel.commands == 0


def test_a_guest_that_booted_behind_our_back_is_noticed() -> None:
    channel = ready()
    id = start(channel)
    channel.probe()
    assert sent(channel) == [Frame(Type.SYNC, 0, 1, Sync(nonce=NONCE).encode())]
    events = channel.receive_data(hello(uptime=6))
    assert events == []
    assert channel.commands == 1
    events = channel.receive_data(hello(uptime=1))
    assert lost(events).requests == (id,)
    assert isinstance(events[-1], ch.Ready)


# Commands


def test_a_command_from_start_to_exit() -> None:
    channel = ready()
    id = channel.new_id()
    channel.image(id, 0, b"image")
    command = Exec(argv=("ls",), stdout_credit=100, stderr_credit=10)
    channel.exec(id, command, 2)
    assert channel.input(id, b"in") == 2
    channel.end_input(id)
    channel.end_input(id)
    assert sent(channel) == [
        Frame(Type.IMAGE, id, 0, b"image"),
        Frame(Type.EXEC, id, 2, command.encode()),
        Frame(Type.DATA, id, 0, b"in"),
        Frame(Type.DATA, id, 0, b""),
    ]
    events = channel.receive_data(
        frame(Type.DATA, id, 1, b"out")
        + frame(Type.DATA, id, 2, b"err")
        + frame(Type.DATA, id, 1)
        + frame(Type.EXIT, id, 0, Exit(ExitKind.OK, 3).encode())
    )
    assert events == [
        ch.Output(id, Stream.STDOUT, b"out"),
        ch.Output(id, Stream.STDERR, b"err"),
        ch.EndOfOutput(id, Stream.STDOUT),
        ch.Exited(id, Exit(ExitKind.OK, 3)),
    ]
    # What crosses the exit is dropped here already.
    assert channel.input(id, b"late") == 0
    for late in (
        channel.end_input,
        lambda i: channel.cancel(i, 2),
        lambda i: channel.resize(i, 1, 1),
    ):
        late(id)
    channel.consumed(id, Stream.STDOUT, 3)
    assert sent(channel) == []


def test_the_consoles_terminal_is_told_without_a_command() -> None:
    channel = ready()
    channel.resize_console(50, 132)
    channel.resize_console(0, 65535)
    assert sent(channel) == [
        Frame(Type.WINSIZE, 0, 50 << 16 | 132, b""),
        Frame(Type.WINSIZE, 0, 65535, b""),
    ]
    with pytest.raises(ProtocolError):
        new().resize_console(24, 80)


def test_input_goes_only_against_credit() -> None:
    channel = ready()
    id = start(channel)
    assert channel.input(id, b"x" * 5000) == WINDOW
    assert channel.room(id) == 0
    assert channel.input(id, b"x") == 0
    assert channel.receive_data(frame(Type.CREDIT, id, 0, Credit(bytes=10).encode())) == [
        ch.InputWanted(id)
    ]
    assert channel.input(id, b"x" * 50) == 10


def test_credit_for_output_is_given_back_in_large_pieces() -> None:
    channel = ready(Limits(window=100))
    id = start(channel, credit=100)
    channel.receive_data(frame(Type.DATA, id, 1, b"x" * 60))
    channel.consumed(id, Stream.STDOUT, 30)
    assert sent(channel) == []
    channel.consumed(id, Stream.STDOUT, 30)
    assert sent(channel) == [Frame(Type.CREDIT, id, 1, Credit(bytes=60).encode())]


def test_credit_that_is_used_up_is_given_back_at_once() -> None:
    channel = ready()
    id = start(channel, credit=8)
    channel.receive_data(frame(Type.DATA, id, 1, b"x" * 8))
    channel.consumed(id, Stream.STDOUT, 8)
    assert sent(channel) == [Frame(Type.CREDIT, id, 1, Credit(bytes=8).encode())]


def test_commands_are_counted() -> None:
    channel = ready(Limits(execs=2))
    start(channel)
    id = channel.new_id()
    with pytest.raises(BlockingIOError):
        channel.new_id()
    channel.abandon(id)
    assert sent(channel) == [Frame(Type.CANCEL, id, 9)]
    start(channel)


def test_ids_are_unique_when_they_wrap() -> None:
    channel = ready()
    first = start(channel)
    channel._next = 0xFFFFFFFF
    assert [channel.new_id(), channel.new_id()] == [0xFFFFFFFF, first + 1]


def test_nothing_is_started_before_hello() -> None:
    channel = new()
    for request in (
        channel.new_id,
        channel.list_images,
        channel.ping,
        lambda: channel.unload(bytes(32)),
    ):
        with pytest.raises(ProtocolError, match="synchronising"):
            request()


def test_lists_pings_unloads_and_symbols() -> None:
    channel = ready()
    image = Resident(hash=b"h" * 32, base=4096, size=4096, uses=1, flags=2, name="hello")
    listed, ponged, unloaded = channel.list_images(), channel.ping(b"x"), channel.unload(b"h" * 32)
    assert [f.type for f in sent(channel)] == [Type.LISTQ, Type.PING, Type.UNLOAD]
    query = SymbolQuery(b"h" * 32, ("a", "b"))
    events = channel.receive_data(
        frame(Type.LISTR, listed, 1, encode_items([image]))
        + frame(Type.PONG, ponged, 0, b"x")
        + frame(Type.EXIT, unloaded, 0, Exit(ExitKind.OK).encode())
        + frame(Type.SYMQ, 9, 2, query.encode())
        + frame(Type.GONE, 0, 0, Digest(hash=b"h" * 32).encode())
        + frame(Type.LOG, 0, 4, "häh".encode())
    )
    assert events == [
        ch.Listed(listed, (image,)),
        ch.Ponged(ponged, b"x"),
        ch.Exited(unloaded, Exit(ExitKind.OK)),
        ch.SymbolsAsked(9, b"h" * 32, ("a", "b")),
        ch.Gone(b"h" * 32),
        ch.Logged(4, "häh"),
    ]
    channel.answer_symbols(9, [SymbolReply(), SymbolReply(address=1)])
    channel.answer_symbols(9, [])  # answered already
    assert [f.type for f in sent(channel)] == [Type.SYMR]


# A hostile guest

HOSTILE = {
    "oversize": (HEADER.pack(65537, 0x4975, Type.DATA, 0, 1, 1), "65537 bytes"),
    "magic": (b"\0" * 16, "magic"),
    "type": (HEADER.pack(0, 0x4975, 0x77, 0, 1, 1), "unknown frame type"),
    "side": (frame(Type.EXEC, 1, 0), "EXEC from the wrong side"),
    "data for nobody": (frame(Type.DATA, 99, 1, b"x"), "99, which is not running"),
    "data on stdin": (frame(Type.DATA, 1, 0, b"x"), "DATA on stream 0"),
    "data on stream 9": (frame(Type.DATA, 1, 9, b"x"), "DATA on stream 9"),
    "more than its credit": (frame(Type.DATA, 1, 1, b"x" * 101), "101 bytes of DATA against credit of 100"),
    "data behind the end": (frame(Type.DATA, 1, 1) * 2, "behind the end of stdout"),
    "exit of nobody": (frame(Type.EXIT, 99, 0, Exit(ExitKind.OK).encode()), "EXIT of 99"),
    "exit twice": (frame(Type.EXIT, 1, 0, Exit(ExitKind.OK).encode()) * 2, "EXIT of 1"),
    "exit of no kind": (frame(Type.EXIT, 1, 55, Exit(ExitKind.OK).encode()), "kind 55"),
    "exit cut": (frame(Type.EXIT, 1, 0, b"\0"), "missing"),
    "exit without its fault": (frame(Type.EXIT, 1, 4, Exit(ExitKind.OK).encode()), "missing"),
    "credit for nobody": (frame(Type.CREDIT, 99, 0, Credit(bytes=1).encode()), "CREDIT for stream 0 of 99"),
    "credit for its own stream": (frame(Type.CREDIT, 1, 1, Credit(bytes=1).encode()), "CREDIT for stream 1"),
    "credit over the window": (frame(Type.CREDIT, 1, 0, Credit(bytes=1).encode()), "over the window"),
    "hello of another session": (hello(nonce=1), "another session"),
    "pong unasked": (frame(Type.PONG, 5, 0), "without a PING"),
    "list unasked": (frame(Type.LISTR, 5, 0), "without a LISTQ"),
    "query twice": (frame(Type.SYMQ, 5, 0, bytes(32)) * 2, "SYMQ 5 twice"),
    "too many queries": (b"".join(frame(Type.SYMQ, n, 0, bytes(32)) for n in range(65)), "more than 64 SYMQ"),
    "too many names": (frame(Type.SYMQ, 5, 5000, bytes(32 + 10_000)), "5000 names"),
    "gone of half a hash": (frame(Type.GONE, 0, 0, bytes(16)), "missing"),
    "reset": (frame(Type.RESET, 0, 0, b"I do not like you"), "I do not like you"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_who_breaks_the_protocol_loses_the_session_and_may_begin_anew(case: str) -> None:
    data, words = HOSTILE[case]
    channel = ready()
    assert start(channel) == 1
    events = channel.receive_data(data + b"garbage behind it")
    assert words in lost(events).reason
    assert channel.state is State.SYNCHRONISING
    assert channel.commands == 0
    assert {f.type for f in sent(channel)} <= {Type.RESET, Type.SYNC}
    channel.resync()
    nonces = [Sync.decode(f.payload).nonce for f in sent(channel) if f.type is Type.SYNC]
    assert NONCE not in nonces
    assert channel.receive_data(hello(nonce=NONCE + 1))[0] == ch.Ready(
        Hello(**{**HELLO.__dict__, "nonce": NONCE + 1})
    )


@given(st.binary(max_size=2000))
@settings(max_examples=200)
def test_garbage_raises_nothing_and_is_not_kept(data: bytes) -> None:
    channel = ready()
    start(channel)
    channel.receive_data(data)
    channel.receive_data(data)
    assert len(channel._in) <= 65536 + 16 + 2000


def test_a_guest_that_sends_nothing_of_use_is_not_stored() -> None:
    channel = new()
    for _ in range(100):
        assert channel.receive_data(b"\x75\x49" * 10_000) == []
        assert len(channel._in) < 100


def test_log_over_the_rate_is_dropped_and_counted() -> None:
    now = [0.0]
    channel = ready(Limits(log_rate=100), lambda: now[0])
    line = frame(Type.LOG, 0, 4, b"x" * 34)
    events = channel.receive_data(line * 10)
    assert len(events) == 4  # 200 bytes at once
    now[0] = 1.0
    events = channel.receive_data(line)
    assert events == [ch.Logged(4, "x" * 34, dropped=6 * 50)]


def test_a_megabyte_in_small_pieces_is_quick_enough_to_bound_nothing_else() -> None:
    channel = ready(Limits(window=1 << 20))
    id = start(channel, credit=1 << 20)
    data = b"".join(frame(Type.DATA, id, 1, b"x" * 1000) for _ in range(1000))
    got = sum(
        len(event.data)
        for at in range(0, len(data), 100)
        for event in channel.receive_data(data[at : at + 100])
        if isinstance(event, ch.Output)
    )
    assert got == 1_000_000
