# SPDX-License-Identifier: BSD-3-Clause
"""File systems as a guest sees them: uIO-fs, and in a Linux guest our server, QEMU's virtio-9p and ext4 on virtio-blk.

Each way is asked for the same reads, stats, opens and lists, in turns; the Linux guest drops its caches before each.
Linux' client reaches our server over a virtserialport and two relay processes in the guest (bench/linux/fsbench.c says
why); uIO's client needs none. Several requests outstanding are several processes, or commands, at once; a single reader
has what its client reads ahead.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bench.guest import guest, kernel_paths
from bench.host import make_store, serve, served
from bench.linux_vm import linux_vm, program
from bench.measure import Row
from ninep_server import Limits, LocalNode, Policy
from overlays.kernel import Kernel
from overlays.store import Store

MIB = 64
NAMES = 1000
STATS = 50
UIO = "uIO-fs, reference guest"
UIO_64 = f"{UIO}, msize 64 KiB"
UIO_8 = f"{UIO}, msize 8 KiB"
OURS = "our server, Linux guest, msize 512 KiB"
OURS_64 = "our server, Linux guest, msize 64 KiB"
QEMU = "QEMU's virtio-9p, Linux guest, msize 512 KiB"
QEMU_64 = "QEMU's virtio-9p, Linux guest, msize 64 KiB"
QEMU_8 = "QEMU's virtio-9p, Linux guest, msize 8 KiB"
EXT4 = "ext4 on virtio-blk, Linux guest"
AGAINST = {UIO: QEMU, UIO_64: QEMU_64, UIO_8: QEMU_8, OURS: QEMU, OURS_64: QEMU_64}
RELAYED = (OURS, OURS_64)  # slow: asked for some of the works only
# What a message may be long, its header included.
MSIZES = {UIO: 512 << 10, UIO_64: 64 << 10, UIO_8: 8 << 10}
# The reference guest has no client for QEMU's device, and Linux none for a port: each is half of what is asked.
FIGURES = {
    UIO: "file read from uIO-fs, 64 KiB chunks: uIO's client, against QEMU's and Linux' client",
    OURS: "the same in one Linux guest, ours over a port and relays",
}


@dataclass(frozen=True)
class Work:
    """What a way is asked for."""

    name: str
    arguments: str  # of fsbench; @ is the directory
    units: float  # in one run of it
    unit: str
    jobs: int = 1
    relayed: bool = False  # also by the ways that take relays

    def line(self, directory: str) -> str:
        """The arguments for a directory."""
        return self.arguments.replace("@", directory)


def _works(mib: int, count: int) -> list[Work]:
    works = []
    for chunk, jobs in ((65536, 1), (524288, 1), (4096, 1), (65536, 4)):
        line = f"seq @/large {chunk} {mib << 20}"
        name = f"read, {chunk >> 10} KiB{_at_once(jobs)}"
        works.append(Work(name, line, mib, "MiB/s", jobs, (chunk, jobs) == (65536, 1)))
    for chunk, jobs in ((4096, 1), (4096, 4), (4096, 16), (65536, 1), (65536, 4)):
        line = f"random @/large {chunk} {count}"
        name = f"random {chunk >> 10} KiB{_at_once(jobs)}"
        works.append(Work(name, line, count, "1/s", jobs, (chunk, jobs) == (4096, 1)))
    return [
        *works,
        Work("stat", f"stat @/many {STATS}", STATS, "1/s", relayed=True),
        Work("open and close", f"open @/many {STATS}", STATS, "1/s"),
        Work("readdir", "readdir @/many", NAMES, "entries/s", relayed=True),
    ]


def _at_once(jobs: int) -> str:
    return f", {jobs} at once" if jobs > 1 else ""


def measure(quick: bool) -> Iterator[Row]:
    """All ways; uIO's own alone if there is no Linux."""
    rounds, works = 3 if quick else 30, _works(4, 128)
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name, ExitStack() as stack:
        home = Path(name)
        export = home / "export"
        (export / "many").mkdir(parents=True)
        (export / "large").write_bytes(os.urandom(MIB << 20))
        for number in range(NAMES):
            (export / "many" / f"file-{number}").touch()
        store = make_store(home, [Path(__file__).parent / "overlays" / "fsbench.c"])
        ways = {way: _uio(stack, store, export, msize) for way, msize in MSIZES.items()}
        missing = ""
        try:
            ways |= _linux(stack, home, export)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            missing = f"{type(error).__name__}: {error}"
        yield from _compare(ways, works, rounds, missing)


Way = Callable[[Work], float]  # → nanoseconds


def _compare(ways: dict[str, Way], works: list[Work], rounds: int, missing: str) -> Iterator[Row]:
    for work in works:
        chosen = {way: run for way, run in ways.items() if way not in RELAYED or work.relayed}
        found: dict[str, list[float]] = {way: [] for way in chosen}
        for number in range(rounds + 1):
            for way, run in chosen.items():
                ns = run(work)
                if number:
                    found[way].append(work.units / (ns / 1e9))
        for way, values in found.items():
            goal = work.name == "read, 64 KiB" and way in FIGURES
            against = AGAINST.get(way)
            if against is not None and not found.get(against):
                against = None
            yield Row(
                "files", f"{work.name}: {way}", work.unit, values, "higher",
                against=f"{work.name}: {against}" if against else None,
                goal=0.5 if goal else None, figure=FIGURES[way] if goal else "",
            )  # fmt: skip
    if missing:
        yield Row("files", "Linux guest", "", figure=FIGURES[OURS], missing=missing)


def _uio(stack: ExitStack, store: Store, export: Path, msize: int) -> Way:
    vm = stack.enter_context(guest())
    stack.enter_context(served(vm, store, export, Limits(msize=msize)))
    channel = stack.enter_context(closing(vm.channel(Kernel.open(kernel_paths()[1]))))

    def run(work: Work) -> float:
        words = work.line("/host").split()
        if words[0] in ("seq", "random"):
            words[3] = str(int(words[3]) // work.jobs)
            commands = [["fsbench", *words, str(job)] for job in range(work.jobs)]
        else:
            commands = [["fsbench", *words]]
        begun, ended = [], []
        for done in channel.together(commands):
            if done.exit.status != 0:
                raise RuntimeError(f"fsbench {work.name}: {done.exit}")
            took, start = map(float, done.output.split())
            begun.append(start)
            ended.append(start + took)
        return max(ended) - min(begun)

    return run


def _linux(stack: ExitStack, home: Path, export: Path) -> dict[str, Way]:
    disk = home / "disk.img"
    with disk.open("wb") as file:
        file.truncate((MIB + 32) << 20)
    subprocess.run([program("mkfs.ext4"), "-q", "-F", "-d", export, disk], check=True)
    more = [
        "-fsdev", f"local,id=host,path={export},security_model=none,readonly=on",
        "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        "-fsdev", f"local,id=host64,path={export},security_model=none,readonly=on",
        "-device", "virtio-9p-pci,fsdev=host64,mount_tag=host64",
        "-fsdev", f"local,id=host8,path={export},security_model=none,readonly=on",
        "-device", "virtio-9p-pci,fsdev=host8,mount_tag=host8",
        "-drive", f"file={disk},if=none,id=disk,format=raw,cache=writeback",
        "-device", "virtio-blk-pci,drive=disk",
    ]  # fmt: skip
    for port in ("fs0", "fs1"):
        more += [
            "-chardev", f"socket,id={port},path=@/{port}.sock,server=on,wait=off",
            "-device", f"virtserialport,bus=serial.0,chardev={port},name={port}",
        ]  # fmt: skip
    vm = stack.enter_context(linux_vm(more))
    for port in ("fs0", "fs1"):
        root = LocalNode.root(export, Policy(uid=0, gid=0))
        stack.enter_context(serve(vm.directory / f"{port}.sock", root))
    shell = stack.enter_context(closing(vm.shell()))
    options = "ro,trans=virtio,version=9p2000.L,msize="
    shell.run(
        "mkdir -p /mnt/ext4 /mnt/qemu /mnt/qemu64 /mnt/qemu8 && mount -t ext4 -o ro /dev/vda /mnt/ext4"
        f" && mount -t 9p -o {options}524288 host /mnt/qemu"
        f" && mount -t 9p -o {options}65536 host64 /mnt/qemu64"
        f" && mount -t 9p -o {options}8192 host8 /mnt/qemu8"
        " && fsbench mount fs0 /mnt/ours 524288 && fsbench mount fs1 /mnt/ours64 65536"
    )

    def way(directory: str) -> Way:
        def run(work: Work) -> float:
            jobs = f" {work.jobs}" if work.arguments.split()[0] in ("seq", "random") else ""
            return float(shell.run(f"fsbench {work.line(directory)}{jobs}"))

        return run

    where = {
        OURS: "ours", OURS_64: "ours64", QEMU: "qemu", QEMU_64: "qemu64", QEMU_8: "qemu8", EXT4: "ext4"
    }  # fmt: skip
    return {name: way(f"/mnt/{directory}") for name, directory in where.items()}
