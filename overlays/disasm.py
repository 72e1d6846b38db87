# SPDX-License-Identifier: BSD-3-Clause
"""Capstone for x86-64 through its C interface, loaded only while it is at work.

Its Python package imports the tables of all architectures, and library and package together would cost a daemon some
13 MB for ever; the library that the package brings along is loaded in about a millisecond.
"""

from __future__ import annotations

import _ctypes
import ctypes
import ctypes.util
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from overlays.errors import OverlayError

Insn = tuple[int, int, str, str]  # address, size, mnemonic, operands (Intel syntax)

_ARCH_X86, _MODE_64 = 3, 1 << 3
_MAJOR = 5  # of the interface that _Insn is written for


class _Insn(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_ubyte * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("op_str", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


class Disassembler:
    """One handle of the library, as a context manager; not for several threads at once."""

    def __enter__(self) -> Disassembler:
        self._lib = _load()
        self._handle = ctypes.c_size_t()
        if self._lib.cs_open(_ARCH_X86, _MODE_64, ctypes.byref(self._handle)):
            raise OverlayError("the disassembler does not know x86-64")
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.cs_close(ctypes.byref(self._handle))
        _ctypes.dlclose(self._lib._handle)
        del self._lib

    def instructions(self, code: bytes, address: int, count: int = 0) -> Iterator[Insn]:
        """The instructions of a piece of code, up to the first bytes that are none; at most `count`, 0: all."""
        found = ctypes.POINTER(_Insn)()
        number = self._lib.cs_disasm(
            self._handle, code, len(code), address, count, ctypes.byref(found)
        )
        if not number:
            return
        try:
            for insn in found[:number]:
                yield insn.address, insn.size, insn.mnemonic.decode(), insn.op_str.decode()
        finally:
            self._lib.cs_free(found, number)


@cache
def _candidates() -> list[str]:
    """Where the library may be: in the Python package, else in the system."""
    found: list[str] = []
    spec = importlib.util.find_spec("capstone")  # finds, and does not import
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found += sorted(str(p) for p in Path(place, "lib").glob("libcapstone.so*"))
    return [*found, *filter(None, (ctypes.util.find_library("capstone"),))]


def _load() -> ctypes.CDLL:
    for candidate in _candidates():
        try:
            lib = ctypes.CDLL(candidate)
        except OSError:
            continue
        lib.cs_version.restype = ctypes.c_uint
        if lib.cs_version(None, None) >> 8 != _MAJOR:
            continue
        lib.cs_open.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_size_t))
        lib.cs_close.argtypes = (ctypes.POINTER(ctypes.c_size_t),)
        lib.cs_disasm.argtypes = (ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64,
                                  ctypes.c_size_t, ctypes.POINTER(ctypes.POINTER(_Insn)))  # fmt: skip
        lib.cs_disasm.restype = ctypes.c_size_t
        lib.cs_free.argtypes = (ctypes.POINTER(_Insn), ctypes.c_size_t)
        lib.cs_free.restype = None
        return lib
    raise OverlayError(
        f"capstone {_MAJOR}, which looks for forbidden instructions, is not installed",
        "run: pip install 'capstone>=5,<6'",
    )
