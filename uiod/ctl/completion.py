# SPDX-License-Identifier: BSD-3-Clause
"""Completion of commands, VMs, overlays, builtins and traced functions for bash, zsh and fish.

The shells' glue is typer's; the names come from the runtime root and from the VM's own API, quickly or not at all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from uiod.ctl import vms
from uiod.ctl.errors import USAGE, CtlError
from uiod.ctl.settings import settings

_PATIENCE_S = 0.5
_SHELLS = ("bash", "zsh", "fish")


def complete_vm(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names of VMs."""
    settings.runtime_dir = ctx.find_root().params.get("runtime_dir") or settings.runtime_dir
    return [name for name in vms.names() if name.startswith(incomplete)]


def complete_all_vms(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names of VMs that are not on the line yet."""
    given = set(ctx.params.get("names") or [])
    return [name for name in complete_vm(ctx, args, incomplete) if name not in given]


def complete_command(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """What `exec` may run in the VM that is named already: its builtins and its store's overlays."""
    words = ctx.params.get("argv") or []
    vm = ctx.params.get("vm")
    if not vm or words:
        return []
    complete_vm(ctx, args, "")  # for the runtime root
    return [name for name in _of_vm(vm) if name.startswith(incomplete)]


def complete_overlay(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names in the VM's store."""
    complete_vm(ctx, args, "")
    vm = ctx.params.get("vm")
    return [name for name in _overlays(vm) if name.startswith(incomplete)] if vm else []


def complete_probe(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """The first probe of a trace: its kind, and the functions of the VM that is named already."""
    listing = ctx.params.get("listing")
    kind, colon, function = ("", "", incomplete) if listing else incomplete.rpartition(":")
    if not listing and not colon:
        return [p for p in _PROBES if p.startswith(incomplete)]
    if kind.rpartition(",")[2] not in ("", "entry", "return"):
        return []
    complete_vm(ctx, args, "")  # for the runtime root
    names = _functions(ctx.params["vm"]) if ctx.params.get("vm") else []
    return [f"{kind}{colon}{name}" for name in names if name.startswith(function)]


_PROBES = ("entry:", "return:", "interval:", "BEGIN", "END")


def _functions(vm: str) -> list[str]:
    from overlays.bpf.functions import Functions  # noqa: PLC0415 (only for this)
    from overlays.errors import OverlayError  # noqa: PLC0415

    try:
        info = vms.find(vm).get("/v1/vm", timeout=_PATIENCE_S)
        return Functions(Path(info.get("symbols") or info["kernel"])).names
    except (CtlError, OverlayError, OSError, KeyError, TypeError):
        return []


def _overlays(vm: str) -> list[str]:
    try:
        found = vms.find(vm).get_list("/v1/overlays", timeout=_PATIENCE_S)
        return [str(entry["name"]) for entry in found if entry.get("state") == "available"]
    except (CtlError, OSError, KeyError, TypeError):
        return []


def _of_vm(vm: str) -> list[str]:
    try:
        hello = vms.find(vm).get("/v1/vm", timeout=_PATIENCE_S).get("hello") or {}
        builtins = [str(name) for name in hello.get("builtins", [])]
    except (CtlError, OSError, AttributeError, TypeError):
        builtins = []
    return sorted({*builtins, *_overlays(vm)})


def completion(
    shell: Annotated[
        str | None,
        typer.Argument(metavar="[bash|zsh|fish]", help="The shell; yours if none is given."),
    ] = None,
) -> None:
    """Print what makes a shell complete commands, VMs, overlays and builtins.

    \b
    Examples:
      source <(uioctl completion bash)
      uioctl completion fish > ~/.config/fish/completions/uioctl.fish
    """
    from typer import completion as typers  # noqa: PLC0415 (only this command needs it)

    chosen = shell or os.path.basename(os.environ.get("SHELL", "bash"))
    if chosen not in _SHELLS:
        raise CtlError(
            f"no completion for the shell {chosen!r}", f"there is {', '.join(_SHELLS)}", USAGE
        )
    script = typers.get_completion_script(  # type: ignore[attr-defined]
        prog_name="uioctl", complete_var="_UIOCTL_COMPLETE", shell=chosen
    )
    if chosen == "bash":
        # A probe is one word, which bash would split at its colon.
        script += "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:}"
    sys.stdout.write(script + "\n")
