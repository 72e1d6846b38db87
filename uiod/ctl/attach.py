# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl attach`: this terminal at the guest's uIO shell, until the detach key."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from typing import Annotated

import typer

from console.tty import DetachKeys, parse_keys, raw, size
from uiod.ctl import vms
from uiod.ctl.errors import USAGE, CtlError
from uiod.ctl.logs import write_all
from uiod.ctl.options import VmName
from uiod.ctl.output import Output

_PIECE = 64 << 10
_SILENCE_S = 1.0
_PENDING_MAX = 1 << 20  # of typed or pasted bytes that the daemon has not taken yet


def attach(
    vm: VmName,
    force: Annotated[
        bool, typer.Option("--force", help="Take over from whoever is attached.")
    ] = False,
    detach_keys: Annotated[
        str,
        typer.Option(
            metavar="KEYS", help="What leaves: ctrl-X or characters, with commas between."
        ),
    ] = "ctrl-]",
) -> None:
    """Use the guest's uIO shell from this terminal. Ctrl-] leaves it; the VM goes on.

    Without a terminal on standard input its content is typed, and what the guest answers is printed
    until it has been silent for a second.

    \b
    Examples:
      uioctl attach web
      uioctl attach --detach-keys ctrl-p,ctrl-q web
    """
    try:
        keys = DetachKeys(parse_keys(detach_keys))
    except ValueError as error:
        raise CtlError(str(error), "an example: ctrl-p,ctrl-q", USAGE) from None
    out = Output()
    rows, columns = size(1)
    body = {"rows": rows, "columns": columns} | ({"force": True} if force else {})
    terminal = os.isatty(0)
    reply = vms.find(vm).request("POST", "/v1/attach", body, upgrade="uio-console/1")
    sys.stdout.flush()
    with reply:
        if terminal:
            out.note(f"attached to {vm}; {detach_keys} leaves")
        guard = raw(0, 1 if os.isatty(1) else None) if terminal else contextlib.nullcontext()
        with guard:
            write_all(1, reply.leftover())
            detached = relay(reply.sock, keys if terminal else None)
    if terminal:
        out.note("detached" if detached else "the connection was closed")


def relay(sock: socket.socket, keys: DetachKeys | None) -> bool:
    """Bytes both ways, until the other end closes (False) or the detach keys are typed (True)."""
    sock.setblocking(False)
    typed = bytearray()
    reading = True
    while True:
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if typed else 0))
        if reading and len(typed) < _PENDING_MAX:
            poll.register(0, select.POLLIN)
        events = dict(poll.poll())
        if 0 in events:
            data = os.read(0, _PIECE)
            if not data:
                reading = False
            passed, detach = (data, False) if keys is None else keys.feed(data)
            typed += passed
            if detach:
                return True
        ready = events.get(sock.fileno(), 0)
        if ready & select.POLLOUT and typed:
            try:
                del typed[: sock.send(typed)]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return False
        if not reading and not typed:
            return _until_silent(sock)
        if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = sock.recv(_PIECE)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return False
            if not data:
                return False
            write_all(1, data)


def _until_silent(sock: socket.socket) -> bool:
    """There is no more input, but the guest does not say when it has said everything."""
    sock.settimeout(_SILENCE_S)
    with contextlib.suppress(ConnectionResetError, TimeoutError):
        while data := sock.recv(_PIECE):
            write_all(1, data)
    return False
