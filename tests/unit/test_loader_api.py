# SPDX-License-Identifier: BSD-3-Clause
"""overlays/include/uio/uio.h says what libuio's core does: two sides of one binary interface, in two trees."""

from __future__ import annotations

import re
from pathlib import Path

import loader_tools as t
import pytest

HEADER = t.TOP / "overlays" / "include" / "uio" / "uio.h"
#: structures of the header, and the core's own of the same layout
TWINS = {
    "uio_info": "uio_stat",
    "uio_entry": "uio_dirent",
    "uio_symbol_info": "uio_symbol",
    "uio_thread_entry": "uio_thread_info",
    "uio_event_counts": "uio_counts",
    "uio_heap_block": "uio_block",
}


def structure(text: str, name: str) -> tuple[str, list[str]]:
    """A structure's definition, and its fields without comments."""
    match = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL)
    assert match, name
    fields = re.sub(r"/\*.*?\*/", "", match[1], flags=re.DOTALL)
    return match[0], [" ".join(f.split()) for f in fields.split(";") if f.strip()]


@pytest.mark.parametrize("name", TWINS)
def test_structures_are_alike(name: str) -> None:
    core = "".join(p.read_text() for p in (t.LIBUIO / "include/uio/port.h", t.CORE / "channel.h"))
    ours, theirs = structure(HEADER.read_text(), name)[1], structure(core, TWINS[name])[1]
    assert ours == theirs


@pytest.mark.parametrize("file", ["api.c", "api_libc.c", "api_stdio.c", "log.c"])
def test_prototypes_are_alike(tmp_path: Path, file: str) -> None:
    """The core's definitions compile behind the header's declarations."""
    text = HEADER.read_text()
    for name, twin in TWINS.items():
        text = text.replace(structure(text, name)[0], "").replace(
            f"struct {name} ", f"struct {twin} "
        )
    # The core's structures, without what would be declared twice by them.
    header = t.write(tmp_path / "check.h", '#include <uio/port.h>\n#include "channel.h"\n' + text)
    t.run(
        "gcc", "-std=gnu11", "-fsyntax-only", *t.STRICT, "-Wmissing-declarations", "-Wno-error=missing-declarations",
        f"-I{t.LIBUIO / 'include'}", "-iquote", t.CORE, "-include", header, t.CORE / file,
    )  # fmt: skip


@pytest.mark.parametrize(
    "compiler",
    [
        ("gcc", "-std=c11", "-pedantic"),
        ("clang-14", "-std=c11", "-pedantic"),
        ("musl-gcc", "-std=c11"),
        ("g++", "-x", "c++", "-std=c++11"),
    ],
)
def test_the_header_stands_alone(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    source = t.write(
        tmp_path / "x.c", "#include <uio/uio.h>\nint main(void) { return uio_flush(); }\n"
    )
    t.run(*compiler, *t.STRICT, f"-I{HEADER.parents[1]}", "-fsyntax-only", source)


def test_everything_declared_is_kept_in_the_image() -> None:
    """Each function of the header is in a table that the linker must keep."""
    declared = set(
        re.findall(r"\b(uio_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL))
    )
    table = (t.CORE / "api.c").read_text().split("uio_api_symbols[] = {")[1]
    assert declared == set(re.findall(r"\buio_\w+", table))
    for file in ("api_libc.c", "api_stdio.c"):
        text = (t.CORE / file).read_text()
        code, table = re.split(r"const void \*const \w+\[\] = {", text)
        defined = set(re.findall(r"^[\w\s*]*?\b(uio_libc_\w+)\([^;]*?\)\n{", code, re.MULTILINE))
        assert defined == set(re.findall(r"\buio_libc_\w+", table))
