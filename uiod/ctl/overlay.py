# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl overlay`: the work on overlay files (`overlays.cli`), and what concerns a VM: ls, load, unload."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from overlays.cli import app as tools
from uiod.ctl import vms
from uiod.ctl.completion import complete_overlay
from uiod.ctl.errors import ApiError, CtlError, in_words, show
from uiod.ctl.options import Json, Quiet, VmName
from uiod.ctl.output import Output, size

app = typer.Typer(
    help="Build, sign and check overlay files; list, load and unload those of a VM.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.registered_commands = list(tools.registered_commands)

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME", help="Names of overlays.", autocompletion=complete_overlay),
]


@app.command("ls")
def ls(
    vm: VmName,
    loaded: Annotated[
        bool, typer.Option("--loaded", help="Only those in the guest's memory.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """List the overlays a VM may run, and those that were refused with the reason.

    \b
    Examples:
      uioctl overlay ls web
      uioctl overlay ls --loaded --json web
    """
    found = [o for o in vms.find(vm).get_list("/v1/overlays") if not loaded or o.get("loaded")]
    columns = (
        "NAME",
        "STATE",
        "VERSION",
        ">SIZE",
        ">RESIDENT",
        ">USES",
        "HASH",
        "SIGNED BY",
        "DESCRIPTION",
    )
    Output(json=json, quiet=quiet).table(columns, [_row(entry) for entry in found], found)


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    state = str(entry.get("state", "?"))
    if state == "available":
        state = "running" if entry.get("running") else "loaded" if entry.get("loaded") else state
    return (
        entry.get("name", "?"),
        state,
        entry.get("version") or "-",
        size(entry.get("size")),
        size(entry.get("resident_size")) if entry.get("loaded") else "-",
        entry.get("uses", 0),
        str(entry.get("hash", ""))[:12] or "-",
        ", ".join(entry.get("signed_by") or []) or "-",
        entry.get("reason") or entry.get("description") or "",
    )


@app.command("load")
def load(vm: VmName, names: Names, json: Json = False) -> int:
    """Load overlays into a guest's memory without running them.

    \b
    Examples:
      uioctl overlay load web hello
    """
    return _each(vm, names, "load", json)


@app.command("unload")
def unload(vm: VmName, names: Names, json: Json = False) -> int:
    """Remove overlays from a guest's memory.

    \b
    Examples:
      uioctl overlay unload web hello
    """
    return _each(vm, names, "unload", json)


def _each(vm: str, names: list[str], verb: str, json: bool) -> int:
    api = vms.find(vm)
    out = Output(json=json)
    done: list[Any] = []
    status = 0
    for name in names:
        try:
            done.append(api.post(f"/v1/overlays/{verb}", {"name": name}))
        except (CtlError, OSError) as error:
            status = 1
            message, hint, _ = in_words(error) or ("", "", 0)
            show(f"{name}: {message}", hint or _near(api, name, error))
            if not isinstance(error, ApiError):
                break
        else:
            if not out.as_json:
                out.line(name)
    if out.as_json:
        out.json(done)
    return status


def _near(api: Any, name: str, error: BaseException) -> str:
    if not isinstance(error, ApiError) or error.http != 404:
        return ""
    try:
        known = [str(entry["name"]) for entry in api.get_list("/v1/overlays")]
    except (CtlError, OSError, KeyError, TypeError):
        return ""
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""
