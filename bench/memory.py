# SPDX-License-Identifier: BSD-3-Clause
"""Memory: of uiod and QEMU on the host, of libuio in the guest, idle and by overlay; of a Linux VM with ssh beside."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.console import machine
from bench.guest import ROOT, Guest, guest, reference, symbol
from bench.linux_vm import linux_vm
from bench.measure import Row
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust


def measure(quick: bool) -> Iterator[Row]:
    """A VM under uiod, and the sizes of images."""
    pss, qemu = [], []
    for _ in range(3 if quick else 10):
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
    yield Row("memory", "QEMU of a 64 MiB guest (PSS)", "MiB", qemu)
    yield from _guest(quick)
    yield from _linux(quick)


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
    except RuntimeError as error:
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
        row.values.append(free[1] - free[0] - (_image(images[0]) - _image(images[1])))
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
    """What stands beside: a Linux VM with sshd and agent."""
    case = "QEMU of the Linux VM with ssh and agent, 256 MiB guest (PSS)"
    used = "memory that the Linux VM itself counts as used"
    values, inside = [], []
    try:
        for _ in range(1 if quick else 3):
            with linux_vm(memory="256M") as vm, closing(vm.shell()) as shell:
                values.append(pss_mib(vm.process.pid))
                numbers = dict(re.findall(r"(\w+):\s+(\d+) kB", shell.run("cat /proc/meminfo")))
                inside.append((int(numbers["MemTotal"]) - int(numbers["MemAvailable"])) / 1024)
    except RuntimeError as error:
        yield Row("memory", case, "MiB", missing=str(error))
        return
    yield Row("memory", case, "MiB", values)
    yield Row("memory", used, "MiB", inside)


def _image(image: Path) -> float:
    """KiB of memory that an image takes up, .bss too."""
    out = subprocess.run(["size", image], capture_output=True, text=True, check=True).stdout
    return sum(int(n) for n in out.splitlines()[1].split()[:3]) / 1024
