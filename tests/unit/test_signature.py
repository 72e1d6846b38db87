# SPDX-License-Identifier: BSD-3-Clause
"""The guest's own check of signatures: its Ed25519 against RFC 8032; the hosted guest with overlays of all kinds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import loader_tools as t
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loader_tools import NOT_FOUND, OK, REFUSED, TOP, Hosted

from console.frames import Feature
from overlays.build import build
from overlays.keys import generate, key_id, load_private, raw_public
from overlays.sign import BLOCK, sign

SIGNATURE = t.LIBUIO / "signature"
KEYS = TOP / "build" / "keys" / "tests"
ORDER = 2**252 + 27742317777372353535851937790883648493

# RFC 8032, section 7.1: public key, message, signature.
KNOWN = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.fixture(scope="module")
def keys() -> Path:
    """Key pairs that stay, so that the guests that trust them need not be built each time."""
    KEYS.mkdir(parents=True, exist_ok=True)
    for name in ("guest", "second", "stranger"):
        if not (KEYS / f"{name}.pem").exists():
            generate(KEYS / f"{name}.pem")
    return KEYS


@pytest.fixture(scope="module")
def program(keys: Path) -> Path:
    t.run(
        "make", "-s", "-C", t.LIBUIO / "port" / "hosted", "SIGNATURES=yes", f"PYTHON={sys.executable}",
        f"KEYS={keys / 'guest.pub.pem'} {keys / 'second.pub.pem'}",
    )  # fmt: skip
    return TOP / "build" / "hosted" / "uio-hosted-signed"


@pytest.fixture(scope="module")
def checker(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert program.exists()  # Monocypher has been fetched for it
    out = tmp_path_factory.mktemp("check") / "check"
    monocypher = TOP / "build" / "monocypher"
    t.run(
        "gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", t.LIBUIO / "include",
        "-I", SIGNATURE, "-I", monocypher, Path(__file__).parent / "signature" / "check.c",
        SIGNATURE / "ed25519.c", SIGNATURE / "sha512.c", monocypher / "monocypher.c", "-o", out,
    )  # fmt: skip
    return out


def check(checker: Path, rows: list[tuple[bytes, bytes, bytes]]) -> list[bool]:
    text = "".join(f"{k.hex()} {s.hex()} {m.hex() or '-'}\n" for k, s, m in rows)
    done = subprocess.run([checker], input=text, capture_output=True, text=True, check=True)
    return [line == "good" for line in done.stdout.split()]


def test_the_known_answers_of_rfc_8032(checker: Path) -> None:
    rows = [tuple(map(bytes.fromhex, (k, s, m))) for k, m, s in KNOWN]
    assert check(checker, rows) == [True] * len(rows)
    wrong = [(k, s, m + b"x") for k, s, m in rows]
    wrong += [(k, s[:32] + bytes(32), m) for k, s, m in rows]
    assert check(checker, wrong) == [False] * len(wrong)


def test_messages_of_all_lengths_as_another_implementation_signs_them(checker: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = raw_public(private)
    messages = [os.urandom(n) for n in [*range(300), 4095, 4096, 500_001]]
    rows = [(public, private.sign(m), m) for m in messages]
    assert all(check(checker, rows))
    assert not any(check(checker, [(k, s, m[:-1] + bytes([m[-1] ^ 1])) for k, s, m in rows[1:]]))


def test_a_signature_has_one_form_only(checker: Path) -> None:
    """S + L would be right in the equation, too."""
    private = Ed25519PrivateKey.generate()
    signature = private.sign(b"text")
    s = int.from_bytes(signature[32:], "little") + ORDER
    other = signature[:32] + s.to_bytes(32, "little")
    assert check(checker, [(raw_public(private), x, b"text") for x in (signature, other)]) == [
        True,
        False,
    ]


# The hosted guest


@pytest.fixture
def guest(program: Path, tmp_path: Path) -> Iterator[Hosted]:
    with t.hosted(tmp_path, program) as running:
        yield running


@pytest.fixture
def elf(program: Path, tmp_path: Path) -> bytes:
    """A small overlay, not signed."""
    source = t.write(
        tmp_path / "say.c", '#include <stdio.h>\nint main(void) { puts("ran"); return 3; }\n'
    )
    out = tmp_path / "say.uio"
    build([source], out, kernel=program, flags=["-g0"])
    return out.read_bytes()


def put(guest: Hosted, name: str, data: bytes) -> None:
    (guest.root / "bin" / name).write_bytes(data)


def signed(elf: bytes, *keys: str, not_after: int = 0) -> bytes:
    for key in keys:
        elf = sign(elf, load_private(KEYS / f"{key}.pem"), not_after=not_after)
    return elf


def identity(name: str) -> str:
    return key_id(raw_public(load_private(KEYS / f"{name}.pem"))).hex()


@pytest.mark.parametrize("by", [["guest"], ["second"], ["guest", "second"], ["stranger", "guest"]])
def test_what_a_trusted_key_signed_runs(guest: Hosted, elf: bytes, by: list[str]) -> None:
    put(guest, "say", signed(elf, *by))
    for _ in range(2):
        done = guest.run("say")
        assert (done.kind, done.status, done.stdout) == (OK, 3, b"ran\n"), done


def test_a_refusal_names_the_keys_that_would_do(guest: Hosted, elf: bytes) -> None:
    put(guest, "say", elf)
    done = guest.run("say")
    assert (done.kind, done.stdout) == (REFUSED, b"")
    assert done.message == (
        f"say: it is not signed; this kernel wants it signed by guest ({identity('guest')}) "
        f"or second ({identity('second')})"
    )
    put(guest, "say", signed(elf, "stranger"))
    done = guest.run("say")
    assert done.kind == REFUSED
    assert (
        f"signed by key {identity('stranger')}, not by guest ({identity('guest')})" in done.message
    )


def test_a_signature_ends_at_its_time(guest: Hosted, elf: bytes) -> None:
    now = int(time.time())
    put(guest, "say", signed(elf, "guest", not_after=now + 3600))
    assert guest.run("say").kind == OK
    put(guest, "say", signed(elf, "guest", not_after=951782400))
    done = guest.run("say")
    assert done.kind == REFUSED
    assert f"guest ({identity('guest')}) expired on 2000-02-29" in done.message
    put(guest, "say", signed(signed(elf, "guest", not_after=now - 1), "second"))
    assert guest.run("say").kind == OK


def test_a_wrong_signature_is_not_outvoted_by_a_right_one(guest: Hosted, elf: bytes) -> None:
    data = bytearray(signed(elf, "second", "guest"))
    data[-BLOCK + 40] ^= 1
    put(guest, "say", bytes(data))
    done = guest.run("say")
    assert done.kind == REFUSED
    assert f"changed after it was signed by guest ({identity('guest')})" in done.message


def test_every_byte_counts(guest: Hosted, elf: bytes) -> None:
    data = signed(elf, "guest")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        put(guest, "say", bytes(changed))
        done = guest.run("say")
        assert (done.kind, done.stdout) == (REFUSED, b""), (at, done)
    put(guest, "say", data)
    assert guest.run("say").kind == OK


def test_what_is_behind_or_missing_counts(guest: Hosted, elf: bytes) -> None:
    data = signed(elf, "guest")
    for changed in (data + b"x", data[:-1], data[: -BLOCK // 2], elf + data[-BLOCK:] * 2, data[1:]):
        put(guest, "say", changed)
        assert guest.run("say").kind == REFUSED
    put(guest, "say", data[-BLOCK:])
    assert guest.run("say").kind == REFUSED


def test_no_image_is_taken_and_hello_says_so(guest: Hosted) -> None:
    hello = guest.client.hello
    assert hello is not None
    assert Feature(hello.features) & (Feature.SIGNATURES | Feature.PREEMPTION) == 8 | 16
    done = guest.run("say", flags=2, digest=b"\1" * 32)
    assert done.kind == REFUSED
    assert "checks signatures itself" in done.message
    assert guest.run("say").kind == NOT_FOUND


# Keys on their way into a kernel


@pytest.mark.parametrize(("content", "says"), [
    ("", "no Ed25519 public key"),
    ("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", "no Ed25519 public key"),
    ("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n", "no Ed25519 public key"),
    ("-----BEGIN PRIVATE KEY-----\n", "private key"),
])  # fmt: skip
def test_what_is_no_key_does_not_get_into_a_kernel(tmp_path: Path, content: str, says: str) -> None:
    path = t.write(tmp_path / "key.pem", content)
    done = subprocess.run(
        [sys.executable, SIGNATURE / "keys.py", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    none = subprocess.run([sys.executable, SIGNATURE / "keys.py"], capture_output=True, check=False)
    assert none.returncode == 1
