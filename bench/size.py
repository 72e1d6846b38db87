# SPDX-License-Identifier: BSD-3-Clause
"""Sizes: the reference guest with and without libuio, and the parts of libuio."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.guest import reference
from bench.measure import Row

# Part → how its objects' names begin.
PARTS = {
    "eBPF": "bpf",
    "9P client, files": "ninep|file",
    "loader, isolation": "loader|elf|image|overlay|fault|sha256|domain|gate",
    "overlays' API": "api",
    "shell, builtins": "shell|builtin|lineedit",
    "channel, exec": "channel|exec",
    "virtio-console": "virtio",
    "the rest": "",
}


def measure(quick: bool) -> Iterator[Row]:
    """Nothing here varies: one value each."""
    ours, without = reference("count"), reference("count", libuio=False)
    with_uio, bare = loaded_kib([ours]), loaded_kib([without])
    yield Row("size", "count.elf, with libuio: text and data", "KiB", [with_uio])
    yield Row("size", "count-bare.elf, without", "KiB", [bare])
    yield Row("size", "what libuio adds to the image", "KiB", [with_uio - bare])
    left = sorted((ours.parent / "obj" / "count" / "libuio").glob("*.o"))
    for part, names in PARTS.items():
        members = [path for path in left if re.match(names, path.name)]
        left = [path for path in left if path not in members]
        yield Row("size", f"libuio: {part}", "KiB", [loaded_kib(members)])


def loaded_kib(files: Sequence[Path]) -> float:
    """Text and data of these together."""
    if not files:
        return 0.0
    out = subprocess.run(["size", *files], capture_output=True, text=True, check=True).stdout
    return sum(sum(map(int, line.split()[:2])) for line in out.splitlines()[1:]) / 1024
