# SPDX-License-Identifier: BSD-3-Clause
"""What runs in the midst of the application leaves its vector registers alone, as the build makes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "guest"))
import refguest_vm

AT_A_HIT = (
    "bpf_attach",
    "bpf_vm",
    "bpf_helpers",
    "bpf_map",
    "bpf_hash",
    "bpf_ring",
    "bpf_print",
    "probe",
)


@pytest.mark.parametrize("name", AT_A_HIT)
def test_no_vector_register_is_touched(name: str) -> None:
    refguest_vm.build("count", libuio=True)
    # In the kernel's image, or in its module.
    objects = list((refguest_vm.OUTPUT / "obj" / "count").glob(f"*/{name}.c.o"))
    assert objects
    for path in objects:
        listing = subprocess.run(
            ["objdump", "-d", path], capture_output=True, text=True, check=True
        ).stdout
        assert "<" in listing
        assert not re.search(r"%[xyz]?mm[0-9]", listing)
