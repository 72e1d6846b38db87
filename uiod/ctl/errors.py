# SPDX-License-Identifier: BSD-3-Clause
"""What uioctl says when something goes wrong, and the status it exits with: the one table from exception to message."""

from __future__ import annotations

import sys
from collections.abc import Callable

FAILED = 1
USAGE = 2
TIMED_OUT = 124
TRANSPORT = 125  # of exec: uIO itself, not the command
INTERRUPTED = 130
NO_READER = 141


class CtlError(Exception):
    """A failure in one sentence, with what to do about it."""

    def __init__(self, message: str, hint: str = "", status: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


class NotRunning(CtlError):
    """The VM's directory is there, but no daemon answers."""


class UnknownVm(CtlError):
    """There is no such VM."""


class ApiError(CtlError):
    """The daemon refused; `http` is its status."""

    def __init__(self, http: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint, TIMED_OUT if http == 408 else FAILED)
        self.http = http


class ProtocolError(CtlError):
    """What came over the socket is not what docs/api.md says."""


_Words = tuple[str, str, int]  # message, hint, status


def _os_error(error: OSError) -> _Words:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}", "", FAILED


# The first class that fits counts.
_TABLE: tuple[tuple[type[BaseException], Callable[..., _Words]], ...] = (
    (CtlError, lambda e: (e.message, e.hint, e.status)),
    (KeyboardInterrupt, lambda _: ("", "", INTERRUPTED)),
    (BrokenPipeError, lambda _: ("", "", NO_READER)),
    (ConnectionError, lambda _: ("the connection to uiod was lost", "", FAILED)),
    (TimeoutError, lambda _: ("uiod does not answer", "uioctl ps shows who does", FAILED)),
    (OSError, _os_error),
)


def in_words(error: BaseException) -> _Words | None:
    """Message, hint and exit status of an exception; None for one that is a mistake in the program."""
    for kind, words in _TABLE:
        if isinstance(error, kind):
            return words(error)
    return None


def show(message: str, hint: str = "") -> None:
    """On standard error, where all that is not data goes."""
    text = f"uioctl: {message}\n" + (f"  {hint}\n" if hint else "")
    try:
        sys.stderr.write(printable(text))
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # nobody to tell


def printable(text: str) -> str:
    """Without control characters: names and messages may come from a guest, and this is a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
