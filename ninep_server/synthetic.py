# SPDX-License-Identifier: BSD-3-Clause
"""The backend for trees that exist only in this program.

tree = SyntheticDirectory({"bin": SyntheticDirectory(store), "host": LocalNode.root(…), "vm": SyntheticDirectory({…})})

All of it is read-only, but a backend hung into it follows its own rules.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from ninep_server.backend import Attributes, Entry, File, Node, oserror
from ninep_server.messages import QTDIR, QTFILE, Qid

Content = bytes | Callable[[], bytes]


class Source(Protocol):
    """A directory whose files come and go: asked anew at each lookup and listing.

    The calls may not wait, except for those made in a thread while an attribute `waits`, where there is one, is true.
    """

    def names(self) -> Iterable[bytes]:
        """What is there now."""

    def content(self, name: bytes) -> bytes | None:
        """A file's bytes, None where there is no such file."""


Child = Node | Content | Mapping[str, "Child"]


def _unique(parent: Node | None, name: bytes) -> int:
    # Bit 63 keeps the paths apart from inode numbers of local directories in the same tree.
    above = parent.qid().path if parent is not None else 0
    digest = hashlib.blake2b(above.to_bytes(8, "little") + name, digest_size=8).digest()
    return 1 << 63 | int.from_bytes(digest, "little")


class _Bytes(File):
    """A snapshot of a file's content, taken when it was opened."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_now(self, into: memoryview, offset: int) -> int | None:
        piece = self.content[offset : offset + len(into)]
        into[: len(piece)] = piece
        return len(piece)


class SyntheticFile(Node):
    """A file made of bytes, or of what a function gives when the file is opened."""

    __slots__ = ("_content", "_path", "_when")

    def __init__(self, content: Content, parent: Node | None = None, name: bytes = b"") -> None:
        super().__init__(parent, name)
        self._content = content
        self._path = _unique(parent, name)
        self._when = time.time_ns()

    def _bytes(self) -> bytes:
        return self._content() if callable(self._content) else self._content

    def attributes(self) -> Attributes:
        size = len(self._bytes())
        when = self._when
        return Attributes(
            stat.S_IFREG | 0o444, 0, 0, size, 1, 0, 4096, -(-size // 512), when, when, when
        )

    def qid(self) -> Qid:
        return Qid(QTFILE, zlib.crc32(self._bytes()), self._path)

    def open(self, flags: int) -> File:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise oserror(errno.EROFS)
        return _Bytes(self._bytes())


class _Listing(File):
    __slots__ = ("node",)

    def __init__(self, node: SyntheticDirectory) -> None:
        self.node = node

    def entries(self) -> Iterator[Entry]:
        up = self.node.parent or self.node
        yield b".", 4, QTDIR, self.node.qid().path
        yield b"..", 4, QTDIR, up.qid().path
        for name in self.node.names():
            try:
                qid = self.node.walk(name)[1]
            except OSError:
                continue  # gone since it was listed
            yield name, 4 if qid.type & QTDIR else 8, qid.type, qid.path


def _node(child: Child) -> Node:
    if isinstance(child, Node):
        return child
    return SyntheticDirectory(child) if isinstance(child, Mapping) else SyntheticFile(child)


class SyntheticDirectory(Node):
    """A directory of fixed children (bytes, functions, mappings, nodes of any backend), or of what a `Source` has.

    A child that is a node becomes part of this directory: it must not be hung into another one.
    """

    __slots__ = ("_children", "_path", "_source", "_when")

    def __init__(
        self,
        content: Mapping[str, Child] | Source,
        parent: Node | None = None,
        name: bytes = b"",
    ) -> None:
        super().__init__(parent, name)
        self._when = time.time_ns()
        self._source: Source | None = None
        self._children: dict[bytes, Node] = {}
        self._path = 0
        if isinstance(content, Mapping):
            for key, child in content.items():
                self._children[os.fsencode(key)] = _node(child)
        else:
            self._source = content
        self._place(parent, name)

    def _place(self, parent: Node | None, name: bytes) -> None:
        self.parent, self.name = parent, name
        self._path = _unique(parent, name)
        for key, child in self._children.items():
            if isinstance(child, SyntheticDirectory):
                child._place(self, key)
            elif isinstance(child, SyntheticFile):
                child.parent, child.name, child._path = self, key, _unique(self, key)
            else:
                child.parent, child.name = self, key

    @property
    def waits(self) -> bool:  # type: ignore[override]  # constant for other nodes
        """Whether a look into it may have to wait."""
        return bool(getattr(self._source, "waits", False))

    def names(self) -> list[bytes]:
        """The names in it, sorted."""
        return sorted(self._children if self._source is None else self._source.names())

    def attributes(self) -> Attributes:
        when = self._when
        return Attributes(stat.S_IFDIR | 0o555, 0, 0, 0, 2, 0, 4096, 0, when, when, when)

    def qid(self) -> Qid:
        version = zlib.crc32(b"\0".join(self.names())) if self._source is not None else 0
        return Qid(QTDIR, version, self._path)

    def walk(self, name: bytes) -> tuple[Node, Qid]:
        node = self._children.get(name)
        if node is None and self._source is not None:
            content = self._source.content(name)
            node = None if content is None else SyntheticFile(content, self, name)
        if node is None:
            raise oserror(errno.ENOENT)
        return node, node.qid()

    def open(self, flags: int) -> File:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise oserror(errno.EISDIR)
        return _Listing(self)
