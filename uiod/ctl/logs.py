# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl logs`: the serial console's log, as bytes."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from uiod.ctl import vms
from uiod.ctl.client import query
from uiod.ctl.errors import NotRunning
from uiod.ctl.options import Follow, Since, VmName, moment
from uiod.paths import RuntimeDir

_RECORD = struct.Struct(
    "<dQ"
)  # of the log's index: Unix time, position of the first byte that came then

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
    """Show what the guest has written to its serial console, also after its end.

    \b
    Examples:
      uioctl logs web
      uioctl logs -f --tail 20 web
      uioctl logs --since 10m web > log
    """
    api = vms.find(vm)
    start = moment(since)
    target = "/v1/logs" + query(tail=tail, since=start, follow=1 if follow else None)
    clean = not raw and os.isatty(1)
    sys.stdout.flush()
    last = b"\n"
    with contextlib.ExitStack() as stack:
        try:
            reply = stack.enter_context(
                api.request("GET", target, timeout=None if follow else 30.0)
            )
            pieces = reply.pieces()
        except NotRunning:
            log = RuntimeDir(Path(api.directory)).serial_log
            if not log.exists():
                raise
            pieces = kept(log, tail, start)
        for piece in pieces:
            write_all(1, _CONTROL.sub(_visible, piece) if clean else piece)
            last = piece[-1:] or last
    if clean and last != b"\n":
        write_all(1, b"\n")


def kept(log: Path, tail: int | None, since: float | None) -> Iterator[bytes]:
    """The log of a VM that has ended, from its files: the one before and the last (console.seriallog)."""
    parts = [part for part in (log.with_name(log.name + ".1"), log) if part.exists()]
    skip = [0 if since is None else _first_since(part, since) for part in parts]
    if tail is not None:
        skip = _tail(parts, skip, tail)
    for part, offset in zip(parts, skip, strict=True):
        with part.open("rb") as file:
            file.seek(offset)
            while piece := file.read(64 << 10):
                yield piece


def _first_since(part: Path, since: float) -> int:
    """Where in a file that begins which came at that time or later; behind its end if nothing did."""
    index = part.with_name(part.name + ".idx")
    data = index.read_bytes() if index.exists() else b""
    records = list(_RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size]))
    base = records[0][1] if records else 0
    return next(
        (position - base for when, position in records if when >= since), part.stat().st_size
    )


def _tail(parts: list[Path], skip: list[int], lines: int) -> list[int]:
    """Where to begin in each file, so that the last `lines` lines are left."""
    wanted = lines
    begins = [part.stat().st_size for part in parts]
    if not lines:
        return begins
    at_end = True
    for number in reversed(range(len(parts))):
        with parts[number].open("rb") as file:
            position = begins[number]
            while position > skip[number] and wanted:
                size = min(64 << 10, position - skip[number])
                file.seek(position - size)
                piece = file.read(size)
                at = len(piece)
                while (at := piece.rfind(b"\n", 0, at)) >= 0:
                    if at_end and at == len(piece) - 1:
                        at_end = False  # the end of the last line
                        continue
                    at_end = False
                    wanted -= 1
                    if not wanted:
                        begins[number] = position - size + at + 1
                        return begins
                at_end = False
                position -= size
                begins[number] = position
    return begins


def _visible(match: re.Match[bytes]) -> bytes:
    return b"^" + bytes([match[0][0] ^ 0x40])


def write_all(fd: int, data: bytes) -> None:
    """Write everything."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
