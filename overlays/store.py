# SPDX-License-Identifier: BSD-3-Clause
"""The overlays a site offers its guests: directories in order, first file of a name wins, refused ones do not appear.

Hot: every question looks at the directories again, and at a file only if it has changed. A file is read once; the bytes
that were checked are the bytes that are served.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from overlays import link, manifest, scan, sign
from overlays.errors import FormatError, NotFound, OverlayError, Refused, did_you_mean, near
from overlays.overlay import SUFFIX, Overlay, read_stable
from overlays.trust import Trust

log = logging.getLogger("overlays.store")

MAX_ENTRIES = 4096  # files of one store that are looked at
MAX_CACHED_BYTES = 256 << 20

Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A file of the store, for listings."""

    name: str
    path: Path
    size: int
    hash: bytes
    state: Literal["available", "refused"]
    reason: str = ""
    version: str = ""
    description: str = ""
    signed_by: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found in a file in the state `stamp`."""

    stamp: Stamp
    entry: StoreEntry
    overlay: Overlay | None
    valid_until: float


class Store:
    """:param directories: in order of precedence; one that does not exist (yet) counts as empty."""

    def __init__(
        self,
        directories: Sequence[Path],
        trust: Trust,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directories = [Path(d) for d in directories]
        self._trust = trust
        self._clock = clock
        self._known: dict[Path, _Known] = {}

    @property
    def trust(self) -> Trust:
        return self._trust

    @trust.setter
    def trust(self, trust: Trust) -> None:
        """Judge everything anew, by another trust."""
        self._trust = trust
        self._known.clear()

    def names(self) -> list[bytes]:
        """Names of the overlays that guests may see."""
        return [k.entry.name.encode() for k in self._look() if k.overlay]

    def content(self, name: bytes) -> bytes | None:
        """The verified bytes of an overlay."""
        try:
            return self.get(name.decode()).data
        except (OverlayError, UnicodeDecodeError):
            return None

    def get(self, name: str) -> Overlay:
        """
        :raise NotFound: there is no file of this name.
        :raise Refused: there is one, and it may not run.
        """
        known = self._find(name)
        if known is None:
            names = [n.decode() for n in self.names()]
            raise NotFound(f"there is no overlay {name!r}", did_you_mean(near(name, names)))
        if known.overlay is None:
            raise Refused(f"{known.entry.path}: {known.entry.reason}")
        return known.overlay

    def by_hash(self, digest: bytes) -> Overlay | None:
        """The available overlay whose file has this SHA-256."""
        return next((k.overlay for k in self._look() if k.overlay and k.entry.hash == digest), None)

    def entries(self) -> list[StoreEntry]:
        """Every file that would be an overlay, by name."""
        return [k.entry for k in self._look()]

    def _find(self, name: str) -> _Known | None:
        if not manifest.NAME.match(name):
            return None
        for directory in self.directories:
            path = directory / f"{name}{SUFFIX}"
            if stamp := _stamp(path):
                return self._examine(path, stamp)
        return None

    def _look(self) -> list[_Known]:
        first = self._present()
        return [self._examine(*first[name]) for name in sorted(first)]

    def _present(self) -> dict[str, tuple[Path, Stamp]]:
        first: dict[str, tuple[Path, Stamp]] = {}
        for directory in self.directories:
            for path in _files(directory):
                if path.stem not in first and (stamp := _stamp(path)):
                    first[path.stem] = (path, stamp)
        current = {path for path, _ in first.values()}
        for path in [p for p in self._known if p not in current]:
            del self._known[path]
        return first

    def _fresh(self, path: Path, stamp: Stamp) -> _Known | None:
        known = self._known.get(path)
        if known and known.stamp == stamp and self._clock() < known.valid_until:
            return known
        return None

    def _examine(self, path: Path, stamp: Stamp) -> _Known:
        return self._fresh(path, stamp) or self._remember(path, self._read(path, stamp))

    def _remember(self, path: Path, known: _Known) -> _Known:
        cached = sum(len(k.overlay.data) for k in self._known.values() if k.overlay)
        if cached + known.entry.size > MAX_CACHED_BYTES:
            self._known.clear()
        self._known[path] = known
        if known.overlay is None:
            log.warning("%s is refused: %s", path, known.entry.reason)
        for warning in known.entry.warnings:
            log.warning("%s: %s", path, warning)
        return known

    def _read(self, path: Path, stamp: Stamp) -> _Known:
        digest = bytes(32)
        size = stamp[2]
        signed_by: list[str] = []
        try:
            data, info = read_stable(path)
            stamp, size = _stamp_of(info), len(data)
            digest = hashlib.sha256(data).digest()
            verdict = sign.verify(data, self._trust, now=self._clock()).require()
            signed_by = verdict.signed_by
            overlay = Overlay.parse(data, path, signed_by)
            admit(overlay, self._trust)
            if overlay.name != path.stem:
                raise FormatError(
                    f"its manifest calls it {overlay.name!r}; the file must be {overlay.name}{SUFFIX}"
                )
        except OverlayError as error:
            entry = StoreEntry(
                path.stem, path, size, digest, "refused", error.message, signed_by=signed_by
            )
            return _Known(stamp, entry, None, math.inf)
        entry = StoreEntry(
            overlay.name,
            path,
            size,
            digest,
            "available",
            "",
            overlay.version,
            overlay.description,
            signed_by,
            verdict.warnings,
        )
        return _Known(stamp, entry, overlay, verdict.valid_until)


def admit(overlay: Overlay, trust: Trust) -> None:
    """Everything a site asks of an overlay besides its signature; raises OverlayError."""
    link.check(overlay.object)
    names = [symbol.name for symbol in link.imports(overlay.object)]
    if unlisted := sorted(set(names) - overlay.manifest.allowed(names)):
        raise Refused(f"it imports {unlisted[0]}, which its manifest does not list")
    for name in names:
        if trust.denies(name):
            raise Refused(f"it imports {name}, which this site lets no overlay import")
    findings = scan.scan(overlay.elf)
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise Refused(f"it holds {findings[0]}{more}")


def _files(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = [e.name for e in entries if e.name.endswith(SUFFIX)]
    except OSError:
        return []
    good = [n for n in names if manifest.NAME.match(n.removesuffix(SUFFIX))]
    return [directory / n for n in sorted(good)[:MAX_ENTRIES]]


def _stamp(path: Path) -> Stamp | None:
    try:
        return _stamp_of(path.stat())
    except OSError:
        return None


def _stamp_of(info: os.stat_result) -> Stamp:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
