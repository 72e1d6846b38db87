# SPDX-License-Identifier: BSD-3-Clause
"""What a group has used, in one form whichever kernel interface it came from."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pressure:
    """Pressure stall information of one resource: `some` task waited, or all of them (`full`)."""

    some_avg10: float = 0.0
    some_total_usec: int = 0
    full_avg10: float = 0.0
    full_total_usec: int = 0


@dataclass(kw_only=True)
class Usage:
    """A reading; `None` where the machine does not tell."""

    cpu_usec: int | None = None
    throttled_usec: int | None = None
    memory_bytes: int | None = None
    memory_limit: int | None = None
    memory_peak: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    oom_kills: int | None = None
    pressure: dict[str, Pressure] = field(default_factory=dict)


def parse_pressure(text: str) -> Pressure:
    """Read `cpu.pressure` and its like; a kernel's unknown lines and keys are passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        kind, *pairs = line.split() or [""]
        for pair in pairs:
            key, _, value = pair.partition("=")
            found[f"{kind}_{key}"] = float(value)
    return Pressure(
        some_avg10=found.get("some_avg10", 0.0),
        some_total_usec=int(found.get("some_total", 0)),
        full_avg10=found.get("full_avg10", 0.0),
        full_total_usec=int(found.get("full_total", 0)),
    )
