# SPDX-License-Identifier: BSD-3-Clause
"""uioctl against the real uiod, with a fake guest behind it: both sides read docs/api.md the same way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uiod_harness import Daemon, daemon, write_config

from console.seriallog import SerialLog
from uiod.ctl.logs import kept

UIOCTL = [sys.executable, "-m", "uiod.ctl.main"]


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("vm")
    with daemon(write_config(directory, "chatty=100"), directory / "run") as made:
        made.until_ready()
        yield made


def uioctl(
    root: Path, *argv: str, stdin: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*UIOCTL, "--runtime-dir", str(root), *argv],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def test_ps_and_inspect(vm: Daemon) -> None:
    (listed,) = json.loads(uioctl(vm.root, "ps", "--json").stdout)
    assert (listed["name"], listed["state"], listed["ready"]) == ("t", "running", True)
    assert uioctl(vm.root, "inspect", "-f", "qemu_pid", "t").stdout.decode().strip() == str(
        vm.qemu_pid()
    )
    assert b"hello.build_id:" in uioctl(vm.root, "inspect", "t").stdout


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["echo", "hello", "wörld"], 0, "hello wörld\n", ""),
        (["fail", "7"], 7, "", ""),
        (["errors", "bad"], 3, "out\n", "bad"),
        (["ecko"], 127, "", "did you mean echo?"),
        (["fault"], 139, None, "uioctl: fault: "),
    ],
)
def test_exec(vm: Daemon, argv: list[str], status: int, out: str | None, err: str) -> None:
    done = uioctl(vm.root, "exec", "t", *argv)
    assert done.returncode == status, done.stderr
    assert out is None or done.stdout.decode() == out
    assert err in done.stderr.decode()


def test_exec_with_input_timeout_and_environment(vm: Daemon) -> None:
    data = os.urandom(2_000_000)
    done = uioctl(vm.root, "exec", "-i", "t", "cat", stdin=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert uioctl(vm.root, "exec", "--timeout", "50ms", "t", "sleep").returncode == 124
    assert uioctl(vm.root, "exec", "-e", "A=x y", "t", "env").stdout == b"A=x y\n"


def test_exec_interrupted(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path), tmp_path / "run") as vm:
        vm.until_ready()
        interrupt(vm)


def interrupt(vm: Daemon) -> None:
    process = subprocess.Popen(
        [*UIOCTL, "--runtime-dir", str(vm.root), "exec", "t", "sleep"], stdout=subprocess.PIPE
    )
    events = [*UIOCTL, "--runtime-dir", str(vm.root), "events", "-f", "--json", "t"]
    with subprocess.Popen(events, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        while True:
            event = json.loads(watcher.stdout.readline())
            if event["kind"] == "exec.start" and "sleep" in str(event["data"]):
                break
        watcher.terminate()
    process.send_signal(2)
    assert process.wait(60) == 130
    assert process.stdout is not None
    process.stdout.close()


def test_logs_events_stats_metrics(vm: Daemon) -> None:
    log = uioctl(vm.root, "logs", "t")
    assert log.returncode == 0 and len(log.stdout) >= 100
    events = [
        json.loads(line) for line in uioctl(vm.root, "events", "--json", "t").stdout.splitlines()
    ]
    assert "vm.ready" in {event["kind"] for event in events}
    assert b"vm.ready" in uioctl(vm.root, "events", "t").stdout
    (stats,) = json.loads(uioctl(vm.root, "stats", "--interval", "100ms", "--json").stdout)
    assert stats["name"] == "t" and stats["cpu_percent"] is not None
    assert uioctl(vm.root, "stats", "--interval", "50ms", "t").returncode == 0
    assert b"uio_vm_state" in uioctl(vm.root, "metrics", "t").stdout


def test_overlays_and_symbols(vm: Daemon) -> None:
    assert uioctl(vm.root, "overlay", "ls", "t").returncode == 0
    done = uioctl(vm.root, "overlay", "load", "t", "nosuch")
    assert done.returncode == 1 and b"nosuch" in done.stderr
    assert uioctl(vm.root, "symbol", "t", "main").returncode == 1  # the fake's kernel has none


def test_pause_and_resume(vm: Daemon) -> None:
    assert uioctl(vm.root, "pause", "t").stdout == b"t\n"
    assert uioctl(vm.root, "inspect", "-f", "state", "t").stdout == b"paused\n"
    assert uioctl(vm.root, "resume", "t").returncode == 0
    assert uioctl(vm.root, "exec", "t", "echo", "on").stdout == b"on\n"


def test_a_name_that_is_running_already_is_still_the_first(vm: Daemon) -> None:
    assert uioctl(vm.root, "wait", "--timeout", "5s", "t").returncode == 0
    assert uioctl(vm.root, "wait", "--for", "stopped", "--timeout", "100ms", "t").returncode == 124


def test_after_stop_the_log_and_the_last_state_are_there(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path, "chatty=50"), tmp_path / "run") as vm:
        vm.until_ready()
        before = uioctl(vm.root, "logs", "t").stdout
        done = uioctl(vm.root, "stop", "t")
        assert (done.returncode, done.stdout) == (0, b"t\n"), done.stderr
        assert vm.wait() == 0
        (listed,) = json.loads(uioctl(vm.root, "ps", "--json").stdout)
        assert (listed["name"], listed["state"], listed["pid"]) == ("t", "stopped", None)
        after = uioctl(vm.root, "logs", "t").stdout
        assert after.startswith(before) and before
        assert uioctl(vm.root, "logs", "--tail", "1", "t").stdout == after.splitlines(True)[-1]
        assert b"stopped" in uioctl(vm.root, "inspect", "t").stdout
        done = uioctl(vm.root, "exec", "t", "echo")
        assert done.returncode == 125 and b"no running daemon" in done.stderr


def test_kill(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path), tmp_path / "run") as vm:
        vm.until_ready()
        assert uioctl(vm.root, "kill", "t").returncode == 0
        vm.wait()


def test_a_killed_daemon_leaves_an_orphan_that_ps_shows(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path), tmp_path / "run") as vm:
        vm.until_ready()
        vm.process.kill()
        vm.process.wait()
        (listed,) = json.loads(uioctl(vm.root, "ps", "--json").stdout)
        assert (listed["name"], listed["state"]) == ("t", "orphaned")


@pytest.mark.parametrize("tail", [None, 0, 1, 2, 7, 5000])
def test_a_kept_log_is_read_as_the_daemon_reads_it(tmp_path: Path, tail: int | None) -> None:
    """Over a rotation, and with a last line that has no end."""
    now = [1000.0]
    log = SerialLog(tmp_path / "serial.log", 16_384, clock=lambda: now[0])
    for number in range(900):
        now[0] += 1
        log.write(f"line {number}\n".encode())
    log.write(b"no end")
    assert (tmp_path / "serial.log.1").exists()

    def through(position: int) -> bytes:
        data = b""
        while True:
            piece, position = log.read(position)
            if not piece:
                return data
            data += piece

    whole = through(log.start if tail is None else log.tail(tail))
    assert b"".join(kept(tmp_path / "serial.log", tail, None)) == whole
    if tail is None:
        for since in (0.0, 1500.0, 1895.0, 3000.0):
            expected = through(log.since(since))
            assert b"".join(kept(tmp_path / "serial.log", None, since)) == expected
    log.close()


def test_versions_agree(vm: Daemon) -> None:
    text = uioctl(vm.root, "--version").stdout.decode()
    assert re.fullmatch(r"uioctl \d+\.\d+\.\d+\n", text)
    assert vm.api.get("/v1/ping")["version"] == text.split()[1]
