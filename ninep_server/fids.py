# SPDX-License-Identifier: BSD-3-Clause
"""What a client's handle holds, and how much of it one connection may hold."""

from __future__ import annotations

import errno
import struct
from array import array
from dataclasses import dataclass

from ninep_server.backend import File, Node, oserror

IOHDR = 24  # the room that Rread and Twrite need beside their data (fcall(3))
_ENTRY = struct.Struct(
    "<BIQQBH"
)  # readdir(5) of 9P2000.L: qid, offset of the next, type, length of the name


@dataclass(frozen=True)
class Limits:
    """Bounds of one connection; what goes over them is an error of that request alone.

    :param msize: largest message in bytes. :param fids: open at once. :param in_flight: requests waiting for a disk.
    :param xattr: bytes of one attribute's value. :param xattrs: bytes of all of them under way.
    :param listing: bytes of directory entries held for open directories (some 40 a name).
    """

    msize: int = 512 * 1024 + IOHDR
    fids: int = 4096
    in_flight: int = 64
    xattr: int = 65536
    xattrs: int = 1 << 20
    listing: int = 16 << 20


@dataclass
class XattrWrite:
    """A value on its way in: between Txattrcreate and Tclunk."""

    name: bytes
    size: int
    flags: int
    data: bytearray


@dataclass
class Listing:
    """A directory as it was when the client began to read it: its entries as sent, and where each one starts."""

    data: bytearray
    starts: array[int]


class Fid:
    """A client's handle: a node, and what it has been opened as."""

    __slots__ = ("file", "listing", "node", "xattr_read", "xattr_write")

    def __init__(self, node: Node, file: File | None = None) -> None:
        self.node = node
        self.file = file
        self.listing: Listing | None = None
        self.xattr_read: bytes | None = None
        self.xattr_write: XattrWrite | None = None

    @property
    def used(self) -> bool:
        """Whether it has been opened as anything."""
        return any(x is not None for x in (self.file, self.xattr_read, self.xattr_write))


def list_entries(file: File, limit: int) -> Listing:
    """A directory's entries as Rreaddir sends them. :raise OSError: ENOMEM above that many bytes."""
    listing = Listing(bytearray(), array("Q", [0]))
    data, starts, pack, end = listing.data, listing.starts, _ENTRY.pack, 0
    for name, kind, qid_type, path in file.entries():
        end += _ENTRY.size + len(name)
        if end > limit:
            raise oserror(errno.ENOMEM)
        data += pack(qid_type, 0, path, end, kind, len(name))
        data += name
        starts.append(end)
    return listing
