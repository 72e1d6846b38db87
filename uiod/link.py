# SPDX-License-Identifier: BSD-3-Clause
"""The channel's port: `console.channel` with a socket under it, and commands as objects to read from and write to.

One task receives, one sends, one keeps time. A guest that does not read what it is sent is not read from either once
`_BACKLOG` bytes wait for it, so that nothing it does makes uiod grow.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from console import channel as ch
from console.frames import (
    FRAME_MAX,
    Exec,
    ExecFlag,
    Exit,
    ExitKind,
    Hello,
    ProtocolError,
    Resident,
    Stream,
    SymbolReply,
)
from uiod.events import Pulse

_RECEIVE = 64 * 1024
_BACKLOG = 1 << 20
_AHEAD = 256 * 1024  # bytes of an image or of input that wait for the socket at most
_RESYNC_S = 0.25
_PING_S = 10.0
_SILENT_S = 30.0

CREDIT = 128 * 1024  # bytes of stdout under way per command; a quarter of it for stderr

Resolver = Callable[[bytes, tuple[str, ...]], list[SymbolReply]]


class LinkDown(Exception):
    """The channel is not up, or went down: the text says why."""


class Command:
    """A command in the guest."""

    def __init__(self, link: Link, id: int) -> None:
        self.id = id
        self.exit: Exit | None = None
        self._link = link
        self._output: deque[tuple[Stream, bytes]] = deque()
        self._changed = Pulse()
        self._room = Pulse()
        self._replay: bytearray | None = (
            bytearray()
        )  # input sent before the guest showed that it runs
        self._input_ended = False

    async def receive(self) -> tuple[Stream, bytes] | Exit:
        """The next output, or how it ended; output of length 0 is the end of that stream."""
        while not self._output:
            if self.exit is not None:
                return self.exit
            await self._changed.wait()
        return self._output.popleft()

    def passed_on(self, stream: Stream, size: int) -> None:
        """So much output is out of our hands; the guest may send as much again."""
        self._link.channel.consumed(self.id, stream, size)
        self._link.kick()

    async def send(self, data: bytes) -> None:
        """Standard input. Waits while the command does not read; after its end nothing happens."""
        view = memoryview(data)
        while view and self.exit is None:
            await self._link.drained(_AHEAD)
            sent = self._link.channel.input(self.id, view)
            if not sent:
                await self._room.wait()
                continue
            if self._replay is not None:
                self._replay += view[:sent]
            view = view[sent:]
            self._link.kick()

    def end_input(self) -> None:
        """No more standard input."""
        self._input_ended = True
        self._link.channel.end_input(self.id)
        self._link.kick()

    def cancel(self, signal: int) -> None:
        """Interrupt (2) or end (9) it."""
        self._link.channel.cancel(self.id, signal)
        self._link.kick()

    def abandon(self) -> None:
        """End it; nobody is interested in it any more. What it still writes is bounded by its credit."""
        if self.exit is None:
            self.cancel(9)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has another size."""
        self._link.channel.resize(self.id, rows, columns)
        self._link.kick()

    # From the link

    def on_output(self, stream: Stream, data: bytes) -> None:
        self._replay = None
        self._output.append((stream, data))
        self._changed.fire()

    def on_room(self) -> None:
        self._replay = None
        self._room.fire()

    def on_exit(self, exit: Exit) -> None:
        self.exit = exit
        self._changed.fire()
        self._room.fire()

    def again(self, id: int) -> None:
        """It runs under another id now; what was sent so far is to be sent again."""
        self.id, self.exit = id, None
        replay = bytes(self._replay or b"")
        self._link.channel.input(id, replay)
        if self._input_ended:
            self._link.channel.end_input(id)
        self._link.kick()


class Link:
    """The channel of one VM, over all its connections.

    :param resolve: addresses of names that an overlay which the guest pulled asks for.
    """

    def __init__(self, path: Path, on_event: Callable[..., None], resolve: Resolver) -> None:
        self.channel = ch.Channel(ch.Limits(window=CREDIT))
        self.changed = Pulse()  # ready or not ready
        self.paused = False  # a guest that is stopped owes no answers
        self.on_ready: Callable[[Hello], None] = lambda _hello: None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_gone: Callable[[bytes], None] = lambda _digest: None
        self._path = path
        self._tell = on_event
        self._resolve = resolve
        self._commands: dict[int, Command] = {}
        self._answers: dict[int, Any] = {}  # id of a request -> None, and then what came
        self._answered = Pulse()
        self._console_size = (0, 0)  # of the terminal at the guest's shell; zeros: not known
        self._console_size_due = False
        self._due = Pulse()
        self._sent = Pulse()
        self._heard = 0.0

    @property
    def hello(self) -> Hello | None:
        """What the guest said of itself; None while it is not ready."""
        return self.channel.hello

    # Requests

    async def start(self, command: Exec, flags: int, image: bytes | None, stdin: bool) -> Command:
        """Run a command.

        :param image: what the guest is to run, for `ExecFlag.IMAGE`; None: it is resident.
        :raise LinkDown: the channel is not up. :raise OSError: EAGAIN, too many. :raise ValueError: it is too large.
        """
        made = Command(self, 0)
        await self._begin(made, command, flags, image)
        if not stdin:
            made.end_input()
        return made

    async def restart(self, made: Command, command: Exec, flags: int, image: bytes) -> None:
        """Run a command again, with its image: the guest did not have it. Raises as `start`."""
        await self._begin(made, command, flags, image)

    async def _begin(self, made: Command, command: Exec, flags: int, image: bytes | None) -> None:
        try:
            id = self.channel.new_id()
        except ProtocolError as error:
            raise LinkDown(str(error)) from None
        except BlockingIOError as error:
            raise OSError(errno.EAGAIN, str(error)) from None
        session = self.channel.hello
        try:
            view = memoryview(image or b"")
            for offset in range(0, len(view), FRAME_MAX):
                self.channel.image(id, offset, view[offset : offset + FRAME_MAX])
                self.kick()
                await self.drained(_AHEAD)
                if self.channel.hello is not session:
                    raise LinkDown("the channel went down")  # noqa: TRY301
            self.channel.exec(id, command, flags)
        except BaseException:
            self.channel.abandon(id)
            raise
        self._commands[id] = made
        made.again(id)
        self.kick()

    async def list_images(self) -> tuple[Resident, ...]:
        """What is resident. :raise LinkDown: the channel is not up, or went down."""
        answer = await self._ask(self.channel.list_images)
        return answer.images if isinstance(answer, ch.Listed) else ()

    async def unload(self, digest: bytes) -> Exit:
        """Unload an image. :raise LinkDown: the channel is not up, or went down."""
        answer = await self._ask(lambda: self.channel.unload(digest))
        assert isinstance(answer, ch.Exited)
        return answer.exit

    def resize_console(self, rows: int, columns: int) -> None:
        """The terminal at the guest's shell has this size, also for sessions to come; zeros: not known."""
        if (rows, columns) != self._console_size:
            self._console_size = rows, columns
            self._console_size_due = True
            self._due.fire()

    async def _ask(self, request: Callable[[], int]) -> ch.Event:
        try:
            id = request()
        except ProtocolError as error:
            raise LinkDown(str(error)) from None
        self._answers[id] = None
        self.kick()
        try:
            while (answer := self._answers[id]) is None:
                await self._answered.wait()
        finally:
            del self._answers[id]
        if isinstance(answer, ch.Lost):
            raise LinkDown(answer.reason)
        assert isinstance(answer, ch.Event)
        return answer

    async def drained(self, most: int) -> None:
        """Until at most so many bytes wait to be sent."""
        while self.channel.pending > most:
            await self._sent.wait()

    def kick(self) -> None:
        """There may be something to send."""
        if self.channel.pending:
            self._due.fire()

    def guest_was_reset(self) -> None:
        """Whatever the guest knew of us is gone."""
        if self.channel.state is not ch.State.CLOSED:
            self._dispatch(self.channel.restart("the guest was reset"))
            self.kick()

    # The tasks

    async def run(self) -> None:
        """Serve the port for ever, connecting anew when the connection ends."""
        while True:
            try:
                stream = await trio.open_unix_socket(self._path)
            except OSError:
                await trio.sleep(_RESYNC_S)
                continue
            await self._serve(stream)
            await trio.sleep(_RESYNC_S)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self._dispatch(self.channel.connect())
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                nursery.start_soon(self._keep_time)
                await self._receive(stream)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._dispatch(self.channel.disconnect("QEMU closed the port"))
            self._sent.fire()

    async def _send(self, stream: trio.abc.Stream) -> None:
        while True:
            # The latest only, so that a guest that does not read costs no more than one.
            if self._console_size_due and self.channel.state is ch.State.READY:
                self._console_size_due = False
                self.channel.resize_console(*self._console_size)
            data = self.channel.data_to_send()
            self._sent.fire()
            if data:
                await stream.send_all(data)
            else:
                await self._due.wait()

    async def _receive(self, stream: trio.abc.Stream) -> None:
        while data := await stream.receive_some(_RECEIVE):
            self._heard = trio.current_time()
            self._dispatch(self.channel.receive_data(data))
            self.kick()
            await self.drained(_BACKLOG)

    async def _keep_time(self) -> None:
        self._heard = trio.current_time()
        asked: float | None = None
        while True:
            if self.channel.state is ch.State.SYNCHRONISING:
                await trio.sleep(_RESYNC_S)
                self.channel.resync()
                self.kick()
                continue
            with trio.move_on_after(_PING_S):
                await self.changed.wait()
                continue
            now = trio.current_time()
            silent = now - self._heard
            if self.paused or silent < _PING_S:
                asked = None
            elif asked is None or self._heard >= asked:  # an answer came, and then nothing again
                asked = now
                with contextlib.suppress(ProtocolError):
                    self.channel.ping()
            elif silent > _SILENT_S:
                if silent < _SILENT_S + _PING_S:
                    self._tell("guest.silent", seconds=round(silent))
                self.channel.probe()
            self.kick()

    def _dispatch(self, events: list[ch.Event]) -> None:
        for event in events:
            _HANDLERS[type(event)](self, event)

    def _on_ready(self, event: ch.Ready) -> None:
        self._console_size_due = self._console_size != (0, 0)  # which a new session begins with
        self._due.fire()
        self.on_ready(event.hello)
        self.changed.fire()

    def _on_lost(self, event: ch.Lost) -> None:
        lost = Exit(
            ExitKind.ERROR, -errno.EPIPE, f"the connection to the guest was lost: {event.reason}"
        )
        for id in event.requests:
            if command := self._commands.pop(id, None):
                command.on_exit(lost)
            if id in self._answers:
                self._answers[id] = event
        self._answered.fire()
        self._tell("channel.lost", reason=event.reason)
        self.on_lost()
        self.changed.fire()

    def _on_output(self, event: ch.Output) -> None:
        if command := self._commands.get(event.id):
            command.on_output(event.stream, event.data)

    def _on_end_of_output(self, event: ch.EndOfOutput) -> None:
        if command := self._commands.get(event.id):
            command.on_output(event.stream, b"")

    def _on_input_wanted(self, event: ch.InputWanted) -> None:
        if command := self._commands.get(event.id):
            command.on_room()

    def _on_exited(self, event: ch.Exited) -> None:
        if event.id in self._answers:
            self._answer(event.id, event)
        elif command := self._commands.pop(event.id, None):
            command.on_exit(event.exit)

    def _on_listed(self, event: ch.Listed) -> None:
        self._answer(event.id, event)

    def _answer(self, id: int, event: ch.Event) -> None:
        if id in self._answers:
            self._answers[id] = event
            self._answered.fire()

    def _on_symbols_asked(self, event: ch.SymbolsAsked) -> None:
        self.channel.answer_symbols(event.query, self._resolve(event.hash, event.names))

    def _on_logged(self, event: ch.Logged) -> None:
        dropped = {"dropped_bytes": event.dropped} if event.dropped else {}
        self._tell("guest.log", level=event.level, text=event.text, **dropped)

    def _on_gone(self, event: ch.Gone) -> None:
        self.on_gone(event.hash)

    def _on_ponged(self, _event: ch.Ponged) -> None:
        pass  # that something was heard is all that matters


_HANDLERS: dict[type[ch.Event], Callable[[Link, Any], None]] = {
    ch.Ready: Link._on_ready,
    ch.Lost: Link._on_lost,
    ch.Output: Link._on_output,
    ch.EndOfOutput: Link._on_end_of_output,
    ch.InputWanted: Link._on_input_wanted,
    ch.Exited: Link._on_exited,
    ch.SymbolsAsked: Link._on_symbols_asked,
    ch.Listed: Link._on_listed,
    ch.Logged: Link._on_logged,
    ch.Gone: Link._on_gone,
    ch.Ponged: Link._on_ponged,
}

__all__ = ["CREDIT", "Command", "ExecFlag", "Link", "LinkDown"]
