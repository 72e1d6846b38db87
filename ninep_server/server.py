# SPDX-License-Identifier: BSD-3-Clause
"""The trio driver: messages from a stream to a `Session`, replies back.

Requests are carried out in the order of their arrival; those that have to wait for a disk go on in threads and are
answered when they are done, while later ones pass them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import trio

from ninep_server.backend import Node
from ninep_server.fids import Limits
from ninep_server.messages import BY_NUMBER, HEADER, Buffer, ProtocolError, decode, encode
from ninep_server.session import REFUSALS, Call, Later, Session
from ninep_server.stats import Stats

_RECEIVE = 64 * 1024
_SEND_BUFFER = 512 * 1024
_TFLUSH = next(m.number for m in BY_NUMBER.values() if m.name == "Tflush")
_TVERSION = next(m.number for m in BY_NUMBER.values() if m.name == "Tversion")


def _attempt(call: Call) -> tuple[Any, Exception | None]:
    # Without its traceback: on the way through trio that would make a ring with the frames, which keep the request's
    # files open until the collector comes by.
    try:
        return call(), None
    except REFUSALS as raised:
        return None, raised.with_traceback(None)


class _Pipe:
    """Bytes from and to a stream. On a socket each costs one system call, and data lands where it stays.

    trio's own calls try before they wait and go round the event loop afterwards: three system calls more per request.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        if self._socket is not None:
            # Room for the replies of a client that has several reads under way; the kernel's limit is lower.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    async def receive_into(self, into: memoryview) -> int:
        """Wait for bytes: how many came, 0 at the end of the stream."""
        if self._socket is None:
            piece = await self._stream.receive_some(len(into))
            into[: len(piece)] = piece
            return len(piece)
        while self._socket.fileno() >= 0:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return os.readv(self._socket.fileno(), [into])
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error
        raise trio.ClosedResourceError

    async def send(self, data: Buffer) -> None:
        """Send all of it."""
        if self._socket is None:
            await self._stream.send_all(data)
            return
        view = memoryview(data)
        while True:
            try:
                view = view[os.write(self._socket.fileno(), view) :]
            except BlockingIOError:
                pass
            except OSError as error:  # EPIPE, or EBADF: closed here meanwhile
                raise trio.BrokenResourceError from error
            if not view:
                return
            await trio.lowlevel.wait_writable(self._socket)


@dataclass
class _Connection:
    pipe: _Pipe
    session: Session
    slots: trio.CapacityLimiter
    # Requests in threads: an event that is set when the reply has been sent.
    pending: dict[int, trio.Event] = field(default_factory=dict)
    sending: trio.Lock = field(default_factory=trio.Lock)
    # What has been received: messages begin at 0. A thread that writes a file from it keeps it, and there is a new one.
    room: bytearray = field(default_factory=lambda: bytearray(_RECEIVE))
    kept: bool = False

    async def send(self, reply: Buffer) -> None:
        if self.sending.locked():
            async with self.sending:
                await self.pipe.send(reply)
            return
        self.sending.acquire_nowait()
        try:
            await self.pipe.send(reply)
        finally:
            self.sending.release()

    async def run(self, nursery: trio.Nursery) -> None:
        filled = 0
        while True:
            got = await self.pipe.receive_into(memoryview(self.room)[filled:])
            if not got:
                return
            filled += got
            start, wanted = await self.requests(filled, nursery)
            rest = memoryview(self.room)[start:filled]
            filled -= start
            if start or wanted > len(self.room):
                self.room = self.renewed(rest, wanted)

    def renewed(self, rest: memoryview, wanted: int) -> bytearray:
        # The same room, if nobody else holds on to it and the message fits.
        if self.kept or wanted > len(self.room):
            self.kept = False
            room = bytearray(max(wanted, _RECEIVE))
            room[: len(rest)] = rest
            return room
        if rest:
            self.room[: len(rest)] = bytes(rest)
        return self.room

    async def requests(self, filled: int, nursery: trio.Nursery) -> tuple[int, int]:
        # All whole messages: where they end, and the size of the one behind them (0 where it is not known).
        data = memoryview(self.room)[:filled]
        start = 0
        while filled - start >= HEADER.size:
            size, number, tag = HEADER.unpack_from(data, start)
            if not HEADER.size <= size <= self.session.msize:
                raise ProtocolError(f"a message of {size} bytes; msize is {self.session.msize}")
            if filled - start < size:
                return start, size
            await self.request(number, tag, data[start + HEADER.size : start + size], nursery)
            start += size
        return start, 0

    async def request(self, number: int, tag: int, body: Buffer, nursery: trio.Nursery) -> None:
        if number == _TVERSION:
            for event in list(self.pending.values()):
                await event.wait()
        if number == _TFLUSH:
            # flush(5): after Rflush the tag is free. What is under way is let finish, and answers first.
            (old,) = decode(number, body)
            under_way = self.pending.get(old)
            if under_way is None:
                await self.send(encode("Rflush", tag))
            else:
                nursery.start_soon(self.flush, tag, under_way)
            return
        if tag in self.pending:
            raise ProtocolError(f"tag {tag} is in use")
        outcome = self.session.handle(number, tag, body)
        if isinstance(outcome, Later):
            while len(self.pending) >= self.session.limits.in_flight:
                await next(iter(self.pending.values())).wait()
            self.kept = self.kept or outcome.keeps_body
            self.pending[tag] = trio.Event()
            nursery.start_soon(self.wait_for, tag, outcome)
        else:
            await self.send(outcome)

    async def flush(self, tag: int, event: trio.Event) -> None:
        await event.wait()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send(encode("Rflush", tag))

    async def wait_for(self, tag: int, later: Later) -> None:
        outcome: Buffer | Later = later
        while isinstance(outcome, Later):
            value, error = await trio.to_thread.run_sync(
                _attempt, outcome.call, abandon_on_cancel=True, limiter=self.slots
            )
            outcome = outcome.resume(value, error)
        # Free for reuse from the moment the client may have seen the reply.
        event = self.pending.pop(tag)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send(outcome)
        event.set()


async def serve_stream(
    stream: trio.abc.Stream, root: Node, limits: Limits | None = None, stats: Stats | None = None
) -> None:
    """Serve one client until it goes away. All fids are freed then, and the stream is closed.

    :raise ProtocolError: the client sent what is no 9P; the connection is closed already.
    """
    limits = limits or Limits()
    session = Session(root, limits, stats if stats is not None else Stats())
    connection = _Connection(_Pipe(stream), session, trio.CapacityLimiter(limits.in_flight))
    wrong: ProtocolError | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                await connection.run(nursery)
            except ProtocolError as error:
                wrong = error
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client is gone, which is how connections end
    finally:
        session.close()
        await trio.aclose_forcefully(stream)
    if wrong is not None:
        raise wrong
