# SPDX-License-Identifier: BSD-3-Clause
"""The host's side of the channel without sockets: bytes in, events out, bytes to send beside.

`Channel` finds the guest's HELLO in whatever comes first, holds each command's credit both ways, and refuses what the
protocol does not allow. A guest that breaks it loses the session (`Lost`); the next one is asked for at once.
What is in a guest's hands is bounded: by credit, by one reply per request, and by `Limits`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from console.frames import (
    FRAME_MAX,
    FROM_GUEST,
    HEADER,
    HELLO_MAGIC,
    MAGIC,
    VERSION,
    Credit,
    Digest,
    Exec,
    Exit,
    Frame,
    Hello,
    ProtocolError,
    Resident,
    Stream,
    SymbolQuery,
    SymbolReply,
    Sync,
    Type,
    decode_residents,
    encode_items,
    frame,
    header,
)

_HELLO_HEAD = (
    MAGIC.to_bytes(2, "little") + bytes((Type.HELLO, 0)) + bytes(4)
)  # magic, type, flags, id


class State(Enum):
    """Of the session. `closed` → `synchronising` → `ready` → `synchronising` (lost) or `closed`."""

    CLOSED = "closed"
    SYNCHRONISING = "synchronising"
    READY = "ready"


@dataclass(frozen=True)
class Limits:
    """Bounds on what the guest makes the host hold.

    :param execs: commands at once. :param window: bytes of output per stream that may be under way.
    :param queries: SYMQ not yet answered. :param log_rate: bytes of LOG per second, with twice that at once.
    """

    execs: int = 256
    window: int = 256 * 1024
    queries: int = 64
    log_rate: int = 64 * 1024


class Event:
    """Base of what `receive_data` gives."""

    __slots__ = ()


@dataclass(frozen=True)
class Ready(Event):
    """The guest has said HELLO; commands may be sent."""

    hello: Hello


@dataclass(frozen=True)
class Lost(Event):
    """The session is over. Commands of it get no answer any more: `execs` and other requests' ids."""

    reason: str
    requests: tuple[int, ...]


@dataclass(frozen=True)
class Output(Event):
    """What a command wrote. `Channel.consumed` gives the credit back."""

    id: int
    stream: Stream
    data: bytes


@dataclass(frozen=True)
class EndOfOutput(Event):
    """A command will write no more to a stream."""

    id: int
    stream: Stream


@dataclass(frozen=True)
class InputWanted(Event):
    """A command's standard input may be sent on: see `Channel.room`."""

    id: int


@dataclass(frozen=True)
class Exited(Event):
    """A command, or an UNLOAD, has ended. Its id is free."""

    id: int
    exit: Exit


@dataclass(frozen=True)
class SymbolsAsked(Event):
    """To be answered with `Channel.answer_symbols`."""

    query: int
    hash: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Listed(Event):
    """The answer to `Channel.list_images`."""

    id: int
    images: tuple[Resident, ...]


@dataclass(frozen=True)
class Ponged(Event):
    """The answer to `Channel.ping`."""

    id: int
    payload: bytes


@dataclass(frozen=True)
class Logged(Event):
    """A line from the guest's own log. `dropped`: bytes over the rate that went missing before it."""

    level: int
    text: str
    dropped: int = 0


@dataclass(frozen=True)
class Gone(Event):
    """An image is no longer resident."""

    hash: bytes


@dataclass
class _Output:
    credit: int
    owed: int = 0  # consumed, not yet given back
    ended: bool = False


@dataclass
class _Command:
    input_credit: int
    input_ended: bool
    outputs: dict[Stream, _Output]


@dataclass
class _Rate:
    """Twice `rate` bytes at once, `rate` per second from then on."""

    rate: int
    clock: Callable[[], float]
    left: float = 0.0
    last: float = field(default=float("-inf"))
    dropped: int = 0

    def admit(self, size: int) -> bool:
        now = self.clock()
        self.left = min(2.0 * self.rate, self.left + (now - self.last) * self.rate)
        self.last = now
        if size > self.left:
            self.dropped += size
            return False
        self.left -= size
        return True

    def take_dropped(self) -> int:
        dropped, self.dropped = self.dropped, 0
        return dropped


class Channel:
    """One guest's channel over any number of connections and sessions."""

    def __init__(
        self,
        limits: Limits | None = None,
        nonce: Callable[[], int] = lambda: secrets.randbits(64),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.state = State.CLOSED
        self.hello: Hello | None = None
        self.frames_in = 0
        self.frames_out = 0
        self._new_nonce = nonce
        self._nonce = 0
        self._complained = False  # about this session's HELLO
        self._in = bytearray()
        self._out = bytearray()
        self._next = 1
        self._commands: dict[int, _Command] = {}
        self._reserved: set[int] = set()  # ids whose image is on its way
        self._lists: set[int] = set()
        self._unloads: set[int] = set()
        self._pings: set[int] = set()
        self._queries: dict[int, int] = {}  # the guest's own ids: how many names were asked
        self._log = _Rate(self.limits.log_rate, clock)

    # The session

    def connect(self) -> list[Event]:
        """The port is connected: begin a session. What a former one had under way is lost."""
        return self._begin("the port was connected anew", notice=None)

    def restart(self, reason: str) -> list[Event]:
        """Begin a new session on the same connection: the guest was reset, or does not answer."""
        return self._begin(reason, notice=reason)

    def disconnect(self, reason: str) -> list[Event]:
        """The port's connection is gone."""
        lost = self._lose(reason)
        self.state = State.CLOSED
        self._in.clear()
        self._out.clear()
        return lost

    def resync(self) -> None:
        """Say SYNC again; due every 250 ms while `state` is SYNCHRONISING."""
        if self.state is State.SYNCHRONISING and len(self._out) < HEADER.size * 8:
            self._send(Type.SYNC, 0, VERSION, Sync(nonce=self._nonce).encode())

    def probe(self) -> None:
        """Ask a silent guest for another HELLO: one that still knows the session loses nothing by it."""
        if self.state is State.READY and not self._out:
            self._send(Type.SYNC, 0, VERSION, Sync(nonce=self._nonce).encode())

    def _begin(self, reason: str, notice: str | None) -> list[Event]:
        lost = self._lose(reason)
        if notice is None:
            self._in.clear()
            self._out.clear()
        elif self.state is State.READY:
            self._send(Type.RESET, payload=notice.encode()[:1024])
        self.state = State.SYNCHRONISING
        self._nonce, self._complained = self._new_nonce(), False
        self._send(Type.SYNC, 0, VERSION, Sync(nonce=self._nonce).encode())
        return lost

    def _lose(self, reason: str) -> list[Event]:
        requests = (
            *self._commands,
            *self._reserved,
            *self._lists,
            *self._unloads,
            *self._pings,
        )
        was_ready = self.state is State.READY
        self.hello = None
        for table in (self._reserved, self._lists, self._unloads, self._pings):
            table.clear()
        self._commands.clear()
        self._queries.clear()
        return [Lost(reason, requests)] if was_ready else []

    # Bytes

    def data_to_send(self) -> bytes:
        """All bytes that are due, each given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    @property
    def pending(self) -> int:
        """Bytes that `data_to_send` would give."""
        return len(self._out)

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What the guest sent, in pieces of any size."""
        self._in += data
        events: list[Event] = []
        try:
            while self._step(events):
                pass
        except ProtocolError as error:
            # The rest is of a session that is over: only a HELLO with the new nonce counts. SYNC waits for the next
            # `resync`, so that a guest that goes on like this costs four sessions a second.
            reason = f"the guest broke the protocol: {error}"
            lost = self._lose(reason) or [Lost(reason, ())]
            self._send(Type.RESET, payload=str(error).encode("utf-8", "replace")[:1024])
            self.state = State.SYNCHRONISING
            self._nonce, self._complained = self._new_nonce(), False
            events += lost
        return events

    def _step(self, events: list[Event]) -> bool:
        if self.state is State.CLOSED:
            self._in.clear()
            return False
        if self.state is State.SYNCHRONISING:
            return self._synchronise(events)
        position = 0
        buffer = self._in
        try:
            while len(buffer) - position >= HEADER.size:
                length, kind, id, arg = header(buffer, FROM_GUEST, position)
                end = position + HEADER.size + length
                if end > len(buffer):
                    break
                payload = bytes(memoryview(buffer)[position + HEADER.size : end])
                position = end
                self.frames_in += 1
                _HANDLERS[kind](self, Frame(kind, id, arg, payload), events)
        finally:
            del buffer[:position]
        return False

    def _synchronise(self, events: list[Event]) -> bool:
        # The nonce is ours and new: where it stands behind HELLO's magic, this session begins.
        mark = HELLO_MAGIC + self._nonce.to_bytes(8, "little")
        buffer = self._in
        at = buffer.find(mark)
        if at < 0:
            del buffer[: max(0, len(buffer) - HEADER.size - len(mark) + 1)]
            return False
        start = at - HEADER.size
        if start < 0 or buffer[start + 4 : start + 12] != _HELLO_HEAD:
            del buffer[: at + 1]
            return True
        length, _magic, _type, _flags, _id, version = HEADER.unpack_from(buffer, start)
        if length > FRAME_MAX:
            del buffer[: at + 1]
            return True
        end = at + length
        if end > len(buffer):
            del buffer[:start]
            return False
        if version != VERSION:
            del buffer[:end]
            raise ProtocolError(f"the guest speaks version {version} of the channel, not {VERSION}")
        try:
            self.hello = Hello.decode(bytes(buffer[at:end]))
        except ProtocolError as error:
            # It may have been cut off by the guest's end, and a whole one begins within what seemed to be its payload.
            if not self._complained:
                self._complained = True
                events.append(Lost(f"the guest's HELLO cannot be read: {error}", ()))
            del buffer[: at + 1]
            return True
        del buffer[:end]
        self.frames_in += 1
        self.state = State.READY
        events.append(Ready(self.hello))
        return True

    def _send(
        self, kind: Type, id: int = 0, arg: int = 0, payload: bytes | memoryview = b""
    ) -> None:
        self._out += frame(kind, id, arg, payload)
        self.frames_out += 1

    # Requests

    @property
    def commands(self) -> int:
        """How many are under way."""
        return len(self._commands) + len(self._reserved)

    def new_id(self) -> int:
        """An id for `image` and `exec`; it is in use from now on.

        :raise ProtocolError: not ready. :raise BlockingIOError: as many as are allowed are under way.
        """
        self._check_ready()
        if self.commands >= self.limits.execs:
            raise BlockingIOError(f"{self.limits.execs} commands are under way already")
        id = self._fresh()
        self._reserved.add(id)
        return id

    def abandon(self, id: int) -> None:
        """Give back an id of `new_id` that no EXEC was sent for; the guest drops what it has of its image."""
        if id in self._reserved:
            self._reserved.discard(id)
            self._send(Type.CANCEL, id, 9)

    def image(self, id: int, offset: int, piece: bytes | memoryview) -> None:
        """A piece of a linked image, at most `FRAME_MAX` bytes, in order, before `exec` with the same id."""
        self._check_ready()
        self._send(Type.IMAGE, id, offset, piece)

    def exec(self, id: int, command: Exec, flags: int = 0, stdin: bool = True) -> None:
        """Run a command under an id of `new_id`. Without stdin its input ends at once.

        :raise ValueError: it does not fit into a frame.
        """
        hello = self._check_ready()
        window = self.limits.window
        credit = {Stream.STDOUT: command.stdout_credit, Stream.STDERR: command.stderr_credit}
        if max(credit.values()) > window:
            raise ValueError(f"more credit than the window of {window} bytes")
        self._send(Type.EXEC, id, flags, command.encode())
        self._reserved.discard(id)
        self._commands[id] = _Command(
            hello.window, False, {stream: _Output(n) for stream, n in credit.items()}
        )
        if not stdin:
            self.end_input(id)

    def room(self, id: int) -> int:
        """How many bytes of standard input may be sent now; 0 for a command that has ended."""
        command = self._commands.get(id)
        return 0 if command is None or command.input_ended else command.input_credit

    def input(self, id: int, data: bytes | memoryview) -> int:
        """Send standard input, as much as there is room for: how many bytes that was."""
        size = min(len(data), self.room(id), FRAME_MAX)
        if size:
            self._commands[id].input_credit -= size
            self._send(Type.DATA, id, Stream.STDIN, memoryview(data)[:size])
        return size

    def end_input(self, id: int) -> None:
        """The standard input ends here."""
        command = self._commands.get(id)
        if command is not None and not command.input_ended:
            command.input_ended = True
            self._send(Type.DATA, id, Stream.STDIN)

    def consumed(self, id: int, stream: Stream, size: int) -> None:
        """So much output has been passed on; the guest gets the credit back, in large pieces."""
        command = self._commands.get(id)
        if command is None:
            return
        output = command.outputs[stream]
        output.owed += size
        if output.owed * 2 >= self.limits.window or output.credit == 0:
            output.credit += output.owed
            self._send(Type.CREDIT, id, stream, Credit(bytes=output.owed).encode())
            output.owed = 0

    def cancel(self, id: int, signal: int) -> None:
        """Interrupt (2) a command or end it (9)."""
        if id in self._commands:
            self._send(Type.CANCEL, id, signal)

    def resize(self, id: int, rows: int, columns: int) -> None:
        """The terminal has another size now."""
        if id in self._commands:
            self._send(Type.WINSIZE, id, (rows & 0xFFFF) << 16 | columns & 0xFFFF)

    def resize_console(self, rows: int, columns: int) -> None:
        """The terminal at the guest's shell has this size; zeros: nothing is known of it."""
        self._check_ready()
        self._send(Type.WINSIZE, 0, (rows & 0xFFFF) << 16 | columns & 0xFFFF)

    def list_images(self) -> int:
        """Ask what is resident; the id of the `Listed` to come."""
        self._check_ready()
        id = self._fresh()
        self._lists.add(id)
        self._send(Type.LISTQ, id)
        return id

    def unload(self, digest: bytes) -> int:
        """Ask for an image to be unloaded; the id of the `Exited` to come."""
        self._check_ready()
        id = self._fresh()
        self._unloads.add(id)
        self._send(Type.UNLOAD, id, 0, Digest(hash=digest).encode())
        return id

    def ping(self, payload: bytes = b"") -> int:
        """Ask for a sign of life; the id of the `Ponged` to come."""
        self._check_ready()
        id = self._fresh()
        self._pings.add(id)
        self._send(Type.PING, id, 0, payload)
        return id

    def answer_symbols(self, query: int, symbols: Sequence[SymbolReply]) -> None:
        """Answer `SymbolsAsked`; a query of a session that is over is ignored."""
        count = self._queries.pop(query, None)
        if count is None:
            return
        if count != len(symbols):
            raise ValueError(f"{len(symbols)} symbols for {count} names")
        self._send(Type.SYMR, query, count, encode_items(list(symbols)))

    def _check_ready(self) -> Hello:
        if self.state is not State.READY or self.hello is None:
            raise ProtocolError(f"the channel is {self.state.value}")
        return self.hello

    def _fresh(self) -> int:
        taken = (self._commands, self._reserved, self._lists, self._unloads, self._pings)
        while True:
            id = self._next
            self._next = self._next % 0xFFFFFFFF + 1
            if not any(id in table for table in taken):
                return id

    # Frames from the guest

    def _on_hello(self, got: Frame, events: list[Event]) -> None:
        # SYNC may have been said more than once before the first answer, or again to a silent guest.
        hello = Hello.decode(got.payload)
        if hello.nonce != self._nonce:
            raise ProtocolError("HELLO of another session")
        assert self.hello is not None
        if hello.uptime < self.hello.uptime:
            events += self._lose("the guest has booted anew")
            events.append(Ready(hello))
        self.hello = hello

    def _on_pong(self, got: Frame, events: list[Event]) -> None:
        if got.id not in self._pings:
            raise ProtocolError(f"PONG {got.id} without a PING")
        self._pings.discard(got.id)
        events.append(Ponged(got.id, got.payload))

    def _on_reset(self, got: Frame, events: list[Event]) -> None:
        text = got.payload[:1024].decode("utf-8", "replace")
        events += self._begin(f"the guest gave up the session: {text}", notice=None)

    def _on_data(self, got: Frame, events: list[Event]) -> None:
        command = self._commands.get(got.id)
        if command is None:
            raise ProtocolError(f"DATA for {got.id}, which is not running")
        try:
            stream = Stream(got.arg)
            output = command.outputs[stream]
        except (ValueError, KeyError):
            raise ProtocolError(f"DATA on stream {got.arg}") from None
        if output.ended:
            raise ProtocolError(f"DATA behind the end of {stream.name.lower()}")
        if not got.payload:
            output.ended = True
            events.append(EndOfOutput(got.id, stream))
            return
        if len(got.payload) > output.credit:
            raise ProtocolError(
                f"{len(got.payload)} bytes of DATA against credit of {output.credit}"
            )
        output.credit -= len(got.payload)
        events.append(Output(got.id, stream, got.payload))

    def _on_credit(self, got: Frame, events: list[Event]) -> None:
        credit = Credit.decode(got.payload).bytes
        command = self._commands.get(got.id)
        if command is None or got.arg != Stream.STDIN:
            raise ProtocolError(f"CREDIT for stream {got.arg} of {got.id}")
        assert self.hello is not None
        if command.input_credit + credit > self.hello.window:
            raise ProtocolError(f"CREDIT over the window of {self.hello.window} bytes")
        command.input_credit += credit
        events.append(InputWanted(got.id))

    def _on_exit(self, got: Frame, events: list[Event]) -> None:
        done = Exit.decode(got.arg, got.payload)
        if got.id in self._unloads:
            self._unloads.discard(got.id)
        elif self._commands.pop(got.id, None) is None:
            raise ProtocolError(f"EXIT of {got.id}, which is not running")
        events.append(Exited(got.id, done))

    def _on_symq(self, got: Frame, events: list[Event]) -> None:
        query = SymbolQuery.decode(got.arg, got.payload)
        if got.id in self._queries:
            raise ProtocolError(f"SYMQ {got.id} twice")
        if len(self._queries) >= self.limits.queries:
            raise ProtocolError(f"more than {self.limits.queries} SYMQ at once")
        if len(query.names) * 16 > FRAME_MAX:
            raise ProtocolError(f"SYMQ of {len(query.names)} names, whose answer fits in no frame")
        self._queries[got.id] = len(query.names)
        events.append(SymbolsAsked(got.id, query.hash, query.names))

    def _on_listr(self, got: Frame, events: list[Event]) -> None:
        if got.id not in self._lists:
            raise ProtocolError(f"LISTR {got.id} without a LISTQ")
        images = decode_residents(got.arg, got.payload)
        self._lists.discard(got.id)
        events.append(Listed(got.id, images))

    def _on_log(self, got: Frame, events: list[Event]) -> None:
        if self._log.admit(len(got.payload) + HEADER.size):
            text = got.payload.decode("utf-8", "replace")
            events.append(Logged(min(got.arg, 7), text, self._log.take_dropped()))

    def _on_gone(self, got: Frame, events: list[Event]) -> None:
        events.append(Gone(Digest.decode(got.payload).hash))


_HANDLERS: dict[Type, Callable[[Channel, Frame, list[Event]], None]] = {
    Type.HELLO: Channel._on_hello,
    Type.PONG: Channel._on_pong,
    Type.RESET: Channel._on_reset,
    Type.DATA: Channel._on_data,
    Type.CREDIT: Channel._on_credit,
    Type.EXIT: Channel._on_exit,
    Type.SYMQ: Channel._on_symq,
    Type.LISTR: Channel._on_listr,
    Type.LOG: Channel._on_log,
    Type.GONE: Channel._on_gone,
}
