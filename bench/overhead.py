# SPDX-License-Identifier: BSD-3-Clause
"""What uIO costs an application that never rests (`busy` of the reference guest): rounds per second of processor time.

Two guests run side by side, one of them without libuio; for each line that an application prints, the processor time
that its QEMU has used since the line before. So neither what else the machine does nor the other guest counts.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.guest import ROOT, Guest, guest, reference
from bench.measure import Row
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust


def measure(quick: bool) -> Iterator[Row]:
    """Idle; commands again and again; counters."""
    image, without = reference("busy"), reference("busy", libuio=False)
    kernel = Kernel.open(image)
    store = Store([ROOT / "build" / "overlays"], Trust.load([ROOT / "build" / "keys"], "refuse"))
    seconds = 10 if quick else 40
    with guest(image) as ours, guest(without) as bare:
        channel = ours.channel()
        yield from _compare("idle", ours, bare, seconds, 0.995)
        with _asking(lambda: channel.run("ls", "guest:/etc"), 0.05):
            yield from _compare("`ls` 20 times a second", ours, bare, seconds, None)
        perf = store.get("perf")
        linked = channel.linked(perf, kernel)
        count = ("perf", "-i", "500ms", "-n", "1")
        assert channel.run(*count, digest=perf.hash, image=linked).exit.status == 0
        with _asking(lambda: channel.run(*count, digest=perf.hash), 0.0):
            yield from _compare("counters (`perf`) all the time", ours, bare, seconds, None)


def _compare(
    case: str, ours: Guest, bare: Guest, seconds: int, goal: float | None
) -> Iterator[Row]:
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    watchers = [
        threading.Thread(target=_watch, args=(vm, seconds, found[name]))
        for name, vm in (("ours", ours), ("bare", bare))
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    baseline = f"without libuio (beside: {case})"
    yield Row("overhead", baseline, "1/s", found["bare"], "higher")
    yield Row(
        "overhead", f"with libuio, {case}", "1/s", found["ours"], "higher", baseline,
        goal=goal, figure="idle cost to the application (at most 0.5 %)" if goal else "",
    )  # fmt: skip


def _watch(vm: Guest, seconds: int, into: list[float]) -> None:
    """Rounds per second of QEMU's processor time, a value per line of the application."""
    log = vm.directory / "serial.log"
    at = len(vm.log())
    before: float | None = None
    while len(into) < seconds:
        size = log.stat().st_size
        if size == at:
            time.sleep(0.0005)
            continue
        used = _processor_s(vm.process.pid)
        with log.open("rb") as file:
            file.seek(at)
            line = re.search(rb"busy: (\d+) rounds", file.read())
        at = size
        if line is None:
            continue
        if before is not None and used > before:
            into.append(int(line[1]) / (used - before))
        before = used


def _processor_s(pid: int) -> float:
    """Of all threads, in nanosecond steps."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def _asking(call: Callable[[], object], pause_s: float) -> Iterator[None]:
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(pause_s):
            call()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
