# SPDX-License-Identifier: BSD-3-Clause
"""Whatever the bytes are, the reader, the scanner and the linker answer or raise their own errors, in bounded time."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from overlay_tools import BASE, RICH, compile_kernel, make

from overlays import elf, link, scan
from overlays.elf import Object
from overlays.errors import FormatError, OverlayError
from overlays.kernel import Kernel
from overlays.lines import ObjectLines
from overlays.overlay import Overlay


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("elf"), RICH).elf


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel.open(compile_kernel(tmp_path_factory.mktemp("kernel") / "kernel"))


Edit = Callable[[bytearray], object]


def at(offset: int, layout: str, value: int) -> Edit:
    """Overwrite a field of the file."""
    return lambda data: struct.pack_into("<" + layout, data, offset, value)


def header(type_: int, field: int, layout: str, value: int) -> Edit:
    """Overwrite a field of the header of the first section of a type."""

    def edit(data: bytearray) -> None:
        (shoff,) = struct.unpack_from("<Q", data, 40)
        (count,) = struct.unpack_from("<H", data, 60)
        for index in range(1, count):
            start = shoff + 64 * index
            if struct.unpack_from("<I", data, start + 4)[0] == type_:
                struct.pack_into("<" + layout, data, start + field, value)
                return
        raise AssertionError

    return edit


def entry(type_: int, offset: int, layout: str, value: int, index: int = 1) -> Edit:
    """Overwrite a field of an entry of the table in the first section of a type."""

    def edit(data: bytearray) -> None:
        obj = Object.parse(bytes(data))
        table = next(
            s
            for s in obj.sections
            if s.type == type_ and (type_ != elf.SHT_RELA or obj.sections[s.info].allocated)
        )
        struct.pack_into("<" + layout, data, table.offset + index * table.entsize + offset, value)

    return edit


def cut(size: int) -> Edit:
    def edit(data: bytearray) -> None:
        del data[size:]

    return edit


MALFORMED: dict[str, tuple[Edit, str]] = {
    "empty": (cut(0), "no ELF file"),
    "only the magic": (cut(4), "header is cut off"),
    "only half a header": (cut(40), "header is cut off"),
    "only a header": (cut(64), "section table is outside"),
    "no magic": (at(0, "B", 0), "no ELF file"),
    "32 bits": (at(4, "B", 1), "not for x86-64"),
    "big-endian": (at(5, "B", 2), "not for x86-64"),
    "another machine": (at(18, "H", 183), "not for x86-64"),
    "odd version": (at(20, "I", 7), "version"),
    "a program": (at(16, "H", 2), "a program"),
    "a shared object": (at(16, "H", 3), "a shared object"),
    "sections elsewhere": (at(40, "Q", 1 << 63), "section table is outside"),
    "sections in the header": (at(40, "Q", 8), "section table is outside"),
    "section size": (at(58, "H", 63), "section table is malformed"),
    "no sections": (at(60, "H", 0), "section table is malformed"),
    "too many sections": (at(60, "H", 0xFEFF), "section table is outside"),
    "extended numbering": (at(60, "H", 0xFFFF), "section table is malformed"),
    "no section names": (at(62, "H", 0), "section name table does not exist"),
    "names beyond": (at(62, "H", 0xFFFE), "section name table does not exist"),
    "names in code": (at(62, "H", 1), "section name table is malformed"),
    "section name": (header(elf.SHT_RELA, 0, "I", 1 << 31), "outside its table"),
    "section offset": (header(elf.SHT_PROGBITS, 24, "Q", 1 << 62), "outside the file"),
    "section end": (header(elf.SHT_PROGBITS, 32, "Q", (1 << 64) - 1), "outside the file"),
    "alignment": (header(elf.SHT_PROGBITS, 48, "Q", 3), "no power of two"),
    "link": (header(elf.SHT_RELA, 40, "I", 999), "is linked to section 999"),
    "two symbol tables": (header(elf.SHT_PROGBITS, 4, "I", elf.SHT_SYMTAB), "2 symbol tables"),
    "no symbol table": (header(elf.SHT_SYMTAB, 4, "I", 1), "0 symbol tables"),
    "symbol size": (header(elf.SHT_SYMTAB, 56, "Q", 25), "symbol table is malformed"),
    "half a symbol": (header(elf.SHT_SYMTAB, 32, "Q", 49), "symbol table is malformed"),
    "locals": (header(elf.SHT_SYMTAB, 44, "I", 1 << 30), "count of local symbols"),
    "symbol names": (header(elf.SHT_SYMTAB, 40, "I", 1), "symbol names are missing"),
    "symbol name": (entry(elf.SHT_SYMTAB, 0, "I", 0x7FFFFFFF), "outside its table"),
    "symbol section": (entry(elf.SHT_SYMTAB, 6, "H", 0xFE00), "does not exist"),
    "symbol value": (entry(elf.SHT_SYMTAB, 8, "Q", 1 << 40, index=2), "behind the end"),
    "relocation target": (header(elf.SHT_RELA, 44, "I", 4000), "does not exist"),
    "relocation size": (header(elf.SHT_RELA, 56, "Q", 16), "malformed"),
    "half a relocation": (header(elf.SHT_RELA, 32, "Q", 25), "malformed"),
    "relocation place": (entry(elf.SHT_RELA, 0, "Q", 1 << 33), "is outside it"),
    "relocation symbol": (entry(elf.SHT_RELA, 12, "I", 1 << 20), "names symbol"),
    "relocations without addends": (header(elf.SHT_RELA, 4, "I", elf.SHT_REL), "no addends"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_object_is_refused_with_a_reason(good: bytes, case: str) -> None:
    edit, message = MALFORMED[case]
    data = bytearray(good)
    edit(data)
    with pytest.raises(FormatError, match=message):
        Object.parse(bytes(data))


def test_a_good_object_has_what_was_compiled(good: bytes) -> None:
    obj = Object.parse(good)
    assert {"main", "twice", "zeroes", "common_number", "initialised"} <= {
        s.name for s in obj.symbols
    }
    assert {"puts", "printf", "counter", "missing"} <= {s.name for s in obj.undefined()}
    assert any(s.executable for s in obj.sections)
    assert obj.section(".bss") is not None or any(s.name.startswith(".bss") for s in obj.sections)


def test_a_file_over_the_limit_is_not_read(good: bytes) -> None:
    with pytest.raises(FormatError, match="at most"):
        Object.parse(good + bytes(elf.MAX_FILE))


def _everything(data: bytes, kernel: Kernel) -> None:
    """All that is done with bytes that came from outside; only errors of this package may come out."""
    with contextlib.suppress(OverlayError):
        scan.scan(data)
    try:
        overlay = Overlay.parse(data, Path("x.uio"))
        link.image_size(overlay)
        image = link.link(overlay, kernel, slide=0, base=BASE)
    except OverlayError:
        return
    assert len(image) <= link.MAX_IMAGE + elf.MAX_FILE


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(st.data())
@FUZZ
def test_bytes_changed_anywhere_do_no_harm(
    good: bytes, kernel: Kernel, data: st.DataObject
) -> None:
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        where = data.draw(st.integers(0, len(changed) - 1))
        changed[where] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    _everything(bytes(changed), kernel)


@given(st.data())
@FUZZ
def test_changed_tables_do_no_harm(good: bytes, kernel: Kernel, data: st.DataObject) -> None:
    """Aimed at what counts: headers, symbols and relocations get extreme values."""
    obj = Object.parse(good)
    (shoff,) = struct.unpack_from("<Q", good, 40)
    tables = [(0, 64), *((shoff + 64 * s.index, 64) for s in obj.sections)]
    tables += [(s.offset, s.size) for s in obj.sections if s.type in (elf.SHT_SYMTAB, elf.SHT_RELA)]
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        start, size = data.draw(st.sampled_from([t for t in tables if t[1] >= 8]))
        width, layout = data.draw(st.sampled_from([(1, "B"), (2, "H"), (4, "I"), (8, "Q")]))
        where = start + data.draw(st.integers(0, (size - width) // width)) * width
        top = 1 << 8 * width
        extreme = st.sampled_from(
            [0, 1, 2, 3, 8, 4095, 4096, 4097, top // 2 - 1, top // 2, top - 1]
        )
        value = data.draw(extreme.map(lambda v, t=top: v % t) | st.integers(0, top - 1))
        struct.pack_into("<" + layout, changed, where, value)
    _everything(bytes(changed), kernel)


@given(st.data())
@FUZZ
def test_cut_files_do_no_harm(good: bytes, kernel: Kernel, data: st.DataObject) -> None:
    _everything(good[: data.draw(st.integers(0, len(good)))], kernel)


@given(st.binary(max_size=4096))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Object.parse(data)
    with pytest.raises(FormatError):
        Object.parse(b"\x7fELF\x02\x01\x01" + data)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_hostile_debugging_information_only_loses_the_source_line(
    good: bytes, data: st.DataObject
) -> None:
    obj = Object.parse(good)
    changed = bytearray(good)
    sections = [s for s in obj.sections if s.name.startswith(".debug") and s.size]
    for _ in range(data.draw(st.integers(1, 8))):
        section = data.draw(st.sampled_from(sections))
        changed[section.offset + data.draw(st.integers(0, section.size - 1))] = data.draw(
            st.integers(0, 255)
        )
    for section in obj.sections:
        if section.executable:
            found = ObjectLines(bytes(changed)).find(section.index, 0)
            assert found is None or isinstance(found, str)
