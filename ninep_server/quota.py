# SPDX-License-Identifier: BSD-3-Clause
"""What clients of one export have used of its disk: bytes by length of files, and names made.

A file that was removed goes on using its disk for as long as a fid holds it, so it is given back when the last one
lets go. Lengths are kept per inode under a lock: requests run in threads, and a write that lands behind a truncation
is counted when it is done, whatever was reckoned before.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import dataclass

from ninep_server.backend import oserror

Key = tuple[int, int]


def inode(s: os.stat_result) -> Key:
    """Device and inode number."""
    return s.st_dev, s.st_ino


@dataclass
class _Held:
    holders: int
    length: int  # as it is counted, at least what the file has been seen to be


class Quota:
    """:param max_bytes: by how much files may grow. :param max_files: how many names may be made. None: no bound."""

    def __init__(self, max_bytes: int | None, max_files: int | None) -> None:
        self.max_bytes, self.max_files = max_bytes, max_files
        self.bytes = self.files = 0
        self._held: dict[Key, _Held] = {}
        # Reentrant: the collector may let go of a node while this thread is in here.
        self._lock = threading.RLock()

    def hold(self, s: os.stat_result) -> None:
        """A node of a regular file begins."""
        with self._lock:
            held = self._held.setdefault(inode(s), _Held(0, s.st_size))
            held.holders += 1

    def let_go(self, s: os.stat_result) -> None:
        """A node of a regular file ends; the last one of a removed file gives its bytes back."""
        with self._lock:
            held = self._held[inode(s)]
            held.holders -= 1
            if held.holders == 0:
                del self._held[inode(s)]
                if s.st_nlink == 0:
                    self.bytes = max(0, self.bytes - held.length)

    def reserve(self, s: os.stat_result, length: int) -> None:
        """Before a held file becomes that long. :raise OSError: EDQUOT."""
        with self._lock:
            held = self._held[inode(s)]
            growth = length - held.length
            if growth <= 0:
                return
            if self.max_bytes is not None and self.bytes + growth > self.max_bytes:
                raise oserror(errno.EDQUOT)
            self.bytes += growth
            held.length = length

    def settle(self, s: os.stat_result) -> None:
        """After a held file was changed: count it as long as it is."""
        with self._lock:
            held = self._held[inode(s)]
            self.bytes = max(0, self.bytes + s.st_size - held.length)
            held.length = s.st_size

    def make(self) -> None:
        """Before a name is made. :raise OSError: EDQUOT."""
        if self.max_files is not None and self.files >= self.max_files:
            raise oserror(errno.EDQUOT)

    def made(self) -> None:
        """A name was made."""
        with self._lock:
            self.files += 1

    def removed(self, s: os.stat_result | None) -> None:
        """A name was removed; `s` is what it led to, before that. A held file is given back later."""
        with self._lock:
            self.files = max(0, self.files - 1)
            if (
                s is not None
                and stat.S_ISREG(s.st_mode)
                and s.st_nlink == 1
                and inode(s) not in self._held
            ):
                self.bytes = max(0, self.bytes - s.st_size)
