# SPDX-License-Identifier: BSD-3-Clause
"""Reading ahead: several reads under way, against a server that answers in another order, late, twice, or no more."""

from __future__ import annotations

import hashlib
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import loader_tools as t
import pytest
from loader_fake9p import RGETATTR, RLERROR, RREAD, FakeServer, reply
from loader_tools import CANCELLED, OK, Hosted

CONTENT = random.Random(1).randbytes(1_000_000)
MSIZE = 1 << 19
CHUNK = 65536  # of `cat`
#: from here on several reads are under way
STEADY = 300_000
#: how many at most
AHEAD = 3


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Hosted]:
    with t.hosted(tmp_path) as g:
        yield g


def used_heap(guest: Hosted) -> int:
    """Bytes that the guest has allocated."""
    words = guest.run("mem").stdout.split()
    return int(words[words.index(b"bytes") - 1])


class Withholding:
    """Puts aside replies to reads from STEADY on; `when` says what is sent, given what lies there."""

    def __init__(self, when: Callable[[list[bytes]], bytes | None]) -> None:
        self.when = when
        self.held: list[bytes] = []
        self.first = threading.Event()
        self.server: FakeServer | None = None

    def serve(self, guest: Hosted, content: bytes = CONTENT) -> FakeServer:
        """Be the host."""
        self.server = FakeServer(guest.directory, self, content, MSIZE)
        return self.server

    def __call__(self, kind: int, _tag: int, data: bytes) -> bytes | None:
        if kind != RREAD:
            return data
        assert self.server
        if self.server.reads[-1][0] < STEADY:
            return data
        self.held.append(data)
        out = self.when(self.held)
        if out:
            self.held.clear()
        self.first.set()
        return out


def test_the_next_is_asked_for_before_the_reader_has_come_to_it(guest: Hosted) -> None:
    guest.unserve()
    before = used_heap(guest)
    server = FakeServer(guest.directory, lambda kind, tag, data: data, CONTENT, MSIZE)
    got = guest.run("cat", "/host/x")
    assert (got.kind, got.status, got.stdout) == (OK, 0, CONTENT)
    # The first read is as long as `cat` asked; those ahead of it are longer than any that it makes.
    assert server.reads[0] == (0, CHUNK)
    assert max(count for _, count in server.reads) > CHUNK
    # Every byte once, in order.
    end = 0
    for offset, count in server.reads:
        if offset < len(CONTENT):
            assert offset == end
            end = offset + count
    server.close()
    assert used_heap(guest) <= before


def test_a_file_that_is_read_once_is_not_read_ahead(guest: Hosted) -> None:
    guest.unserve()
    server = FakeServer(guest.directory, lambda kind, tag, data: data, CONTENT[:5000], MSIZE)
    assert guest.run("cat", "/host/x").stdout == CONTENT[:5000]
    assert server.reads == [(0, CHUNK), (5000, CHUNK)]
    server.close()


def test_replies_in_another_order(guest: Hosted) -> None:
    """Two at a time, the later one first."""
    guest.unserve()
    swapped = []

    def pairs(held: list[bytes]) -> bytes:
        last = len(held[-1]) < MSIZE // 4  # the file's end: nothing may follow it
        if len(held) < 2 and not last:
            return b""
        swapped.append(len(held))
        return b"".join(reversed(held))

    server = Withholding(pairs).serve(guest)
    assert guest.run("cat", "/host/x").stdout == CONTENT
    assert 2 in swapped
    server.close()


TOO_MUCH = struct.pack("<I", 300_000) + bytes(300_000)


def tag_of(data: bytes) -> int:
    """Of a reply."""
    return int.from_bytes(data[5:7], "little")


def with_tag(data: bytes, tag: int) -> bytes:
    """The reply under another tag."""
    return data[:5] + struct.pack("<H", tag) + data[7:]


def error(data: bytes) -> bytes:
    """An error instead of the reply."""
    return reply(RLERROR, tag_of(data), struct.pack("<I", 5))


LIES: dict[str, Callable[[list[bytes]], bytes | None]] = {
    "the later one twice": lambda held: held[1] * 2,
    "both twice": lambda held: (held[1] + held[0]) * 2,
    "a tag that was never sent": lambda held: with_tag(held[0], 50) + held[1],
    "a tag beyond all": lambda held: with_tag(held[0], 5000) + held[1],
    "each other's tags": lambda held: with_tag(held[0], tag_of(held[1])) + with_tag(held[1], tag_of(held[0])),
    "the later one fails": lambda held: held[0] + error(held[1]),
    "the earlier one fails": lambda held: held[1] + error(held[0]),
    "more than asked": lambda held: held[1] + reply(RREAD, tag_of(held[0]), TOO_MUCH),
    "half of one": lambda held: held[1] + held[0][:5000],
    "gone, with both": lambda held: None,
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lies_with_several_under_way(guest: Hosted, lie: str) -> None:
    (guest.root / "host" / "x").write_text("x")
    guest.unserve()
    before = used_heap(guest)
    for _ in range(3):
        withholding = Withholding(lambda held: b"" if len(held) < 2 else LIES[lie](held))
        server = withholding.serve(guest)
        ident = guest.client.start("cat", "/host/file")
        assert withholding.first.wait(20)
        if lie == "half of one":
            guest.client.send(t.channel.CANCEL, ident, 2)  # else it waits for the rest, for long
        answer = guest.client.finish(ident)
        server.close()
        if lie == "each other's tags":
            continue  # a server may send any bytes: nobody can tell that these were in another place
        assert answer.stdout == CONTENT[: len(answer.stdout)]
        assert answer.status != 0 or answer.kind == CANCELLED or answer.stdout == CONTENT
    guest.serve()
    assert guest.run("cat", "/host/x").stdout == b"x"
    guest.unserve()
    assert used_heap(guest) <= before


def test_replies_that_come_when_nobody_waits_any_more(guest: Hosted) -> None:
    """They go nowhere, and the connection lives on."""
    guest.unserve()
    before = used_heap(guest)
    withholding = Withholding(lambda held: b"")
    server = withholding.serve(guest)
    ident = guest.client.start("cat", "/host/file")
    assert withholding.first.wait(20)
    guest.client.send(t.channel.CANCEL, ident, 2)
    assert guest.client.finish(ident).kind == CANCELLED
    late, withholding.held = withholding.held, []
    server.send(b"".join(reversed(late)))
    withholding.when = b"".join
    assert guest.run("cat", "/host/file").stdout == CONTENT
    server.close()
    assert used_heap(guest) <= before


PROGRAM = r"""
#include <stdio.h>
#include <fcntl.h>
#include <uio/uio.h>

enum { STEP = 4096 };

static char buffer[STEP];

static char first_of(int fd)
{
	return uio_read(fd, buffer, STEP) == STEP ? buffer[0] : '?';
}

int main(int argc, char **argv)
{
	int fd = uio_open("/host/x", O_RDONLY, 0), other;

	(void)argc, (void)argv;
	uio_printf("%c", first_of(fd));
	uio_printf("%c", first_of(fd)); /* and what is behind it, ahead of us */
	other = uio_open("/host/x", O_WRONLY, 0);
	uio_seek(other, 2 * STEP, 0);
	uio_write(other, "W", 1);
	uio_printf("%c", first_of(fd));
	uio_printf("%c", first_of(fd));
	uio_seek(fd, STEP, 0);
	uio_printf("%c", first_of(fd));
	uio_close(uio_open("/host/x", O_WRONLY | O_TRUNC, 0));
	uio_printf("%c", first_of(fd));
	uio_close(other);
	uio_close(fd);
	return 0;
}
"""


def test_what_was_read_ahead_is_void_once_the_file_changes(guest: Hosted) -> None:
    """Written through another descriptor; read elsewhere; made shorter."""
    pieces = [letter * 4096 for letter in "abcdefgh"]
    (guest.root / "host" / "x").write_text("".join(pieces))
    source = t.write(guest.root / "src" / "reader.c", PROGRAM)
    t.compile_c(source).rename(guest.root / "bin" / "reader")
    answer = guest.run("reader")
    assert (answer.status, answer.stdout) == (0, b"abWdb?"), answer


class AskingAgain(Withholding):
    """Puts aside, too, what a second reader asks before it reads ahead: how long the file is."""

    def __init__(self) -> None:
        super().__init__(lambda held: b"")
        # As many as are under way at most: the first reader waits.
        self.all_held = threading.Event()
        self.again = False  # the second reader has come
        self.asked = threading.Event()
        self.answer = b""

    def __call__(self, kind: int, tag: int, data: bytes) -> bytes | None:
        if kind == RGETATTR and self.again and not self.asked.is_set():
            self.answer = data
            self.asked.set()
            return b""
        out = super().__call__(kind, tag, data)
        if kind == RREAD:
            assert self.server
            self.again = self.all_held.is_set() and self.server.reads[-1][0] < STEADY
            if len(self.held) == AHEAD:
                self.all_held.set()
        return out


def test_one_reader_ends_while_another_is_about_to_read_ahead(guest: Hosted) -> None:
    guest.unserve()
    before = used_heap(guest)
    host = AskingAgain()
    server = host.serve(guest)
    # Neither has output that would have to be read meanwhile.
    first = guest.client.start("sha256sum", "/host/x")
    assert host.all_held.wait(20)
    second = guest.client.start("sha256sum", "/host/x")
    assert host.asked.wait(20)
    late, host.held = host.held, []
    host.when = b"".join
    digest = hashlib.sha256(CONTENT).hexdigest().encode()
    server.send(b"".join(late))
    assert guest.client.finish(first).stdout.split()[0] == digest
    server.send(host.answer)
    assert guest.client.finish(second).stdout.split()[0] == digest
    server.close()
    assert used_heap(guest) <= before
