# SPDX-License-Identifier: BSD-3-Clause
"""What libuio costs a guest that nobody asks anything: memory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import refguest_vm
import vm

from bench.guest import Guest, guest, symbol
from bench.memory import end_kib
from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

IDLE_KIB = 64
if "KERNEL" in os.environ:  # Unikraft: the rings of legacy devices are of the device's size
    IDLE_KIB += 40


def held(machine: Machine) -> int:
    found = re.search(r"^libuio\s+(\d+) KiB", machine.exec("mem").text, re.M)
    assert found is not None
    return int(found[1])


def test_memory_with_nothing_loaded(tmp_path: Path) -> None:
    """With the host connected on all ports, and after work has come and gone."""
    with vm.machine(vm.prepare(tmp_path, ["hello"])) as machine:
        assert held(machine) <= IDLE_KIB, machine.exec("mem").text
        data = bytes(range(256)) * 4000
        (tmp_path / "host" / "in").write_bytes(data)
        assert machine.exec("cat", "/host/in").stdout == data
        assert machine.exec("cp", "-", "/host/out", stdin=data).code == 0
        assert machine.exec("hello").text == "Hello, world!\n"
        assert machine.exec("unload", "hello").code == 0
        # Buffers that grew under load go one by one, with the quiet traffic that follows.
        for _ in range(16):
            assert machine.exec("ls", "/host").code == 0
        assert held(machine) <= IDLE_KIB, machine.exec("mem").text


def left_kib(machine: Guest, image: Path) -> float:
    """Memory that the kernel has left, by its own counter, where the application is at work and all else idle."""
    counter = symbol(image, "left")
    assert counter is not None
    deadline = time.monotonic() + 60
    while b"rounds" not in machine.log():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return machine.word(counter) * 4 + end_kib(image)


def test_frames_that_the_kernel_has_given(tmp_path: Path) -> None:
    """Against the same application without libuio: buffers, queues, the context and its stack, page tables."""
    if os.environ.get("KERNEL"):
        pytest.skip("needs the reference guest's counter")
    ours, bare = (refguest_vm.build("busy", libuio=libuio) for libuio in (True, False))
    with guest(bare) as machine:
        without = left_kib(machine, bare)
    with guest(ours) as machine:
        taken = without - left_kib(machine, ours)
    assert 0 < taken <= IDLE_KIB
