# SPDX-License-Identifier: BSD-3-Clause
"""Commands in a guest with bytes in and bytes out, for `cp`: here over the API, elsewhere through ssh.

Nothing is kept in memory but one piece each way.
"""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Protocol

from uiod.ctl import execstream, remote, vms
from uiod.ctl.errors import CtlError

_PIECE = 64 << 10
_STDERR_MAX = 64 << 10

Sink = Callable[[bytes], None]


class Runner(Protocol):
    """Runs a command in one VM."""

    def run(self, argv: list[str], source: Iterator[bytes] | None, sink: Sink) -> tuple[int, str]:
        """(exit status, standard error) of a command whose input is `source` and whose output goes to `sink`."""


def runner(vm: str, host: str | None) -> Runner:
    """The way to a VM's commands."""
    return OverApi(vm) if host is None else OverSsh(vm, host)


class OverApi:
    """Over the daemon's socket."""

    def __init__(self, vm: str) -> None:
        self.api = vms.find(vm)

    def run(self, argv: list[str], source: Iterator[bytes] | None, sink: Sink) -> tuple[int, str]:
        body = {"argv": argv, "stdin": source is not None}
        with self.api.request("POST", "/v1/exec", body, upgrade="uio-exec/1") as reply:
            sock = reply.sock
            sock.setblocking(False)
            decoder = execstream.Decoder()
            stderr = bytearray()
            to_send = b""
            data = reply.leftover()
            while True:
                for kind, payload in decoder.feed(data):
                    if kind == execstream.STDOUT:
                        sink(payload)
                    elif kind == execstream.STDERR:
                        stderr += payload[: _STDERR_MAX - len(stderr)]
                    else:
                        return _status(payload, stderr)
                if source is not None and not to_send:
                    piece = next(source, None)
                    if piece is None:
                        source = None
                        to_send = execstream.message(execstream.END_OF_STDIN)
                    else:
                        to_send = execstream.message(execstream.STDIN, piece)
                poll = select.poll()
                poll.register(sock, select.POLLIN | (select.POLLOUT if to_send else 0))
                ready = poll.poll()[0][1]
                if ready & select.POLLOUT and to_send:
                    try:
                        to_send = to_send[sock.send(to_send) :]
                    except BlockingIOError:
                        pass
                    except (
                        BrokenPipeError,
                        ConnectionResetError,
                    ):  # it has ended: the answer says why
                        to_send, source = b"", None
                data = b""
                if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    try:
                        data = sock.recv(_PIECE)
                    except BlockingIOError:
                        continue
                    if not data:
                        raise ConnectionResetError


def _status(payload: bytes, stderr: bytearray) -> tuple[int, str]:
    info = json.loads(payload)
    text = stderr.decode(errors="replace")
    if info.get("kind") != "ok" and info.get("message"):
        text += str(info["message"])
    return int(info["code"]), text


class OverSsh:
    """Through `uioctl exec` on another machine."""

    def __init__(self, vm: str, host: str) -> None:
        self.vm, self.host = vm, host

    def run(self, argv: list[str], source: Iterator[bytes] | None, sink: Sink) -> tuple[int, str]:
        there = ["exec", "-T", *(["-i"] if source is not None else []), self.vm, *argv]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    remote.command(self.host, there, terminal=False),
                    stdin=subprocess.DEVNULL if source is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            except FileNotFoundError:
                raise CtlError("ssh is not installed", "apt-get install openssh-client") from None
            with process:
                assert process.stdout is not None
                if source is not None and process.stdin is not None:
                    try:
                        for piece in source:
                            process.stdin.write(piece)
                        process.stdin.close()
                    except BrokenPipeError:
                        source = None  # it has ended: its status says why
                while piece := process.stdout.read(_PIECE):
                    sink(piece)
            errors.seek(0)
            text = errors.read(_STDERR_MAX).decode(errors="replace")
            return process.returncode, text
