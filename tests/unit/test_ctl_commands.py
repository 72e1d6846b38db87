# SPDX-License-Identifier: BSD-3-Clause
"""uioctl's commands other than exec, as processes against a fake daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctl_fakeapi import FakeApi

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


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UIOCTL, *argv], capture_output=True, timeout=60, text=True, check=False)


def start(*argv: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*UIOCTL, *argv], stdout=pipe, stderr=pipe, text=True)


def test_ps_lists_what_runs_and_what_does_not(api: FakeApi, root: Path) -> None:
    stale = FakeApi(root, "stale")
    stale.die()
    (root / "gone").mkdir()
    (root / "gone" / "state.json").write_text("{}")
    (root / "orphan").mkdir()
    (root / "orphan" / "lock").touch()
    (root / "unrelated").mkdir()
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(str(root / "orphan" / "qmp.sock"))
        qemu.listen()
        done = run("ps")
        listed = json.loads(run("ps", "--json").stdout)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "STATE", "READY", "PID", "ACCEL", "MEMORY", "UP", "KERNEL"]
    assert lines[1] == ["count", "running", "yes", "1234", "tcg", "128M", "1m05s", "count.elf"]
    assert [line[:2] for line in lines[2:]] == [
        ["gone", "stale"],
        ["orphan", "orphaned"],
        ["stale", "stale"],
    ]
    assert [vm["name"] for vm in listed] == ["count", "gone", "orphan", "stale"]
    assert listed[0]["hello"]["kernel"] == "count 1.0"
    assert run("ps", "-q").stdout == "count\ngone\norphan\nstale\n"


def test_ps_of_nothing_is_a_header(root: Path) -> None:
    assert run("ps").stdout.split()[0] == "NAME"
    assert run("ps", "--json").stdout == "[]\n"
    assert run("ps", "-q").stdout == ""


def test_ps_does_not_wait_for_a_daemon_that_hangs(api: FakeApi, root: Path) -> None:
    for name in ("one", "two", "three"):
        (root / name).mkdir()
    hung = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for sock, name in zip(hung, ("one", "two", "three"), strict=True):
        sock.bind(str(root / name / "api.sock"))
        sock.listen()
    done = run("ps", "--json")
    states = {vm["name"]: vm["state"] for vm in json.loads(done.stdout)}
    assert states == {"count": "running", "one": "hung", "two": "hung", "three": "hung"}
    for sock in hung:
        sock.close()


def test_names_from_a_guest_do_no_harm_to_the_terminal(api: FakeApi) -> None:
    api.state = "run\x1b[2Jning"
    assert "\x1b" not in run("ps").stdout
    assert "\\x1b" in run("inspect", "count").stdout


def test_inspect(api: FakeApi) -> None:
    text = run("inspect", "count").stdout
    assert re.search(r"^hello\.kernel: +count 1\.0$", text, re.M)
    assert re.search(r"^memory_bytes: +134217728 \(128M\)$", text, re.M)
    assert re.search(r"^hello\.arena_base: +0x40000000$", text, re.M)
    assert json.loads(run("inspect", "--json", "count").stdout)["accel"] == "tcg"
    assert run("inspect", "-f", "hello.kernel", "count").stdout == "count 1.0\n"
    assert json.loads(run("inspect", "-f", "hello.builtins", "count").stdout)[0] == "cat"
    wrong = run("inspect", "-f", "hello.colour", "count")
    assert wrong.returncode == 1
    assert "there is no field 'hello.colour'" in wrong.stderr and "build_id" in wrong.stderr


@pytest.mark.parametrize("command", ["stop", "kill"])
def test_stop_and_kill_wait_for_the_end(root: Path, command: str) -> None:
    api = FakeApi(root)
    done = run(command, "count")
    assert (done.stdout, done.stderr, done.returncode) == ("count\n", "", 0)
    assert api.closed
    assert api.requests[0][:2] == ("POST", f"/v1/vm/{command}")


def test_stop_with_a_deadline_and_several_vms(root: Path) -> None:
    one, two = FakeApi(root, "one"), FakeApi(root, "two")
    done = run("stop", "--timeout", "3s", "one", "nosuch", "two")
    assert done.stdout == "one\ntwo\n"
    assert done.returncode == 1
    assert "there is no VM 'nosuch'" in done.stderr
    assert one.requests[0][2] == {"timeout_s": 3.0}
    assert two.closed


def test_pause_resume_reset(api: FakeApi) -> None:
    assert run("pause", "count").stdout == "count\n"
    assert api.state == "paused"
    assert run("resume", "count").returncode == 0
    assert api.state == "running"
    assert run("reset", "count").returncode == 0
    assert [path for _, path, _ in api.requests] == [
        "/v1/vm/pause",
        "/v1/vm/resume",
        "/v1/vm/reset",
    ]


def test_wait_for_ready(root: Path) -> None:
    api = FakeApi(root, ready=False)
    process = start("wait", "count")
    threading.Timer(0.2, lambda: make_ready(api)).start()
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert json.loads(run("wait", "--json", "count").stdout)["ready"] is True
    api.close()


def make_ready(api: FakeApi) -> None:
    with api.changed:
        api.ready = True
        api.changed.notify_all()


def test_wait_gives_up_with_124(root: Path) -> None:
    api = FakeApi(root, ready=False)
    done = run("wait", "count", "--timeout", "50ms")
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr == "uioctl: the VM count is not ready after 0.05 s\n"
    api.close()


def test_wait_for_stopped(api: FakeApi) -> None:
    process = start("wait", "--for", "stopped", "count")
    threading.Timer(0.2, api.close).start()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert run("wait", "--for", "stopped", "count").returncode == 0  # there it is stopped already
    assert run("wait", "count").returncode == 1
    assert "cannot wait for 'tea'" in run("wait", "--for", "tea", "count").stderr


def test_logs(api: FakeApi) -> None:
    api.log = b"line 1\n\x1b[2Jline 2\n\xff\n"
    done = subprocess.run([*UIOCTL, "logs", "count"], capture_output=True, timeout=60, check=False)
    assert done.stdout == api.log  # into a pipe they are what they are
    assert run("logs", "--tail", "0", "count").stdout == ""
    api.log = b"line 1\nline 2\nline 3\n"
    assert run("logs", "--tail", "1", "count").stdout == "line 3\n"
    run("logs", "--since", "1700000000", "count")
    assert api.requests[-1][1] == "/v1/logs?since=1700000000.0"
    assert "'soon' is no time for --since" in run("logs", "--since", "soon", "count").stderr


def test_logs_on_a_terminal_show_control_characters(api: FakeApi) -> None:
    api.log = b"\x1b[31mred\x1b[0m\ttab \x1b[2J\x1b]0;title\x07\n"
    master, slave = pty.openpty()
    done = subprocess.run([*UIOCTL, "logs", "count"], stdout=slave, timeout=60, check=False)
    assert done.returncode == 0
    assert os.read(master, 1000) == b"\x1b[31mred\x1b[0m\ttab ^[[2J^[]0;title^G\r\n"
    subprocess.run([*UIOCTL, "logs", "--raw", "count"], stdout=slave, timeout=60, check=False)
    assert b"\x1b[2J" in os.read(master, 1000)
    os.close(master)
    os.close(slave)


def test_logs_follow_until_the_end_of_the_daemon(api: FakeApi) -> None:
    process = start("logs", "-f", "--tail", "1", "count")
    assert process.stdout is not None
    assert process.stdout.readline() == "line 3\n"
    api.append_log(b"line 4\n")
    assert process.stdout.readline() == "line 4\n"
    api.close()
    assert process.communicate(timeout=60)[0] == ""


def test_events(api: FakeApi) -> None:
    api.append_event("fault", overlay="crash", where="main+0x12", message="a b")
    text = run("events", "count").stdout.splitlines()
    assert re.fullmatch(r"2023-11-1\d \d\d:\d\d:\d\d\.250 vm\.ready +after_ms=12", text[0])
    assert text[1].endswith('overlay=crash where=main+0x12 message="a b"')
    lines = run("events", "--json", "count").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["vm.ready", "fault"]
    lines = run("events", "--json", "--since", "1h", "count").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["fault"]


def test_events_follow(api: FakeApi) -> None:
    process = start("events", "-f", "--json", "count")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["kind"] == "vm.ready"
    api.append_event("exec.start")
    assert json.loads(process.stdout.readline())["kind"] == "exec.start"
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_stats(api: FakeApi, root: Path) -> None:
    FakeApi(root, "dead").die()
    done = run("stats", "--interval", "100ms")
    assert done.returncode == 0, done.stderr
    header, row = (line.split() for line in done.stdout.splitlines())
    assert header[:2] == ["NAME", "CPU"]
    assert row[0] == "count"
    assert "100M" in row and "192M" in row and "42" in row
    (entry,) = json.loads(run("stats", "--json", "--interval", "50ms", "count").stdout)
    assert entry["memory_bytes"] == 100 << 20
    assert 1 < entry["cpu_percent"] < 100  # the fake uses a quarter of a processor
    named = run("stats", "--interval", "50ms", "count", "dead")
    assert named.returncode == 1
    assert "no running daemon" in named.stderr


def test_stats_stream_ends_with_the_daemon(api: FakeApi) -> None:
    process = start("stats", "--stream", "--json", "--interval", "50ms", "count")
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(process.stdout.readline())[0]["name"] == "count"
    api.close()
    process.communicate(timeout=60)
    assert process.returncode == 1


def test_metrics_and_symbol(api: FakeApi) -> None:
    assert run("metrics", "count").stdout == "# HELP uio_up 1\nuio_up 1\n"
    assert "0x106a42" in run("symbol", "count", "main").stdout
    assert json.loads(run("symbol", "count", "0x106a42", "--json").stdout)["source"] == "count.c:12"
    wrong = run("symbol", "count", "mian")
    assert (wrong.returncode, wrong.stderr) == (1, "uioctl: no symbol mian\n  near: main\n")


def test_every_command_has_help_with_examples(root: Path) -> None:
    from uiod.ctl.app import build  # noqa: PLC0415 (typer is not needed by the other tests)
    from uiod.ctl.commands import COMMANDS  # noqa: PLC0415

    for command in COMMANDS:
        built = build(command)
        parts = list(built.commands.values()) if hasattr(built, "commands") else [built]
        for part in parts:
            text = f"{part.help} {part.epilog}"
            assert re.search("Examples?:", text), f"{command.name} {part.name}"
            assert "uioctl" in text


def test_an_unknown_command_is_an_error_with_near_names(root: Path) -> None:
    done = run("lgos", "count")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "uioctl: there is no command 'lgos'\n  did you mean logs?\n"


def test_options_before_and_after_the_command(api: FakeApi, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    assert run("--runtime-dir", elsewhere, "ps", "-q").stdout == ""
    assert run("ps", "-q", f"--runtime-dir={elsewhere}").stdout == ""
    done = run("exec", "count", "echo", "--runtime-dir", elsewhere, "-H", "x")
    assert done.stdout == f"--runtime-dir {elsewhere} -H x\n"
    assert json.loads(run("--json", "ps").stdout)[0]["name"] == "count"
    assert run("ps", "--runtime-dir").returncode == 2


def test_a_daemon_that_talks_nonsense(root: Path) -> None:
    (root / "odd").mkdir()
    answers = [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{nop",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 40_000,
        b"",
    ]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "odd" / "api.sock"))
        server.listen()

        def serve() -> None:
            for answer in answers:
                sock, _ = server.accept()
                with sock:
                    sock.recv(65_536)
                    try:
                        sock.sendall(answer)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        for answer in answers:
            done = run("inspect", "odd")
            assert done.returncode == 1, answer
            assert done.stderr.startswith("uioctl: ") and "Traceback" not in done.stderr
