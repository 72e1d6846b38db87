# SPDX-License-Identifier: BSD-3-Clause
"""Sizes: the reference guest with and without libuio and its options, and the parts of libuio.

libuio's size is the text and data (what `size` calls so: code, constants, and unwind tables, of which there are none)
of its core's objects as they are linked into the reference guest, which is all but the check of signatures. The linker
drops none of them. The eBPF machine is a module, in memory only while it is in use; its size, the core's .bss, the port
and the check of signatures are told beside.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.guest import ROOT, reference
from bench.host import bench_key
from bench.measure import Row

# Part → how its objects' names begin.
PARTS = {
    "what loads eBPF, and its hits": "module|embed|hits|probe",
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
        "with libuio, without eBPF": reference("count", bpf="no"),
        "with libuio": reference("count"),
        "with libuio and eBPF in it": reference("count", bpf="builtin"),
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
        "eBPF as a module": whole - kib["with libuio, without eBPF"],
        "eBPF in the image": kib["with libuio and eBPF in it"] - kib["with libuio, without eBPF"],
        "the check of signatures": signed and signed - whole,
    }.items():
        values = [] if added is None else [added]
        yield Row("size", f"added by {what}", "KiB", values, missing=missing)
    left = core_objects(images["with libuio"])
    yield Row(
        "size", "libuio: text and data", "KiB", [loaded_kib(left)],
        goal=1.0, reference=96.0, figure="libuio's text and data (at most 96 KiB)",
    )  # fmt: skip
    yield Row("size", "libuio: .bss", "KiB", [bss_kib(left)])
    module = images["with libuio"].parent / "obj/count/module/bpf.o"
    yield Row("size", "the module with eBPF: text and data", "KiB", [loaded_kib([module])])
    port = sorted(images["with libuio"].parent.glob("obj/count/port/*.o"))
    yield Row("size", "the port to the reference guest", "KiB", [loaded_kib(port)])
    for part, names in PARTS.items():
        members = [path for path in left if re.match(names, path.name)]
        left = [path for path in left if path not in members]
        yield Row("size", f"objects of libuio: {part}", "KiB", [loaded_kib(members)])


def core_objects(image: Path) -> list[Path]:
    """Those linked into an image of `count`: not its module's, nor what is left of sources that are no more."""
    core = ROOT / "unikraft_patches" / "libuio" / "core"
    parts = image.parent / "obj" / "count"
    return [
        path
        for path in sorted(parts.glob("libuio/*.o"))
        if (core / path.stem).exists() and not re.match("bpf_|builtins_bpf", path.name)
    ] + [parts / "module" / "module.c.o", parts / "module" / "embed.o"]


def loaded_kib(files: Sequence[Path]) -> float:
    """Text and data of these together."""
    return sum(text + data for text, data, _ in _sizes(files)) / 1024


def bss_kib(files: Sequence[Path]) -> float:
    """What they want as zero."""
    return sum(bss for _, _, bss in _sizes(files)) / 1024


def _sizes(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    if not files:
        return []
    out = subprocess.run(["size", *files], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in out.splitlines()[1:]]
    return [(int(text), int(data), int(bss)) for text, data, bss, *_ in rows]
