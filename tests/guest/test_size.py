# SPDX-License-Identifier: BSD-3-Clause
"""libuio stays small: what of it is in an image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import refguest_vm

from bench.size import bss_kib, core_objects, loaded_kib

pytestmark = pytest.mark.guest

# What there is, rounded up: whoever makes it smaller lowers these. No more than 96 may be.
LIMIT_KIB = 95
BSS_LIMIT_KIB = 12


@pytest.fixture(scope="module")
def objects() -> list[Path]:
    if os.environ.get("KERNEL"):
        pytest.skip("the objects of a prebuilt kernel are not at hand")
    return core_objects(refguest_vm.build("count", libuio=True))


def test_text_and_data_do_not_grow(objects: list[Path]) -> None:
    assert len(objects) > 40  # all of it is there
    assert loaded_kib(objects) <= LIMIT_KIB
    assert bss_kib(objects) <= BSS_LIMIT_KIB


def test_there_are_no_unwind_tables(objects: list[Path]) -> None:
    out = subprocess.run(["size", "-A", *objects], capture_output=True, text=True, check=True)
    assert ".text" in out.stdout
    assert ".eh_frame" not in out.stdout
