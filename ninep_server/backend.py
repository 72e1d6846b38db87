# SPDX-License-Identifier: BSD-3-Clause
"""What a 9P session asks of the files behind it.

A backend is two small classes: a `Node` is a place in the tree (what a fid is walked to), a `File` is an open node
(what a fid is after Tlopen). The session knows nothing else, so local directories, synthetic files and whatever
somebody adds can be hung into one tree. Errors are `OSError` with the errno that Linux gives; what a backend does not
override is refused with the errno that a read-only file system would give.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ninep_server.messages import QTDIR, QTFILE, QTSYMLINK, Buffer, Qid


def oserror(code: int) -> OSError:
    """An OSError of that errno."""
    return OSError(code, os.strerror(code))


def check_name(name: bytes) -> bytes:
    """A name of one component, as a client may send it.

    :raise OSError: EINVAL for an empty name, `.`, `..`, or one with a slash or NUL; ENAMETOOLONG.
    """
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise oserror(errno.EINVAL)
    if len(name) > 255:
        raise oserror(errno.ENAMETOOLONG)
    return name


class Attributes(NamedTuple):
    """stat(2) as a client shall see it; times in nanoseconds, `blocks` of 512 bytes."""

    mode: int
    uid: int
    gid: int
    size: int
    nlink: int = 1
    rdev: int = 0
    blksize: int = 4096
    blocks: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


class Space(NamedTuple):
    """statfs(2): sizes in blocks of `bsize` bytes."""

    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    fsid: int
    namelen: int


@dataclass
class Listing:
    """A directory as it was when the client began to read it: its entries as sent, and where each one starts."""

    data: bytearray = field(default_factory=bytearray)
    starts: array[int] = field(default_factory=lambda: array("Q", [0]))


# An entry of Rreaddir, readdir(5) of 9P2000.L: qid, offset of the next one, type, length of the name that follows.
ENTRY = struct.Struct("<BIQQBH")

# One name in a directory: name, DT_* of readdir(3), and its qid's type and path. Directories are long and this is
# their inner loop: a plain tuple.
Entry = tuple[bytes, int, int, int]


def qid_type(mode: int) -> int:
    """The type byte of a qid from st_mode."""
    return QTDIR if stat.S_ISDIR(mode) else QTSYMLINK if stat.S_ISLNK(mode) else QTFILE


class File:
    """An open file. Freed by dropping the last reference to it, which may be a request still under way.

    `read_now` and `write_now` must not wait for anything; the session asks them first and takes None for
    "it would have to wait", whereupon it calls `read` or `write` in a thread.
    """

    __slots__ = ()

    def read_now(self, into: memoryview, offset: int) -> int | None:
        """Fill `into` from the offset on: bytes read (less only at the end of the file), or None."""
        return None

    def read(self, into: memoryview, offset: int) -> int:
        """pread(2). May wait."""
        raise oserror(errno.EISDIR)

    def write_now(self, data: Buffer, offset: int) -> int | None:
        """Bytes written, or None."""
        return None

    def write(self, data: Buffer, offset: int) -> int:
        """pwrite(2). May wait."""
        raise oserror(errno.EBADF)

    def sync(self, datasync: bool) -> None:
        """fsync(2) or fdatasync(2). May wait."""

    def entries(self) -> Iterable[Entry]:
        """All names of a directory, `.` and `..` among them."""
        raise oserror(errno.ENOTDIR)

    def listing(self, limit: int) -> Listing:
        """A directory's entries as Rreaddir sends them. :raise OSError: ENOMEM above that many bytes."""
        listing = Listing()
        data, starts, pack, end = listing.data, listing.starts, ENTRY.pack, 0
        for name, kind, qid_type, path in self.entries():
            end += ENTRY.size + len(name)
            if end > limit:
                raise oserror(errno.ENOMEM)
            data += pack(qid_type, 0, path, end, kind, len(name))
            data += name
            starts.append(end)
        return listing

    def lock(self, kind: int, start: int, length: int) -> bool:
        """Set (fcntl's F_RDLCK, F_WRLCK) or drop (F_UNLCK) a lock; False if another has it."""
        raise oserror(errno.EOPNOTSUPP)

    def locked(self, kind: int, start: int, length: int) -> tuple[int, int, int] | None:
        """(kind, start, length) of a lock that is in the way of this one, or None."""
        raise oserror(errno.EOPNOTSUPP)


class Node(ABC):
    """A place in the tree: held by whatever makes the backend safe against renames, never by a path.

    :ivar parent: the directory it was reached from; None for the top of the whole tree.
    :ivar waits: its operations may wait long (network, FUSE), so the session calls them in threads.
    """

    __slots__ = ("name", "parent")

    waits: bool = False

    def __init__(self, parent: Node | None, name: bytes) -> None:
        self.parent = parent
        self.name = name

    @abstractmethod
    def attributes(self) -> Attributes:
        """stat(2)."""

    @abstractmethod
    def qid(self) -> Qid:
        """Type, version (changes with the content) and unique path."""

    def look(self) -> tuple[Attributes, Qid]:
        """Both of the same moment."""
        return self.attributes(), self.qid()

    def generation(self) -> int | None:
        """st_gen, where there is one."""
        return None

    def walk(self, name: bytes) -> tuple[Node, Qid]:
        """The entry of that name. The session answers `.` and `..` from what is held."""
        raise oserror(errno.ENOTDIR)

    def open(self, flags: int) -> File:
        """open(2) with Linux' flags."""
        raise oserror(errno.EACCES)

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> tuple[Node, File, Qid]:
        """open(2) with O_CREAT in this directory."""
        raise oserror(errno.EROFS)

    def mkdir(self, name: bytes, mode: int, gid: int) -> Qid:
        """mkdir(2)."""
        raise oserror(errno.EROFS)

    def symlink(self, name: bytes, target: bytes, gid: int) -> Qid:
        """symlink(2). The target is data: the server never follows it."""
        raise oserror(errno.EROFS)

    def mknod(self, name: bytes, mode: int, gid: int) -> Qid:
        """mknod(2) of FIFOs, sockets and regular files."""
        raise oserror(errno.EROFS)

    def link(self, target: Node, name: bytes) -> None:
        """link(2): a new name in this directory for the target."""
        raise oserror(errno.EROFS)

    def unlink(self, name: bytes, directory: bool) -> None:
        """unlinkat(2)."""
        raise oserror(errno.EROFS)

    def rename(self, old: bytes, target: Node, new: bytes) -> None:
        """renameat(2)."""
        raise oserror(errno.EROFS)

    def place(self) -> tuple[Node, bytes]:
        """The directory and name this node was reached by, if they still lead to it.

        :raise OSError: EBUSY for a top, ESTALE where something else has the name now.
        """
        raise oserror(errno.EROFS)

    def readlink(self) -> bytes:
        """readlink(2)."""
        raise oserror(errno.EINVAL)

    def chmod(self, mode: int) -> None:
        """chmod(2)."""
        raise oserror(errno.EROFS)

    def chown(self, uid: int, gid: int) -> None:
        """chown(2); -1 leaves one as it is."""
        raise oserror(errno.EROFS)

    def utime(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2); None leaves one as it is."""
        raise oserror(errno.EROFS)

    def truncate(self, size: int) -> None:
        """truncate(2)."""
        raise oserror(errno.EROFS)

    def statfs(self) -> Space:
        """statfs(2)."""
        return Space(4096, 0, 0, 0, 0, 0, 0, 255)

    def listxattr(self) -> bytes:
        """The names of its attributes, each ended by NUL."""
        return b""

    def getxattr(self, name: bytes) -> bytes:
        """getxattr(2)."""
        raise oserror(errno.ENODATA)

    def setxattr(self, name: bytes, value: bytes, flags: int) -> None:
        """setxattr(2), or removexattr(2) for an empty value (as the Linux client means it)."""
        raise oserror(errno.EROFS)
