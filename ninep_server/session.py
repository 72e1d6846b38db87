# SPDX-License-Identifier: BSD-3-Clause
"""One connection's state and what each request does to it. No sockets here: messages in, replies out.

A request that may have to wait for a disk is returned as a `Later`, which the driver runs in a
thread. A fid that is clunked meanwhile keeps its descriptor until that request ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ninep_server.messages import (
    BY_NUMBER,
    NOFID,
    Buffer,
    ProtocolError,
    Qid,
    decode,
    encode,
)
from ninep_server.node import Node, Policy, oserror

VERSION = b"9P2000.L"
IOHDR = 24  # the room that Rread and Twrite need beside their data (fcall(3))
GETATTR_BASIC = 0x7FF  # P9_GETATTR_BASIC of Linux' include/net/9p/9p.h
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of x86-64 and arm64 Linux
F_OFD_GETLK, F_OFD_SETLK = 36, 37
LOCK_SUCCESS, LOCK_BLOCKED, LOCK_ERROR = 0, 1, 2
_LOCK_KINDS = {0: fcntl.F_RDLCK, 1: fcntl.F_WRLCK, 2: fcntl.F_UNLCK}
_LOCK_NUMBERS = {v: k for k, v in _LOCK_KINDS.items()}


@dataclass(frozen=True)
class Limits:
    """Bounds of one connection; what goes over them is an error of that request alone.

    :param msize: largest message in bytes. :param fids: open at once. :param in_flight: requests waiting for a disk.
    :param xattr: bytes of one attribute's value.
    """

    msize: int = 512 * 1024 + IOHDR
    fids: int = 4096
    in_flight: int = 64
    xattr: int = 65536


@dataclass
class Stats:
    """What a server has done, for metrics."""

    ops: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


class OpenFile:
    """A descriptor shared by a fid and by the requests that use it; closed with its last user."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass
class XattrWrite:
    """A value on its way in: between Txattrcreate and Tclunk."""

    name: bytes
    size: int
    flags: int
    data: bytearray


@dataclass
class Fid:
    """A client's handle: a node, and what it has been opened as."""

    node: Node
    file: OpenFile | None = None
    entries: list[tuple[bytes, int, Qid]] | None = None
    xattr_read: bytes | None = None
    xattr_write: XattrWrite | None = None


@dataclass(frozen=True)
class Later:
    """A request that may block: `work` runs in a thread and gives the reply's fields."""

    work: Callable[[], bytes]


class Session:
    """A connection of one client.

    :param root: the tree's top, what Tattach with an empty or any aname gives.
    """

    def __init__(self, root: Node, limits: Limits, stats: Stats) -> None:
        self.root = root
        self.limits = limits
        self.stats = stats
        self.msize = limits.msize
        self.ready = False
        self.fids: dict[int, Fid] = {}

    @property
    def policy(self) -> Policy:
        """What the export allows."""
        return self.root.policy

    def close(self) -> None:
        """Forget all fids, as at the end of the connection."""
        self.fids.clear()

    def handle(self, number: int, tag: int, body: Buffer) -> bytes | Later:
        """Carry out one request.

        :return: the whole reply, or a `Later` whose work makes it.
        :raise ProtocolError: the bytes are no request; the connection should be closed.
        """
        message = BY_NUMBER.get(number)
        if message is None or not message.name.startswith("T"):
            # Linux and diod answer what they do not know; so may a newer client find out.
            return self.failed(tag, errno.EOPNOTSUPP)
        fields = decode(number, body)
        self.stats.ops[message.name] = self.stats.ops.get(message.name, 0) + 1
        if not self.ready and message.name != "Tversion":
            raise ProtocolError(f"{message.name} before Tversion")
        title = "R" + message.name[1:]
        try:
            reply = getattr(self, message.name)(*fields)
            if isinstance(reply, Later):
                return Later(lambda: self._late(title, tag, reply))
            return encode(title, tag, *reply)
        except OSError as error:
            return self.failed(tag, errno.EIO if error.errno is None else error.errno)
        except (OverflowError, ValueError, struct.error):
            # A number that the system call, or the reply, has no room for.
            return self.failed(tag, errno.EINVAL)

    def _late(self, title: str, tag: int, reply: Later) -> bytes:
        try:
            return encode(title, tag, reply.work())
        except OSError as error:
            return self.failed(tag, errno.EIO if error.errno is None else error.errno)
        except (OverflowError, ValueError):
            return self.failed(tag, errno.EINVAL)

    def failed(self, tag: int, code: int) -> bytes:
        """An Rlerror."""
        self.stats.errors += 1
        return encode("Rlerror", tag, code)

    # ---- fids ----

    def fid(self, number: int) -> Fid:
        """The client's fid. :raise OSError: EBADF."""
        found = self.fids.get(number)
        if found is None:
            raise oserror(errno.EBADF)
        return found

    def add(self, number: int, fid: Fid) -> None:
        """A new fid. :raise OSError: EBADF in use, EMFILE too many."""
        if number == NOFID or number in self.fids:
            raise oserror(errno.EBADF)
        if len(self.fids) >= self.limits.fids:
            raise oserror(errno.EMFILE)
        self.fids[number] = fid

    def directory(self, number: int) -> Node:
        """The node of a fid under which a name is looked up."""
        return self.fid(number).node

    # ---- session ----

    def Tversion(self, msize: int, version: bytes) -> tuple[Any, ...]:
        """version(5): everything starts anew. A client of another dialect is told `unknown`."""
        self.fids.clear()
        if msize < 4096:
            raise ProtocolError(f"an msize of {msize} is too small")
        self.msize = min(msize, self.limits.msize)
        self.ready = version == VERSION
        return self.msize, VERSION if self.ready else b"unknown"

    def Tauth(self, _afid: int, _uname: bytes, _aname: bytes, _n_uname: int) -> tuple[Any, ...]:
        """attach(5): none is needed; who may connect is the socket's business.

        Said with an Rlerror of errno 0, by which diod's clients tell "not needed" from "failed" (its npc_auth());
        all others take any Rlerror for it.
        """
        raise OSError(0, "no authentication is needed")

    def Tattach(
        self, fid: int, afid: int, _uname: bytes, _aname: bytes, _n_uname: int
    ) -> tuple[Any, ...]:
        """attach(5)."""
        if afid != NOFID:
            raise oserror(errno.EBADF)
        self.add(fid, Fid(self.root))
        return (self.root.qid(),)

    def Twalk(self, fid: int, newfid: int, wnames: list[bytes]) -> tuple[Any, ...]:
        """walk(5): newfid changes only if all names were found; an error only if not even the first was."""
        source = self.fid(fid)
        if source.file is not None and wnames and newfid == fid:
            raise oserror(errno.EBUSY)
        if newfid != fid and (newfid in self.fids or newfid == NOFID):
            raise oserror(errno.EBADF)
        node, qids = source.node, list[Qid]()
        for name in wnames:
            try:
                node = node.walk(name)
            except OSError:
                if not qids:
                    raise
                break
            qids.append(node.qid())
        if len(qids) == len(wnames):
            if newfid == fid:
                self.fids[fid] = Fid(node, source.file if not wnames else None)
            else:
                self.add(newfid, Fid(node))
        return (qids,)

    def Tclunk(self, fid: int) -> tuple[Any, ...]:
        """clunk(5): the fid is gone even if the attribute it carried cannot be set."""
        state = self.fid(fid)
        del self.fids[fid]
        if (write := state.xattr_write) is not None:
            if len(write.data) != write.size:
                raise oserror(errno.EINVAL)
            state.node.setxattr(write.name, bytes(write.data), write.flags)
        return ()

    # ---- files ----

    def iounit(self) -> int:
        """The most bytes of data that fit one message."""
        return self.msize - IOHDR

    def Tlopen(self, fid: int, flags: int) -> tuple[Any, ...]:
        """open(2)."""
        state = self.fid(fid)
        if state.file is not None or state.xattr_read is not None or state.xattr_write is not None:
            raise oserror(errno.EBUSY)
        state.file = OpenFile(state.node.open(flags))
        return state.node.qid(), self.iounit()

    def Tlcreate(self, fid: int, name: bytes, flags: int, mode: int, gid: int) -> tuple[Any, ...]:
        """open(2) with O_CREAT; the fid becomes the new file."""
        state = self.fid(fid)
        if state.file is not None:
            raise oserror(errno.EBUSY)
        node, fd = state.node.create(name, flags, mode, gid)
        self.fids[fid] = Fid(node, OpenFile(fd))
        return node.qid(), self.iounit()

    def opened(self, fid: int) -> OpenFile:
        """The open file of a fid. :raise OSError: EBADF."""
        file = self.fid(fid).file
        if file is None:
            raise oserror(errno.EBADF)
        return file

    def Tread(self, fid: int, offset: int, count: int) -> tuple[Any, ...] | Later:
        """pread(2): at once what the page cache has, in a thread what has to come from a disk."""
        state = self.fid(fid)
        count = min(count, self.iounit())
        if state.xattr_read is not None:
            return (state.xattr_read[offset : offset + count],)
        file = self.opened(fid)
        try:
            data = bytearray(count)
            got = os.preadv(file.fd, [data], offset, os.RWF_NOWAIT)
            # A short answer may be the end of the cached part rather than of the file.
            if got == count or offset + got >= os.fstat(file.fd).st_size:
                del data[got:]
                self.stats.read_bytes += got
                return (data,)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise

        def work() -> bytes:
            piece = os.pread(file.fd, count, offset)
            self.stats.read_bytes += len(piece)
            return piece

        return Later(work)

    def Twrite(self, fid: int, offset: int, data: memoryview) -> tuple[Any, ...]:
        """pwrite(2)."""
        write = self.fid(fid).xattr_write
        if write is not None:
            if offset != len(write.data) or offset + len(data) > write.size:
                raise oserror(errno.ENOSPC)
            write.data += data
            return (len(data),)
        done = os.pwrite(self.opened(fid).fd, data, offset)
        self.stats.write_bytes += done
        return (done,)

    def Tfsync(self, fid: int, datasync: int) -> tuple[Any, ...]:
        """fsync(2), or fdatasync(2)."""
        file = self.opened(fid)
        (os.fdatasync if datasync else os.fsync)(file.fd)
        return ()

    def Treaddir(self, fid: int, offset: int, count: int) -> tuple[Any, ...]:
        """getdents(2): the names as they were when the client last began at offset 0."""
        state = self.fid(fid)
        file = self.opened(fid)
        if offset == 0 or state.entries is None:
            state.entries = self._scan(state.node, file.fd)
        out = bytearray()
        room = min(count, self.iounit())
        for index in range(offset, len(state.entries)):
            name, kind, qid = state.entries[index]
            entry = struct.pack("<BIQQBH", *qid, index + 1, kind, len(name)) + name
            if len(out) + len(entry) > room:
                break
            out += entry
        return (out,)

    def _scan(self, node: Node, fd: int) -> list[tuple[bytes, int, Qid]]:
        here = os.fstat(fd)
        up = (node.parent or node).qid()
        entries = [
            (b".", 4, Qid(0x80, 0, node.qid_path(here.st_dev, here.st_ino))),
            (b"..", 4, up),
        ]
        with os.scandir(fd) as listing:
            for entry in listing:
                link, directory = entry.is_symlink(), entry.is_dir(follow_symlinks=False)
                kind, qtype = (10, 0x02) if link else (4, 0x80) if directory else (0, 0)
                if not kind and entry.is_file(follow_symlinks=False):
                    kind = 8
                path = node.qid_path(here.st_dev, entry.inode())
                entries.append((os.fsencode(entry.name), kind, Qid(qtype, 0, path)))
        return entries

    # ---- names ----

    def Tmkdir(self, dfid: int, name: bytes, mode: int, gid: int) -> tuple[Any, ...]:
        """mkdir(2)."""
        return (self.directory(dfid).mkdir(name, mode, gid).qid(),)

    def Tsymlink(self, dfid: int, name: bytes, target: bytes, gid: int) -> tuple[Any, ...]:
        """symlink(2)."""
        return (self.directory(dfid).symlink(name, target, gid).qid(),)

    def Tmknod(
        self, dfid: int, name: bytes, mode: int, _major: int, _minor: int, gid: int
    ) -> tuple[Any, ...]:
        """mknod(2) of FIFOs, sockets and files."""
        return (self.directory(dfid).mknod(name, mode, gid).qid(),)

    def Tlink(self, dfid: int, fid: int, name: bytes) -> tuple[Any, ...]:
        """link(2)."""
        self.directory(dfid).link(self.fid(fid).node, name)
        return ()

    def Tunlinkat(self, dirfid: int, name: bytes, flags: int) -> tuple[Any, ...]:
        """unlinkat(2); AT_REMOVEDIR is 0x200."""
        self.directory(dirfid).unlink(name, bool(flags & 0x200))
        return ()

    def Tremove(self, fid: int) -> tuple[Any, ...]:
        """remove(5): the fid is clunked whether or not the file could be removed."""
        node = self.fid(fid).node
        del self.fids[fid]
        parent, name = node.place()
        parent.unlink(name, stat.S_ISDIR(node.stat().st_mode))
        return ()

    def Trename(self, fid: int, dfid: int, name: bytes) -> tuple[Any, ...]:
        """rename(2) of what the fid was walked to."""
        node = self.fid(fid).node
        parent, old = node.place()
        target = self.directory(dfid)
        parent.rename(old, target, name)
        node.parent, node.name = target, name
        return ()

    def Trenameat(
        self, olddirfid: int, oldname: bytes, newdirfid: int, newname: bytes
    ) -> tuple[Any, ...]:
        """renameat(2). Fids keep their inode; Linux' client walks anew by name."""
        self.directory(olddirfid).rename(oldname, self.directory(newdirfid), newname)
        return ()

    def Treadlink(self, fid: int) -> tuple[Any, ...]:
        """readlink(2)."""
        return (self.fid(fid).node.readlink(),)

    # ---- attributes ----

    def Tstatfs(self, fid: int) -> tuple[Any, ...]:
        """statfs(2), with the type V9FS_MAGIC as QEMU and diod answer."""
        s = self.fid(fid).node.statfs()
        return (
            0x01021997, s.f_bsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree,
            s.f_fsid, s.f_namemax,
        )  # fmt: skip

    def Tgetattr(self, fid: int, _request_mask: int) -> tuple[Any, ...]:
        """All of stat(2); btime, gen and data_version are not marked valid."""
        node = self.fid(fid).node
        s = node.stat()
        uid = s.st_uid if self.policy.uid is None else self.policy.uid
        gid = s.st_gid if self.policy.gid is None else self.policy.gid
        times = (divmod(ns, 10**9) for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns))
        return (
            GETATTR_BASIC, node.qid(s), s.st_mode, uid, gid, s.st_nlink, s.st_rdev, s.st_size,
            s.st_blksize, s.st_blocks, *(n for pair in times for n in pair), 0, 0, 0, 0,
        )  # fmt: skip

    def Tsetattr(
        self, fid: int, valid: int, mode: int, uid: int, gid: int, size: int,
        atime_sec: int, atime_nsec: int, mtime_sec: int, mtime_nsec: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        """P9_ATTR_*: mode 1, uid 2, gid 4, size 8, atime 16 (set 128), mtime 32 (set 256), ctime 64."""
        node = self.fid(fid).node
        if max(atime_nsec if valid & 128 else 0, mtime_nsec if valid & 256 else 0) >= 10**9:
            raise oserror(errno.EINVAL)
        if valid & 6:
            node.chown(uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 1:
            node.chmod(mode)
        if valid & 8:
            node.truncate(size)
        if valid & 48:
            s, now = node.stat(), _now_ns()
            atime = atime_sec * 10**9 + atime_nsec if valid & 128 else now
            mtime = mtime_sec * 10**9 + mtime_nsec if valid & 256 else now
            node.utime(
                atime if valid & 16 else s.st_atime_ns, mtime if valid & 32 else s.st_mtime_ns
            )
        return ()

    def Txattrwalk(self, fid: int, newfid: int, name: bytes) -> tuple[Any, ...]:
        """A fid to read one attribute from, or for an empty name the list of them."""
        node = self.fid(fid).node
        value = node.getxattr(name) if name else node.listxattr()
        self.add(newfid, Fid(node, xattr_read=value))
        return (len(value),)

    def Txattrcreate(self, fid: int, name: bytes, attr_size: int, flags: int) -> tuple[Any, ...]:
        """The fid takes the value by Twrite; Tclunk sets it."""
        state = self.fid(fid)
        if state.file is not None:
            raise oserror(errno.EBUSY)
        if attr_size > self.limits.xattr:
            raise oserror(errno.ENOSPC)
        self.fids[fid] = Fid(
            state.node, xattr_write=XattrWrite(name, attr_size, flags, bytearray())
        )
        return ()

    # ---- locks ----

    def Tlock(
        self, fid: int, type: int, _flags: int, start: int, length: int, _pid: int, _client: bytes
    ) -> tuple[Any, ...]:
        """An open-file-description lock of fcntl(2), so that it also holds against programs on the host."""
        flock = _FLOCK.pack(self._lock_kind(type), os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(self.opened(fid).fd, F_OFD_SETLK, flock)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return (LOCK_BLOCKED,)
            raise
        return (LOCK_SUCCESS,)

    def Tgetlock(
        self, fid: int, type: int, start: int, length: int, proc_id: int, client_id: bytes
    ) -> tuple[Any, ...]:
        """Which lock would be in the way; type 2 (unlocked) if none."""
        flock = _FLOCK.pack(self._lock_kind(type), os.SEEK_SET, start, length, 0)
        answer = fcntl.fcntl(self.opened(fid).fd, F_OFD_GETLK, flock)
        kind, _, at, size, _ = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            return 2, start, length, proc_id, client_id
        return _LOCK_NUMBERS[kind], at, size, 0, b""

    @staticmethod
    def _lock_kind(number: int) -> int:
        kind = _LOCK_KINDS.get(number)
        if kind is None:
            raise oserror(errno.EINVAL)
        return kind


def _now_ns() -> int:
    return time.time_ns()
