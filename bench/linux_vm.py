# SPDX-License-Identifier: BSD-3-Clause
"""What people use without uIO: a Linux VM (Debian's kernel, dropbear, the QEMU guest agent), same accelerator.

Its initramfs is made of the programs of Debian packages on this machine (`make bench` installs them) and their
libraries. ssh comes over QEMU's user networking, the agent over a virtserialport; there is no other network.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.guest import DEADLINE_S, ROOT, accelerator, connect

sys.path.append(str(ROOT / "tests" / "guest"))
from linux_kernel import initramfs, vmlinuz, with_dependencies

HERE = Path(__file__).parent / "linux"
MODULES = [
    "virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "crc32c_generic", "ext4",
    "9p", "9pnet_virtio", "9pnet_fd",
]  # fmt: skip
BOOT_S = 180.0
SHELL_S = 60.0
# Program: the Debian package it comes from.
PROGRAMS = {
    "busybox": "busybox-static",
    "dropbear": "dropbear-bin",
    "qemu-ga": "qemu-guest-agent",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "dropbearkey": "dropbear-bin",
    "mkfs.ext4": "e2fsprogs",
}


def program(name: str) -> str:
    """The path of a peer's program.

    :raise RuntimeError: its package is missing
    """
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise RuntimeError(f"{name} is missing: apt-get install {PROGRAMS[name]}")
    return path


def kernel_version() -> str:
    """Of the kernel it boots; `?` where there is none."""
    try:
        return vmlinuz().name.removeprefix("vmlinuz-")
    except (OSError, AssertionError, StopIteration, subprocess.CalledProcessError):
        return "?"


def _with_libraries(path: str) -> dict[str, bytes]:
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return {p.lstrip("/"): Path(p).read_bytes() for p in [path, *re.findall(r"(/\S+)", linked)]}


def _image(work: Path) -> None:
    """The initramfs, and the keys with which one gets in."""
    keygen = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(work / "key")]
    subprocess.run(keygen, check=True)
    host_key = [program("dropbearkey"), "-t", "ed25519", "-f", str(work / "host_key")]
    subprocess.run(host_key, check=True, capture_output=True)
    fsbench = work / "fsbench"
    subprocess.run(
        ["gcc", "-static", "-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
         "-o", fsbench, HERE / "fsbench.c"],
        check=True,
    )  # fmt: skip
    modules = with_dependencies(MODULES)
    files = {f"modules/{p.name}": p.read_bytes() for p in modules}
    files |= {
        "modules/order": "".join(f"/modules/{p.name}\n" for p in modules).encode(),
        "init": (HERE / "init").read_bytes(),
        "bin/busybox": Path(program("busybox")).read_bytes(),
        "usr/bin/fsbench": fsbench.read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/shells": b"/bin/sh\n",
        "etc/dropbear/host_key": (work / "host_key").read_bytes(),
        "root/.ssh/authorized_keys": (work / "key.pub").read_bytes(),
    }
    for name in ("dropbear", "qemu-ga"):
        files |= _with_libraries(program(name))
    initramfs(work / "initramfs", files)


class Shell:
    """A shell that answers: a local one or, over ssh, one of the guest; with a terminal or without."""

    def __init__(self, command: Sequence[str], *, terminal: bool) -> None:
        self._pty = -1
        if terminal:
            self._pty, end = pty.openpty()
            tty.setraw(self._pty)
            self._process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end)
            os.close(end)
            self._in = self._out = self._pty
        else:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert self._process.stdin and self._process.stdout
            self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()

    def _read(self) -> bytes:
        if not select.select([self._out], [], [], SHELL_S)[0]:
            raise TimeoutError("a shell does not answer")
        piece = os.read(self._out, 65536)
        if not piece:
            raise EOFError("the shell is gone")
        return piece

    def prompt(self) -> None:
        """Read up to it; what follows (busybox asks for the cursor's place) may come with it or later."""
        seen = b""
        while b"# " not in seen:
            seen += self._read()

    def newline(self) -> None:
        """A newline, and the prompt that follows."""
        os.write(self._in, b"\n")
        self.prompt()

    def run(self, command: str) -> str:
        """A command's output.

        :raise RuntimeError: its status is not 0
        """
        os.write(self._in, f"{command}\necho :$?.\n".encode())
        seen = b""
        while not (ended := re.search(rb":(\d+)\.\n\Z", seen)):
            seen += self._read()
        text = seen[: ended.start()].decode(errors="replace")
        if ended[1] != b"0":
            raise RuntimeError(f"`{command}` in the Linux guest: status {int(ended[1])}: {text}")
        return text

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._pty >= 0:
            os.close(self._pty)


class Agent:
    """A client of the QEMU guest agent."""

    def __init__(self, path: Path) -> None:
        self._sock = connect(path)
        self._sock.settimeout(DEADLINE_S)
        self._file = self._sock.makefile("rb")
        token = int.from_bytes(os.urandom(4), "little")
        self._send("guest-sync", {"id": token})
        while json.loads(self._file.readline()).get("return") != token:
            pass

    def _send(self, name: str, arguments: dict[str, object]) -> None:
        self._sock.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")

    def call(self, name: str, **arguments: object) -> dict[str, object]:
        """A command and its answer."""
        self._send(name, arguments)
        answer = json.loads(self._file.readline())
        if "return" not in answer:
            raise RuntimeError(f"{name}: {answer}")
        return dict(answer["return"])

    def run(self, path: str, *arguments: str) -> None:
        """Run a program to its end: the agent has to be asked again and again whether it has come."""
        pid = self.call(
            "guest-exec", path=path, arg=list(arguments), **{"capture-output": True}
        )["pid"]  # fmt: skip
        while not self.call("guest-exec-status", pid=pid)["exited"]:
            pass

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._sock.close()


@dataclass
class LinuxVm:
    """A running one."""

    process: subprocess.Popen[bytes]
    directory: Path
    ssh_port: int
    started: float  # time.monotonic()
    ready_s: float  # from then to init's last word

    @property
    def ssh(self) -> list[str]:
        """The ssh command up to and with the host; nothing of the user's configuration matters."""
        options = (
            "StrictHostKeyChecking=no UserKnownHostsFile=/dev/null LogLevel=ERROR IdentitiesOnly=yes"
            " BatchMode=yes"
        )
        command = [program("ssh"), "-F", "none", "-i", str(self.directory / "key")]
        for option in options.split():
            command += ["-o", option]
        return [*command, "-p", str(self.ssh_port), "root@127.0.0.1"]

    def shell(self) -> Shell:
        """A shell for commands, over ssh."""
        return Shell([*self.ssh, "sh"], terminal=False)

    def terminal(self) -> Shell:
        """A shell with a terminal, as a person has it; at its prompt."""
        command = [*self.ssh]
        shell = Shell([*command[:-1], "-tt", command[-1]], terminal=True)
        shell.prompt()
        return shell

    def agent(self) -> Agent:
        """The guest agent."""
        return Agent(self.directory / "agent.sock")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def linux_vm(more: Sequence[str] = (), *, memory: str = "512M") -> Iterator[LinuxVm]:
    """Boot one; it is killed at the end. In `more`, @ stands for its directory.

    :raise RuntimeError: a package is missing, or it did not boot
    """
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name:
        work = Path(name)
        _image(work)
        port = _free_port()
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35",
            "-accel", accelerator(),
            "-cpu", "host" if accelerator() == "kvm" else "max",
            "-m", memory,
            "-serial", f"file:{work}/serial.log",
            "-kernel", str(vmlinuz()),
            "-initrd", str(work / "initramfs"),
            "-append", "console=ttyS0 quiet panic=-1",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-serial-pci,id=serial",
            "-chardev", f"socket,id=agent,path={work}/agent.sock,server=on,wait=off",
            "-device", "virtserialport,bus=serial.0,chardev=agent,name=org.qemu.guest_agent.0",
            *(text.replace("@", str(work)) for text in more),
        ]  # fmt: skip
        started = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                log = work / "serial.log"
                while not (log.exists() and b"init: ready" in log.read_bytes()):
                    if process.poll() is not None or time.monotonic() > started + BOOT_S:
                        said = log.read_text(errors="replace")[-300:] if log.exists() else ""
                        raise RuntimeError(f"the Linux guest did not boot: {said}")
                    time.sleep(0.01)
                yield LinuxVm(process, work, port, started, time.monotonic() - started)
            finally:
                process.kill()
