# SPDX-License-Identifier: BSD-3-Clause
"""What each request does, seen by a client and checked on the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from ninep_client import Client, Rlerror

from ninep_server import Limits, Policy
from ninep_server.reference import reference

RDWR_CREAT = os.O_RDWR | os.O_CREAT


async def names_of(client: Client, fid: int, count: int = 8192) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    offset = 0
    while True:
        (data,) = await client.call("Treaddir", fid, offset, count)
        if not data:
            return found
        position = 0
        while position < len(data):
            *_, offset, kind, length = struct.unpack_from("<BIQQBH", data, position)
            position += 24
            found[bytes(data[position : position + length])] = kind
            position += length


async def test_a_file_is_written_read_truncated_and_removed(connect: Connect, export: Path) -> None:
    client = await connect()
    await client.walk(1)
    await client.call("Tlcreate", 1, b"new", RDWR_CREAT, 0o640, 0)
    assert await client.call("Twrite", 1, 3, b"abcdef") == (6,)
    assert (await client.call("Tread", 1, 0, 100))[0] == b"\0\0\0abcdef"
    assert (await client.call("Tread", 1, 9, 100))[0] == b""
    await client.call("Tfsync", 1, 1)
    await client.call("Tsetattr", 1, 8, 0, 0, 0, 4, 0, 0, 0, 0)
    assert (export / "new").read_bytes() == b"\0\0\0a"
    assert stat.S_IMODE((export / "new").stat().st_mode) == 0o640
    await client.call("Tunlinkat", 0, b"new", 0)
    assert not (export / "new").exists()
    # Open and unlinked: still a file.
    assert (await client.call("Tread", 1, 3, 1))[0] == b"a"
    assert (await client.call("Tgetattr", 1, 0x7FF))[5] == 0
    await client.call("Tclunk", 1)


async def test_large_reads_come_in_pieces_of_at_most_msize(connect: Connect, export: Path) -> None:
    content = os.urandom(3_000_000)
    (export / "big").write_bytes(content)
    client = await connect()
    await client.walk(1, b"big")
    _, iounit = await client.call("Tlopen", 1, os.O_RDONLY)
    assert iounit == 65536 - 24
    got = b""
    while piece := (await client.call("Tread", 1, len(got), 1 << 20))[0]:
        assert len(piece) <= iounit
        got += piece
    assert got == content


@pytest.mark.parametrize("count", [60, 8192])
async def test_readdir_gives_every_name_once(connect: Connect, export: Path, count: int) -> None:
    for n in range(500):
        (export / "dir" / f"{n:03}").touch()
    client = await connect()
    await client.walk(1, b"dir")
    await client.call("Tlopen", 1, os.O_RDONLY | os.O_DIRECTORY)
    found = await names_of(client, 1, count)
    assert found.keys() == {b".", b"..", b"sub"} | {f"{n:03}".encode() for n in range(500)}
    assert (found[b"sub"], found[b"000"]) == (4, 8)


async def test_attributes_are_those_of_stat_with_the_squashed_owner(
    connect: Connect, export: Path
) -> None:
    client = await connect()
    await client.walk(1, b"file")
    await client.call("Tsetattr", 1, 1 | 48 | 128 | 256, 0o4751, 0, 0, 0, 5, 6, 7, 999_999_999)
    valid, qid, mode, uid, gid, nlink, _, size, *rest = await client.call("Tgetattr", 1, 0x7FF)
    real = (export / "file").stat()
    assert (valid, qid.path, nlink, size) == (0x7FF, real.st_ino, 1, 11)
    assert (uid, gid) == (1000, 1000)
    assert stat.S_IMODE(mode) == 0o751  # set-user-id is not taken over when squashed
    assert rest[2:6] == [5, 6, 7, 999_999_999]
    assert real.st_mtime_ns == 7_999_999_999


async def test_the_version_of_a_qid_follows_the_content(connect: Connect, export: Path) -> None:
    client = await connect()
    (first,) = (await client.call("Twalk", 0, 1, [b"file"]))[0]
    os.utime(export / "file", ns=(1, 1))
    (second,) = (await client.call("Twalk", 0, 2, [b"file"]))[0]
    assert first.path == second.path
    assert first.version != second.version


async def test_directories_links_and_renames(connect: Connect, export: Path) -> None:
    client = await connect()
    assert (await client.call("Tmkdir", 0, b"made", 0o700, 0))[0].type == 0x80
    assert (await client.call("Tsymlink", 0, b"link", b"any/where", 0))[0].type == 0x02
    await client.walk(1, b"link")
    assert await client.call("Treadlink", 1) == (b"any/where",)
    await client.walk(2, b"file")
    await client.walk(3, b"made")
    await client.call("Tlink", 3, 2, b"again")
    assert (export / "made/again").samefile(export / "file")
    await client.call("Tlink", 3, 1, b"link2")
    assert (export / "made/link2").readlink() == Path("any/where")
    await client.call("Trenameat", 3, b"again", 0, b"file2")
    assert (export / "file2").samefile(export / "file")
    await client.call("Trename", 2, 3, b"file3")
    assert (export / "made/file3").read_text() == "hello world"
    await client.call("Tremove", 2)
    assert not (export / "made/file3").exists()
    await client.call("Tmknod", 0, b"fifo", stat.S_IFIFO | 0o600, 0, 0, 0)
    assert stat.S_ISFIFO((export / "fifo").stat().st_mode)
    await client.call("Tunlinkat", 3, b"link2", 0)
    await client.call("Tunlinkat", 0, b"made", 0x200)
    assert not (export / "made").exists()


async def test_extended_attributes(connect: Connect, export: Path) -> None:
    try:
        os.setxattr(export / "file", "user.probe", b"x")
    except OSError:
        pytest.skip("the file system of the temporary directory has no user attributes")
    os.removexattr(export / "file", "user.probe")
    client = await connect()
    await client.walk(1, b"file")
    await client.walk(2, b"file")
    await client.call("Txattrcreate", 1, b"user.a", 4, 0)
    await client.call("Twrite", 1, 0, b"wx")
    await client.call("Twrite", 1, 2, b"yz")
    await client.call("Tclunk", 1)
    assert os.getxattr(export / "file", "user.a") == b"wxyz"
    assert await client.call("Txattrwalk", 2, 3, b"") == (7,)
    assert (await client.call("Tread", 3, 0, 100))[0] == b"user.a\0"
    assert await client.call("Txattrwalk", 2, 4, b"user.a") == (4,)
    assert (await client.call("Tread", 4, 1, 2))[0] == b"xy"
    # What was announced and not sent is not set.
    await client.walk(5, b"file")
    await client.call("Txattrcreate", 5, b"user.b", 4, 0)
    with pytest.raises(Rlerror):
        await client.call("Tclunk", 5)
    assert os.listxattr(export / "file") == ["user.a"]


async def test_locks_hold_between_two_clients(connect: Connect) -> None:
    one, two = await connect(), await connect()
    for client in (one, two):
        await client.walk(1, b"file")
        await client.call("Tlopen", 1, os.O_RDWR)
    lock = (1, 0, 0, 10, 7, b"me")
    assert await one.call("Tlock", 1, *lock) == (0,)
    assert await two.call("Tlock", 1, *lock) == (1,)
    assert (await two.call("Tgetlock", 1, 1, 0, 5, 7, b"me"))[:3] == (1, 0, 10)
    await one.call("Tclunk", 1)
    assert await two.call("Tlock", 1, *lock) == (0,)


async def test_a_walk_that_fails_leaves_the_fids_as_they_were(connect: Connect) -> None:
    client = await connect()
    (qids,) = await client.call("Twalk", 0, 1, [b"dir", b"missing"])
    assert len(qids) == 1
    for fid in (1, 9):
        with pytest.raises(Rlerror) as refused:
            await client.call("Tgetattr", fid, 0)
        assert refused.value.ecode == errno.EBADF


async def test_statfs_and_flush(connect: Connect) -> None:
    client = await connect()
    assert (await client.call("Tstatfs", 0))[0] == 0x01021997
    assert await client.call("Tflush", 77) == ()


REFUSALS: list[tuple[str, tuple[Any, ...], int]] = [
    ("Tauth", (5, b"", b"", 0), 0),
    ("Tattach", (0, 0xFFFFFFFF, b"", b"", 0), errno.EBADF),
    ("Tlopen", (9, 0), errno.EBADF),
    ("Tread", (0, 0, 1), errno.EBADF),
    ("Twrite", (0, 0, b"x"), errno.EBADF),
    ("Tlcreate", (0, b"file", RDWR_CREAT | os.O_EXCL, 0o600, 0), errno.EEXIST),
    ("Tlcreate", (0, b"a/b", RDWR_CREAT, 0o600, 0), errno.EINVAL),
    ("Tlcreate", (0, b"x" * 256, RDWR_CREAT, 0o600, 0), errno.ENAMETOOLONG),
    ("Tmkdir", (0, b"..", 0o700, 0), errno.EINVAL),
    ("Tmkdir", (0, b"", 0o700, 0), errno.EINVAL),
    ("Tmkdir", (0, b"a\0b", 0o700, 0), errno.EINVAL),
    ("Tmkdir", (0, b"dir", 0o700, 0), errno.EEXIST),
    ("Tmknod", (0, b"disk", stat.S_IFBLK | 0o600, 8, 0, 0), errno.EPERM),
    ("Tmknod", (0, b"mem", stat.S_IFCHR | 0o600, 1, 1, 0), errno.EPERM),
    ("Tunlinkat", (0, b"dir", 0), errno.EISDIR),
    ("Tunlinkat", (0, b"dir", 0x200), errno.ENOTEMPTY),
    ("Tunlinkat", (0, b"nothing", 0), errno.ENOENT),
    ("Tremove", (0,), errno.EBUSY),
    ("Treadlink", (0,), errno.EINVAL),
    ("Trenameat", (0, b"dir", 0, b"../x"), errno.EINVAL),
    ("Tsetattr", (0, 8, 0, 0, 0, 1, 0, 0, 0, 0), errno.EISDIR),
    ("Tsetattr", (0, 32 | 256, 0, 0, 0, 0, 0, 0, 0, 10**9), errno.EINVAL),
    ("Txattrwalk", (0, 1, b"trusted.x"), errno.ENODATA),
    ("Txattrcreate", (0, b"user.x", 1 << 40, 0), errno.ENOSPC),
    ("Tlock", (0, 9, 0, 0, 0, 0, b""), errno.EINVAL),
    ("Tsymlink", (0, b"s", b"", 0), errno.EINVAL),
]


@pytest.mark.parametrize(("title", "values", "code"), REFUSALS)
async def test_what_cannot_be_is_refused_with_linux_errno(
    connect: Connect, title: str, values: tuple[Any, ...], code: int
) -> None:
    client = await connect()
    with pytest.raises(Rlerror) as refused:
        await client.call(title, *values)
    assert refused.value.ecode == code


CHANGES: list[tuple[str, tuple[Any, ...]]] = [
    ("Tlcreate", (1, b"n", RDWR_CREAT, 0o600, 0)),
    ("Tmkdir", (0, b"n", 0o700, 0)),
    ("Tsymlink", (0, b"n", b"t", 0)),
    ("Tmknod", (0, b"n", stat.S_IFIFO, 0, 0, 0)),
    ("Tlink", (0, 2, b"n")),
    ("Tunlinkat", (0, b"file", 0)),
    ("Tremove", (2,)),
    ("Trename", (2, 0, b"n")),
    ("Trenameat", (0, b"file", 0, b"n")),
    ("Tsetattr", (2, 1, 0o777, 0, 0, 0, 0, 0, 0, 0)),
    ("Tsetattr", (2, 8, 0, 0, 0, 0, 0, 0, 0, 0)),
    ("Tsetattr", (2, 32, 0, 0, 0, 0, 0, 0, 0, 0)),
    ("Tlopen", (2, os.O_WRONLY)),
    ("Tlopen", (2, os.O_RDONLY | os.O_TRUNC)),
]


@pytest.mark.parametrize(("title", "values"), CHANGES)
async def test_a_readonly_export_changes_nothing(
    connect: Connect, export: Path, title: str, values: tuple[Any, ...]
) -> None:
    def picture() -> dict[str, tuple[int, int, int]]:
        return {
            str(p): (s.st_mode, s.st_size, s.st_mtime_ns)
            for p in [export, *export.rglob("*")]
            for s in [p.lstat()]
        }

    before = picture()
    client = await connect(Policy(readonly=True, uid=1, gid=1))
    await client.walk(1)
    await client.walk(2, b"file")
    with pytest.raises(Rlerror) as refused:
        await client.call(title, *values)
    assert refused.value.ecode == errno.EROFS
    assert picture() == before


async def test_limits_are_errors_of_the_request_alone(connect: Connect) -> None:
    client = await connect(limits=Limits(fids=3))
    await client.walk(1)
    await client.walk(2)
    with pytest.raises(Rlerror) as refused:
        await client.walk(3)
    assert refused.value.ecode == errno.EMFILE
    await client.call("Tclunk", 1)
    await client.walk(3)


async def test_getattr_gives_the_inode_s_generation_if_there_is_one(
    connect: Connect, export: Path
) -> None:
    fd = os.open(export / "file", os.O_RDONLY)
    try:
        expected = int.from_bytes(fcntl.ioctl(fd, 0x80087601, bytes(8))[:4], "little")
    except OSError:
        expected = None
    finally:
        os.close(fd)
    client = await connect()
    await client.walk(1, b"file")
    fields = await client.call("Tgetattr", 1, 0x17FF)
    assert bool(fields[0] & 0x1000) == (expected is not None)
    assert fields[18] == (expected or 0)
    fields = await client.call("Tgetattr", 1, 0x7FF)
    assert not fields[0] & 0x1000


def test_the_reference_is_that_of_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "ninep-messages.md"
    assert page.read_text() == reference()


async def _names(client: Client, fid: int) -> set[bytes]:
    await client.walk(fid, b"dir")
    await client.call("Tlopen", fid, 0)
    (data,) = await client.call("Treaddir", fid, 0, 60000)
    await client.call("Tclunk", fid)
    found, at = set[bytes](), 0
    while at < len(data):
        (size,) = struct.unpack_from("<H", data, at + 22)
        found.add(bytes(data[at + 24 : at + 24 + size]))
        at += 24 + size
    return found - {b".", b".."}


async def test_a_directory_that_changes_at_once_is_listed_anew(
    connect: Connect, export: Path
) -> None:
    client = await connect()
    expected = {b"sub"}
    for number in range(20):
        assert await _names(client, 9) == expected
        (export / "dir" / f"new{number}").touch()
        expected.add(b"new%d" % number)
    assert await _names(client, 9) == expected


async def test_a_directory_that_rests_is_read_once(
    connect: Connect, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect()
    scans = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scandir(path))
    later = time.time_ns() + 10**10
    monkeypatch.setattr("ninep_server.local.time.time_ns", lambda: later)
    for _ in range(3):
        assert await _names(client, 9) == {b"sub"}
    assert len(scans) == 1
    (export / "dir" / "new").touch()
    os.utime(export / "dir", ns=(1, 1))
    assert await _names(client, 9) == {b"sub", b"new"}
    assert len(scans) == 2
