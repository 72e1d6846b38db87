# SPDX-License-Identifier: BSD-3-Clause
"""What tracing costs a real server in Unikraft, the paper's case: `python -m bench.apps_tracing --redis KERNEL`.

The server's requests a second, and its requests per second of its QEMU's processor time (which other users of the
machine hardly touch), without a program, with one that does nothing, and with ones that count, in turns. Each
connection has many requests on their way, so that the server never waits. The kernels are builds of one's own
(docs/unikraft.md); beside each lies KERNEL.dbg with its symbols. nginx needs `keepalive_requests` above the number of
requests in its configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.measure import Row, factor, save, verdict
from overlays.bpf import asm
from overlays.bpf.functions import Functions
from overlays.bpf.helpers import Kind
from overlays.bpf.model import Object, Program
from overlays.bpf.trace.codegen import compile_trace
from overlays.bpf.trace.dwarf import DwarfTypes
from uiod.ctl.bpf_stream import Stream, Vm
from uiod.ctl.settings import settings
from uiod.run import Machine

SUITE = "apps_tracing"
CONNECTIONS, DEPTH = 8, 16
LOST = 0.31  # of the requests, at most, in the paper: redis with a counting program
GOAL = 1 - 0.3 * LOST
PER_PROCESSOR = "requests per second of QEMU's processor time"


@dataclass(frozen=True)
class Server:
    """How one is started and asked.

    :ivar traced: its function that each request passes. :ivar timed: one that takes the time of a request.
    :ivar by: a program that tells requests apart.
    """

    name: str
    port: int
    arguments: str
    request: Callable[[int], bytes]
    length: Callable[[bytes], int]  # of the first whole answer; 0: not all of it is there
    traced: str
    timed: str
    by: str


def redis_request(number: int) -> bytes:
    """SET and GET in turns."""
    key = b"key:%012d" % (number // 2 % 1000)
    words = [b"SET", key, b"value"] if number % 2 == 0 else [b"GET", key]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def redis_answer(data: bytes) -> int:
    """A status, or a string that is there."""
    line = data.find(b"\r\n") + 2
    if line < 2:
        return 0
    if data.startswith(b"+"):
        return line
    if not data.startswith(b"$") or data.startswith(b"$-"):
        raise ValueError(f"redis answers {data[:60]!r}")
    whole = line + int(data[1 : line - 2]) + 2
    return whole if len(data) >= whole else 0


def http_answer(data: bytes) -> int:
    """A page."""
    head = data.find(b"\r\n\r\n") + 4
    if head < 4:
        return 0
    if not data.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the server answers {data[:60]!r}")
    length = next(
        int(line.split(b":")[1])
        for line in data[:head].split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return head + length if len(data) >= head + length else 0


_ADDRESS = "netdev.ip=10.0.2.15/24:10.0.2.2"
SERVERS = {
    "redis": Server(
        "redis", 6379,
        f'{_ADDRESS} vfs.fstab=[ "none:/:ramfs:::" ] -- --save "" --protected-mode no',
        redis_request, redis_answer,
        "processCommand", "call",
        "entry:call { @[str(args.c->cmd->declared_name)] = count(); }",
    ),
    "nginx": Server(
        "nginx", 80,
        f'{_ADDRESS} vfs.fstab=[ "none:/:ramfs:::" "initrd0:/:extract:::" ] -- -c /nginx/conf/nginx.conf',
        lambda _: b"GET / HTTP/1.1\r\nHost: nginx\r\n\r\n", http_answer,
        "ngx_http_process_request_line", "ngx_http_process_request",
        "entry:ngx_http_process_request { @[str(args.r->method_name.data, 8)] = count(); }",
    ),
}  # fmt: skip


def programs(server: Server, symbols: Path) -> dict[str, Object | None]:
    """What is attached, by what the rows call it."""
    function = server.traced
    types = DwarfTypes(symbols, Functions(symbols).addresses.get)
    texts = {
        "counting": f"entry:{function} {{ @ = count(); }}",
        "counting by command": server.by,
        "histogram of time": f"return:{server.timed} {{ @us = hist(elapsed_us); }}",
    }
    empty = Program("empty", Kind.ENTRY, function, asm.assemble("mov %r0, 0\nexit"))
    return {
        "untraced": None,
        "empty": Object("empty", [], [empty]),
        **{what: compile_trace(text, types=types).object for what, text in texts.items()},
    }


class Load:
    """Connections that stay, each with a number of requests on their way."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.number = server, 0
        self.sockets: list[socket.socket] = []
        for _ in range(CONNECTIONS):  # one by one: QEMU's forward takes no bursts
            self.sockets.append(_connect(server, port))

    def close(self) -> None:
        """All of them."""
        for connection in self.sockets:
            connection.close()

    def run(self, requests: int) -> float:
        """Seconds."""
        batches = requests // (CONNECTIONS * DEPTH)
        begun = time.monotonic()
        for connection in self.sockets:
            self._send(connection)
        for batch in range(batches):
            for connection in self.sockets:
                _answers(self.server, connection, DEPTH)
                if batch + 1 < batches:
                    self._send(connection)
        return time.monotonic() - begun

    def _send(self, connection: socket.socket) -> None:
        requests = range(self.number, self.number + DEPTH)
        connection.sendall(b"".join(map(self.server.request, requests)))
        self.number += DEPTH


def _answers(server: Server, connection: socket.socket, wanted: int) -> None:
    data = b""
    while wanted > 0:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("the server has closed a connection")
        data += piece
        at = 0
        while length := server.length(data[at:]):
            at += length
            wanted -= 1
        data = data[at:]
    if data or wanted:
        raise ValueError(f"{server.name} sends more answers than were asked for")


def _connect(server: Server, port: int) -> socket.socket:
    """Until the server is there, and has answered once."""
    deadline = time.monotonic() + 30
    while True:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(server.request(0))
            _answers(server, connection, 1)
        except (ConnectionError, TimeoutError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    server: Server, kernel: Path, initrd: Path | None
) -> Iterator[tuple[Machine, int, int]]:
    """The VM, its port on this machine, the process of its QEMU."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / f"{server.name}.cfg"
        lines = [
            "[vm]",
            f'kernel = "{kernel}"',
            f'symbols = "{symbols_of(kernel)}"',
            'memory = "128M"',
            f"append = '{server.arguments}'",
            f'initrd = "{initrd}"' if initrd else "",
            "[[net]]",
            'kind = "user"',
            f'forward = ["tcp:127.0.0.1:{port}-:{server.port}"]',
        ]
        config.write_text("\n".join(lines) + "\n")
        with Machine(config, timeout_s=1800) as machine:
            settings.runtime_dir = str(machine.root)
            yield machine, port, int(machine.api.get("/v1/vm")["qemu_pid"])


def symbols_of(kernel: Path) -> Path:
    """The file beside it."""
    return kernel.with_name(kernel.name + ".dbg")


def processor_s(pid: int) -> float:
    """What a process has used, all of its threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure_server(
    server: Server, kernel: Path, initrd: Path | None, *, rounds: int, turns: int
) -> Iterator[Row]:
    """All programs are loaded; attach one, load the server, detach, again and again, in short turns."""
    requests = turns * CONNECTIONS * DEPTH
    cases = programs(server, symbols_of(kernel))
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    per_processor: dict[str, list[float]] = {name: [] for name in cases}
    with contextlib.ExitStack() as stack:
        machine, port, pid = stack.enter_context(running(server, kernel, initrd))
        vm = Vm(machine.name)
        load = stack.enter_context(contextlib.closing(Load(server, port)))
        streams = {
            name: stack.enter_context(Stream(vm.api, program))
            for name, program in cases.items()
            if program is not None
        }
        for number in range(1 + rounds):
            for name in cases if number % 2 else reversed(cases):
                if name in streams:
                    stream = streams[name]
                    stream.attach(vm.places(stream.object))
                load.run(CONNECTIONS * DEPTH)
                before = processor_s(pid)
                speed = requests / load.run(requests)
                served = requests / (processor_s(pid) - before)
                if name in streams:
                    stream.detach()
                if number > 0:  # the first is to get warm
                    speeds[name].append(speed)
                    per_processor[name].append(served)
        for name, stream in streams.items():
            if stream.counts().programs[0][0] < requests * rounds:
                raise RuntimeError(f"{name}: not every request was seen")
    for what, values, goal in (
        (PER_PROCESSOR, per_processor, GOAL),
        ("requests a second", speeds, None),
    ):
        for name in cases:
            traced = name != "untraced"
            yield Row(
                SUITE, f"{server.name}: {what}: {name}", "1/s", values[name], "higher",
                against=f"{server.name}: {what}: untraced" if traced else None,
                goal=goal if name == "counting" else None, paired=traced,
            )  # fmt: skip


def measure(quick: bool) -> Iterator[Row]:
    """Those whose kernels the environment names, as for bench.apps: REDIS, NGINX and NGINX_INITRD."""
    for name, server in SERVERS.items():
        kernel, initrd = os.environ.get(name.upper()), os.environ.get(f"{name.upper()}_INITRD")
        if not kernel:
            missing = f"no kernel: {name.upper()}=… names one"
            yield Row(SUITE, f"{name}: {PER_PROCESSOR}", "1/s", missing=missing)
            continue
        yield from measure_server(
            server, Path(kernel).resolve(), Path(initrd).resolve() if initrd else None,
            rounds=6 if quick else 90, turns=6,
        )  # fmt: skip


def main() -> None:
    """Measure the servers whose kernels are given."""
    parser = argparse.ArgumentParser(prog="python -m bench.apps_tracing", description=__doc__)
    for name in SERVERS:
        parser.add_argument(
            f"--{name}", type=Path, metavar="KERNEL", help="with KERNEL.dbg beside it"
        )
    parser.add_argument("--initrd", type=Path, help="nginx's files")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument(
        "--turns",
        type=int,
        default=16,
        help=f"times {CONNECTIONS * DEPTH} requests of each case in a round",
    )
    parser.add_argument("--out", type=Path, help="add the values to these JSON lines")
    options = parser.parse_args()
    given = {name: kernel for name in SERVERS if (kernel := getattr(options, name))}
    if not given:
        parser.error("no kernel is given")
    for name, kernel in given.items():
        initrd = options.initrd.resolve() if name == "nginx" and options.initrd else None
        rows = list(
            measure_server(
                SERVERS[name], kernel.resolve(), initrd,
                rounds=options.rounds, turns=options.turns,
            )
        )  # fmt: skip
        for row in rows:
            print(report.line(row), flush=True)
            print(comparison(row, {r.case: r for r in rows}), end="", flush=True)
        if options.out:
            save(rows, options.out)


def comparison(row: Row, rows: dict[str, Row]) -> str:
    """How it is to what it is compared with, in words."""
    if row.against is None:
        return ""
    middle, low, high = factor(row, rows[row.against])
    said = verdict(row, rows)
    goal = f", goal {row.goal:.3f}: {said}" if row.goal is not None else ""
    return f"    {middle:.3f} [{low:.3f}, {high:.3f}] of untraced{goal}\n"


if __name__ == "__main__":
    main()
