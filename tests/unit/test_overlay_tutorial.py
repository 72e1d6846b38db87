# SPDX-License-Identifier: BSD-3-Clause
"""docs/overlays.md says what happens: each command of its tutorial is run, and must print what is printed there.

Blocks marked `console vm` need a running VM: tests/guest/test_tutorial.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from overlays import encodings, link, manifest, sign

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "overlays.md").read_text()
BLOCK = re.compile(r"^```(\w+) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the application, and `uioctl overlay` on PATH."""
    subprocess.run(
        ["musl-gcc", "-O2", "-g", "-static", "-no-pie", "-fno-pie", "-Wl,--build-id=sha1",
         "-Wl,-u,stderr,-u,fprintf,-u,fwrite",
         "apps/count/count.c", "-o", str(tmp_path / "count.elf")],
        cwd=ROOT / "refguest", check=True,
    )  # fmt: skip
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "uioctl"
    tool.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -m overlays "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(text: str) -> str:
    """Without what differs from run to run and from compiler to compiler."""
    text = re.sub(r"\b[0-9a-f]{32,64}\b", "HEX", text)
    text = re.sub(r"\d+ bytes|0x[0-9a-f]+", "N", text)
    text = re.sub(r" +N", " N", text)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "DATE", text)


def test_the_tutorial_is_true(here: Path) -> None:
    commands = 0
    for kind, name, body in BLOCK.findall(TEXT):
        if kind == "c":
            (here / name).write_text(body)
        if (kind, name) != ("console", ""):
            continue
        for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            done = subprocess.run(
                command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )  # fmt: skip
            status = f"(status {done.returncode})\n" if done.returncode else ""
            assert same(done.stdout + status) == same(expected), command
            commands += 1
    assert commands >= 18


def test_the_reference_names_what_there_is() -> None:
    section = TEXT.split("### The manifest")[1].split("### The API")[0]
    documented = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    fields = set(manifest.Manifest.__struct_fields__)
    assert documented == fields - {"timeout_ms"} | {"timeout"}
    for rule in link.RULES.values():
        assert rule.name.removeprefix("R_X86_64_") in TEXT
    assert f"blocks are {sign.BLOCK}" in TEXT or f"one block of {sign.BLOCK} bytes" in TEXT
    assert sign.MAGIC.decode().rstrip() in TEXT and sign.DOMAIN.decode().rstrip("\0") in TEXT
    assert {e.name.split()[0] for e in encodings.MULTI_BYTE} >= {"wrpkru", "xrstor", "wrmsr"}


def test_the_api_is_documented_whole() -> None:
    header = (ROOT / "overlays" / "include" / "uio" / "uio.h").read_text()
    declared = set(
        re.findall(r"\b(uio_\w+)\([^*]", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))
    )
    section = TEXT.split("### The API")[1].split("## Shipped")[0]
    assert declared == set(re.findall(r"`(uio_\w+)`", section))
