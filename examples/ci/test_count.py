# SPDX-License-Identifier: BSD-3-Clause
"""A test-suite of an application in a unikernel: each test gets a VM of its own, `uio_vm_module` shares one.

pytest examples/ci/test_count.py --uio-config examples/count.cfg
"""

from __future__ import annotations

import pytest

from uiod.run import Machine


def test_it_counts(uio_vm_module: Machine) -> None:
    uio_vm_module.expect(r"count: 1\b")


def test_the_counter_can_be_set_while_it_runs(uio_vm_module: Machine) -> None:
    done = uio_vm_module.exec("set_count", "1000")
    assert done.code == 0, done.stderr
    uio_vm_module.expect(r"count: 100\d")


def test_a_signal_reloads_it(uio_vm: Machine) -> None:
    assert uio_vm.exec("kill", "-HUP").code == 0
    uio_vm.expect("count: reloaded")


@pytest.mark.parametrize("name", ["nosuch", "no/such"])
def test_what_is_not_there_is_said_to_be_missing(uio_vm_module: Machine, name: str) -> None:
    assert uio_vm_module.exec(name).code == 127
