# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl cp`: files and trees into and out of a guest, through the guest's `cat`, `cp`, `ls`, `mkdir`, `sha256sum`.

A guest is hostile: names it lists must not lead out of the destination, and what it sends is written beside its
destination first. What was sent is compared by its digest there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from uiod.ctl.completion import complete_vm
from uiod.ctl.errors import USAGE, CtlError
from uiod.ctl.options import Json
from uiod.ctl.output import Output, size
from uiod.ctl.settings import settings
from uiod.ctl.transfer import Runner, Sink, runner

_PIECE = 64 << 10
_LISTING_MAX = 32 << 20
_DEPTH_MAX = 64
_LINE_MAX = 8192
_NO_COMMAND = 127
_ENTRY = re.compile(r"([-dl?])((?:[-r][-w][-x]){3}) +\d+ +(\d+) \d+-\d\d-\d\d \d\d:\d\d (.*)")
_REMOTE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*):(.*)", re.DOTALL)


class Place(NamedTuple):
    """One end of a copy; `vm` is empty for this machine."""

    vm: str
    path: str

    def __str__(self) -> str:
        return f"{self.vm}:{self.path}" if self.vm else self.path


class Entry(NamedTuple):
    """A line of the guest's `ls -l`."""

    kind: str
    mode: int
    size: int
    name: str


class Copied(NamedTuple):
    """What was done, for --json."""

    source: str
    target: str
    bytes: int
    sha256: str


def complete(ctx: object, args: list[str], incomplete: str) -> list[str]:
    """VM names, with the colon."""
    return [f"{name}:/" for name in complete_vm(ctx, args, incomplete)]


def cp(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FROM... TO",
            help="Files and directories; VM:PATH is in a guest.",
            autocompletion=complete,
        ),
    ],
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not check what was sent.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy files and whole directories into or out of a guest.

    If TO is a directory, or ends in a slash, the copy is made inside it. What goes into a guest is compared
    there; what comes out replaces its destination only when it is complete.

    \b
    Examples:
      uioctl cp nginx.conf web:/conf/nginx.conf
      uioctl cp web:/var/log/. logs/
      uioctl cp html web:/www/
    """
    if len(paths) < 2:
        raise CtlError("a copy needs a source and a destination", "uioctl cp FROM... TO", USAGE)
    *sources, target = [place(text) for text in paths]
    sides = {source.vm for source in sources}
    if len(sides) != 1 or bool(target.vm) == bool(sources[0].vm):
        raise CtlError(
            "either all sources or the destination must be in one VM",
            "write VM:PATH for that side",
            USAGE,
        )
    vm = target.vm or sources[0].vm
    guest = Guest(runner(vm, settings.host), vm)
    progress = Progress()
    copier = (
        Upload(guest, progress, verify=not no_verify) if target.vm else Download(guest, progress)
    )
    try:
        for source in sources:
            copier.copy(source.path, target.path, many=len(sources) > 1)
    finally:
        progress.clear()
    out = Output(json=json)
    if out.as_json:
        out.json([entry._asdict() for entry in copier.done])
    if copier.skipped:
        for reason in copier.skipped:
            out.note(f"uioctl: skipped {reason}")
        raise typer.Exit(1)


def place(text: str) -> Place:
    """`VM:PATH`, or a path here; `./a:b` is a path."""
    match = _REMOTE.fullmatch(text)
    if match is None:
        return Place("", text)
    path = match[2]
    if not path.startswith("/"):
        raise CtlError(
            f"{text!r}: paths in a guest begin with a slash", f"write {match[1]}:/{path}", USAGE
        )
    return Place(match[1], path)


class Guest:
    """The guest's files through its commands."""

    def __init__(self, runner: Runner, vm: str) -> None:
        self.runner = runner
        self.vm = vm

    def _run(self, argv: list[str], source: Iterator[bytes] | None, sink: Sink) -> None:
        status, said = self.runner.run(argv, source, sink)
        if status:
            text = said.strip().splitlines()
            raise CtlError(f"{self.vm}: {text[0] if text else f'{argv[0]} failed with {status}'}")

    def read(self, path: str, sink: Sink) -> None:
        """The content of a file, piece by piece."""
        self._run(["cat", f"guest:{path}"], None, sink)

    def digest(self, path: str) -> str | None:
        """SHA-256 of a file; None if the guest has no command for it."""
        said = bytearray()

        def keep(piece: bytes) -> None:
            said.extend(piece[: _LINE_MAX - len(said)])

        status, errors = self.runner.run(["sha256sum", f"guest:{path}"], None, keep)
        if status == _NO_COMMAND:
            return None
        if status:
            text = errors.strip().splitlines()
            raise CtlError(f"{self.vm}: {text[0] if text else f'sha256sum failed with {status}'}")
        return said[:64].decode(errors="replace")

    def write(self, path: str, source: Iterator[bytes]) -> None:
        """Make or replace a file."""
        self._run(["cp", "-", f"guest:{path}"], source, _no_output)

    def make_directory(self, path: str) -> None:
        """And those above it."""
        self._run(["mkdir", "-p", f"guest:{path}"], None, _no_output)

    def list(self, path: str) -> tuple[Entry | None, list[Entry]]:
        """(the file, nothing) or (None, the directory's entries).

        :raise CtlError: there is no such file, or the guest says nonsense
        """
        text = bytearray()

        def keep(piece: bytes) -> None:
            text.extend(piece)
            if len(text) > _LISTING_MAX:
                raise CtlError(f"{self.vm}:{path} has too many files")

        self._run(["ls", "-l", f"guest:{path}"], None, keep)
        entries = []
        for line in text.decode(errors="surrogateescape").splitlines():
            match = _ENTRY.fullmatch(line)
            if match is None:
                raise CtlError(f"{self.vm}: the guest's ls -l says {line[:60]!r}")
            mode = sum(1 << (8 - at) for at, letter in enumerate(match[2]) if letter not in "-?")
            entries.append(Entry(match[1], mode, int(match[3]), match[4]))
        if len(entries) == 1 and entries[0].name == f"guest:{path}":
            return entries[0], []
        for entry in entries:
            if "/" in entry.name or entry.name in ("", ".", "..") or "\0" in entry.name:
                raise CtlError(
                    f"{self.vm}: the guest lists a file {entry.name!r}, which could lead elsewhere"
                )
        return None, entries

    def is_directory(self, path: str) -> bool:
        """False if it is a file, or not there."""
        try:
            return self.list(path)[0] is None
        except CtlError:
            return False


def _no_output(_: bytes) -> None:
    return


class Copier:
    """What both directions share."""

    def __init__(self, guest: Guest, progress: Progress) -> None:
        self.guest = guest
        self.progress = progress
        self.done: list[Copied] = []
        self.skipped: list[str] = []

    def copy(self, source: str, target: str, *, many: bool) -> None:
        """Copy one of the command line's sources."""
        raise NotImplementedError


class Upload(Copier):
    """Into the guest."""

    def __init__(self, guest: Guest, progress: Progress, *, verify: bool) -> None:
        super().__init__(guest, progress)
        self.verify = verify

    def copy(self, source: str, target: str, *, many: bool) -> None:
        into = target.endswith("/")
        if into or self.guest.is_directory(target):
            if into:
                self.guest.make_directory(target.rstrip("/") or "/")
            name = os.path.basename(os.path.normpath(source))
            contents = source.endswith(("/.", "/")) or name in (".", "..")
            if not (contents and os.path.isdir(source)):
                target = join(target, name)
        elif many:
            raise CtlError(f"{self.guest.vm}:{target} is no directory")
        if os.path.isdir(source):
            self._tree(source, target)
        else:
            self._file(source, target)

    def _tree(self, source: str, target: str) -> None:
        self.guest.make_directory(target)
        with os.scandir(source) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                self._tree(entry.path, join(target, entry.name))
            elif entry.is_file():
                self._file(entry.path, join(target, entry.name))
            else:
                self.skipped.append(f"{entry.path}: neither a file nor a directory")

    def _file(self, source: str, target: str) -> None:
        sent = hashlib.sha256()
        count = 0
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CtlError(f"{source} is no file")
            self.progress.begin(source, status.st_size)

            def pieces() -> Iterator[bytes]:
                nonlocal count
                while piece := file.read(_PIECE):
                    sent.update(piece)
                    count += len(piece)
                    self.progress.advance(len(piece))
                    yield piece

            self.guest.write(target, pieces())
        if self.verify:
            self._compare(target, count, sent.hexdigest())
        self.done.append(Copied(source, f"{self.guest.vm}:{target}", count, sent.hexdigest()))

    def _compare(self, target: str, count: int, digest: str) -> None:
        self.progress.begin(f"checking {target}", count)
        self.progress.show()
        if (self.guest.digest(target) or self._read_back(target)) != digest:
            raise CtlError(
                f"{self.guest.vm}:{target} is not what was sent",
                "is it written by somebody else, or is the disk full?",
            )

    def _read_back(self, target: str) -> str:
        there = hashlib.sha256()

        def take(piece: bytes) -> None:
            there.update(piece)
            self.progress.advance(len(piece))

        self.guest.read(target, take)
        return there.hexdigest()


class Download(Copier):
    """Out of the guest."""

    def copy(self, source: str, target: str, *, many: bool) -> None:
        contents = source.endswith(("/.", "/"))
        path = source.removesuffix(".") if source.endswith("/.") else source
        path = path.rstrip("/") or "/"
        if os.path.isdir(target) or target.endswith("/"):
            os.makedirs(target, exist_ok=True)
            name = os.path.basename(path)
            if name in (".", ".."):
                raise CtlError(f"{source}: say which file is meant", status=USAGE)
            if not contents and name:
                target = os.path.join(target, name)
        elif many:
            raise CtlError(f"{target} is no directory")
        file, entries = self.guest.list(path)
        if file is not None:
            self._file(path, file, target)
        else:
            self._tree(path, entries, target, 0)

    def _tree(self, source: str, entries: list[Entry], target: str, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise CtlError(f"{self.guest.vm}:{source} is nested too deeply")
        os.makedirs(target, exist_ok=True)
        for entry in entries:
            path, here = join(source, entry.name), os.path.join(target, entry.name)
            if entry.kind == "d":
                self._tree(path, self.guest.list(path)[1], here, depth + 1)
            elif entry.kind == "-":
                self._file(path, entry, here)
            else:
                self.skipped.append(f"{self.guest.vm}:{path}: neither a file nor a directory")

    def _file(self, source: str, entry: Entry, target: str) -> None:
        received = hashlib.sha256()
        count = 0
        self.progress.begin(source, entry.size)
        directory = os.path.dirname(target) or "."
        fd, temporary = tempfile.mkstemp(dir=directory, prefix=".uioctl-")
        try:
            with open(fd, "wb", buffering=0) as file:

                def take(piece: bytes) -> None:
                    nonlocal count
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                    received.update(piece)
                    count += len(piece)
                    self.progress.advance(len(piece))

                self.guest.read(source, take)
                os.fchmod(fd, entry.mode & 0o777 & ~_umask())
            self._check_size(source, entry.size, count)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self.done.append(Copied(f"{self.guest.vm}:{source}", target, count, received.hexdigest()))

    def _check_size(self, source: str, expected: int, count: int) -> None:
        if count < expected:
            raise CtlError(
                f"{self.guest.vm}:{source} has {expected} bytes, but {count} came",
                "was it changed meanwhile?",
            )


def join(directory: str, name: str) -> str:
    """A path in the guest."""
    return f"{directory.rstrip('/')}/{name}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Progress:
    """One line on a terminal's standard error; nothing elsewhere."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()
        self.shown = 0.0
        self.dirty = False

    def begin(self, name: str, total: int) -> None:
        """The next file."""
        self.name, self.total, self.count = name, total, 0
        self.started = time.monotonic()

    def advance(self, count: int) -> None:
        """So many bytes more."""
        self.count += count
        now = time.monotonic()
        if now - self.shown >= 0.1:
            self.show()

    def show(self) -> None:
        """Draw the line, however short ago the last one was."""
        if not self.on:
            return
        self.shown = now = time.monotonic()
        rate = self.count / max(now - self.started, 0.001)
        share = f"{100 * self.count // self.total:3}%" if self.total else "   "
        name = self.name if len(self.name) <= 40 else f"…{self.name[-39:]}"
        sys.stderr.write(f"\r\x1b[K{name}  {share}  {size(self.count)}  {size(int(rate))}/s")
        sys.stderr.flush()
        self.dirty = True

    def clear(self) -> None:
        """Leave the line as it was."""
        if self.dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
