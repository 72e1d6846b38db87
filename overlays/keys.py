# SPDX-License-Identifier: BSD-3-Clause
"""Ed25519 keys in PEM files: making them, and reading them with an eye on who else may.

A private key that others may read is refused, and so is a public key that everybody may replace.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overlays.errors import KeyFileError
from overlays.files import open_regular

# `cryptography` is imported where it is used: 6 MB that a daemon leaves to the helper that checks files for it.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_ID_BYTES = 16
_MAX_PEM = 16 << 10
_PUBLIC_PEM = re.compile(
    rb"^-----BEGIN PUBLIC KEY-----\s*$(.*?)^-----END PUBLIC KEY-----\s*$", re.DOTALL | re.MULTILINE
)
_ED25519_SPKI = bytes.fromhex(
    "302a300506032b6570032100"
)  # RFC 8410; the 32 bytes of the key follow


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that checks signatures, and the name people know it by."""

    name: str  # file name without .pub.pem
    raw: bytes
    path: Path | None = None

    @property
    def id(self) -> bytes:
        return key_id(self.raw)

    def checks(self, signature: bytes, message: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PublicKey,
        )

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def key_id(raw: bytes) -> bytes:
    """How a signature names its key: the first 16 bytes of the SHA-256 of the 32 raw bytes."""
    return hashlib.sha256(raw).digest()[:KEY_ID_BYTES]


def public_path(private: Path) -> Path:
    """Where `generate` puts the public half: demo.pem -> demo.pub.pem."""
    return private.with_name(key_name(private) + ".pub.pem")


def key_name(path: Path) -> str:
    return path.name.removesuffix(".pem").removesuffix(".pub")


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def generate(path: Path, passphrase: bytes | str | None = None) -> Path:
    """
    Make a key pair: the private key at `path` (mode 0600), the public one beside it.

    :return: the path of the public key.
    :raise KeyFileError: a file is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    key = Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    target = public_path(path)
    for file in (path, target):
        if file.exists():
            raise KeyFileError(
                f"{file} is there already", "choose another name; keys are never overwritten"
            )
    _create(path, private, 0o600)
    _create(target, public, 0o644)
    return target


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask
        file.write(content)


def _read(path: Path, forbidden: int, why: str, remedy: str) -> bytes:
    """Read a small regular file whose mode has none of the forbidden bits; the file looked at is the file read."""
    try:
        with open_regular(path) as (file, info):
            if info.st_mode & forbidden:
                raise KeyFileError(
                    f"{path} has mode {stat.S_IMODE(info.st_mode):04o}: {why}", f"{remedy} {path}"
                )
            return file.read(_MAX_PEM)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def is_encrypted(path: Path) -> bool:
    """Whether a private key asks for a passphrase."""
    return b"ENCRYPTED" in _read_private(path)


def _read_private(path: Path) -> bytes:
    return _read(path, 0o077, "others may use this private key", "run: chmod 600")


def load_private(path: Path, passphrase: bytes | str | None = None) -> Ed25519PrivateKey:
    """The private key in a PEM file; raises KeyFileError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    pem = _read_private(path)
    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    if b"PUBLIC KEY" in pem:
        raise KeyFileError(f"{path} is a public key; signing needs the private one")
    try:
        key = serialization.load_pem_private_key(pem, secret if b"ENCRYPTED" in pem else None)
    except TypeError:
        raise KeyFileError(
            f"{path} is protected by a passphrase",
            "give it with --passphrase-file or at the prompt",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        what = (
            "the passphrase is wrong" if secret and b"ENCRYPTED" in pem else "it is no key in PEM"
        )
        raise KeyFileError(f"{path}: {what}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is no Ed25519 key", "make one with: uioctl overlay keygen")
    return key


def load_public(path: Path) -> PublicKey:
    """The public key in a PEM file; raises KeyFileError."""
    pem = _read(path, 0o002, "everybody may replace this key", "run: chmod o-w")
    if b"PRIVATE KEY" in pem:
        raise KeyFileError(
            f"{path} is a private key, which has no place among trusted keys",
            f"give the public one: {public_path(path)}",
        )
    match = _PUBLIC_PEM.search(pem)
    try:
        der = base64.b64decode(b"".join(match[1].split()), validate=True) if match else b""
    except ValueError:
        der = b""
    if not der:
        raise KeyFileError(f"{path} is no public key in PEM")
    if not der.startswith(_ED25519_SPKI) or len(der) != len(_ED25519_SPKI) + 32:
        raise KeyFileError(f"{path} is no Ed25519 key")
    return PublicKey(key_name(path), der[len(_ED25519_SPKI) :], path)


def is_private(path: Path) -> bool:
    """Whether a PEM file holds a private key; False if it cannot be told."""
    try:
        return b"PRIVATE KEY" in path.read_bytes()[:_MAX_PEM]
    except OSError:
        return False
