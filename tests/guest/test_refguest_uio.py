# SPDX-License-Identifier: BSD-3-Clause
"""The reference guest with libuio in it, reached by its console alone: scheduling, signals, who outlives whom."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import refguest_vm as refguest

pytestmark = pytest.mark.guest

PROMPT = b"uio> "


class Console:
    """The console port, and the guest behind it."""

    def __init__(self, guest: refguest.Guest, stream: socket.socket) -> None:
        self.guest = guest
        self.stream = stream

    def read_to_prompt(self) -> str:
        text = b""
        while not text.endswith(PROMPT):
            piece = self.stream.recv(65536)
            assert piece, text
            text += piece
        return text.decode()

    def run(self, command: str) -> str:
        self.stream.sendall(command.encode() + b"\n")
        return self.read_to_prompt()


@contextlib.contextmanager
def console(kernel: Path, tmp_path: Path, command_line: str = "") -> Iterator[Console]:
    path = tmp_path / "console.sock"
    devices = ["-device", "virtio-serial-pci,id=uio,max_ports=4"]
    devices += ["-chardev", f"socket,id=console,path={path}"]
    devices += ["-device", "virtserialport,bus=uio.0,chardev=console,name=org.uio.console"]
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(refguest.DEADLINE_S)
        server.bind(str(path))
        server.listen(1)
        with refguest.boot(kernel, *devices, command_line=command_line) as guest:
            stream, _ = server.accept()
            with stream:
                stream.settimeout(refguest.DEADLINE_S)
                guest.read_until(": started")
                shell = Console(guest, stream)
                # Greeting and first prompt may have gone before or come now: an empty line settles it.
                shell.run("")
                yield shell


def test_the_console_answers_although_the_application_never_rests(tmp_path: Path) -> None:
    with console(refguest.build("busy", libuio=True), tmp_path) as shell:
        for _ in range(100):
            shell.run("")
        rounds = re.search(r"busy: (\d+) rounds\n", shell.guest.read_until(" rounds\n"))
        assert rounds
        assert int(rounds[1]) > 0


def test_a_signal_reaches_the_application_while_it_sleeps(tmp_path: Path) -> None:
    with console(refguest.build("count", libuio=True), tmp_path) as shell:
        shell.run("kill -HUP")
        shell.guest.read_until("count: reloaded, step=1")


def test_uio_outlives_the_application(tmp_path: Path) -> None:
    kernel = refguest.build("count", libuio=True)
    with console(kernel, tmp_path, command_line="exit=stay -- 1") as shell:
        shell.guest.read_until("application exited with status 0")
        assert "main" not in shell.run("ps")


def test_a_kernel_without_ebpf_has_all_but_that(tmp_path: Path) -> None:
    found = {}
    for bpf in ("no", "builtin", "module"):
        directory = tmp_path / bpf
        directory.mkdir()
        with console(refguest.build("count", libuio=True, bpf=bpf), directory) as shell:
            # The greeting's prompt may still have been on its way.
            found[bpf] = (shell.run("help") + shell.run("ls guest:/etc") + shell.run("")).split()
    assert "count.conf" in found["no"] and "ls" in found["no"]
    assert "bpf" not in found["no"]
    assert "bpf" in found["builtin"]
    assert "bpf" in found["module"]
