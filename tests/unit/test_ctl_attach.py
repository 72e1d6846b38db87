# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl attach` on a pseudo-terminal, against a fake daemon."""

from __future__ import annotations

import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
from ctl_fakeapi import FakeApi

UIOCTL = [sys.executable, "-m", "uiod.ctl.main"]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("UIO_RUNTIME_DIR", str(tmp_path))
    fake = FakeApi(tmp_path)
    yield fake
    fake.close()


class Terminal:
    """A person's terminal with `uioctl attach` on it."""

    def __init__(self, *argv: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(33, 99)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*UIOCTL, "attach", *argv],
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 1000)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> tuple[int, bytes]:
        """(status, stderr), with the terminal as it was."""
        status = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            return status, stream.read()


def test_keys_go_as_typed_until_the_detach_key(api: FakeApi) -> None:
    terminal = Terminal("count")
    terminal.expect(b"uio> ")
    assert api.requests[0] == ("POST", "/v1/attach", {"rows": 33, "columns": 99})
    terminal.type(b"ls\x03\x04\r")
    terminal.expect(
        b"ls\x03\x04\r\nuio> "
    )  # the guest's echo: ours is off, and so are Ctrl-C and Ctrl-D
    terminal.type(b"\x1d")
    status, said = terminal.end()
    assert status == 0
    assert said == b"attached to count; ctrl-] leaves\ndetached\n"
    assert b"".join(api.console) == b"ls\x03\x04\r"


@pytest.mark.parametrize("old", [False, True])
def test_the_daemon_is_told_when_the_terminal_changes(api: FakeApi, old: bool) -> None:
    api.old = old
    terminal = Terminal("count")
    terminal.expect(b"uio> ")
    for size in ((50, 132), (10, 20)):
        terminal.resize(*size)
        terminal.process.send_signal(signal.SIGWINCH)  # it is not this terminal's session
        api.until(("POST", "/v1/attach/size", {"rows": size[0], "columns": size[1]}))
    terminal.type(b"ls\r")
    terminal.expect(b"ls\r\nuio> ")
    terminal.type(b"\x1d")
    status, said = terminal.end()
    assert status == 0
    assert said == b"attached to count; ctrl-] leaves\ndetached\n"


def test_other_detach_keys(api: FakeApi) -> None:
    terminal = Terminal("--detach-keys", "ctrl-p,ctrl-q", "count")
    terminal.expect(b"uio> ")
    terminal.type(b"\x1d\x10x\r")
    terminal.expect(b"\x1d\x10x")
    terminal.type(b"\x10\x11")
    assert terminal.end()[0] == 0


def test_the_daemon_closes(api: FakeApi) -> None:
    terminal = Terminal("count")
    terminal.expect(b"uio> ")
    terminal.type(b"end\r")
    status, said = terminal.end()
    assert status == 0
    assert b"the connection was closed" in said


def test_only_one_unless_forced(api: FakeApi) -> None:
    api.attached = True
    done = subprocess.run(
        [*UIOCTL, "attach", "count"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == b"uioctl: somebody else is attached\n  --force takes over\n"
    terminal = Terminal("--force", "count")
    terminal.expect(b"uio> ")
    terminal.type(b"\x1d")
    assert terminal.end()[0] == 0


def test_without_a_terminal_input_is_typed_and_the_answer_printed(api: FakeApi) -> None:
    done = subprocess.run(
        [*UIOCTL, "attach", "count"], input=b"help\r", capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout == b"uio> help\r\nuio> "
    assert done.stderr == b""
    assert api.requests == [("POST", "/v1/attach", {})]


def test_wrong_detach_keys(api: FakeApi) -> None:
    done = subprocess.run(
        [*UIOCTL, "attach", "--detach-keys", "ctrl-ä", "count"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"ctrl-" in done.stderr
