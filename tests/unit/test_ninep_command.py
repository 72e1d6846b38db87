# SPDX-License-Identifier: BSD-3-Clause
"""`python -m ninep_server` as a process, with the client programs of Debian's diod."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def port(export: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "ninep_server", "--port", "0", "--export", str(export)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = re.search(r"'127\.0\.0\.1', (\d+)", server.stderr.readline())
            assert found
            yield int(found[1])
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0


def test_diodcat_reads_a_file(port: int, export: Path) -> None:
    content = os.urandom(1_000_000)
    (export / "big").write_bytes(content)
    command = ["diodcat", "-s", f"127.0.0.1:{port}", "-a", "/", "big"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30).stdout == content


def test_diodls_lists_a_directory(port: int) -> None:
    command = ["diodls", "-s", f"127.0.0.1:{port}", "-a", "/", "-l"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert {line.split()[-1] for line in done.stdout.splitlines()} >= {".", "..", "dir", "file"}
    assert done.stderr == ""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ninep_server", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_missing_export_is_one_sentence(tmp_path: Path) -> None:
    done = run("--port", "0", "--export", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert re.fullmatch(r"ninep_server: .*No such file.*nothing'\n", done.stderr)


def test_the_socket_is_private_and_removed_and_a_stale_one_is_replaced(export: Path) -> None:
    path = export.parent / "9p.sock"
    command = [sys.executable, "-m", "ninep_server", "--socket", str(path), "--export", str(export)]
    for ending in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            assert "serving" in server.stderr.readline()
            assert path.stat().st_mode & 0o777 == 0o600
            busy = run("--socket", str(path), "--export", str(export))
            assert busy.returncode == 1
            assert "in use" in busy.stderr
            server.send_signal(ending)
    assert not path.exists()
