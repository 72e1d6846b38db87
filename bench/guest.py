# SPDX-License-Identifier: BSD-3-Clause
"""A guest for measurements, without uiod between: QEMU, and plain blocking clients of its ports.

The kernel is the reference guest, or KERNEL=/path (with KERNEL_DBG=/path); the accelerator is ACCEL (tcg).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from console.frames import (
    FROM_GUEST,
    HEADER,
    Credit,
    Exec,
    ExecFlag,
    Exit,
    Frame,
    Hello,
    Payload,
    Stream,
    SymbolQuery,
    SymbolReply,
    Sync,
    Type,
    encode_items,
    frame,
    header,
)
from overlays.kernel import Kernel
from overlays.link import link
from overlays.overlay import Overlay

ROOT = Path(__file__).parents[1]
PORTS = ("channel", "console", "fs")
CREDIT = 1 << 20
PIECE = 65536
DEADLINE_S = 30.0


def kernel_paths(app: str = "count") -> tuple[Path, Path]:
    """The image to boot and the one with its symbols."""
    given = os.environ.get("KERNEL")
    image = Path(given) if given else ROOT / "build" / "refguest" / f"{app}.elf"
    return image, Path(os.environ.get("KERNEL_DBG", image))


class NotHere(RuntimeError):
    """It cannot be measured with what is given: no failure, but it is said."""


def reference(
    app: str, *, libuio: bool = True, bpf: str = "module", key: Path | None = None
) -> Path:
    """The reference guest's image of an application, built anew if need be; with libuio or without.

    :param bpf: libuio's eBPF: "module" (loaded when it is asked for), "builtin", "no"
    :param key: a public key: the kernel checks the signatures of overlays itself
    :raise NotHere: KERNEL is given, and such an application needs ours
    :raise RuntimeError: it cannot be built
    """
    if os.environ.get("KERNEL"):
        raise NotHere(f"needs the reference guest's `{app}`, and KERNEL is another")
    out = ROOT / "build" / "refguest"
    command = ["make", "-s", "-C", str(ROOT / "refguest"), f"APP={app}", f"O={out}"]
    command += [f"LIBUIO={'yes' if libuio else 'no'}"]
    command += [f"BPF={bpf}"]
    if key is not None:
        command += ["SIGNATURES=yes", f"KEYS={key}", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}`: {made.stderr[-300:]}")
    kind = {"module": "", "builtin": "-bpf", "no": "-nobpf"}[bpf]
    options = f"{kind}{'-signed' if key else ''}" if libuio else "-bare"
    return out / f"{app}{options}.elf"


def symbol(image: Path, name: str) -> int | None:
    """The address of the only symbol of that name."""
    out = subprocess.run(["nm", image], capture_output=True, text=True, check=False).stdout
    found = [line.split()[0] for line in out.splitlines() if line.split()[2:] == [name]]
    return int(found[0], 16) if len(found) == 1 else None


def accelerator() -> str:
    """tcg, unless ACCEL says kvm."""
    return os.environ.get("ACCEL", "tcg")


def qemu_command(
    directory: Path,
    kernel: Path,
    more: Sequence[str] = (),
    *,
    memory: str = "64M",
    cpu: str = "max",
    ports: bool = True,
) -> list[str]:
    """QEMU with the three ports' sockets in that directory (or without), and the serial line in a file."""
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35",
        "-accel", accelerator(),
        "-cpu", cpu.replace("max", "host") if accelerator() == "kvm" else cpu,
        "-m", memory,
        "-serial", f"file:{directory}/serial.log",
        "-kernel", str(kernel),
    ]  # fmt: skip
    if ports:
        command += ["-device", "virtio-serial-pci,id=uio,max_ports=4"]
    for port in PORTS if ports else ():
        command += [
            "-chardev", f"socket,id={port},path={directory}/{port}.sock,server=on,wait=off",
            "-device", f"virtserialport,bus=uio.0,chardev={port},name=org.uio.{port}",
        ]  # fmt: skip
    command += ["-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    return [*command, *(text.replace("@", str(directory)) for text in more)]


@dataclass
class Done:
    """A command's end and what it wrote."""

    exit: Exit
    output: bytes


class Channel:
    """A blocking client of the channel, with as little between as there can be."""

    def __init__(self, path: Path, kernel: Kernel | None = None) -> None:
        self.kernel = kernel
        self._sock = connect(path)
        self._buffer = bytearray()
        self._next = 0
        self._owed = 0  # credit for what the command has written
        self.hello = self._synchronise()

    def close(self) -> None:
        """Leave."""
        self._sock.close()

    def send(self, kind: Type, id: int = 0, arg: int = 0, payload: bytes = b"") -> None:
        """One frame."""
        self._sock.sendall(frame(kind, id, arg, payload))

    def receive(self) -> Frame:
        """The next frame."""
        self._fill(HEADER.size)
        size, kind, id, arg = header(self._buffer, FROM_GUEST)
        self._fill(HEADER.size + size)
        payload = bytes(self._buffer[HEADER.size : HEADER.size + size])
        del self._buffer[: HEADER.size + size]
        return Frame(kind, id, arg, payload)

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            piece = self._sock.recv(1 << 18)
            if not piece:
                raise EOFError("the guest is gone")
            self._buffer += piece

    def _synchronise(self) -> Hello:
        sync = Sync(nonce=int.from_bytes(os.urandom(8), "little"))
        deadline = time.monotonic() + DEADLINE_S
        self._sock.settimeout(0.02)
        while time.monotonic() < deadline:
            try:
                # A guest that boots takes nothing yet, and what waits for it may fill the socket.
                self.send(Type.SYNC, 0, 1, sync.encode())
                got = self.receive()
            except TimeoutError:
                continue
            if got.type is Type.HELLO:
                self._sock.settimeout(DEADLINE_S)
                return Hello.decode(got.payload)
        raise TimeoutError("no HELLO from the guest")

    def ping(self, payload: bytes = b"") -> None:
        """An echo, and nothing else."""
        self.send(Type.PING, 1, 0, payload)
        while (got := self.receive()).type is not Type.PONG or got.payload != payload:
            pass

    def run(self, *argv: str, digest: bytes = b"", image: bytes = b"") -> Done:
        """A command: a builtin or a pulled overlay, or with its hash (and image) a pushed one."""
        self.start(*argv, digest=digest, image=image)
        output = bytearray()
        while (done := self.step(output)) is None:
            pass
        return done

    def start(self, *argv: str, digest: bytes = b"", image: bytes = b"") -> None:
        """Begin one; `step` sees to it until it has ended."""
        self._next += 1
        self._owed = 0
        asked = Exec(
            argv=argv, stdout_credit=CREDIT, stderr_credit=CREDIT, hash=digest or bytes(32)
        )
        flags = ExecFlag.IMAGE if digest else 0
        # At once, as uiod does: the guest is not woken for each.
        frames = [
            frame(Type.IMAGE, self._next, offset, image[offset : offset + PIECE])
            for offset in range(0, len(image), PIECE)
        ]
        self._sock.sendall(b"".join([*frames, frame(Type.EXEC, self._next, flags, asked.encode())]))

    def step(self, output: bytearray) -> Done | None:
        """Deal with the next frame; the command's end, if it was that."""
        got = self.receive()
        if got.type is Type.DATA and got.arg == Stream.STDOUT:
            output += got.payload
            self._owed += len(got.payload)
            if self._owed * 2 >= CREDIT:  # in large pieces, as uiod gives it back
                back = Credit(bytes=self._owed)
                self.send(Type.CREDIT, self._next, Stream.STDOUT, back.encode())
                self._owed = 0
        elif got.type is Type.SYMQ:
            self._symbols(got)
        elif got.type is Type.EXIT:
            return Done(Exit.decode(got.arg, got.payload), bytes(output))
        return None

    def together(self, commands: Sequence[Sequence[str]]) -> list[Done]:
        """Several at once, of little output."""
        ids = range(self._next + 1, self._next + 1 + len(commands))
        outputs = {id: bytearray() for id in ids}
        ended: dict[int, Exit] = {}
        for argv in commands:
            self.start(*argv)
        while len(ended) < len(commands):
            got = self.receive()
            if got.type is Type.DATA and got.arg == Stream.STDOUT:
                outputs[got.id] += got.payload
            elif got.type is Type.SYMQ:
                self._symbols(got)
            elif got.type is Type.EXIT:
                ended[got.id] = Exit.decode(got.arg, got.payload)
        return [Done(ended[id], bytes(outputs[id])) for id in ids]

    def _symbols(self, asked: Frame) -> None:
        assert self.kernel is not None
        names = SymbolQuery.decode(asked.arg, asked.payload).names
        found: list[Payload] = []
        for name in names:
            symbol = self.kernel.for_overlay(name)
            kind = 0 if symbol is None else 1 if symbol.kind == "function" else 2
            address = symbol.address + self.hello.slide if symbol else 0
            found.append(SymbolReply(address=address, size=symbol.size if symbol else 0, type=kind))
        self.send(Type.SYMR, asked.id, len(found), encode_items(found))

    def unload(self, digest: bytes) -> None:
        """Make the guest forget an image."""
        self.send(Type.UNLOAD, 0xFFFF, 0, digest)
        while self.receive().type is not Type.EXIT:
            pass

    def linked(self, overlay: Overlay, kernel: Kernel) -> bytes:
        """An overlay's image for this guest, at the begin of the addresses that the host assigns."""
        return link(overlay, kernel, slide=self.hello.slide, base=self.hello.push_base)


def connect(path: Path) -> socket.socket:
    """A port's socket, as soon as it is there."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return sock


class Monitor:
    """A blocking client of QMP."""

    def __init__(self, path: Path) -> None:
        self._sock = connect(path)
        self._file = self._sock.makefile("rw")
        self.run("qmp_capabilities")

    def run(self, name: str, **arguments: object) -> object:
        """A command's answer, when it has been done.

        :raise RuntimeError: QEMU refuses it
        """
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
        raise EOFError("QEMU is gone")

    def word(self, address: int) -> int:
        """Eight bytes of the guest's memory."""
        said = self.run("human-monitor-command", **{"command-line": f"x /1gx {address}"})
        return int(str(said).split("0x")[1], 16)

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._sock.close()


@dataclass
class Guest:
    """A running QEMU."""

    process: subprocess.Popen[bytes]
    directory: Path
    started: float  # time.monotonic()

    def channel(self, kernel: Kernel | None = None) -> Channel:
        """A session on the channel; the last one has it. With the kernel, the guest may pull overlays."""
        return Channel(self.directory / "channel.sock", kernel)

    def port(self, name: str) -> socket.socket:
        """The raw bytes of a port."""
        return connect(self.directory / f"{name}.sock")

    def monitor(self) -> Monitor:
        """QEMU's own view; one at a time."""
        return Monitor(self.directory / "qmp.sock")

    def word(self, address: int) -> int:
        """Eight bytes of the guest's memory, which it does not notice."""
        with closing(self.monitor()) as monitor:
            return monitor.word(address)

    def log(self) -> bytes:
        """The serial line so far."""
        path = self.directory / "serial.log"
        return path.read_bytes() if path.exists() else b""


@contextmanager
def guest(
    kernel: Path | None = None,
    more: Sequence[str] = (),
    *,
    memory: str = "64M",
    cpu: str = "max",
    ports: bool = True,
) -> Iterator[Guest]:
    """Boot one; it is killed at the end. In `more`, @ stands for its directory."""
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name:
        directory = Path(name)
        command = qemu_command(
            directory, kernel or kernel_paths()[0], more, memory=memory, cpu=cpu, ports=ports
        )
        started = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                yield Guest(process, directory, started)
            finally:
                process.kill()
