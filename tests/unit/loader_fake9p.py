# SPDX-License-Identifier: BSD-3-Clause
"""A 9P server of the tests' own, that serves one file under every name and says whatever a test wants it to say."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct("<IBH")
QID = bytes([0]) + bytes(12)
RLERROR, RSTATFS, RLOPEN, RGETATTR, RREADDIR, RVERSION, RATTACH, RWALK, RREAD, RCLUNK = (
    7, 9, 13, 25, 41, 101, 105, 111, 117, 121,
)  # fmt: skip


def reply(kind: int, tag: int, body: bytes = b"") -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


Change = Callable[[int, int, bytes], bytes | None]


class FakeServer:
    """Serves a file under every name, until `change` says otherwise.

    `change` is given a reply's type, its tag and the reply; what it returns is sent instead, None closes.
    """

    def __init__(
        self, directory: Path, change: Change, content: bytes = b"hello", msize: int = 8192
    ) -> None:
        self.change = change
        self.content = content
        self.msize = msize
        self.reads: list[tuple[int, int]] = []  # offset and size of each Tread
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(directory / "fs.sock"))
        self._sending = threading.Lock()
        self.begun = threading.Event()
        self.requests = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.begun.wait(10)  # the guest has noticed us

    def take(self, n: int) -> bytes:
        out = b""
        while len(out) < n:
            more = self.socket.recv(n - len(out))
            if not more:
                raise EOFError
            out += more
        return out

    def send(self, replies: bytes) -> None:
        """From any thread."""
        with self._sending:
            self.socket.sendall(replies)

    def run(self) -> None:
        try:
            while True:
                size, kind, tag = HEADER.unpack(self.take(HEADER.size))
                body = self.take(size - HEADER.size)
                self.requests += 1
                self.begun.set()
                changed = self.change(kind + 1, tag, self.answer(kind, tag, body))
                if changed is None:
                    break
                self.send(changed)
        except (EOFError, OSError):
            pass
        self.socket.close()

    def answer(self, kind: int, tag: int, body: bytes) -> bytes:
        size = len(self.content)
        bodies = {
            RVERSION: struct.pack("<IH", self.msize, 8) + b"9P2000.L",
            RATTACH: QID,
            RWALK: body[8:10] + QID * int.from_bytes(body[8:10], "little"),
            RLOPEN: QID + bytes(4),
            RGETATTR: struct.pack("<Q13sIIIQQQQQ", 0x7FF, QID, 0o100644, 0, 0, 1, 0, size, 4096, 1) + bytes(80),
            RCLUNK: b"",
            RREADDIR: bytes(4),
        }  # fmt: skip
        if kind == RREAD - 1:
            offset, count = struct.unpack_from("<QI", body, 4)
            self.reads.append((offset, count))
            data = self.content[offset : offset + count]
            return reply(RREAD, tag, struct.pack("<I", len(data)) + data)
        return reply(kind + 1, tag, bodies.get(kind + 1, bytes(64)))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)


def only(kind: int, make: Callable[[int, bytes], bytes | None]) -> Change:
    """Change replies of one type."""
    return lambda k, tag, data: make(tag, data) if k == kind else data
