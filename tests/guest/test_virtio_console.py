# SPDX-License-Identifier: BSD-3-Clause
"""libuio's virtio console driver under QEMU: ports in any order, plugged late, bulk data, peers that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import refguest_vm
from hosted.client import CREDIT, DATA, EXIT, LOG, OK, PING, PONG, Client, Frame, frame
from hosted.guest import Console

pytestmark = pytest.mark.guest

NAMES = ("channel", "console", "fs")
PATIENCE_S = 30.0
SLACK = 64 << 10  # what the driver may keep of bulk transfers


def kernel() -> Path:
    given = os.environ.get("KERNEL")
    return Path(given) if given else refguest_vm.build("count", libuio=True)


def chardev(directory: Path, name: str) -> list[str]:
    return ["-chardev", f"socket,id={name},path={directory}/{name}.sock,server=on,wait=off"]


def port(name: str, *, bus: str = "uio.0") -> list[str]:
    return [
        "-device",
        f"virtserialport,bus={bus},chardev={name},id=port-{name},name=org.uio.{name}",
    ]


class Machine:
    """A booted guest with its sockets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def connect(self) -> Client:
        return Client(self.directory / "channel.sock")

    def console(self) -> Console:
        console = Console(self.directory / "console.sock")
        console.until()
        return console

    def memory_used(self, at_most: int | None = None) -> int:
        """Bytes in use once commands of earlier connections have ended, and their threads.

        :param at_most: wait for so little; a leak never gets there
        """
        deadline = time.monotonic() + PATIENCE_S
        with self.connect() as client:
            while True:
                said = client.run("ps").stdout
                words = client.run("mem").stdout.decode().split()
                used = int(words[words.index("bytes") - 1])
                quiet = said.count(b"channel") == said.count(b"uio-exec") == 1
                if quiet and (at_most is None or used <= at_most):
                    return used
                assert time.monotonic() < deadline, (said, used, at_most)

    def qmp(self, execute: str, **arguments: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.directory / "qmp.sock"))
            with sock.makefile("rw") as stream:
                stream.readline()
                for command in (
                    {"execute": "qmp_capabilities"},
                    {"execute": execute, "arguments": arguments},
                ):
                    stream.write(json.dumps(command) + "\n")
                    stream.flush()
                    while "event" in (answer := json.loads(stream.readline())):
                        pass
                return dict(answer)


@contextlib.contextmanager
def booted(device: str, *ports: str) -> Iterator[Machine]:
    # Names of unix sockets are short: pytest's directories are not.
    directory = Path(tempfile.mkdtemp(prefix="uio-vc-"))
    options = ["-device", device]
    for name in NAMES:
        options += chardev(directory, name)
    options += [
        "-chardev",
        "null,id=other",
        "-qmp",
        f"unix:{directory}/qmp.sock,server=on,wait=off",
    ]
    for name in ports:
        options += ["-device", name] if "," in name else port(name)
    try:
        with refguest_vm.boot(kernel(), *options, memory="128M") as guest:
            guest.read_until("\n")  # QEMU listens before the guest can say anything
            yield Machine(directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted("virtio-serial-pci,id=uio,max_ports=4", *NAMES) as machine:
        yield machine


@pytest.mark.parametrize(
    ("device", "ports"),
    [
        ("virtio-serial-pci,id=uio,disable-legacy=on", ("channel", "console", "fs")),
        ("virtio-serial-pci,id=uio", ("fs", "console", "channel")),
        ("virtio-serial-pci,id=uio,max_ports=4", ("console", "channel")),
        ("virtio-serial-pci,id=uio", ("virtserialport,bus=uio.0,chardev=other,name=other", "channel", "console")),
        ("virtio-serial-pci,id=uio", ("channel", "virtserialport,bus=uio.0,nr=4,chardev=console,name=org.uio.console")),
    ],
    ids=["modern", "other order", "fewer", "among others", "port 4"],
)  # fmt: skip
def test_ports_are_found_by_name(device: str, ports: tuple[str, ...]) -> None:
    if os.environ.get("KERNEL") and "disable-legacy" in device:
        pytest.skip("Unikraft drives legacy PCI devices only")
    with booted(device, *ports) as machine:
        with machine.connect() as client:
            assert client.run("echo", "here").stdout == b"here\n"
        console = machine.console()
        assert console.run("echo here") == "here\r\n"
        console.close()


def test_ports_plugged_late_and_pulled() -> None:
    with booted("virtio-serial-pci,id=uio", "channel") as machine, machine.connect() as client:
        assert client.run("true").kind == OK
        late = {
            "driver": "virtserialport",
            "bus": "uio.0",
            "chardev": "console",
            "name": "org.uio.console",
        }
        for _ in range(3):
            # QEMU says that the chardev is in use until the device that is unplugged has gone for good.
            while "error" in (answer := machine.qmp("device_add", id="late", **late)):
                assert "in use" in answer["error"]["desc"] or "Duplicate" in answer["error"]["desc"]
            console = machine.console()
            assert console.run("echo late") == "late\r\n"
            console.send(b"sleep 1000\n")
            assert "return" in machine.qmp("device_del", id="late")
            console.close()
            while b"sleep 1000" in client.run("ps").stdout:
                pass
        assert client.run("echo", "on").stdout == b"on\n"


def echo(client: Client, data: bytes) -> bytes:
    """Through `cat` and back, with both directions full."""
    assert client.hello is not None
    ident, credit, sent, out = client.start("cat"), client.hello.window, 0, bytearray()
    ended = False
    while True:
        while credit and sent < len(data):
            piece = data[sent : sent + min(credit, 32768)]
            client.send(DATA, ident, 0, piece)
            sent += len(piece)
            credit -= len(piece)
        if sent == len(data) and not ended:
            client.send(DATA, ident, 0)
            ended = True
        f = client.receive()
        if f.type == DATA:
            out += f.payload
            client.send(CREDIT, ident, 1, struct.pack("<I", len(f.payload)))
        elif f.type == CREDIT:
            credit += struct.unpack("<I", f.payload)[0]
        elif f.type == EXIT:
            return bytes(out)


def test_bulk_both_ways(machine: Machine) -> None:
    before = machine.memory_used()
    data = random.Random(1).randbytes(6 << 20)
    with machine.connect() as client:
        assert echo(client, data) == data
    machine.memory_used(before + SLACK)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4079, 4080, 4081, 8192, 65535, 65536])
def test_every_size_of_frame(machine: Machine, size: int) -> None:
    with machine.connect() as client:
        payload = random.Random(size).randbytes(size)
        for i in range(5):
            client.send(PING, i, size, payload)
        for i in range(5):
            while (f := client.receive()).type == LOG:
                pass
            assert f == Frame(PONG, i, size, payload)


def write_blob(client: Client, lines: int) -> None:
    """A file of so many times 16 bytes: guest:/tmp/blob."""
    data = b"0123456789abcdef" * lines
    ident = client.start("cp", "-", "guest:/tmp/blob")
    assert client.hello is not None
    room = client.hello.window
    while data:
        if room == 0:
            room += int.from_bytes(client.expect(CREDIT, ident).payload, "little")
        piece = data[: min(room, 30_000)]
        client.send(DATA, ident, 0, piece)
        data, room = data[len(piece) :], room - len(piece)
    client.send(DATA, ident, 0)
    assert client.finish(ident).kind == OK


def test_a_peer_that_does_not_read_holds_up_nobody_else(machine: Machine) -> None:
    console = machine.console()
    with machine.connect() as client:
        write_blob(client, 15_000)
        console.send(b"hexdump guest:/tmp/blob\n")
        for _ in range(50):
            assert client.run("echo", "others").stdout == b"others\n"
    assert console.until().count(b"|0123456789abcdef|\r\n") == 15_000
    console.close()


def test_a_host_that_writes_before_it_reads_is_read(machine: Machine) -> None:
    """Answers to PING wait for room behind the output of a command, but the guest reads on."""
    with machine.connect() as client:
        write_blob(client, 15_000)
        ident = client.start("hexdump", "guest:/tmp/blob", stdout=16 << 20)
        client.expect(DATA, ident)
        # All in all more than sockets and the device's buffers hold.
        more = frame(CREDIT, ident, 1, struct.pack("<I", 1)) * 500
        for i in range(100):
            client.send(PING, i)
            client.raw(more)
        got = [client.receive()]
        while sum(f.type == PONG for f in got) < 100 or all(f.type != EXIT for f in got):
            got.append(client.receive())
        assert [f.id for f in got if f.type == PONG] == list(range(100))
        assert b"".join(f.payload for f in got if f.type == DATA).endswith(b"|0123456789abcdef|\n")


def test_a_thousand_reconnections_leave_nothing(machine: Machine) -> None:
    machine.memory_used()
    before = machine.memory_used()
    for i in range(1000):
        with machine.connect() as client:
            if i % 4 == 0:
                client.start("sleep", "1000")
            elif i % 4 == 1:
                client.send(DATA, client.start("cat"), 0, b"x" * 5000)
            elif i % 4 == 2:
                client.raw(b"\x10\x27\0\0uI\x03\0half a frame")
            else:
                client.send(PING, 1, 1, bytes(30_000))
    machine.memory_used(before + SLACK)


def test_consoles_that_hang_up_in_the_middle(machine: Machine) -> None:
    machine.console().close()
    before = machine.memory_used()
    for i in range(100):
        console = machine.console()
        console.send((b"sleep 1000\n", b"help; help; help\n", b"echo half")[i % 3])
        console.close()
    console = machine.console()
    assert console.run("echo fresh") == "fresh\r\n"
    console.close()
    machine.memory_used(before + SLACK)
