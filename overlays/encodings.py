# SPDX-License-Identifier: BSD-3-Clause
"""Which instructions an overlay may not have, declared in two tables, and the search of bytes at every offset.

Two bytes and more: refused wherever they stand, for a jump into the middle of an instruction would execute them. One
byte (HLT, CLI, IN …): every text has such bytes inside other instructions, so only real instructions count (scan.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """A forbidden instruction of several bytes."""

    name: str
    pattern: re.Pattern[bytes]
    why: str
    rest: bytes  # the pattern behind its 0x0f, which all have


def _modrm(reg: int, memory: bool, register: bool) -> bytes:
    """A character class of the ModRM bytes with this /reg and an operand of these kinds."""
    mods = ([0, 1, 2] if memory else []) + ([3] if register else [])
    values = sorted(mod << 6 | reg << 3 | rm for mod in mods for rm in range(8))
    return b"[" + b"".join(re.escape(bytes([v])) for v in values) + b"]"


def _encoding(name: str, prefix: str, why: str, tail: bytes = b"") -> Encoding:
    start = bytes.fromhex(prefix)
    _, found, behind = start.partition(b"\x0f")
    rest = re.escape(behind) + tail if found else tail.partition(b"\x0f")[2]
    # A lookahead, so that overlapping occurrences are all found.
    return Encoding(name, re.compile(b"(?=" + re.escape(start) + tail + b")"), why, rest)


_PKRU = "it changes the rights of the protection domain"
_SYSTEM = "it changes the state of the processor"
_KERNEL = "it enters or leaves the kernel past the gates"

MULTI_BYTE: tuple[Encoding, ...] = (
    _encoding("wrpkru", "0f01ef", _PKRU),
    _encoding("xrstor", "0fae", _PKRU, _modrm(5, memory=True, register=False)),
    _encoding("xrstors", "0fc7", _PKRU, _modrm(3, memory=True, register=False)),
    _encoding("wrmsr", "0f30", _SYSTEM),
    _encoding("mov to a control register", "0f22", _SYSTEM),
    _encoding("mov to a debug register", "0f23", _SYSTEM),
    _encoding("lgdt", "0f01", _SYSTEM, _modrm(2, memory=True, register=False)),
    _encoding("lidt", "0f01", _SYSTEM, _modrm(3, memory=True, register=False)),
    _encoding("lmsw", "0f01", _SYSTEM, _modrm(6, memory=True, register=True)),
    _encoding("invlpg", "0f01", _SYSTEM, _modrm(7, memory=True, register=False)),
    _encoding("lldt", "0f00", _SYSTEM, _modrm(2, memory=True, register=True)),
    _encoding("ltr", "0f00", _SYSTEM, _modrm(3, memory=True, register=True)),
    _encoding("xsetbv", "0f01d1", _SYSTEM),
    _encoding("swapgs", "0f01f8", _SYSTEM),
    _encoding("clac", "0f01ca", _SYSTEM),
    _encoding("stac", "0f01cb", _SYSTEM),
    _encoding("wrfsbase", "f30fae", _SYSTEM, _modrm(2, memory=False, register=True)),
    _encoding("wrgsbase", "f30fae", _SYSTEM, _modrm(3, memory=False, register=True)),
    _encoding("wrfsbase", "f3", _SYSTEM, b"[\x40-\x4f]\x0f\xae" + _modrm(2, False, True)),
    _encoding("wrgsbase", "f3", _SYSTEM, b"[\x40-\x4f]\x0f\xae" + _modrm(3, False, True)),
    _encoding("invpcid", "660f3882", _SYSTEM),
    _encoding("syscall", "0f05", _KERNEL),
    _encoding("sysret", "0f07", _KERNEL),
    _encoding("sysenter", "0f34", _KERNEL),
    _encoding("sysexit", "0f35", _KERNEL),
    _encoding("vmcall", "0f01c1", _KERNEL),
    _encoding("vmmcall", "0f01d9", _KERNEL),
)


# Beginning with one byte, which can be looked for quickly; what comes in front of that does not matter yet.
_PERHAPS = re.compile(b"\x0f(?:" + b"|".join(e.rest for e in MULTI_BYTE) + b")")


def find(code: bytes) -> Iterator[tuple[int, Encoding]]:
    """Every occurrence in the bytes, aligned or not."""
    if not _PERHAPS.search(code):  # nearly always, and much faster than one by one
        return
    for encoding in MULTI_BYTE:
        for match in encoding.pattern.finditer(code):
            yield match.start(), encoding
