# SPDX-License-Identifier: BSD-3-Clause
"""The session that the application itself mounts (`[uio] mount`): the same files, nothing else in common."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from ninep_client import Client, Rlerror

from uiod.config import parse
from uiod.events import Events
from uiod.guest import Guest
from uiod.paths import RuntimeDir


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: unix sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="uio-") as name:
        yield Path(name)


class Ports:
    """In QEMU's place: listens on the sockets of both ports."""

    def __init__(self, guest: Guest, listeners: dict[str, trio.SocketListener]) -> None:
        self.guest = guest
        self.listeners = listeners

    async def accept(self, port: str) -> Client:
        with trio.fail_after(10):
            return Client(await self.listeners[port].accept())


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Ports]:
    text = "[vm]\nkernel='k'\nname='it'\n[uio]\nexchange='host'\nmount=true\n"
    run = RuntimeDir(directory)
    guest = Guest(parse(text, directory / "it.cfg"), run, Events())
    guest.prepare()
    listeners = {}
    for port in ("fs", "mount"):
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(str(run.port(port)))
        socket.listen()
        listeners[port] = trio.SocketListener(socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.run)
        yield Ports(guest, listeners)
        nursery.cancel_scope.cancel()


async def test_both_have_the_same_files_and_fids_of_their_own(directory: Path) -> None:
    async with running(directory) as ports:
        (directory / "host" / "file").write_bytes(b"of the host")
        ours, theirs = await ports.accept("fs"), await ports.accept("mount")
        for client in (ours, theirs):
            await client.attach()
        await ours.walk(1, b"host", b"file")
        with pytest.raises(Rlerror):  # fid 1 is the other session's
            await theirs.call("Tlopen", 1, 0)
        await theirs.walk(1, b"host", b"file")
        await theirs.call("Tlopen", 1, 0)
        assert (await theirs.call("Tread", 1, 0, 100))[0] == b"of the host"
        await theirs.call("Tversion", 8192, b"9P2000.L")  # begins anew, on that port alone
        await ours.call("Tlopen", 1, 0)


async def test_one_that_breaks_the_rules_is_dropped_alone(directory: Path) -> None:
    async with running(directory) as ports:
        ours, theirs = await ports.accept("fs"), await ports.accept("mount")
        await ours.attach()
        await theirs.stream.send_all(bytes(64))
        with pytest.raises(EOFError):
            await theirs.receive()
        await ours.walk(1, b"vm", b"name")
        await ours.call("Tlopen", 1, 0)
        assert (await ours.call("Tread", 1, 0, 100))[0] == b"it\n"
        assert "mount.protocol" in [event.kind for event in ports.guest.events.since(0)]
        await (await ports.accept("mount")).attach()  # and may come again


async def test_a_guest_that_boots_anew_finds_new_sessions(directory: Path) -> None:
    async with running(directory) as ports:
        before = [await ports.accept(port) for port in ("fs", "mount")]
        for client in before:
            await client.attach()
        ports.guest.guest_was_reset()
        for client in before:
            with pytest.raises(EOFError):
                await client.receive()
        for port in ("fs", "mount"):
            await (await ports.accept(port)).attach()
