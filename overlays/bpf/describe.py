# SPDX-License-Identifier: BSD-3-Clause
"""Programs and maps in words, for people and for --json."""

from __future__ import annotations

from typing import Any

from overlays.bpf import asm
from overlays.bpf.helpers import Kind
from overlays.bpf.model import Object, Program


def attachment(program: Program) -> str:
    """When a program runs, as in its section's name."""
    if program.kind in (Kind.ENTRY, Kind.RETURN):
        return f"{program.kind.name.lower()}:{program.target}"
    if program.kind is Kind.TIMER:
        return f"timer:{period(program.period_ns)}"
    return "exec"


def period(ns: int) -> str:
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        if ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns}ns"


def describe(obj: Object) -> dict[str, Any]:
    return {
        "name": obj.name,
        "size": len(obj.to_wire()),
        "verified": obj.verified,
        "maps": [
            {
                "name": m.name,
                "type": m.type.name.lower().replace("_", " "),
                "key_size": m.key_size,
                "value_size": m.value_size,
                "max_entries": m.max_entries,
                "readonly": m.readonly,
            }
            for m in obj.maps
        ],
        "programs": [
            {
                "name": p.name,
                "attach": attachment(p),
                "instructions": len(p.insns),
                "functions": list(p.functions.values()),
            }
            for p in obj.programs
        ],
    }


def listing(program: Program) -> list[str]:
    """Instructions with the source lines that they come from."""
    lines = []
    last = None
    for pc, text in asm.disassemble(program.insns):
        if pc in program.functions:
            lines.append(f"{program.functions[pc]}:")
        line = program.lines.get(pc)
        if line is not None and line != last:
            lines.append(f"; {line.number}: {line.text}")
            last = line
        lines.append(f"{pc:4}: {text}")
    return lines
