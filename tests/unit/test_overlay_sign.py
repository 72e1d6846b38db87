# SPDX-License-Identifier: BSD-3-Clause
"""A signature protects every byte; each way to cheat is refused with a sentence of its own; openssl agrees."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_tools import HELLO, make, private_key, public_key, trusting

from overlays import keys, sign
from overlays.errors import FormatError, KeyFileError
from overlays.sign import BLOCK, MAGIC
from overlays.trust import Trust


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("sign"), HELLO.read_text(), "hello.c").data


@pytest.fixture(scope="module")
def signed(plain: bytes) -> bytes:
    return sign.sign(plain, private_key())


def reason(data: bytes, trust: Trust | None = None, now: float = 1000.0) -> str:
    """Why a file is refused; empty if it is not."""
    verdict = sign.verify(data, trust or trusting(0), now=now)
    assert verdict.ok == (not verdict.reason)
    return verdict.reason


def test_a_signed_file_is_good_and_says_by_whom(plain: bytes, signed: bytes) -> None:
    verdict = sign.verify(signed, trusting(0))
    assert (verdict.ok, verdict.elf, verdict.signed_by) == (True, plain, ["key0"])
    assert len(signed) == len(plain) + BLOCK
    assert sign.sign(plain, private_key()) == signed


def test_the_layout_is_the_documented_one(plain: bytes, signed: bytes) -> None:
    block = signed[-128:]
    identity, not_after, size, flags, signature, length, version, magic = struct.unpack(
        "<16sQII64sII24s", block
    )
    raw = keys.raw_public(private_key())
    assert identity == hashlib.sha256(raw).digest()[:16]
    assert (not_after, size, flags, length, version) == (0, len(plain), 0, 128, 1)
    assert magic == b"~uIO overlay signature~\n"
    private_key().public_key().verify(signature, b"uIO overlay signature 1\0" + block[:32] + plain)


def test_openssl_agrees(plain: bytes, tmp_path: Path) -> None:
    public = keys.generate(tmp_path / "demo.pem")
    key = keys.load_private(tmp_path / "demo.pem")
    signed = sign.sign(sign.sign(plain, private_key()), key)
    written = sign.extract(signed, tmp_path / "out")
    assert [w["key_id"] for w in written] == [
        public_key().id.hex(),
        keys.load_public(public).id.hex(),
    ]

    def openssl(number: int) -> int:
        return subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin",
             "-in", written[number]["payload"], "-sigfile", written[number]["signature"]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip

    assert openssl(1) == 0
    assert openssl(0) != 0  # of the other key


def test_every_byte_counts(signed: bytes) -> None:
    """Not a sample: each byte of the file, with each of its bits flipped in turn."""
    trust = trusting(0)
    for position in range(len(signed)):
        changed = bytearray(signed)
        changed[position] ^= 1 << position % 8
        verdict = sign.verify(bytes(changed), trust, now=1000.0)
        assert not verdict.ok, position
        assert verdict.reason


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_edit_gets_through(signed: bytes, data: st.DataObject) -> None:
    """Bytes replaced, cut out, put in, or repeated."""
    start = data.draw(st.integers(0, len(signed)))
    end = data.draw(st.integers(start, len(signed)))
    middle = data.draw(st.binary(max_size=200) | st.just(signed[start:end] * 2))
    changed = signed[:start] + middle + signed[end:]
    if changed != signed:
        assert reason(changed)


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_whatever_the_bytes_are_there_is_a_verdict(data: bytes) -> None:
    assert reason(data)
    assert reason(data + MAGIC)
    assert reason(data + struct.pack("<II", BLOCK, 1) + MAGIC)


def test_ways_to_cheat_are_told_apart(plain: bytes, signed: bytes, tmp_path: Path) -> None:
    other = make(tmp_path, HELLO.read_text().replace("Hello", "Howdy"), "hello.c").data
    assert len(other) == len(plain)
    elf_changed = bytearray(signed)
    elf_changed[100] ^= 1
    block = signed[-BLOCK:]
    longer = bytearray(block)
    struct.pack_into("<Q", longer, 16, 1 << 40)  # the end of validity, moved
    cases = {
        "not signed": plain,
        "not signed, empty": b"",
        "changed after signing": bytes(elf_changed),
        "changed after signing ": other + block,  # another file's signature
        "changed after signing  ": plain + bytes(longer),
        "cut out or put in": signed[:50] + signed[51:],
        "cut out or put in ": plain + b"x" + block,
        "cut off, or something follows": signed[:-1],
        "cut off, or something follows ": signed + b"x",
        "signature block is cut off": signed[-100:],
        "signed twice by the same key": signed + block,
        "not trusted here": sign.sign(plain, private_key(1)),
    }
    for message, data in cases.items():
        assert message.split(",")[0].strip() in reason(data), message


def test_block_fields_are_checked(plain: bytes, signed: bytes) -> None:
    def changed(offset: int, value: int) -> str:
        data = bytearray(signed)
        struct.pack_into("<I", data, len(plain) + offset, value)
        return reason(bytes(data))

    assert "version 2" in changed(100, 2)
    assert "claims 64 bytes" in changed(96, 64)
    assert "flags" in changed(28, 1)
    assert "for 5 bytes" in changed(24, 5)


def test_expired_and_revoked(plain: bytes) -> None:
    data = sign.sign(plain, private_key(), not_after=2000)
    verdict = sign.verify(data, trusting(0), now=1999.9)
    assert verdict.ok and verdict.valid_until == 2000
    assert reason(data, now=2000) == "its signature by key0 expired on 1970-01-01 00:33:20 UTC"
    revoked = trusting(0, revoked_keys=frozenset({public_key().id}))
    assert "is revoked" in reason(data, revoked)
    for digest in (hashlib.sha256(data).digest(), hashlib.sha256(plain).digest()):
        # The hash of the ELF alone too: a further signature does not bring it back.
        listed = trusting(0, 1, revoked_overlays=frozenset({digest}))
        assert "its hash is on the list" in reason(data, listed)
    again = sign.sign(data, private_key(1))
    listed = trusting(0, 1, revoked_overlays=frozenset({hashlib.sha256(plain).digest()}))
    assert "its hash is on the list" in reason(again, listed)


@pytest.mark.parametrize("unsigned", ["refuse", "warn"])
def test_what_is_wrong_stays_wrong_where_unsigned_files_are_let_in(
    plain: bytes, signed: bytes, unsigned: str
) -> None:
    trust = trusting(0, unsigned=unsigned)
    lenient = unsigned == "warn"
    assert sign.verify(plain, trust).ok == lenient
    assert sign.verify(sign.sign(plain, private_key(1)), trust).ok == lenient
    if lenient:
        assert sign.verify(plain, trust).warnings == ["it is not signed"]
        assert sign.verify(plain, trust).signed_by == []
    broken = bytearray(signed)
    broken[70] ^= 1
    assert not sign.verify(bytes(broken), trust).ok
    assert not sign.verify(sign.sign(plain, private_key(), not_after=1), trust).ok


def test_several_signatures(plain: bytes) -> None:
    both = sign.sign(sign.sign(plain, private_key(0)), private_key(1))
    assert sign.verify(both, trusting(0)).signed_by == ["key0"]
    assert sign.verify(both, trusting(1)).signed_by == ["key1"]
    assert sign.verify(both, trusting(0, 1)).signed_by == ["key0", "key1"]
    assert "not trusted here" in reason(both, trusting(2))
    # One wrong signature of a trusted key spoils the file; one by a stranger does not.
    for number in (0, 1):
        broken = bytearray(both)
        broken[len(plain) + number * BLOCK + 40] ^= 1
        assert "changed after signing" in reason(bytes(broken), trusting(0, 1))
        assert reason(bytes(broken), trusting(1 - number)) == ""
    expired = sign.sign(sign.sign(plain, private_key(0), not_after=1), private_key(1))
    verdict = sign.verify(expired, trusting(0, 1))
    assert verdict.ok and verdict.signed_by == ["key1"] and "expired" in verdict.warnings[0]


def test_signing_again_with_a_key_replaces_its_signature(plain: bytes) -> None:
    once = sign.sign(plain, private_key(0), not_after=5)
    twice = sign.sign(sign.sign(once, private_key(1)), private_key(0))
    assert [b.not_after for b in sign.split(twice)[1]] == [0, 0]
    alone = sign.sign(twice, private_key(2), replace=True)
    assert [b.key_id for b in sign.split(alone)[1]] == [public_key(2).id]


def test_there_is_an_end_to_signatures(plain: bytes) -> None:
    data = plain
    for number in range(sign.MAX_BLOCKS):
        data = sign.sign(data, private_key(number))
    with pytest.raises(FormatError, match="16 are possible"):
        sign.sign(data, private_key(100))
    block = sign.Block(public_key(100).id, 0, len(plain), 0, bytes(64)).encode()
    assert "more than 16 signatures" in reason(data + block)


def test_only_elf_files_are_signed(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no ELF file"):
        sign.sign(b"#!/bin/sh\n", private_key())
    with pytest.raises(FormatError, match="No such file"):
        sign.sign_file(tmp_path / "nothing.uio", private_key())


def test_signing_a_file_keeps_its_mode_and_leaves_nothing_behind(
    plain: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "hello.uio"
    path.write_bytes(plain)
    path.chmod(0o640)
    sign.sign_file(path, private_key())
    assert sign.verify(path.read_bytes(), trusting(0)).ok
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["hello.uio"]


# Keys.


def test_keys_have_the_right_modes_and_are_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        public = keys.generate(tmp_path / "demo.pem")
    finally:
        os.umask(old)
    assert public == tmp_path / "demo.pub.pem"
    assert (tmp_path / "demo.pem").stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    before = (tmp_path / "demo.pem").read_bytes()
    with pytest.raises(KeyFileError, match="is there already"):
        keys.generate(tmp_path / "demo.pem")
    assert (tmp_path / "demo.pem").read_bytes() == before
    (tmp_path / "demo.pem").unlink()
    with pytest.raises(KeyFileError, match="is there already"):
        keys.generate(tmp_path / "demo.pem")
    assert not (tmp_path / "demo.pem").exists()


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo.pem"
    keys.generate(path)
    for mode in (0o640, 0o604, 0o620, 0o666):
        path.chmod(mode)
        with pytest.raises(KeyFileError, match="others may use") as caught:
            keys.load_private(path)
        assert caught.value.hint == f"run: chmod 600 {path}"
    path.chmod(0o400)
    keys.load_private(path)


def test_passphrases(tmp_path: Path) -> None:
    path = tmp_path / "demo.pem"
    keys.generate(path, "correct horse")
    assert keys.is_encrypted(path)
    assert b"ENCRYPTED" in path.read_bytes()
    with pytest.raises(KeyFileError, match="protected by a passphrase"):
        keys.load_private(path)
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        keys.load_private(path, "battery staple")
    key = keys.load_private(path, b"correct horse")
    assert keys.raw_public(key) == keys.load_public(keys.public_path(path)).raw


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name, command in {
        "rsa": ["openssl", "genrsa", "-out", str(tmp_path / "rsa.pem"), "2048"],
        "ec": ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(tmp_path / "ec.pem")],
    }.items():  # fmt: skip
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        path = tmp_path / f"{name}.pem"
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match="no Ed25519 key"):
            keys.load_private(path)
        subprocess.run(
            ["openssl", "pkey", "-in", str(path), "-pubout", "-out", str(tmp_path / "pub")],
            check=True,
        )
        with pytest.raises(KeyFileError, match="no Ed25519 key"):
            keys.load_public(tmp_path / "pub")


def test_openssl_makes_keys_that_work_here(plain: bytes, tmp_path: Path) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)], check=True
    )
    subprocess.run(
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True
    )
    private.chmod(0o600)
    data = sign.sign(plain, keys.load_private(private))
    assert sign.verify(data, Trust.load([public])).signed_by == ["k"]


BAD_KEYS = {
    "nothing": (b"", "no public key in PEM"),
    "text": (b"hello\n", "no public key in PEM"),
    "cut off": (b"-----BEGIN PUBLIC KEY-----\nMCow", "no public key in PEM"),
    "too long": (b"x" * 100_000, "no public key in PEM"),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_files_that_are_no_keys(tmp_path: Path, case: str) -> None:
    content, message = BAD_KEYS[case]
    path = tmp_path / "k.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=message):
        keys.load_public(path)
    with pytest.raises(KeyFileError, match=r"no key in PEM|is a public key"):
        keys.load_private(path)


# Trust.


def test_trust_in_a_directory(plain: bytes, tmp_path: Path) -> None:
    one, two = keys.generate(tmp_path / "one.pem"), keys.generate(tmp_path / "two.pem")
    trust = Trust.load([tmp_path])
    assert sorted(k.name for k in trust.keys.values()) == ["one", "two"]
    assert len(trust.warnings) == 2 and "is a private key" in trust.warnings[0]
    data = sign.sign(plain, keys.load_private(tmp_path / "two.pem"))
    assert sign.verify(data, trust).signed_by == ["two"]
    identity = keys.load_public(two).id.hex()
    (tmp_path / "revoked").write_text(
        f"# stolen\nkey {identity.upper()}  # laptop\n\n{'00' * 32}\n"
    )
    assert "revoked" in reason(data, Trust.load([tmp_path]))
    (tmp_path / "deny").write_text("set_*\n")
    assert Trust.load([tmp_path]).denies("set_count")
    assert not Trust.load([tmp_path]).denies("printf")
    assert Trust.load([one]).revoked_keys == frozenset()


def test_trust_fails_closed(tmp_path: Path) -> None:
    public = keys.generate(tmp_path / "demo.pem")
    with pytest.raises(KeyFileError, match="No such file"):
        Trust.load([tmp_path / "nothing"])
    with pytest.raises(KeyFileError, match="is a private key"):
        Trust.load([tmp_path / "demo.pem"])
    (tmp_path / "revoked").write_text("oops\n")
    with pytest.raises(KeyFileError, match="revoked:1: 'oops' is neither"):
        Trust.load([tmp_path])
    (tmp_path / "revoked").unlink()
    public.chmod(0o646)
    with pytest.raises(KeyFileError, match="everybody may replace"):
        Trust.load([tmp_path])


def test_without_keys_nothing_is_good(signed: bytes) -> None:
    assert "not trusted here" in reason(signed, Trust.load([]))
