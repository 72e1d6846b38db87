# SPDX-License-Identifier: BSD-3-Clause
"""What every backend must do, trees put together from several, quotas, and backends that wait."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
import trio
from ninep_client import Client, Rlerror

from ninep_server import (
    Attributes,
    File,
    Limits,
    LocalNode,
    Node,
    Policy,
    Qid,
    SyntheticDirectory,
    serve_stream,
)

Serve = Callable[[Node], Awaitable[Client]]
CONTENT = {b"a": b"alpha", b"b": b"", b"large": bytes(range(256)) * 1000}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A client of a tree."""
    async with trio.open_nursery() as nursery:

        async def factory(root: Node) -> Client:
            here, there = trio.socket.socketpair()
            nursery.start_soon(serve_stream, trio.SocketStream(there), root, Limits())
            client = Client(trio.SocketStream(here))
            await client.attach()
            return client

        yield factory
        nursery.cancel_scope.cancel()


class Shelf:
    """A source whose files are in a dictionary."""

    def __init__(self, files: dict[bytes, bytes]) -> None:
        self.files = files

    def names(self) -> Iterable[bytes]:
        return self.files

    def content(self, name: bytes) -> bytes | None:
        return self.files.get(name)


def local(path: Path) -> Node:
    top = path / "tree"
    (top / "sub").mkdir(parents=True)
    for name, data in CONTENT.items():
        (top / "sub" / os.fsdecode(name)).write_bytes(data)
    return LocalNode.root(top, Policy(readonly=True, uid=0, gid=0))


def fixed(_path: Path) -> Node:
    return SyntheticDirectory({"sub": {os.fsdecode(n): d for n, d in CONTENT.items()}})


def computed(_path: Path) -> Node:
    files = {os.fsdecode(n): lambda d=d: d for n, d in CONTENT.items()}
    return SyntheticDirectory({"sub": files})


def sourced(_path: Path) -> Node:
    return SyntheticDirectory({"sub": SyntheticDirectory(Shelf(CONTENT))})


async def listing(client: Client, fid: int) -> dict[bytes, tuple[int, int]]:
    """name → (type, qid path), read in small pieces."""
    found, offset = {}, 0
    while data := bytes((await client.call("Treaddir", fid, offset, 60))[0]):
        while data:
            path, offset = (int.from_bytes(data[i : i + 8], "little") for i in (5, 13))
            size = int.from_bytes(data[22:24], "little")
            found[data[24 : 24 + size]] = (data[21], path)
            data = data[24 + size :]
    return found


@pytest.mark.parametrize("make", [local, fixed, computed, sourced])
async def test_every_backend_reads_alike(
    serve: Serve, tmp_path: Path, make: Callable[[Path], Node]
) -> None:
    client = await serve(make(tmp_path))
    await client.walk(1, b"sub")
    await client.call("Tlopen", 1, os.O_RDONLY)
    names = await listing(client, 1)
    assert set(names) == {b".", b"..", *CONTENT}
    assert len({path for name, (_, path) in names.items()}) == len(names)
    for number, (name, data) in enumerate(CONTENT.items(), 10):
        (qids,) = await client.call("Twalk", 0, number, [b"sub", name])
        assert (qids[0].type, qids[1].type) == (0x80, 0)
        assert names[name] == (8, qids[1].path)
        valid, qid, mode, *rest = await client.call("Tgetattr", number, 0x7FF)
        assert valid & 0x7FF == 0x7FF
        assert (qid.path, stat.S_ISREG(mode), rest[4]) == (qids[1].path, True, len(data))
        await client.call("Tlopen", number, os.O_RDONLY)
        for offset in (0, 3, len(data), len(data) + 7):
            (piece,) = await client.call("Tread", number, offset, 5000)
            assert bytes(piece) == data[offset : offset + 5000]
    for code, title, *values in [
        (errno.ENOENT, "Twalk", 0, 40, [b"nothing"]),
        (errno.ENOTDIR, "Twalk", 10, 40, [b".."]),
        (errno.EROFS, "Tmkdir", 0, b"d", 0o755, 0),
        (errno.EROFS, "Tunlinkat", 0, b"sub", 0x200),
        (errno.EROFS, "Tsetattr", 10, 1, 0o777, 0, 0, 0, 0, 0, 0, 0),
        (errno.EROFS, "Tsetattr", 10, 8, 0, 0, 0, 9, 0, 0, 0, 0),
    ]:
        with pytest.raises(Rlerror) as refused:
            await client.call(title, *values)
        assert refused.value.ecode == code, (title, values)
    await client.walk(41, b"sub", b"a")
    with pytest.raises(Rlerror) as refused:
        await client.call("Tlopen", 41, os.O_RDWR)
    assert refused.value.ecode == errno.EROFS


async def test_a_tree_of_several_backends(serve: Serve, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    one, two = (LocalNode.root(tmp_path / n, Policy(uid=0, gid=0)) for n in ("one", "two"))
    shelf = Shelf({b"tool": b"v1"})
    top = SyntheticDirectory({"one": one, "two": two, "bin": SyntheticDirectory(shelf)})
    client = await serve(top)
    (qids,) = await client.call("Twalk", 0, 1, [b"one", b"..", b"two", b"..", b".."])
    assert qids[1] == qids[3] == qids[4]
    await client.walk(2, b"one")
    await client.walk(3, b"two")
    await client.walk(4, b"one", b"file")
    for title, *values in [("Trenameat", 2, b"file", 3, b"moved"), ("Tlink", 3, 4, b"linked")]:
        with pytest.raises(Rlerror) as refused:
            await client.call(title, *values)
        assert refused.value.ecode == errno.EXDEV
    with pytest.raises(Rlerror) as refused:
        await client.call("Tremove", 2)
    assert refused.value.ecode == errno.EBUSY
    shelf.files[b"added"] = b"v2"
    await client.walk(5, b"bin", b"added")
    await client.call("Tlopen", 5, 0)
    del shelf.files[b"added"]
    assert bytes((await client.call("Tread", 5, 0, 100))[0]) == b"v2"
    with pytest.raises(Rlerror):
        await client.walk(6, b"bin", b"added")


async def test_quotas_hold_over_reconnects_and_give_back(serve: Serve, tmp_path: Path) -> None:
    root = LocalNode.root(tmp_path, Policy(uid=0, gid=0, max_bytes=10_000, max_files=3))

    async def refused(client: Client, title: str, *values: object) -> None:
        with pytest.raises(Rlerror) as error:
            await client.call(title, *values)
        assert error.value.ecode == errno.EDQUOT

    client = await serve(root)
    await client.walk(1)
    await client.call("Tlcreate", 1, b"f", os.O_RDWR, 0o644, 0)
    await client.call("Twrite", 1, 0, bytes(6000))
    await client.call("Twrite", 1, 0, bytes(6000))
    await refused(client, "Twrite", 1, 6000, bytes(4001))
    await refused(client, "Twrite", 1, 1 << 40, b"x")
    await refused(client, "Tsetattr", 1, 8, 0, 0, 0, 10_001, 0, 0, 0, 0)
    await client.call("Tclunk", 1)  # else it is held until the server sees the connection end
    client = await serve(root)
    await client.call("Tmkdir", 0, b"d", 0o755, 0)
    await client.call("Tsymlink", 0, b"s", b"x", 0)
    await refused(client, "Tmkdir", 0, b"e", 0o755, 0)
    await client.call("Tunlinkat", 0, b"f", 0)
    await client.walk(1)
    await client.call("Tlcreate", 1, b"g", os.O_RDWR, 0o644, 0)
    await client.call("Twrite", 1, 0, bytes(10_000))
    assert (tmp_path / "g").stat().st_size == 10_000


async def test_bookkeeping_of_the_host_is_not_there(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / ".uio-state").write_text("secret")
    (tmp_path / "f").touch()
    client = await serve(LocalNode.root(tmp_path, Policy(uid=0, gid=0)))
    await client.walk(1)
    await client.call("Tlopen", 1, 0)
    assert set(await listing(client, 1)) == {b".", b"..", b"f"}
    await client.walk(2)
    for title, *values in [
        ("Twalk", 0, 9, [b".uio-state"]),
        ("Tlcreate", 2, b".uio-state", os.O_RDWR | os.O_TRUNC, 0o644, 0),
        ("Tunlinkat", 0, b".uio-state", 0),
        ("Trenameat", 0, b"f", 0, b".uio-state"),
        ("Trenameat", 0, b".uio-state", 0, b"g"),
    ]:
        with pytest.raises(Rlerror) as refused:
            await client.call(title, *values)
        assert refused.value.ecode == errno.ENOENT
    assert (tmp_path / ".uio-state").read_text() == "secret"


class Slow(Node):
    """A file whose opening takes until somebody says so, as on a server that does not answer."""

    waits = True

    def __init__(self) -> None:
        super().__init__(None, b"")
        self.go = threading.Event()
        self.opened = 0

    def attributes(self) -> Attributes:
        return Attributes(stat.S_IFREG | 0o644, 0, 0, 0)

    def qid(self) -> Qid:
        return Qid(0, 0, 77)

    def open(self, flags: int) -> File:
        self.go.wait(30)
        self.opened += 1
        return File()


async def test_a_blocked_file_stalls_nobody_and_its_fid_may_change(serve: Serve) -> None:
    slow = Slow()
    client = await serve(SyntheticDirectory({"slow": slow, "quick": b"q"}))
    try:
        await client.walk(1, b"quick")
        # Walking to it waits as well, in a thread.
        await client.walk(2, b"slow")
        await client.send("Tlopen", 2, 0, tag=50)
        with trio.fail_after(5):
            await client.call("Tlopen", 1, 0)
            assert bytes((await client.call("Tread", 1, 0, 10))[0]) == b"q"
            # The fid becomes another file while it is being opened.
            await client.call("Tclunk", 2)
            await client.walk(2, b"quick")
            await client.send("Tflush", 50, tag=51)
            await client.call("Tgetattr", 1, 0)
        slow.go.set()
        with trio.fail_after(5):
            assert (await client.receive())[:2] == ("Rlerror", 50)
            assert (await client.receive())[:2] == ("Rflush", 51)
            with pytest.raises(Rlerror) as refused:
                await client.call("Tread", 2, 0, 10)
        assert refused.value.ecode == errno.EBADF
        assert slow.opened == 1
    finally:
        slow.go.set()


async def test_what_is_removed_but_held_counts_until_it_is_let_go(
    serve: Serve, tmp_path: Path
) -> None:
    client = await serve(LocalNode.root(tmp_path, Policy(uid=0, gid=0, max_bytes=10_000)))

    async def make(fid: int, name: bytes, size: int) -> int:
        await client.walk(fid)
        await client.call("Tlcreate", fid, name, os.O_RDWR, 0o644, 0)
        try:
            await client.call("Twrite", fid, 0, bytes(size))
        except Rlerror as error:
            return error.ecode
        return 0

    assert await make(1, b"f", 6000) == 0
    await client.call("Tunlinkat", 0, b"f", 0)
    assert await make(2, b"g", 6000) == errno.EDQUOT
    await client.call("Tclunk", 1)
    assert await make(3, b"h", 6000) == 0
    # Replacing a file again and again, as editors do, uses nothing up.
    await client.call("Tclunk", 3)
    for number in range(10):
        assert await make(3, b"new", 1500) == 0, number
        await client.call("Tclunk", 3)
        await client.call("Trenameat", 0, b"new", 0, b"old")
    await client.call("Tunlinkat", 0, b"old", 0)
    await client.call("Tunlinkat", 0, b"h", 0)
    assert await make(4, b"all", 10_000) == 0
    await client.walk(5, b"all")
    await client.call("Tlopen", 5, os.O_WRONLY | os.O_APPEND)
    with pytest.raises(Rlerror) as refused:
        await client.call("Twrite", 5, 0, b"x")
    assert refused.value.ecode == errno.EDQUOT
    await client.call("Tsetattr", 5, 8, 0, 0, 0, 0, 0, 0, 0, 0)
    await client.call("Twrite", 5, 0, bytes(10_000))
    assert (tmp_path / "all").stat().st_size == 10_000
