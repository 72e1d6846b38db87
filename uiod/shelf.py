# SPDX-License-Identifier: BSD-3-Clause
"""The daemon's store of overlays: files are read, verified and scanned in a forked helper, never in the event loop.

The helper hands back the bytes that it has checked, and these are what is served and linked, whatever has become of the
file since. Until a file is checked it is as if it were not there; who may wait awaits `refresh` first, and 9P's
requests wait for it in a thread (`waits`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from overlays import manifest
from overlays.overlay import SUFFIX
from overlays.store import Stamp, Store, StoreEntry, _Known, _stamp
from overlays.trust import Trust
from uiod import aside

T = TypeVar("T")

_DEADLINE_S = 30.0
_BATCH_BYTES = 16 << 20  # of files for one helper; a larger one has a helper of its own
_RESULT_BYTES = 160 << 20  # of what it hands back: twice the bytes, and their symbols
_AGAIN_S = 5.0  # a file whose helper failed is looked at again after this

log = logging.getLogger("uiod")


class Shelf(Store):
    """A `Store` for the thread of the event loop and for threads that it has started."""

    def __init__(self, directories: Sequence[Path], trust: Trust) -> None:
        super().__init__(directories, trust)
        self._thread = threading.get_ident()
        self._refreshing = trio.Lock()

    # What 9P asks, in the loop or in a thread

    @property
    def waits(self) -> bool:
        """Whether there is something that is not checked yet."""
        return any(not self._fresh(*found) for found in self._present().values())

    def names(self) -> list[bytes]:
        """As `Store.names`; called in a thread it waits for what is not checked yet."""
        return self._settled(super().names)

    def content(self, name: bytes) -> bytes | None:
        """As `Store.content`; likewise."""
        ask = super().content
        return self._settled(lambda: ask(name))

    def _settled(self, ask: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return ask()

        async def then() -> T:
            await self.refresh()
            return ask()

        return trio.from_thread.run(then)

    # Checking

    def _examine(self, path: Path, stamp: Stamp) -> _Known:
        known = self._fresh(path, stamp)
        if known is not None:
            return known
        entry = StoreEntry(path.stem, path, stamp[2], bytes(32), "refused", "it is being checked")
        return _Known(stamp, entry, None, 0.0)

    async def refresh(self, name: str | None = None) -> None:
        """Have everything checked that is new or has changed, or what has this name."""
        if not self._stale(name):
            return
        async with self._refreshing:
            trust = self.trust
            while (stale := self._stale(name)) and self.trust is trust:
                for path, known in await self._check(_batch(stale)):
                    if self.trust is trust:  # else it is judged anew, by the next one who asks
                        self._remember(path, known)

    def _stale(self, name: str | None) -> list[tuple[Path, Stamp]]:
        present = self._present() if name is None else self._named(name)
        return [found for found in present.values() if not self._fresh(*found)]

    def _named(self, name: str) -> dict[str, tuple[Path, Stamp]]:
        if manifest.NAME.match(name):
            for directory in self.directories:
                path = directory / f"{name}{SUFFIX}"
                if stamp := _stamp(path):
                    return {name: (path, stamp)}
        return {}

    async def _check(self, files: list[tuple[Path, Stamp]]) -> list[tuple[Path, _Known]]:
        try:
            return await aside.run(
                lambda: [(path, self._read(path, stamp)) for path, stamp in files],
                deadline_s=_DEADLINE_S,
                most=_RESULT_BYTES,
            )
        except aside.Failed as error:
            if len(files) > 1:  # one of them is to blame
                return [found for file in files for found in await self._check([file])]
            ((path, stamp),) = files
            reason = f"it could not be checked: {error}"
            entry = StoreEntry(path.stem, path, stamp[2], bytes(32), "refused", reason)
            return [(path, _Known(stamp, entry, None, self._clock() + _AGAIN_S))]


def _batch(files: list[tuple[Path, Stamp]]) -> list[tuple[Path, Stamp]]:
    """As many of them as one helper may have, at least one."""
    size = 0
    for count, (_, stamp) in enumerate(files):
        size += stamp[2]
        if count and size > _BATCH_BYTES:
            return files[:count]
    return files
