# SPDX-License-Identifier: BSD-3-Clause
"""`uiod run`: boot a VM, run commands in it, stop it, exit with their status. For CI, and for pytest (pytest_plugin).

A `Machine` has a uiod of its own in a child process, with a runtime directory and a name of its own, so that any number
of them run side by side. It is driven through the API, as uioctl does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from uiod.ctl import execstream
from uiod.ctl.client import Api, query
from uiod.ctl.errors import TIMED_OUT, TRANSPORT, CtlError, NotRunning
from uiod.ctl.exec_args import seconds
from uiod.ctl.exec_report import report

_STOP_S = 10.0  # for the guest to stop; then it is killed
_KEEP = 1 << 20  # bytes of output that are kept for a report
_PR_SET_PDEATHSIG = 1
_SOCKET_PATH_MAX = 107


class RunError(Exception):
    """The VM did not do what it should; `status` is what `uiod run` exits with."""

    def __init__(self, message: str, status: int = TRANSPORT) -> None:
        super().__init__(message)
        self.status = status


class Deadline:
    """A moment by which everything must be over."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s

    def left(self, doing: str) -> float:
        """Seconds that are left. :raise RunError: none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise RunError(f"{doing} took longer than the {self.limit_s:g} s allowed", TIMED_OUT)
        return left


@dataclass
class Result:
    """How a command ended."""

    argv: list[str]
    code: int
    kind: str
    message: str
    stdout: bytes
    stderr: bytes
    info: dict[str, Any]

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


class Machine:
    """A VM for a while: `with Machine(config, timeout_s=60) as vm: vm.exec("ls")`.

    :param config: the configuration; its name gets a suffix that nobody else has, and nothing is restarted
    :param timeout_s: for all of it, except the stop at the end, which has its own
    """

    def __init__(self, config: str | os.PathLike[str], *, timeout_s: float = 60.0) -> None:
        self.config = Path(config)
        self.deadline = Deadline(timeout_s)
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", self.config.stem[:16]).lstrip(".-")
        self.name = f"{stem or 'vm'}-{secrets.token_hex(4)}"
        # Sockets have short paths: a long $TMPDIR, such as a test's, is no place for them.
        longest = len(f"{tempfile.gettempdir()}/uio-run-12345678/{self.name}/channel.sock")
        place = "/tmp" if longest > _SOCKET_PATH_MAX else None
        self.root = Path(tempfile.mkdtemp(prefix="uio-run-", dir=place))
        self.said = self.root / "uiod.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> Api:
        """The daemon's API."""
        return Api(self.name, str(self.root / self.name))

    def __enter__(self) -> Machine:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Boot, and wait until the guest has said HELLO.

        :raise RunError: it did not come to that
        """
        code = "import sys; from uiod.run import daemon; sys.exit(daemon(*sys.argv[1:]))"
        with self.said.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    code,
                    str(self.config),
                    str(self.root),
                    self.name,
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop it in order
            )
        while True:
            try:
                left = self.deadline.left("booting")
                target = "/v1/wait" + query(**{"for": "ready", "timeout_s": left})
                self.api.get(target, timeout=left + 1)
            except (NotRunning, ConnectionError, TimeoutError) as error:
                if self._process.poll() is not None:
                    raise RunError(self._ended()) from None
                if isinstance(error, NotRunning):
                    time.sleep(0.01)  # until its socket is there
            except CtlError as error:
                if self._process.poll() is not None:
                    raise RunError(self._ended()) from None
                if error.status != TIMED_OUT:
                    raise RunError(str(error)) from None
            else:
                return

    def _ended(self) -> str:
        assert self._process is not None
        said = self.said.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else f"uiod ended with status {self._process.returncode}"

    def exec(
        self,
        *argv: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        timeout_s: float | None = None,
        echo: Callable[[int, bytes], None] | None = None,
    ) -> Result:
        """Run a builtin or an overlay to its end.

        :param timeout_s: for the guest to end it (kind "timeout", code 124); all ends with the machine's deadline
        :param echo: also gets the output as it comes: (1 or 2, bytes)
        :raise RunError: the guest or the daemon is gone, or the deadline has passed
        """
        doing = f"the command {argv[0]}"
        body: dict[str, Any] = {"argv": list(argv), "stdin": bool(stdin), "env": env or {}}
        if timeout_s is not None:
            body["timeout_ms"] = max(1, round(timeout_s * 1000))
        kept = {execstream.STDOUT: bytearray(), execstream.STDERR: bytearray()}
        try:
            left = self.deadline.left(doing)
            with self.api.request(
                "POST", "/v1/exec", body, upgrade="uio-exec/1", timeout=left
            ) as reply:
                for kind, payload in _messages(
                    reply.sock, reply.leftover(), stdin, self.deadline, doing
                ):
                    if kind == execstream.EXIT:
                        import json  # noqa: PLC0415

                        info = json.loads(payload)
                        return Result(
                            list(argv),
                            int(info["code"]) & 0xFF,
                            str(info.get("kind", "")),
                            str(info.get("message", "")),
                            bytes(kept[execstream.STDOUT]),
                            bytes(kept[execstream.STDERR]),
                            info,
                        )
                    kept[kind] += payload
                    if echo is not None:
                        echo(kind, payload)
        except TimeoutError:
            self.deadline.left(doing)
            raise RunError(f"{doing}: uiod does not answer") from None
        except (CtlError, OSError) as error:
            raise RunError(f"{doing}: {error or 'the connection to uiod was lost'}") from None
        raise RunError(f"{doing}: {self._lost()}")

    def _lost(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(1)
                return self._ended()
        return "the connection to uiod was lost"

    def log(self) -> bytes:
        """The serial console so far."""
        with self.api.request("GET", "/v1/logs") as reply:
            return reply.body()

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until the serial console's log matches.

        :raise RunError: the VM has ended, or the deadline has passed, without it
        """
        wanted = re.compile(pattern, re.MULTILINE)
        doing = f"waiting for /{pattern}/ in the log"
        seen = ""
        try:
            with self.api.request(
                "GET", "/v1/logs?follow=1", timeout=self.deadline.left(doing)
            ) as reply:
                for piece in reply.pieces():
                    seen = (seen + piece.decode(errors="replace"))[-_KEEP:]
                    match = wanted.search(seen.replace("\r\n", "\n"))
                    if match:
                        return match
                    reply.sock.settimeout(self.deadline.left(doing))
        except TimeoutError:
            self.deadline.left(doing)
        except (CtlError, OSError):
            pass  # it has ended: said below
        raise RunError(f"the VM ended without /{pattern}/ in its log", 1)

    def close(self) -> None:
        """Stop the VM and remove all that was made for it."""
        process = self._process
        if process is not None:
            with contextlib.suppress(CtlError, OSError):
                self.api.post("/v1/vm/stop", {"timeout_s": _STOP_S / 2}, timeout=_STOP_S)
            for number in (None, signal.SIGTERM, signal.SIGKILL):
                if number is not None:
                    process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
                    break
            self._remove_orphan()
            self._process = None
        shutil.rmtree(self.root, ignore_errors=True)

    def _remove_orphan(self) -> None:
        """QEMU and its cgroup, should the daemon have died before them."""
        from uiod import runtime  # noqa: PLC0415 (slow to import, and rarely needed)
        from uiod.paths import RuntimeDir  # noqa: PLC0415

        directory = RuntimeDir(self.root / self.name)
        if not directory.path.exists():
            return
        found = runtime.find_running(directory)
        state = found[1] if found else runtime.load_state(directory)
        if found is not None:
            found[0].signal(signal.SIGKILL)
            select.select([found[0].pidfd], [], [], _STOP_S)
            found[0].close()
        if state is not None and state.cgroup is not None:
            import cgroup  # noqa: PLC0415

            with contextlib.suppress(cgroup.CgroupError):
                group = cgroup.open(state.cgroup)
                group.kill()
                group.delete()


def _messages(
    sock: Any, first: bytes, stdin: bytes, deadline: Deadline, doing: str
) -> Iterator[tuple[int, bytes]]:
    """The messages of an exec stream while `stdin` is sent."""
    decoder = execstream.Decoder()
    yield from decoder.feed(first)
    to_send = memoryview(stdin)
    pending = b"" if not stdin else execstream.message(execstream.END_OF_STDIN)
    piece = b""
    sock.setblocking(False)
    while True:
        if not piece and to_send:
            piece = execstream.message(execstream.STDIN, bytes(to_send[: execstream.PAYLOAD_MAX]))
            to_send = to_send[execstream.PAYLOAD_MAX :]
        elif not piece:
            piece, pending = pending, b""
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if piece else 0))
        events = poll.poll(deadline.left(doing) * 1000)
        ready = events[0][1] if events else 0
        if ready & select.POLLOUT and piece:
            try:
                piece = piece[sock.send(piece) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):  # the command has ended
                piece, pending, to_send = b"", b"", to_send[:0]
        if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = sock.recv(65_536)
            except BlockingIOError:
                continue
            if not data:
                return
            yield from decoder.feed(data)


def daemon(config: str, root: str, name: str, parent: str) -> int:
    """The child process of a `Machine`: uiod, ending when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return 1
    import logging  # noqa: PLC0415

    import trio  # noqa: PLC0415

    from uiod import config as configuration  # noqa: PLC0415
    from uiod.api import serve  # noqa: PLC0415
    from uiod.errors import UiodError  # noqa: PLC0415
    from uiod.supervisor import Supervisor  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("qemu").setLevel(logging.CRITICAL)
    try:
        settings = configuration.load(Path(config))
        settings.vm.name = name
        settings.restart.policy = "never"
        return int(trio.run(Supervisor(settings, Path(root)).run, serve))
    except UiodError as error:
        print(error, file=sys.stderr)
        return int(error.status)


# The command


@dataclass
class Step:
    """A row of the JUnit report."""

    name: str
    seconds: float = 0.0
    failure: str = ""
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass
class Report:
    """What has happened so far."""

    name: str
    steps: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step and note how it failed."""
        step = Step(name)
        self.steps.append(step)
        begun = time.monotonic()
        try:
            yield step
        except BaseException as error:
            step.failure = str(error) or type(error).__name__
            raise
        finally:
            step.seconds = time.monotonic() - begun

    def junit(self, log: bytes) -> str:
        """As JUnit's XML, with the serial log as the suite's output."""
        from xml.sax.saxutils import escape, quoteattr  # noqa: PLC0415 (only for --junit)

        failures = sum(1 for step in self.steps if step.failure)
        total = sum(step.seconds for step in self.steps)
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<testsuite name={quoteattr(self.name)} tests="{len(self.steps)}" failures="{failures}" '
            f'errors="0" skipped="0" time="{total:.3f}">',
        ]
        for step in self.steps:
            lines.append(
                f"  <testcase classname={quoteattr(self.name)} name={quoteattr(_xml(step.name))} "
                f'time="{step.seconds:.3f}">'
            )
            if step.failure:
                lines.append(f"    <failure message={quoteattr(_xml(step.failure))}/>")
            for tag, data in (("system-out", step.stdout), ("system-err", step.stderr)):
                if data:
                    lines.append(f"    <{tag}>{escape(_xml(data))}</{tag}>")
            lines.append("  </testcase>")
        lines += [f"  <system-out>{escape(_xml(log))}</system-out>", "</testsuite>", ""]
        return "\n".join(lines)


def _xml(data: bytes | str) -> str:
    """Text with what XML cannot hold written out."""
    text = data if isinstance(data, str) else data[-_KEEP:].decode(errors="replace")
    return re.sub(
        "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]",
        lambda match: f"\\x{ord(match[0]):02x}",
        text,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="uiod run",
        usage="uiod run [options] CFG [-- COMMAND [ARG]… [-- COMMAND [ARG]…]…]",
        description="Boot a VM, run commands in it one after the other, stop it, exit with the first status "
        "that is not 0. Several at once do not get in each other's way.",
        epilog="exit status:\n  the command's own; 0 if all went well\n  1    the VM ended without what "
        "--log-expect wants\n  124  the time was over\n  125  the VM could not be started, or was lost\n"
        "  126, 127, 139: refused, not found, faulted, as uioctl exec says\n\n"
        "examples:\n  uiod run app.cfg --log-expect 'listening on' -- ls /bin -- hello world\n"
        "  uiod run app.cfg --timeout 2m --junit result.xml -- selftest",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CFG", type=Path, help="the configuration, a TOML file")
    parser.add_argument(
        "--log-expect",
        metavar="REGEX",
        action="append",
        default=[],
        help="what the serial log must show before the end; may be given again",
    )
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write a JUnit report")
    parser.add_argument(
        "--timeout", metavar="TIME", default="60s", help="for everything: 90, 2m; default 60s"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what is done")
    return parser


def _split(argv: Sequence[str]) -> list[list[str]]:
    """Commands with `--` between them."""
    commands: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def main(argv: Sequence[str]) -> int:
    """`uiod run`; the exit status."""
    options = list(argv)
    commands: list[list[str]] = []
    if "--" in options:
        at = options.index("--")
        options, commands = options[:at], _split(options[at + 1 :])
    parser = _parser()
    given = parser.parse_args(options)
    try:
        limit = seconds(given.timeout)
    except (ValueError, KeyError):
        parser.error(f"{given.timeout!r} is no time for --timeout")
    for pattern in given.log_expect:
        try:
            re.compile(pattern)
        except re.error as error:
            parser.error(f"--log-expect {pattern!r}: {error}")

    def terminate(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    done = Report(given.config.stem)
    log = b""
    machine = Machine(given.config, timeout_s=limit)
    try:
        status = _run(machine, done, commands, given)
    except RunError as error:
        print(f"uiod run: {error}", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        status = 130
    finally:
        with contextlib.suppress(CtlError, OSError):
            log = machine.log()
        if not log:
            with contextlib.suppress(OSError):
                log = (machine.root / machine.name / "serial.log").read_bytes()[-_KEEP:]
        with done.step("stop"):
            machine.close()
    if status and not given.quiet and log:
        tail = b"\n".join(log.splitlines()[-20:]).decode(errors="replace")
        print(f"uiod run: the end of the serial log:\n{_xml(tail)}", file=sys.stderr)
    if given.junit is not None:
        try:
            given.junit.write_text(done.junit(log), encoding="utf-8")
        except OSError as error:
            print(f"uiod run: {given.junit}: {error.strerror}", file=sys.stderr)
            return status or TRANSPORT
    return status


def _run(
    machine: Machine, done: Report, commands: list[list[str]], given: argparse.Namespace
) -> int:
    def note(text: str) -> None:
        if not given.quiet:
            print(f"uiod run: {text}", file=sys.stderr, flush=True)

    def echo(stream: int, data: bytes) -> None:
        (sys.stdout if stream == execstream.STDOUT else sys.stderr).buffer.write(data)
        (sys.stdout if stream == execstream.STDOUT else sys.stderr).flush()

    with done.step("boot"):
        machine.start()
    note(f"{machine.name} is ready after {done.steps[-1].seconds:.2f} s")
    for command in commands:
        with done.step(" ".join(command)) as step:
            result = machine.exec(*command, echo=echo)
            step.stdout, step.stderr = result.stdout[-_KEEP:], result.stderr[-_KEEP:]
            if result.kind != "ok":
                report(result.info, command[0])
            if result.code:
                step.failure = f"exit status {result.code}" + (
                    f": {result.message}" if result.message else ""
                )
                note(f"{' '.join(command)}: {step.failure}")
                return result.code
    for pattern in given.log_expect:
        with done.step(f"log: {pattern}"):
            machine.expect(pattern)
    note(f"all is well: {len(commands)} commands, {len(given.log_expect)} expectations")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
