# SPDX-License-Identifier: BSD-3-Clause
"""What isolation costs: gates, interrupts, faults, commands; with the domain, and (no PKU) without."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from bench.guest import ROOT, Channel, guest, kernel_paths
from bench.host import make_store
from bench.measure import Row, in_turns
from console.frames import ExitKind, Feature, Type
from overlays.kernel import Kernel
from overlays.overlay import Overlay

CALLS = 20_000
CPUS = {"domain on": "max", "domain off": "max,pku=off"}
INTERRUPT = "an interrupt while an overlay works, and the echo that it asks for"
TRAP = "a fault: the trap, the record, the clearing up"
INTERRUPTED_MS = 400
PARTS = ("call within the overlay", "call of a kernel function", "20 steps of work")


def measure(quick: bool) -> Iterator[Row]:
    """Two guests side by side, in turns."""
    samples = 10 if quick else 60
    kernel = Kernel.open(kernel_paths()[1])
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name, ExitStack() as stack:
        here = Path(__file__).parent
        store = make_store(
            Path(name), [here / "overlays" / "gates.c", ROOT / "overlays" / "src" / "hello.c"]
        )
        channels: dict[str, Channel] = {}
        for case, cpu in CPUS.items():
            vm = stack.enter_context(guest(cpu=cpu))
            channels[case] = stack.enter_context(closing(vm.channel(kernel)))
            for overlay in map(store.get, ("gates", "hello")):
                image = channels[case].linked(overlay, kernel)
                channels[case].run(overlay.name, "1", digest=overlay.hash, image=image)
        if not channels["domain on"].hello.features & Feature.PKU:
            yield Row("isolation", "domain", "", missing="the guest says it has no PKU domain")
            del channels["domain on"]
        yield from _calls(channels, store.get("gates").hash, samples)
        gates, hello = store.get("gates"), store.get("hello")
        for case, channel in channels.items():
            values = [gap for _ in range(1 if quick else 3) for gap in _gaps(channel, gates.hash)]
            why = "" if values else "nothing interrupted the overlay"
            yield _row(f"{INTERRUPT}, {case}", "us", values, len(channels), why)
        runs: dict[str, Callable[[], object]] = {}
        traps: dict[str, list[float]] = {case: [] for case in channels}
        for case, channel in channels.items():
            runs[f"hello, cached, {case}"] = partial(channel.run, "hello", digest=hello.hash)
            runs[f"a command that is loaded and faults, {case}"] = partial(
                _fault, channel, gates, kernel, traps[case]
            )
        for case, values in in_turns(runs, samples * 3).items():
            yield _row(case, "us", values, len(channels))
        for case, values in traps.items():
            yield _row(f"{TRAP}, {case}", "us", values, len(channels))


def _fault(channel: Channel, gates: Overlay, kernel: Kernel, traps: list[float]) -> None:
    """An image is not kept after a fault, so it is sent each time."""
    image = channel.linked(gates, kernel)
    ended = channel.run("gates", "fault", digest=gates.hash, image=image).exit
    assert ended.kind is ExitKind.FAULT, ended
    # The same without the fault, as the guest's clock has it.
    channel.unload(gates.hash)
    plain = channel.run("gates", "nothing", digest=gates.hash, image=image).exit
    assert plain.kind is ExitKind.OK, plain
    channel.unload(gates.hash)
    traps.append((ended.run_ns - plain.run_ns) / 1000)


def _gaps(channel: Channel, digest: bytes) -> list[float]:
    """Echoes are asked for while an overlay works: for so long each keeps it from its work."""
    ended = threading.Event()
    output = bytearray()
    channel.start("gates", "interrupts", str(INTERRUPTED_MS), digest=digest)

    def ask() -> None:
        while not ended.wait(0.003):
            channel.send(Type.PING, 1)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        while (done := channel.step(output)) is None:
            pass
    finally:
        ended.set()
        asking.join()
    assert done.exit.status == 0, done.exit
    channel.ping(b"last")  # and all answers before it
    return [int(ns) / 1000 for ns in output.split()]


def _calls(channels: dict[str, Channel], digest: bytes, samples: int) -> Iterator[Row]:
    found: dict[str, list[float]] = {f"{part}, {c}": [] for part in PARTS for c in channels}
    for _ in range(samples):
        for case, channel in channels.items():
            numbers = channel.run("gates", str(CALLS), digest=digest).output.split()
            for part, number in zip(PARTS, numbers, strict=True):
                found[f"{part}, {case}"].append(int(number) / CALLS)
    for case, values in found.items():
        yield _row(case, "ns", values, len(channels))


def _row(case: str, unit: str, values: list[float], guests: int, missing: str = "") -> Row:
    off = case.replace("domain on", "domain off")
    against = off if case != off and guests > 1 else None
    return Row("isolation", case, unit, values, against=against, missing=missing)
