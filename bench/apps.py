# SPDX-License-Identifier: BSD-3-Clause
"""What uIO costs nginx and redis in Unikraft: requests per second, with libuio and without.

The kernels are built outside this repository (docs/unikraft.md), each application twice, and differ in CONFIG_LIBUIO
alone. The environment names them: NGINX, NGINX_WITHOUT and NGINX_INITRD (the root, with a page `/index.html`), REDIS
and REDIS_WITHOUT; symbols lie beside the kernel, as NAME.dbg.

Both guests run and are asked in short turns; the one that is not asked sleeps. After some turns both are booted anew.
Connections stay and have many requests on their way, so that the server never waits. Requests per second of QEMU's
processor time do not count what else the machine does.

The size of QEMU's TLB, on which their speed depends, is left to chance at boot, and what uIO does may change it
(bench/tlb.py). So there are rows for guests as they are, and rows for guests with TLBs alike, as large as the load
wants them: the difference between those is what libuio itself costs.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.apps_tracing import CONNECTIONS, DEPTH, SERVERS, Load, Server
from bench.guest import DEADLINE_S, ROOT, Channel, Guest, guest
from bench.measure import Row
from bench.tlb import Flusher
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust

BATCHES = 8  # of a turn, each with DEPTH requests on every connection
WARM_UP = 3
FLUSHES = 8  # each after a turn: the TLB doubles as long as it is too small
Rates = tuple[float, float]


@dataclass
class Served:
    """A server that answers on a port of this machine."""

    vm: Guest
    load: Load

    def ask(self) -> Rates:
        """A turn: requests per second, and per second of QEMU's processor time."""
        number = BATCHES * CONNECTIONS * DEPTH
        used = _processor_s(self.vm.process.pid)
        took = self.load.run(number)
        return number / took, number / (_processor_s(self.vm.process.pid) - used)


def measure(quick: bool) -> Iterator[Row]:
    """Idle; commands again and again; counters."""
    for name, server in SERVERS.items():
        names = [name.upper(), f"{name.upper()}_WITHOUT"]
        kernels = [os.environ.get(name) for name in names]
        if not all(kernels):
            yield Row("apps", name, "1/s", missing=f"no kernels in {' and '.join(names)}")
            continue
        yield from _server(server, [Path(str(kernel)) for kernel in kernels], quick)


def _server(server: Server, kernels: Sequence[Path], quick: bool) -> Iterator[Row]:
    """Over several boots, because two boots of one image already differ by up to a tenth."""
    found: dict[str, tuple[list[Rates], list[Rates]]] = {}
    boots = 2 if quick else 8
    for number in range(2 * boots):
        alike = bool(number % 2)
        with ExitStack() as stack:
            both = [stack.enter_context(_served(server, kernel)) for kernel in kernels]
            channel = stack.enter_context(closing(both[0].vm.channel()))
            flushers = [stack.enter_context(closing(Flusher(one.vm))) for one in both if alike]
            for case, asking in _cases(channel, kernels[0]):
                if alike and asking:
                    continue  # which flushes all the time
                for served, flusher in zip(both, flushers, strict=False):
                    _grow(served, flusher)
                what = f"{server.name}, {case}{', TLBs alike' if alike else ''}"
                mine, theirs = found.setdefault(what, ([], []))
                for one, other in _turns(both[0], both[1], asking, 10):
                    mine.append(one)
                    theirs.append(other)
    for case, (mine, theirs) in found.items():
        yield from _compare(case, mine, theirs)


def _cases(channel: Channel, kernel: Path) -> Iterator[tuple[str, Callable[[], object] | None]]:
    """What uIO does meanwhile, again and again. The first overlay switches the isolation domain on, for good."""

    def listing() -> None:
        channel.run("ls", "guest:/")
        time.sleep(0.05)

    yield "idle, nothing loaded yet", None
    yield "`ls` 20 times a second", listing
    store = Store([ROOT / "build" / "overlays"], Trust.load([ROOT / "build" / "keys"], "refuse"))
    perf = store.get("perf")
    image = channel.linked(perf, Kernel.open(Path(f"{kernel}.dbg")))
    count = ("perf", "-i", "100ms", "-n", "1")
    done = channel.run(*count, digest=perf.hash, image=image)
    if done.exit.status != 0:
        raise RuntimeError(f"perf: {done.exit}")
    yield "idle, after an overlay", None
    yield "counters (`perf`) all the time", lambda: channel.run(*count, digest=perf.hash)


def _grow(served: Served, flusher: Flusher) -> None:
    """Give its TLB the size that the load wants."""
    for _ in range(FLUSHES):
        served.ask()
        flusher.flush()


def _turns(
    ours: Served, bare: Served, asking: Callable[[], object] | None, turns: int
) -> Iterator[tuple[Rates, Rates]]:
    for number in range(turns + WARM_UP):
        rates = {}
        # A B, B A: what changes slowly falls on both alike.
        for served in (ours, bare)[:: 1 if number % 2 else -1]:
            with _again(asking if served is ours else None):
                rates[served.vm.process.pid] = served.ask()
        if number >= WARM_UP:
            yield rates[ours.vm.process.pid], rates[bare.vm.process.pid]


def _compare(case: str, mine: Sequence[Rates], theirs: Sequence[Rates]) -> Iterator[Row]:
    for column, unit in enumerate(("requests/s", "requests/s of processor time")):
        of = "processor time" if column else "wall time"
        baseline = f"without libuio, {of} (in turns with: {case})"
        yield Row("apps", baseline, unit, [rates[column] for rates in theirs], "higher")
        yield Row(
            "apps", f"with libuio, {of}: {case}", unit, [rates[column] for rates in mine],
            "higher", baseline, paired=True,
        )  # fmt: skip


@contextmanager
def _served(server: Server, kernel: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = [
        "-append", server.arguments,
        "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:{server.port}",
        "-device", "virtio-net-pci,netdev=n0",
        *(["-initrd", os.environ["NGINX_INITRD"]] if server.name == "nginx" else []),
    ]  # fmt: skip
    with guest(kernel, more, memory="128M") as vm, closing(_ask(server, port)) as load:
        yield Served(vm, load)


def _ask(server: Server, port: int) -> Load:
    """As soon as QEMU listens."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return Load(server, port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _again(call: Callable[[], object] | None) -> Iterator[None]:
    if call is None:
        yield
        return
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            call()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _processor_s(pid: int) -> float:
    """Of all threads, in nanosecond steps."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
