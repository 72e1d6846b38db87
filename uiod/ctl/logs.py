# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl logs`: the serial console's log, as bytes."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from uiod.ctl import vms
from uiod.ctl.client import query
from uiod.ctl.options import Follow, Since, VmName, moment

# Everything but text, tabs, new lines and colours: a log is written by a guest, and this is somebody's terminal.
_CONTROL = re.compile(rb"\x1b(?!\[[0-9;]{0,20}m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")


def logs(
    vm: VmName,
    tail: Annotated[
        int | None, typer.Option("-n", "--tail", metavar="N", min=0, help="Only the last N lines.")
    ] = None,
    since: Since = None,
    follow: Follow = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave control characters in, on a terminal too.")
    ] = False,
) -> None:
    """Show what the guest has written to its serial console.

    \b
    Examples:
      uioctl logs web
      uioctl logs -f --tail 20 web
      uioctl logs --since 10m web > log
    """
    target = "/v1/logs" + query(tail=tail, since=moment(since), follow=1 if follow else None)
    clean = not raw and os.isatty(1)
    sys.stdout.flush()
    last = b"\n"
    with vms.find(vm).request("GET", target, timeout=None if follow else 30.0) as reply:
        for piece in reply.pieces():
            write_all(1, _CONTROL.sub(_visible, piece) if clean else piece)
            last = piece[-1:] or last
    if clean and last != b"\n":
        write_all(1, b"\n")


def _visible(match: re.Match[bytes]) -> bytes:
    return b"^" + bytes([match[0][0] ^ 0x40])


def write_all(fd: int, data: bytes) -> None:
    """Write everything."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
