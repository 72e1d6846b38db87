# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a command goes, from `uioctl` to the overlay and back; and a hundred different overlays in a row.

The parts are differences of medians of measurements taken in turns: the whole process, a request to the daemon from a
process that runs already, the same on the channel without a daemon, an echo there, and the time that the guest says
the command took.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.guest import ROOT, guest, kernel_paths
from bench.host import make_store
from bench.measure import Row, in_turns
from overlays.kernel import Kernel
from uiod.run import Machine

HUNDRED = 100
PARTS = (
    ("process", "uioctl: start, connect, print"),
    ("daemon", "uiod and its socket"),
    ("guest", "libuio: thread, streams, exit"),
    ("overlay", "the overlay itself"),
    ("echo", "QEMU, its socket, interrupts"),
)


def measure(quick: bool) -> Iterator[Row]:
    """The parts, and the hundred."""
    samples = 30 if quick else 100
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name:
        home = Path(name)
        yield from _parts(home, samples)
        yield from _hundred(home)


def _parts(home: Path, samples: int) -> Iterator[Row]:
    image, symbols = kernel_paths()
    (home / "bin").mkdir()
    store = make_store(home / "bin", [ROOT / "overlays" / "src" / "hello.c"])
    config = home / "parts.cfg"
    config.write_text(
        f'[vm]\nkernel = "{image}"\nsymbols = "{symbols}"\nmemory = "64M"\n'
        '[uio]\noverlays = ["bin"]\n[trust]\nkeys = ["bin/key.pub.pem"]\n'
    )
    kernel = Kernel.open(symbols)
    hello = store.get("hello")
    with Machine(config, timeout_s=600) as vm, guest() as bare:
        channel = bare.channel(kernel)
        channel.run("hello", digest=hello.hash, image=channel.linked(hello, kernel))
        uioctl = str(Path(sys.executable).with_name("uioctl"))
        command = [uioctl, "--runtime-dir", str(vm.root), "exec", vm.name, "hello"]
        inside: list[float] = []

        def on_channel() -> None:
            inside.append(channel.run("hello", digest=hello.hash).exit.run_ns / 1000)

        found = in_turns(
            {
                "whole": lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True),
                "api": lambda: vm.exec("hello"),
                "channel": on_channel,
                "echo": channel.ping,
            },
            samples,
        )
        channel.close()
    median = {case: statistics.median(values) for case, values in found.items()}
    run = statistics.median(inside)
    parts = {
        "process": median["whole"] - median["api"],
        "daemon": median["api"] - median["channel"],
        "guest": median["channel"] - median["echo"] - run,
        "overlay": run,
        "echo": median["echo"],
    }
    yield Row("breakdown", "the whole: `uioctl exec VM hello`", "us", found["whole"])
    yield Row("breakdown", "a request to uiod", "us", found["api"])
    yield Row("breakdown", "the same on the channel", "us", found["channel"])
    yield Row("breakdown", "an echo on the channel", "us", found["echo"])
    for part, what in PARTS:
        yield Row("breakdown", f"part: {what}", "us of the whole", [max(0.0, parts[part])])


def _hundred(home: Path) -> Iterator[Row]:
    sources = []
    directory = home / "hundred"
    directory.mkdir()
    for number in range(HUNDRED):
        source = directory / f"each{number}.c"
        source.write_text(
            f'// uio: name = "each{number}"\n// uio: version = "1"\n#include <stdio.h>\n'
            f'int main(void) {{ puts("{number}"); return 0; }}\n'
        )
        sources.append(source)
    store = make_store(directory, sources)
    kernel = Kernel.open(kernel_paths()[1])
    with guest() as vm:
        channel = vm.channel(kernel)
        values = []
        for number in range(HUNDRED):
            overlay = store.get(f"each{number}")

            start = time.perf_counter_ns()
            image = channel.linked(overlay, kernel)
            done = channel.run(overlay.name, digest=overlay.hash, image=image)
            values.append((time.perf_counter_ns() - start) / 1000)
            assert done.output == f"{number}\n".encode()
            channel.unload(overlay.hash)
        channel.close()
    yield Row("breakdown", "a hundred different overlays in a row, each cold", "us", values)


def draw(rows: list[Row], path: Path) -> None:
    """The stacked picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, for the last step only

    parts = [row for row in rows if row.case.startswith("part: ")]
    figure = Figure(figsize=(8, 1.9), layout="constrained")
    axes = figure.add_subplot()
    left = 0.0
    for row, colour in zip(
        parts, ("#8da9c4", "#4878a8", "#e0a458", "#c1554d", "#999999"), strict=True
    ):
        axes.barh(
            0, row.median / 1000, left=left, color=colour, label=row.case.removeprefix("part: ")
        )
        left += row.median / 1000
    axes.set_yticks([])
    axes.set_xlabel("ms of `uioctl exec VM hello`, overlay cached")
    axes.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path.with_suffix(".svg"))
    figure.savefig(path.with_suffix(".png"), dpi=110)
