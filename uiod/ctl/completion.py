# SPDX-License-Identifier: BSD-3-Clause
"""Completion of commands, VMs, overlays and builtins for bash, zsh and fish.

The shells' glue is typer's; the names come from the runtime root and from the VM's own API, quickly or not at all.
"""

from __future__ import annotations

import os
import sys
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
    sys.stdout.write(script + "\n")
