# SPDX-License-Identifier: BSD-3-Clause
"""Sizes: the reference guest with and without libuio and its options, and the parts of libuio."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.guest import reference
from bench.host import bench_key
from bench.measure import Row

# Part → how its objects' names begin.
PARTS = {
    "eBPF": "bpf|builtins_bpf|probe",
    "9P client, files": "ninep|file|builtins_file",
    "domain, gates": "domain|gate|callback",
    "loader, faults": "loader|elf|image|overlay|fault|sha256|builtins_overlay",
    "overlays' API": "api",
    "shell, builtins": "shell|builtin|lineedit",
    "channel, exec": "channel|exec",
    "virtio-console": "virtio",
    "the rest": "",
}


def measure(quick: bool) -> Iterator[Row]:
    """Nothing here varies: one value each."""
    images = {
        "without libuio": reference("count", libuio=False),
        "with libuio, without eBPF": reference("count", bpf=False),
        "with libuio": reference("count"),
    }
    missing = ""
    try:
        images["with libuio and its check of signatures"] = reference("count", key=bench_key())
    except RuntimeError as error:
        missing = str(error)
    kib = {what: loaded_kib([image]) for what, image in images.items()}
    for what, size in kib.items():
        yield Row("size", f"the image {what}: text and data", "KiB", [size])
    whole = kib["with libuio"]
    signed = kib.get("with libuio and its check of signatures")
    for what, added in {
        "libuio": whole - kib["without libuio"],
        "eBPF": whole - kib["with libuio, without eBPF"],
        "the check of signatures": signed and signed - whole,
    }.items():
        values = [] if added is None else [added]
        yield Row("size", f"added by {what}", "KiB", values, missing=missing)
    directory = images["with libuio"].parent / "obj" / "count" / "libuio"
    left = sorted(directory.glob("*.o"))
    for part, names in PARTS.items():
        members = [path for path in left if re.match(names, path.name)]
        left = [path for path in left if path not in members]
        yield Row("size", f"objects of libuio: {part}", "KiB", [loaded_kib(members)])


def loaded_kib(files: Sequence[Path]) -> float:
    """Text and data of these together."""
    if not files:
        return 0.0
    out = subprocess.run(["size", *files], capture_output=True, text=True, check=True).stdout
    return sum(sum(map(int, line.split()[:2])) for line in out.splitlines()[1:]) / 1024
