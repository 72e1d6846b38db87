# SPDX-License-Identifier: BSD-3-Clause
"""`python -m ninep_server`: serve a directory on a unix socket or on 127.0.0.1."""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import trio

from ninep_server import Limits, LocalNode, Node, Policy, ProtocolError, Stats, serve_stream

EPILOG = """examples:
  python -m ninep_server --socket /tmp/9p.sock --export /srv/files
  python -m ninep_server --port 5640 --export . --readonly
  mount -t 9p -o trans=unix,version=9p2000.L /tmp/9p.sock /mnt

exit status: 0 after SIGTERM or SIGINT, 1 if it could not start, 2 for wrong options
"""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m ninep_server",
        description="Serve a directory to 9P2000.L clients.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path, help="listen on this unix socket (mode 0600)")
    where.add_argument("--port", type=int, help="listen on this TCP port of 127.0.0.1 (0: any)")
    parser.add_argument("--export", type=Path, required=True, help="the directory to serve")
    parser.add_argument("--readonly", action="store_true", help="refuse every change")
    parser.add_argument(
        "--mode",
        choices=["squash", "passthrough"],
        default="squash",
        help="squash: all files belong to one owner; passthrough: owners as on the host (as root)",
    )
    parser.add_argument("--uid", type=int, default=os.getuid(), help="the owner shown (squash)")
    parser.add_argument("--gid", type=int, default=os.getgid(), help="the group shown (squash)")
    parser.add_argument("--msize", type=int, default=Limits.msize, help="largest message, in bytes")
    parser.add_argument(
        "--max-bytes", type=int, help="by how much clients may let files grow in all; EDQUOT beyond"
    )
    parser.add_argument(
        "--max-files", type=int, help="how many files and directories they may make"
    )
    parser.add_argument(
        "--max-fids", type=int, default=Limits.fids, help="open at once, per client"
    )
    return parser.parse_args(argv)


async def _client(root: Node, limits: Limits, stats: Stats, stream: trio.SocketStream) -> None:
    try:
        await serve_stream(stream, root, limits, stats)
    except ProtocolError as error:
        print(f"ninep_server: closed a connection: {error}", file=sys.stderr)


async def _listen(options: argparse.Namespace) -> list[trio.SocketListener]:
    if options.socket is None:
        return await trio.open_tcp_listeners(options.port, host="127.0.0.1")
    if options.socket.exists() and stat.S_ISSOCK(options.socket.stat().st_mode):
        probe = trio.socket.socket(trio.socket.AF_UNIX)
        try:
            await probe.connect(str(options.socket))
        except ConnectionRefusedError:
            options.socket.unlink()  # left by a server that is gone
        finally:
            probe.close()
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        await sock.bind(str(options.socket))
    finally:
        os.umask(mask)
    sock.listen(64)
    return [trio.SocketListener(sock)]


async def serve(options: argparse.Namespace) -> None:
    """Listen until SIGTERM or SIGINT."""
    squash = options.mode == "squash"
    policy = Policy(
        options.readonly,
        options.uid if squash else None,
        options.gid if squash else None,
        options.max_bytes,
        options.max_files,
    )
    root = LocalNode.root(options.export, policy)
    handler = partial(_client, root, Limits(msize=options.msize, fids=options.max_fids), Stats())
    listeners = await _listen(options)
    try:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
                address = options.socket or listeners[0].socket.getsockname()
                print(f"ninep_server: serving {options.export} on {address}", file=sys.stderr)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
    finally:
        if options.socket is not None:
            options.socket.unlink(missing_ok=True)


def main() -> int:
    """Run; errors are one sentence."""
    options = arguments()
    try:
        trio.run(serve, options)
    except OSError as error:
        print(f"ninep_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
