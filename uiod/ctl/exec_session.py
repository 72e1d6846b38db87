# SPDX-License-Identifier: BSD-3-Clause
"""Running a command in a guest: the exec stream between a socket and this process's standard streams.

One loop, one thread, bounded buffers: while our reader does not take output nothing more is read from the daemon, so
that back-pressure reaches the guest's writer; while the daemon takes no input, none is read from ours.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import stat
import time

from uiod.ctl import errors, execstream, vms
from uiod.ctl.errors import TRANSPORT, CtlError
from uiod.ctl.exec_args import ExecArgs, seconds

TYPE_CHECKING = False  # as typing's, whose import would take longer than this file's
if TYPE_CHECKING:
    from typing import Any

_PIECE = 64 << 10
# A pipe that poll() calls writable takes this much without blocking (PIPE_BUF).
_PIPE_PIECE = 4096
# How much later than its own deadline a command may end before we stop believing that the guest will end it.
_GRACE_S = 10.0
_SIGNALS = {
    signal.SIGINT: 2,
    signal.SIGTERM: 2,
    signal.SIGHUP: 2,
    signal.SIGQUIT: 9,
}


def run(args: ExecArgs) -> int:
    """Run the command and return its exit status, DESIGN's numbers for all that is not the command's own."""
    try:
        return Session(args).run()
    except BrokenPipeError:
        return errors.NO_READER
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    except (CtlError, OSError) as error:
        words = errors.in_words(error)
        assert words is not None
        errors.show(*words[:2])
        return TRANSPORT


def request_body(args: ExecArgs, tty: bool) -> dict[str, Any]:
    """The `ExecRequest`."""
    env: dict[str, str] = {}
    for item in args.env:
        name, equals, value = item.partition("=")
        if not name:
            raise CtlError(f"{item!r} is no NAME=VALUE for -e")
        if equals:
            env[name] = value
        elif name in os.environ:  # as docker does: our own value
            env[name] = os.environ[name]
    body: dict[str, Any] = {"argv": args.argv, "stdin": args.interactive or tty}
    if env:
        body["env"] = env
    if tty:
        rows, columns = terminal_size()
        body |= {"tty": True, "rows": rows, "columns": columns}
        if "TERM" in os.environ:
            body.setdefault("env", {}).setdefault("TERM", os.environ["TERM"])
    if args.timeout:
        body["timeout_ms"] = max(1, round(timeout_s(args) * 1000))
    if args.pull:
        body["pull"] = True
    return body


def timeout_s(args: ExecArgs) -> float:
    """The `--timeout` in seconds; 0 is none."""
    if not args.timeout:
        return 0.0
    try:
        return min(seconds(args.timeout), 4_294_967.0)  # the guest counts milliseconds in 32 bits
    except (ValueError, KeyError):
        raise CtlError(
            f"{args.timeout!r} is no time for --timeout", "try 30, 1.5s, 2m or 500ms"
        ) from None


def terminal_size() -> tuple[int, int]:
    """(rows, columns); 24 by 80 where there is no terminal."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


class Sink:
    """One of our output streams, written without ever blocking the loop."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pending = memoryview(b"")
        self.piece = _PIECE if stat.S_ISREG(os.fstat(fd).st_mode) else _PIPE_PIECE

    def flush_some(self) -> None:
        """poll() said that there is room."""
        try:
            self.pending = self.pending[os.write(self.fd, self.pending[: self.piece]) :]
        except BlockingIOError:
            return
        except InterruptedError:
            return


class Session:
    """One exec, from request to exit status."""

    def __init__(self, args: ExecArgs) -> None:
        self.args = args
        both = os.isatty(0) and os.isatty(1) if args.tty is None else args.tty
        self.tty = both
        self.body = request_body(args, both)
        self.api = vms.find(args.vm)
        self.exit: dict[str, Any] | None = None
        self.input: int | None = 0 if self.body["stdin"] else None
        self.to_send = bytearray()
        self.interrupts = 0

    def run(self) -> int:
        """Until the exit message and the last byte of output."""
        reply = self.api.request("POST", "/v1/exec", self.body, upgrade="uio-exec/1")
        sock = reply.sock
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = self._catch(wake_write)
        undo = _raw_terminal() if self.tty and self.args.raw else None
        try:
            sock.setblocking(False)
            self._loop(sock, reply.leftover(), wake_read)
        finally:
            if undo is not None:
                undo()
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake_read)
            os.close(wake_write)
            sock.close()
        return self._finish()

    def _catch(self, wake: int) -> dict[int, Any]:
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        numbers = [*_SIGNALS, signal.SIGWINCH] if self.tty else [*_SIGNALS]
        return {number: signal.signal(number, lambda *_: None) for number in numbers}

    def _loop(self, sock: socket.socket, first: bytes, wake: int) -> None:
        decoder = execstream.Decoder()
        sinks = {execstream.STDOUT: Sink(1), execstream.STDERR: Sink(2)}
        waiting: list[tuple[int, bytes]] = list(decoder.feed(first))
        limit = timeout_s(self.args)
        give_up = time.monotonic() + limit + _GRACE_S if limit else None
        connected = True
        while True:
            # 1. Hand on what was received, in order, as far as our readers take it.
            while waiting and not any(sink.pending for sink in sinks.values()):
                kind, payload = waiting.pop(0)
                if kind == execstream.EXIT:
                    self.exit = _exit_info(payload)
                else:
                    self._deliver(sinks, kind, payload)
            blocked = any(sink.pending for sink in sinks.values())
            if not blocked and not waiting and (self.exit is not None or not connected):
                return
            # 2. Wait for whatever may go on.
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            for (
                sink
            ) in sinks.values():  # without pending output only a reader that left is reported
                poll.register(sink.fd, select.POLLOUT if sink.pending else 0)
            if connected:
                wanted = 0 if blocked or waiting else select.POLLIN
                wanted |= select.POLLOUT if self.to_send else 0
                if wanted:
                    poll.register(sock, wanted)
                if self.input is not None and not self.to_send and self.exit is None:
                    poll.register(self.input, select.POLLIN)
            left = None if give_up is None else max(0.0, give_up - time.monotonic()) * 1000
            events = dict(poll.poll(left))
            if not events and give_up is not None and time.monotonic() >= give_up:
                message = (
                    f"the guest did not end the command within {limit:g} s and {_GRACE_S:g} s more"
                )
                self.exit = {"kind": "timeout", "code": 124, "message": message}
                return
            # 3. Do it.
            if wake in events:
                self._signals(os.read(wake, 512))
            for sink in sinks.values():
                if sink.fd in events and sink.pending:
                    sink.flush_some()
            if events.get(1, 0) & select.POLLERR and not sinks[execstream.STDOUT].pending:
                raise BrokenPipeError
            if self.input is not None and self.input in events:
                self._read_input()
            ready = events.get(sock.fileno(), 0) if connected else 0
            if ready & select.POLLOUT:
                connected = self._send(sock)
            if ready & (select.POLLIN | select.POLLHUP | select.POLLERR) and not (
                blocked or waiting
            ):
                data = _receive(sock)
                if data == b"":
                    connected = False
                elif data is not None:
                    waiting += decoder.feed(data)

    def _deliver(self, sinks: dict[int, Sink], kind: int, payload: bytes) -> None:
        if not self.args.json:
            sinks[kind].pending = memoryview(payload)
            return
        line: dict[str, str] = {"stream": "stdout" if kind == execstream.STDOUT else "stderr"}
        try:
            line["data"] = payload.decode()
        except UnicodeDecodeError:
            import base64  # noqa: PLC0415 (rare)

            line["base64"] = base64.b64encode(payload).decode()
        sinks[execstream.STDOUT].pending = memoryview(json.dumps(line).encode() + b"\n")

    def _read_input(self) -> None:
        assert self.input is not None
        try:
            data = os.read(self.input, _PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            # EIO: the terminal is gone, or we are in the background; EBADF: there is no standard input
            if error.errno not in (errno.EIO, errno.EBADF):
                raise
            data = b""
        if data:
            self.to_send += execstream.message(execstream.STDIN, data)
        else:
            self.to_send += execstream.message(execstream.END_OF_STDIN)
            self.input = None

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self.to_send += execstream.window(*terminal_size())
            elif number in _SIGNALS:
                self.interrupts += 1
                if self.interrupts > 2:  # asked twice, and it is still there
                    raise KeyboardInterrupt
                self.to_send += execstream.signal(_SIGNALS[number] if self.interrupts == 1 else 9)  # type: ignore[index]

    def _send(self, sock: socket.socket) -> bool:
        try:
            sent = sock.send(self.to_send)
        except BlockingIOError:
            return True
        except (BrokenPipeError, ConnectionResetError):
            # The command has ended and the daemon has closed; its last messages may still be on their way to us.
            self.to_send.clear()
            self.input = None
            return True
        del self.to_send[:sent]
        return True

    def _finish(self) -> int:
        info = self.exit
        if info is None:
            errors.show(
                "the connection to uiod was lost before the command had ended",
                "the VM goes on if only the daemon has died: see uioctl ps",
            )
            return TRANSPORT
        if self.args.json:
            os.write(1, json.dumps({"exit": info}).encode() + b"\n")
        elif info.get("kind") != "ok":
            from uiod.ctl.exec_report import report  # noqa: PLC0415 (only for what went wrong)

            report(info, self.args.argv[0])
        return int(info["code"]) & 0xFF


def _exit_info(payload: bytes) -> dict[str, Any]:
    try:
        info = json.loads(payload)
        int(info["code"])
    except (ValueError, KeyError, TypeError):
        raise errors.ProtocolError("uiod's exit message is not what it should be") from None
    return dict(info)


def _receive(sock: socket.socket) -> bytes | None:
    """Bytes, none at the end, None if there is nothing yet."""
    try:
        return sock.recv(_PIECE)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def _raw_terminal() -> Any:
    import termios  # noqa: PLC0415 (only for --raw)
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    mode = termios.tcgetattr(0)
    mode[1] = before[1]  # a guest writes \n, which the terminal shall take for a new line
    termios.tcsetattr(0, termios.TCSADRAIN, mode)
    return lambda: termios.tcsetattr(0, termios.TCSADRAIN, before)
