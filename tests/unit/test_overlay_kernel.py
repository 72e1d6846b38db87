# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's ELF answers by name and by address; a file that will not do is refused with what to do instead."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from overlay_tools import compile_kernel

from overlays.errors import KernelError
from overlays.kernel import Kernel


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernel(tmp_path_factory.mktemp("kernel") / "kernel")


@pytest.fixture(scope="module")
def kernel(path: Path) -> Kernel:
    return Kernel.open(path)


def nm(path: Path) -> dict[str, tuple[int, str]]:
    """Global symbols as binutils see them."""
    out = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in out.splitlines()]
    return {r[2]: (int(r[0], 16), r[1]) for r in rows if len(r) == 3 and r[1] not in "tdrb"}


def test_symbols_are_those_of_nm(kernel: Kernel, path: Path) -> None:
    expected = nm(path)
    assert len(expected) > 50
    for name, (address, _) in expected.items():
        symbol = kernel.lookup(name)
        assert symbol and symbol.address == address, name
    assert {s.name for s in kernel.symbols()} == expected.keys()


def test_kinds_and_sizes(kernel: Kernel) -> None:
    add, counter, banner = (kernel.lookup(n) for n in ("add", "counter", "banner"))
    assert add and counter and banner
    assert (add.kind, counter.kind, counter.size, banner.kind) == (
        "function",
        "object",
        8,
        "object",
    )
    assert add.address in kernel.text and counter.address not in kernel.text
    assert counter.address in kernel.image
    assert kernel.lookup("gate") is None  # static: not for importing
    assert kernel.lookup("no_such_thing") is None


def test_overrides_are_for_overlays_only(kernel: Kernel) -> None:
    plain, ours = kernel.lookup("puts"), kernel.for_overlay("puts")
    assert plain and ours and plain.name == "puts" and ours.name == "uio_libc_puts"
    other = kernel.for_overlay("strlen")
    assert other and other.name == "strlen"


def test_the_build_id_is_that_of_readelf(kernel: Kernel, path: Path) -> None:
    out = subprocess.run(["readelf", "-n", str(path)], capture_output=True, text=True, check=True)
    assert len(kernel.build_id) == 20 and kernel.build_id.hex() in out.stdout


def test_the_link_base_is_the_first_segments(kernel: Kernel) -> None:
    assert kernel.link_base == 0x400000
    assert kernel.link_base in kernel.image


def test_nearest_knows_local_symbols_and_offsets(kernel: Kernel) -> None:
    add = kernel.lookup("add")
    assert add
    for distance in (0, 1, add.size - 1):
        found = kernel.nearest(add.address + distance)
        assert found and (found[0].name, found[1]) == ("add", distance)
    gate = next(
        a for a in kernel.text if (n := kernel.nearest(a)) and n[0].name == "gate" and n[1] == 0
    )
    assert gate in kernel.text
    for outside in (0, kernel.image.start - 1, kernel.image.stop, 1 << 63):
        assert kernel.nearest(outside) is None


def test_near_names(kernel: Kernel) -> None:
    assert kernel.near_names("set_cuont", 1) == ["set_count"]
    assert "puts" in kernel.near_names("putz")
    assert kernel.near_names("qqqqqqqqqqqq") == []


def test_source_lines_are_those_of_addr2line(kernel: Kernel, path: Path) -> None:
    for name in ("add", "set_count", "main", "gate", "uio_libc_puts"):
        out = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
        address = next(int(x.split()[0], 16) for x in out.splitlines() if x.endswith(f" {name}"))
        there = subprocess.run(
            ["addr2line", "-e", str(path), hex(address)], capture_output=True, text=True, check=True
        ).stdout.strip()
        source = kernel.source(address)
        assert source and there.endswith(source.rsplit("/", 1)[-1].split(" ")[0])
    assert kernel.source(kernel.image.stop + 5) is None


def test_without_dwarf_there_are_no_source_lines(path: Path, tmp_path: Path) -> None:
    subprocess.run(["objcopy", "--strip-debug", str(path), str(tmp_path / "k")], check=True)
    kernel = Kernel.open(tmp_path / "k")
    add = kernel.lookup("add")
    assert add and kernel.source(add.address) is None


UNUSABLE = {
    "a script": (b"#!/bin/sh\n", "no ELF file"),
    "nothing": (b"", "no ELF file"),
    "half a header": (b"\x7fELF\x02\x01\x01" + bytes(20), "cut off or damaged"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_files_that_are_no_kernels(tmp_path: Path, case: str) -> None:
    content, message = UNUSABLE[case]
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(KernelError, match=message):
        Kernel.open(tmp_path / "k")


def test_a_missing_or_stripped_kernel_says_what_to_do(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="none: No such file"):
        Kernel.open(tmp_path / "none")
    with pytest.raises(KernelError, match="Is a directory"):
        Kernel.open(tmp_path)
    subprocess.run(["strip", "-o", str(tmp_path / "k"), str(path)], check=True)
    with pytest.raises(KernelError, match="has no symbols") as caught:
        Kernel.open(tmp_path / "k")
    assert "before stripping" in caught.value.hint
    (tmp_path / "x.c").write_text("int x;")
    subprocess.run(["gcc", "-c", "x.c"], cwd=tmp_path, check=True)
    with pytest.raises(KernelError, match="no linked program"):
        Kernel.open(tmp_path / "x.o")
    subprocess.run(["objcopy", "-O", "elf32-i386", str(path), str(tmp_path / "boot")], check=True)
    with pytest.raises(KernelError, match="not a 64-bit"):
        Kernel.open(tmp_path / "boot")


@given(st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_kernel_is_refused_or_read(
    path: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(path.read_bytes())
    (shoff,) = struct.unpack_from("<Q", content, 40)
    (count,) = struct.unpack_from("<H", content, 60)
    for _ in range(data.draw(st.integers(1, 5))):
        place = st.integers(0, 63 + 56 * 7) | st.integers(shoff, shoff + 64 * count - 1)
        content[data.draw(place)] = data.draw(
            st.sampled_from([0, 1, 0x7F, 0xFF]) | st.integers(0, 255)
        )
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (tmp_path / "k").write_bytes(content[:cut])
    try:
        kernel = Kernel.open(tmp_path / "k")
        kernel.lookup("main")
        kernel.nearest(0x401234)
        kernel.near_names("mian")
    except KernelError as error:
        assert error.message
