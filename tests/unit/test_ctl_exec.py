# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl exec` as a process, against a fake daemon: streams, statuses, signals, terminals, back-pressure."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from ctl_fakeapi import FakeApi

from uiod.ctl.exec_report import report

UIOCTL = [sys.executable, "-m", "uiod.ctl.main"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UIO_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def api(root: Path) -> Iterator[FakeApi]:
    fake = FakeApi(root)
    yield fake
    fake.close()


def run(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*UIOCTL, *argv], input=stdin, capture_output=True, timeout=60, check=False
    )


def start(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*UIOCTL, *argv], **(pipes | options))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_output_and_error_are_kept_apart_and_the_status_is_the_commands(api: FakeApi) -> None:
    done = run("exec", "count", "both")
    assert (done.stdout, done.stderr, done.returncode) == (b"to stdout\n", b"to stderr\n", 3)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["status", "0"], 0, b""),
        (["status", "7"], 7, b""),
        (["status", "124", "timeout"], 124, b"the time allowed with --timeout is over"),
        (["status", "125", "error"], 125, b"uIO could not run it"),
        (["status", "126", "refused"], 126, b"the overlay was refused"),
        (["nosuch"], 127, b"no builtin or overlay nosuch; did you mean nonesuch?"),
        (["vanish"], 125, b"the connection to uiod was lost before the command had ended"),
        (["garbage"], 125, b"uiod sent something that is no exec message"),
    ],
)
def test_exit_statuses(api: FakeApi, argv: list[str], status: int, said: bytes) -> None:
    done = run("exec", "count", *argv)
    assert done.returncode == status
    assert said in done.stderr
    assert bool(done.stderr) == bool(said)


def test_a_fault_is_told_in_words(api: FakeApi) -> None:
    done = run("exec", "count", "crash")
    assert done.returncode == 139
    assert done.stdout == b"before\n"
    text = done.stderr.decode()
    assert "uioctl: crash: write to 0x10 at main+0x12" in text
    assert "write at main+0x12 (crash.c:14), address 0x10" in text
    assert "in overlay crash abababababab" in text
    assert "rax 0000000000000001" in text and "rbx ffffffffffffffff" in text
    assert "uio_overlay_run+0x40" in text


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        (
            "crash",
            "crash: writes to 0x8 at crash+0x10",
            "uioctl: crash: writes to 0x8 at crash+0x10\n",
        ),
        ("bin/crash", "crash: timed out", "uioctl: crash: timed out\n"),
        ("n" * 50, "n" * 40 + ": abort()", f"uioctl: {'n' * 40}: abort()\n"),
        ("crash", "crashed: no such thing", "uioctl: crash: crashed: no such thing\n"),
        ("crash", "it is not signed", "uioctl: crash: it is not signed\n"),
    ],
)
def test_a_message_names_the_command_once(
    command: str, message: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report({"kind": "fault", "message": message}, command)
    assert capsys.readouterr().err == said


def test_arguments_and_options_reach_the_request(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "from here")
    done = run("exec", "-i", "-e", "A=1", "--env", "OURS", "--env=B=x=y", "--timeout", "1.5s", "--pull",
               "count", "request", "-i", "--json", "a b", "")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "argv": ["request", "-i", "--json", "a b", ""],
        "stdin": True,
        "env": {"A": "1", "OURS": "from here", "B": "x=y"},
        "timeout_ms": 1500,
        "pull": True,
    }
    assert json.loads(run("exec", "count", "request").stdout) == {
        "argv": ["request"],
        "stdin": False,
    }


def test_standard_input_goes_through_binary_and_whole(api: FakeApi) -> None:
    data = os.urandom(3_000_001)
    done = run("exec", "-i", "count", "cat", stdin=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_without_i_standard_input_is_left_alone(api: FakeApi) -> None:
    """As in `while read line; do uioctl exec …; done`."""
    script = f"{' '.join(UIOCTL)} exec count echo first; cat"
    done = subprocess.run(
        ["sh", "-c", script], input=b"rest\n", capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"first\nrest\n"


def test_as_json_every_message_is_a_line(api: FakeApi) -> None:
    done = run("exec", "--json", "count", "both")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[:2] == [
        {"stream": "stdout", "data": "to stdout\n"},
        {"stream": "stderr", "data": "to stderr\n"},
    ]
    assert lines[2]["exit"]["code"] == 3
    assert (done.stderr, done.returncode) == (b"", 3)
    binary = run("--json", "exec", "-i", "count", "cat", stdin=b"\xff\x00").stdout.splitlines()
    assert base64.b64decode(json.loads(binary[0])["base64"]) == b"\xff\x00"


def test_a_reader_that_stops_stops_the_writer_and_memory_stays_flat(api: FakeApi) -> None:
    total = 64 << 20
    process = start("exec", "count", "spew", str(total), bufsize=0)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\0"
    seen = -1
    while seen != api.spewed:  # until it stands still: sockets and pipes are full
        seen = api.spewed
        time.sleep(0.2)
    assert api.spewed < 4 << 20
    received = 1
    while piece := process.stdout.read(1 << 20):
        received += len(piece)
    peak = _peak_kib(process.pid)
    assert process.wait() == 0
    assert received == total
    assert peak is None or peak < 64 << 10


def _peak_kib(pid: int) -> int | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return None


def test_a_reader_that_goes_away_ends_it_quietly(api: FakeApi) -> None:
    process = start("exec", "count", "spew", str(1 << 40), bufsize=0)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


def test_a_quiet_command_ends_too_when_nobody_reads(api: FakeApi) -> None:
    process = start("exec", "count", "sleep", bufsize=0)
    assert process.stdout is not None
    assert process.stdout.read(7) == b"asleep\n"
    process.stdout.close()
    assert process.wait(60) == 141


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_the_commands(api: FakeApi, number: signal.Signals) -> None:
    process = start("exec", "count", "sleep", bufsize=0)
    assert process.stdout is not None
    assert process.stdout.read(7) == b"asleep\n"
    process.send_signal(number)
    assert process.wait(60) == 130
    assert api.execs[0].signals == [2]


def test_a_second_signal_ends_it_now_and_a_third_ends_us(api: FakeApi) -> None:
    process = start("exec", "count", "sleep", "deaf", bufsize=0)
    assert process.stdout is not None
    assert process.stdout.read(7) == b"asleep\n"
    process.send_signal(signal.SIGINT)
    wait_until(lambda: api.execs[0].signals == [2])
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137
    assert api.execs[0].signals == [2, 9]

    def mute(_: FakeApi, x: Any, argv: list[str]) -> None:
        x.out(b"!")
        while True:
            x.next()

    api.commands["mute"] = mute
    process = start("exec", "count", "mute", bufsize=0)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"!"
    for count in range(1, 4):
        process.send_signal(signal.SIGINT)
        if count < 3:
            wait_until(lambda count=count: len(api.execs[1].signals) == count)  # type: ignore[misc]
    assert process.wait(60) == 130


def test_a_daemon_that_dies_is_said(api: FakeApi) -> None:
    process = start("exec", "count", "sleep", bufsize=0)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(7) == b"asleep\n"
    api.die()
    assert process.wait(60) == 125
    assert b"the connection to uiod was lost" in process.stderr.read()


def test_a_guest_that_is_not_ready(root: Path) -> None:
    api = FakeApi(root, "young", ready=False)
    done = run("exec", "young", "echo")
    assert done.returncode == 125
    assert done.stderr == b"uioctl: the guest is not ready\n  uioctl wait count\n"
    api.close()


def test_no_such_vm_and_no_daemon(api: FakeApi, root: Path) -> None:
    done = run("exec", "coumt", "echo")
    assert done.returncode == 125
    assert done.stderr == b"uioctl: there is no VM 'coumt'\n  did you mean count?\n"
    for name in ("..", "a/b", ""):
        assert b"is no name of a VM" in run("exec", name, "echo").stderr
    api.die()
    done = run("exec", "count", "echo")
    assert done.returncode == 125
    assert b"the VM count has no running daemon" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["exec"], b"Missing"),
        (["exec", "count"], b"Missing"),
        (["exec", "--nonsense", "count", "x"], b"--nonsense"),
        (["exec", "--timeout", "soon", "count", "echo"], b"'soon' is no time for --timeout"),
        (["exec", "-e", "=x", "count", "echo"], b"'=x' is no NAME=VALUE"),
    ],
)
def test_wrong_options_are_uios_own_failure(api: FakeApi, argv: list[str], said: bytes) -> None:
    done = run(*argv)
    assert done.returncode == 125
    assert said in done.stderr


def test_a_terminal_has_a_size_that_changes(api: FakeApi) -> None:
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = start("exec", "count", "winsize", stdin=slave, stdout=slave, start_new_session=True)
    text = b""
    while b"\n" not in text:
        text += os.read(master, 100)
    assert text.strip() == b"30x100"
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process.send_signal(signal.SIGWINCH)  # no controlling terminal here, so nobody else sends it
    assert process.wait(60) == 0
    assert os.read(master, 100).strip() == b"40x120"
    assert api.execs[0].request["tty"] is True
    assert api.execs[0].request["stdin"] is True
    os.close(master)
    os.close(slave)


def test_a_terminal_on_one_side_alone_is_none(api: FakeApi) -> None:
    master, slave = pty.openpty()
    process = start("exec", "count", "request", stdin=slave)
    out, _ = process.communicate(timeout=60)
    assert "tty" not in json.loads(out)
    process = start("exec", "-t", "count", "request")
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["tty"] is True
    os.close(master)
    os.close(slave)


def test_a_runtime_directory_with_a_long_path(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 120)
    root.mkdir()
    api = FakeApi.__new__(FakeApi)
    here = os.getcwd()
    os.chdir(root)
    try:
        FakeApi.__init__(api, Path("."))
    finally:
        os.chdir(here)
    done = run("--runtime-dir", str(root), "exec", "count", "echo", "far")
    assert done.stdout == b"far\n", done.stderr
    (root / "count" / "api.sock").unlink()
    api.close()
