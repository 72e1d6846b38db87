# SPDX-License-Identifier: BSD-3-Clause
"""Commands through the whole daemon: API, channel, and a fake guest that speaks docs/protocol.md."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from uiod_harness import END, SIGNAL, SIZE, STDIN, STDOUT, Daemon, daemon, write_config


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("vm")
    with daemon(write_config(directory, "chatty=100"), directory / "run") as made:
        made.until_ready()
        yield made


def test_output_and_status_come_through(vm: Daemon) -> None:
    out, err, exit = vm.api.exec("echo", "hello", "wörld")
    assert (out, err) == ("hello wörld\n".encode(), b"")
    assert (exit["kind"], exit["code"]) == ("ok", 0)


@pytest.mark.parametrize(
    ("argv", "more", "kind", "code"),
    [
        (["fail", "7"], {}, "ok", 7),
        (["fail", "-1"], {}, "ok", 255),
        (["ecko"], {}, "not-found", 127),
        (["sleep"], {"timeout_ms": 30}, "timeout", 124),
        (["fault"], {}, "fault", 139),
    ],
)
def test_each_way_to_end_has_its_status(
    vm: Daemon, argv: list[str], more: dict[str, Any], kind: str, code: int
) -> None:
    *_, exit = vm.api.exec(*argv, **more)
    assert (exit["kind"], exit["code"]) == (kind, code)


def test_an_unknown_name_is_answered_with_near_ones(vm: Daemon) -> None:
    assert "did you mean echo?" in vm.api.exec("ecko")[2]["message"]


def test_streams_are_kept_apart(vm: Daemon) -> None:
    out, err, exit = vm.api.exec("errors", "bad", "things")
    assert (out, err, exit["code"]) == (b"out\n", b"bad things", 3)


def test_environment_reaches_the_command(vm: Daemon) -> None:
    assert vm.api.exec("env", env={"A": "1", "B": "x=y"})[0] == b"A=1\nB=x=y\n"


def test_megabytes_pass_both_ways_unchanged(vm: Daemon) -> None:
    data = os.urandom(3 << 20)
    stream = vm.api.start("cat", stdin=True)

    def send() -> None:
        for at in range(0, len(data), 50_000):
            stream.send(STDIN, data[at : at + 50_000])
        stream.send(END)

    with contextlib.closing(stream.sock):
        sender = threading.Thread(target=send)
        sender.start()
        got = stream.until_exit()[0]
        sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_a_terminal_has_a_size_that_changes(vm: Daemon) -> None:
    stream = vm.api.start("size", tty=True, rows=24, columns=80)
    with contextlib.closing(stream.sock):
        assert stream.receive() == (STDOUT, b"24x80\n")
        stream.send(SIZE, bytes((50, 0, 132, 0)))
        assert stream.until_exit()[0] == b"50x132\n"


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (9, 137)])
def test_signals_end_a_command(vm: Daemon, signal: int, code: int) -> None:
    stream = vm.api.start("sleep")
    with contextlib.closing(stream.sock):
        assert stream.receive() == (STDOUT, b"sleeping\n")
        stream.send(SIGNAL, bytes((signal,)))
        assert stream.until_exit()[2]["code"] == code


def running(vm: Daemon) -> float:
    lines = vm.api.get("/metrics").decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith("uio_exec_running{")))


def until_nothing_runs(vm: Daemon) -> None:
    deadline = time.monotonic() + 20
    while running(vm):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_vanishes_ends_its_command(vm: Daemon) -> None:
    stream = vm.api.start("sleep")
    assert stream.receive() == (STDOUT, b"sleeping\n")
    assert running(vm) == 1
    stream.sock.close()
    until_nothing_runs(vm)


def test_a_client_that_vanishes_while_its_input_waits_ends_its_command(vm: Daemon) -> None:
    stream = vm.api.start("sleep", stdin=True)
    stream.sock.setblocking(False)
    message = bytes((STDIN, 0, 0, 0)) + (60_000).to_bytes(4, "little") + bytes(60_000)
    with contextlib.suppress(BlockingIOError):  # until nobody takes any more
        while stream.sock.send(message) == len(message):
            pass
    stream.sock.close()
    until_nothing_runs(vm)


def test_a_reader_that_stops_holds_up_its_own_command_alone(vm: Daemon) -> None:
    stuck = vm.api.start("flood", str(50 << 20))
    with contextlib.closing(stuck.sock):
        before = vm.api.get("/v1/stats")["uiod_pss_bytes"]
        for _ in range(5):
            assert vm.api.exec("echo", "still")[0] == b"still\n"
        assert vm.api.get("/v1/stats")["uiod_pss_bytes"] - before < 2 << 20
    until_nothing_runs(vm)


def test_a_fault_is_put_into_words(vm: Daemon) -> None:
    fault = vm.api.exec("fault")[2]["fault"]
    assert fault["kind"] == "write"
    assert fault["ip"] == 0x200010
    assert fault["registers"]["rax"] == 0
    assert len(fault["backtrace"]) == 2


def test_a_guest_that_breaks_the_protocol_loses_its_commands_and_gets_a_new_session(
    vm: Daemon,
) -> None:
    exit = vm.api.exec("bad")[2]
    assert exit["code"] == 125
    assert "not running" in exit["message"]
    assert vm.api.request("GET", "/v1/wait?for=ready&timeout_s=10")[0] == 200
    assert vm.api.exec("echo", "again")[0] == b"again\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"argv": []}, 400),
        ({"argv": [""]}, 400),
        ({"argv": "echo"}, 400),
        ({"argv": ["echo", "a\0b"]}, 400),
        ({"argv": ["echo"] * 129}, 400),
        ({"argv": ["echo", "x" * 40_000]}, 400),
        ({"argv": ["echo"], "env": {"A=B": ""}}, 400),
        ({"argv": ["echo"], "rows": 1 << 20}, 400),
        ({"argv": ["echo"], "timeout_ms": -1}, 400),
        ({"argv": ["echo"], "shell": True}, 400),
    ],
)
def test_wrong_requests_are_refused_before_the_upgrade(
    vm: Daemon, body: dict[str, Any], status: int
) -> None:
    with pytest.raises(AssertionError) as refused:
        vm.api.upgrade("/v1/exec", "uio-exec/1", body)
    assert f" {status} ".encode() in refused.value.args[0]
    assert b'"error"' in refused.value.args[0]


def test_attach_is_for_one_at_a_time(vm: Daemon) -> None:
    first = vm.api.upgrade("/v1/attach", "uio-console/1", {"rows": 24, "columns": 80})
    with contextlib.closing(first.sock):
        assert first._take(6) == b"fake> "
        first.sock.sendall(b"abc")
        assert first._take(3) == b"ABC"
        with pytest.raises(AssertionError) as refused:
            vm.api.upgrade("/v1/attach", "uio-console/1", {})
        assert b" 409 " in refused.value.args[0]
        second = vm.api.upgrade("/v1/attach", "uio-console/1", {"force": True})
        with contextlib.closing(second.sock):
            assert second._take(6) == b"fake> "
            with pytest.raises(EOFError):
                first._take(1)


def told(vm: Daemon, size: str = "") -> int:
    """Once the guest believes that its console's terminal has this size: how often it was told one."""
    out, _, exit = vm.api.exec("console", *size.split())
    assert exit["code"] == 0, exit
    return int(out)


@contextlib.contextmanager
def attach(vm: Daemon, **body: Any) -> Iterator[None]:
    stream = vm.api.upgrade("/v1/attach", "uio-console/1", body)
    with contextlib.closing(stream.sock):
        assert stream._take(6) == b"fake> "
        yield


def resize(vm: Daemon, rows: Any, columns: Any) -> int:
    body = {"rows": rows, "columns": columns}
    return vm.api.request("POST", "/v1/attach/size", body)[0]


def test_the_guest_knows_the_attached_terminals_size(vm: Daemon) -> None:
    with attach(vm, rows=24, columns=80):
        told(vm, "24x80")
        assert resize(vm, 50, 200) == 200
        before = told(vm, "50x200")
        assert resize(vm, 50, 200) == 200  # as it was
        assert resize(vm, 65535, 65535) == 200
        assert told(vm, "65535x65535") == before + 1
    told(vm, "0x0")  # the next test begins from here
    assert resize(vm, 24, 80) == 409


def test_a_client_without_a_size_says_none(vm: Daemon) -> None:
    before = told(vm)
    with attach(vm):
        assert told(vm) == before


def test_who_takes_over_brings_a_size(vm: Daemon) -> None:
    with attach(vm, rows=10, columns=11):
        told(vm, "10x11")
        with attach(vm, force=True, rows=20, columns=21):
            before = told(vm, "20x21")
            assert resize(vm, 30, 31) == 200
            assert told(vm, "30x31") == before + 1  # the end of the former said nothing
            with attach(vm, force=True):
                told(vm, "0x0")


@pytest.mark.parametrize("size", [(-1, 80), (24, 65536), (1 << 70, 1), ("24", 80), (None, 80)])
def test_wrong_sizes_of_a_terminal_are_refused(vm: Daemon, size: tuple[Any, Any]) -> None:
    with attach(vm, rows=7, columns=8):
        before = told(vm, "7x8")
        assert resize(vm, *size) == 400
        assert told(vm, "7x8") == before
    told(vm, "0x0")
    body = {"rows": size[0], "columns": size[1]}
    with pytest.raises(AssertionError) as refused:
        vm.api.upgrade("/v1/attach", "uio-console/1", body)
    assert b" 400 " in refused.value.args[0]


def test_the_serial_log_has_the_first_byte(vm: Daemon) -> None:
    deadline = time.monotonic() + 10
    while (log := vm.api.get("/v1/logs")) != b"booting\n" + b"z" * 100:
        assert time.monotonic() < deadline, log
        time.sleep(0.02)
    assert vm.api.get("/v1/logs?tail=1") == b"z" * 100
    assert vm.api.get(f"/v1/logs?since={time.time() + 100}") == b""


def test_events_tell_what_happened(vm: Daemon) -> None:
    vm.api.exec("log", "from", "the", "guest")
    deadline = time.monotonic() + 10
    while b"from the guest" not in (events := vm.api.get("/v1/events")):
        assert time.monotonic() < deadline
    kinds = [line.split(b'"kind":"')[1].split(b'"')[0] for line in events.splitlines()]
    assert {b"vm.ready", b"exec.start", b"exec.exit", b"guest.log"} <= set(kinds)


def test_pause_and_resume(vm: Daemon) -> None:
    assert vm.api.request("POST", "/v1/vm/pause")[1]["state"] == "paused"
    assert vm.api.request("POST", "/v1/vm/resume")[1]["state"] == "running"


def test_reset_loses_the_session_and_finds_the_guest_again(vm: Daemon) -> None:
    stream = vm.api.start("sleep")
    with contextlib.closing(stream.sock):
        assert stream.receive() == (STDOUT, b"sleeping\n")
        assert vm.api.request("POST", "/v1/vm/reset")[0] == 200
        assert stream.until_exit()[2]["code"] == 125
    assert vm.api.request("GET", "/v1/wait?for=ready&timeout_s=10")[0] == 200
    assert vm.api.exec("echo", "new")[0] == b"new\n"


def test_a_new_session_hears_of_the_attached_terminal_again(vm: Daemon) -> None:
    with attach(vm, rows=24, columns=132):
        told(vm, "24x132")
        assert vm.api.request("POST", "/v1/vm/reset")[0] == 200
        assert vm.api.request("GET", "/v1/wait?for=ready&timeout_s=10")[0] == 200
        assert told(vm, "24x132") == 1
