# SPDX-License-Identifier: BSD-3-Clause
"""Many VMs, each under its own uiod: start, memory and processor time each, latency, idle and half busy."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.console import machine
from bench.host import make_store
from bench.measure import Row, timed
from bench.memory import pss_mib
from uiod.run import Machine

STEPS = (1, 2, 4, 8, 16, 24)
NEEDED_MIB = 256  # of the machine's memory, for each VM


def measure(quick: bool) -> Iterator[Row]:
    """Start more and more of them."""
    room = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (NEEDED_MIB << 20)
    most = max(1, min(4 if quick else 24, room))
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name, ExitStack() as stack:
        make_store(Path(name), [Path(__file__).parent / "overlays" / "spin.c"])
        vms: list[Machine] = []
        first: dict[str, Row] = {}
        for step in [n for n in STEPS if n <= most]:
            started = []
            while len(vms) < step:
                begun = time.monotonic()
                vms.append(stack.enter_context(machine(Path(name))))
                started.append((time.monotonic() - begun) * 1000)
            for what, unit, values in _figures(vms, started, quick):
                case = f"{what}, {step} VMs"
                row = Row("scale", case, unit, values)
                row.against = first[what].case if what in first else None
                first.setdefault(what, row)
                yield row


def _figures(
    vms: list[Machine], started: list[float], quick: bool
) -> Iterator[tuple[str, str, list[float]]]:
    pids = [(info["pid"], info["qemu_pid"]) for info in (vm.api.get("/v1/vm") for vm in vms)]
    yield "start of one", "ms", started
    yield "uiod's memory, each (PSS)", "MiB", [pss_mib(uiod) for uiod, _ in pids]
    yield "QEMU's memory, each (PSS)", "MiB", [pss_mib(qemu) for _, qemu in pids]
    before, begun = [sum(map(processor_s, pair)) for pair in pids], time.monotonic()
    time.sleep(2 if quick else 5)
    took = time.monotonic() - begun
    yield (
        "processor time while idle, each",
        "ms/s",
        [
            (sum(map(processor_s, pair)) - was) * 1000 / took
            for pair, was in zip(pids, before, strict=True)
        ],
    )
    yield "command, all idle", "us", _latency(vms, max(30, 2 * len(vms)))
    half = vms[: len(vms) // 2]
    if half:
        spin_s = 3.0 if quick else 6.0
        with ThreadPoolExecutor(len(half)) as pool:
            busy = [pool.submit(vm.exec, "spin", str(int(spin_s * 1000))) for vm in half]
            values = _latency(vms[len(half) :], 200, spin_s - 1)
            assert all(done.result().code == 0 for done in busy)
        yield "command in an idle one, half of them busy", "us", values


def _latency(vms: list[Machine], samples: int, limit_s: float = 60.0) -> list[float]:
    """Of a command in one after the other."""
    for vm in vms:
        vm.exec("true")
    values: list[float] = []
    end = time.monotonic() + limit_s
    while len(values) < samples and (not values or time.monotonic() < end):
        vm = vms[len(values) % len(vms)]
        values.append(timed(partial(vm.exec, "true")))
    return values


def processor_s(pid: int) -> float:
    """Of all its threads so far."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total
