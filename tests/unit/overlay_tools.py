# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of overlays share: a kernel to link against, keys, and overlays made from source text."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlays import build, keys, link
from overlays.kernel import Kernel
from overlays.keys import PublicKey
from overlays.overlay import Overlay
from overlays.trust import Trust

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "overlays" / "src"
BASE = 0x10000000
HELLO = SHIPPED / "hello.c"

#: a small program with something of everything: strings, data, zeroes, a table of pointers, constructors, calls
RICH = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern long counter;
extern long add(long a, long b);
extern int apply(int (*fn)(int), int value);
extern void missing(void) __attribute__((weak));
static int twice(int x) { return 2 * x; }
static int (*const table[])(int) = {twice, abs};
static char zeroes[10000];
int common_number;
int initialised = 7;
static long (*volatile pointer)(long, long) = add;
__attribute__((constructor)) static void first(void) { initialised++; }
__attribute__((destructor)) static void last(void) { puts("bye"); }
int main(int argc, char **argv)
{
    memset(zeroes, 'x', 3);
    counter += argc;
    if (missing) missing();
    switch (argc) {
    case 1: puts("one"); break;
    case 2: puts("two"); break;
    case 3: puts("three"); break;
    case 4: puts("four"); break;
    case 5: puts("five"); break;
    default: puts("many");
    }
    printf("%s %ld %d %d %d %ld %d %d\\n", zeroes, counter, initialised, table[0](4), table[1](-3), pointer(1, 2),
           apply(twice, 21), common_number);
    return argc > 1 ? atoi(argv[1]) : 0;
}
"""


@cache
def private_key(number: int = 0) -> Ed25519PrivateKey:
    """A key that is the same in each run."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)


def public_key(number: int = 0) -> PublicKey:
    return PublicKey(f"key{number}", keys.raw_public(private_key(number)))


def trusting(*numbers: int, **more: Any) -> Trust:
    """A trust in these keys."""
    return Trust({public_key(n).id: public_key(n) for n in numbers}, **more)


def compile_kernel(path: Path, *flags: str) -> Path:
    """The stand-in for a kernel (overlay_kernel.c)."""
    subprocess.run(
        ["musl-gcc", "-std=gnu11", "-O1", "-g", "-static", "-no-pie", "-fno-pie", "-Wl,--build-id=sha1",
         "-Wall", "-Wextra", "-Werror", *flags, str(HERE / "overlay_kernel.c"), "-o", str(path)],
        check=True,
    )  # fmt: skip
    return path


def make(directory: Path, source: str | bytes, name: str = "sample.c", **options: Any) -> Overlay:
    """Build one source text; the overlay is called like the file."""
    path = directory / name
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return build.build([path], directory / f"{path.stem}.uio", **options).overlay


def run(
    kernel: Kernel, overlay: Overlay, *arguments: str, base: int = BASE, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Link an overlay and run it in the stand-in."""
    image = overlay.path.with_suffix(".image")
    image.write_bytes(link.link(overlay, kernel, slide=0, base=base))
    return subprocess.run(
        [str(kernel.path), *before, str(image), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
        check=False,
    )
