# SPDX-License-Identifier: BSD-3-Clause
"""What `uioctl exec` says on standard error when a command did not simply run: not found, refused, faulted."""

from __future__ import annotations

import sys
from typing import Any

from uiod.ctl.errors import printable

_NAME_MAX = 40  # characters of its name in an overlay's fault message

_WITHOUT_MESSAGE = {
    "not-found": "no builtin or overlay of that name",
    "refused": "the overlay was refused",
    "error": "uIO could not run it",
    "fault": "the overlay was stopped",
    "timeout": "the time allowed with --timeout is over",
    "cancelled": "cancelled",
}


def report(info: dict[str, Any], command: str) -> None:
    """Write the exit message's words, and a fault's record."""
    kind = str(info.get("kind", ""))
    message = str(info.get("message") or _WITHOUT_MESSAGE.get(kind, kind))
    if kind == "cancelled" and not info.get("message"):
        return  # whoever pressed Ctrl-C knows
    # The guest's own messages begin with the command's name, cut if it is long; uiod's do not.
    name = command.rpartition("/")[2]
    is_named = message.startswith((f"{name}: ", f"{name[:_NAME_MAX]}: "))
    lines = [f"uioctl: {message}" if is_named else f"uioctl: {command}: {message}"]
    fault = info.get("fault")
    if isinstance(fault, dict):
        lines += fault_lines(fault)
    sys.stderr.write(printable("\n".join(lines) + "\n"))
    sys.stderr.flush()


def fault_lines(fault: dict[str, Any]) -> list[str]:
    """A fault record (`FaultInfo`) in lines: what, where, source line, registers, backtrace."""
    where = str(fault.get("where") or f"{int(fault.get('ip', 0)):#x}")
    if fault.get("source"):
        where += f" ({fault['source']})"
    what = f"  {fault.get('kind', 'fault')} at {where}"
    if fault.get("kind") in ("read", "write", "execute", "protection"):
        near = f" ({fault['what']})" if fault.get("what") else ""
        what += f", address {int(fault.get('address', 0)):#x}{near}"
    lines = [what]
    if fault.get("overlay"):
        lines.append(f"  in overlay {fault['overlay']} {str(fault.get('hash', ''))[:12]}")
    registers = fault.get("registers")
    if isinstance(registers, dict) and registers:
        values = {"rip": fault.get("ip", 0), "rsp": fault.get("sp", 0), **registers}
        cells = [f"{name:>4} {int(value) & (1 << 64) - 1:016x}" for name, value in values.items()]
        lines += ["  " + " ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)]
    trace = fault.get("backtrace")
    if isinstance(trace, list) and trace:
        lines.append("  called from")
        lines += [f"    {entry}" for entry in trace]
    return lines
