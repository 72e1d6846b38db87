# SPDX-License-Identifier: BSD-3-Clause
"""The channel's frames and what is in them (docs/protocol.md), as tables from which both directions come.

A payload is a dataclass whose fields name their wire format; `encode` and `decode` follow it. Whatever the bytes are,
`decode` gives a payload or raises `ProtocolError`. What frames mean is `channel`'s subject.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final, Generic, Self, TypeVar, cast

VERSION: Final = 1
FRAME_MAX: Final = 65_536
MAGIC: Final = 0x4975
SYNC_MAGIC: Final = b"\x00uIO\xffSYN"
HELLO_MAGIC: Final = b"\x00uIO\xffHEL"
IMAGE_MAGIC: Final = b"\x00uIOIMG1"
HEADER: Final = struct.Struct("<IHBBII")  # length, magic, type, flags, id, arg

ARGV_MAX: Final = 128  # strings
ARGV_BYTES_MAX: Final = 32 * 1024

T = TypeVar("T")


class ProtocolError(Exception):
    """Bytes that are no valid frame, or a frame that is not allowed now. The text says which and why."""


class Type(IntEnum):
    """Frame types; who may send which is in `FROM_GUEST` and `FROM_HOST`."""

    SYNC = 0x01
    HELLO = 0x02
    PING = 0x03
    PONG = 0x04
    RESET = 0x05
    EXEC = 0x10
    IMAGE = 0x11
    CANCEL = 0x12
    WINSIZE = 0x13
    DATA = 0x20
    CREDIT = 0x21
    EXIT = 0x22
    SYMQ = 0x30
    SYMR = 0x31
    LISTQ = 0x32
    LISTR = 0x33
    UNLOAD = 0x34
    LOG = 0x40
    GONE = 0x41


_BOTH = frozenset({Type.RESET, Type.DATA, Type.CREDIT})
FROM_GUEST = _BOTH | {
    Type.HELLO,
    Type.PONG,
    Type.EXIT,
    Type.SYMQ,
    Type.LISTR,
    Type.LOG,
    Type.GONE,
}
FROM_HOST = frozenset(Type) - FROM_GUEST | _BOTH


class Stream(IntEnum):
    """`arg` of DATA and CREDIT."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


class ExecFlag(IntFlag):
    """`arg` of EXEC."""

    TTY = 1
    IMAGE = 2
    LOAD_ONLY = 4


class ExitKind(IntEnum):
    """`arg` of EXIT."""

    OK = 0
    NOT_FOUND = 1
    REFUSED = 2
    ERROR = 3
    FAULT = 4
    TIMEOUT = 5
    CANCELLED = 6
    NEED_IMAGE = 7


class Feature(IntFlag):
    """`features` of HELLO."""

    PKU = 1
    PKS = 2
    BPF = 4
    SIGNATURES = 8
    PREEMPTION = 16
    FAIL_STOP = 32
    W_XOR_X = 64


FEATURE_NAMES: Final = {
    Feature.PKU: "pku",
    Feature.PKS: "pks",
    Feature.BPF: "bpf",
    Feature.SIGNATURES: "signatures",
    Feature.PREEMPTION: "preemption",
    Feature.FAIL_STOP: "fail-stop",
    Feature.W_XOR_X: "w^x",
}

FAULT_KINDS: Final = {
    1: "read",
    2: "write",
    3: "execute",
    4: "invalid opcode",
    5: "divide",
    6: "general protection",
    7: "stack overflow",
    8: "abort",
    9: "alignment",
    10: "budget",
    11: "other",
}

REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


# Wire formats


class Reader:
    """A position in a payload. Every reading past the end is a `ProtocolError`."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        end = self.position + size
        if end > len(self.data):
            raise ProtocolError(
                f"payload ends after {len(self.data)} bytes; {end - len(self.data)} are missing"
            )
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def rest(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.position


@dataclass(frozen=True)
class Format(Generic[T]):
    """How one field is written and read."""

    write: Callable[[bytearray, T], None]
    read: Callable[[Reader], T]
    smallest: int  # bytes that one value takes at least


def _integer(code: str) -> Format[int]:
    layout = struct.Struct("<" + code)

    def write(out: bytearray, value: int) -> None:
        out += layout.pack(value)

    def read(reader: Reader) -> int:
        return int(layout.unpack(reader.take(layout.size))[0])

    return Format(write, read, layout.size)


U8, U16, U32, U64, I32 = (_integer(code) for code in "BHIQi")


def fixed(size: int) -> Format[bytes]:
    """Exactly so many bytes."""

    def write(out: bytearray, value: bytes) -> None:
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes instead of {size}")
        out += value

    return Format(write, lambda reader: bytes(reader.take(size)), size)


def _constant(expected: bytes) -> Format[bytes]:
    def write(out: bytearray, _value: bytes) -> None:
        out += expected

    def read(reader: Reader) -> bytes:
        if (found := bytes(reader.take(len(expected)))) != expected:
            raise ProtocolError(f"{found.hex()} where {expected.hex()} belongs")
        return found

    return Format(write, read, len(expected))


def padding(size: int) -> Format[None]:
    """Bytes without meaning: zero when written, not looked at when read."""

    def write(out: bytearray, _value: None) -> None:
        out += bytes(size)

    def read(reader: Reader) -> None:
        reader.take(size)

    return Format(write, read, size)


def _write_octets(out: bytearray, value: bytes) -> None:
    if len(value) > 0xFFFF:
        raise ValueError(f"a string of {len(value)} bytes")
    out += len(value).to_bytes(2, "little") + value


def _read_octets(reader: Reader) -> bytes:
    return bytes(reader.take(U16.read(reader)))


def _write_text(out: bytearray, value: str) -> None:
    data = value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a string with NUL inside")
    _write_octets(out, data)


def _read_text(reader: Reader) -> str:
    data = _read_octets(reader)
    if b"\0" in data:
        raise ProtocolError("a string with NUL inside")
    return data.decode("utf-8", "surrogateescape")


OCTETS: Final = Format(_write_octets, _read_octets, 2)  # a string of any bytes
TEXT: Final = Format(_write_text, _read_text, 2)  # what is no UTF-8 survives both ways


def array(count: Format[int], item: Format[T], most: int) -> Format[tuple[T, ...]]:
    """A count and so many items, at most `most`."""

    def write(out: bytearray, value: tuple[T, ...]) -> None:
        if len(value) > most:
            raise ValueError(f"{len(value)} items; {most} are allowed")
        count.write(out, len(value))
        for element in value:
            item.write(out, element)

    def read(reader: Reader) -> tuple[T, ...]:
        n = count.read(reader)
        # Checked before anything is made of it: a count is only as good as the bytes behind it.
        if n > most or n * item.smallest > reader.rest():
            raise ProtocolError(f"{n} items in {reader.rest()} bytes; {most} are allowed")
        return tuple(item.read(reader) for _ in range(n))

    return Format(write, read, count.smallest)


def wire(form: Format[T], default: Any = dataclasses.MISSING) -> T:
    """A field of a payload, with its format."""
    return cast(T, dataclasses.field(default=default, metadata={"format": form}))


@dataclass(frozen=True, kw_only=True)
class Payload:
    """Base of payloads: the fields in order are the bytes in order."""

    def encode(self) -> bytes:
        """The bytes. :raise ValueError: a value does not fit its format."""
        out = bytearray()
        self.write(out)
        return bytes(out)

    def write(self, out: bytearray) -> None:
        """Append the bytes."""
        for field in dataclasses.fields(self):
            try:
                field.metadata["format"].write(out, getattr(self, field.name))
            except struct.error as error:
                raise ValueError(f"{field.name}: {error}") from error

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """From a position on. :raise ProtocolError: the bytes are something else."""
        values = {}
        for field in dataclasses.fields(cls):
            try:
                values[field.name] = field.metadata["format"].read(reader)
            except ProtocolError as error:
                raise ProtocolError(f"{cls.__name__}.{field.name}: {error}") from None
        return cls(**values)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """All of the bytes. :raise ProtocolError: the bytes are something else, or more."""
        reader = Reader(data)
        payload = cls.read(reader)
        if reader.rest():
            raise ProtocolError(f"{cls.__name__}: {reader.rest()} bytes too many")
        return payload


def _nested(payload: type[Payload]) -> Format[Any]:
    smallest = sum(field.metadata["format"].smallest for field in dataclasses.fields(payload))

    def write(out: bytearray, value: Payload) -> None:
        value.write(out)

    return Format(write, payload.read, smallest)


# Payloads


@dataclass(frozen=True, kw_only=True)
class Sync(Payload):
    """SYNC: a host begins a session."""

    magic: bytes = wire(_constant(SYNC_MAGIC), SYNC_MAGIC)
    nonce: int = wire(U64)


@dataclass(frozen=True, kw_only=True)
class Hello(Payload):
    """HELLO: the guest accepts it and says what it is."""

    magic: bytes = wire(_constant(HELLO_MAGIC), HELLO_MAGIC)
    nonce: int = wire(U64)
    features: int = wire(U64, 0)
    window: int = wire(U32, 0)
    threads: int = wire(U32, 1)
    uptime: int = wire(U64, 0)  # ns
    image_base: int = wire(U64, 0)
    slide: int = wire(U64, 0)
    arena_base: int = wire(U64, 0)
    arena_size: int = wire(U64, 0)
    push_base: int = wire(U64, 0)
    push_size: int = wire(U64, 0)
    build_id: bytes = wire(OCTETS, b"")
    kernel: str = wire(TEXT, "")
    builtins: tuple[str, ...] = wire(array(U16, TEXT, 1024), ())

    def feature_names(self) -> list[str]:
        """The known ones, in words."""
        return [name for bit, name in FEATURE_NAMES.items() if self.features & bit]


@dataclass(frozen=True, kw_only=True)
class Exec(Payload):
    """EXEC: run a command."""

    timeout_ms: int = wire(U32, 0)
    stdout_credit: int = wire(U32, 0)
    stderr_credit: int = wire(U32, 0)
    rows: int = wire(U16, 0)
    columns: int = wire(U16, 0)
    hash: bytes = wire(fixed(32), bytes(32))
    argv: tuple[str, ...] = wire(array(U16, TEXT, ARGV_MAX))
    env: tuple[str, ...] = wire(array(U16, TEXT, ARGV_MAX), ())


@dataclass(frozen=True, kw_only=True)
class Fault(Payload):
    """The fault record behind EXIT of kind FAULT."""

    kind: int = wire(U8)
    pad: None = wire(padding(7), None)
    ip: int = wire(U64)
    address: int = wire(U64)
    sp: int = wire(U64)
    error_code: int = wire(U64)
    trap: int = wire(U32)
    registers: tuple[int, ...] = wire(array(U32, U64, 64))
    backtrace: tuple[int, ...] = wire(array(U32, U64, 256))


@dataclass(frozen=True, kw_only=True)
class _Exit(Payload):
    status: int = wire(I32, 0)
    message: str = wire(TEXT, "")
    run_ns: int = wire(U64, 0)


@dataclass(frozen=True)
class Exit:
    """EXIT: how a command ended. The one payload whose layout depends on `arg`."""

    kind: ExitKind
    status: int = 0
    message: str = ""
    run_ns: int = 0
    fault: Fault | None = None

    def encode(self) -> bytes:
        """The payload; `kind` goes into `arg`."""
        out = bytearray()
        _Exit(status=self.status, message=self.message, run_ns=self.run_ns).write(out)
        if self.fault is not None:
            self.fault.write(out)
        return bytes(out)

    @classmethod
    def decode(cls, arg: int, data: bytes | bytearray | memoryview) -> Exit:
        """:raise ProtocolError: the bytes are something else."""
        try:
            kind = ExitKind(arg)
        except ValueError:
            raise ProtocolError(f"EXIT of the unknown kind {arg}") from None
        reader = Reader(data)
        head = _Exit.read(reader)
        fault = Fault.read(reader) if kind is ExitKind.FAULT else None
        if reader.rest():
            raise ProtocolError(f"EXIT: {reader.rest()} bytes too many")
        return cls(kind, head.status, head.message, head.run_ns, fault)


@dataclass(frozen=True, kw_only=True)
class Credit(Payload):
    """CREDIT: so many more bytes may be sent."""

    bytes: int = wire(U32)


@dataclass(frozen=True, kw_only=True)
class Digest(Payload):
    """UNLOAD and GONE: the image of this hash."""

    hash: bytes = wire(fixed(32))


@dataclass(frozen=True, kw_only=True)
class SymbolReply(Payload):
    """One element of SYMR."""

    address: int = wire(U64, 0)
    size: int = wire(U32, 0)
    type: int = wire(U8, 0)  # 0 unresolved, 1 function, 2 object
    pad: None = wire(padding(3), None)


@dataclass(frozen=True, kw_only=True)
class Resident(Payload):
    """One element of LISTR."""

    RUNNING = 1
    PUSHED = 2

    hash: bytes = wire(fixed(32))
    base: int = wire(U64, 0)
    size: int = wire(U32, 0)
    uses: int = wire(U32, 0)
    flags: int = wire(U32, 0)
    name: str = wire(TEXT, "")


@dataclass(frozen=True)
class SymbolQuery:
    """SYMQ: an overlay's unresolved names."""

    hash: bytes
    names: tuple[str, ...]

    def encode(self) -> bytes:
        """The payload; the number of names goes into `arg`."""
        out = bytearray(self.hash)
        for name in self.names:
            TEXT.write(out, name)
        return bytes(out)

    @classmethod
    def decode(cls, arg: int, data: bytes | bytearray | memoryview) -> SymbolQuery:
        """:raise ProtocolError: the bytes are something else."""
        reader = Reader(data)
        return cls(bytes(reader.take(32)), _items(reader, arg, TEXT, "SYMQ"))


def encode_items(items: tuple[Payload, ...] | list[Payload]) -> bytes:
    """The payload of SYMR and LISTR; the number goes into `arg`."""
    out = bytearray()
    for item in items:
        item.write(out)
    return bytes(out)


def decode_residents(arg: int, data: bytes | bytearray | memoryview) -> tuple[Resident, ...]:
    """LISTR. :raise ProtocolError: the bytes are something else."""
    return cast("tuple[Resident, ...]", _items(Reader(data), arg, _nested(Resident), "LISTR"))


def decode_symbols(arg: int, data: bytes | bytearray | memoryview) -> tuple[SymbolReply, ...]:
    """SYMR. :raise ProtocolError: the bytes are something else."""
    return cast("tuple[SymbolReply, ...]", _items(Reader(data), arg, _nested(SymbolReply), "SYMR"))


def _items(reader: Reader, count: int, item: Format[T], what: str) -> tuple[T, ...]:
    if count * item.smallest > reader.rest():
        raise ProtocolError(f"{what}: {count} items in {reader.rest()} bytes")
    items = tuple(item.read(reader) for _ in range(count))
    if reader.rest():
        raise ProtocolError(f"{what}: {reader.rest()} bytes too many")
    return items


# Frames


@dataclass(frozen=True)
class Frame:
    """A header and its payload, not yet looked into."""

    type: Type
    id: int = 0
    arg: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes."""
        return frame(self.type, self.id, self.arg, self.payload)


def frame(
    kind: Type, id: int = 0, arg: int = 0, payload: bytes | bytearray | memoryview = b""
) -> bytes:
    """One frame's bytes."""
    if len(payload) > FRAME_MAX:
        raise ValueError(f"a payload of {len(payload)} bytes; {FRAME_MAX} is the maximum")
    return HEADER.pack(len(payload), MAGIC, kind, 0, id, arg) + bytes(payload)


def header(
    data: bytes | bytearray, allowed: frozenset[Type], offset: int = 0
) -> tuple[int, Type, int, int]:
    """(length, type, id, arg) of the header that is at the offset.

    :raise ProtocolError: no header, or one of a type that the sender must not send.
    """
    length, magic, kind, flags, id, arg = HEADER.unpack_from(data, offset)
    if magic != MAGIC:
        raise ProtocolError(f"magic {magic:#06x} where {MAGIC:#06x} belongs")
    if length > FRAME_MAX:
        raise ProtocolError(f"a frame of {length} bytes; {FRAME_MAX} is the maximum")
    if flags:
        raise ProtocolError(f"flags {flags:#x}; there are none in version {VERSION}")
    try:
        known = Type(kind)
    except ValueError:
        raise ProtocolError(f"unknown frame type {kind:#04x}") from None
    if known not in allowed:
        raise ProtocolError(f"{known.name} from the wrong side")
    return length, known, id, arg
