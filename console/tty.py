# SPDX-License-Identifier: BSD-3-Clause
"""The terminal a person sits at: raw mode that is always undone, its size, the keys that detach.

Used by uioctl's `exec -t` and `attach`; the bytes in between are somebody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty as _tty
from collections.abc import AsyncIterator, Iterator

import trio

# What a program in the guest may have switched on: alternate screen, hidden cursor, bracketed paste, mouse, colours.
_SANE = b"\x1b[?1049l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[0m"


def are_ttys(*fds: int) -> bool:
    """Whether all of them are terminals."""
    return all(os.isatty(fd) for fd in fds)


def size(fd: int) -> tuple[int, int]:
    """(rows, columns) of a terminal; 24 by 80 where there is none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


@contextlib.contextmanager
def raw(fd: int, output: int | None = None) -> Iterator[None]:
    """Every key as it is typed, nothing echoed. Undone at the end, also on exceptions and SIGTERM or SIGHUP.

    :param output: the terminal's other descriptor; set back to a sane state at the end.
    """
    before = termios.tcgetattr(fd)

    def undo() -> None:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        if output is not None:
            with contextlib.suppress(OSError):
                os.write(output, _SANE)

    def die(number: int, _frame: object) -> None:
        undo()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    old = {number: signal.signal(number, die) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        undo()
        for number, handler in old.items():
            signal.signal(number, handler)


async def resizes(fd: int) -> AsyncIterator[tuple[int, int]]:
    """(rows, columns) whenever the terminal changes."""
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            yield size(fd)


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes. :raise ValueError: it is none of `ctrl-X` or single characters."""
    keys = bytearray()
    for key in text.split(","):
        name = key.strip()
        if name.lower().startswith("ctrl-") and len(name) == 6:
            code = ord(name[5].upper()) ^ 0x40
            if not 0 <= code < 0x20:
                raise ValueError(f"{key!r} is no control key")
            keys.append(code)
        elif len(name) == 1 and name.isascii():
            keys += name.encode()
        else:
            raise ValueError(f"{key!r} is neither ctrl-X nor a character")
    return bytes(keys)


class DetachKeys:
    """Finds the detach sequence in what is typed.

    keys = DetachKeys(parse_keys("ctrl-p,ctrl-q"))
    passed, detach = keys.feed(typed)

    The beginning of a sequence is held back until the next key shows that it is none.
    """

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self._seen = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether to detach now)."""
        if not self.keys:
            return data, False
        out = bytearray()
        for byte in data:
            while self._seen and byte != self.keys[self._seen]:
                # The longest beginning of the sequence that what was held back still ends with.
                held = self.keys[: self._seen]
                keep = next(
                    n for n in range(self._seen - 1, -1, -1) if held.endswith(self.keys[:n])
                )
                out += held[: self._seen - keep]
                self._seen = keep
            if byte == self.keys[self._seen]:
                self._seen += 1
                if self._seen == len(self.keys):
                    self._seen = 0
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False


def on_terminal() -> bool:
    """Whether a tty is to be used: standard input and output both are one."""
    return are_ttys(sys.stdin.fileno(), sys.stdout.fileno())
