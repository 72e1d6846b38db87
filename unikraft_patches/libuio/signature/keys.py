# SPDX-License-Identifier: BSD-3-Clause
"""Public keys into a kernel: `keys.py A.pub.pem … > keys.c` writes the C file that signature.c is linked with.

Needs nothing but Python, as kernels are built where the rest of uIO is not installed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410; the 32 bytes of the key follow
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----(.*?)-----END PUBLIC KEY-----", re.DOTALL)
_NAME = 24


class BadKey(Exception):
    """A file that is no Ed25519 public key."""


def read(path: Path) -> bytes:
    """The 32 bytes of the key in a PEM file."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"{path} cannot be read: {error}") from None
    if "PRIVATE KEY" in text:
        raise BadKey(f"{path} is a private key: give the public one (.pub.pem)")
    found = _PEM.search(text)
    try:
        der = base64.b64decode("".join(found[1].split()), validate=True) if found else b""
    except binascii.Error:
        der = b""
    if len(der) != len(_SPKI) + 32 or not der.startswith(_SPKI):
        raise BadKey(f"{path} is no Ed25519 public key in PEM")
    return der[len(_SPKI) :]


def name_of(path: Path) -> str:
    """What messages call the key: its file's name, without what a C string must not have."""
    name = path.name.removesuffix(".pem").removesuffix(".pub")
    return re.sub(r"[^A-Za-z0-9_.@-]", "_", name)[:_NAME] or "key"


def source(paths: Sequence[Path]) -> str:
    """The C file."""
    keys = {read(path): name_of(path) for path in reversed(paths)}
    if not keys:
        raise BadKey(
            "no keys are given: a kernel that checks signatures and trusts nobody runs nothing"
        )
    rows = []
    for raw, name in reversed(keys.items()):
        identity = hashlib.sha256(raw).digest()[:16]
        rows.append(f'\t{{"{name}", {_bytes(identity)}, {_bytes(raw)}}},')
    return "\n".join([
        "/* Written by keys.py. */",
        '#include "trusted.h"',
        "",
        "const struct uio_trusted_key uio_trusted_keys[] = {",
        *rows,
        "};",
        f"const unsigned int uio_trusted_key_count = {len(rows)};",
        "",
    ])  # fmt: skip


def _bytes(data: bytes) -> str:
    return "{" + ", ".join(f"0x{byte:02x}" for byte in data) + "}"


def main(arguments: Sequence[str]) -> int:
    try:
        sys.stdout.write(source([Path(argument) for argument in arguments]))
    except BadKey as error:
        print(f"keys.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
