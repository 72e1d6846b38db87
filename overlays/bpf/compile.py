# SPDX-License-Identifier: BSD-3-Clause
"""Compile C to eBPF with clang; gcc has no such target on the systems that we know."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from overlays.bpf.model import BpfError, Object
from overlays.bpf.objects import load_object

INCLUDE = Path(__file__).parents[1] / "include"
_COMPILERS = ("clang", *(f"clang-{version}" for version in range(21, 11, -1)))
FLAGS = (
    "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-ffreestanding", "-nostdlibinc",
    "-fno-common", "-fno-ident",
)  # fmt: skip


def find_clang() -> str:
    for name in _COMPILERS:
        if path := shutil.which(name):
            return path
    raise BpfError("clang is needed to compile eBPF", "install it, on Debian: apt install clang")


def compile_source(source: Path, output: Path, flags: Sequence[str] = ()) -> str:
    """Compile one file; what the compiler said.

    :raise BpfError: with the compiler's words.
    """
    command = [find_clang(), *FLAGS, f"-I{INCLUDE}", *flags, "-c", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BpfError(f"{source} does not compile:\n{done.stderr.rstrip()}")
    return done.stderr


def load(path: Path) -> Object:
    """Programs from a source file (.c) or an object file."""
    if path.suffix != ".c":
        return load_object(path)
    if not path.exists():
        raise BpfError(f"{path} does not exist")
    with tempfile.TemporaryDirectory(prefix="uio-bpf-") as scratch:
        output = Path(scratch) / f"{path.name.removesuffix('.c').removesuffix('.bpf')}.o"
        compile_source(path, output)
        return load_object(output)
