# SPDX-License-Identifier: BSD-3-Clause
"""Bytes: output of commands on both ports, a file over uIO-fs to the channel (`files` has more about files)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.guest import Guest, guest, kernel_paths
from bench.host import make_store, served
from bench.measure import Row
from overlays.kernel import Kernel

HOSE_KIB = 32 * 1024
SMALL = 86 * 1024  # the file of the paper's measurement


def measure(quick: bool) -> Iterator[Row]:
    """All of it on one guest."""
    samples = 5 if quick else 30
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name, guest() as vm:
        home = Path(name)
        overlays = Path(__file__).parent / "overlays"
        store = make_store(home, [overlays / "hose.c"])
        (home / "small").write_bytes(os.urandom(SMALL))
        with served(vm, store, home):
            yield from _output(vm, samples)
            yield from _files(vm, samples)


def _output(vm: Guest, samples: int) -> Iterator[Row]:
    channel = vm.channel(Kernel.open(kernel_paths()[1]))
    values = []
    for _ in range(samples):
        start = time.perf_counter()
        done = channel.run("hose", str(HOSE_KIB))
        assert len(done.output) == HOSE_KIB << 10, done.exit
        values.append(HOSE_KIB / 1024 / (time.perf_counter() - start))
    yield Row("transfer", "output of a command on the channel", "MiB/s", values, "higher")

    port = vm.port("console")
    line = f"hose {HOSE_KIB}\n".encode()
    values = []
    for _ in range(samples):
        start = time.perf_counter()
        port.sendall(line)
        got, end = 0, b""
        while got < HOSE_KIB << 10 or not end.endswith(b"> "):
            piece = port.recv(1 << 18)
            got += len(piece)
            end = (end + piece)[-8:]
        values.append(HOSE_KIB / 1024 / (time.perf_counter() - start))
    port.close()
    channel.close()
    yield Row(
        "transfer", "output of a command on uIO-console", "MiB/s", values, "higher",
        goal=2500.0, reference=0.02, figure="console output (50 MB/s = 2 500 × the paper's)",
    )  # fmt: skip


def _files(vm: Guest, samples: int) -> Iterator[Row]:
    channel = vm.channel(Kernel.open(kernel_paths()[1]))
    values = []
    for _ in range(samples):
        start = time.perf_counter()
        done = channel.run("cat", "/host/small")
        values.append((time.perf_counter() - start) * 1000)
        assert len(done.output) == SMALL
    yield Row(
        "transfer", "`cat` of a file of 86 KB", "ms", values,
        goal=20 / 4200, reference=4200.0, figure="`cat` of an 86 KB file (20 ms)",
    )  # fmt: skip
    channel.close()
