# SPDX-License-Identifier: BSD-3-Clause
"""uioctl's commands against a guest that is real: what the guest's builtins print and take is what uioctl expects."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import vm as guests

from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

Uioctl = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    config = guests.prepare(tmp_path_factory.mktemp("vm"), ["hello"])
    with Machine(config, timeout_s=250) as made:
        yield made


@pytest.fixture
def uioctl(machine: Machine) -> Uioctl:
    def run(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "uiod.ctl.main", "--runtime-dir", str(machine.root), *argv],
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )

    return run


def test_exec_of_builtins_and_overlays(machine: Machine, uioctl: Uioctl) -> None:
    done = uioctl("exec", machine.name, "ls", "/bin")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert b"Hello" in uioctl("exec", machine.name, "hello", "world").stdout
    assert b"Hello" in uioctl("exec", "--pull", machine.name, "hello").stdout
    done = uioctl("exec", machine.name, "helo")
    assert done.returncode == 127 and b"helo" in done.stderr
    assert uioctl("exec", "--timeout", "100ms", machine.name, "sleep", "1000").returncode == 124
    data = os.urandom(300_000)
    assert uioctl("exec", "-i", machine.name, "cat", stdin=data).stdout == data


def test_a_tree_there_and_back(machine: Machine, uioctl: Uioctl, tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "big").write_bytes(os.urandom(1_500_000))
    (top / "sub" / "a b ü").write_text("hello")
    (top / "none").touch()
    done = uioctl("cp", str(top), f"{machine.name}:/tmp/tree")
    assert (done.returncode, done.stderr) == (0, b"")
    done = uioctl("cp", f"{machine.name}:/tmp/tree", str(tmp_path / "back"))
    assert (done.returncode, done.stderr) == (0, b"")

    def content(where: Path) -> dict[str, bytes | None]:
        return {
            str(p.relative_to(where)): p.read_bytes() if p.is_file() else None
            for p in where.rglob("*")
        }

    assert content(tmp_path / "back") == content(top)
    done = uioctl("cp", f"{machine.name}:/tmp/nothing", str(tmp_path))
    assert done.returncode == 1
    assert b"ls: guest:/tmp/nothing: no such file or directory" in done.stderr


def test_the_shell_on_a_terminal(machine: Machine) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "uiod.ctl.main", "--runtime-dir", str(machine.root), "attach", machine.name],
        stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = b""

    def expect(pattern: bytes) -> None:
        nonlocal seen
        while not (match := re.search(pattern, seen)):
            seen += os.read(master, 4096)
        seen = seen[match.end() :]

    expect(rb"uio> ")
    os.write(master, b"echo o'n'e two\r")
    expect(rb"\r\none two\r\n.*uio> ")
    os.write(master, b"sleep 1000\r")
    expect(rb"sleep 1000\r\n")
    os.write(master, b"\x03")  # the guest's to handle
    expect(rb"uio> ")
    os.write(master, b"\x1d")
    assert process.wait(60) == 0
    os.close(master)


def test_what_is_seen_from_outside(machine: Machine, uioctl: Uioctl) -> None:
    machine.expect(r"count: \d+")
    assert b"count: " in uioctl("logs", "--tail", "5", machine.name).stdout
    (entry,) = json.loads(uioctl("overlay", "ls", "--json", machine.name).stdout)
    assert (entry["name"], entry["state"]) == ("hello", "available")
    assert uioctl("overlay", "load", machine.name, "hello").returncode == 0
    assert uioctl("overlay", "ls", "-q", "--loaded", machine.name).stdout == b"hello\n"
    assert uioctl("overlay", "unload", machine.name, "hello").returncode == 0
    found = json.loads(uioctl("symbol", "--json", machine.name, "main").stdout)
    address = uioctl("symbol", "--json", machine.name, hex(found["address"]))
    assert json.loads(address.stdout)["name"] == "main"
    (stats,) = json.loads(uioctl("stats", "--json", "--interval", "100ms").stdout)
    assert stats["memory_bytes"] is None or stats["memory_bytes"] > 1 << 20
    assert stats["execs"] > 0
