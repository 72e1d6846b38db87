# SPDX-License-Identifier: BSD-3-Clause
"""The trio driver: messages from a stream to a `Session`, replies back.

Requests are carried out in the order of their arrival; those that have to wait for a disk go on in threads and are
answered when they are done, while later ones pass them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import trio

from ninep_server.backend import Node
from ninep_server.fids import Limits
from ninep_server.messages import BY_NUMBER, HEADER, Buffer, ProtocolError, decode, encode
from ninep_server.session import REFUSALS, Call, Later, Session
from ninep_server.stats import Stats

_RECEIVE = 64 * 1024
_TFLUSH = next(m.number for m in BY_NUMBER.values() if m.name == "Tflush")
_TVERSION = next(m.number for m in BY_NUMBER.values() if m.name == "Tversion")


def _attempt(call: Call) -> tuple[Any, Exception | None]:
    # Without its traceback: on the way through trio that would make a ring with the frames, which keep the request's
    # files open until the collector comes by.
    try:
        return call(), None
    except REFUSALS as raised:
        return None, raised.with_traceback(None)


@dataclass
class _Connection:
    stream: trio.abc.Stream
    session: Session
    slots: trio.CapacityLimiter
    # Requests in threads: an event that is set when the reply has been sent.
    pending: dict[int, trio.Event] = field(default_factory=dict)
    sending: trio.Lock = field(default_factory=trio.Lock)

    async def send(self, reply: Buffer) -> None:
        async with self.sending:
            await self.stream.send_all(reply)

    async def run(self, nursery: trio.Nursery) -> None:
        rest = bytearray()  # of a message that has not arrived as a whole
        missing = 0
        while True:
            piece = await self.stream.receive_some(max(missing, _RECEIVE))
            if not piece:
                return
            if len(piece) < missing:
                rest += piece
                missing -= len(piece)
                continue
            if rest:
                rest += piece
                piece = rest
            start, missing = await self.requests(memoryview(piece), nursery)
            rest = bytearray(memoryview(piece)[start:])

    async def requests(self, data: memoryview, nursery: trio.Nursery) -> tuple[int, int]:
        # All whole messages of the data: how many bytes they are, and how many the one behind them lacks.
        start = 0
        while len(data) - start >= HEADER.size:
            size, number, tag = HEADER.unpack_from(data, start)
            if not HEADER.size <= size <= self.session.msize:
                raise ProtocolError(f"a message of {size} bytes; msize is {self.session.msize}")
            if len(data) - start < size:
                return start, size - (len(data) - start)
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
    connection = _Connection(stream, session, trio.CapacityLimiter(limits.in_flight))
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
