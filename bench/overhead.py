# SPDX-License-Identifier: BSD-3-Clause
"""What uIO costs an application that never rests (`busy` of the reference guest), with libuio and without.

Twice: in instructions, which QEMU counts exactly (`-icount`: the guest's clock is their number), and in processor time.
There the two guests take turns of a tenth of a second, one stopped while the other runs, and each turn counts the
application's rounds per second of its QEMU's processor time: so neither the other guest nor what else the machine does
is in the ratio of two turns that follow each other.
"""

from __future__ import annotations

import mmap
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from bench.guest import ROOT, Guest, accelerator, guest, reference, symbol
from bench.measure import Row
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust

FIGURE = "idle cost to the application (at most 0.5 %)"
GOAL = 0.995
SECONDS = 40  # of the guests whose clock are instructions
TURN_S = 0.1
# 4 ns for each instruction, and no waiting for them to pass on the host.
COUNTED = ("-icount", "shift=2,sleep=off")
# Guest memory is a file, from which the counter is read without asking QEMU.
SHARED = (
    "-object", "memory-backend-file,id=ram,size=64M,mem-path=@/ram,share=on",
    "-machine", "memory-backend=ram",
)  # fmt: skip
BATCH = re.compile(rb"busy: (\d+) rounds")


def measure(quick: bool) -> Iterator[Row]:
    """Idle; commands again and again; counters."""
    images = (reference("busy"), reference("busy", libuio=False))
    yield from _instructions(images, 8 if quick else SECONDS)
    yield from _turns(images, quick)


# ---- in instructions ----


def _instructions(images: tuple[Path, Path], seconds: int) -> Iterator[Row]:
    ours, bare = "instructions: with libuio, idle", "instructions: without libuio"
    unit = "rounds per 250 million instructions"
    if accelerator() != "tcg":
        yield Row("overhead", ours, unit, missing="only TCG counts instructions")
        return
    with guest(images[0], COUNTED) as first, guest(images[1], COUNTED) as second:
        found = [_lines(vm, seconds) for vm in (first, second)]
    yield Row("overhead", bare, unit, found[1], "higher")
    yield Row(
        "overhead", ours, unit, found[0], "higher", bare,
        goal=GOAL, figure=f"{FIGURE}: instructions",
    )  # fmt: skip


def _lines(vm: Guest, count: int) -> list[float]:
    """What the application says in each second of its own, but for the first, which has the boot."""
    while len(found := BATCH.findall(vm.log())) <= count:
        if vm.process.poll() is not None:
            raise RuntimeError("QEMU ended")
        time.sleep(0.02)
    return [float(number) for number in found[1 : count + 1]]


# ---- in processor time ----


class Turns:
    """A guest that runs only while it is its turn; its counter is read from its memory, which it shares with us."""

    def __init__(self, vm: Guest, image: Path) -> None:
        self._pid = vm.process.pid
        address = symbol(image, "rounds")
        assert address is not None
        with (vm.directory / "ram").open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = address  # the kernel maps its image where it lies
        os.kill(self._pid, signal.SIGSTOP)

    def _rounds(self) -> int:
        return int.from_bytes(self._memory[self._at : self._at + 8], "little")

    def _stopped(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        tasks = [task / "stat" for task in Path(f"/proc/{self._pid}/task").iterdir()]
        while any(task.read_text().rpartition(")")[2].split()[0] != "T" for task in tasks):
            time.sleep(0.0001)

    def take(self, work: Callable[[], object]) -> float:
        """Rounds per second of processor time while it does the work."""
        used, rounds = _processor_s(self._pid), self._rounds()
        os.kill(self._pid, signal.SIGCONT)
        work()
        self._stopped()
        return (self._rounds() - rounds) / (_processor_s(self._pid) - used)

    def close(self) -> None:
        """Let it go on, so that it can be ended."""
        os.kill(self._pid, signal.SIGCONT)
        self._memory.close()


def _turns(images: tuple[Path, Path], quick: bool) -> Iterator[Row]:
    store = Store([ROOT / "build" / "overlays"], Trust.load([ROOT / "build" / "keys"], "refuse"))
    kernel, perf = Kernel.open(images[0]), store.get("perf")
    with guest(images[0], SHARED) as first, guest(images[1], SHARED) as second:
        for vm in (first, second):
            while not BATCH.search(vm.log()):
                time.sleep(0.01)
        channel = first.channel()
        count = ("perf", "-i", "200ms", "-n", "1")
        image = channel.linked(perf, kernel)
        assert channel.run(*count, digest=perf.hash, image=image).exit.status == 0

        def asking() -> None:
            for _ in range(4):
                channel.run("ls", "guest:/etc")
                time.sleep(0.05)

        def counting() -> None:
            assert channel.run(*count, digest=perf.hash).exit.status == 0

        with closing(Turns(first, images[0])) as ours, closing(Turns(second, images[1])) as bare:
            rest = _rest(TURN_S)
            yield from _compare("idle", ours, bare, rest, rest, 60 if quick else 400)
            rest, turns = _rest(0.2), 15 if quick else 60
            yield from _compare("`ls` 20 times a second", ours, bare, asking, rest, turns)
            yield from _compare("counters (`perf`) all the time", ours, bare, counting, rest, turns)
        channel.close()


def _rest(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def _compare(
    case: str,
    ours: Turns,
    bare: Turns,
    work: Callable[[], None],
    rest: Callable[[], None],
    turns: int,
) -> Iterator[Row]:
    mine, theirs = [], []
    for number in range(turns + 2):
        # A B, B A: what changes slowly falls on both alike.
        if number % 2:
            a, b = ours.take(work), bare.take(rest)
        else:
            b, a = bare.take(rest), ours.take(work)
        if number >= 2:
            mine.append(a)
            theirs.append(b)
    baseline = f"without libuio (in turns with: {case})"
    idle = case == "idle"
    yield Row("overhead", baseline, "rounds/s", theirs, "higher")
    yield Row(
        "overhead", f"with libuio, {case}", "rounds/s", mine, "higher", baseline, paired=True,
        goal=GOAL if idle else None, figure=f"{FIGURE}: processor time" if idle else "",
    )  # fmt: skip


def _processor_s(pid: int) -> float:
    """Of all threads, in nanosecond steps."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
