# SPDX-License-Identifier: BSD-3-Clause
"""The daemon's store: nothing unchecked is served, nothing is checked in the event loop, and what waits gets it all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from overlay_tools import HELLO, make, private_key, trusting

from ninep_server import SyntheticDirectory
from overlays import files, sign
from uiod.shelf import Shelf

TEXT = HELLO.read_text()


def put(directory: Path, name: str = "hello", key: int | None = 0, text: str = TEXT) -> Path:
    work = directory / "work"
    work.mkdir(exist_ok=True)
    data = make(work, text.replace('"hello"', f'"{name}"'), f"{name}.c").data
    if key is not None:
        data = sign.sign(data, private_key(key))
    target = directory / "store" / f"{name}.uio"
    target.parent.mkdir(exist_ok=True)
    files.write_atomically(target, data)
    return target


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "store").mkdir()
    return Shelf([tmp_path / "store"], trusting(0))


async def test_the_loop_sees_what_is_checked_and_a_thread_waits_for_the_rest(
    shelf: Shelf, tmp_path: Path
) -> None:
    path = put(tmp_path)
    assert shelf.waits
    assert shelf.names() == []
    assert shelf.entries()[0].reason == "it is being checked"
    assert await trio.to_thread.run_sync(shelf.names) == [b"hello"]
    assert not shelf.waits
    assert shelf.names() == [b"hello"]
    assert shelf.content(b"hello") == path.read_bytes()
    # A change takes it away until the new file is checked.
    put(tmp_path, text=TEXT.replace("Hello", "Howdy"))
    assert shelf.waits
    assert shelf.names() == []
    assert await trio.to_thread.run_sync(shelf.content, b"hello") == path.read_bytes()


async def test_a_guest_that_looks_for_a_new_file_finds_it_at_once(
    shelf: Shelf, tmp_path: Path
) -> None:
    node = SyntheticDirectory({"bin": SyntheticDirectory(shelf)}).walk(b"bin")[0]
    assert not node.waits
    put(tmp_path)
    assert node.waits  # so that the session asks in a thread
    assert (await trio.to_thread.run_sync(node.walk, b"hello"))[1].type == 0
    assert not node.waits


async def test_what_is_refused_stays_so_and_is_not_checked_again(
    shelf: Shelf, tmp_path: Path
) -> None:
    put(tmp_path, "unsigned", None)
    put(tmp_path, "stranger", 1)
    await shelf.refresh()
    assert not shelf.waits
    assert shelf.names() == []
    reasons = {entry.name: entry.reason for entry in shelf.entries()}
    assert reasons["unsigned"] == "it is not signed"
    assert "not trusted here" in reasons["stranger"]


async def test_the_bytes_that_were_checked_are_served(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is exchanged, under the same stamp, right after the helper has read it."""
    path = put(tmp_path)
    good = path.read_bytes()
    read = shelf._read

    def exchanging(path: Path, stamp: Any) -> Any:
        known = read(path, stamp)
        path.write_bytes(b"evil")
        return known

    monkeypatch.setattr(shelf, "_read", exchanging)
    stamp = shelf._present()["hello"][1]
    ((_, known),) = await shelf._check([(path, stamp)])
    assert path.read_bytes() == b"evil"
    assert known.overlay is not None and known.overlay.data == good
    shelf._remember(path, known)
    assert shelf.content(b"hello") is None  # another file is there, and not checked yet


async def test_a_file_that_kills_its_helper_harms_no_other(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "killer", "last"):
        put(tmp_path, name)
    read = shelf._read

    def reading(path: Path, stamp: Any) -> Any:
        if path.stem == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, stamp)

    monkeypatch.setattr(shelf, "_read", reading)
    await shelf.refresh()
    assert shelf.names() == [b"first", b"last"]
    assert "could not be checked" in next(e for e in shelf.entries() if e.name == "killer").reason


async def test_new_trust_counts_at_once(shelf: Shelf, tmp_path: Path) -> None:
    put(tmp_path)
    await shelf.refresh()
    assert shelf.names() == [b"hello"]
    shelf.trust = trusting(1)
    assert shelf.names() == []
    await shelf.refresh("hello")
    assert "not trusted here" in shelf.entries()[0].reason
    for name in ("../store/hello", "a\0b", "\udc80", "\ud800", "x" * 5000, ""):
        await shelf.refresh(name)


def test_verifying_needs_no_cryptography_in_the_daemon(tmp_path: Path) -> None:
    put(tmp_path)
    code = f"""
import sys
from pathlib import Path
import trio
from uiod.shelf import Shelf
from overlays.trust import Trust
from overlays.keys import PublicKey
async def main():
    key = PublicKey("k", bytes.fromhex({next(iter(trusting(0).keys.values())).raw.hex()!r}))
    shelf = Shelf([Path({str(tmp_path / "store")!r})], Trust({{key.id: key}}))
    await shelf.refresh()
    assert shelf.names() == [b"hello"], shelf.entries()
trio.run(main)
assert not any(name.startswith("cryptography") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
