# SPDX-License-Identifier: BSD-3-Clause
"""Cold loads by size and by number of imports: pushed and pulled, with and without isolation and signature check.

Each case is unloaded and run again, in all ways in turns. Pushed: linked on the host and sent with the command. Pulled:
the guest reads the signed object over uIO-fs, asks for the addresses of its imports, and links it; a kernel built with
keys checks the signature, too (such a one takes nothing that the host has linked).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from bench.guest import Channel, Guest, NotHere, guest, kernel_paths, reference
from bench.host import KEY, bench_key, make_store, served
from bench.measure import Row
from console.frames import Feature
from overlays.kernel import Kernel
from overlays.overlay import Overlay
from overlays.store import Store

SIZES_KIB = (1, 16, 128, 1024)
IMPORTS = (1, 10, 100, 1000)
PUSH, PULL = "pushed", "pulled"
SIGNED = f"{PULL}, domain on, signature checked in the guest"
# Way: the one that it is compared with.
AGAINST = {
    f"{PUSH}, domain on": f"{PUSH}, domain off",
    f"{PULL}, domain on": f"{PULL}, domain off",
    f"{PULL}, domain off": f"{PUSH}, domain off",
    SIGNED: f"{PULL}, domain on",
}
NO_DOMAIN = "max,pku=off"


@dataclass
class Times:
    """Microseconds of one load each: all of it, linking on the host, running in the guest."""

    whole: list[float] = field(default_factory=list)
    link: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)


def measure(quick: bool) -> Iterator[Row]:
    """Three guests side by side; only one works at a time."""
    samples = 5 if quick else 30
    image, symbols = _kernel()
    kernel = Kernel.open(symbols)
    names, cases = _names(kernel), {}
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as directory, ExitStack() as stack:
        home = Path(directory)
        for count in SIZES_KIB:
            cases[f"{count} KiB"] = _of_size(home, count)
        for count in IMPORTS:
            if count <= len(names):
                cases[f"{count} imports"] = _importing(home, names[:count])
            else:
                why = f"the kernel has {len(names)} functions for overlays"
                yield Row("loads", f"{count} imports", "us", missing=why)
        trusted = bench_key()
        store = make_store(home, cases.values(), ["-fno-builtin", "-w"], key=KEY)
        ways: dict[str, Callable[[Overlay, Times], None]] = {}
        missing = {}
        for what, cpu in (("domain on", "max"), ("domain off", NO_DOMAIN)):
            channel = _open(stack, stack.enter_context(guest(image, cpu=cpu)), kernel, store, home)
            if what == "domain on" and not channel.hello.features & Feature.PKU:
                missing[what] = "the guest says it has no domain"
                continue
            ways[f"{PUSH}, {what}"] = _pushing(channel, kernel)
            ways[f"{PULL}, {what}"] = _pulling(channel)
        try:
            checking = reference("exports", key=trusted)
            vm = stack.enter_context(guest(checking))
            ways[SIGNED] = _pulling(_open(stack, vm, Kernel.open(checking), store, home))
        except RuntimeError as error:
            missing[SIGNED] = str(error)
        for case, source in cases.items():
            yield from _compare(case, store.get(source.stem), ways, samples)
        for what, why in missing.items():
            yield Row("loads", what, "us", missing=why)


def _kernel() -> tuple[Path, Path]:
    try:
        image = reference("exports")
    except NotHere:  # another kernel is given
        return kernel_paths()
    return image, image


def _open(stack: ExitStack, vm: Guest, kernel: Kernel, store: Store, home: Path) -> Channel:
    stack.enter_context(served(vm, store, home))
    return stack.enter_context(closing(vm.channel(kernel)))


def _pushing(channel: Channel, kernel: Kernel) -> Callable[[Overlay, Times], None]:
    def push(overlay: Overlay, times: Times) -> None:
        channel.unload(overlay.hash)
        begun = time.perf_counter_ns()
        image = channel.linked(overlay, kernel)
        linked = time.perf_counter_ns()
        done = channel.run(overlay.name, digest=overlay.hash, image=image)
        ended = time.perf_counter_ns()
        assert done.exit.status == 0, done.exit
        times.whole.append((ended - begun) / 1000)
        times.link.append((linked - begun) / 1000)
        times.run.append(done.exit.run_ns / 1000)

    return push


def _pulling(channel: Channel) -> Callable[[Overlay, Times], None]:
    def pull(overlay: Overlay, times: Times) -> None:
        channel.unload(overlay.hash)
        begun = time.perf_counter_ns()
        done = channel.run(overlay.name)
        ended = time.perf_counter_ns()
        assert done.exit.status == 0, done.exit
        times.whole.append((ended - begun) / 1000)
        times.run.append(done.exit.run_ns / 1000)

    return pull


def _compare(
    case: str, overlay: Overlay, ways: dict[str, Callable[[Overlay, Times], None]], samples: int
) -> Iterator[Row]:
    found = {way: Times() for way in ways}
    for number in range(samples + 1):
        for way, load in ways.items():
            load(overlay, found[way] if number else Times())
    for way, times in found.items():
        against = AGAINST.get(way)
        yield Row(
            "loads", f"{case}, {way}", "us", times.whole,
            against=f"{case}, {against}" if against in found else None,
        )  # fmt: skip
        if times.link:
            yield Row("loads", f"{case}, {way}: linking on the host", "us", times.link)
        yield Row("loads", f"{case}, {way}: running", "us", times.run)


# ---- what is loaded ----

_HEAD = '// uio: name = "{name}"\n// uio: version = "1"\n'
_PLAIN = re.compile(r"[a-z][a-z0-9_]*")


def _names(kernel: Kernel) -> list[str]:
    """Functions that an overlay may import: the application's thousand first, or whatever there is."""
    names = [
        name
        for name in kernel.globals
        if _PLAIN.fullmatch(name) and not name.startswith("uio_") and name != "main"
    ]
    found = [n for n in names if (s := kernel.for_overlay(n)) and s.kind == "function"]
    return sorted(found, key=lambda name: (not name.startswith("export_"), name))


def _of_size(directory: Path, kib: int) -> Path:
    path = directory / f"size{kib}.c"
    path.write_text(
        _HEAD.format(name=path.stem)
        + f"const volatile unsigned char ballast[{kib << 10}] = {{1}};\n"
        + "int main(void) { return ballast[0] - 1; }\n"
    )
    return path


def _importing(directory: Path, names: list[str]) -> Path:
    path = directory / f"imports{len(names)}.c"
    path.write_text(
        _HEAD.format(name=path.stem)
        + "".join(f"extern void {n}(void);\n" for n in names)
        + "static void (*const volatile all[])(void) = {"
        + ", ".join(names)
        + "};\nint main(void) { return !all[0]; }\n"
    )
    return path
