# SPDX-License-Identifier: BSD-3-Clause
"""Whom a site trusts: public keys, a revocation list, names no overlay may import, and what happens to unsigned files.

Loaded from key files and directories of them. A directory may hold two lists beside the keys: `revoked` (one key id of
32 hex digits or one SHA-256 of an overlay per line) and `deny` (one pattern of imports per line); `#` begins a comment.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from overlays.errors import KeyFileError
from overlays.keys import PublicKey, is_private, load_public

Unsigned = Literal["refuse", "warn"]

_KEY_ID = re.compile(r"[0-9a-f]{32}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Trust:
    """A site's decision, as data."""

    keys: dict[bytes, PublicKey]  # by key id
    revoked_keys: frozenset[bytes] = frozenset()
    revoked_overlays: frozenset[bytes] = frozenset()
    deny: tuple[str, ...] = ()
    unsigned: Unsigned = "refuse"
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def load(
        cls, keys: Sequence[Path], unsigned: Unsigned = "refuse", deny: Sequence[str] = ()
    ) -> Trust:
        """
        :param keys: PEM files of public keys, or directories with `*.pem`, `revoked` and `deny`.
        :raise KeyFileError: a file or directory is missing, malformed or writable by everybody.
        """
        found: dict[bytes, PublicKey] = {}
        revoked: list[bytes] = []
        patterns = list(deny)
        warnings: list[str] = []
        for entry in map(Path, keys):
            if not entry.is_dir():
                key = load_public(entry)
                found[key.id] = key
                continue
            for path in sorted(entry.glob("*.pem")):
                if is_private(path):
                    warnings.append(f"{path} is a private key: it is not needed here and not used")
                    continue
                key = load_public(path)
                found.setdefault(key.id, key)
            revoked += _revoked(entry / "revoked")
            patterns += [text for _, text in _lines(entry / "deny")]
        return cls(
            keys=found,
            revoked_keys=frozenset(r for r in revoked if len(r) == 16),
            revoked_overlays=frozenset(r for r in revoked if len(r) == 32),
            deny=tuple(patterns),
            unsigned=unsigned,
            warnings=warnings,
        )

    def denies(self, name: str) -> bool:
        """Whether the site lets no overlay import this name."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.deny)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}") from None
    stripped = ((n, line.split("#", 1)[0].strip()) for n, line in enumerate(text.splitlines(), 1))
    return [(n, line) for n, line in stripped if line]


def _revoked(path: Path) -> list[bytes]:
    entries = []
    for number, line in _lines(path):
        value = line.split()[-1].lower()
        if not _KEY_ID.match(value) and not _SHA256.match(value):
            raise KeyFileError(
                f"{path}:{number}: {line!r} is neither a key id (32 hex digits) nor a SHA-256 (64)",
                "nothing is trusted while the list of revoked things cannot be read",
            )
        entries.append(bytes.fromhex(value))
    return entries
