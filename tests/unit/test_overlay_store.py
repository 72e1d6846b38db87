# SPDX-License-Identifier: BSD-3-Clause
"""The store offers what is verified and nothing else, sees changes at once, and serves the bytes that it checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from overlay_tools import HELLO, make, private_key, trusting

from overlays import files, sign
from overlays.errors import NotFound, Refused
from overlays.overlay import Overlay
from overlays.store import MAX_ENTRIES, Store

TEXT = HELLO.read_text()


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Build, sign and place an overlay: `put("hello", key=0, where="store")`."""

    def factory(
        name: str = "hello",
        *,
        key: int | None = 0,
        where: str = "store",
        text: str = TEXT,
        not_after: int = 0,
    ) -> Path:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        data = make(work, text.replace('"hello"', f'"{name}"'), f"{name}.c").data
        if key is not None:
            data = sign.sign(data, private_key(key), not_after=not_after)
        target = tmp_path / where / f"{name}.uio"
        target.parent.mkdir(exist_ok=True)
        files.write_atomically(target, data)
        return target

    return factory


Put = Callable[..., Path]


def test_a_verified_overlay_appears_with_its_bytes(put: Put, tmp_path: Path) -> None:
    path = put()
    store = Store([tmp_path / "store"], trusting(0))
    assert store.names() == [b"hello"]
    assert store.content(b"hello") == path.read_bytes()
    overlay = store.get("hello")
    assert overlay.hash == hashlib.sha256(path.read_bytes()).digest()
    assert (overlay.name, overlay.version, overlay.signed_by) == ("hello", "1.0", ["key0"])
    assert overlay.description == "greet the world, or whoever is named"
    assert store.by_hash(overlay.hash) is overlay and store.by_hash(bytes(32)) is None
    (entry,) = store.entries()
    assert (entry.name, entry.path, entry.size) == ("hello", path, path.stat().st_size)
    assert (entry.state, entry.reason, entry.hash) == ("available", "", overlay.hash)


def test_a_file_added_changed_or_removed_shows_at_once(put: Put, tmp_path: Path) -> None:
    store = Store([tmp_path / "store", tmp_path / "later"], trusting(0))
    assert store.names() == [] and store.entries() == []
    put("one")
    assert store.names() == [b"one"]
    first = store.get("one")
    assert store.get("one") is first  # not read again
    put("one", text=TEXT.replace("Hello", "Howdy"))
    assert store.get("one").hash != first.hash
    put("two", where="later")
    assert store.names() == [b"one", b"two"]
    (tmp_path / "store" / "one.uio").unlink()
    assert store.names() == [b"two"]
    assert store.content(b"one") is None


def test_the_first_directory_wins_even_with_a_refused_file(put: Put, tmp_path: Path) -> None:
    """A bad file in front does not uncover a good one behind it: that would be another overlay."""
    put(where="first", text=TEXT.replace("Hello", "Howdy"))
    put(where="second")
    store = Store([tmp_path / "first", tmp_path / "second"], trusting(0))
    assert b"Howdy" in store.get("hello").data
    put(where="first", key=None)
    assert store.names() == [] and store.content(b"hello") is None
    with pytest.raises(Refused, match=r"first/hello\.uio: it is not signed"):
        store.get("hello")


def broken(path: Path, edit: Callable[[bytes], bytes]) -> None:
    files.write_atomically(path, edit(path.read_bytes()))


def test_refused_files_are_listed_with_the_reason_and_do_not_appear(
    put: Put, tmp_path: Path
) -> None:
    store = Store([tmp_path / "store"], trusting(0, deny=("forbidden_*",)))
    put("unsigned", key=None)
    put("stranger", key=5)
    put("expired", not_after=5)
    broken(put("tampered"), lambda d: d[:99] + b"\0\1\2" + d[102:])
    broken(put("cut"), lambda d: d[:-10])
    os.rename(put("original"), tmp_path / "store" / "renamed.uio")
    put(
        "denied",
        text="extern int forbidden_thing(void);\nint main(void) { return forbidden_thing(); }",
    )
    (tmp_path / "store" / "text.uio").write_text("no overlay")
    (tmp_path / "store" / "empty.uio").touch()
    (tmp_path / "store" / "directory.uio").mkdir()
    os.mkfifo(tmp_path / "store" / "pipe.uio")
    with open(tmp_path / "store" / "huge.uio", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "store" / "notes.txt").touch()
    (tmp_path / "store" / ".hidden.uio").touch()
    (tmp_path / "store" / "a b.uio").touch()
    put("fine")
    reasons = {e.name: e.reason for e in store.entries()}
    assert reasons.pop("fine") == ""
    expected = {
        "unsigned": "it is not signed",
        "stranger": "which is not trusted here",
        "expired": "expired on",
        "tampered": "changed after signing",
        "cut": "cut off",
        "renamed": "its manifest calls it 'original'",
        "denied": "it imports forbidden_thing, which this site lets no overlay import",
        "text": "it is not signed",
        "empty": "it is not signed",
        "directory": "no regular file",
        "pipe": "no regular file",
        "huge": "at most",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
        with pytest.raises(Refused, match=reason.replace("(", r"\(")):
            store.get(name)
        assert store.content(name.encode()) is None
    assert store.names() == [b"fine"]


def test_a_signature_does_not_excuse_what_the_scanner_finds(put: Put, tmp_path: Path) -> None:
    """Signed by a trusted key, but not built with the scanner's consent: the bytes are put in before signing."""
    path = put("evil", key=None, text="int main(void) { return 0x44332211; }")
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex("11223344"))
    data[at : at + 3] = bytes.fromhex("0f01ef")
    path.write_bytes(sign.sign(bytes(data), private_key()))
    store = Store([tmp_path / "store"], trusting(0))
    assert store.names() == []
    with pytest.raises(Refused, match=r"wrpkru .*at main.*evil.c:1"):
        store.get("evil")


def test_an_overlay_expires_while_the_store_runs(put: Put, tmp_path: Path) -> None:
    now = 100.0
    put(not_after=200)
    store = Store([tmp_path / "store"], trusting(0), clock=lambda: now)
    assert store.names() == [b"hello"]
    now = 200.0
    assert store.names() == [] and "expired" in store.entries()[0].reason


def test_trust_can_change_while_the_store_runs(put: Put, tmp_path: Path) -> None:
    put(key=1)
    store = Store([tmp_path / "store"], trusting(0))
    assert store.names() == []
    store.trust = trusting(1)
    assert store.names() == [b"hello"]
    store.trust = trusting(1, revoked_overlays=frozenset({store.get("hello").hash}))
    assert store.names() == []


def test_unsigned_files_with_a_warning_where_the_site_wants_that(
    put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(key=None)
    store = Store([tmp_path / "store"], trusting(unsigned="warn"))
    assert store.names() == [b"hello"]
    assert store.entries()[0].warnings == ["it is not signed"]
    assert "hello.uio: it is not signed" in caplog.text
    assert len(caplog.records) == 1  # once per change, not per question


def test_a_refusal_is_logged_once(
    put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(key=None)
    store = Store([tmp_path / "store"], trusting(0))
    for _ in range(3):
        store.names()
    assert [r.message for r in caplog.records] == [
        f"{tmp_path}/store/hello.uio is refused: it is not signed"
    ]


def test_names_that_are_no_names_lead_nowhere(put: Put, tmp_path: Path) -> None:
    put()
    (tmp_path / "secret.uio").write_bytes((tmp_path / "store" / "hello.uio").read_bytes())
    store = Store([tmp_path / "store"], trusting(0))
    for name in (b"../secret", b"", b".", b"..", b"hello\0", b"\xff", b"./hello", b"x" * 500):
        assert store.content(name) is None
    with pytest.raises(NotFound, match="no overlay 'helo'") as caught:
        store.get("helo")
    assert caught.value.hint == "did you mean hello?"


def test_the_checked_bytes_are_served_whatever_happens_to_the_file(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewritten in place with the same size and times, behind the store's back: the old bytes stay."""
    path = put()
    store = Store([tmp_path / "store"], trusting(0))
    good = store.content(b"hello")
    real = path.stat()
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"evil")
    os.utime(path, ns=(real.st_atime_ns, real.st_mtime_ns))
    monkeypatch.setattr(Path, "stat", lambda self, **_: real if self == path else os.stat(self))
    assert store.content(b"hello") == good
    monkeypatch.undo()
    assert store.content(b"hello") is None  # ctime tells


def test_a_link_is_followed_and_judged_like_a_file(put: Put, tmp_path: Path) -> None:
    path = put(where="elsewhere")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "hello.uio").symlink_to(path)
    (tmp_path / "store" / "loop.uio").symlink_to("loop.uio")
    store = Store([tmp_path / "store"], trusting(0))
    assert store.names() == [b"hello"]


def test_a_directory_full_of_files_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES + 10):
        (tmp_path / f"x{number}.uio").touch()
    store = Store([tmp_path], trusting(0))
    assert len(store.entries()) == MAX_ENTRIES
    assert store.names() == []


def test_an_overlay_file_reads_the_same_alone(put: Put) -> None:
    path = put()
    overlay = Overlay.load(path)
    assert overlay.data == path.read_bytes() and overlay.elf == overlay.data[:-128]
    assert overlay.signed_by == []  # nobody was asked
