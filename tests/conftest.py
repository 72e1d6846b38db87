# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures shared by the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from ninep_client import Client

from ninep_server import Limits, LocalNode, Node, Policy, ProtocolError, Stats, serve_stream


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export with a canary beside it, which nothing may reach."""
    (tmp_path / "canary").write_text("untouched")
    top = tmp_path / "export"
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"hello world")
    (top / "out").symlink_to("../canary")
    (top / "outdir").symlink_to("..")
    return top


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect(export: Path) -> AsyncIterator[Connect]:
    """Connect to a server of the export: `await connect(policy=…, limits=…, attach=True)`."""
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream, root: Node, limits: Limits) -> None:
            with contextlib.suppress(ProtocolError):  # tests look at the connection, which closes
                await serve_stream(stream, root, limits, Stats())

        async def factory(
            policy: Policy | None = None, limits: Limits | None = None, attach: bool = True
        ) -> Client:
            here, there = trio.socket.socketpair()
            root = LocalNode.root(export, policy or Policy(uid=1000, gid=1000))
            nursery.start_soon(serve, trio.SocketStream(there), root, limits or Limits())
            client = Client(trio.SocketStream(here))
            if attach:
                await client.attach()
            return client

        yield factory
        nursery.cancel_scope.cancel()
