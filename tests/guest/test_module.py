# SPDX-License-Identifier: BSD-3-Clause
"""eBPF as a module: in the guest while it is in use, and only as what the kernel was built with."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import refguest_vm
import vm

from overlays.kernel import MODULE, Kernel
from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

DENIED = 0x20  # of a page fault's error code: a protection key


def needs_module(app: str = "count") -> None:
    kernel = Kernel.open(vm.kernel(app)[1])
    if not kernel.lookup("uio_module_hash"):
        pytest.skip("KERNEL has eBPF in its image, or has none")
    assert kernel.modules, "the image wants a module that the file with its symbols does not have"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    needs_module()
    config = vm.prepare(tmp_path_factory.mktemp("module"), ["set_count"])
    with vm.machine(config, 170) as running:
        yield running


def loaded(guest: Machine) -> int:
    """Bytes of memory that the module takes."""
    match = re.search(r"eBPF (\d+) bytes", guest.exec("mem").text)
    assert match
    return int(match[1])


def until_gone(guest: Machine) -> None:
    deadline = time.monotonic() + 60
    pause = 1.2  # a command within a second keeps it there, and the guest's seconds may be long
    while loaded(guest):
        assert time.monotonic() < deadline, "it stays"
        time.sleep(pause)
        pause *= 2


@contextmanager
def tracing(guest: Machine, expression: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "import sys; from uiod.ctl.main import main; sys.exit(main())"]
    command += ["--runtime-dir", str(guest.root), "trace", guest.name, expression]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("Tracing"), said
            yield process
        finally:
            process.terminate()


def test_it_comes_when_it_is_asked_for_and_goes(guest: Machine) -> None:
    until_gone(guest)
    assert guest.exec("bpf", "ls").text == "missed 0\n"
    assert 32 << 10 <= loaded(guest) <= 64 << 10
    until_gone(guest)


def test_a_session_keeps_it(guest: Machine) -> None:
    with tracing(guest, 'entry:set_count { printf("%d\\n", arg0); }') as process:
        time.sleep(3)  # much longer than it stays without
        assert guest.exec("set_count", "77").code == 0
        assert process.stdout is not None
        assert process.stdout.readline() == "77\n"
        assert loaded(guest)
    until_gone(guest)


def test_loading_it_again_and_again_takes_nothing(guest: Machine) -> None:
    def used() -> int:
        until_gone(guest)
        match = re.search(r"blocks (\d+) bytes", guest.exec("mem").text)
        assert match
        return int(match[1])

    assert guest.exec("bpf", "ls").code == 0
    before = used()
    for _ in range(5):
        assert guest.exec("bpf", "ls").code == 0
        assert used() <= before


def test_commands_at_once_have_one(guest: Machine) -> None:
    until_gone(guest)
    sessions = [vm.Session(guest, "bpf", "ls") for _ in range(8)]
    assert {session.result().text for session in sessions} == {"missed 0\n"}
    assert loaded(guest) <= 64 << 10


def test_it_is_nothing_that_could_be_run(guest: Machine) -> None:
    assert guest.exec("bpf", "ls").code == 0
    done = guest.exec("run", "bpf")
    assert done.code == 127, done
    assert "bpf" not in guest.exec("overlays").text


def with_symbols(directory: Path, symbols: Path) -> Path:
    """A configuration whose symbols, and so its module, are in another file than the kernel."""
    config = vm.prepare(directory)
    text = config.read_text()
    own = f'symbols = "{vm.kernel()[1]}"'
    assert own in text
    config.write_text(text.replace(own, f'symbols = "{symbols}"'))
    return config


def test_another_one_is_refused(guest: Machine, tmp_path: Path) -> None:
    file = bytearray(vm.kernel()[1].read_bytes())
    module = Kernel.open(vm.kernel()[1]).modules["bpf"]
    at = file.index(module)
    file[at + len(module) // 2] ^= 1
    other = tmp_path / "other"
    other.write_bytes(file)
    with vm.machine(with_symbols(tmp_path, other)) as running:
        done = running.exec("bpf", "ls")
        assert done.code == 126
        assert done.message == "bpf: the host's /modules/bpf was not built with this kernel"
        assert loaded(running) == 0
        assert running.exec("uptime").code == 0


def test_a_host_that_has_none_says_where_it_is(guest: Machine, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["objcopy", "-R", f"{MODULE}bpf", str(vm.kernel()[1]), str(bare)], check=True)
    with vm.machine(with_symbols(tmp_path, bare)) as running:
        done = running.exec("bpf", "ls")
        assert done.code == 125
        assert done.message == (
            "bpf: /modules/bpf, where the host has eBPF for this kernel: no such file or directory"
        )
        assert running.exec("uptime").code == 0


def test_overlays_cannot_change_it(tmp_path: Path) -> None:
    needs_module("border")
    hostile = Path(__file__).parent / "hostile" / "hostile.c"
    with (
        vm.machine(vm.prepare(tmp_path, [hostile], app="border"), 170) as running,
        tracing(running, "interval:60s { exit(); }"),
    ):
        size = loaded(running)
        # It was the first to have addresses; its data are its last pages.
        address = running.api.get("/v1/vm")["hello"]["arena_base"] + size - 4096
        done = running.exec("hostile", "other", hex(address))
        assert done.code == 139, done
        fault = done.info["fault"]
        assert fault["kind"] == "write"
        assert fault["address"] == address
        assert fault["error_code"] & DENIED
        assert running.exec("bpf", "ls").code == 0


def test_in_the_image_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way to build it."""
    image = refguest_vm.build("count", libuio=True, bpf="builtin")
    for name in ("KERNEL_APP", "KERNEL_DBG", "KERNEL_VM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERNEL", str(image))
    config = vm.prepare(tmp_path, ["set_count"])
    assert not Kernel.open(image).modules
    with vm.machine(config) as running:
        assert loaded(running) == 0
        with tracing(running, 'return:set_count { printf("%d\\n", arg0); }') as process:
            assert running.exec("set_count", "78").code == 0
            assert process.stdout is not None
            assert process.stdout.readline() == "78\n"
        assert loaded(running) == 0
