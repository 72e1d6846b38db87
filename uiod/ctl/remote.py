# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl -H user@host`: the same command there, through ssh.

ssh joins its arguments and has them parsed by a shell, so each is quoted. Files are ours and not the other machine's:
`cp` therefore runs here and only its execs go over (`cp.py`), and `overlay`'s work on files stays here as a whole.
"""

from __future__ import annotations

import os
import shlex

from uiod.ctl.errors import TRANSPORT, CtlError
from uiod.ctl.settings import settings

_HERE = ("cp", "completion")
_OVERLAY_THERE = ("ls", "load", "unload")


def is_for(rest: list[str]) -> bool:
    """Whether this command runs on the other machine."""
    words = [word for word in rest if not word.startswith("-")]
    if not words or "--help" in rest[:2] or "-h" in rest[:2]:
        return False
    if words[0] == "overlay":
        return words[1:2] != [] and words[1] in _OVERLAY_THERE
    return words[0] not in _HERE


def command(host: str, argv: list[str], *, terminal: bool) -> list[str]:
    """The ssh command line that runs `uioctl argv` there."""
    if not host or host.startswith("-"):
        raise CtlError(f"{host!r} is no host", status=2)
    there = ["uioctl"]
    if settings.runtime_dir is not None:
        there += ["--runtime-dir", settings.runtime_dir]
    if settings.json:
        there.append("--json")
    return [
        "ssh",
        "-t" if terminal else "-T",
        "-e",
        "none",
        host,
        "--",
        shlex.join([*there, *argv]),
    ]


def run(host: str, argv: list[str]) -> int:
    """Become ssh. Its own failures exit with 255."""
    terminal = os.isatty(0) and os.isatty(1)
    line = command(host, argv, terminal=terminal)
    try:
        os.execvp(line[0], line)
    except FileNotFoundError:
        raise CtlError(
            "ssh is not installed", "apt-get install openssh-client", TRANSPORT
        ) from None
