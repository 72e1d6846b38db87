# SPDX-License-Identifier: BSD-3-Clause
"""The table of traceable functions of a Unikraft image: it names those that are there, and keeps none of the others.

The steps are those of Unikraft's build: objects into a library (`ld -r`), objcopy, port/unikraft/entries.py, and a link
that drops what nothing calls.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from overlays.bpf.functions import Functions

LIBUIO = Path(__file__).parents[2] / "unikraft_patches" / "libuio"
PORT = LIBUIO / "port" / "unikraft"

FIRST = """
int dead(int a) { return a + 1; }
int alive(int a) { return a * 3; }
static int local(int a) { __asm__ volatile(""); return a - 1; }
int (*volatile pointer)(int) = local;
"""
SECOND = """
int alive(int);
int dead_too(void) { return 5; }
extern int (*volatile pointer)(int);
int _start(void) { return alive(3) + pointer(3); }
"""


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def flags() -> list[str]:
    """How Makefile.build has libraries compiled and copied."""
    text = (LIBUIO / "Makefile.build").read_text()
    room = text.split("LIBUIO_ROOM   := ")[1].splitlines()[0]
    rename = text.split("--rename-section ")[1].splitlines()[0]
    return [room, rename]


@pytest.mark.parametrize("cc", ["gcc", "clang-14"])
def test_the_table_names_what_is_there_and_keeps_nothing(tmp_path: Path, cc: str) -> None:
    room, rename = flags()
    objects = []
    for name, text in (("first", FIRST), ("second", SECOND)):
        source = tmp_path / f"{name}.c"
        source.write_text(text)
        objects.append(source.with_suffix(".o"))
        run(cc, "-O2", "-ffunction-sections", "-fno-pie", room, "-c", source, "-o", objects[-1])
    library, copy = tmp_path / "lib.ld.o", tmp_path / "lib.o"
    run("ld", "-r", "-o", library, *objects)
    run("objcopy", "--rename-section", rename, library, copy)
    before = copy.stat().st_size
    for _ in range(2):  # once more changes nothing
        run(sys.executable, PORT / "entries.py", copy)
    assert copy.stat().st_size == before
    script, image = tmp_path / "entries.lds", tmp_path / "image"
    run("gcc", "-E", "-P", "-x", "assembler-with-cpp", PORT / "entries.lds.S", "-o", script)
    run("ld", "-static", "--gc-sections", "--entry=_start", "-T", script, "-o", image, copy)
    functions = Functions(image)
    assert functions.names == ["_start", "alive", "local"]
    assert "dead" not in functions.addresses
    with image.open("rb") as file:
        section: Any = ELFFile(file).get_section_by_name("__patchable_function_entries")
        assert section["sh_flags"] == 2  # allocated, and not writable


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"!<arch>\n")
    done = subprocess.run(
        [sys.executable, PORT / "entries.py", tmp_path / "x"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"not a 64-bit ELF" in done.stderr
