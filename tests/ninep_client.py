# SPDX-License-Identifier: BSD-3-Clause
"""A plain 9P2000.L client for tests: one request at a time over a trio stream, and raw bytes for hostile cases."""

from __future__ import annotations

import gc
import os
from typing import Any

import trio

from ninep_server.messages import BY_NUMBER, HEADER, NOFID, decode, encode


class Rlerror(Exception):
    """The server refused; `ecode` is the errno."""

    def __init__(self, ecode: int) -> None:
        super().__init__(ecode)
        self.ecode = ecode


def descriptors() -> int:
    """How many this process has open, not counting what only the collector has still to free."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Client:
    """Fid 0 is the export's top after `attach`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def send(self, title: str, *values: Any, tag: int = 1) -> None:
        await self.stream.send_all(encode(title, tag, *values))

    async def _fill(self, size: int) -> None:
        while len(self.buffer) < size:
            piece = await self.stream.receive_some(65536)
            if not piece:
                raise EOFError("the server closed the connection")
            self.buffer += piece

    async def receive(self) -> tuple[str, int, tuple[Any, ...]]:
        await self._fill(HEADER.size)
        size, number, tag = HEADER.unpack_from(self.buffer)
        await self._fill(size)
        body = bytes(self.buffer[HEADER.size : size])
        del self.buffer[:size]
        return BY_NUMBER[number].name, tag, decode(number, body)

    async def call(self, title: str, *values: Any) -> tuple[Any, ...]:
        await self.send(title, *values)
        name, tag, fields = await self.receive()
        assert tag == 1
        if name == "Rlerror":
            raise Rlerror(fields[0])
        assert name == "R" + title[1:]
        return fields

    async def attach(self, msize: int = 65536) -> None:
        await self.call("Tversion", msize, b"9P2000.L")
        await self.call("Tattach", 0, NOFID, b"", b"", 0)

    async def walk(self, fid: int, *names: bytes, source: int = 0) -> None:
        (qids,) = await self.call("Twalk", source, fid, list(names))
        if len(qids) != len(names):
            raise Rlerror(2)
