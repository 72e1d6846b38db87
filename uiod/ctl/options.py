# SPDX-License-Identifier: BSD-3-Clause
"""Options and arguments that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from uiod.ctl.completion import complete_all_vms, complete_vm
from uiod.ctl.errors import USAGE, CtlError
from uiod.ctl.exec_args import seconds

VmName = Annotated[
    str, typer.Argument(metavar="VM", help="Name of the VM.", autocompletion=complete_vm)
]
VmNames = Annotated[
    list[str], typer.Argument(metavar="VM", help="Names of VMs.", autocompletion=complete_all_vms)
]
SomeVms = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VM", help="Names of VMs; all if none.", autocompletion=complete_all_vms
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print names alone.")]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on as more comes.")]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN", help="Only what came after: 10m, 2h30m, a Unix time, or 2026-01-31T12:00."
    ),
]


def duration(text: str, option: str) -> float:
    """`90`, `2m`, `500ms` as seconds."""
    try:
        return seconds(text)
    except (ValueError, KeyError):
        raise CtlError(
            f"{text!r} is no time for {option}", "try 30, 1.5s, 2m or 500ms", USAGE
        ) from None


def moment(text: str | None) -> float | None:
    """A `Since` as Unix time."""
    if text is None:
        return None
    import time  # noqa: PLC0415 (small, but so is the function)
    from datetime import datetime  # noqa: PLC0415

    try:
        number = float(text)
        return number if number >= 1e8 else time.time() - number
    except ValueError:
        pass
    try:
        return time.time() - seconds(text)
    except (ValueError, KeyError):
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise CtlError(
            f"{text!r} is no time for --since", "try 10m, 2h30m, or 2026-01-31T12:00", USAGE
        ) from None
