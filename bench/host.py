# SPDX-License-Identifier: BSD-3-Clause
"""What a bare guest of the benches is served, from a thread of its own: signed overlays in /bin, files at /host."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import trio

from bench.guest import ROOT, Guest, connect
from ninep_server import Limits, LocalNode, Policy, SyntheticDirectory, serve_stream
from overlays.build import build
from overlays.keys import generate
from overlays.store import Store
from overlays.trust import Trust

KEY = ROOT / "build" / "keys" / "bench.pem"


def bench_key() -> Path:
    """The public key of `KEY`. It stays, so that a kernel that trusts it need not be built each time."""
    if not KEY.exists():
        KEY.parent.mkdir(parents=True, exist_ok=True)
        generate(KEY)
    return KEY.with_suffix(".pub.pem")


def make_store(
    directory: Path, sources: Iterable[Path], flags: Sequence[str] = (), key: Path | None = None
) -> Store:
    """Build the sources into that directory, signed with that key, or one made for it."""
    private = key or directory / "key.pem"
    if key is None:
        generate(private)
    for source in sources:
        output = directory / f"{source.stem}.uio"
        build([source], output, kernel=None, key=private, flags=flags)
    return Store([directory], Trust.load([private.with_suffix(".pub.pem")], "refuse"))


def served(
    vm: Guest, store: Store, host: Path, limits: Limits | None = None
) -> AbstractContextManager[None]:
    """Serve uIO-fs to the guest meanwhile."""
    tree = SyntheticDirectory(
        {
            "bin": SyntheticDirectory(store),
            "host": LocalNode.root(host, Policy(uid=0, gid=0)),
        }
    )
    return serve(vm.directory / "fs.sock", tree, limits)


@contextmanager
def serve(
    path: Path, tree: SyntheticDirectory | LocalNode, limits: Limits | None = None
) -> Iterator[None]:
    """Serve 9P at a port's socket meanwhile."""
    token: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()
    ready = threading.Event()

    async def serve() -> None:
        sock = trio.socket.from_stdlib_socket(connect(path))
        token.append(trio.lowlevel.current_trio_token())
        ready.set()
        with scope:
            await serve_stream(trio.SocketStream(sock), tree, limits)

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the server of uIO-fs did not start")
        yield
    finally:
        token[0].run_sync_soon(scope.cancel)
        thread.join(10)
