# SPDX-License-Identifier: BSD-3-Clause
"""Pack directories into the archive that the reference guest's ramfs unpacks at boot.

Each entry is three little-endian 32-bit numbers (Linux mode, length of the path with its NUL, size), the path, the
data. Names are sorted and times left out, so that the same input gives the same image.
"""

from __future__ import annotations

import stat
import struct
import sys
from pathlib import Path


def entry(path: str, mode: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    return struct.pack("<III", mode, len(name), len(data)) + name + data


def pack(root: Path) -> bytes:
    out = bytearray()
    for path in sorted(root.rglob("*")):
        where = "/" + path.relative_to(root).as_posix()
        if path.is_dir():
            out += entry(where, stat.S_IFDIR | 0o755, b"")
        elif path.is_file():
            executable = path.stat().st_mode & 0o111
            mode = stat.S_IFREG | (0o755 if executable else 0o644)
            out += entry(where, mode, path.read_bytes())
    return bytes(out)


def main() -> None:
    output, *roots = sys.argv[1:]
    Path(output).write_bytes(b"".join(pack(Path(root)) for root in roots))


if __name__ == "__main__":
    main()
