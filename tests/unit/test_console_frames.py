# SPDX-License-Identifier: BSD-3-Clause
"""The channel's codec: what goes in comes out, and whatever comes in is a payload or a ProtocolError."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import frames
from console.frames import (
    U8,
    U16,
    U32,
    U64,
    Credit,
    Digest,
    Exec,
    Exit,
    ExitKind,
    Fault,
    Format,
    Hello,
    Payload,
    ProtocolError,
    Resident,
    SymbolQuery,
    SymbolReply,
    Sync,
    Type,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
RANGES = {U8: 8, U16: 16, U32: 32, U64: 64}
TUPLES: dict[str, Any] = {
    "builtins": TEXTS,
    "argv": TEXTS,
    "env": TEXTS,
    "registers": st.integers(0, (1 << 64) - 1),
    "backtrace": st.integers(0, (1 << 64) - 1),
}


def values(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    form: Format[Any] = field.metadata["format"]
    if form in RANGES:
        return st.integers(0, (1 << RANGES[form]) - 1)
    if field.name in TUPLES:
        return st.lists(TUPLES[field.name], max_size=20).map(tuple)
    if field.name == "build_id":
        return st.binary(max_size=64)
    if field.name == "hash":
        return st.binary(min_size=32, max_size=32)
    if field.name in {"kernel", "name"}:
        return TEXTS
    return st.just(field.default)  # magic and padding


def payloads(kind: type[Payload]) -> st.SearchStrategy[Payload]:
    return st.builds(kind, **{f.name: values(f) for f in dataclasses.fields(kind)})


KINDS: list[type[Payload]] = [Sync, Hello, Exec, Fault, Credit, Digest, SymbolReply, Resident]
EXITS = st.builds(
    Exit,
    st.sampled_from([kind for kind in ExitKind if kind is not ExitKind.FAULT]),
    st.integers(-(1 << 31), (1 << 31) - 1),
    TEXTS,
    st.integers(0, (1 << 64) - 1),
) | st.builds(Exit, st.just(ExitKind.FAULT), st.just(-14), TEXTS, st.just(0), payloads(Fault))


@given(st.one_of([payloads(kind) for kind in KINDS]))
def test_what_is_encoded_is_decoded(payload: Payload) -> None:
    assert type(payload).decode(payload.encode()) == payload


@given(EXITS)
def test_exits_too(exit: Exit) -> None:
    assert Exit.decode(exit.kind, exit.encode()) == exit


@given(st.binary(min_size=32, max_size=32), st.lists(TEXTS, max_size=50).map(tuple))
def test_queries_too(digest: bytes, names: tuple[str, ...]) -> None:
    query = SymbolQuery(digest, names)
    assert SymbolQuery.decode(len(names), query.encode()) == query


@given(st.lists(payloads(Resident), max_size=20), st.lists(payloads(SymbolReply), max_size=20))
def test_lists_too(residents: list[Any], symbols: list[Any]) -> None:
    encoded = frames.encode_items(residents)
    assert list(frames.decode_residents(len(residents), encoded)) == residents
    encoded = frames.encode_items(symbols)
    assert list(frames.decode_symbols(len(symbols), encoded)) == symbols


DECODERS: list[Any] = [
    *(lambda _arg, data, kind=kind: kind.decode(data) for kind in KINDS),
    Exit.decode,
    SymbolQuery.decode,
    frames.decode_residents,
    frames.decode_symbols,
]


@given(st.sampled_from(DECODERS), st.integers(0, (1 << 32) - 1), st.binary(max_size=400))
def test_garbage_is_a_protocol_error(decode: Any, arg: int, data: bytes) -> None:
    try:
        decode(arg, data)
    except ProtocolError as error:
        assert str(error)


@given(st.one_of([payloads(kind) for kind in KINDS]), st.data())
def test_damaged_payloads_are_a_protocol_error_or_another_payload(
    payload: Payload, data: st.DataObject
) -> None:
    encoded = bytearray(payload.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    del encoded[data.draw(st.integers(0, len(encoded))) :]
    with contextlib.suppress(ProtocolError):
        type(payload).decode(encoded)


def test_a_huge_count_costs_nothing() -> None:
    with pytest.raises(ProtocolError, match="items"):
        frames.decode_residents(0xFFFFFFFF, bytes(64))
    with pytest.raises(ProtocolError, match="items"):
        SymbolQuery.decode(0xFFFFFFFF, bytes(64))


def test_the_layout_is_that_of_the_document() -> None:
    assert (
        frames.frame(Type.DATA, 7, 1, b"hi")
        == bytes.fromhex("02000000 7549 20 00 07000000 01000000".replace(" ", "")) + b"hi"
    )
    assert (
        Sync(nonce=0x0102030405060708).encode() == b"\x00uIO\xffSYN\x08\x07\x06\x05\x04\x03\x02\x01"
    )
    assert SymbolReply(address=1, size=2, type=1).encode() == bytes(
        [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]
    )
    exec = Exec(argv=("ls", "-l"), env=("A=1",), timeout_ms=5, rows=24, columns=80).encode()
    assert exec[:16] == bytes([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 80, 0])
    assert exec[48:] == b"\x02\x00\x02\x00ls\x02\x00-l\x01\x00\x03\x00A=1"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("00000000 7548 20 00", "magic"),
        ("01000100 7549 20 00", "65537 bytes"),
        ("00000000 7549 20 01", "flags"),
        ("00000000 7549 99 00", "unknown frame type 0x99"),
        ("00000000 7549 01 00", "SYNC from the wrong side"),
    ],
)
def test_bad_headers_are_named(data: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        frames.header(bytes.fromhex(data.replace(" ", "")) + bytes(8), frames.FROM_GUEST)


def test_every_type_has_a_side() -> None:
    assert set(Type) == frames.FROM_GUEST | frames.FROM_HOST
    assert {Type.RESET, Type.DATA, Type.CREDIT} == frames.FROM_GUEST & frames.FROM_HOST
