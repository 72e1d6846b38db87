# SPDX-License-Identifier: BSD-3-Clause
"""The serial log: all of it while there is room, bounded whatever comes, and found by line and by time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from console.seriallog import SerialLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def everything(log: SerialLog, position: int = 0) -> bytes:
    out = bytearray()
    while True:
        data, position = log.read(position, 1000)
        if not data:
            return bytes(out)
        out += data


def disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    log = SerialLog(tmp_path / "log")
    log.write(b"hello ")
    log.write(b"world\n")
    assert everything(log) == b"hello world\n"
    assert (tmp_path / "log").read_bytes() == b"hello world\n"


@given(
    st.lists(st.binary(max_size=3000), max_size=30),
    st.integers(0, 40_000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_newest_bytes_are_kept_within_the_bound(
    tmp_path: Path, pieces: list[bytes], at: int
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    log = SerialLog(tmp_path / "log", max_bytes=16 * 1024)
    for piece in pieces:
        log.write(piece)
    whole = b"".join(pieces)
    assert log.end == len(whole)
    assert everything(log) == whole[log.start :]
    assert log.end - log.start >= min(len(whole), 8 * 1024)
    assert disk(tmp_path) <= 16 * 1024 * 2
    assert everything(log, at) == whole[max(at, log.start) :]
    again = SerialLog(tmp_path / "log", max_bytes=16 * 1024)
    assert (again.start, again.end) == (log.start, log.end)
    assert everything(again) == whole[log.start :]
    log.close()
    again.close()


def test_a_byte_at_a_time_is_bounded_too(tmp_path: Path) -> None:
    clock = Clock()
    log = SerialLog(tmp_path / "log", max_bytes=16 * 1024, clock=clock)
    for _ in range(5000):
        clock.now += 1
        log.write(b"x")
    assert disk(tmp_path) <= 3 * 16 * 1024


def test_readers_keep_their_place_over_rotations(tmp_path: Path) -> None:
    log = SerialLog(tmp_path / "log", max_bytes=8 * 1024)
    position, got = 0, bytearray()
    sent = bytearray()
    for i in range(1000):
        line = f"line {i}\n".encode() * 10
        sent += line
        log.write(line)
        data, position = log.read(position)
        got += data
        data, position = log.read(position)
        got += data
    assert got == sent


@pytest.mark.parametrize(
    ("text", "lines", "tail"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"\n\n\n", 2, b"\n\n"),
    ],
)
def test_the_last_lines(tmp_path: Path, text: bytes, lines: int, tail: bytes) -> None:
    log = SerialLog(tmp_path / "log")
    log.write(text)
    assert everything(log, log.tail(lines)) == tail


def test_the_last_lines_over_a_rotation(tmp_path: Path) -> None:
    log = SerialLog(tmp_path / "log", max_bytes=8 * 1024)
    for i in range(1000):
        log.write(f"line {i}\n".encode())
    assert everything(log, log.tail(450)).splitlines()[0] == b"line 550"


def test_since(tmp_path: Path) -> None:
    clock = Clock()
    log = SerialLog(tmp_path / "log", clock=clock)
    for text in (b"one\n", b"two\n", b"three\n"):
        log.write(text)
        clock.now += 10
    assert everything(log, log.since(0)) == b"one\ntwo\nthree\n"
    assert everything(log, log.since(1005)) == b"two\nthree\n"
    assert everything(log, log.since(1020)) == b"three\n"
    assert everything(log, log.since(2000)) == b""


def test_a_clock_that_steps_back_loses_nothing(tmp_path: Path) -> None:
    clock = Clock()
    log = SerialLog(tmp_path / "log", clock=clock)
    log.write(b"one\n")
    clock.now -= 500
    log.write(b"two\n")
    clock.now += 10
    log.write(b"three\n")
    assert everything(log) == b"one\ntwo\nthree\n"
    assert everything(log, log.since(999)) == b"one\ntwo\nthree\n"


def test_a_full_disk_loses_bytes_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SerialLog(tmp_path / "log")
    log.write(b"before\n")
    real, full = os.write, True

    def write(fd: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data)

    monkeypatch.setattr("console.seriallog.os.write", write)
    log.write(b"x" * 100)
    log.write(b"y" * 50)
    full = False
    log.write(b"after\n")
    text = everything(log)
    assert text.startswith(b"before\n")
    assert text.endswith(b"after\n")
    assert b"[uiod: 150 bytes lost: no room on disk]" in text


def test_a_log_without_content_leaves_no_files(tmp_path: Path) -> None:
    SerialLog(tmp_path / "log").close()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_costs_times_only(tmp_path: Path) -> None:
    log = SerialLog(tmp_path / "log")
    log.write(b"text\n")
    log.close()
    (tmp_path / "log.idx").write_bytes(b"\xff" * 5)
    again = SerialLog(tmp_path / "log")
    again.write(b"more\n")
    assert everything(again) == b"text\nmore\n"
