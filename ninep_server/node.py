# SPDX-License-Identifier: BSD-3-Clause
"""A file of the exported tree, held by descriptor.

A `Node` is an `O_PATH | O_NOFOLLOW` descriptor and is never resolved from a path a second time,
so nothing that is renamed or replaced meanwhile can lead it out of the export. Errors are `OSError`, with
the errno that Linux gives.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from ninep_server.messages import QTDIR, QTFILE, QTSYMLINK, Qid

_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_DIRECTORY
_OPEN_ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


def oserror(code: int) -> OSError:
    """An OSError of that errno."""
    return OSError(code, os.strerror(code))


@dataclass(frozen=True)
class Policy:
    """What an export allows.

    :param readonly: every change is EROFS.
    :param uid: the owner that clients see (squash); None: owners are passed through and may be changed.
    """

    readonly: bool = False
    uid: int | None = None
    gid: int | None = None


def check_name(name: bytes) -> bytes:
    """A name of one component, as a client may send it.

    :raise OSError: EINVAL for an empty name, `.`, `..`, or one with a slash or NUL; ENAMETOOLONG.
    """
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise oserror(errno.EINVAL)
    if len(name) > 255:
        raise oserror(errno.ENAMETOOLONG)
    return name


class Node:
    """One file, directory, symbolic link or special file below an export. Closed when the last reference goes."""

    __slots__ = ("fd", "name", "parent", "policy", "root_device")

    def __init__(
        self,
        fd: int,
        policy: Policy,
        root_device: int,
        parent: Node | None = None,
        name: bytes = b"",
    ) -> None:
        self.fd = fd
        self.policy = policy
        self.root_device = root_device
        self.parent = parent
        self.name = name

    def __del__(self) -> None:
        os.close(self.fd)

    @classmethod
    def root(cls, path: str | os.PathLike[str], policy: Policy) -> Node:
        """The export's top. :raise OSError: it is no directory."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
        return cls(fd, policy, os.fstat(fd).st_dev)

    @property
    def proc(self) -> str:
        """A path that leads to this very inode, whatever has become of its name (proc_pid_fd(5))."""
        return f"/proc/self/fd/{self.fd}"

    def stat(self) -> os.stat_result:
        """fstat(2); in a squashed export, with the export's owner."""
        return os.fstat(self.fd)

    def qid(self, st: os.stat_result | None = None) -> Qid:
        """Type, version (from mtime and size) and unique path (inode, mixed with a foreign device)."""
        st = st or os.fstat(self.fd)
        kind = (
            QTDIR if stat.S_ISDIR(st.st_mode) else QTSYMLINK if stat.S_ISLNK(st.st_mode) else QTFILE
        )
        version = (st.st_mtime_ns ^ (st.st_size << 8)) & 0xFFFFFFFF
        return Qid(kind, version, self.qid_path(st.st_dev, st.st_ino))

    def qid_path(self, device: int, inode: int) -> int:
        """64 bits that differ for different files of the export, mounts below it included."""
        if device == self.root_device:
            return inode
        return (inode ^ (device * 0x9E3779B97F4A7C15)) & 0xFFFFFFFFFFFFFFFF

    def walk(self, name: bytes) -> Node:
        """The entry of that name; a symbolic link is itself, not where it points.

        `.` and `..` are answered from what is held already (the top is its own parent, walk(5)), never by the kernel,
        for which `..` may lead out of the export.
        """
        if name in (b".", b".."):
            if not stat.S_ISDIR(os.fstat(self.fd).st_mode):
                raise oserror(errno.ENOTDIR)
            return self if name == b"." else self.parent or self
        fd = os.open(check_name(name), _PATH_FLAGS, dir_fd=self.fd)
        return Node(fd, self.policy, self.root_device, self, name)

    def writable(self) -> None:
        """:raise OSError: EROFS in a read-only export."""
        if self.policy.readonly:
            raise oserror(errno.EROFS)

    def open(self, flags: int) -> int:
        """A descriptor for reading or writing. Only regular files and directories are ever opened.

        :raise OSError: ELOOP for a symbolic link, EOPNOTSUPP for a device, FIFO or socket.
        """
        mode = os.fstat(self.fd).st_mode
        if stat.S_ISLNK(mode):
            raise oserror(errno.ELOOP)
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise oserror(errno.EOPNOTSUPP)
        flags &= _KEPT_FLAGS
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.writable()
        # Not O_NOFOLLOW here: the last component is /proc's link, which leads to the inode already checked.
        return os.open(self.proc, flags | (_OPEN_ALWAYS & ~os.O_NOFOLLOW))

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> tuple[Node, int]:
        """Create a regular file and open it; without O_EXCL, an existing one is opened."""
        check_name(name)
        self.writable()
        wanted = (flags & _KEPT_FLAGS & ~os.O_DIRECTORY) | _OPEN_ALWAYS
        try:
            fd = os.open(name, wanted | os.O_CREAT | os.O_EXCL, self._mode(mode), dir_fd=self.fd)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            node = self.walk(name)
            return node, node.open(flags)
        try:
            self._own(fd, gid)
            path_fd = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            os.close(fd)
            raise
        return Node(path_fd, self.policy, self.root_device, self, name), fd

    def _mode(self, mode: int) -> int:
        # Squashed, a set-user-id bit would lend the server's own identity to whoever runs the file on the host.
        return mode & (0o7777 if self.policy.uid is None else 0o1777)

    def _own(self, fd: int, gid: int) -> None:
        if self.policy.uid is None and os.geteuid() == 0:
            os.chown(fd, -1, gid)

    def _made(self, name: bytes, gid: int) -> Node:
        node = self.walk(name)
        if self.policy.uid is None and os.geteuid() == 0:
            os.chown(name, -1, gid, dir_fd=self.fd, follow_symlinks=False)
        return node

    def mkdir(self, name: bytes, mode: int, gid: int) -> Node:
        """mkdir(2)."""
        self.writable()
        os.mkdir(check_name(name), self._mode(mode), dir_fd=self.fd)
        return self._made(name, gid)

    def symlink(self, name: bytes, target: bytes, gid: int) -> Node:
        """symlink(2). The target is data: the server never follows it."""
        self.writable()
        if not target or b"\0" in target:
            raise oserror(errno.EINVAL)
        os.symlink(target, check_name(name), dir_fd=self.fd)
        return self._made(name, gid)

    def mknod(self, name: bytes, mode: int, gid: int) -> Node:
        """mknod(2) of FIFOs, sockets and empty files. Device nodes are EPERM for everybody."""
        self.writable()
        check_name(name)
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise oserror(errno.EPERM)
        os.mknod(name, stat.S_IFMT(mode) | self._mode(mode & 0o7777), dir_fd=self.fd)
        return self._made(name, gid)

    def link(self, target: Node, name: bytes) -> None:
        """linkat(2): a new name in this directory for the target's inode."""
        self.writable()
        check_name(name)
        os.link(target.proc, name, dst_dir_fd=self.fd, follow_symlinks=True)

    def unlink(self, name: bytes, directory: bool) -> None:
        """unlinkat(2)."""
        self.writable()
        check_name(name)
        if directory:
            os.rmdir(name, dir_fd=self.fd)
        else:
            os.unlink(name, dir_fd=self.fd)

    def rename(self, old: bytes, target: Node, new: bytes) -> None:
        """renameat(2)."""
        self.writable()
        target.writable()
        os.rename(check_name(old), check_name(new), src_dir_fd=self.fd, dst_dir_fd=target.fd)

    def place(self) -> tuple[Node, bytes]:
        """The directory and name this node was reached by, if they still lead to it.

        :raise OSError: EBUSY for the export's top, ESTALE where something else has the name now.
        """
        if self.parent is None:
            raise oserror(errno.EBUSY)
        here, there = (
            os.fstat(self.fd),
            os.stat(self.name, dir_fd=self.parent.fd, follow_symlinks=False),
        )
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise oserror(errno.ESTALE)
        return self.parent, self.name

    def readlink(self) -> bytes:
        """readlinkat(2) of the link itself. :raise OSError: EINVAL for anything else."""
        if not stat.S_ISLNK(os.fstat(self.fd).st_mode):
            raise oserror(errno.EINVAL)
        return os.readlink(b"", dir_fd=self.fd)

    def chmod(self, mode: int) -> None:
        """chmod(2)."""
        self.writable()
        os.chmod(self.proc, self._mode(mode & 0o7777))

    def chown(self, uid: int, gid: int) -> None:
        """chown(2); without effect in a squashed export, where all belongs to one."""
        self.writable()
        if self.policy.uid is None:
            os.chown(self.proc, uid, gid)

    def utime(self, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2) with both times given."""
        self.writable()
        os.utime(self.proc, ns=(atime_ns, mtime_ns))

    def truncate(self, size: int) -> None:
        """truncate(2) of a regular file."""
        self.writable()
        mode = os.fstat(self.fd).st_mode
        if not stat.S_ISREG(mode):
            raise oserror(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
        os.truncate(self.proc, size)

    def statfs(self) -> os.statvfs_result:
        """statvfs(3) of the file system it is on."""
        return os.statvfs(self.proc)

    def _attributable(self) -> None:
        if stat.S_IFMT(os.fstat(self.fd).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise oserror(errno.EOPNOTSUPP)

    def listxattr(self) -> bytes:
        """The names of its `user.` attributes, each ended by NUL."""
        self._attributable()
        names = (os.fsencode(n) for n in os.listxattr(self.proc))
        return b"".join(n + b"\0" for n in names if n.startswith(b"user."))

    def getxattr(self, name: bytes) -> bytes:
        """getxattr(2) of a `user.` attribute; all others are ENODATA."""
        self._attributable()
        if not name.startswith(b"user."):
            raise oserror(errno.ENODATA)
        return os.getxattr(self.proc, name)

    def setxattr(self, name: bytes, value: bytes, flags: int) -> None:
        """setxattr(2), or removexattr(2) for an empty value (as the Linux client means it)."""
        self.writable()
        self._attributable()
        if not name.startswith(b"user."):
            raise oserror(errno.EOPNOTSUPP)
        if value:
            os.setxattr(self.proc, name, value, flags)
        else:
            os.removexattr(self.proc, name)
