# SPDX-License-Identifier: BSD-3-Clause
"""Loading and running of overlays: cold, cached, pushed, pulled, by size and by imports; ten thousand of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.guest import ROOT, Channel, Guest, guest, kernel_paths, symbol
from bench.host import make_store, served
from bench.measure import Row, in_turns, timed
from overlays.kernel import Kernel
from overlays.store import Store

SIZES_KIB = (1, 16, 128, 1024)
IMPORTS = (1, 10, 40)


def measure(quick: bool) -> Iterator[Row]:
    """All of it on one guest."""
    samples = 30 if quick else 200
    with (
        tempfile.TemporaryDirectory(prefix="uio-bench-") as name,
        guest() as vm,
    ):
        home = Path(name)
        sources = [ROOT / "overlays" / "src" / "hello.c", *_sources(home)]
        store = make_store(home, sources, ["-fno-builtin", "-w"])
        with served(vm, store, home):
            channel = vm.channel(Kernel.open(kernel_paths()[1]))
            yield from _commands(channel, store, samples)
            yield from _shapes(channel, store, max(30, samples // 4))
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


def _shapes(channel: Channel, store: Store, samples: int) -> Iterator[Row]:
    kernel = channel.kernel
    assert kernel is not None
    for name in [f"size{kib}" for kib in SIZES_KIB] + [f"imports{n}" for n in IMPORTS]:
        overlay = store.get(name)
        image = channel.linked(overlay, kernel)
        values = []
        for _ in range(samples):
            channel.unload(overlay.hash)
            values.append(timed(partial(channel.run, name, digest=overlay.hash, image=image)))
        channel.unload(overlay.hash)
        yield Row("commands", f"cold push, {name}", "us", values)


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


# ---- what is loaded ----

_HEAD = '// uio: name = "{name}"\n// uio: version = "1"\n'
_NAMES = """
strlen strcmp strncmp strchr strrchr strstr strspn strcspn strpbrk memcmp memchr isalpha isdigit isspace isupper
islower ispunct isxdigit tolower toupper atoi atol abs labs isalnum iscntrl isgraph isprint strcpy strncpy strcat
strncat memcpy memmove memset rand stpcpy strcoll strtok strdup
""".split()  # noqa: SIM905 (forty quoted names would hide what they are)


def _sources(directory: Path) -> Iterator[Path]:
    for kib in SIZES_KIB:
        path = directory / f"size{kib}.c"
        path.write_text(
            _HEAD.format(name=path.stem)
            + f"const volatile unsigned char ballast[{kib << 10}] = {{1}};\n"
            + "int main(void) { return ballast[0] - 1; }\n"
        )
        yield path
    for count in IMPORTS:
        path = directory / f"imports{count}.c"
        names = sorted(set(_NAMES))[:count]
        path.write_text(
            _HEAD.format(name=path.stem)
            + "".join(f"extern void {n}(void);\n" for n in names)
            + "static void (*const volatile all[])(void) = {"
            + ", ".join(names)
            + "};\nint main(void) { return !all[0]; }\n"
        )
        yield path
