# SPDX-License-Identifier: BSD-3-Clause
"""A confused or hostile host: whatever comes over channel and console, the guest lives and answers the next peer."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import hosted.guest
import pytest
from hosted.client import (
    CANCEL,
    CREDIT,
    DATA,
    EXEC,
    HEADER,
    IMAGE,
    LISTQ,
    MAGIC,
    OK,
    PING,
    RESET,
    SYMR,
    SYNC,
    SYNC_MAGIC,
    UNLOAD,
    WINSIZE,
    exec_payload,
    frame,
    string,
)
from hosted.guest import Guest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

hosted_binary = hosted.guest.hosted_binary

KINDS = [SYNC, PING, RESET, EXEC, IMAGE, CANCEL, WINSIZE, DATA, CREDIT, SYMR, LISTQ, UNLOAD]
U32 = st.one_of(
    st.integers(0, 20),
    st.sampled_from([0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
    st.integers(0, 2**32 - 1),
)
IDS = st.integers(0, 3)
WORD = st.one_of(
    st.sampled_from(
        ["cat", "help", "sleep", "0.001", "1000", "echo", "sym", "main", "ls", "guest:/", "dmesg", "-", "-l",
         "hexdump", "cp", "guest:/x", "kill", "rm", "load", "unload", "overlays", "mem", "ps", "df", "mv"]
    ),
    st.text(max_size=20),
)  # fmt: skip


@pytest.fixture(scope="module")
def guest(hosted_binary: Path) -> Iterator[Guest]:
    """One guest for all examples: what an earlier one has left behind is part of the test."""
    started = Guest(hosted_binary)
    try:
        yield started
    finally:
        started.stop()


@st.composite
def exec_frames(draw: st.DrawFn) -> bytes:
    # No signals: the guest's application is a process that would die of them.
    argv = [w for w in draw(st.lists(WORD, min_size=1, max_size=5)) if w != "kill"] or ["true"]
    payload = exec_payload(
        [w.replace("\0", "") for w in argv],
        timeout_ms=draw(st.sampled_from([0, 1, 50])),
        stdout=draw(U32),
        stderr=draw(U32),
        digest=draw(st.sampled_from([bytes(32), b"h" * 32])),
    )
    return frame(EXEC, draw(IDS), draw(st.integers(0, 7)), payload)


@st.composite
def image_frames(draw: st.DrawFn) -> bytes:
    head = b"\0uIOIMG1" + b"h" * 32 + draw(st.binary(min_size=20, max_size=20))
    head += struct.pack("<IQQ", draw(U32), draw(U32) << 12, draw(U32))
    head += (
        struct.pack("<4I", *(draw(U32) for _ in range(4))) + b"name".ljust(64, b"\0") + bytes(32)
    )
    return frame(IMAGE, draw(IDS), 0, head + draw(st.binary(max_size=300)))


PAYLOADS = st.one_of(
    st.binary(max_size=80),
    st.just(SYNC_MAGIC + bytes(8)),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 3).map(lambda n: bytes(n * 16)),
    st.lists(WORD, max_size=3).map(lambda words: b"".join(string(w[:50]) for w in words)),
    st.integers(0, 65536).map(bytes),
)
FRAMES = st.one_of(
    st.builds(frame, st.sampled_from(KINDS), IDS, U32, PAYLOADS),
    st.builds(frame, st.sampled_from([DATA, CREDIT, CANCEL]), IDS, st.integers(0, 9), PAYLOADS),
    exec_frames(),
    exec_frames(),
    image_frames(),
)
HEADERS = st.builds(
    HEADER.pack,
    U32,
    st.sampled_from([MAGIC, MAGIC, 0]),
    st.integers(0, 255),
    st.sampled_from([0, 0, 1]),
    U32,
    U32,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with a few bytes changed or its end cut off."""
    data = bytearray(draw(FRAMES))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, min(len(data), 200) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))]) if draw(st.booleans()) else bytes(data)


FRESH = frame(SYNC, 0, 1, SYNC_MAGIC + b"anotherN")
PIECES = st.lists(
    st.one_of(FRAMES, FRAMES, damaged(), HEADERS, st.binary(max_size=60), st.just(FRESH)), max_size=25
)  # fmt: skip


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(pieces=PIECES, sync=st.booleans(), read=st.booleans())
def test_channel(guest: Guest, pieces: list[bytes], sync: bool, read: bool) -> None:
    with guest.connect(sync=sync) as client:
        client.sock.settimeout(0.05)
        # A guest that waits for us to read takes nothing: then we hang up.
        with contextlib.suppress(TimeoutError, OSError):
            for piece in pieces:
                client.raw(piece)
                if read:
                    client.sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        client.sock.recv(1 << 20)
                    client.sock.settimeout(0.05)
    with guest.connect() as client:
        result = client.run("echo", "alive")
        while "too many" in result.message:  # commands of the last session are still ending
            result = client.run("echo", "alive")
        assert (result.kind, result.stdout) == (OK, b"alive\n")


KEYS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.text(max_size=10).map(str.encode),
        st.sampled_from([b"\n", b"\r", b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x7f", b"\x17", b"\x15",
                         b"\x03", b"\x04", b"\x1c", b"\x1b", b"\x1b[", b"'", b'"', b"|", b";", b">", b"<", b" ",
                         b"echo ", b"cat ", b"help", b"sleep 9", b"guest:/x", b"\t", b"\x0c", b"\x10", b"\x01"]),
    ),
    max_size=60,
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(keys=KEYS)
def test_console(guest: Guest, keys: list[bytes]) -> None:
    console = guest.console()
    try:
        data = b"".join(k for k in keys if b"kill" not in k)
        console.send_and_read(data + b"\x1c\n\x1c\x03\x15echo still here\n", b"\r\nstill here\r\n")
    finally:
        console.close()


def test_nothing_is_left(guest: Guest) -> None:
    assert guest.run("true").kind == OK
    used = guest.settle()
    # What stays is what the guest keeps when it is idle: no command, no frame, no image.
    assert used < 32 << 10, guest.run("ps").stdout
