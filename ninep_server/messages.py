# SPDX-License-Identifier: BSD-3-Clause
"""The messages of 9P2000.L as one table, and the codec made from it.

A message is `size[4] type[1] tag[2]` and its fields, little-endian (Plan 9 manual, section 5, intro(5); the .L
messages as in diod's protocol.md and Linux' include/net/9p/9p.h). To add one, add a row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

HEADER = struct.Struct("<IBH")
NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
MAX_WALK = 16  # MAXWELEM of walk(5)

Buffer = bytes | bytearray | memoryview


class ProtocolError(Exception):
    """The peer sent bytes that are no 9P message; the connection cannot go on."""


class Qid(NamedTuple):
    """The server's name for a file: type (the high bits of its mode), version and a unique path."""

    type: int
    version: int
    path: int


QTDIR, QTSYMLINK, QTFILE = 0x80, 0x02, 0x00
_QID = struct.Struct("<BIQ")


class _Reader:
    __slots__ = ("data", "position")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            raise ProtocolError("a field reaches beyond the message")
        piece = self.data[self.position : end]
        self.position = end
        return piece


@dataclass(frozen=True)
class Kind:
    """How a field is read and written."""

    read: Callable[[_Reader], Any]
    write: Callable[[Any], bytes]


def _integer(code: str) -> Kind:
    layout = struct.Struct("<" + code)
    return Kind(lambda r: layout.unpack(r.take(layout.size))[0], layout.pack)


u8, u16, u32, u64 = (_integer(code) for code in "BHIQ")


def _read_bytes16(reader: _Reader) -> bytes:
    return bytes(reader.take(u16.read(reader)))


def _write_bytes16(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value


def _read_names(reader: _Reader) -> list[bytes]:
    count = u16.read(reader)
    if count > MAX_WALK:
        raise ProtocolError(f"{count} names in one walk, at most {MAX_WALK}")
    return [_read_bytes16(reader) for _ in range(count)]


def _read_data(reader: _Reader) -> memoryview:
    return reader.take(u32.read(reader))


# Names are bytes: Linux file names have no encoding.
name = Kind(_read_bytes16, _write_bytes16)
names = Kind(
    _read_names, lambda value: struct.pack("<H", len(value)) + b"".join(map(_write_bytes16, value))
)
qid = Kind(lambda r: Qid(*_QID.unpack(r.take(13))), lambda value: _QID.pack(*value))
qids = Kind(
    lambda r: [qid.read(r) for _ in range(u16.read(r))],
    lambda value: struct.pack("<H", len(value)) + b"".join(_QID.pack(*q) for q in value),
)
data = Kind(_read_data, lambda value: struct.pack("<I", len(value)) + bytes(value))


@dataclass(frozen=True)
class Message:
    """One row: its number, its name and its fields in order."""

    number: int
    name: str
    fields: tuple[tuple[str, Kind], ...]
    optional: int = 0  # so many trailing fields may be missing (read as 0)


def _row(number: int, title: str, optional: int = 0, /, **fields: Kind) -> Message:
    return Message(number, title, tuple(fields.items()), optional)


MESSAGES = (
    _row(7, "Rlerror", ecode=u32),
    _row(8, "Tstatfs", fid=u32),
    _row(
        9, "Rstatfs", type=u32, bsize=u32, blocks=u64, bfree=u64, bavail=u64, files=u64,
        ffree=u64, fsid=u64, namelen=u32,
    ),
    _row(12, "Tlopen", fid=u32, flags=u32),
    _row(13, "Rlopen", qid=qid, iounit=u32),
    _row(14, "Tlcreate", fid=u32, name=name, flags=u32, mode=u32, gid=u32),
    _row(15, "Rlcreate", qid=qid, iounit=u32),
    _row(16, "Tsymlink", dfid=u32, name=name, target=name, gid=u32),
    _row(17, "Rsymlink", qid=qid),
    _row(18, "Tmknod", dfid=u32, name=name, mode=u32, major=u32, minor=u32, gid=u32),
    _row(19, "Rmknod", qid=qid),
    _row(20, "Trename", fid=u32, dfid=u32, name=name),
    _row(21, "Rrename"),
    _row(22, "Treadlink", fid=u32),
    _row(23, "Rreadlink", target=name),
    _row(24, "Tgetattr", fid=u32, request_mask=u64),
    _row(
        25, "Rgetattr", valid=u64, qid=qid, mode=u32, uid=u32, gid=u32, nlink=u64, rdev=u64,
        size=u64, blksize=u64, blocks=u64, atime_sec=u64, atime_nsec=u64, mtime_sec=u64,
        mtime_nsec=u64, ctime_sec=u64, ctime_nsec=u64, btime_sec=u64, btime_nsec=u64, gen=u64,
        data_version=u64,
    ),
    _row(
        26, "Tsetattr", fid=u32, valid=u32, mode=u32, uid=u32, gid=u32, size=u64, atime_sec=u64,
        atime_nsec=u64, mtime_sec=u64, mtime_nsec=u64,
    ),
    _row(27, "Rsetattr"),
    _row(30, "Txattrwalk", fid=u32, newfid=u32, name=name),
    _row(31, "Rxattrwalk", size=u64),
    _row(32, "Txattrcreate", fid=u32, name=name, attr_size=u64, flags=u32),
    _row(33, "Rxattrcreate"),
    _row(40, "Treaddir", fid=u32, offset=u64, count=u32),
    _row(41, "Rreaddir", data=data),
    _row(50, "Tfsync", 1, fid=u32, datasync=u32),
    _row(51, "Rfsync"),
    _row(
        52, "Tlock", fid=u32, type=u8, flags=u32, start=u64, length=u64, proc_id=u32,
        client_id=name,
    ),
    _row(53, "Rlock", status=u8),
    _row(54, "Tgetlock", fid=u32, type=u8, start=u64, length=u64, proc_id=u32, client_id=name),
    _row(55, "Rgetlock", type=u8, start=u64, length=u64, proc_id=u32, client_id=name),
    _row(70, "Tlink", dfid=u32, fid=u32, name=name),
    _row(71, "Rlink"),
    _row(72, "Tmkdir", dfid=u32, name=name, mode=u32, gid=u32),
    _row(73, "Rmkdir", qid=qid),
    _row(74, "Trenameat", olddirfid=u32, oldname=name, newdirfid=u32, newname=name),
    _row(75, "Rrenameat"),
    _row(76, "Tunlinkat", dirfid=u32, name=name, flags=u32),
    _row(77, "Runlinkat"),
    _row(100, "Tversion", msize=u32, version=name),
    _row(101, "Rversion", msize=u32, version=name),
    _row(102, "Tauth", 1, afid=u32, uname=name, aname=name, n_uname=u32),
    _row(104, "Tattach", 1, fid=u32, afid=u32, uname=name, aname=name, n_uname=u32),
    _row(105, "Rattach", qid=qid),
    _row(108, "Tflush", oldtag=u16),
    _row(109, "Rflush"),
    _row(110, "Twalk", fid=u32, newfid=u32, wnames=names),
    _row(111, "Rwalk", wqids=qids),
    _row(116, "Tread", fid=u32, offset=u64, count=u32),
    _row(117, "Rread", data=data),
    _row(118, "Twrite", fid=u32, offset=u64, data=data),
    _row(119, "Rwrite", count=u32),
    _row(120, "Tclunk", fid=u32),
    _row(121, "Rclunk"),
    _row(122, "Tremove", fid=u32),
    _row(123, "Rremove"),
)  # fmt: skip

BY_NUMBER = {message.number: message for message in MESSAGES}
BY_NAME = {message.name: message for message in MESSAGES}


def decode(number: int, body: Buffer) -> tuple[Any, ...]:
    """The fields of a message's body. Data fields are views into it, not copies.

    :raise ProtocolError: no such message, a field too long, or bytes left over.
    """
    message = BY_NUMBER.get(number)
    if message is None:
        raise ProtocolError(f"no message of type {number}")
    reader = _Reader(memoryview(body))
    fields: list[Any] = []
    required = len(message.fields) - message.optional
    for index, (_, kind) in enumerate(message.fields):
        if index >= required and reader.position == len(reader.data):
            fields.append(0)
        else:
            fields.append(kind.read(reader))
    if reader.position != len(reader.data):
        raise ProtocolError(
            f"{message.name} has {len(reader.data) - reader.position} bytes too many"
        )
    return tuple(fields)


def encode(title: str, tag: int, *values: Any) -> bytes:
    """A whole message from the values of its fields."""
    message = BY_NAME[title]
    body = b"".join(kind.write(v) for (_, kind), v in zip(message.fields, values, strict=True))
    return HEADER.pack(HEADER.size + len(body), message.number, tag) + body
