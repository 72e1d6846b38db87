# SPDX-License-Identifier: BSD-3-Clause
"""What a hostile client tries: to leave the export, to hurt the server, to hurt its neighbours.

The only thing outside the export that these tests reach for is a canary of their own beside it.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from conftest import Connect
from ninep_client import Client, Rlerror, descriptors

from ninep_server import local, messages
from ninep_server.messages import MESSAGES, encode


@pytest.mark.parametrize(
    "path", [[b"out"], [b"outdir", b"canary"], [b"..", b"canary"], [b"../canary"], [b"/"]]
)
async def test_no_walk_leaves_the_export(connect: Connect, path: list[bytes]) -> None:
    client = await connect()
    with pytest.raises(Rlerror):
        await client.walk(1, *path)
        await client.call("Tlopen", 1, os.O_RDONLY)


async def test_dotdot_at_the_top_is_the_top(connect: Connect, export: Path) -> None:
    client = await connect()
    (qids,) = await client.call("Twalk", 0, 1, [b"dir", b"..", b"..", b"."])
    assert [q.path for q in qids[1:]] == [export.stat().st_ino] * 3


@pytest.mark.parametrize("flags", [os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
async def test_create_does_not_follow_a_link_out(
    connect: Connect, export: Path, flags: int
) -> None:
    client = await connect()
    with pytest.raises(Rlerror) as refused:
        await client.call("Tlcreate", 0, b"out", flags, 0o600, 0)
    assert refused.value.ecode == errno.ELOOP
    assert (export.parent / "canary").read_text() == "untouched"


async def test_attributes_of_a_link_do_not_reach_its_target(connect: Connect, export: Path) -> None:
    client = await connect()
    await client.walk(1, b"out")
    before = (export.parent / "canary").stat()
    for valid, size in ((1, 0), (8, 3), (48, 0)):
        try:
            await client.call("Tsetattr", 1, valid, 0o777, 0, 0, size, 0, 0, 0, 0)
        except Rlerror:
            continue
    with pytest.raises(Rlerror):
        await client.call("Txattrwalk", 1, 2, b"user.x")
    after = (export.parent / "canary").stat()
    assert (before.st_mode, before.st_size, before.st_mtime_ns) == (
        after.st_mode,
        after.st_size,
        after.st_mtime_ns,
    )


async def test_a_directory_swapped_for_a_link_leads_nowhere(connect: Connect, export: Path) -> None:
    # The mechanism of CVE-2016-9602 and CVE-2018-19489: a path checked once and resolved again.
    client = await connect()
    await client.walk(1, b"dir")
    (export / "dir").rename(export / "moved")
    (export / "dir").symlink_to("..")
    await client.walk(2, b"sub", source=1)  # still the directory that was walked to
    with pytest.raises(Rlerror):
        await client.walk(3, b"canary", source=1)
    await client.call("Tlcreate", 1, b"made", os.O_RDWR | os.O_CREAT, 0o600, 0)
    assert (export / "moved/made").exists()


async def test_special_files_are_never_opened(connect: Connect, export: Path) -> None:
    # CVE-2023-2861: a device or FIFO in the export must not be opened; a FIFO would block besides.
    os.mkfifo(export / "fifo")
    client = await connect()
    await client.walk(1, b"fifo")
    with trio.fail_after(5), pytest.raises(Rlerror) as refused:
        await client.call("Tlopen", 1, os.O_RDONLY)
    assert refused.value.ecode == errno.EOPNOTSUPP
    with trio.fail_after(5), pytest.raises(Rlerror):
        await client.call("Tlcreate", 0, b"fifo", os.O_WRONLY | os.O_CREAT, 0o600, 0)


async def test_an_attribute_write_cannot_reach_beyond_its_size(connect: Connect) -> None:
    # CVE-2016-9104: offset and size of an attribute that overflow.
    client = await connect()
    await client.walk(1, b"file")
    await client.call("Txattrcreate", 1, b"user.a", 8, 0)
    for offset, data in ((1, b"x"), (0, b"x" * 9), (2**64 - 1, b"x")):
        with pytest.raises(Rlerror):
            await client.call("Twrite", 1, offset, data)


async def test_a_lost_client_leaves_no_descriptor(connect: Connect, export: Path) -> None:
    # CVE-2017-7377, CVE-2016-9102 and their like: what a fid held was never freed.
    await (await connect()).stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    before = descriptors()
    for _ in range(20):
        client = await connect()
        for fid in range(1, 20):
            await client.walk(fid, b"file")
            await client.call("Tlopen", fid, os.O_RDWR)
        await client.call("Tversion", 65536, b"9P2000.L")
        await client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert descriptors() <= before


BROKEN: list[tuple[str, bytes]] = [
    ("a size below the header's", struct.pack("<IBH", 3, 100, 1)),
    ("a size beyond msize", struct.pack("<IBH", 1 << 30, 118, 1)),
    ("a name longer than the message", struct.pack("<IBHIIHH", 19, 110, 1, 0, 1, 1, 500)),
    ("more names than a walk may have", struct.pack("<IBHIIH", 17, 110, 1, 0, 1, 0xFFFF)),
    ("data longer than the message", struct.pack("<IBHIQI", 23, 118, 1, 0, 0, 0xFFFFFFFF)),
    ("bytes left over", struct.pack("<IBHI", 12, 120, 1, 0) + b"x"),
]


@pytest.mark.parametrize(("what", "message"), BROKEN, ids=[w for w, _ in BROKEN])
async def test_what_is_no_9p_closes_that_connection_alone(
    connect: Connect, what: str, message: bytes
) -> None:
    neighbour, client = await connect(), await connect()
    await client.stream.send_all(message)
    with pytest.raises((EOFError, trio.BrokenResourceError)), trio.fail_after(5):
        await client.receive()
    await neighbour.call("Tstatfs", 0)


async def test_a_request_before_the_version_closes_the_connection(connect: Connect) -> None:
    client = await connect(attach=False)
    await client.send("Tstatfs", 0)
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await client.receive()


async def test_an_unknown_request_is_answered(connect: Connect) -> None:
    client = await connect()
    await client.stream.send_all(struct.pack("<IBH", 7, 200, 1))
    assert (await client.receive())[0] == "Rlerror"


def random_value(kind_name: str, rng: random.Random) -> Any:
    bits = {"u8": 8, "u16": 16, "u32": 32, "u64": 64}.get(kind_name)
    if bits:
        return rng.choice([0, 1, 2, rng.getrandbits(bits), (1 << bits) - 1, (1 << (bits - 1))])
    a_name = rng.choice([b"", b".", b"..", b"file", b"dir", b"sub", b"out", b"n", b"a/b", b"\xff"])
    return {"names": [a_name, b"sub"], "data": os.urandom(rng.randrange(50))}.get(kind_name, a_name)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("seed", range(8))
async def test_random_requests_are_all_answered(
    connect: Connect, export: Path, seed: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:  # as if the export were on a network file system: every system call in a thread
        monkeypatch.setattr(local, "_LOCAL_TYPES", frozenset())
    names = {
        id(getattr(messages, n)): n for n in ("u8", "u16", "u32", "u64", "name", "names", "data")
    }
    requests = [
        m for m in MESSAGES if m.name.startswith("T") and m.name not in ("Tversion", "Tflush")
    ]
    rng = random.Random(seed)
    client = await connect()
    for _ in range(400):
        message = rng.choice(requests)
        values = [random_value(names[id(kind)], rng) for _, kind in message.fields]
        if message.fields[0][0].endswith("fid"):
            values[0] = rng.randrange(4)
        await client.stream.send_all(encode(message.name, 1, *values))
        with trio.fail_after(10):
            name, _, _ = await client.receive()
        assert name in ("R" + message.name[1:], "Rlerror")
    assert (export.parent / "canary").read_text() == "untouched"
    assert sorted(p.name for p in export.parent.iterdir()) == ["canary", "export"]


@pytest.mark.parametrize("waits", [False, True])
async def test_refused_requests_hold_nothing_until_the_collector_runs(
    connect: Connect, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:
        monkeypatch.setattr(local, "_LOCAL_TYPES", frozenset())
    client = await connect()
    before = descriptors()
    gc.disable()
    try:
        for _ in range(20):
            await client.walk(1, b"dir")
            await client.walk(2, b"file")
            await client.call("Tlopen", 2, os.O_RDONLY)
            for title, *values in [
                ("Twalk", 1, 3, [b"nothing"]),
                ("Twalk", 0, 3, [b"dir", b"..", b"dir", b"nothing"]),
                ("Tlopen", 1, os.O_WRONLY),
                ("Tmkdir", 1, b"sub", 0o755, 0),
                ("Twrite", 2, 0, b"not open for writing"),
                ("Tsetattr", 1, 8, 0, 0, 0, 5, 0, 0, 0, 0),
            ]:
                await client.send(title, *values)
                assert (await client.receive())[0] in ("Rlerror", "Rwalk")
            await client.call("Tclunk", 1)
            await client.call("Tclunk", 2)
        left = len(os.listdir("/proc/self/fd"))
    finally:
        gc.enable()
    assert left == before


async def test_two_clients_do_not_see_each_other_s_fids(connect: Connect) -> None:
    one, two = await connect(), await connect()
    await one.walk(5, b"file")
    with pytest.raises(Rlerror):
        await two.call("Tgetattr", 5, 0)
    assert isinstance(one, Client)
