# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl attach` on a terminal that changes its size: the guest's line editor and the shell's commands follow it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl

import pytest
import vm

from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

PROMPT = b"uio> "


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with vm.machine(vm.prepare(tmp_path_factory.mktemp("vm"), ["terminal"])) as running:
        yield running


class Terminal:
    """A terminal with `uioctl attach` on it."""

    def __init__(self, guest: Machine, rows: int, columns: int) -> None:
        self.guest = guest
        self.master, self.slave = pty.openpty()
        self._set(rows, columns)
        command = [sys.executable, "-m", "uiod.ctl.main", "--runtime-dir", str(guest.root)]
        self.process = subprocess.Popen(
            [*command, "attach", guest.name],
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.seen = b""

    def _set(self, rows: int, columns: int) -> None:
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._set(rows, columns)
        self.process.send_signal(signal.SIGWINCH)  # it is not the terminal's own session

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def until(self, mark: bytes) -> bytes:
        deadline = time.monotonic() + self.guest.deadline.left("attach")
        while mark not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, self.seen
            self.seen += os.read(self.master, 4096)
        out, _, self.seen = self.seen.partition(mark)
        return out

    def drawn(self, cursor: int) -> bytes:
        """The row as it is drawn next with the cursor in that column."""
        return self.until(b"\x1b[K\r\x1b[%dC" % cursor).rpartition(b"\r")[2]

    def close(self) -> None:
        self.type(b"\x1d")
        try:
            assert self.process.wait(60) == 0
        finally:
            self.process.kill()
            os.close(self.master)
            os.close(self.slave)


@contextlib.contextmanager
def attached(guest: Machine, rows: int, columns: int) -> Iterator[Terminal]:
    terminal = Terminal(guest, rows, columns)
    try:
        terminal.until(PROMPT)
        yield terminal
    finally:
        terminal.close()


def test_the_line_editor_follows_the_terminal(guest: Machine) -> None:
    with attached(guest, 24, 132) as terminal:
        terminal.type(b"x" * 300)
        assert terminal.drawn(130) == PROMPT + b"x" * 125
        terminal.resize(24, 60)
        assert terminal.drawn(58) == PROMPT + b"x" * 53
        terminal.resize(1, 65535)
        assert terminal.drawn(305) == PROMPT + b"x" * 300
        terminal.type(b"\x03")
        terminal.until(b"^C\r\n" + PROMPT)


def test_commands_of_the_shell_know_the_terminals_size(guest: Machine) -> None:
    with attached(guest, 33, 99) as terminal:
        terminal.type(b"terminal\r")
        terminal.until(b"terminal of 33 by 99\r\n")
        terminal.resize(50, 132)
        terminal.until(b"terminal of 50 by 132\r\n")
        terminal.type(b"\x03")
        terminal.until(PROMPT)
        terminal.type(b"true; terminal | cat\r")
        terminal.until(b"terminal of 50 by 132\r\n")
        terminal.type(b"\x03")
        terminal.until(PROMPT)


def test_without_a_terminal_there_is_no_size(guest: Machine) -> None:
    command = [sys.executable, "-m", "uiod.ctl.main", "--runtime-dir", str(guest.root)]
    done = subprocess.run(
        [*command, "attach", guest.name],
        input=b"terminal\r",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"terminal of 0 by 0\r\n" in done.stdout


def test_a_command_of_the_host_is_not_concerned(guest: Machine) -> None:
    with attached(guest, 33, 99):
        assert guest.exec("terminal").text == "none of 0 by 0\n"
