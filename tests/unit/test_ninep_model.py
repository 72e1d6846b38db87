# SPDX-License-Identifier: BSD-3-Clause
"""A session against a model: random sequences of requests must leave the tree that a dictionary predicts."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ninep_server import Limits, LocalNode, Policy, Stats
from ninep_server.messages import BY_NUMBER, NOFID, decode, encode
from ninep_server.session import Later, Session

NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
Path9 = tuple[bytes, ...]
FILE, TOP = 1, ()


class SessionAgainstModel(RuleBasedStateMachine):
    """The model: path → bytes of a file, None for a directory."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="uio-model-"))
        root = LocalNode.root(self.top, Policy(uid=0, gid=0))
        self.session = Session(root, Limits(), Stats())
        self.model: dict[Path9, bytes | None] = {TOP: None}
        self.opened: Path9 | None = None
        self.content = b""  # of the open file, whatever becomes of its name
        self.ask("Tversion", 65536, b"9P2000.L")
        self.ask("Tattach", 0, NOFID, b"", b"", 0)

    def teardown(self) -> None:
        self.session.close()
        shutil.rmtree(self.top)

    def ask(self, title: str, *values: Any) -> tuple[Any, ...] | int:
        """The reply's fields, or the errno."""
        request = encode(title, 5, *values)
        reply = self.session.handle(request[4], 5, request[7:])
        while isinstance(reply, Later):
            value, error = None, None
            try:
                value = reply.call()
            except OSError as raised:
                error = raised
            reply = reply.resume(value, error)
        message = BY_NUMBER[reply[4]]
        fields = decode(message.number, bytes(reply[7:]))
        return int(fields[0]) if message.name == "Rlerror" else fields

    def at(self, path: Path9, fid: int = 9) -> int:
        """Walk to a path: 0, or the errno that the model expects too."""
        got = self.ask("Twalk", 0, fid, list(path))
        walked = got if isinstance(got, int) else 0
        if not isinstance(got, int) and len(got[0]) < len(path):
            walked = errno.ENOENT
        expected = path in self.model
        assert (walked == 0) == expected, (path, walked)
        return walked

    def done(self, fid: int = 9) -> None:
        self.ask("Tclunk", fid)

    def kind(self, path: Path9) -> str:
        if path not in self.model:
            return "none"
        return "dir" if self.model[path] is None else "file"

    @rule(path=PATHS)
    def mkdir(self, path: Path9) -> None:
        if self.at(path[:-1]) == 0:
            got = self.ask("Tmkdir", 9, path[-1], 0o755, 0)
            if self.kind(path[:-1]) == "file":
                assert got == errno.ENOTDIR
            elif path in self.model:
                assert got == errno.EEXIST
            else:
                assert not isinstance(got, int)
                self.model[path] = None
            self.done()

    @precondition(lambda self: self.opened is None)
    @rule(path=PATHS)
    def create(self, path: Path9) -> None:
        if self.at(path[:-1], FILE) == 0:
            got = self.ask("Tlcreate", FILE, path[-1], os.O_RDWR | os.O_EXCL, 0o644, 0)
            if self.kind(path[:-1]) == "dir" and path not in self.model:
                assert not isinstance(got, int)
                self.model[path] = self.content = b""
                self.opened = path
            else:
                assert got in (errno.ENOTDIR, errno.EEXIST)
                self.done(FILE)

    @precondition(lambda self: self.opened is None)
    @rule(path=PATHS)
    def open(self, path: Path9) -> None:
        if self.at(path, FILE) == 0:
            got = self.ask("Tlopen", FILE, os.O_RDWR)
            held = self.model[path]
            if held is None:
                assert got == errno.EISDIR
                self.done(FILE)
            else:
                assert not isinstance(got, int)
                self.opened, self.content = path, held

    def changed(self, content: bytes) -> None:
        self.content = content
        if self.opened in self.model:
            self.model[self.opened] = content

    @precondition(lambda self: self.opened is not None)
    @rule(offset=st.integers(0, 9000), data=st.binary(max_size=200))
    def write(self, offset: int, data: bytes) -> None:
        assert self.ask("Twrite", FILE, offset, data) == (len(data),)
        if data:
            old = self.content.ljust(offset, b"\0")
            self.changed(old[:offset] + data + old[offset + len(data) :])

    @precondition(lambda self: self.opened is not None)
    @rule(size=st.integers(0, 9000))
    def truncate(self, size: int) -> None:
        assert self.ask("Tsetattr", FILE, 8, 0, 0, 0, size, 0, 0, 0, 0) == ()
        self.changed(self.content[:size].ljust(size, b"\0"))

    @precondition(lambda self: self.opened is not None)
    @rule(offset=st.integers(0, 9999), count=st.integers(0, 9999))
    def read(self, offset: int, count: int) -> None:
        got = self.ask("Tread", FILE, offset, count)
        assert not isinstance(got, int)
        assert bytes(got[0]) == self.content[offset : offset + count]

    @precondition(lambda self: self.opened is not None)
    @rule()
    def clunk(self) -> None:
        assert self.ask("Tclunk", FILE) == ()
        self.opened = None

    @rule(path=PATHS, directory=st.booleans())
    def unlink(self, path: Path9, directory: bool) -> None:
        if self.at(path[:-1]) == 0:
            got = self.ask("Tunlinkat", 9, path[-1], 0x200 if directory else 0)
            below = [p for p in self.model if p[: len(path)] == path and p != path]
            if self.kind(path) == ("dir" if directory else "file") and not below:
                assert got == ()
                del self.model[path]
                if self.opened == path:
                    self.opened = (b"", b"unlinked")
            else:
                assert got in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)
            self.done()

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: Path9, new: Path9) -> None:
        if self.at(old[:-1]) == 0:
            if self.at(new[:-1], 8) == 0:
                got = self.ask("Trenameat", 9, old[-1], 8, new[-1])
                if got == ():
                    self.moved(old, new)
                else:
                    possible = (
                        self.kind(old) != "none"
                        and self.kind(new[:-1]) == "dir"
                        and self.kind(new) == "none"
                        and new[: len(old)] != old
                    )
                    assert not possible, got
                self.done(8)
            self.done()

    def moved(self, old: Path9, new: Path9) -> None:
        assert self.kind(old) != "none"
        assert self.kind(new) in ("none", self.kind(old))
        if old == new:
            return
        if self.opened == new:
            self.opened = (b"", b"replaced")
        self.model.pop(new, None)
        for path in [p for p in self.model if p[: len(old)] == old]:
            self.model[new + path[len(old) :]] = self.model.pop(path)
            if self.opened == path:
                self.opened = new + path[len(old) :]

    @invariant()
    def the_tree_is_as_predicted(self) -> None:
        found: dict[Path9, bytes | None] = {TOP: None}
        for path in self.top.rglob("*"):
            key = tuple(os.fsencode(part) for part in path.relative_to(self.top).parts)
            found[key] = path.read_bytes() if path.is_file() else None
        assert found == self.model
        assert len(self.session.fids) == 1 + (self.opened is not None)


TestSessionAgainstModel = SessionAgainstModel.TestCase
TestSessionAgainstModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
