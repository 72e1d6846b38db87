# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl symbol`: names and addresses of the running kernel."""

from __future__ import annotations

from typing import Annotated

import typer

from uiod.ctl import vms
from uiod.ctl.client import query
from uiod.ctl.options import Json, VmName
from uiod.ctl.output import Output


def symbol(
    vm: VmName,
    what: Annotated[str, typer.Argument(metavar="NAME|0xADDRESS", help="A symbol, or an address.")],
    json: Json = False,
) -> None:
    """Look up a function or variable of the kernel and its application, by name or by address.

    \b
    Examples:
      uioctl symbol web main
      uioctl symbol web 0x106a42
    """
    key = "address" if what.lower().startswith("0x") else "name"
    found = vms.find(vm).get("/v1/symbol" + query(**{key: what}))
    pairs = [(name, f"{value:#x}" if name == "address" and isinstance(value, int) else value)
             for name, value in found.items() if value is not None]  # fmt: skip
    Output(json=json).fields(pairs, found)
