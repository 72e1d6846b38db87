# SPDX-License-Identifier: BSD-3-Clause
"""What a client's handle holds, and how much of it one connection may hold."""

from __future__ import annotations

from dataclasses import dataclass

from ninep_server.backend import File, Listing, Node

IOHDR = 24  # the room that Rread and Twrite need beside their data (fcall(3))


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
