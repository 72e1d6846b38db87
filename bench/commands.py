# SPDX-License-Identifier: BSD-3-Clause
"""Loading and running of one overlay: cold, cached, pushed, pulled; ten thousand times. `loads` has other overlays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.guest import ROOT, Channel, Guest, guest, kernel_paths, symbol
from bench.host import make_store, served
from bench.measure import Row, in_turns, timed
from overlays.kernel import Kernel
from overlays.store import Store


def measure(quick: bool) -> Iterator[Row]:
    """All of it on one guest."""
    samples = 30 if quick else 200
    with (
        tempfile.TemporaryDirectory(prefix="uio-bench-") as name,
        guest() as vm,
    ):
        home = Path(name)
        store = make_store(home, [ROOT / "overlays" / "src" / "hello.c"])
        with served(vm, store, home):
            channel = vm.channel(Kernel.open(kernel_paths()[1]))
            yield from _commands(channel, store, samples)
            yield _many(vm, channel, store, 1000 if quick else 10_000)
            channel.close()


# ---- commands ----


def _commands(channel: Channel, store: Store, samples: int) -> Iterator[Row]:
    kernel = channel.kernel
    assert kernel is not None
    hello = store.get("hello")
    linked = channel.linked(hello, kernel)

    def cached() -> None:
        assert channel.run("hello", digest=hello.hash).exit.status == 0

    def cold() -> float:
        channel.unload(hello.hash)
        return timed(lambda: channel.run("hello", digest=hello.hash, image=linked))

    def cold_and_link() -> float:
        channel.unload(hello.hash)
        return timed(
            lambda: channel.run("hello", digest=hello.hash, image=channel.linked(hello, kernel))
        )

    cold()
    found = in_turns(
        {"echo": channel.ping, "builtin": lambda: channel.run("true"), "cached": cached}, samples
    )
    times = {"cold": [cold() for _ in range(samples)]}
    times["link"] = [cold_and_link() for _ in range(samples)]
    yield Row("commands", "echo on the channel (PING)", "us", found["echo"])
    yield Row("commands", "builtin `true`", "us", found["builtin"])
    yield Row(
        "commands", "hello, cached", "us", found["cached"],
        goal=0.3, reference=916.0, figure="command, overlay cached, `hello`",
    )  # fmt: skip
    yield Row("commands", "hello, cold, image linked before", "us", times["cold"])
    yield Row(
        "commands", "hello, cold: link, send, load, run", "us", times["link"],
        goal=0.2, reference=2620.0, figure="command, overlay cold (load, link, run)",
    )  # fmt: skip
    pulled = []
    for _ in range(samples):
        channel.unload(hello.hash)
        pulled.append(timed(lambda: channel.run("hello")))
    yield Row("commands", "hello, cold, pulled and linked by the guest", "us", pulled)


def _many(vm: Guest, channel: Channel, store: Store, loads: int) -> Row:
    """Load, run, unload: the free frames of the guest's kernel must not become fewer."""
    row = Row(
        "commands", f"memory lost by {loads} loads", "KiB", goal=0.0,
        figure="loads before failure (10 000 without growth)",
        missing="needs the reference guest's counter of free frames",
    )  # fmt: skip
    counter = symbol(kernel_paths()[1], "left")
    assert channel.kernel is not None
    if counter is None or os.environ.get("KERNEL"):
        return row
    hello = store.get("hello")
    image = channel.linked(hello, channel.kernel)
    before = 0
    for number in range(100 + loads):
        if number == 100:
            before = vm.word(counter)
        assert channel.run("hello", digest=hello.hash, image=image).exit.status == 0
        channel.unload(hello.hash)
    row.values, row.missing = [(before - vm.word(counter)) * 4.0], ""
    return row
