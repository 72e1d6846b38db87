# SPDX-License-Identifier: BSD-3-Clause
"""The messages of a session with the guest (docs/bpf.md): bytes in, messages out, and the other way. No sockets.

What comes from the guest is believed in nothing but its format.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlays.bpf.model import BpfError, MapDef, Object

_HEADER = struct.Struct("<BBHI")
_PLACE = struct.Struct("<IIQ")
_FAULT = struct.Struct("<6IQ")
MESSAGE_MAX = (1 << 20) + 4096  # a row with the largest value
ALL = 0xFFFF_FFFF  # of programs, for detach()


class Type(enum.IntEnum):
    LOAD = 1
    ATTACH = 2
    DETACH = 3
    RUN = 4
    READ = 5
    CLEAR = 6
    ZERO = 7
    STATS = 8
    OK = 0x80
    ERROR = 0x81
    ROWS = 0x82
    RESULT = 0x83
    COUNTS = 0x84
    EVENT = 0x90
    TEXT = 0x91
    STOPPED = 0x92


ENDS = frozenset(
    {Type.OK, Type.ERROR, Type.RESULT, Type.COUNTS}
)  # each request gets one of them, last


@dataclass(frozen=True, slots=True)
class Message:
    type: Type
    seq: int  # of the request; 0: the guest speaks unasked
    payload: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """How a run ended; status 0: well."""

    status: int
    pc: int
    helper: int
    argument: int
    size: int
    rights: int
    address: int
    words: str

    def __str__(self) -> str:
        where = f" at instruction {self.pc}"
        if self.status == 3:
            what = {1: "read", 2: "write"}.get(self.rights, "access")
            where += f" ({what} of {self.size} bytes at {self.address:#x})"
        return self.words + where


@dataclass(frozen=True, slots=True)
class Counts:
    programs: list[tuple[int, int]]  # runs, faults
    maps: list[tuple[int, int]]  # entries, drops
    missed: int
    text_drops: int


# ---- requests


def message(kind: Type, seq: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(kind, 0, seq, len(payload)) + payload


def load(seq: int, wire: bytes) -> bytes:
    return message(Type.LOAD, seq, wire)


def attach(seq: int, program: int, address: int = 0) -> bytes:
    """A program to the function at that address; a timer's has none."""
    return message(Type.ATTACH, seq, _PLACE.pack(program, 0, address))


def detach(seq: int, program: int = ALL, address: int = 0) -> bytes:
    return message(Type.DETACH, seq, _PLACE.pack(program, 0, address))


def run(seq: int, program: int, args: Sequence[str] = ()) -> bytes:
    """:raise BpfError: the arguments are too long, or have NULs inside."""
    strings = b"".join(arg.encode() + b"\0" for arg in args)
    if len(strings) > 4000 or any("\0" in arg for arg in args):
        raise BpfError("the arguments of a program are strings of at most 4000 bytes in all")
    return message(Type.RUN, seq, struct.pack("<I", program) + strings)


def read(seq: int, index: int) -> bytes:
    return message(Type.READ, seq, struct.pack("<I", index))


def clear(seq: int, index: int) -> bytes:
    return message(Type.CLEAR, seq, struct.pack("<I", index))


def zero(seq: int, index: int) -> bytes:
    return message(Type.ZERO, seq, struct.pack("<I", index))


def stats(seq: int) -> bytes:
    return message(Type.STATS, seq)


# ---- what the guest says


class Decoder:
    """Messages out of bytes in pieces of any size."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """:raise BpfError: that is no message."""
        buffer = self._data
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEADER.size:
                kind, zeros, seq, length = _HEADER.unpack_from(buffer, at)
                if zeros or length > MESSAGE_MAX or kind not in _ANSWERS:
                    raise BpfError("what the guest sent is no message of a BPF session")
                end = at + _HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[at + _HEADER.size : end])
                at = end
                yield Message(Type(kind), seq, payload)
        finally:
            del buffer[:at]


_ANSWERS = frozenset(int(kind) for kind in Type if kind >= Type.OK)


def value_of(payload: bytes) -> int:
    """The number of an OK."""
    return int.from_bytes(payload[:4], "little")


def error_of(payload: bytes) -> tuple[int, str]:
    """errno and words of an ERROR."""
    if len(payload) < 4:
        return 0, "refused"
    return -int.from_bytes(payload[:4], "little", signed=True), _words(payload[4:])


def event_of(payload: bytes) -> tuple[int, bytes]:
    """Map and record of an EVENT."""
    if len(payload) < 8:
        raise BpfError("an event from the guest is too short")
    return int.from_bytes(payload[:4], "little"), payload[8:]


def row_of(payload: bytes, definition: MapDef) -> tuple[bytes, bytes, int]:
    """Key, value and thread of a row."""
    key = 4 + definition.key_size
    if len(payload) != key + definition.value_size:
        raise BpfError("a row of a map from the guest has the wrong size")
    return payload[4:key], payload[key:], int.from_bytes(payload[:4], "little")


def fault_of(payload: bytes) -> Fault:
    if len(payload) < _FAULT.size:
        raise BpfError("a message from the guest is too short")
    status, pc, helper, argument, size, rights, address = _FAULT.unpack_from(payload)
    words = _words(payload[_FAULT.size :])
    return Fault(status, pc, helper, argument, size, rights, address, words)


def result_of(payload: bytes) -> tuple[int, Fault]:
    """What a program that was run returned, and how it ended."""
    return int.from_bytes(payload[:8], "little"), fault_of(payload[8:])


def stopped_of(payload: bytes) -> tuple[int, Fault]:
    """A program, and why a run of it was stopped."""
    return int.from_bytes(payload[:4], "little"), fault_of(payload[4:])


def counts_of(payload: bytes, obj: Object) -> Counts:
    programs, maps = len(obj.programs), len(obj.maps)
    if len(payload) != 8 * (2 * programs + 2 * maps + 2):
        raise BpfError("a message from the guest has the wrong size")
    numbers = [number for (number,) in struct.iter_unpack("<Q", payload)]
    rest = numbers[2 * programs :]
    return Counts(
        [(numbers[2 * i], numbers[2 * i + 1]) for i in range(programs)],
        [(rest[2 * i], rest[2 * i + 1]) for i in range(maps)],
        *rest[2 * maps :],
    )


def _words(raw: bytes) -> str:
    text = raw[:400].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
