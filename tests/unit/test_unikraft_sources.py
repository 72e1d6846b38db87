# SPDX-License-Identifier: BSD-3-Clause
"""Unikraft's build names libuio's sources one by one: none is forgotten, and none is named that is gone."""

from __future__ import annotations

import re
from pathlib import Path

LIBUIO = Path(__file__).parents[2] / "unikraft_patches" / "libuio"
MAKEFILE = (LIBUIO / "Makefile.uk").read_text()
DIRECTORIES = ("core", "module", "port/unikraft", "signature")

NAMED = re.findall(r"^\w+_SRCS-\S+ \+= \$\(LIBUIO_BASE\)/(\S+?)(\|isr)?$", MAKEFILE, re.MULTILINE)


def test_every_source_is_named_once() -> None:
    there = [
        str(path.relative_to(LIBUIO))
        for directory in DIRECTORIES
        for path in (LIBUIO / directory).iterdir()
        if path.suffix in {".c", ".S"}
    ]
    assert sorted(name for name, _ in NAMED) == sorted(there)


def test_what_runs_in_the_applications_functions_calls_no_vector_code() -> None:
    """All of the eBPF machine that is for interrupts, and what it stands on."""
    of_hits = {"core/hits.c", "core/probe.c"}
    of_hits |= {name for name, isr in NAMED if isr and name.startswith("core/bpf_")}
    match = re.search(r"^\$\(foreach file,([A-Z_ ]+),.*/isr\.h", MAKEFILE, re.MULTILINE)
    assert match
    assert {f"core/{name.lower()}.c" for name in match[1].split()} == of_hits
    assert of_hits <= {name for name, isr in NAMED if isr}
