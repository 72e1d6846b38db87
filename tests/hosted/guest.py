# SPDX-License-Identifier: BSD-3-Clause
"""A guest in a Linux process for tests: build/hosted/uio-hosted-san, libuio under ASan and UBSan.

Use: `guest = hosted.guest.guest` in a test module makes the fixture known there.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosted.client import DEADLINE_S, Client, Exit

TOP = Path(__file__).parents[2]
MAKEFILE = TOP / "unikraft_patches/libuio/port/hosted"
PROMPT = b"uio> "


def build(*, sanitize: bool) -> Path:
    """Bring the binary up to date and say where it is."""
    command = ["make", "-s", f"-j{os.cpu_count()}", "-C", str(MAKEFILE), f"SAN={int(sanitize)}"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return TOP / "build/hosted" / ("uio-hosted-san" if sanitize else "uio-hosted")


class Console:
    """The other end of org.uio.console."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(path))
        self.seen = b""

    def until(self, mark: bytes = PROMPT) -> bytes:
        """Everything up to and with this text; a line that is drawn again does not count as a prompt."""
        pattern = re.compile((rb"(?<!\r)" if mark == PROMPT else b"") + re.escape(mark))
        while (found := pattern.search(self.seen)) is None:
            more = self.sock.recv(1 << 16)
            if not more:
                raise EOFError(self.seen)
            self.seen += more
        at = found.end()
        out, self.seen = self.seen[:at], self.seen[at:]
        return out

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_and_read(self, data: bytes, mark: bytes) -> bytes:
        """Send much while reading what comes back, up to mark."""
        self.sock.setblocking(False)
        deadline = time.monotonic() + DEADLINE_S
        out = self.seen
        try:
            while mark not in out:
                assert time.monotonic() < deadline, out[-500:]
                wanted = [self.sock] if data else []
                readable, writable, _ = select.select([self.sock], wanted, [], 1)
                if writable:
                    with contextlib.suppress(BlockingIOError):
                        data = data[self.sock.send(data[:65536]) :]
                if readable:
                    more = self.sock.recv(1 << 16)
                    if not more:
                        raise EOFError(out[-500:])
                    out += more
        finally:
            self.sock.settimeout(DEADLINE_S)
        at = out.index(mark) + len(mark)
        out, self.seen = out[:at], out[at:]
        return out

    def run(self, line: str) -> str:
        """Type a line at the prompt; what it prints."""
        self.send(line.encode() + b"\n")
        out = self.until()
        _, _, body = out.partition(b"\r\n")
        return body.removesuffix(PROMPT).decode()

    def close(self) -> None:
        self.sock.close()


class Guest:
    """The process and its sockets."""

    def __init__(self, binary: Path) -> None:
        # Names of unix sockets are short: pytest's directories are not.
        self.directory = Path(tempfile.mkdtemp(prefix="uio-hosted-"))
        self.root = self.directory / "guest"
        self.errors = (self.directory / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [str(binary), str(self.directory)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            stdin=subprocess.DEVNULL,
        )
        self.output = b""
        self.wait_for_output(b"uio-hosted: ready\n")

    def wait_for_output(self, text: bytes) -> None:
        """Read the application's output until it has said this."""
        assert self.process.stdout is not None
        while text not in self.output:
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, (self.output, self.stderr())
            self.output += more

    def stderr(self) -> str:
        self.errors.flush()
        return Path(self.errors.name).read_text(errors="replace")

    @property
    def channel(self) -> Path:
        return self.directory / "channel.sock"

    def connect(self, *, sync: bool = True) -> Client:
        return Client(self.channel, sync=sync)

    def run(self, *argv: str, stdin: bytes | None = b"") -> Exit:
        """One command in a connection of its own."""
        with self.connect() as client:
            return client.run(*argv, stdin=stdin)

    def console(self) -> Console:
        console = Console(self.directory / "console.sock")
        console.until()
        return console

    def memory_used(self) -> int:
        """Bytes of the guest's heap in use while nothing but the asking command runs."""
        words = self.run("mem").stdout.decode().split()
        return int(words[words.index("bytes") - 1])

    def settle(self, at_most: int | None = None) -> int:
        """Memory in use once commands of earlier connections have ended.

        :param at_most: wait for so little, since their threads end a little later than they do; a leak never gets there
        """
        deadline = time.monotonic() + DEADLINE_S
        while (said := self.run("ps").stdout).count(b"channel") > 1 or said.count(b"uio-exec") > 1:
            assert time.monotonic() < deadline, said
        while (used := self.memory_used()) > (used if at_most is None else at_most):
            assert time.monotonic() < deadline, f"{used} bytes are in use, and {at_most} were"
        return used

    def stop(self) -> None:
        """End it as init would; sanitizers have the last word."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            text = self.stderr()
            self.errors.close()
            if self.process.stdout is not None:
                self.process.stdout.close()
            shutil.rmtree(self.directory, ignore_errors=True)
        assert status == 0, text
        assert "ERROR: " not in text, text
        assert "runtime error" not in text, text


@pytest.fixture(scope="session")
def hosted_binary() -> Path:
    return build(sanitize=True)


@pytest.fixture
def guest(hosted_binary: Path) -> Iterator[Guest]:
    """A guest that has just started; the test fails if a sanitizer has found something at its end."""
    started = Guest(hosted_binary)
    try:
        yield started
    finally:
        started.stop()
