# SPDX-License-Identifier: BSD-3-Clause
"""The guest's 9P client, in the hosted guest: against the real server, and against one that errs, lies and vanishes."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import loader_tools as t
import pytest
from loader_fake9p import (
    QID,
    RATTACH,
    RGETATTR,
    RLERROR,
    RLOPEN,
    RREAD,
    RREADDIR,
    RVERSION,
    RWALK,
    Change,
    FakeServer,
    only,
    reply,
)
from loader_tools import CANCELLED, ERROR, NOT_FOUND, OK, TIMEOUT, Hosted


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Hosted]:
    with t.hosted(tmp_path) as g:
        yield g


def check(guest: Hosted, *argv: str, stdin: bytes | None = None) -> bytes:
    """Run a command that must succeed: its output."""
    answer = guest.run(*argv, stdin=stdin)
    assert (answer.kind, answer.status, answer.stderr) == (OK, 0, b""), (argv, answer)
    return answer.stdout


def used_heap(guest: Hosted) -> int:
    """Bytes that the guest has allocated."""
    words = check(guest, "mem").split()
    return int(words[words.index(b"bytes") - 1])


@pytest.mark.parametrize("size", [0, 1, 4096, 65512, 65536, 65537, 200_000, 3_000_000])
def test_contents_of_all_sizes(guest: Hosted, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (guest.root / "host" / "in").write_bytes(data)
    assert check(guest, "cat", "/host/in") == data
    check(guest, "cp", "/host/in", "/host/out")
    assert (guest.root / "host" / "out").read_bytes() == data
    check(guest, "cp", "-", "/host/typed", stdin=data[:60000])
    assert (guest.root / "host" / "typed").read_bytes() == data[:60000]


def test_directories(guest: Hosted) -> None:
    host = guest.root / "host"
    names = [f"file-{i:04}-{'x' * (i % 200)}" for i in range(1500)]
    for name in names:
        (host / name).touch()
    assert check(guest, "ls", "/host").decode().split() == sorted(names)
    check(guest, "mkdir", "/host/a")
    check(guest, "mkdir", "/host/a/b")
    assert (host / "a" / "b").is_dir()
    (host / "a" / "b" / "c").write_text("deep")
    assert check(guest, "cat", "/host/a/../a/./b//c") == b"deep"
    assert check(guest, "cat", "../../host/a/b/c") == b"deep"
    check(guest, "rm", "/host/a/b/c")
    assert not (host / "a" / "b" / "c").exists()
    deep = "/".join("d" for _ in range(60))
    (host / deep).mkdir(parents=True)
    (host / deep / "end").write_text("here")
    assert check(guest, "cat", f"/host/{deep}/end") == b"here"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("cat", "/host/nothing"), b"no such file"),
        (("cat", "/host/file/below"), b"director"),
        (("cat", "/nothing/at/all"), b"no such file"),
        (("cat", "/host/" + "n" * 300), b"name too long"),
        (("cat", "/host/" + "d/" * 70), b"name too long"),
        (("cat", "/host/" + "d/" * 3000), b"name too long"),
        (("cat", "/host"), b"directory"),
        (("mkdir", "/host/file"), b"exists"),
        (("mkdir", "/bin/x"), b"read-only"),
        (("rm", "/bin/x"), b""),
        (("cp", "/host/file", "/bin/x"), b""),
    ],
)
def test_errors_have_words(guest: Hosted, argv: tuple[str, ...], words: bytes) -> None:
    (guest.root / "host" / "file").write_text("x")
    answer = guest.run(*argv)
    assert (answer.kind, answer.status) == (OK, 1), answer
    assert words in answer.stderr.lower()


def test_several_commands_at_once(guest: Hosted) -> None:
    files = {f"f{i}": random.Random(i).randbytes(300_000 + i) for i in range(4)}
    for name, data in files.items():
        (guest.root / "host" / name).write_bytes(data)
    client = guest.client
    idents = {client.start("cat", f"/host/{name}"): name for name in files}
    got = {ident: bytearray() for ident in idents}
    left = set(idents)
    while left:
        f = client.receive()
        if f.type == t.channel.DATA and f.arg == 1:
            got[f.id] += f.payload
            client.send(t.channel.CREDIT, f.id, 1, struct.pack("<I", len(f.payload)))
        elif f.type == t.channel.EXIT:
            assert t.channel.parse_exit(f).kind == OK
            left.remove(f.id)
    for ident, name in idents.items():
        assert got[ident] == files[name]


def test_without_a_host(guest: Hosted) -> None:
    (guest.root / "host" / "x").write_text("x")
    guest.unserve()
    answer = guest.run("cat", "/host/x")
    assert (answer.status, b"input or output error" in answer.stderr) == (1, True)
    answer = guest.run("someoverlay")
    assert answer.kind == ERROR
    guest.serve()
    assert check(guest, "cat", "/host/x") == b"x"
    assert guest.run("someoverlay").kind == NOT_FOUND


# ---- a server that lies

LIES: dict[str, Change] = {
    "closes at version": only(RVERSION, lambda tag, data: None),
    "closes at attach": only(RATTACH, lambda tag, data: None),
    "closes at walk": only(RWALK, lambda tag, data: None),
    "closes at read": only(RREAD, lambda tag, data: None),
    "closes in the middle of a reply": lambda kind, tag, data: data[:9] if kind == RREAD else data,
    "msize of nothing": only(RVERSION, lambda tag, data: data[:7] + bytes(4) + data[11:]),
    "msize beyond ours": only(RVERSION, lambda tag, data: data[:7] + b"\xff" * 4 + data[11:]),
    "another version": only(RVERSION, lambda tag, data: data.replace(b"9P2000.L", b"9P2000.u")),
    "unknown version": only(RVERSION, lambda tag, data: reply(RVERSION, tag, struct.pack("<IH", 8192, 7) + b"unknown")),
    "refuses to attach": only(RATTACH, lambda tag, data: reply(RLERROR, tag, struct.pack("<I", 13))),
    "wrong tag": only(RWALK, lambda tag, data: data[:5] + b"\x33\x00" + data[7:]),
    "no tag": only(RLOPEN, lambda tag, data: data[:5] + b"\xff\xff" + data[7:]),
    "wrong type": only(RLOPEN, lambda tag, data: data[:4] + bytes([RREAD]) + data[5:]),
    "size of nothing": only(RWALK, lambda tag, data: bytes(4) + data[4:]),
    "size of six": only(RWALK, lambda tag, data: b"\x06\0\0\0" + data[4:]),
    "size of 4 GiB": only(RWALK, lambda tag, data: b"\xff\xff\xff\xff" + data[4:]),
    "more names than asked": only(RWALK, lambda tag, data: reply(RWALK, tag, b"\x09\0" + QID * 9)),
    "count without qids": only(RWALK, lambda tag, data: reply(RWALK, tag, b"\x02\0")),
    "fewer names": only(RWALK, lambda tag, data: reply(RWALK, tag, b"\x01\0" + QID)),
    "short open": only(RLOPEN, lambda tag, data: reply(RLOPEN, tag, QID)),
    "long open": only(RLOPEN, lambda tag, data: reply(RLOPEN, tag, QID + bytes(1000))),
    "short attributes": only(RGETATTR, lambda tag, data: reply(RGETATTR, tag, bytes(152))),
    "long attributes": only(RGETATTR, lambda tag, data: reply(RGETATTR, tag, bytes(300))),
    "huge file": only(RGETATTR, lambda tag, data: data[:56] + b"\xff" * 8 + data[64:]),
    "more data than asked": only(RREAD, lambda tag, data: reply(RREAD, tag, struct.pack("<I", 200000) + bytes(200000))),
    "count beyond the reply": only(RREAD, lambda tag, data: reply(RREAD, tag, b"\xff\xff\0\0hello")),
    "count below the reply": only(RREAD, lambda tag, data: reply(RREAD, tag, b"\x01\0\0\0hello")),
    "read without count": only(RREAD, lambda tag, data: reply(RREAD, tag, b"\x01")),
    "empty error": only(RREAD, lambda tag, data: reply(RLERROR, tag)),
    "long error": only(RREAD, lambda tag, data: reply(RLERROR, tag, bytes(100))),
    "error 0": only(RREAD, lambda tag, data: reply(RLERROR, tag, bytes(4))),
    "error 2^31": only(RREAD, lambda tag, data: reply(RLERROR, tag, b"\0\0\0\x80")),
    "each reply twice": lambda kind, tag, data: data * 2,
    "noise in front": lambda kind, tag, data: os.urandom(50) + data,
    "noise": lambda kind, tag, data: os.urandom(300),
    "zeroes": lambda kind, tag, data: bytes(4096),
}  # fmt: skip


#: in these the guest waits for a version until it gives up, after 5 s
SLOW = ("noise", "zeroes")


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies(guest: Hosted, lie: str) -> None:
    (guest.root / "host" / "x").write_text("x")
    guest.unserve()
    before = used_heap(guest)
    for _ in range(1 if lie in SLOW else 3):
        server = FakeServer(guest.directory, LIES[lie])
        answer = guest.run("cat", "/host/file/name")
        # Whatever is true: an error in words, or the five bytes. Never silence, never a crash.
        assert answer.kind == OK
        if lie != "fewer names" or answer.status == 0:
            assert answer.stdout in (b"", b"hello")
        assert answer.stderr or answer.stdout == b"hello", answer
        server.close()
    guest.serve()
    assert check(guest, "cat", "/host/x") == b"x"
    guest.unserve()
    assert used_heap(guest) <= before


@pytest.mark.parametrize("kind", [RVERSION, RATTACH, RWALK, RREAD])
def test_a_server_that_falls_silent(guest: Hosted, kind: int) -> None:
    """A command's deadline and Ctrl-C hold while it waits for the host."""
    guest.unserve()
    server = FakeServer(guest.directory, only(kind, lambda tag, data: b""))
    answer = guest.run("cat", "/host/x", timeout_ms=50)
    assert (answer.kind, answer.status) != (OK, 0)
    assert guest.run("someoverlay", timeout_ms=50).kind == TIMEOUT
    ident = guest.client.start("cat", "/host/x")
    guest.client.send(t.channel.CANCEL, ident, 2)
    assert guest.client.finish(ident).kind == CANCELLED
    server.close()
    guest.serve()
    assert guest.run("someoverlay").kind == NOT_FOUND


def test_an_honest_small_server(guest: Hosted) -> None:
    guest.unserve()
    server = FakeServer(guest.directory, lambda kind, tag, data: data)
    assert check(guest, "cat", "/any/name") == b"hello"
    server.close()


ENTRY = QID + struct.pack("<QBH", 1, 8, 4) + b"name"


@pytest.mark.parametrize(
    "data",
    [
        ENTRY[:-1],
        ENTRY[:20],
        QID + struct.pack("<QBH", 1, 8, 60000) + b"name",
        QID + struct.pack("<QBH", 1, 8, 0),
        QID + struct.pack("<QBH", 1, 8, 3) + b"a/b",
        QID + struct.pack("<QBH", 1, 8, 3) + b"a\0b",
        ENTRY,  # at the same offset for ever
    ],
)
def test_directories_that_lie(guest: Hosted, data: bytes) -> None:
    guest.unserve()
    change = only(
        RREADDIR, lambda tag, _: reply(RREADDIR, tag, struct.pack("<I", len(data)) + data)
    )
    directory = only(RGETATTR, lambda tag, old: old[:28] + struct.pack("<I", 0o40755) + old[32:])
    server = FakeServer(
        guest.directory, lambda kind, tag, old: change(kind, tag, directory(kind, tag, old) or b"")
    )
    answer = guest.run("ls", "/host")
    assert (answer.kind, answer.status) == (OK, 1), answer
    server.close()


def test_a_thousand_connections_do_not_grow(guest: Hosted) -> None:
    """The host vanishes in the middle of a read, over and over."""
    guest.unserve()
    sizes = []
    requests = 0
    for i in range(1000):
        stop = (RVERSION, RWALK, RLOPEN, RREAD)[i % 4]
        server = FakeServer(guest.directory, only(stop, lambda tag, data: None))
        answer = guest.run("cat", "/host/x")
        assert (answer.kind, answer.status) == (OK, 1)
        server.close()
        requests += server.requests
        if i % 100 == 50:
            sizes.append(used_heap(guest))
    assert sizes[-1] <= sizes[0], sizes
    assert requests > 2500  # they did get somewhere
