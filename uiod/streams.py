# SPDX-License-Identifier: BSD-3-Clause
"""The two upgraded streams of the API: a command's input and output, and the console (docs/api.md)."""

from __future__ import annotations

import contextlib
import select
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import trio

from console.frames import Stream
from uiod.apitypes import ExitInfo
from uiod.events import Pulse
from uiod.guest import Execution

HEADER = struct.Struct("<B3xI")
MESSAGE_MAX = 65_536
STDIN, STDOUT, STDERR, EXIT, SIZE, SIGNAL, END = range(7)

_RECEIVE = 64 * 1024
_AHEAD = 1 << 20  # bytes of input that wait for the guest
_LOOK_S = 0.5  # how soon a client that went away is noticed while its input is not read


class BadMessage(Exception):
    """The client sent what is no message."""


class Parser:
    """Messages out of bytes in pieces of any size."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """All whole messages. :raise BadMessage: one is too long."""
        self._data += data
        position = 0
        try:
            while len(self._data) - position >= HEADER.size:
                kind, size = HEADER.unpack_from(self._data, position)
                if size > MESSAGE_MAX:
                    raise BadMessage(f"a message of {size} bytes")
                end = position + HEADER.size + size
                if end > len(self._data):
                    return
                payload = bytes(memoryview(self._data)[position + HEADER.size : end])
                position = end
                yield kind, payload
        finally:
            del self._data[:position]


def message(kind: int, payload: bytes) -> bytes:
    """One message's bytes."""
    return HEADER.pack(kind, len(payload)) + payload


class _Input:
    """What the client sent and the guest has not taken; so that signals overtake it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.changed = Pulse()

    async def pump(self, execution: Execution) -> None:
        while True:
            if self.data:
                piece = bytes(self.data[:_RECEIVE])
                del self.data[: len(piece)]
                self.changed.fire()
                await execution.send(piece)
            elif self.ended:
                execution.end_input()
                return
            else:
                await self.changed.wait()


def _hung_up(stream: trio.SocketStream) -> bool:
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


async def _read(
    stream: trio.SocketStream, rest: bytes, execution: Execution, waiting: _Input
) -> None:
    """The client's messages, until it goes or breaks the rules."""
    parser = Parser()
    data = rest or await stream.receive_some(_RECEIVE)
    while data:
        for kind, payload in parser.feed(data):
            if kind == STDIN:
                if not waiting.ended:
                    waiting.data += payload
            elif kind == END:
                waiting.ended = True
            elif kind == SIZE and len(payload) == 4:
                execution.resize(*struct.unpack("<HH", payload))
            elif kind == SIGNAL and len(payload) == 1 and payload[0] in {2, 9}:
                execution.cancel(payload[0])
            else:
                raise BadMessage(f"type {kind} of {len(payload)} bytes")
            waiting.changed.fire()
        while len(waiting.data) > _AHEAD:
            with trio.move_on_after(_LOOK_S):
                await waiting.changed.wait()
            if _hung_up(stream):
                return
        data = await stream.receive_some(_RECEIVE)


async def serve_exec(stream: trio.SocketStream, rest: bytes, execution: Execution) -> None:
    """Until the command has ended, or the client has gone."""
    waiting = _Input()

    async def read(scope: trio.CancelScope) -> None:
        with contextlib.suppress(BadMessage, trio.BrokenResourceError, trio.ClosedResourceError):
            await _read(stream, rest, execution, waiting)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, nursery.cancel_scope)
        nursery.start_soon(waiting.pump, execution)
        try:
            while not isinstance(got := await execution.receive(), ExitInfo):
                await _write(stream, execution, *got)
            await stream.send_all(message(EXIT, msgspec.json.encode(got)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


async def _write(
    stream: trio.SocketStream, execution: Execution, source: Stream, data: bytes
) -> None:
    if data:
        await stream.send_all(message(STDOUT if source is Stream.STDOUT else STDERR, data))
        execution.passed_on(source, len(data))


async def serve_console(client: trio.SocketStream, rest: bytes, console: trio.SocketStream) -> None:
    """Bytes both ways until one side ends."""

    async def copy(source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: Any) -> None:
        try:
            while data := await source.receive_some(_RECEIVE):
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        try:
            if rest:
                await console.send_all(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        nursery.start_soon(copy, client, console, nursery.cancel_scope)
        nursery.start_soon(copy, console, client, nursery.cancel_scope)
