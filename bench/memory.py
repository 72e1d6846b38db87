# SPDX-License-Identifier: BSD-3-Clause
"""Memory: of uiod, QEMU and uioctl, of libuio in the guest, idle and by overlay; beside: no libuio, ssh, a Linux VM."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.console import machine, uioctl_command
from bench.guest import ROOT, Guest, NotHere, guest, reference, symbol
from bench.linux_vm import Shell, linux_vm
from bench.measure import Row
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust


def measure(quick: bool) -> Iterator[Row]:
    """A VM under uiod, the same without libuio, what the guest has taken, and what stands beside."""
    pss, qemu = [], []
    for _ in range(3 if quick else 30):
        with machine() as vm:
            for _ in range(20):
                vm.exec("hello")
            info = vm.api.get("/v1/vm")
            pss.append(pss_mib(info["pid"]))
            qemu.append(pss_mib(info["qemu_pid"]))
    yield Row(
        "memory", "uiod after 20 commands (PSS)", "MiB", pss,
        goal=1.0, reference=32.0, figure="daemon's own memory (PSS, at most 32 MiB)",
    )  # fmt: skip
    yield Row("memory", QEMU, "MiB", qemu, against=BARE)
    yield from _bare(quick)
    yield from _guest(quick)
    yield from _linux(quick)


QEMU = "QEMU of a 64 MiB guest (PSS)"
BARE = "QEMU of the same guest without libuio and ports (PSS)"
LINUX_QEMU = "QEMU of the Linux VM with ssh and agent, 256 MiB guest (PSS)"
CLIENT, SSH_CLIENT = (
    "`uioctl exec VM true` (most that it had resident)",
    "`ssh vm true` (most that it had resident)",
)


def _bare(quick: bool) -> Iterator[Row]:
    try:
        image = reference("count", libuio=False)
    except NotHere as why:
        yield Row("memory", BARE, "MiB", missing=str(why))
        return
    values = []
    for _ in range(3 if quick else 30):
        with guest(image, ports=False) as vm:
            while b"started" not in vm.log():
                time.sleep(0.01)
            values.append(pss_mib(vm.process.pid))
    yield Row("memory", BARE, "MiB", values)


def pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    assert found
    return int(found[1]) / 1024


def _guest(quick: bool) -> Iterator[Row]:
    """Free frames of the same application with and without libuio, read by QEMU from the kernel's counter."""
    row = Row(
        "memory", "frames that libuio has taken, idle", "KiB",
        goal=1.0, reference=64.0, figure="guest memory of uIO, idle (at most 64 KiB)",
    )  # fmt: skip
    try:
        images = [reference("busy"), reference("busy", libuio=False)]
    except NotHere as error:
        row.missing = str(error)
        yield row
        return
    counters = [symbol(image, "left") for image in images]
    loaded: dict[str, list[float]] = {}
    for _ in range(3 if quick else 30):
        free = []
        for image, counter in zip(images, counters, strict=True):
            assert counter is not None
            with guest(image) as vm:
                while vm.log().count(b"rounds") < 1:
                    time.sleep(0.01)
                free.append(vm.word(counter) * 4)
                if image == images[0]:
                    _overlays(vm, image, counter, loaded)
        row.values.append(free[1] - free[0] - (end_kib(images[0]) - end_kib(images[1])))
    yield row
    for name, values in loaded.items():
        yield Row("memory", f"overlay `{name}`, loaded and idle", "KiB", values)


def _overlays(vm: Guest, image: Path, counter: int, into: dict[str, list[float]]) -> None:
    kernel = Kernel.open(image)
    store = Store([ROOT / "build" / "overlays"], Trust.load([ROOT / "build" / "keys"], "refuse"))
    with closing(vm.channel(kernel)) as channel:
        channel.run("true")
        for name in ("hello", "peek", "strings"):
            overlay = store.get(name)
            before = vm.word(counter)
            channel.run(name, digest=overlay.hash, image=channel.linked(overlay, kernel))
            into.setdefault(name, []).append((before - vm.word(counter)) * 4)


def _linux(quick: bool) -> Iterator[Row]:
    """A Linux VM with sshd and agent, of which ten moments are looked at, each with a session of its own."""
    found: dict[str, list[float]] = {}

    def note(case: str, mib: float) -> None:
        found.setdefault(case, []).append(mib)

    try:
        with machine() as daemon:
            uioctl = uioctl_command(daemon, "true")
            for _ in range(1 if quick else 3):
                with linux_vm(memory="256M") as vm, closing(vm.agent()) as agent:
                    for _ in range(3 if quick else 10):
                        agent.run("/bin/true")
                        note(LINUX_QEMU, pss_mib(vm.process.pid))
                        with closing(vm.shell()) as shell:
                            for case, mib in _inside(shell).items():
                                note(case, mib)
                        note(CLIENT, _peak_mib(uioctl))
                        note(SSH_CLIENT, _peak_mib([*vm.ssh, "true"]))
    except (RuntimeError, OSError) as error:
        yield Row("memory", LINUX_QEMU, "MiB", missing=f"{type(error).__name__}: {error}")
        return
    for case, values in found.items():
        against = {CLIENT: SSH_CLIENT}.get(case)
        yield Row("memory", case, "MiB", values, against=against)


def _inside(shell: Shell) -> dict[str, float]:
    """What the Linux guest says of its memory."""
    numbers = dict(re.findall(r"(\w+):\s+(\d+) kB", shell.run("cat /proc/meminfo")))
    found = {
        "the Linux VM: memory in use": (int(numbers["MemTotal"]) - int(numbers["MemAvailable"]))
        / 1024
    }
    for name in ("dropbear", "qemu-ga"):
        said = shell.run(f"for p in $(pidof {name}); do grep ^Pss: /proc/$p/smaps_rollup; done")
        kib = sum(map(int, re.findall(r"Pss:\s+(\d+) kB", said)))
        if kib:
            found[f"the Linux VM: {name} with its sessions (PSS)"] = kib / 1024
    return found


def _peak_mib(command: list[str]) -> float:
    """The most that a command's process had resident, looked at each ms (its rusage begins with ours)."""
    most = 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.M):
                most = max(most, int(found[1]))
            time.sleep(0.001)
    if process.returncode:
        raise RuntimeError(f"{command[0]}: status {process.returncode}")
    return most / 1024


def end_kib(image: Path) -> float:
    """Where the frames begin that an image leaves: what is in the image, .bss too, is not counted here."""
    end = symbol(image, "__image_end")
    assert end is not None
    return end / 1024
