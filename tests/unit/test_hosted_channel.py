# SPDX-License-Identifier: BSD-3-Clause
"""libuio's end of the channel, against docs/protocol.md, in a Linux process under sanitizers."""

from __future__ import annotations

import os
import select
import struct

import hosted.guest
import pytest
from hosted.client import (
    CANCEL,
    CANCELLED,
    CREDIT,
    DATA,
    DEADLINE_S,
    ERROR,
    EXEC,
    EXIT,
    HEADER,
    IMAGE,
    LISTQ,
    LISTR,
    MAGIC,
    NEED_IMAGE,
    NOT_FOUND,
    OK,
    PING,
    PONG,
    REFUSED,
    RESET,
    SYMQ,
    SYMR,
    SYNC,
    SYNC_MAGIC,
    TIMEOUT,
    UNLOAD,
    WINSIZE,
    Client,
    Frame,
    exec_payload,
    frame,
    parse_exit,
    string,
)
from hosted.guest import Guest

guest = hosted.guest.guest
hosted_binary = hosted.guest.hosted_binary


def data_until(client: Client, ident: int, size: int) -> bytes:
    """That many bytes of output, without giving credit."""
    out = b""
    while len(out) < size:
        out += client.expect(DATA, ident).payload
    return out


def silent(client: Client, ident: int) -> bool:
    """Nothing is sent under ident: PONG, which comes after it would have, is the next."""
    client.send(PING, 4_000_000_000)
    while (f := client.receive()).type != PONG:
        if f.id == ident:
            return False
    return True


# ---- HELLO ----


def test_hello_describes_the_guest(guest: Guest) -> None:
    with guest.connect() as client:
        hello = client.hello
        assert hello is not None
        assert hello.kernel == "hosted 1"
        assert len(hello.build_id) == 20
        assert hello.window == 65536
        assert hello.threads == 16
        assert {"help", "ls", "cat", "kill"} <= set(hello.builtins)
        assert hello.arena[0] <= hello.push[0]
        assert hello.push[0] + hello.push[1] <= hello.arena[0] + hello.arena[1]


def test_sync_with_the_same_nonce_changes_nothing(guest: Guest) -> None:
    with guest.connect(sync=False) as client:
        client.sync(7)
        ident = client.start("cat")
        client.sync(7)
        client.send(DATA, ident, 0, b"still here")
        client.send(DATA, ident, 0)
        assert client.finish(ident).stdout == b"still here"


def test_sync_with_a_new_nonce_ends_the_old_session(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("sleep", "1000")
        assert client.sync().kernel == "hosted 1"
        assert silent(client, ident)
        assert client.run("echo", "new").stdout == b"new\n"


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\0" * 100,
        b"\x10\0\0\0uI\x01\0" * 50,
        frame(SYNC, 0, 1, SYNC_MAGIC + bytes(8))[:-1],
        frame(EXEC, 1, 0, exec_payload(["echo"])),
        bytes(range(256)) * 40,
        b"\x10" * 1000,
    ],
)
def test_sync_is_found_behind_anything(guest: Guest, noise: bytes) -> None:
    with guest.connect(sync=False) as client:
        client.raw(noise)
        client.sync()
        assert client.run("true").kind == OK


# ---- PING ----


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536])
def test_ping_echoes(guest: Guest, size: int) -> None:
    with guest.connect() as client:
        payload = os.urandom(size)
        client.send(PING, 9, 8, payload)
        assert client.receive() == Frame(PONG, 9, 8, payload)


def test_pings_that_nobody_reads_are_kept_in_order_and_bounded(guest: Guest) -> None:
    before = guest.memory_used()
    with guest.connect() as client:
        client.sock.setblocking(False)
        block = frame(PING, 1, 2, bytes(60_000))
        sent = 0
        try:
            # Until the guest takes no more: it stops reading while answers wait.
            while sent < 64 << 20:
                sent += client.sock.send(block[sent % len(block) :])
        except BlockingIOError:
            pass
        assert sent < 16 << 20
        client.sock.settimeout(30)
        for _ in range(sent // len(block)):
            assert client.receive() == Frame(PONG, 1, 2, bytes(60_000))
    guest.settle(before)


@pytest.mark.parametrize("size", [0, 65536])
def test_a_host_that_writes_before_it_reads_is_read(guest: Guest, size: int) -> None:
    """Although an answer waits for room, the guest takes in what else it is sent."""
    (guest.root / "big").write_bytes(bytes(4 << 20))
    with guest.connect() as client:
        ident = client.start("cat", "guest:/big", stdout=8 << 20)
        # Once it has begun, nobody else in the guest runs until there is no room any more.
        assert select.select([client.sock], [], [], DEADLINE_S)[0]
        client.send(PING, 7, 0, bytes(size))
        # More than sockets hold.
        client.raw(frame(CREDIT, ident, 1, struct.pack("<I", 1)) * 100_000)
        got = [client.receive()]
        while {PONG, EXIT} - {f.type for f in got}:
            got.append(client.receive())
        assert sum(len(f.payload) for f in got if f.type == DATA) == 4 << 20
        assert Frame(PONG, 7, 0, bytes(size)) in got


# ---- commands ----


def test_streams_status_and_order(guest: Guest) -> None:
    with guest.connect() as client:
        assert client.run("echo", "a", "b c").stdout == b"a b c\n"
        assert client.run("false").status == 1
        result = client.run("cat", stdin=b"x" * 50_000)
        assert (result.kind, result.status, result.stdout) == (OK, 0, b"x" * 50_000)
        assert client.run("sleep").stderr == b"usage: sleep SECONDS\n"


def test_unknown_command(guest: Guest) -> None:
    result = guest.run("no-such-thing")
    assert result.kind in (NOT_FOUND, ERROR)  # ERROR: there is no uIO-fs to look at
    assert "no-such-thing" in result.message


def test_output_keeps_to_its_credit(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("cat", stdout=10)
        client.send(DATA, ident, 0, bytes(range(100)))
        assert data_until(client, ident, 10) == bytes(range(10))
        assert silent(client, ident)
        client.send(CREDIT, ident, 1, struct.pack("<I", 7))
        assert data_until(client, ident, 7) == bytes(range(10, 17))
        assert silent(client, ident)
        client.send(DATA, ident, 0)
        client.send(CREDIT, ident, 1, struct.pack("<I", 1000))
        assert client.finish(ident).stdout == bytes(range(17, 100))


def test_stderr_has_a_credit_of_its_own(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("sleep", stdout=0, stderr=5)
        assert client.expect(DATA, ident) == Frame(DATA, ident, 2, b"usage")
        client.send(CREDIT, ident, 2, struct.pack("<I", 100))
        assert client.finish(ident).stderr == b": sleep SECONDS\n"


def test_input_far_beyond_the_window(guest: Guest) -> None:
    data = os.urandom(1 << 20)
    with guest.connect() as client:
        assert client.hello is not None
        ident, credit, sent = client.start("cat"), client.hello.window, 0
        out = b""
        ended = False
        while True:
            while credit and sent < len(data):
                piece = data[sent : sent + min(credit, 30_000)]
                client.send(DATA, ident, 0, piece)
                sent += len(piece)
                credit -= len(piece)
            if sent == len(data) and not ended:
                client.send(DATA, ident, 0)
                ended = True
            f = client.receive()
            if f.type == DATA:
                out += f.payload
                client.send(CREDIT, ident, 1, struct.pack("<I", len(f.payload)))
            elif f.type == CREDIT:
                assert f.arg == 0
                credit += struct.unpack("<I", f.payload)[0]
            elif f.type == EXIT:
                break
        assert out == data


def test_commands_run_side_by_side(guest: Guest) -> None:
    with guest.connect() as client:
        idents = [client.start("cat") for _ in range(16)]
        one_too_many = client.start("true")
        assert client.finish(one_too_many).kind == ERROR
        for ident in reversed(idents):
            client.send(DATA, ident, 0, b"%d" % ident)
            client.send(DATA, ident, 0)
            assert client.finish(ident).stdout == b"%d" % ident
        assert client.run("true").kind == OK


@pytest.mark.parametrize("signal", [2, 9, 15])
@pytest.mark.parametrize("what", ["sleeps", "reads", "has no credit"])
def test_cancel(guest: Guest, what: str, signal: int) -> None:
    with guest.connect() as client:
        if what == "sleeps":
            ident = client.start("sleep", "1000")
        elif what == "reads":
            ident = client.start("cat")
        else:
            ident = client.start("help", stdout=3)
            data_until(client, ident, 3)
        client.send(CANCEL, ident, signal)
        result = client.finish(ident)
        assert (result.kind, result.status) == (CANCELLED, signal)
        assert client.run("true").kind == OK


def test_timeout(guest: Guest) -> None:
    with guest.connect() as client:
        assert client.run("sleep", "1000", timeout_ms=20).kind == TIMEOUT
        assert client.run("sleep", "0.02", timeout_ms=60_000).kind == OK


def test_frames_that_cross_an_exit_are_ignored(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("true")
        client.finish(ident)
        client.send(DATA, ident, 0, b"late")
        client.send(DATA, ident, 0)
        client.send(CREDIT, ident, 1, struct.pack("<I", 5))
        client.send(CANCEL, ident, 2)
        client.send(WINSIZE, ident, 25 << 16 | 80)
        assert silent(client, ident)
        client.send(EXEC, ident, 0, exec_payload(["echo", "again"]))
        assert client.finish(ident).stdout == b"again\n"


# ---- symbols ----


def test_sym_asks_the_host(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("sym", "main", "nothing")
        question = client.expect(SYMQ)
        assert question.arg == 2
        assert question.payload == bytes(32) + string("main") + string("nothing")
        rows = struct.pack("<QIB3x", 0x1234, 56, 1) + struct.pack("<QIB3x", 0, 0, 0)
        client.send(SYMR, question.id, 2, rows)
        result = client.finish(ident)
        assert result.stdout.decode().split() == ["0x0000000000001234", "56", "function", "main"]
        assert result.stderr == b"sym: nothing: no such symbol\n"
        assert result.status == 1


def test_answers_to_no_question_are_ignored(guest: Guest) -> None:
    with guest.connect() as client:
        client.send(SYMR, 77, 1, bytes(16))
        assert client.run("true").kind == OK


@pytest.mark.parametrize("end", ["cancel", "new session", "disconnect"])
def test_a_question_does_not_wait_for_ever(guest: Guest, end: str) -> None:
    with guest.connect() as client:
        ident = client.start("sym", "main")
        client.expect(SYMQ)
        if end == "cancel":
            client.send(CANCEL, ident, 2)
            assert client.finish(ident).kind == CANCELLED
        elif end == "new session":
            client.sync()
            assert silent(client, ident)
    assert guest.run("true").kind == OK


# ---- images ----


def test_overlay_by_hash_needs_its_image(guest: Guest) -> None:
    with guest.connect() as client:
        client.send(EXEC, 1, 2, exec_payload(["hello"], digest=b"h" * 32))
        assert client.finish(1).kind == NEED_IMAGE


@pytest.mark.parametrize(
    "image",
    [
        b"\0",
        b"\0uIOIMG1" + bytes(1000),
        b"\0uIOIMG1" + b"\xff" * 1000,
        os.urandom(50_000),
    ],
)
def test_malformed_image_is_refused(guest: Guest, image: bytes) -> None:
    with guest.connect() as client:
        for at in range(0, len(image), 20_000):
            client.send(IMAGE, 1, at, image[at : at + 20_000])
        client.send(EXEC, 1, 2, exec_payload(["hello"], digest=b"h" * 32))
        result = client.finish(1)
        assert result.kind == REFUSED
        assert result.message
        assert client.run("true").kind == OK


def test_image_given_up(guest: Guest) -> None:
    before = guest.memory_used()
    with guest.connect() as client:
        for ident in range(1, 100):
            client.send(IMAGE, ident, 0, b"\0uIOIMG1")
            client.send(CANCEL, ident, 2)
        for ident in range(1, 8):
            client.send(IMAGE, ident, 0, b"\0uIOIMG1")
        assert client.run("true").kind == OK
    guest.settle(before)


def test_no_overlays(guest: Guest) -> None:
    with guest.connect() as client:
        client.send(LISTQ, 5)
        assert client.expect(LISTR) == Frame(LISTR, 5, 0, b"")
        client.send(UNLOAD, 6, 0, b"h" * 32)
        result = parse_exit(client.expect(EXIT, 6))
        assert (result.kind, result.status) == (ERROR, -2)


# ---- a host that breaks the protocol ----

WINDOW = 65536


def header(length: int, kind: int, *, magic: int = MAGIC, flags: int = 0, ident: int = 1) -> bytes:
    return HEADER.pack(length, magic, kind, flags, ident, 0)


def started(*more: bytes) -> bytes:
    return frame(EXEC, 1, 0, exec_payload(["cat"])) + b"".join(more)


BROKEN = {
    "magic": header(0, PING, magic=0x4976),
    "flags": header(0, PING, flags=1),
    "unknown type": header(0, 0x77),
    "type of the guest": header(0, PONG),
    "too long": header(65537, PING),
    "huge": header(0xFFFFFFFF, PING),
    "SYNC without magic": frame(SYNC, 0, 1, bytes(16)),
    "SYNC too short": frame(SYNC, 0, 1, SYNC_MAGIC),
    "EXEC empty": frame(EXEC, 1),
    "EXEC too short": frame(EXEC, 1, 0, exec_payload(["true"])[:-1]),
    "EXEC too long": frame(EXEC, 1, 0, exec_payload(["true"]) + b"x"),
    "EXEC without name": frame(EXEC, 1, 0, exec_payload([])),
    "EXEC NUL in name": frame(EXEC, 1, 0, exec_payload(["a\0b"])),
    "EXEC many words": frame(EXEC, 1, 0, exec_payload(["a"] * 129)),
    "EXEC long words": frame(EXEC, 1, 0, exec_payload(["a" * 33_000])),
    "EXEC argc without words": frame(EXEC, 1, 0, bytes(48) + b"\xff\xff\0\0"),
    "EXEC flags": frame(EXEC, 1, 8, exec_payload(["true"])),
    "EXEC twice": started(frame(EXEC, 1, 0, exec_payload(["cat"]))),
    "DATA for stdout": started(frame(DATA, 1, 1, b"x")),
    "DATA after the end": started(frame(DATA, 1, 0), frame(DATA, 1, 0, b"x")),
    "CREDIT too short": started(frame(CREDIT, 1, 1, b"abc")),
    "CREDIT for stdin": started(frame(CREDIT, 1, 0, bytes(4))),
    "CREDIT overflow": started(frame(CREDIT, 1, 1, b"\xff" * 4) * 2),
    "CANCEL without signal": started(frame(CANCEL, 1, 0)),
    "CANCEL with a payload": started(frame(CANCEL, 1, 2, b"x")),
    "IMAGE without beginning": frame(IMAGE, 1, 5, b"x"),
    "IMAGE with a gap": frame(IMAGE, 1, 0, b"x") + frame(IMAGE, 1, 2, b"x"),
    "IMAGE empty": frame(IMAGE, 1, 0),
    "IMAGE of a running command": started(frame(IMAGE, 1, 0, b"x")),
    "IMAGES too many": b"".join(frame(IMAGE, i, 0, b"x") for i in range(1, 10)),
    "UNLOAD too short": frame(UNLOAD, 1, 0, bytes(31)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_protocol_is_answered_with_reset(guest: Guest, what: str) -> None:
    with guest.connect() as client:
        client.raw(BROKEN[what])
        reset = client.expect(RESET)
        assert reset.payload.decode()
        # Unsynchronised now: nothing is answered until SYNC, and all goes on after it.
        client.send(PING, 1)
        client.sync()
        assert client.run("echo", "on").stdout == b"on\n"
        assert reset.payload in client.run("dmesg").stdout


def test_input_beyond_the_credit_is_answered_with_reset(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("sleep", "1000")
        client.send(DATA, ident, 0, bytes(WINDOW))
        assert silent(client, ident)
        client.send(DATA, ident, 0, b"x")
        assert b"credit" in client.expect(RESET).payload


def test_answer_that_does_not_fit_its_question(guest: Guest) -> None:
    with guest.connect() as client:
        client.start("sym", "main")
        question = client.expect(SYMQ)
        client.send(SYMR, question.id, 2, bytes(32))
        assert client.expect(RESET).payload


def test_reset_by_the_host_ends_commands(guest: Guest) -> None:
    with guest.connect() as client:
        ident = client.start("sleep", "1000")
        client.send(RESET, 0, 0, b"enough")
        client.sync()
        assert silent(client, ident)
        assert b"enough" in client.run("dmesg").stdout


# ---- a host that comes and goes ----


def test_a_thousand_reconnections_leave_nothing(guest: Guest) -> None:
    half_frame = header(10_000, EXEC) + b"x" * 100

    def leave(client: Client, how: int) -> None:
        if how == 0:
            client.start("sleep", "1000")
        elif how == 1:
            client.send(DATA, client.start("cat"), 0, b"x" * 5000)
        elif how == 2:
            client.start("help", stdout=1)
        elif how == 3:
            client.raw(half_frame)
        elif how == 4:
            client.send(IMAGE, 1, 0, b"\0uIOIMG1" + bytes(200))
        elif how == 5:
            client.start("sym", "main")
            client.expect(SYMQ)
        elif how == 6:
            client.raw(header(0, 0x99))
        elif how == 7:
            client.send(PING, 1, 1, bytes(65536))

    def round_trip(how: int) -> None:
        with guest.connect() as client:
            leave(client, how)

    for how in range(10):
        round_trip(how % 8)
    before = guest.settle()
    for i in range(1000):
        round_trip(i % 8)
    guest.settle(before)
    assert guest.run("ps").stdout.count(b"uio-exec") == 1
