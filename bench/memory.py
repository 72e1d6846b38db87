# SPDX-License-Identifier: BSD-3-Clause
"""Memory: what uiod takes on the host, what libuio adds to the guest's image."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.guest import ROOT, guest, kernel_paths
from bench.measure import Row
from uiod.run import Machine


def measure(quick: bool) -> Iterator[Row]:
    """A VM under uiod, and the sizes of images."""
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as name:
        config = Path(name) / "memory.cfg"
        image, symbols = kernel_paths()
        config.write_text(
            f'[vm]\nkernel = "{image}"\nsymbols = "{symbols}"\nmemory = "64M"\n'
            f'[uio]\noverlays = ["{ROOT}/build/overlays"]\n[trust]\nkeys = ["{ROOT}/build/keys"]\n'
        )
        pss, qemu = [], []
        for _ in range(3 if quick else 10):
            with Machine(config, timeout_s=60) as vm:
                for _ in range(20):
                    vm.exec("hello")
                info = vm.api.get("/v1/vm")
                pss.append(_pss_mib(info["pid"]))
                qemu.append(_pss_mib(info["qemu_pid"]))
    yield Row(
        "memory", "uiod after 20 commands (PSS)", "MiB", pss,
        goal=1.0, reference=32.0, figure="daemon's own memory (PSS, at most 32 MiB)",
    )  # fmt: skip
    yield Row("memory", "QEMU of a 64 MiB guest (PSS)", "MiB", qemu)
    yield from _guest()


def _pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    assert found
    return int(found[1]) / 1024


def _guest() -> Iterator[Row]:
    image = kernel_paths()[0]
    bare = image.with_name(f"{image.stem}-bare.elf")
    if not bare.exists():
        yield Row("memory", "libuio in the image", "KiB", missing=f"{bare.name} is not built")
    else:
        yield Row(
            "memory", "libuio in the image: text and data", "KiB", [_size(image) - _size(bare)]
        )
    with guest() as vm:
        channel = vm.channel()
        text = channel.run("mem").output.decode()
        channel.close()
    found = re.search(r"libuio\s+(\d+) KiB", text)
    yield Row(
        "memory", "libuio's heap, idle", "KiB", [float(found[1])] if found else [],
        goal=1.0, reference=64.0, figure="guest memory of uIO, idle (at most 64 KiB)",
        missing="" if found else "the guest does not account for it",
    )  # fmt: skip


def _size(image: Path) -> float:
    out = subprocess.run(["size", image], capture_output=True, text=True, check=True).stdout
    text, data = out.splitlines()[1].split()[:2]
    return (int(text) + int(data)) / 1024
