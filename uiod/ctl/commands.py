# SPDX-License-Identifier: BSD-3-Clause
"""The commands of uioctl: one row each. `--help` reads this table alone; modules are imported when needed."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """`module` is below uiod.ctl; `attribute` is a function for typer, or a typer app (a group of commands)."""

    name: str
    module: str
    attribute: str
    summary: str
    section: str
    plain_arguments: bool = (
        False  # options end at the first word: the rest belongs to somebody else
    )


_VMS, _INSIDE, _WATCH, _OTHER = "VMs", "In the guest", "Watching", "Other"

COMMANDS: tuple[Command, ...] = (
    Command("ps", "vm", "ps", "List the VMs and how they are", _VMS),
    Command("inspect", "vm", "inspect", "Show everything about a VM", _VMS),
    Command("stop", "vm", "stop", "Stop VMs: the guest first, then QEMU", _VMS),
    Command("kill", "vm", "kill", "Kill VMs at once", _VMS),
    Command("pause", "vm", "pause", "Stop VMs' processors", _VMS),
    Command("resume", "vm", "resume", "Let paused VMs go on", _VMS),
    Command("reset", "vm", "reset", "Restart VMs' guests", _VMS),
    Command("wait", "vm", "wait", "Wait until a VM is ready, or stopped", _VMS),
    Command("exec", "exec_command", "exec_", "Run a builtin or an overlay", _INSIDE, True),
    Command("attach", "attach", "attach", "Use the guest's shell (Ctrl-] leaves)", _INSIDE),
    Command("cp", "cp", "cp", "Copy files into and out of a guest", _INSIDE),
    Command("overlay", "overlay", "app", "Build, sign, check, load and unload overlays", _INSIDE),
    Command("bpf", "bpf", "app", "Build, check, run and attach eBPF programs", _INSIDE),
    Command("symbol", "symbol", "symbol", "Look a name or an address of the kernel up", _INSIDE),
    Command("peek", "peek", "peek", "Show a variable of the application, with its type", _INSIDE),
    Command("bt", "bt", "bt", "Show where the guest's threads are", _INSIDE),
    Command("trace", "trace", "trace", "Trace functions of the application", _WATCH),
    Command("logs", "logs", "logs", "Show the serial console's log", _WATCH),
    Command("events", "events", "events", "Show what has happened to a VM", _WATCH),
    Command("stats", "stats", "stats", "Show what VMs use", _WATCH),
    Command("top", "top", "top", "Watch all VMs", _WATCH),
    Command("metrics", "stats", "metrics", "Print a VM's figures for Prometheus", _WATCH),
    Command("completion", "completion", "completion", "Print the completion of a shell", _OTHER),
)

BY_NAME = {command.name: command for command in COMMANDS}
