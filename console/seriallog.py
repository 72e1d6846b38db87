# SPDX-License-Identifier: BSD-3-Clause
"""The log of a serial port: bytes as they came, on disk, bounded whatever comes.

Two files at most, the current one and the one before (`.1`), each with an index (`.idx`) of when which byte came.
A position counts bytes from the first one ever logged, so that readers keep their place over rotations and restarts.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct("<dQ")  # Unix time, position of the first byte that came then
_INTERVAL_S = 0.05  # one record for all that comes within
_PIECE = 64 * 1024


@dataclass
class _Part:
    """One of the two files."""

    path: Path
    base: int = 0  # position of its first byte
    size: int = 0

    @property
    def index(self) -> Path:
        return self.path.with_name(self.path.name + ".idx")

    def load(self) -> bool:
        """Whether it is there."""
        try:
            self.size = self.path.stat().st_size
        except FileNotFoundError:
            self.base = self.size = 0
            return False
        with contextlib.suppress(OSError, struct.error), self.index.open("rb") as index:
            self.base = _RECORD.unpack(index.read(_RECORD.size))[1]
        return True

    def records(self) -> Iterator[tuple[float, int]]:
        try:
            data = self.index.read_bytes()
        except OSError:
            return
        yield from _RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size])

    def read(self, position: int, size: int) -> bytes:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(position - self.base)
            return file.read(size)
        return b""


class SerialLog:
    """One port's log, for one writer and any number of readers in this process.

    :param max_bytes: of both files together.
    """

    def __init__(
        self, path: Path, max_bytes: int = 8 << 20, clock: Callable[[], float] = time.time
    ) -> None:
        self._half = max(4096, max_bytes // 2)
        self._clock = clock
        self._current = _Part(path)
        self._before = _Part(path.with_name(path.name + ".1"))
        self._before.load()
        if not self._current.load():
            self._current.base = self._before.base + self._before.size
        self._stamped = -1.0
        self._lost = 0
        self._fd = _append(path)
        self._index_fd = _append(self._current.index)
        self._index_size = os.fstat(self._index_fd).st_size

    @property
    def start(self) -> int:
        """The oldest position still there."""
        return self._before.base if self._before.size else self._current.base

    @property
    def end(self) -> int:
        """The position of the next byte to come."""
        return self._current.base + self._current.size

    @property
    def path(self) -> Path:
        """The current file."""
        return self._current.path

    def write(self, data: bytes) -> None:
        """Log what came. A full disk loses bytes, and later says how many."""
        if self._lost:
            note, lost = (
                f"\n[uiod: {self._lost} bytes lost: no room on disk]\n".encode(),
                self._lost,
            )
            self._lost = 0
            self._append(note)
            if self._lost:
                self._lost = lost
        self._append(data)

    def note(self, text: str) -> None:
        """A line of the logger's own."""
        self.write(f"\n[uiod: {text}]\n".encode())

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._half - self._current.size
            if room <= 0 or self._index_size >= self._half // 4:
                self._rotate()
                continue
            try:
                self._stamp()
                written = os.write(self._fd, view[:room])
            except OSError:
                self._lost += len(view)
                return
            self._current.size += written
            view = view[written:]

    def _stamp(self) -> None:
        now = self._clock()
        if not 0 <= now - self._stamped < _INTERVAL_S or not self._index_size:
            record = _RECORD.pack(now, self.end)
            written = os.write(self._index_fd, record)
            if written != len(record):  # the disk is full: no half record may stay
                os.ftruncate(self._index_fd, self._index_size)
                return
            self._index_size += written
            self._stamped = now

    def _rotate(self) -> None:
        end = self.end
        os.close(self._fd)
        os.close(self._index_fd)
        self._current.path.replace(self._before.path)
        self._current.index.replace(self._before.index)
        self._before.base, self._before.size = self._current.base, self._current.size
        self._current.base, self._current.size = end, 0
        self._fd = _append(self._current.path)
        self._index_fd = _append(self._current.index)
        self._index_size = 0

    def read(self, position: int, size: int = _PIECE) -> tuple[bytes, int]:
        """(bytes, position behind them); from the oldest one if those asked for are gone. Empty: none yet."""
        position = min(max(position, self.start), self.end)
        part = self._current if position >= self._current.base else self._before
        data = part.read(position, min(size, part.base + part.size - position))
        return data, position + len(data)

    def since(self, when: float) -> int:
        """The position of the first byte that came at that Unix time or later."""
        for part in (self._before, self._current):
            for time_, position in part.records():
                if time_ >= when:
                    return max(position, self.start)
        return self.end

    def tail(self, lines: int) -> int:
        """The position where the last so many lines begin."""
        end = position = self.end
        if lines <= 0:
            return end
        found = 0
        while position > self.start:
            size = min(_PIECE, position - self.start)
            begin = position - size
            piece = bytearray()
            while len(piece) < size:
                data, _ = self.read(begin + len(piece), size - len(piece))
                if not data:
                    return position
                piece += data
            at = len(piece)
            while (at := piece.rfind(b"\n", 0, at)) >= 0:
                if begin + at + 1 == end:
                    continue  # the end of the last line
                found += 1
                if found == lines:
                    return begin + at + 1
            position = begin
        return self.start

    def close(self) -> None:
        """No more is written; files without content are removed."""
        os.close(self._fd)
        os.close(self._index_fd)
        if self.start == self.end:
            for path in (self._current.path, self._current.index):
                path.unlink(missing_ok=True)


def _append(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)
