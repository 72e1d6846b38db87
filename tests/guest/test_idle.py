# SPDX-License-Identifier: BSD-3-Clause
"""What libuio costs a guest that nobody asks anything: memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import vm

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
        assert held(machine) <= IDLE_KIB, machine.exec("mem").text
