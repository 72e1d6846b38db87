# SPDX-License-Identifier: BSD-3-Clause
"""What uIO costs nginx and redis in Unikraft: requests per second, with libuio and without.

The kernels are built outside this repository (docs/unikraft.md), each application twice, and differ in CONFIG_LIBUIO
alone. The environment names them: NGINX, NGINX_WITHOUT and NGINX_INITRD (the root, with a page `/index.html`), REDIS
and REDIS_WITHOUT; each symbol file lies beside its kernel, as NAME.dbg. The clients are wrk and redis-benchmark.

Both guests run, and are asked in turns; the one that is not asked sleeps. Requests per second of its QEMU's processor
time do not count what else the machine does.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.guest import DEADLINE_S, ROOT, Channel, Guest, guest
from bench.measure import Row
from overlays.kernel import Kernel
from overlays.store import Store
from overlays.trust import Trust

CLIENTS = 4  # QEMU's own network accepts connections one by one
ADDRESS = "10.0.2.15/24:10.0.2.2"


@dataclass(frozen=True)
class App:
    """An application, how it is booted and asked.

    :ivar append: its kernel's command line. :ivar port: where it serves. :ivar hello: what it answers to.
    :ivar clients: each kind of load, and its program; `{port}` is where it asks, `{n}` the size of a turn.
    :ivar rate: finds the requests per second in what a client says.
    """

    name: str
    append: str
    port: int
    hello: bytes
    clients: dict[str, str]
    size: tuple[int, int]  # of a turn, of a quick run's
    rate: re.Pattern[str]
    initrd: bool = False


APPS = (
    App(
        "nginx",
        f'netdev.ip={ADDRESS} vfs.fstab=[ "none:/:ramfs:::" "initrd0:/:extract:::" ]'
        " -- -c /nginx/conf/nginx.conf",
        80,
        b"GET / HTTP/1.0\r\n\r\n",
        {"page": f"wrk -t1 -c{CLIENTS} -d{{n}}s http://127.0.0.1:{{port}}/"},
        (2, 1),
        re.compile(r"Requests/sec:\s*([\d.]+)"),
        initrd=True,
    ),
    App(
        "redis",
        f'netdev.ip={ADDRESS} vfs.fstab=[ "none:/:ramfs:::" ] -- --save "" --protected-mode no',
        6379,
        b"PING\r\n",
        {
            kind: f"redis-benchmark -p {{port}} -c {CLIENTS} -n {{n}} -t {kind} --csv"
            for kind in ("set", "get")
        },
        (15000, 5000),
        re.compile(r'"[SG]ET","([\d.]+)"'),
    ),
)


@dataclass
class Served:
    """An application that answers on a port of this machine."""

    app: App
    vm: Guest
    port: int

    def ask(self, kind: str, size: int) -> tuple[float, float]:
        """Requests per second, and per second of QEMU's processor time."""
        command = self.app.clients[kind].format(port=self.port, n=size).split()
        used, start = _processor_s(self.vm.process.pid), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        took, used = time.monotonic() - start, _processor_s(self.vm.process.pid) - used
        found = self.app.rate.search(done.stdout)
        if found is None or re.search(r"Socket errors|Non-2xx", done.stdout):
            raise RuntimeError(f"{command[0]} says: {done.stdout}")
        rate = float(found[1])
        return rate, rate * took / used


def measure(quick: bool) -> Iterator[Row]:
    """Idle; commands again and again; counters."""
    for app in APPS:
        names = [app.name.upper(), f"{app.name.upper()}_WITHOUT"]
        kernels = [os.environ.get(name) for name in names]
        if None in kernels:
            yield Row("apps", app.name, "1/s", missing=f"no kernels in {' and '.join(names)}")
            continue
        yield from _app(app, [Path(str(kernel)) for kernel in kernels], quick)


def _app(app: App, kernels: Sequence[Path], quick: bool) -> Iterator[Row]:
    with ExitStack() as stack:
        ours, bare = (stack.enter_context(_served(app, kernel)) for kernel in kernels)
        channel = ours.vm.channel()
        stack.callback(channel.close)
        for case, asking in _loads(channel, kernels[0]).items():
            for kind in app.clients:
                yield from _compare(case, kind, ours, bare, asking, quick)


def _loads(channel: Channel, kernel: Path) -> dict[str, Callable[[], object] | None]:
    """What uIO does meanwhile, again and again."""
    store = Store([ROOT / "build" / "overlays"], Trust.load([ROOT / "build" / "keys"], "refuse"))
    perf = store.get("perf")
    image = channel.linked(perf, Kernel.open(Path(f"{kernel}.dbg")))
    count = ("perf", "-i", "500ms", "-n", "1")
    done = channel.run(*count, digest=perf.hash, image=image)
    if done.exit.status != 0:
        raise RuntimeError(f"perf: {done.exit}")

    def listing() -> None:
        channel.run("ls", "guest:/")
        time.sleep(0.05)

    return {
        "idle": None,
        "`ls` 20 times a second": listing,
        "counters (`perf`) all the time": lambda: channel.run(*count, digest=perf.hash),
    }


def _compare(
    case: str,
    kind: str,
    ours: Served,
    bare: Served,
    asking: Callable[[], object] | None,
    quick: bool,
) -> Iterator[Row]:
    app, size = ours.app, ours.app.size[quick]
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    for number in range((4 if quick else 16) + 1):
        for name, served in (("ours", ours), ("bare", bare))[:: 1 if number % 2 else -1]:
            with _again(asking if name == "ours" else None):
                rates = served.ask(kind, size)
            if number > 0:
                found[name].append(rates)
    for column, unit in enumerate(("requests/s", "requests/s of processor time")):
        mine, theirs = ([rates[column] for rates in found[name]] for name in ("ours", "bare"))
        what = f"{app.name}, {kind}, {'processor time' if column else 'wall time'}"
        baseline = f"{what}: without libuio (in turns with: {case})"
        yield Row("apps", baseline, unit, theirs, "higher")
        yield Row(
            "apps", f"{what}: with libuio, {case}", unit, mine, "higher", baseline, paired=True
        )


@contextmanager
def _served(app: App, kernel: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = [
        "-append", app.append,
        "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{app.port}",
        "-device", "virtio-net-pci,netdev=n0",
        *(["-initrd", os.environ["NGINX_INITRD"]] if app.initrd else []),
    ]  # fmt: skip
    with guest(kernel, more, memory="128M") as vm:
        deadline = time.monotonic() + DEADLINE_S
        while not _answers(port, app.hello):
            if vm.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{kernel.name} does not serve: {vm.log()[-300:]!r}")
            time.sleep(0.05)
        yield Served(app, vm, port)


def _answers(port: int, hello: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as sock:
            sock.settimeout(2)
            sock.sendall(hello)
            return bool(sock.recv(16))
    except OSError:
        return False


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
