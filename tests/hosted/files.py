# SPDX-License-Identifier: BSD-3-Clause
"""uIO-fs for a hosted guest: the project's own 9P server in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import trio

from ninep_server import Limits, LocalNode, Policy, SyntheticDirectory, serve_stream

READY_S = 10.0


@contextlib.contextmanager
def served(socket: Path, host: Path, binaries: Path) -> Iterator[None]:
    """While this lasts, the guest sees these directories as /host and /bin."""
    ready = threading.Event()
    token: trio.lowlevel.TrioToken | None = None
    scope = trio.CancelScope()

    async def main() -> None:
        nonlocal token
        token = trio.lowlevel.current_trio_token()
        tree = SyntheticDirectory(
            {
                "bin": LocalNode.root(binaries, Policy(readonly=True)),
                "host": LocalNode.root(host, Policy()),
            }
        )
        stream = await trio.open_unix_socket(str(socket))
        with scope:
            ready.set()
            await serve_stream(stream, tree, Limits())

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(READY_S)
    try:
        yield
    finally:
        assert token is not None
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(scope.cancel)
        thread.join(READY_S)
