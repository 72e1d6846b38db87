# SPDX-License-Identifier: BSD-3-Clause
"""What a call over the border of the domain costs: `python -m bench.gates`, with protection keys and without.

Nanoseconds per call, medians of several runs in the reference guest, next to a call of the overlay's own function.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 7


def measure(cpu: str) -> dict[str, float]:
    """The figures on a CPU of QEMU's: `max` has protection keys, `qemu64` has not."""
    sys.path.insert(0, str(ROOT / "tests" / "guest"))
    import vm  # noqa: PLC0415 - the tests' way to build and boot

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        qemu = home / "qemu"
        qemu.write_text(f'#!/bin/sh\nexec qemu-system-x86_64 "$@" -cpu {cpu}\n')
        qemu.chmod(0o755)
        settings = [f'qemu = "{qemu}"', 'accel = "tcg"']
        config = vm.prepare(home, [ROOT / "bench" / "gate_cost.c"], app="border", vm=settings)
        with vm.machine(config, 120) as guest:
            runs = [json.loads(guest.exec("gate_cost").text) for _ in range(RUNS)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "rounds"}


def main() -> None:
    """Print the table."""
    keys, plain = measure("max"), measure("qemu64")
    print(f"{'ns per call (TCG)':28} {'domain':>9} {'none':>9}")
    for name in keys:
        print(f"{name:28} {keys[name]:9.1f} {plain[name]:9.1f}")


if __name__ == "__main__":
    main()
