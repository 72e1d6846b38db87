# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's command line for a configuration, in one place; and QEMU as a process that outlives uiod.

QEMU starts with its virtual CPUs stopped (`-S`): uiod connects the ports, the serial log first, and lets the guest run.
The serial port is a socket, not a file, because a file has no bound while nobody watches it, and a pipe that nobody
empties stops the guest. What a guest prints while no uiod runs is lost, and the log says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from uiod.config import Config, Net
from uiod.errors import ExitStatus, UiodError
from uiod.paths import RuntimeDir

PORTS = ("channel", "console", "fs")
SOCKETS = (*PORTS, "serial", "qmp")
OPTIONAL_SOCKETS = ("mount",)


def _quoted(value: str | Path) -> str:
    # QEMU's option lists separate with commas; a doubled one is a comma.
    return str(value).replace(",", ",,")


def _socket(id: str, path: Path) -> str:
    return f"socket,id={id},path={_quoted(path)},server=on,wait=off"


def cpu(accel: str) -> str:
    """The CPU model: all that is there."""
    return "host" if accel == "kvm" else "max"


def sandbox(config: Config) -> str:
    """QEMU's seccomp filter: nothing that a device model needs, unless the bridge helper must be started."""
    helper = any(net.kind == "bridge" for net in config.net)
    elevate, spawn = ("children", "allow") if helper else ("deny", "deny")
    return f"on,obsolete=deny,elevateprivileges={elevate},spawn={spawn},resourcecontrol=deny"


def _netdev(id: str, net: Net) -> str:
    if net.kind == "user":
        return ",".join([f"user,id={id}", *(f"hostfwd={_quoted(rule)}" for rule in net.forward)])
    if net.kind == "tap":
        name = f",ifname={net.ifname}" if net.ifname else ""
        return f"tap,id={id}{name},script=no,downscript=no"
    if net.kind == "bridge":
        return f"bridge,id={id},br={net.bridge}"
    return f"socket,id={id}," + (
        f"connect={net.connect}" if net.connect else f"listen={net.listen}"
    )


def options(config: Config, run: RuntimeDir, accel: str) -> Iterator[tuple[str, ...]]:
    """Option and value, in order."""
    vm = config.vm
    # microvm has no PCI: its virtio devices sit on virtio-mmio.
    bus = "device" if vm.machine == "microvm" else "pci"

    yield "-name", config.name
    yield ("-nodefaults",)
    yield ("-no-user-config",)
    yield "-sandbox", sandbox(config)
    yield "-machine", vm.machine
    yield "-accel", accel
    yield "-cpu", cpu(accel)
    yield "-smp", str(vm.cpus)
    yield "-m", f"{-(-vm.memory // (1 << 20))}M"
    yield "-display", "none"
    yield ("-no-reboot",)  # a guest that resets itself has ended; the restart policy decides
    yield ("-S",)

    yield "-kernel", str(vm.kernel)
    if vm.initrd is not None:
        yield "-initrd", str(vm.initrd)
    if vm.append:
        yield "-append", vm.append

    yield "-chardev", _socket("qmp", run.qmp)
    yield "-mon", "chardev=qmp,mode=control"
    yield "-chardev", _socket("serial", run.port("serial"))
    yield "-serial", "chardev:serial"

    ports = (*PORTS, "mount") if config.uio.mount else PORTS
    # The guest pays for the queues of each; port 0 is for consoles of another kind.
    yield "-device", f"virtio-serial-{bus},id=uio,max_ports={len(ports) + 1}"
    for port in ports:
        yield "-chardev", _socket(port, run.port(port))
        yield "-device", f"virtserialport,bus=uio.0,chardev={port},name=org.uio.{port}"

    for i, share in enumerate(config.share):
        model = {"mapped": "mapped-xattr", "none": "none"}[share.security]
        readonly = ",readonly=on" if share.readonly else ""
        yield (
            "-fsdev",
            f"local,id=share{i},path={_quoted(share.path)},security_model={model},multidevs=remap{readonly}",
        )
        yield "-device", f"virtio-9p-{bus},fsdev=share{i},mount_tag={share.tag}"

    for i, net in enumerate(config.net):
        model = "virtio-net-device" if bus == "device" else net.model
        mac = f",mac={net.mac}" if net.mac else ""
        yield "-netdev", _netdev(f"net{i}", net)
        yield "-device", f"{model},netdev=net{i}{mac}"

    if vm.extra:
        yield tuple(vm.extra)


def command_line(config: Config, run: RuntimeDir, accel: str) -> list[str]:
    """All of it."""
    return [config.vm.qemu, *(word for option in options(config, run, accel) for word in option)]


def find(program: str) -> str:
    """QEMU's full path. :raise UiodError: there is none."""
    found = shutil.which(program)
    if found is None:
        raise UiodError(
            f"QEMU is missing: no program {program!r}",
            "install it (Debian: qemu-system-x86) or set [vm] qemu",
            ExitStatus.QEMU,
        )
    return found


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot: with the pid it names the process for good. None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass
class Process:
    """A running QEMU: started by this uiod, or by one before it."""

    pid: int
    started: int
    pidfd: int
    child: subprocess.Popen[bytes] | None  # None: adopted

    @classmethod
    def spawn(cls, argv: Sequence[str], log: Path) -> Process:
        """Start it in a session of its own, so that what ends uiod does not end it.

        :raise UiodError: it cannot be executed.
        """
        program = find(argv[0])
        with log.open("wb") as output:
            try:
                child = subprocess.Popen(
                    [program, *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    umask=0o077,
                )
            except OSError as error:
                raise UiodError(
                    f"QEMU cannot be started: {program}: {error.strerror}",
                    "see [vm] qemu",
                    ExitStatus.QEMU,
                ) from None
        pidfd = os.pidfd_open(child.pid)
        return cls(child.pid, start_time(child.pid) or 0, pidfd, child)

    @classmethod
    def adopt(cls, pid: int, started: int) -> Process | None:
        """The process of that pid if it is still the one that started then."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        # Looked at after the descriptor is open: from here on it names this very process.
        if start_time(pid) != started:
            os.close(pidfd)
            return None
        return cls(pid, started, pidfd, None)

    async def wait(self) -> int | None:
        """Until it has ended: its status, negative for a signal; None of an adopted one, whose status is not ours."""
        # A descriptor of its own, because trio lets one task wait for each.
        own = os.dup(self.pidfd)
        try:
            await trio.lowlevel.wait_readable(own)
        finally:
            os.close(own)
        return self.child.wait() if self.child is not None else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended is let be."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Forget it."""
        with contextlib.suppress(OSError):
            os.close(self.pidfd)
        self.pidfd = -1


def complaint(log: Path, limit: int = 2000) -> str:
    """What QEMU last said, in one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - limit))
            text = file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
    return " · ".join(line.strip() for line in text.splitlines() if line.strip())
