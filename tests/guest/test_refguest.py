# SPDX-License-Identifier: BSD-3-Clause
"""The reference guest by itself: it boots, its application runs, and the port does what libuio's core expects of it.

Most of it is tested from the inside, by refguest/apps/selftest; here that program is started and believed.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import refguest_vm as refguest

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def selftest() -> Path:
    return refguest.build("selftest", libuio=False)


@pytest.fixture(scope="module")
def count() -> Path:
    return refguest.build("count", libuio=False)


def assert_all_good(output: str) -> None:
    assert "not ok" not in output, output
    summary = re.search(r"selftest: (\d+) run, 0 failed", output)
    assert summary, output
    assert int(summary[1]) >= 20, output
    assert "application exited with status 0" in output


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_everything_works_from_the_inside(selftest: Path, machine: str) -> None:
    with refguest.boot(selftest, machine=machine) as guest:
        assert_all_good(guest.finish())


def test_microvm(selftest: Path) -> None:
    """It has no virtio over PCI, but all else."""
    with refguest.boot(selftest, machine="microvm") as guest:
        assert_all_good(guest.finish())


@pytest.mark.parametrize("memory", ["32M", "1800M", "2100M", "3G"])
def test_any_size_of_memory(selftest: Path, memory: str) -> None:
    with refguest.boot(selftest, memory=memory) as guest:
        assert_all_good(guest.finish())


@pytest.mark.parametrize("cpu", ["qemu64", "max,pku=off", "max,xsave=off"])
def test_poorer_processors(selftest: Path, cpu: str) -> None:
    with refguest.boot(selftest, cpu=cpu) as guest:
        output = guest.finish()
    assert "no PKU" in output
    assert_all_good(output)


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("interface", ["", ",disable-legacy=on", ",disable-modern=on"])
def test_virtio_console_echo(selftest: Path, tmp_path: Path, machine: str, interface: str) -> None:
    path = tmp_path / "channel.sock"
    devices = ["-device", f"virtio-serial-pci,id=uio,max_ports=4{interface}"]
    devices += ["-chardev", f"socket,id=channel,path={path}"]
    devices += ["-device", "virtserialport,bus=uio.0,chardev=channel,name=org.uio.channel"]
    with (
        listening(path) as server,
        refguest.boot(selftest, *devices, machine=machine, command_line="-- console") as guest,
        accept(server) as client,
    ):
        kind = "legacy" if "modern=on" in interface else "modern"
        guest.read_until(f"console driver started, {kind}")
        for piece in (b"a", b"bc" * 1000, bytes(range(256)) * 200):
            client.sendall(piece)
            assert receive(client, len(piece)) == piece
        client.sendall(b"quit\n")
        assert receive(client, 5) == b"quit\n"
        assert "ok console" in guest.finish()


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """QEMU connects to us, so that nobody has to try until it is there."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(refguest.DEADLINE_S)
        server.bind(str(path))
        server.listen(1)
        yield server


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(refguest.DEADLINE_S)
    return connection


def receive(client: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, f"closed after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def test_count_counts(count: Path) -> None:
    with refguest.boot(count, command_line="-- 2") as guest:
        output = guest.finish()
    assert "count: started, step=1\ncount: 0\ncount: 1\n" in output
    assert "application exited with status 0" in output


def test_arguments_and_exit_status(selftest: Path) -> None:
    with refguest.boot(selftest, command_line="kernel=only -- exit '7'") as guest:
        assert "application exited with status 7" in guest.finish()


def test_a_signal_without_a_handler_ends_the_application(selftest: Path) -> None:
    with refguest.boot(selftest, command_line="-- die") as guest:
        assert "application killed by signal 15, status 143" in guest.finish()


def test_the_guest_may_outlive_the_application(selftest: Path) -> None:
    with refguest.boot(selftest, command_line="exit=stay -- exit 3") as guest:
        guest.read_until("application exited with status 3")
        with pytest.raises(subprocess.TimeoutExpired):
            guest.process.wait(timeout=1)


def test_a_crash_is_reported_and_ends_the_machine(selftest: Path) -> None:
    with refguest.boot(selftest, command_line="-- crash") as guest:
        output = guest.finish()
    assert "page fault" in output
    assert "cannot write address 8" in output
    assert re.search(r"rip [0-9a-f]{16}  rsp [0-9a-f]{16}", output)
    where = re.search(r"backtrace: ([0-9a-f]+) ([0-9a-f]+)", output)
    assert where, output
    symbols = subprocess.run(
        ["addr2line", "-f", "-e", selftest, where[1]], capture_output=True, text=True, check=True
    )
    assert symbols.stdout.startswith("main\n")


def test_the_image_is_reproducible(selftest: Path, tmp_path: Path) -> None:
    directory = refguest.ROOT / "refguest"
    command = ["make", "-C", str(directory), "APP=selftest", "LIBUIO=no", f"O={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / selftest.name).read_bytes() == selftest.read_bytes()


def page_tables(selftest: Path, tmp_path: Path, memory: str) -> dict[int, tuple[int, str]]:
    """Address → frame and flags, as the processor sees them while a hundred pages of the arena are mapped."""
    path = tmp_path / "monitor.sock"
    options = ("-chardev", f"socket,id=monitor,path={path}", "-mon", "chardev=monitor")
    with (
        listening(path) as server,
        refguest.boot(selftest, *options, command_line="-- hold", memory=memory) as guest,
        accept(server) as monitor,
    ):
        guest.read_until("selftest: holding")
        monitor.sendall(b"info tlb\n")
        text = ""
        while "info tlb" not in text or not text.endswith("(qemu) "):
            text += monitor.recv(65536).decode()
    rows = re.findall(r"^([0-9a-f]{16}): ([0-9a-f]{16}) ([-XGPDACTUW]{9})", text, re.MULTILINE)
    return {int(page, 16): (int(frame, 16), flags) for page, frame, flags in rows}


@pytest.mark.parametrize("memory", ["64M", "2G"])
def test_write_xor_execute_without_an_alias(selftest: Path, tmp_path: Path, memory: str) -> None:
    pages = page_tables(selftest, tmp_path, memory)
    arena = {page: row for page, row in pages.items() if 0x70000000 <= page < 0x80000000}
    others = {page: row for page, row in pages.items() if page not in arena}
    assert 0 not in pages
    assert len(others) > 20
    # QEMU shows NX as X.
    assert [
        hex(page) for page, (_, flags) in pages.items() if "W" in flags and "X" not in flags
    ] == []
    assert len(arena) == 100
    frames = {frame for frame, _ in arena.values()}
    assert len(frames) == 100
    for page, (frame, flags) in others.items():
        size = 2 << 20 if "P" in flags else 4096
        assert frame == page
        assert not any(frame <= taken < frame + size for taken in frames), hex(page)
