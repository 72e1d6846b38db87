# SPDX-License-Identifier: BSD-3-Clause
"""An ELF that passes for a kernel with symbols: what overlays are linked against while no guest is at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = """
int counter = 7;
void uio_libc_puts(const char *s) { (void)s; }
int set_count(int n) { return counter = n; }
void _start(void) { set_count(0); }
"""


def build(directory: Path) -> Path:
    """Compile it."""
    source = directory / "kernel.c"
    source.write_text(SOURCE)
    kernel = directory / "kernel.elf"
    flags = "-g -O1 -fno-pic -no-pie -nostdlib -static -ffreestanding -mcmodel=small -fno-stack-protector"
    link = "-Wl,-Ttext=0x200000 -Wl,--build-id=sha1"
    command = ["gcc", *flags.split(), *link.split(), "-o", str(kernel), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return kernel
