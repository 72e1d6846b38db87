# SPDX-License-Identifier: BSD-3-Clause
"""Debian's own Linux kernel for tests: found in its package, with just the modules a test asks for."""

from __future__ import annotations

import gzip
import re
import stat
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "linux"


def unpacked() -> Path:
    """The unpacked package that linux-image-amd64 stands for; downloaded once into build/linux/.

    The cloud kernel has no 9P; this is the ordinary one.
    """
    tree = CACHE / "root"
    if not tree.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        depends = subprocess.run(
            ["apt-cache", "depends", "linux-image-amd64"],
            capture_output=True,
            text=True,
            check=True,
        )
        package = re.search(r"Depends: (linux-image-\S+)", depends.stdout)
        assert package, "apt knows no linux-image-amd64: run apt-get update"
        subprocess.run(["apt-get", "download", "-qq", package[1]], cwd=CACHE, check=True)
        archive = next(CACHE.glob("linux-image-*.deb"))
        half = CACHE / "unpacking"
        subprocess.run(["dpkg-deb", "-x", archive, half], check=True)
        archive.unlink()
        half.rename(tree)
    return tree


def vmlinuz() -> Path:
    """The kernel's boot image."""
    return next((unpacked() / "boot").glob("vmlinuz-*"))


def with_dependencies(names: list[str]) -> list[Path]:
    """The files of these modules and of those they need, in an order in which they load.

    A name without a file is built into the kernel.
    """
    files = {p.stem.replace("-", "_"): p for p in (unpacked() / "lib/modules").rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in (needs[1] if needs else b"").decode().split(","):
            add(needed)
        order.append(path)

    for name in names:
        add(name)
    return order


def initramfs(path: Path, files: dict[str, bytes]) -> None:
    """Write a compressed cpio archive ("newc", Linux' early-userspace/buffer-format) of these files."""
    out = bytearray()
    directories = sorted({str(p) for name in files for p in Path(name).parents if str(p) != "."})

    def entry(number: int, name: str, mode: int, data: bytes) -> None:
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        out.extend(b"\0" * (-len(out) % 4) + data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, name in enumerate(directories, 1):
        entry(number, name, stat.S_IFDIR | 0o755, b"")
    for number, (name, data) in enumerate(files.items(), 1000):
        entry(number, name, stat.S_IFREG | 0o755, data)
    entry(0, "TRAILER!!!", 0, b"")
    path.write_bytes(gzip.compress(bytes(out), 1))
