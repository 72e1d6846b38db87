# SPDX-License-Identifier: BSD-3-Clause
"""pytest plugin: the fixture `uio_vm`, a VM that is booted for a test and gone after it.

@pytest.mark.uio(config="examples/count.cfg", timeout=60)
def test_it(uio_vm):
    assert uio_vm.exec("ls", "/bin").code == 0
    uio_vm.expect("listening")

Without the marker's `config` it is the ini setting `uio_config` or the option --uio-config. `uio_vm_module` is the
same, shared by the tests of a module (with the option's configuration, or the marker on the module).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from uiod.run import Machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """--uio-config and --uio-timeout."""
    group = parser.getgroup("uio", "unikernels in uIO's VMs")
    group.addoption(
        "--uio-config", metavar="CFG", help="configuration of the VM for the fixture uio_vm"
    )
    group.addoption(
        "--uio-timeout",
        metavar="SECONDS",
        type=float,
        help="for a VM, from boot to the test's end; default 60",
    )
    parser.addini("uio_config", "configuration of the VM for the fixture uio_vm")
    parser.addini("uio_timeout", "seconds for a VM, from boot to the test's end", default="60")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "uio(config, timeout): configuration and deadline of the VM of the fixture uio_vm",
    )


def _machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    from uiod.run import Machine, RunError  # noqa: PLC0415 (only where a VM is wanted)

    marker = request.node.get_closest_marker("uio")
    given: dict[str, Any] = dict(marker.kwargs) if marker else {}
    if marker and marker.args:
        given.setdefault("config", marker.args[0])
    config = given.get("config") or request.config.getoption("--uio-config")
    base = request.config.invocation_params.dir
    if config is None and (config := request.config.getini("uio_config")):
        base = request.config.rootpath
    if not config:
        pytest.fail(
            "which VM? give --uio-config, uio_config in pytest's ini, or @pytest.mark.uio(config=…)"
        )
    path = Path(config)
    if not path.is_absolute():
        candidates = [request.path.parent / path, base / path, request.config.rootpath / path]
        path = next((candidate for candidate in candidates if candidate.exists()), path)
    timeout = given.get("timeout") or request.config.getoption("--uio-timeout")
    machine = Machine(path, timeout_s=float(timeout or request.config.getini("uio_timeout")))
    try:
        try:
            machine.start()
        except RunError as error:
            pytest.fail(f"the VM did not start: {error}", pytrace=False)
        yield machine
    finally:
        machine.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The serial log into the report of a test that failed."""
    report = yield
    if call.when == "call" and report.failed:
        for name in ("uio_vm", "uio_vm_module"):
            machine = getattr(item, "funcargs", {}).get(name)
            if machine is not None:
                with contextlib.suppress(
                    Exception
                ):  # the VM may be in any state: this is only a help
                    log = machine.log().decode(errors="replace")
                    report.sections.append((f"serial log of {machine.name}", log[-20_000:]))
    return report


@pytest.fixture
def uio_vm(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A VM, booted and ready: `exec`, `expect`, `log`, `api` (see uiod.run.Machine)."""
    yield from _machine(request)


@pytest.fixture(scope="module")
def uio_vm_module(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """As `uio_vm`, one for all tests of a module."""
    yield from _machine(request)
