# SPDX-License-Identifier: BSD-3-Clause
"""What an overlay says of itself: name, version, help, the imports it may have, rights and limits.

The developer writes it as a `// uio:` comment block or as TOML beside the source; the file carries it as canonical JSON
in the section `.uio.manifest`, which is never loaded.
"""

from __future__ import annotations

import fnmatch
import re
import struct
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from overlays.elf import Object
from overlays.errors import FormatError, did_you_mean, near

SECTION = ".uio.manifest"
POLICY_SECTION = ".uio.policy"
_POLICY = struct.Struct("<IIIIQQ")  # docs/protocol.md §5
_APP_NONE, _NEED_DOMAIN, _KEEP_DATA = 1, 2, 4
MAX_MANIFEST = 64 << 10  # bytes of JSON
MAX_IMPORTS = 4096
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")  # fits char[64] of an image
PAGE = 4096

_WILD = frozenset("*?[")  # what makes a name a pattern
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_BYTES = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?\Z")
_DURATION = re.compile(r"(\d+)\s*(ms|s|min)\Z")
_DURATIONS = {"ms": 1, "s": 1000, "min": 60_000}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of an overlay. Fields of size are bytes; 0 means no limit of its own."""

    name: str
    version: str = "0"
    description: str = ""  # one line, for listings
    usage: str = ""  # the arguments, e.g. "NUMBER"
    help: str = ""  # more lines
    imports: list[str] = msgspec.field(default_factory=list)  # fnmatch patterns
    app: Literal["read", "none"] = "read"  # what the domain may see of the application
    domain: Literal["wanted", "required"] = "wanted"  # whether it runs where there is no PKU
    keep: bool = False  # its variables keep their values from one command to the next
    stack: int = 64 << 10
    timeout_ms: int = 0
    memory: int = 0

    def allowed(self, names: Iterable[str]) -> set[str]:
        """Those of the names that the overlay may import. Not quadratic where both are many and no pattern is one."""
        asked = set(names)
        patterns = [entry for entry in self.imports if not _WILD.isdisjoint(entry)]
        found = asked.intersection(self.imports).difference(patterns)
        if patterns:
            either = re.compile("|".join(map(fnmatch.translate, patterns)))
            found.update(name for name in asked - found if either.match(name))
        return found

    def allows(self, name: str) -> bool:
        """Whether the overlay may import this name."""
        return name in self.allowed([name])


_FIELDS = tuple(Manifest.__struct_fields__)


def decode(raw: bytes) -> Manifest:
    """A manifest from the JSON of an overlay file; raises FormatError."""
    if len(raw) > MAX_MANIFEST:
        raise FormatError(f"its manifest has {len(raw)} bytes; {MAX_MANIFEST} are allowed")
    try:
        tree = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"its manifest is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise FormatError("its manifest is no JSON object")
    return from_dict(tree)


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: the same manifest gives the same bytes."""
    return msgspec.json.encode(manifest, order="sorted") + b"\n"


def policy(manifest: Manifest) -> bytes:
    """What the guest needs to know to run the overlay, in its own form (`.uio.policy`, image header)."""
    flags = (
        _APP_NONE * (manifest.app == "none")
        | _NEED_DOMAIN * (manifest.domain == "required")
        | _KEEP_DATA * manifest.keep
    )
    return _POLICY.pack(1, flags, manifest.stack, manifest.timeout_ms, manifest.memory, 0)


def of(elf: Object) -> Manifest:
    """The manifest in an overlay's object; raises FormatError."""
    text = _content(elf, SECTION)
    if text is None:
        raise FormatError("it has no manifest; `uioctl overlay build` would have given it one")
    manifest = decode(text)
    if _content(elf, POLICY_SECTION) != policy(manifest):
        raise FormatError("its policy section does not say what its manifest says")
    return manifest


def _content(elf: Object, name: str) -> bytes | None:
    found = [s for s in elf.sections if s.name == name]
    if not found:
        return None
    if len(found) > 1 or found[0].allocated:
        raise FormatError(f"its section {name} is malformed")
    return elf.bytes_of(found[0])


def from_dict(tree: dict[str, Any]) -> Manifest:
    """Check a manifest given as plain data; raises FormatError that names the key."""
    for key in tree:
        if key not in _FIELDS:
            hint = did_you_mean(near(str(key), _FIELDS, 1))
            raise FormatError(f"the manifest has no key {str(key)[:64]!r}", hint)
    try:
        manifest = msgspec.convert(tree, Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FormatError(f"the manifest is wrong: {error}") from None
    if not NAME.match(manifest.name):
        raise FormatError(
            f"{manifest.name[:80]!r} is no name for an overlay",
            "a name has 1 to 63 letters, digits, '_', '-' or '.', and begins with none of the last two",
        )
    for key, limit in (("version", 64), ("description", 200), ("usage", 400), ("help", 16 << 10)):
        text = getattr(manifest, key)
        if len(text) > limit:
            raise FormatError(f"the manifest's {key} is longer than {limit} characters")
        if any(ord(c) < 32 and not (c in "\n\t" and key == "help") for c in text):
            raise FormatError(f"the manifest's {key} has control characters")
    if len(manifest.imports) > MAX_IMPORTS or any(not i for i in manifest.imports):
        raise FormatError("the manifest's imports are too many, or one is empty")
    for key, low, high in (
        ("stack", 2 * PAGE, 16 << 20),
        ("timeout_ms", 0, 1 << 31),
        ("memory", 0, 1 << 40),
    ):
        value = getattr(manifest, key)
        if not low <= value <= high:
            raise FormatError(f"the manifest's {key} is {value}; {low} to {high} are possible")
    return manifest


def from_source(path: Path) -> dict[str, Any]:
    """What the source says: the TOML beside it (hello.toml) if there is one, else its `// uio:` block."""
    beside = path.with_suffix(".toml")
    if beside.exists():
        return from_toml(beside)
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from None
    return parse_block(text, str(path))


def from_toml(path: Path) -> dict[str, Any]:
    """What a manifest file says, unchecked but for sizes and times."""
    try:
        tree = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError(f"{path}: {error}") from None
    return _humane(tree, str(path))


def parse_block(text: str, where: str) -> dict[str, Any]:
    """
    The first block of lines that begin with `// uio:` (or `# uio:` in assembler) and what follows in the same comment:

        // uio: name = "hello"
        // uio: version = "1.0"

    Each line without its prefix is a line of TOML.
    """
    lines = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*(?://|#|;)\s*uio:\s?(.*)\Z", line)
        if match:
            first = first or number
            lines.append(match[1])
    try:
        tree = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{where}:{first}: the `// uio:` block is no TOML: {error}") from None
    return _humane(tree, f"{where}:{first}" if first else where)


def _humane(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Sizes may be written "64K" and times "5s"; `timeout` stands for timeout_ms."""
    out = dict(tree)
    for key in ("stack", "memory"):
        if isinstance(value := out.get(key), str):
            if not (match := _BYTES.match(value)):
                raise FormatError(f"{where}: {key} is {value!r}; write a size like 65536 or '64K'")
            out[key] = int(match[1]) * _UNITS[match[2]]
    if "timeout" in out:
        value = out.pop("timeout")
        match = _DURATION.match(value) if isinstance(value, str) else None
        if not match:
            raise FormatError(f"{where}: timeout is {value!r}; write a time like '500ms' or '5s'")
        out["timeout_ms"] = int(match[1]) * _DURATIONS[match[2]]
    return out
