# SPDX-License-Identifier: BSD-3-Clause
"""The terminal: raw mode is undone, and the detach keys are found and nothing else is swallowed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import tty

KEYS = tty.parse_keys("ctrl-p,ctrl-q")


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-]", b"\x1d"), ("ctrl-@", b"\0"), ("~,.", b"~.")],
)
def test_keys_by_name(text: str, keys: bytes) -> None:
    assert tty.parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "alt-x", "ctrl-1", "ä", ""])
def test_no_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|no control"):
        tty.parse_keys(text)


@given(
    st.lists(st.binary(max_size=5), max_size=10),
    st.sampled_from([b"\x10\x11", b"aab", b"a", b"aba"]),
)
def test_what_is_typed_passes_up_to_the_sequence(pieces: list[bytes], keys: bytes) -> None:
    typed = b"".join(pieces).replace(b"\x01", b"a").replace(b"\x02", b"b")
    detach = tty.DetachKeys(keys)
    passed, done = bytearray(), False
    for i in range(len(typed)):
        piece, done = detach.feed(typed[i : i + 1])
        passed += piece
        if done:
            break
    at = typed.find(keys)
    if at >= 0:
        assert done
        assert passed == typed[:at]
    else:
        assert not done
        held = len(typed) - len(passed)
        assert typed.startswith(bytes(passed))
        assert keys.startswith(typed[len(passed) :])
        assert held < len(keys)


def test_no_keys_pass_all() -> None:
    assert tty.DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_raw_mode_is_undone() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with pytest.raises(RuntimeError), tty.raw(slave):
            assert not termios.tcgetattr(slave)[3] & termios.ECHO
            raise RuntimeError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_raw_mode_is_undone_by_a_signal() -> None:
    master, slave = pty.openpty()
    code = (
        "import os, signal; from console import tty\n"
        f"with tty.raw({slave}):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    try:
        before = termios.tcgetattr(slave)
        done = subprocess.run(
            [sys.executable, "-c", code], pass_fds=[slave], timeout=30, check=False, cwd=os.getcwd()
        )
        assert done.returncode == -signal.SIGTERM
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_the_size_of_no_terminal() -> None:
    read, write = os.pipe()
    assert tty.size(read) == (24, 80)
    assert not tty.are_ttys(read, write)
    os.close(read)
    os.close(write)
