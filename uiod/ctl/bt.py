# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl bt`: backtraces of the guest's threads in words. The overlay `bt` finds the addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from uiod.ctl.debuggee import Debuggee
from uiod.ctl.options import Json, VmName
from uiod.ctl.output import Output

_THREAD = re.compile(r"thread (\d+) (\S) (.*)")
_FRAME = re.compile(r"  ([0-9a-f]{12,16})( \?)?")


def bt(
    vm: VmName,
    threads: Annotated[
        list[int] | None, typer.Argument(metavar="THREAD", help="Ids of threads; all if none.")
    ] = None,
    every: Annotated[bool, typer.Option("-a", "--all", help="Those of uIO too.")] = False,
    symbols: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The kernel's ELF with symbols.")
    ] = None,
    json: Json = False,
) -> None:
    """Show where the threads of the guest are.

    A ? stands by what was found on the stack but not by frame pointers: it may be left over from before.

    \b
    Examples:
      uioctl bt web
      uioctl bt -a --json web
    """
    guest = Debuggee(vm, symbols)
    said = guest.run("bt", *(["-a"] if every else []), *(str(t) for t in threads or ()))
    output = Output(json=json)
    found: list[dict[str, object]] = []
    frames: list[dict[str, object]] = []
    for line in said.decode(errors="replace").splitlines():
        if match := _THREAD.fullmatch(line):
            frames = []
            found.append({"id": int(match[1]), "state": match[2], "name": match[3],
                          "frames": frames})  # fmt: skip
        elif match := _FRAME.fullmatch(line):
            address = int(match[1], 16)
            # A return address is behind the call: the line of the call is meant.
            place = address - (1 if frames else 0)
            frames.append({
                "address": address,
                "where": guest.word(address) or guest.word(place),
                "source": guest.kernel.source(place - guest.slide),
                "sure": match[2] is None,
            })  # fmt: skip
        elif found:
            found[-1]["note"] = line.strip()
    if json:
        output.json(found)
        return
    for thread in found:
        output.line(f"thread {thread['id']} {thread['state']} {thread['name']}")
        for i, frame in enumerate(thread["frames"]):  # type: ignore[arg-type, var-annotated]
            source = f" ({frame['source']})" if frame["source"] else ""
            doubt = "" if frame["sure"] else " ?"
            output.line(f"  #{i:<2} {frame['address']:#x} {frame['where'] or '?'}{source}{doubt}")
        if thread.get("note"):
            output.line(f"  {thread['note']}")
