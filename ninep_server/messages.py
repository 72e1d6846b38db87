# SPDX-License-Identifier: BSD-3-Clause
"""The messages of 9P2000.L as one table, and the codec made from it.

A message is `size[4] type[1] tag[2]` and its fields, little-endian (Plan 9 manual, section 5, intro(5); the .L
messages as in diod's protocol.md and Linux' include/net/9p/9p.h). To add one, add a row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
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


# Reads a field of variable length at a position of a message's body: (value, position behind it).
_Read = Callable[[memoryview, int], tuple[Any, int]]


@dataclass(frozen=True)
class Kind:
    """How a field travels: `code` of the struct module for a fixed size, else a reader and a writer."""

    code: str = ""
    read: _Read | None = None
    write: Callable[[Any], bytes] | None = None


_U16, _U32, _QID = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<BIQ")


def _piece(body: memoryview, at: int, size: int) -> tuple[memoryview, int]:
    if at + size > len(body):
        raise ProtocolError("a field reaches beyond the message")
    return body[at : at + size], at + size


def _number(layout: struct.Struct, body: memoryview, at: int) -> tuple[int, int]:
    if at + layout.size > len(body):
        raise ProtocolError("a field reaches beyond the message")
    return layout.unpack_from(body, at)[0], at + layout.size


def _read_name(body: memoryview, at: int) -> tuple[bytes, int]:
    size, at = _number(_U16, body, at)
    piece, at = _piece(body, at, size)
    return bytes(piece), at


def _write_name(value: bytes) -> bytes:
    return _U16.pack(len(value)) + value


def _read_names(body: memoryview, at: int) -> tuple[list[bytes], int]:
    count, at = _number(_U16, body, at)
    if count > MAX_WALK:
        raise ProtocolError(f"{count} names in one walk, at most {MAX_WALK}")
    found = []
    for _ in range(count):
        one, at = _read_name(body, at)
        found.append(one)
    return found, at


def _read_qid(body: memoryview, at: int) -> tuple[Qid, int]:
    piece, at = _piece(body, at, _QID.size)
    return Qid(*_QID.unpack(piece)), at


def _read_qids(body: memoryview, at: int) -> tuple[list[Qid], int]:
    count, at = _number(_U16, body, at)
    found = []
    for _ in range(count):
        one, at = _read_qid(body, at)
        found.append(one)
    return found, at


def _read_data(body: memoryview, at: int) -> tuple[memoryview, int]:
    size, at = _number(_U32, body, at)
    return _piece(body, at, size)


u8, u16, u32, u64 = (Kind(code) for code in "BHIQ")
# Names are bytes: Linux file names have no encoding.
name = Kind("", _read_name, _write_name)
names = Kind(
    "", _read_names, lambda value: _U16.pack(len(value)) + b"".join(map(_write_name, value))
)
qid = Kind("", _read_qid, lambda value: _QID.pack(*value))
qids = Kind(
    "",
    _read_qids,
    lambda value: _U16.pack(len(value)) + b"".join(_QID.pack(*q) for q in value),
)
data = Kind("", _read_data, lambda value: _U32.pack(len(value)) + bytes(value))


@dataclass(frozen=True)
class Message:
    """One row: its number, its name and its fields in order.

    :ivar optional: so many trailing fields (of fixed size) may be missing; they are read as 0.
    :ivar reply: the name of what answers it; None for a reply.
    """

    number: int
    name: str
    fields: tuple[tuple[str, Kind], ...]
    optional: int = 0

    @cached_property
    def reply(self) -> str | None:
        return "R" + self.name[1:] if self.name[0] == "T" else None

    @cached_property
    def plan(self) -> tuple[struct.Struct | Kind, ...]:
        """Its fields, with neighbours of fixed size in one struct."""
        steps: list[struct.Struct | Kind] = []
        for fixed, group in groupby((kind for _, kind in self.fields), lambda k: bool(k.code)):
            if fixed:
                steps.append(struct.Struct("<" + "".join(kind.code for kind in group)))
            else:
                steps.extend(group)
        return tuple(steps)


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
    _row(103, "Rauth", aqid=qid),
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
    view, at = memoryview(body), 0
    fields: list[Any] = []
    try:
        for step in message.plan:
            if isinstance(step, struct.Struct):
                fields.extend(step.unpack_from(view, at))
                at += step.size
            else:
                assert step.read is not None
                value, at = step.read(view, at)
                fields.append(value)
    except struct.error:
        if not message.optional:
            raise ProtocolError(f"{message.name} is too short") from None
        return _decode_short(message, view)
    if at != len(view):
        raise ProtocolError(f"{message.name} has {len(view) - at} bytes too many")
    return tuple(fields)


def _decode_short(message: Message, view: memoryview) -> tuple[Any, ...]:
    present = message.fields[: -message.optional]
    known = Message(message.number, message.name, present)
    at = 0
    fields: list[Any] = []
    for _, kind in known.fields:
        if kind.code:
            value, at = _number(struct.Struct("<" + kind.code), view, at)
        else:
            assert kind.read is not None
            value, at = kind.read(view, at)
        fields.append(value)
    if at != len(view):
        raise ProtocolError(f"{message.name} has {len(view) - at} bytes too many")
    return (*fields, *([0] * message.optional))


def encode(title: str, tag: int, *values: Any) -> bytes:
    """A whole message from the values of its fields."""
    message = BY_NAME[title]
    if len(values) != len(message.fields):
        raise ValueError(f"{title} has {len(message.fields)} fields, not {len(values)}")
    pieces, at = [], 0
    for step in message.plan:
        if isinstance(step, struct.Struct):
            count = len(step.format) - 1
            pieces.append(step.pack(*values[at : at + count]))
            at += count
        else:
            assert step.write is not None
            pieces.append(step.write(values[at]))
            at += 1
    body = b"".join(pieces)
    return HEADER.pack(HEADER.size + len(body), message.number, tag) + body
