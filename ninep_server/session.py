# SPDX-License-Identifier: BSD-3-Clause
"""One connection's state and what each request does to it. No sockets here: messages in, replies out.

A request that touches files is a generator that yields its system calls, each with the node it is about. What cannot
wait is called at once; the rest is given to the driver as a `Later`, to be run in a thread, and the generator goes on
with the result in the event loop. So the session's state is only ever touched by one thread, and a request finds out
there whether the fid it began with is still what it was.
"""

from __future__ import annotations

import errno
import fcntl
import stat
import struct
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from ninep_server.backend import File, Node, oserror
from ninep_server.fids import IOHDR, Fid, Limits, XattrWrite
from ninep_server.messages import (
    BY_NUMBER,
    NOFID,
    QTDIR,
    Buffer,
    Message,
    ProtocolError,
    Qid,
    decode,
    encode,
)
from ninep_server.stats import Stats

VERSION = b"9P2000.L"
READ_HEADER = struct.Struct("<IBHI")  # of Rread: size, type, tag, count
GETATTR_BASIC, GETATTR_GEN = 0x7FF, 0x1000  # P9_GETATTR_* of Linux' include/net/9p/9p.h
LOCK_SUCCESS, LOCK_BLOCKED = 0, 1
_LOCK_KINDS = {0: fcntl.F_RDLCK, 1: fcntl.F_WRLCK, 2: fcntl.F_UNLCK}
_LOCK_NUMBERS = {v: k for k, v in _LOCK_KINDS.items()}
_BIG_DIRECTORY = 65536  # bytes of st_size from which a directory is listed in a thread


# What a system call may end with; all but OSError are numbers that it, or a message, has no room for.
REFUSALS = (OSError, OverflowError, ValueError, struct.error)

Call = Callable[[], Any]
# A system call and the node it is about; without a node it always waits.
# The end is the values of the reply's fields, or a Data.
Steps = Generator[tuple[Node | None, Call], Any, Any]


class Data:
    """An Rread under way: room for the header, then the bytes, in one buffer."""

    __slots__ = ("buffer", "size")

    def __init__(self, buffer: bytearray, size: int) -> None:
        self.buffer = buffer
        self.size = size


class Later:
    """A request that has to wait: run `call` in a thread, then `resume` here.

    :ivar keeps_body: the call reads the request's body, which must stay as it is until then.
    """

    __slots__ = ("_request", "call", "keeps_body")

    def __init__(self, call: Call, request: _Request) -> None:
        self.call = call
        self.keeps_body = request.message.name == "Twrite"
        self._request = request

    def resume(self, value: Any, error: Exception | None) -> Buffer | Later:
        """Go on with what the call returned or raised: the reply, or the next call to wait for."""
        try:
            return self._request.advance(value, error)
        finally:
            if error is not None:
                # Its traceback leads to frames that know it: a ring that would keep what the request holds, nodes and
                # files among it, until the collector comes by.
                error.__traceback__ = None


class _Request:
    __slots__ = ("began", "message", "session", "steps", "tag")

    def __init__(self, session: Session, message: Message, tag: int, steps: Steps, began: int):
        self.session, self.message, self.tag, self.began = session, message, tag, began
        self.steps = steps

    def advance(self, value: Any, error: Exception | None) -> Buffer | Later:
        session, steps = self.session, self.steps
        try:
            while True:
                node, call = steps.send(value) if error is None else steps.throw(error)
                if node is None or node.waits:
                    return Later(call, self)
                value, error = None, None
                try:
                    value = call()
                except REFUSALS as raised:
                    error = raised
        except StopIteration as stop:
            return session.finish(self.message, self.tag, stop.value, self.began)
        except REFUSALS as raised:
            return session.fail(self.message, self.tag, raised, self.began)
        finally:
            error = None  # no ring, as in Later.resume()


class Session:
    """A connection of one client.

    :param root: the tree's top, what Tattach gives whatever its aname.
    """

    def __init__(self, root: Node, limits: Limits, stats: Stats) -> None:
        self.root = root
        self.limits = limits
        self.stats = stats
        self.msize = limits.msize
        self.ready = False
        self.fids: dict[int, Fid] = {}
        self.xattrs = 0
        # Where replies to reads that need not wait are made. Its content is sent before the next request is looked at.
        self._room = bytearray()

    def close(self) -> None:
        """Forget all fids, as at the end of the connection."""
        self.fids.clear()
        self.xattrs = 0

    def handle(self, number: int, tag: int, body: Buffer) -> Buffer | Later:
        """Carry out one request. `body` is not used any more when this returns, unless a `Later` says so.

        :return: the whole reply, valid until the next call of `handle`, or a `Later` that leads to it.
        :raise ProtocolError: the bytes are no request; the connection should be closed.
        """
        began = time.perf_counter_ns()
        message = BY_NUMBER.get(number)
        if message is None or message.reply is None:
            # Linux and diod answer what they do not know; so may a newer client find out.
            self.stats.errors += 1
            return encode("Rlerror", tag, errno.EOPNOTSUPP)
        fields = decode(number, body)
        if not self.ready and message.name != "Tversion":
            raise ProtocolError(f"{message.name} before Tversion")
        try:
            reply = getattr(self, message.name)(*fields)
        except REFUSALS as error:
            return self.fail(message, tag, error, began)
        if isinstance(reply, Generator):
            return _Request(self, message, tag, reply, began).advance(None, None)
        return self.finish(message, tag, reply, began)

    def finish(self, message: Message, tag: int, reply: Any, began: int) -> Buffer:
        """The reply of a request that succeeded."""
        assert message.reply is not None
        self.stats.operation(message.name).took(time.perf_counter_ns() - began)
        if isinstance(reply, Data):
            self.stats.read_bytes += reply.size
            end = READ_HEADER.size + reply.size
            READ_HEADER.pack_into(reply.buffer, 0, end, message.number + 1, tag, reply.size)
            return memoryview(reply.buffer)[:end]
        try:
            return encode(message.reply, tag, *reply)
        except struct.error:
            # The file system knows numbers that the message has no room for.
            self.stats.errors += 1
            return encode("Rlerror", tag, errno.EOVERFLOW)

    def fail(self, message: Message, tag: int, error: Exception, began: int) -> Buffer:
        """Its Rlerror."""
        self.stats.operation(message.name).took(time.perf_counter_ns() - began)
        self.stats.errors += 1
        code = errno.EINVAL
        if isinstance(error, OSError):
            code = errno.EIO if error.errno is None else error.errno
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

    def replace(self, number: int, old: Fid, new: Fid) -> None:
        """Make a fid another one. :raise OSError: EBADF if another request was there first."""
        if self.fids.get(number) is not old:
            raise oserror(errno.EBADF)
        self.fids[number] = new

    def unopened(self, number: int) -> Fid:
        """A fid that is not open yet. :raise OSError: EBADF, EBUSY."""
        state = self.fid(number)
        if state.used:
            raise oserror(errno.EBUSY)
        return state

    def opened(self, number: int) -> File:
        """The open file of a fid. :raise OSError: EBADF."""
        file = self.fid(number).file
        if file is None:
            raise oserror(errno.EBADF)
        return file

    def held_xattr(self, size: int) -> None:
        """Account for attribute values kept in fids. :raise OSError: ENOSPC."""
        if size > 0 and (size > self.limits.xattr or self.xattrs + size > self.limits.xattrs):
            raise oserror(errno.ENOSPC)
        self.xattrs += size

    def dropped(self, state: Fid) -> None:
        """Account for a fid that is gone."""
        if state.xattr_read is not None:
            self.xattrs -= len(state.xattr_read)
        if state.xattr_write is not None:
            self.xattrs -= state.xattr_write.size

    # ---- session ----

    def Tversion(self, msize: int, version: bytes) -> tuple[Any, ...]:
        """version(5): everything starts anew. A client of another dialect is told `unknown`."""
        self.close()
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

    def Twalk(self, fid: int, newfid: int, wnames: list[bytes]) -> Steps:
        """walk(5): newfid changes only if all names were found; an error only if not even the first was."""
        source = self.fid(fid)
        if newfid == fid:
            if not wnames:
                return ([],)
            if source.used:
                raise oserror(errno.EBUSY)
        elif newfid in self.fids or newfid == NOFID:
            raise oserror(errno.EBADF)
        node, qids = source.node, list[Qid]()
        for name in wnames:
            try:
                if name in (b".", b".."):
                    node, qid = yield node, partial(_relative, node, name)
                else:
                    node, qid = yield node, partial(node.walk, name)
            except OSError:
                if not qids:
                    raise
                break
            qids.append(qid)
        if len(qids) == len(wnames):
            if newfid == fid:
                self.replace(fid, source, Fid(node))
            else:
                self.add(newfid, Fid(node))
        return (qids,)

    def Tclunk(self, fid: int) -> Steps:
        """clunk(5): the fid is gone even if the attribute it carried cannot be set."""
        state = self.fid(fid)
        del self.fids[fid]
        self.dropped(state)
        if (write := state.xattr_write) is not None:
            if len(write.data) != write.size:
                raise oserror(errno.EINVAL)
            value = bytes(write.data)
            yield state.node, partial(state.node.setxattr, write.name, value, write.flags)
        return ()

    # ---- files ----

    def iounit(self) -> int:
        """The most bytes of data that fit one message."""
        return self.msize - IOHDR

    def Tlopen(self, fid: int, flags: int) -> Steps:
        """open(2)."""
        state = self.unopened(fid)
        file, qid = yield state.node, lambda: (state.node.open(flags), state.node.qid())
        if self.unopened(fid) is not state:
            raise oserror(errno.EBADF)
        state.file = file
        return qid, self.iounit()

    def Tlcreate(self, fid: int, name: bytes, flags: int, mode: int, gid: int) -> Steps:
        """open(2) with O_CREAT; the fid becomes the new file."""
        state = self.unopened(fid)
        create = partial(state.node.create, name, flags, mode, gid)
        node, file, qid = yield state.node, create
        if self.unopened(fid) is not state:
            raise oserror(errno.EBADF)
        self.replace(fid, state, Fid(node, file))
        return qid, self.iounit()

    def Tread(self, fid: int, offset: int, count: int) -> Data | Steps:
        """pread(2): at once what is in memory, in a thread what has to come from a disk."""
        state = self.fid(fid)
        count = min(count, self.iounit())
        if len(self._room) < count + READ_HEADER.size:
            self._room = bytearray(count + READ_HEADER.size)
        into = memoryview(self._room)[READ_HEADER.size : READ_HEADER.size + count]
        if state.xattr_read is not None:
            piece = state.xattr_read[offset : offset + count]
            into[: len(piece)] = piece
            return Data(self._room, len(piece))
        file = self.opened(fid)
        got = file.read_now(into, offset)
        return self._read(file, offset, count) if got is None else Data(self._room, got)

    def _read(self, file: File, offset: int, count: int) -> Steps:
        buffer = bytearray(READ_HEADER.size + count)
        into = memoryview(buffer)[READ_HEADER.size :]
        got = yield None, partial(file.read, into, offset)
        into.release()
        return Data(buffer, got)

    def Twrite(self, fid: int, offset: int, data: memoryview) -> Steps:
        """pwrite(2)."""
        write = self.fid(fid).xattr_write
        if write is not None:
            if offset != len(write.data) or offset + len(data) > write.size:
                raise oserror(errno.ENOSPC)
            write.data += data
            return (len(data),)
        file = self.opened(fid)
        done = file.write_now(data, offset)
        if done is None:
            done = yield None, partial(file.write, data, offset)
        self.stats.write_bytes += done
        return (done,)

    def Tfsync(self, fid: int, datasync: int) -> Steps:
        """fsync(2), or fdatasync(2)."""
        yield None, partial(self.opened(fid).sync, bool(datasync))
        return ()

    def Treaddir(self, fid: int, offset: int, count: int) -> Steps:
        """getdents(2): the names as they were when the client last began at offset 0.

        The offset of an entry is where the next one starts in the listing's bytes.
        """
        state, file = self.fid(fid), self.opened(fid)
        listing = state.listing
        if offset == 0 or listing is None:
            state.listing = None  # its room may be needed
            node = state.node
            big = not node.waits and node.attributes().size > _BIG_DIRECTORY
            held = sum(len(f.listing.data) for f in self.fids.values() if f.listing)
            listing = yield (
                None if big else node,
                partial(file.listing, self.limits.listing - held),
            )
            state.listing = listing
        start = bisect_left(listing.starts, offset)
        if start == len(listing.starts) or listing.starts[start] != offset:
            raise oserror(errno.EINVAL)
        room = min(count, self.iounit())
        end = listing.starts[bisect_right(listing.starts, offset + room) - 1]
        if end == offset and offset < len(listing.data):
            raise oserror(errno.EINVAL)  # not even one fits, as getdents(2) says it
        return (memoryview(listing.data)[offset:end],)

    # ---- names ----

    def Tmkdir(self, dfid: int, name: bytes, mode: int, gid: int) -> Steps:
        """mkdir(2)."""
        node = self.fid(dfid).node
        return ((yield node, partial(node.mkdir, name, mode, gid)),)

    def Tsymlink(self, dfid: int, name: bytes, target: bytes, gid: int) -> Steps:
        """symlink(2)."""
        node = self.fid(dfid).node
        return ((yield node, partial(node.symlink, name, target, gid)),)

    def Tmknod(
        self, dfid: int, name: bytes, mode: int, _major: int, _minor: int, gid: int
    ) -> Steps:
        """mknod(2) of FIFOs, sockets and files."""
        node = self.fid(dfid).node
        return ((yield node, partial(node.mknod, name, mode, gid)),)

    def Tlink(self, dfid: int, fid: int, name: bytes) -> Steps:
        """link(2)."""
        node, target = self.fid(dfid).node, self.fid(fid).node
        yield node, partial(node.link, target, name)
        return ()

    def Tunlinkat(self, dirfid: int, name: bytes, flags: int) -> Steps:
        """unlinkat(2); AT_REMOVEDIR is 0x200."""
        node = self.fid(dirfid).node
        yield node, partial(node.unlink, name, bool(flags & 0x200))
        return ()

    def Tremove(self, fid: int) -> Steps:
        """remove(5): the fid is clunked whether or not the file could be removed."""
        state = self.fid(fid)
        del self.fids[fid]
        self.dropped(state)

        def remove() -> None:
            parent, name = state.node.place()
            parent.unlink(name, stat.S_ISDIR(state.node.attributes().mode))

        yield state.node, remove
        return ()

    def Trename(self, fid: int, dfid: int, name: bytes) -> Steps:
        """rename(2) of what the fid was walked to."""
        node, target = self.fid(fid).node, self.fid(dfid).node

        def rename() -> None:
            parent, old = node.place()
            parent.rename(old, target, name)

        yield node, rename
        node.parent, node.name = target, name
        return ()

    def Trenameat(self, olddirfid: int, oldname: bytes, newdirfid: int, newname: bytes) -> Steps:
        """renameat(2). Fids keep their inode; Linux' client walks anew by name."""
        node, target = self.fid(olddirfid).node, self.fid(newdirfid).node
        yield node, partial(node.rename, oldname, target, newname)
        return ()

    def Treadlink(self, fid: int) -> Steps:
        """readlink(2)."""
        node = self.fid(fid).node
        return ((yield node, node.readlink),)

    # ---- attributes ----

    def Tstatfs(self, fid: int) -> Steps:
        """statfs(2), with the type V9FS_MAGIC as QEMU and diod answer."""
        node = self.fid(fid).node
        return (0x01021997, *(yield node, node.statfs))

    def Tgetattr(self, fid: int, request_mask: int) -> Steps:
        """All of stat(2), and st_gen; btime and data_version are not marked valid."""
        node = self.fid(fid).node
        wants_gen = request_mask & GETATTR_GEN

        def ask() -> tuple[Any, ...]:
            return *node.look(), node.generation() if wants_gen else None

        a, qid, generation = yield node, ask
        valid = GETATTR_BASIC | (GETATTR_GEN if generation is not None else 0)
        return (
            valid, qid, a.mode, a.uid, a.gid, a.nlink, a.rdev, a.size, a.blksize, a.blocks,
            *divmod(a.atime_ns, 10**9), *divmod(a.mtime_ns, 10**9), *divmod(a.ctime_ns, 10**9),
            0, 0, generation or 0, 0,
        )  # fmt: skip

    def Tsetattr(
        self, fid: int, valid: int, mode: int, uid: int, gid: int, size: int,
        atime_sec: int, atime_nsec: int, mtime_sec: int, mtime_nsec: int,
    ) -> Steps:  # fmt: skip
        """P9_ATTR_*: mode 1, uid 2, gid 4, size 8, atime 16 (set 128), mtime 32 (set 256), ctime 64."""
        node = self.fid(fid).node
        if max(atime_nsec if valid & 128 else 0, mtime_nsec if valid & 256 else 0) >= 10**9:
            raise oserror(errno.EINVAL)

        def change() -> None:
            if valid & 6:
                node.chown(uid if valid & 2 else -1, gid if valid & 4 else -1)
            if valid & 1:
                node.chmod(mode)
            if valid & 8:
                node.truncate(size)
            if valid & 48:
                now = time.time_ns()
                atime = atime_sec * 10**9 + atime_nsec if valid & 128 else now
                mtime = mtime_sec * 10**9 + mtime_nsec if valid & 256 else now
                node.utime(atime if valid & 16 else None, mtime if valid & 32 else None)

        yield node, change
        return ()

    def Txattrwalk(self, fid: int, newfid: int, name: bytes) -> Steps:
        """A fid to read one attribute from, or for an empty name the list of them."""
        node = self.fid(fid).node
        value = yield node, partial(node.getxattr, name) if name else node.listxattr
        self.held_xattr(len(value))
        made = Fid(node)
        made.xattr_read = value
        try:
            self.add(newfid, made)
        except OSError:
            self.dropped(made)
            raise
        return (len(value),)

    def Txattrcreate(self, fid: int, name: bytes, attr_size: int, flags: int) -> tuple[Any, ...]:
        """The fid takes the value by Twrite; Tclunk sets it."""
        state = self.unopened(fid)
        self.held_xattr(attr_size)
        self.fids[fid] = made = Fid(state.node)
        made.xattr_write = XattrWrite(name, attr_size, flags, bytearray())
        return ()

    # ---- locks ----

    def Tlock(
        self, fid: int, type: int, _flags: int, start: int, length: int, _pid: int, _client: bytes
    ) -> Steps:
        """fcntl(2)'s F_SETLK. A client that wants to wait asks again (P9_LOCK_BLOCKED, as v9fs does)."""
        kind, file = _lock_kind(type), self.opened(fid)
        call = partial(file.lock, kind, start, length)
        done = yield self.fid(fid).node, call
        return (LOCK_SUCCESS if done else LOCK_BLOCKED,)

    def Tgetlock(
        self, fid: int, type: int, start: int, length: int, proc_id: int, client_id: bytes
    ) -> Steps:
        """Which lock would be in the way; type 2 (unlocked) if none.

        Linux' client always asks with type 2 (v9fs_file_getlock()) and means any lock, so that is what it is told.
        """
        wanted, file = _lock_kind(type), self.opened(fid)
        wanted = fcntl.F_WRLCK if wanted == fcntl.F_UNLCK else wanted
        found = yield self.fid(fid).node, partial(file.locked, wanted, start, length)
        if found is None:
            return 2, start, length, proc_id, client_id
        kind, at, size = found
        return _LOCK_NUMBERS[kind], at, size, 0, b""


def _lock_kind(number: int) -> int:
    kind = _LOCK_KINDS.get(number)
    if kind is None:
        raise oserror(errno.EINVAL)
    return kind


def _relative(node: Node, name: bytes) -> tuple[Node, Qid]:
    # `.` and `..` are answered from what is held already, never by the kernel, for which `..` may lead out of the
    # export. The top is its own parent (walk(5)).
    if not node.qid().type & QTDIR:
        raise oserror(errno.ENOTDIR)
    found = node if name == b"." else node.parent or node
    return found, found.qid()
