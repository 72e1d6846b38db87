# SPDX-License-Identifier: BSD-3-Clause
"""Flushes of QEMU's own table of translations (its TLB), from outside the guest.

QEMU chooses the size of that table at flushes only, by how full it was: between 64 and thousands of entries, with which
a server is slow or fast. Unikraft flushes nothing once it has booted, so the size is left to chance: two boots of one
image differ by up to a tenth. Guests that are flushed several times while they work all have the size that they want.

A watchpoint that does not fit into a page makes QEMU flush, so this is a client of its gdb stub.
"""

from __future__ import annotations

import re
from contextlib import closing

from bench.guest import DEADLINE_S, Guest, connect

NOBODYS = b"2,7ff0000ff000,2000"  # to be watched for writes: the end of a page and the next


class Flusher:
    """A connection to the gdb stub, which the guest's monitor starts."""

    def __init__(self, vm: Guest) -> None:
        path = vm.directory / "gdb.sock"
        with closing(vm.monitor()) as monitor:
            monitor.run(
                "human-monitor-command",
                **{"command-line": f"gdbserver unix:{path},server=on,wait=off"},
            )
        self._sock = connect(path)  # which stops the guest
        self._sock.settimeout(DEADLINE_S)
        self._buffer = b""
        self._ask(b"?", b"T")
        self._send(b"c")

    def flush(self) -> None:
        """Once; the guest stands still for some microseconds."""
        self._sock.sendall(b"\x03")
        self._answer(b"T")
        self._ask(b"Z" + NOBODYS, b"OK")
        self._ask(b"z" + NOBODYS, b"OK")
        self._send(b"c")

    def close(self) -> None:
        """Leave; the guest goes on."""
        self._sock.close()

    def _send(self, text: bytes) -> None:
        self._sock.sendall(b"$%s#%02x" % (text, sum(text) & 0xFF))

    def _ask(self, text: bytes, wanted: bytes) -> None:
        self._send(text)
        self._answer(wanted)

    def _answer(self, wanted: bytes) -> None:
        """Reports of stops that nobody asked for may come before."""
        while not (said := self._packet()).startswith(wanted):
            if not said.startswith((b"T", b"S")):
                raise RuntimeError(f"QEMU's gdb stub: {said!r}")

    def _packet(self) -> bytes:
        while not (found := re.search(rb"\$([^#]*)#..", self._buffer)):
            piece = self._sock.recv(4096)
            if not piece:
                raise EOFError("QEMU's gdb stub is gone")
            self._buffer += piece
        self._buffer = self._buffer[found.end() :]
        self._sock.sendall(b"+")
        return found[1]
