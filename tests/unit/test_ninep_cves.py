# SPDX-License-Identifier: BSD-3-Clause
"""The mechanisms of QEMU's published 9pfs flaws that other tests do not have already; docs/ninep.md has the list."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from ninep_client import Client, Rlerror, descriptors

from ninep_server import Limits, Policy

LAST = (1 << 64) - 1


async def refused(client: Client, title: str, *values: Any) -> int:
    """The errno of a request that must fail."""
    with pytest.raises(Rlerror) as error:
        await client.call(title, *values)
    return error.value.ecode


async def test_an_empty_name_is_a_name(connect: Connect) -> None:
    """CVE-2016-8578: a string of length 0 was a null pointer."""
    client = await connect()
    await client.walk(1)
    for title, *values in [
        ("Tlcreate", 1, b"", 0, 0o644, 0),
        ("Tmkdir", 0, b"", 0o755, 0),
        ("Tsymlink", 0, b"", b"", 0),
        ("Trenameat", 0, b"", 0, b""),
        ("Tunlinkat", 0, b"", 0),
        ("Twalk", 0, 9, [b""]),
    ]:
        assert await refused(client, title, *values) == errno.EINVAL


async def test_an_attribute_under_way_is_not_read(connect: Connect) -> None:
    """CVE-2016-9103: a value that was announced but not written gave back the host's heap."""
    client = await connect()
    await client.walk(1, b"file")
    await client.call("Txattrcreate", 1, b"user.a", 4096, 0)
    assert await refused(client, "Tread", 1, 0, 4096) == errno.EBADF
    assert await refused(client, "Tclunk", 1) == errno.EINVAL


async def test_attribute_offsets_do_not_wrap(connect: Connect) -> None:
    """CVE-2016-9104: offset + count wrapped around."""
    client = await connect()
    await client.walk(1, b"file")
    await client.call("Txattrcreate", 1, b"user.a", 8, 0)
    for offset in (LAST, LAST - 7, 1 << 63, 1):
        assert await refused(client, "Twrite", 1, offset, b"12345678") == errno.ENOSPC
    await client.call("Twrite", 1, 0, b"12345678")
    await client.call("Tclunk", 1)
    await client.walk(1, b"file")
    await client.call("Txattrwalk", 1, 2, b"user.a")
    for offset in (LAST, LAST - 7, 1 << 63, 8):
        assert bytes((await client.call("Tread", 2, offset, 4096))[0]) == b""
    assert bytes((await client.call("Tread", 2, 6, 4096))[0]) == b"78"


async def test_attributes_announced_over_and_over_hold_no_memory(connect: Connect) -> None:
    """CVE-2016-9102, -8577, -9914 to -9916, CVE-2017-8086: buffers were leaked by repeating a request."""
    client = await connect(limits=Limits(xattr=65536, xattrs=200_000))
    for _ in range(20):
        held = []
        for fid in range(1, 9):
            await client.walk(fid, b"file")
            try:
                await client.call("Txattrcreate", fid, b"user.a", 65536, 0)
                assert await refused(client, "Txattrcreate", fid, b"user.b", 1, 0) == errno.EBUSY
                held.append(fid)
            except Rlerror as error:
                assert error.ecode == errno.ENOSPC
        assert len(held) == 3
        for fid in range(1, 9):
            assert fid not in held or await refused(client, "Tclunk", fid) == errno.EINVAL
            if fid not in held:
                await client.call("Tclunk", fid)


async def test_an_open_fid_is_not_opened_again(connect: Connect) -> None:
    """CVE-2017-7377, CVE-2016-9105, -9106: the first descriptor was lost."""
    client = await connect()
    await client.walk(1, b"file")
    await client.walk(2)
    await client.call("Tlopen", 1, 0)
    await client.call("Tlcreate", 2, b"made", os.O_RDWR, 0o644, 0)
    before = descriptors()
    for _ in range(100):
        assert await refused(client, "Tlopen", 1, 0) == errno.EBUSY
        assert await refused(client, "Tlcreate", 2, b"again", os.O_RDWR, 0o644, 0) == errno.EBUSY
        assert await refused(client, "Tlcreate", 1, b"again", os.O_RDWR, 0o644, 0) == errno.EBUSY
        assert await refused(client, "Tlink", 0, 1, b"dir") == errno.EEXIST
    assert descriptors() == before


async def test_a_renamed_directory_takes_its_fids_along(connect: Connect, export: Path) -> None:
    """CVE-2018-19364, -19489, CVE-2017-15038: the path in a fid changed while another request used it."""
    client = await connect()
    await client.walk(1, b"dir")
    await client.walk(2, b"dir", b"sub")
    await client.walk(3, b"dir")
    await client.call("Trename", 1, 0, b"moved")
    await client.call("Tlcreate", 2, b"inside", os.O_RDWR, 0o644, 0)
    assert (export / "moved/sub/inside").exists()
    # Fid 3 still is the directory, though its name is gone; removing by that name fails and removes nothing.
    await client.call("Tmkdir", 3, b"new", 0o755, 0)
    assert (export / "moved/new").is_dir()
    assert await refused(client, "Tremove", 3) in (errno.ENOENT, errno.ESTALE)
    assert (export / "moved").is_dir()


async def test_writing_takes_set_user_id_away(connect: Connect, export: Path) -> None:
    """CVE-2023-1386: a file kept the right to run as its owner after others had written to it."""
    (export / "tool").write_bytes(b"good")
    (export / "tool").chmod(0o6755)
    client = await connect(policy=Policy())
    await client.walk(1, b"tool")
    await client.call("Tlopen", 1, os.O_WRONLY)
    assert (export / "tool").stat().st_mode & 0o7777 == 0o6755
    await client.call("Twrite", 1, 0, b"evil")
    assert (export / "tool").stat().st_mode & 0o7777 == 0o755


async def test_sessions_begun_anew_leave_nothing(connect: Connect) -> None:
    """CVE-2016-9913: what a connection held was not freed at its end. Here: at its start anew."""
    client = await connect()

    async def session() -> None:
        await client.attach()
        for fid in range(1, 30):
            await client.walk(fid, b"file")
            await client.call("Tlopen", fid, 0)
        await client.walk(40, b"dir")
        await client.call("Tlopen", 40, 0)
        await client.call("Treaddir", 40, 0, 8000)

    await session()
    before = descriptors()
    tracemalloc.start()
    try:
        await session()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            await session()
        assert tracemalloc.get_traced_memory()[0] < first + 100_000
    finally:
        tracemalloc.stop()
    assert descriptors() == before
