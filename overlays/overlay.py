# SPDX-License-Identifier: BSD-3-Clause
"""An overlay file in memory: its bytes, its object, its manifest, and who signed it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from overlays import manifest, sign
from overlays.elf import MAX_FILE, Object
from overlays.errors import FormatError
from overlays.files import open_regular
from overlays.manifest import Manifest

SUFFIX = ".uio"


@dataclass(frozen=True)
class Overlay:
    """Bytes and what was read from exactly these bytes."""

    data: bytes = field(repr=False)
    elf: bytes = field(repr=False)
    manifest: Manifest
    path: Path
    signed_by: list[str]
    object: Object = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, path: Path, signed_by: list[str] | None = None) -> Overlay:
        """Read a file's bytes without judging its signatures; raises FormatError."""
        elf, _ = sign.split(data)
        parsed = Object.parse(elf)
        return cls(data, elf, manifest.of(parsed), path, signed_by or [], parsed)

    @classmethod
    def load(cls, path: Path) -> Overlay:
        """Read a file without judging its signatures; raises FormatError."""
        return cls.parse(read_file(path), path)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def description(self) -> str:
        return self.manifest.description

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the whole file, signatures included."""
        return hashlib.sha256(self.data).digest()


def read_file(path: Path) -> bytes:
    """A regular file's bytes, at most MAX_FILE of them; raises FormatError."""
    data, _ = read_stable(path)
    return data


def read_stable(path: Path) -> tuple[bytes, os.stat_result]:
    """A regular file's bytes and the state of the very file that they were read from; raises FormatError."""
    try:
        with open_regular(path) as (file, info):
            if info.st_size > MAX_FILE:
                raise FormatError(f"it has {info.st_size} bytes; an overlay has at most {MAX_FILE}")
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise FormatError(f"it has more than {MAX_FILE} bytes")
    return data, info
