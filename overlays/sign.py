# SPDX-License-Identifier: BSD-3-Clause
"""Signatures appended to an overlay's ELF object, as Linux appends them to modules.

`[ELF][block 1]…[block n]`: each block has 128 bytes and signs the ELF bytes together with its own fields, independently
of the other blocks. docs/overlays.md has the layout, and the openssl command line that checks a block.
"""

from __future__ import annotations

import hashlib
import math
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overlays.elf import MAX_FILE, looks_like_elf
from overlays.errors import FormatError, Refused
from overlays.files import write_atomically
from overlays.keys import key_id, raw_public
from overlays.trust import Trust

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAGIC = b"~uIO overlay signature~\n"
VERSION = 1
DOMAIN = b"uIO overlay signature 1\0"
MAX_BLOCKS = 16

#: signed fields: key id, not-after (Unix seconds, 0 = never), size of the ELF, flags (0)
_FIELDS = struct.Struct("<16sQII")
#: then the signature, the block's size, the version, the magic
_TAIL = struct.Struct("<64sII24s")
BLOCK = _FIELDS.size + _TAIL.size
assert BLOCK == 128

State = Literal["good", "bad", "expired", "revoked", "unknown"]


@dataclass(frozen=True, slots=True)
class Block:
    """One signature as it stands in the file; nothing is checked yet."""

    key_id: bytes
    not_after: int
    elf_size: int
    flags: int
    signature: bytes

    def fields(self) -> bytes:
        return _FIELDS.pack(self.key_id, self.not_after, self.elf_size, self.flags)

    def payload(self, elf: bytes) -> bytes:
        """The bytes that are signed."""
        return DOMAIN + self.fields() + elf

    def encode(self) -> bytes:
        return self.fields() + _TAIL.pack(self.signature, BLOCK, VERSION, MAGIC)


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """One signature and what a site thinks of it."""

    key_id: bytes
    key: str | None  # name of the trusted key
    not_after: int
    state: State
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file may be used, and why (not)."""

    ok: bool
    reason: str  # empty if ok
    elf: bytes  # without signatures
    signed_by: list[str] = field(default_factory=list)
    signatures: list[SignatureInfo] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    valid_until: float = math.inf  # the verdict must be asked for again then

    def require(self) -> Verdict:
        """Itself if it is favourable; raises Refused otherwise."""
        if not self.ok:
            raise Refused(self.reason)
        return self


def split(data: bytes) -> tuple[bytes, list[Block]]:
    """
    The ELF and the signature blocks of a file, in the order in which they were added.

    :raise FormatError: a block is damaged or cut off.
    """
    blocks: list[Block] = []
    end = len(data)
    while end >= len(MAGIC) and data[end - len(MAGIC) : end] == MAGIC:
        if end < BLOCK:
            raise FormatError("its signature block is cut off")
        if len(blocks) == MAX_BLOCKS:
            raise FormatError(f"it has more than {MAX_BLOCKS} signatures")
        start = end - BLOCK
        signature, size, version, _ = _TAIL.unpack_from(data, start + _FIELDS.size)
        if version != VERSION:
            raise FormatError(f"its signature block has version {version}; {VERSION} is known here")
        if size != BLOCK:
            raise FormatError(f"its signature block claims {size} bytes; it must have {BLOCK}")
        key, not_after, elf_size, flags = _FIELDS.unpack_from(data, start)
        if flags:
            raise FormatError("its signature block has flags that are unknown here")
        blocks.append(Block(key, not_after, elf_size, flags, signature))
        end = start
    elf = data[:end]
    blocks.reverse()
    if len({b.key_id for b in blocks}) != len(blocks):
        raise FormatError("it is signed twice by the same key")
    for block in blocks:
        if block.elf_size != len(elf):
            raise FormatError(
                f"its signature is for {block.elf_size} bytes, but the overlay has {len(elf)}: "
                "something was cut out or put in"
            )
    return elf, blocks


def sign(
    data: bytes, key: Ed25519PrivateKey, *, not_after: int = 0, replace: bool = False
) -> bytes:
    """
    The file with one more signature.

    :param not_after: Unix time from which on the signature counts for nothing; 0 means never.
    :param replace: drop all signatures that are there.
    :raise FormatError: it is no ELF file, or it is too large, or its signatures are damaged.
    """
    elf, blocks = split(data)
    if not looks_like_elf(elf):
        raise FormatError("it is no ELF file; only overlays can be signed")
    identity = key_id(raw_public(key))
    kept = [] if replace else [b for b in blocks if b.key_id != identity]
    unsigned = Block(identity, not_after, len(elf), 0, bytes(64))
    block = Block(identity, not_after, len(elf), 0, key.sign(unsigned.payload(elf)))
    out = elf + b"".join(b.encode() for b in [*kept, block])
    if len(kept) >= MAX_BLOCKS:
        raise FormatError(f"it has {len(kept)} signatures already; {MAX_BLOCKS} are possible")
    if len(out) > MAX_FILE:
        raise FormatError(f"signed, it would have {len(out)} bytes; {MAX_FILE} are possible")
    return out


def sign_file(
    path: Path, key: Ed25519PrivateKey, *, not_after: int = 0, replace: bool = False
) -> None:
    """Sign a file in place; readers see the old or the new file, nothing between."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from None
    write_atomically(path, sign(data, key, not_after=not_after, replace=replace))


def verify(data: bytes, trust: Trust, *, now: float | None = None) -> Verdict:
    """
    Check a file's signatures against a site's trust. Never raises for what is in the file.

    A file is good if one trusted, unexpired, unrevoked key signed it and no signature of a trusted key is wrong.
    """
    now = time.time() if now is None else now
    if len(data) > MAX_FILE:
        return Verdict(False, f"it has {len(data)} bytes; an overlay has at most {MAX_FILE}", b"")
    try:
        elf, blocks = split(data)
    except FormatError as error:
        return Verdict(False, error.message, b"")
    infos = [_judge(block, elf, trust, now) for block in blocks]
    hashes = {hashlib.sha256(data).digest(), hashlib.sha256(elf).digest()}
    if hashes & trust.revoked_overlays:
        return Verdict(False, "it is revoked: its hash is on the list", elf, [], infos)
    for info in infos:
        if info.state == "bad":
            return Verdict(False, info.sentence, elf, [], infos)
    good = [i for i in infos if i.state == "good"]
    warnings = [i.sentence for i in infos if i.state != "good"]
    if good:
        limits = [i.not_after or math.inf for i in good]
        names = [i.key for i in good if i.key]
        # Another verdict is due when the first of them expires: signed_by changes then.
        return Verdict(True, "", elf, names, infos, warnings, min(limits))
    for info in infos:
        if info.state in ("expired", "revoked"):
            return Verdict(False, info.sentence, elf, [], infos)
    reason = infos[0].sentence if infos else _unsigned(data)
    if trust.unsigned == "warn":
        return Verdict(True, "", elf, [], infos, [reason])
    return Verdict(False, reason, elf, [], infos)


def _judge(block: Block, elf: bytes, trust: Trust, now: float) -> SignatureInfo:
    def info(state: State, sentence: str) -> SignatureInfo:
        name = key.name if key else None
        return SignatureInfo(block.key_id, name, block.not_after, state, sentence)

    key = trust.keys.get(block.key_id)
    identity = block.key_id.hex()
    if block.key_id in trust.revoked_keys:
        return info("revoked", f"it is signed by key {identity}, which is revoked")
    if key is None:
        return info("unknown", f"it is signed by key {identity}, which is not trusted here")
    if not key.checks(block.signature, block.payload(elf)):
        return info(
            "bad",
            f"its signature by {key.name} is wrong: the file or the signature was changed after signing",
        )
    if block.not_after and now >= block.not_after:
        return info("expired", f"its signature by {key.name} expired on {date(block.not_after)}")
    until = f" until {date(block.not_after)}" if block.not_after else ""
    return info("good", f"signed by {key.name}{until}")


def _unsigned(data: bytes) -> str:
    if MAGIC[:8] in data[-2 * BLOCK :]:
        return "it is not signed: its signature block is cut off, or something follows it"
    return "it is not signed"


def date(seconds: int) -> str:
    """A Unix time in words, whatever a file claims it to be."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"second {seconds}"


def extract(data: bytes, directory: Path) -> list[dict[str, str]]:
    """
    Write what openssl needs to check each signature: `N.payload` and `N.sig`.

    :return: for each signature the key id and the two file names.
    """
    elf, blocks = split(data)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for number, block in enumerate(blocks, 1):
        payload, signature = directory / f"{number}.payload", directory / f"{number}.sig"
        payload.write_bytes(block.payload(elf))
        signature.write_bytes(block.signature)
        written.append(
            {"key_id": block.key_id.hex(), "payload": str(payload), "signature": str(signature)}
        )
    return written
