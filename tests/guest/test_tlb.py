# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's TLB, whose size depends on flushes: libuio repairs it in Unikraft, and measurements can flush it."""

from __future__ import annotations

import os
import re
import time
from contextlib import closing

import pytest
import vm

from bench.guest import Guest, guest, symbol
from bench.tlb import Flusher

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

SETTLED = "settled_ns"  # port/unikraft/tlb.c: when it last did something


def flushes(machine: Guest) -> int:
    with closing(machine.monitor()) as monitor:
        said = str(monitor.run("human-monitor-command", **{"command-line": "info jit"}))
    return sum(int(number) for number in re.findall(r"TLB \w+ flushes\s+(\d+)", said))


def test_a_flusher_flushes_and_the_guest_goes_on() -> None:
    with guest(vm.kernel()[0]) as machine, closing(machine.channel()) as channel:
        with closing(Flusher(machine)) as flusher:
            before = flushes(machine)
            for _ in range(3):
                flusher.flush()
            assert flushes(machine) >= before + 3
        channel.ping(b"still there")


@pytest.mark.parametrize("cpu", ["max", "max,tcg-cpuid=off"])
def test_the_tlb_is_repaired_after_commands_where_the_cpu_is_emulated(cpu: str) -> None:
    image, symbols = vm.kernel()
    address = symbol(symbols, SETTLED)
    if not os.environ.get("KERNEL"):
        pytest.skip("needs Unikraft: KERNEL=… names one")
    assert address is not None
    with guest(image, cpu=cpu) as machine, closing(machine.channel()) as channel:
        if cpu != "max":
            for _ in range(3):
                assert channel.run("ls", "guest:/").exit.status == 0
            assert machine.word(address) == 0  # it looks like a real one
            return
        deadline = time.monotonic() + 30
        at_boot = machine.word(address)
        # Not after each of those that come at once.
        while machine.word(address) == at_boot:
            assert time.monotonic() < deadline
            assert channel.run("ls", "guest:/").exit.status == 0
