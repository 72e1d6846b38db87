# SPDX-License-Identifier: BSD-3-Clause
"""The backend for a directory of the host.

A `LocalNode` holds an `O_PATH | O_NOFOLLOW` descriptor and is never resolved from a path a second time, so nothing
that is renamed or replaced meanwhile can lead it out of the export.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from dataclasses import dataclass, field
from functools import partial

from ninep_server.backend import (
    Attributes,
    File,
    Listing,
    Node,
    Space,
    check_name,
    oserror,
    qid_type,
)
from ninep_server.listing import list_directory
from ninep_server.messages import Buffer, Qid
from ninep_server.quota import Quota, inode

_SETTLED_NS = 10**9
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_DIRECTORY
_OPEN_ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FS_IOC_GETVERSION = 0x80087601  # linux/fs.h, for 64-bit long
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of x86-64 and arm64 Linux
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
# What has its metadata in memory or on a disk of this machine. Anything else may wait for somebody.
_LOCAL_TYPES = frozenset(
    b"bcachefs btrfs erofs exfat ext2 ext3 ext4 f2fs iso9660 jfs overlay ramfs squashfs tmpfs vfat xfs zfs".split()
)
# File systems without a disk: reading and writing never waits, though they know no RWF_NOWAIT.
_MEMORY_TYPES = frozenset((b"tmpfs", b"ramfs"))


@dataclass(frozen=True)
class Policy:
    """What an export allows.

    :param readonly: every change is EROFS.
    :param uid: the owner that clients see (squash); None: owners are passed through and may be changed.
    :param max_bytes: by how much clients may let its files grow, in bytes of length; EDQUOT beyond it.
    :param max_files: how many files, directories and links they may make. What they remove is given back.
    :param hidden: prefixes of names that are not shown, found or made: bookkeeping of the host.
    """

    readonly: bool = False
    uid: int | None = None
    gid: int | None = None
    max_bytes: int | None = None
    max_files: int | None = None
    hidden: tuple[bytes, ...] = (b".uio-",)


@dataclass
class Export:
    """What all nodes of one export share. It outlives connections, so that reconnecting refills no quota."""

    policy: Policy
    root_device: int
    quota: Quota | None  # None: nothing is counted
    _types: dict[int, bytes] = field(default_factory=dict)
    # The directory listed last, with what tells whether it is still the same: clients list again and again.
    listed: tuple[tuple[int, ...], Listing] | None = None

    def may_make(self) -> None:
        """:raise OSError: EROFS, or EDQUOT when no more names may be made."""
        self.writable()
        if self.quota is not None:
            self.quota.make()

    def made(self) -> None:
        """A name was made."""
        if self.quota is not None:
            self.quota.made()

    def writable(self) -> None:
        """:raise OSError: EROFS in a read-only export."""
        if self.policy.readonly:
            raise oserror(errno.EROFS)

    def filesystem(self, fd: int, device: int) -> bytes:
        """The type of the file system a descriptor is on; empty if it cannot be told."""
        kind = self._types.get(device)
        if kind is None:
            kind = self._types[device] = _filesystem(fd)
        return kind

    def check(self, name: bytes) -> bytes:
        """A name that a client may look up or make. :raise OSError: EINVAL, ENAMETOOLONG, ENOENT (hidden)."""
        if check_name(name).startswith(self.policy.hidden):
            raise oserror(errno.ENOENT)
        return name


def _filesystem(fd: int) -> bytes:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            mount = next(line.split()[1] for line in info if line.startswith(b"mnt_id:"))
        with open("/proc/self/mountinfo", "rb") as mounts:
            found = next(line for line in mounts if line.split(maxsplit=1)[0] == mount)
        return found.split(b" - ", 1)[1].split()[0]
    except (OSError, StopIteration, IndexError):
        return b""


def _generation(path: str) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN_ALWAYS)
    except OSError:
        return None
    try:
        return int(struct.unpack("<I4x", fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8)))[0])
    except OSError:
        return None
    finally:
        os.close(fd)


class LocalFile(File):
    """An open descriptor, closed with its last user."""

    __slots__ = ("append", "fd", "node", "privileged")

    def __init__(self, fd: int, node: LocalNode, flags: int) -> None:
        self.fd = fd
        self.append = bool(flags & os.O_APPEND)
        mode = os.fstat(fd).st_mode if flags & os.O_ACCMODE else 0
        self.privileged = stat.S_ISREG(mode) and bool(mode & 0o6000)
        self.node = node

    def __del__(self) -> None:
        os.close(self.fd)

    def read_now(self, into: memoryview, offset: int) -> int | None:
        if self.node.in_memory:
            return os.preadv(self.fd, [into], offset)
        try:
            got = os.preadv(self.fd, [into], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        # A short answer may be the end of the cached part rather than of the file.
        if got < len(into) and offset + got < os.fstat(self.fd).st_size:
            return None
        return got

    def read(self, into: memoryview, offset: int) -> int:
        return os.preadv(self.fd, [into], offset)

    def write_now(self, data: Buffer, offset: int) -> int | None:
        return self.write(data, offset) if self.node.in_memory else None

    def write(self, data: Buffer, offset: int) -> int:
        export = self.node.export
        if self.privileged:
            # Whoever writes takes set-user-id away. The kernel spares root, which we may be (CVE-2023-1386).
            os.fchmod(self.fd, stat.S_IMODE(os.fstat(self.fd).st_mode) & ~0o6000)
            self.privileged = False
        if export.quota is None:
            return os.pwrite(self.fd, data, offset)
        before = os.fstat(self.fd)
        # pwrite(2), BUGS: with O_APPEND the offset counts for nothing.
        export.quota.reserve(before, (before.st_size if self.append else offset) + len(data))
        try:
            return os.pwrite(self.fd, data, offset)
        finally:
            export.quota.settle(os.fstat(self.fd))

    def sync(self, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(self.fd)

    def listing(self, limit: int) -> Listing:
        export, status = self.node.export, os.fstat(self.fd)
        up = (self.node.parent or self.node).qid()
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, *up)
        if not self.node.waits and export.listed is not None and export.listed[0] == key:
            if len(export.listed[1].data) > limit:
                raise oserror(errno.ENOMEM)
            return export.listed[1]
        foreign = status.st_dev != export.root_device
        path = partial(self.node.qid_path, status.st_dev) if foreign else None
        listing = list_directory(self.fd, (self.node.qid(), up), export.policy.hidden, path, limit)
        # Times move in steps of some milliseconds: what has changed just now may change again unseen.
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
            export.listed = key, listing
        return listing

    # Open-file-description locks, so that they also hold between clients and against programs on the host.

    def lock(self, kind: int, start: int, length: int) -> bool:
        try:
            fcntl.fcntl(self.fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def locked(self, kind: int, start: int, length: int) -> tuple[int, int, int] | None:
        asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        found, _, at, size, _ = _FLOCK.unpack(fcntl.fcntl(self.fd, _F_OFD_GETLK, asked))
        return None if found == fcntl.F_UNLCK else (found, at, size)


class LocalNode(Node):
    """One file, directory, symbolic link or special file below an export."""

    __slots__ = ("counted", "device", "export", "fd", "filesystem", "known_generation", "waits")

    def __init__(
        self,
        fd: int,
        s: os.stat_result,
        export: Export,
        parent: LocalNode | None = None,
        name: bytes = b"",
    ) -> None:
        super().__init__(parent, name)
        self.fd = fd
        self.export = export
        self.device = s.st_dev
        self.counted = export.quota is not None and stat.S_ISREG(s.st_mode)
        self.known_generation: int | None = None
        if parent is not None and parent.device == s.st_dev:
            self.filesystem: bytes = parent.filesystem
        else:
            self.filesystem = export.filesystem(fd, s.st_dev)
        self.waits = self.filesystem not in _LOCAL_TYPES
        if self.counted and export.quota is not None:
            export.quota.hold(s)

    def __del__(self) -> None:
        s = os.fstat(self.fd) if self.counted else None
        os.close(self.fd)
        if s is not None and self.export.quota is not None:
            self.export.quota.let_go(s)

    @classmethod
    def root(cls, path: str | os.PathLike[str], policy: Policy) -> LocalNode:
        """The top of an export. :raise OSError: it is no directory."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
        s = os.fstat(fd)
        bounded = policy.max_bytes is not None or policy.max_files is not None
        quota = Quota(policy.max_bytes, policy.max_files) if bounded else None
        return cls(fd, s, Export(policy, s.st_dev, quota))

    @property
    def policy(self) -> Policy:
        """What the export allows."""
        return self.export.policy

    @property
    def proc(self) -> str:
        """A path that leads to this very inode, whatever has become of its name (proc_pid_fd(5))."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def in_memory(self) -> bool:
        """On a file system without a disk."""
        return self.filesystem in _MEMORY_TYPES

    def attributes(self) -> Attributes:
        return self._attributes(os.fstat(self.fd))

    def look(self) -> tuple[Attributes, Qid]:
        s = os.fstat(self.fd)
        return self._attributes(s), self._qid(s)

    def _attributes(self, s: os.stat_result) -> Attributes:
        policy = self.export.policy
        return Attributes(
            s.st_mode,
            s.st_uid if policy.uid is None else policy.uid,
            s.st_gid if policy.gid is None else policy.gid,
            s.st_size, s.st_nlink, s.st_rdev, s.st_blksize, s.st_blocks,
            s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns,
        )  # fmt: skip

    def qid(self) -> Qid:
        """Type, version (from mtime and size) and unique path (inode, mixed with a foreign device)."""
        return self._qid(os.fstat(self.fd))

    def _qid(self, s: os.stat_result) -> Qid:
        version = (s.st_mtime_ns ^ (s.st_size << 8)) & 0xFFFFFFFF
        return Qid(qid_type(s.st_mode), version, self.qid_path(s.st_dev, s.st_ino))

    def qid_path(self, device: int, inode: int) -> int:
        """64 bits that differ for different files of the export, mounts below it included."""
        if device == self.export.root_device:
            return inode
        return (inode ^ (device * 0x9E3779B97F4A7C15)) & 0xFFFFFFFFFFFFFFFF

    def generation(self) -> int | None:
        if self.known_generation is None and stat.S_IFMT(os.fstat(self.fd).st_mode) in (
            stat.S_IFREG,
            stat.S_IFDIR,
        ):
            self.known_generation = _generation(self.proc)
        return self.known_generation

    def walk(self, name: bytes) -> tuple[Node, Qid]:
        """The entry of that name; a symbolic link is itself, not where it points."""
        fd = os.open(self.export.check(name), _PATH_FLAGS, dir_fd=self.fd)
        s = os.fstat(fd)
        node = LocalNode(fd, s, self.export, self, name)
        return node, node._qid(s)

    def open(self, flags: int) -> File:
        """Only regular files and directories are ever opened.

        :raise OSError: ELOOP for a symbolic link, EOPNOTSUPP for a device, FIFO or socket.
        """
        s = os.fstat(self.fd)
        if stat.S_ISLNK(s.st_mode):
            raise oserror(errno.ELOOP)
        if not (stat.S_ISREG(s.st_mode) or stat.S_ISDIR(s.st_mode)):
            raise oserror(errno.EOPNOTSUPP)
        flags &= _KEPT_FLAGS
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.export.writable()
        # /proc's link leads to the inode just checked, not to whatever has its name now.
        file = LocalFile(os.open(self.proc, flags | _OPEN_ALWAYS), self, flags)
        if flags & os.O_TRUNC and self.export.quota is not None and self.counted:
            self.export.quota.settle(os.fstat(self.fd))
        return file

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> tuple[Node, File, Qid]:
        """Create a regular file and open it; without O_EXCL, an existing one is opened."""
        self.export.check(name)
        self.export.writable()
        wanted = (flags & _KEPT_FLAGS & ~os.O_DIRECTORY) | _OPEN_ALWAYS | os.O_NOFOLLOW
        if not flags & os.O_EXCL:
            try:
                node, qid = self.walk(name)
                return node, node.open(flags), qid
            except FileNotFoundError:
                pass
        self.export.may_make()
        fd = os.open(name, wanted | os.O_CREAT | os.O_EXCL, self._mode(mode), dir_fd=self.fd)
        try:
            if self.policy.uid is None and os.geteuid() == 0:
                os.chown(fd, -1, gid)
            path_fd = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            os.close(fd)
            raise
        self.export.made()
        s = os.fstat(fd)
        made = LocalNode(path_fd, s, self.export, self, name)
        return made, LocalFile(fd, made, flags), made._qid(s)

    def _mode(self, mode: int) -> int:
        # Squashed, a set-user-id bit would lend the server's own identity to whoever runs the file on the host.
        return mode & (0o7777 if self.policy.uid is None else 0o1777)

    def _made(self, name: bytes, gid: int) -> Qid:
        self.export.made()
        if self.policy.uid is None and os.geteuid() == 0:
            os.chown(name, -1, gid, dir_fd=self.fd, follow_symlinks=False)
        return self.walk(name)[1]

    def mkdir(self, name: bytes, mode: int, gid: int) -> Qid:
        self.export.may_make()
        os.mkdir(self.export.check(name), self._mode(mode), dir_fd=self.fd)
        return self._made(name, gid)

    def symlink(self, name: bytes, target: bytes, gid: int) -> Qid:
        self.export.may_make()
        if not target or b"\0" in target:
            raise oserror(errno.EINVAL)
        os.symlink(target, self.export.check(name), dir_fd=self.fd)
        return self._made(name, gid)

    def mknod(self, name: bytes, mode: int, gid: int) -> Qid:
        """FIFOs, sockets and regular files. Device nodes are EPERM for everybody."""
        self.export.may_make()
        self.export.check(name)
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise oserror(errno.EPERM)
        os.mknod(name, stat.S_IFMT(mode) | self._mode(mode & 0o7777), dir_fd=self.fd)
        return self._made(name, gid)

    def link(self, target: Node, name: bytes) -> None:
        self.export.may_make()
        self.export.check(name)
        if not isinstance(target, LocalNode) or target.export is not self.export:
            raise oserror(errno.EXDEV)
        os.link(target.proc, name, dst_dir_fd=self.fd, follow_symlinks=True)
        self.export.made()

    def unlink(self, name: bytes, directory: bool) -> None:
        self.export.writable()
        self.export.check(name)
        held = self._there(name)
        if directory:
            os.rmdir(name, dir_fd=self.fd)
        else:
            os.unlink(name, dir_fd=self.fd)
        if self.export.quota is not None:
            self.export.quota.removed(held)

    def _there(self, name: bytes) -> os.stat_result | None:
        # What is about to lose this name, where that is to be counted.
        if self.export.quota is None:
            return None
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return None

    def rename(self, old: bytes, target: Node, new: bytes) -> None:
        self.export.writable()
        self.export.check(old)
        self.export.check(new)
        if not isinstance(target, LocalNode) or target.export is not self.export:
            raise oserror(errno.EXDEV)
        source, replaced = self._there(old), target._there(new)
        os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=target.fd)
        if (
            self.export.quota is not None
            and source is not None
            and replaced is not None
            and inode(source) != inode(replaced)  # else rename(2) does nothing
        ):
            self.export.quota.removed(replaced)

    def place(self) -> tuple[Node, bytes]:
        if not isinstance(self.parent, LocalNode):
            raise oserror(errno.EBUSY)
        here = os.fstat(self.fd)
        there = os.stat(self.name, dir_fd=self.parent.fd, follow_symlinks=False)
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise oserror(errno.ESTALE)
        return self.parent, self.name

    def readlink(self) -> bytes:
        if not stat.S_ISLNK(os.fstat(self.fd).st_mode):
            raise oserror(errno.EINVAL)
        return os.readlink(b"", dir_fd=self.fd)

    def chmod(self, mode: int) -> None:
        self.export.writable()
        os.chmod(self.proc, self._mode(mode & 0o7777))

    def chown(self, uid: int, gid: int) -> None:
        """Without effect in a squashed export, where all belongs to one."""
        self.export.writable()
        if self.policy.uid is None:
            os.chown(self.proc, uid, gid)

    def utime(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        self.export.writable()
        s = os.fstat(self.fd)
        os.utime(
            self.proc,
            ns=(
                s.st_atime_ns if atime_ns is None else atime_ns,
                s.st_mtime_ns if mtime_ns is None else mtime_ns,
            ),
        )

    def truncate(self, size: int) -> None:
        self.export.writable()
        s = os.fstat(self.fd)
        if not stat.S_ISREG(s.st_mode):
            raise oserror(errno.EISDIR if stat.S_ISDIR(s.st_mode) else errno.EINVAL)
        quota = self.export.quota
        if quota is not None:
            quota.reserve(s, size)
        try:
            os.truncate(self.proc, size)
        finally:
            if quota is not None:
                quota.settle(os.fstat(self.fd))

    def statfs(self) -> Space:
        s = os.statvfs(self.proc)
        return Space(
            s.f_bsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_fsid,
            s.f_namemax,
        )  # fmt: skip

    def _attributable(self, name: bytes) -> bool:
        # Other than `user.` attributes are the host's security, and `user.` ones exist only on these kinds.
        kind = stat.S_IFMT(os.fstat(self.fd).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise oserror(errno.EOPNOTSUPP)
        return name.startswith(b"user.")

    def listxattr(self) -> bytes:
        self._attributable(b"")
        names = (os.fsencode(n) for n in os.listxattr(self.proc))
        return b"".join(n + b"\0" for n in names if n.startswith(b"user."))

    def getxattr(self, name: bytes) -> bytes:
        if not self._attributable(name):
            raise oserror(errno.ENODATA)
        return os.getxattr(self.proc, name)

    def setxattr(self, name: bytes, value: bytes, flags: int) -> None:
        self.export.writable()
        if not self._attributable(name):
            raise oserror(errno.EOPNOTSUPP)
        if value:
            os.setxattr(self.proc, name, value, flags)
        else:
            os.removexattr(self.proc, name)
