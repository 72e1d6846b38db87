# SPDX-License-Identifier: BSD-3-Clause
"""A session with a guest's eBPF machine from uioctl's side: requests and their answers, and what comes unasked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from overlays.bpf import session
from overlays.bpf.functions import Functions, places
from overlays.bpf.model import Object
from overlays.bpf.session import ENDS, Counts, Message, Type
from overlays.errors import OverlayError
from uiod.ctl import execstream, vms
from uiod.ctl.client import Api
from uiod.ctl.errors import TRANSPORT, CtlError

_PIECE = 64 << 10
_ANSWER_S = 30.0
_LOADED = 1  # the number of the answer to LOAD, which the daemon sends
Row = tuple[bytes, bytes, int]


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Errors of programs and files as uioctl shows them."""
    try:
        yield
    except OverlayError as error:
        raise CtlError(error.message, error.hint) from None


class Vm:
    """What there is to know of a VM before programs go there."""

    def __init__(self, name: str) -> None:
        self.api: Api = vms.find(name)
        info = self.api.get("/v1/vm")
        hello: dict[str, Any] = info.get("hello") or {}
        if not hello:
            raise CtlError(f"the guest of {name} is not ready", "uioctl wait waits until it is")
        if "bpf" not in hello.get("builtins", []):
            raise CtlError(f"the kernel of {name} has no eBPF machine")
        self.slide = int(hello.get("slide", 0))
        self.symbols = Path(info.get("symbols") or info["kernel"])
        self._functions: Functions | None = None
        self._kernel: Any = None

    @property
    def functions(self) -> Functions:
        """:raise BpfError: the kernel's file has no symbols."""
        if self._functions is None:
            self._functions = Functions(self.symbols)
        return self._functions

    def places(self, obj: Object) -> list[tuple[int, int]]:
        """Program and address of each thing to attach. :raise BpfError: a function cannot be attached to."""
        known = (
            self.functions
            if any(p.kind.name in ("ENTRY", "RETURN") for p in obj.programs)
            else None
        )
        return places(obj, known, self.slide)

    def symbolize(self, address: int) -> str:
        """function+offset, or the number."""
        from overlays.kernel import Kernel  # noqa: PLC0415 (rarely needed)

        if self._kernel is None:
            try:
                self._kernel = Kernel.open(self.symbols)
            except OverlayError:
                self._kernel = False
        found = self._kernel.nearest(address - self.slide) if self._kernel else None
        if found is None:
            return f"{address:#x}"
        symbol, offset = found
        return f"{symbol.name}+{offset:#x}" if offset else str(symbol.name)


def request_body(obj: Object, attach: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """The `BpfRequest`."""
    body: dict[str, Any] = {"object": base64.b64encode(obj.to_wire()).decode()}
    if attach:
        body["attach"] = [list(place) for place in attach]
    return body


class Stream:
    """A session. Everything it attached goes when it is closed.

    :raise CtlError: uiod or the guest refuses the object
    """

    def __init__(self, api: Api, obj: Object) -> None:
        self.object = obj
        self.events: deque[Message] = deque()  # what came unasked
        self._seq = _LOADED
        self._guest = session.Decoder()
        self._daemon = execstream.Decoder()
        self._rows: list[bytes] = []
        self._answers: deque[Message] = deque()
        self.ended = ""  # why the session is over; empty while it is not
        reply = api.request("POST", "/v1/bpf", request_body(obj), upgrade="uio-exec/1")
        self.sock = reply.sock
        self.sock.settimeout(_ANSWER_S)
        self._take(reply.leftover())
        try:
            self.number = self._value(_LOADED)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self.sock.close()

    # ---- requests

    def attach(self, places: Sequence[tuple[int, int]]) -> None:
        """Programs to addresses, all at once as far as the guest's application sees it.

        :raise CtlError: the guest refuses one of them
        """
        data, first = b"", self._seq + 1
        for program, address in places:
            self._seq = self._seq % 0xFFFF + 1
            data += session.attach(self._seq, program, address)
        self._write(data)
        for number in range(len(places)):
            self._value((first + number - 1) % 0xFFFF + 1)

    def detach(self) -> None:
        """All of it."""
        self._value(self._send(session.detach))

    def run(self, program: int, args: Sequence[str] = ()) -> tuple[int, session.Fault]:
        """Run an exec program: what it returned, and how it ended."""
        return session.result_of(self._answer(self._send(session.run, program, args)).payload)

    def read(self, index: int) -> list[Row]:
        """All rows of a map."""
        self._rows = []
        self._answer(self._send(session.read, index))
        rows, self._rows = self._rows, []
        definition = self.object.maps[index]
        return [session.row_of(row, definition) for row in rows]

    def clear(self, index: int) -> None:
        """Forget the entries of a map."""
        self._value(self._send(session.clear, index))

    def zero(self, index: int) -> None:
        """Set all values of a map to 0."""
        self._value(self._send(session.zero, index))

    def counts(self) -> Counts:
        """What has run, and what was lost."""
        return session.counts_of(self._answer(self._send(session.stats)).payload, self.object)

    # ---- messages

    def _send(self, request: Callable[..., bytes], *args: Any) -> int:
        self._seq = self._seq % 0xFFFF + 1
        self._write(request(self._seq, *args))
        return self._seq

    def _write(self, data: bytes) -> None:
        # A session that has ended: what came before says why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(execstream.message(execstream.STDIN, data))

    def _value(self, seq: int) -> int:
        return session.value_of(self._answer(seq).payload)

    def _answer(self, seq: int) -> Message:
        deadline = time.monotonic() + _ANSWER_S
        while True:
            while self._answers:
                answer = self._answers.popleft()
                if answer.seq != seq:
                    continue
                if answer.type is Type.ERROR:
                    raise CtlError(f"the guest refuses: {session.error_of(answer.payload)[1]}")
                return answer
            if self.ended:
                raise CtlError(self.ended, status=TRANSPORT)
            if time.monotonic() > deadline:
                raise TimeoutError
            self.receive()

    def receive(self) -> None:
        """Take what has come; waits if nothing has."""
        try:
            data = self.sock.recv(_PIECE)
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = (
                self.ended or "the connection to the guest was lost; all programs are detached"
            )
        self._take(data)

    def _take(self, data: bytes) -> None:
        for kind, payload in list(self._daemon.feed(data)):
            if kind == execstream.EXIT:
                self.ended = _exit_words(payload)
            elif kind == execstream.STDOUT:
                with in_words():
                    for message in list(self._guest.feed(payload)):
                        self._sort(message)

    def _sort(self, message: Message) -> None:
        if message.type is Type.ROWS:
            self._rows.append(message.payload)
        elif message.type in ENDS:
            self._answers.append(message)
        else:
            self.events.append(message)


def _exit_words(payload: bytes) -> str:
    try:
        message = str(json.loads(payload).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return message or "the session was ended; all programs are detached"


class Interrupts:
    """Signals that ask for the end, as something that can be waited for together with a session."""

    def __init__(self) -> None:
        self.count = 0
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Interrupts:
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _handle(self, _number: int, _frame: object) -> None:
        self.count += 1
        if self.count > 1:  # asked before, and still here
            raise KeyboardInterrupt

    def wait(self, stream: Stream, until: float | None) -> bool:
        """Until the session has something, a signal came (True), or that time of time.monotonic()."""
        if self.count:
            return True
        if stream.events or stream.ended:
            return False
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.register(stream.sock, select.POLLIN)
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        ready = dict(poll.poll(left))
        if stream.sock.fileno() in ready:
            stream.receive()
        return self.count > 0
