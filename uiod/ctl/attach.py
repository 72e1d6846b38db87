# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl attach`: this terminal at the guest's uIO shell, until the detach key."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from console.tty import DetachKeys, parse_keys, raw, size
from uiod.ctl import vms
from uiod.ctl.client import Api
from uiod.ctl.errors import USAGE, CtlError
from uiod.ctl.logs import write_all
from uiod.ctl.options import VmName
from uiod.ctl.output import Output

_PIECE = 64 << 10
_SILENCE_S = 1.0
_SIZE_TIMEOUT_S = 2.0  # for the daemon to hear of another size: keys wait for it
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

    The shell and its commands know the terminal's size, also when it changes.

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
    api = vms.find(vm)
    body: dict[str, object] = {"force": True} if force else {}
    if os.isatty(0):
        _at_terminal(api, vm, body, keys, detach_keys)
        return
    with api.request("POST", "/v1/attach", body, upgrade="uio-console/1") as reply:
        write_all(1, reply.leftover())
        relay(reply.sock)


def _at_terminal(
    api: Api, vm: str, body: dict[str, object], keys: DetachKeys, detach_keys: str
) -> None:
    out = Output()
    screen = 1 if os.isatty(1) else 0

    def tell_size() -> None:
        # An older daemon does not know the request; one that has just closed the console refuses it.
        with contextlib.suppress(CtlError, OSError):
            api.post("/v1/attach/size", _size_of(screen), timeout=_SIZE_TIMEOUT_S)

    with _size_changes() as changes:  # before the size is looked at, so that none is missed
        body |= _size_of(screen)
        reply = api.request("POST", "/v1/attach", body, upgrade="uio-console/1")
        sys.stdout.flush()
        with reply:
            out.note(f"attached to {vm}; {detach_keys} leaves")
            with raw(0, 1 if screen == 1 else None):
                write_all(1, reply.leftover())
                detached = relay(reply.sock, keys, {changes: tell_size})
    out.note("detached" if detached else "the connection was closed")


def _size_of(screen: int) -> dict[str, object]:
    rows, columns = size(screen)
    return {"rows": rows, "columns": columns}


@contextlib.contextmanager
def _size_changes() -> Iterator[int]:
    """A descriptor that has something to read when the terminal has changed its size."""
    changed, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        yield changed
    finally:
        signal.signal(signal.SIGWINCH, before)
        signal.set_wakeup_fd(wake_before)
        os.close(changed)
        os.close(wake)


def relay(
    sock: socket.socket,
    keys: DetachKeys | None = None,
    notices: dict[int, Callable[[], None]] | None = None,
) -> bool:
    """Bytes both ways, until the other end closes (False) or the detach keys are typed (True).

    :param notices: what to do when there is something to read from a descriptor
    """
    sock.setblocking(False)
    notices = notices or {}
    typed = bytearray()
    reading = True
    while True:
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if typed else 0))
        if reading and len(typed) < _PENDING_MAX:
            poll.register(0, select.POLLIN)
        for fd in notices:
            poll.register(fd, select.POLLIN)
        events = dict(poll.poll())
        for fd in notices.keys() & events.keys():
            os.read(fd, _PIECE)
            notices[fd]()
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
