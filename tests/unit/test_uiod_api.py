# SPDX-License-Identifier: BSD-3-Clause
"""The API against clients that send garbage, hang, vanish or come in crowds; and what it answers to each question."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from uiod_harness import END, HEADER, STDIN, STDOUT, Daemon, daemon, write_config

from uiod import http


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("vm")
    with daemon(write_config(directory), directory / "run") as made:
        made.until_ready()
        yield made


def raw(vm: Daemon, data: bytes) -> bytes:
    """What comes back for these bytes, until the daemon closes or is silent."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(vm.api.path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
        return bytes(answer)


def post(path: bytes, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: u", *headers]
    lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*lines, b"", body])


def get(target: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: u", *headers, b"", b""])


CHUNKED = b"POST /v1/exec HTTP/1.1\r\nHost: u\r\nTransfer-Encoding: chunked\r\n\r\n"
GARBAGE = {
    "nothing": (b"", b""),
    "noise": (bytes(range(256)) * 8, b"400"),
    "a line": (b"hello\r\n\r\n", b"400"),
    "a header too long": (get(b"/", b"X: " + b"x" * 40_000), b"431"),
    "a body too long": (post(b"/v1/exec", bytes(1_100_000), length=2_000_000), b"413"),
    "a body cut": (post(b"/v1/exec", b"{", length=100), b"400"),
    "chunks of no size": (CHUNKED + b"zz\r\n", b"400"),
    "no such path": (get(b"/nosuch"), b"404"),
    "no such method": (get(b"/v1/vm").replace(b"GET", b"DELETE"), b"405"),
    "no JSON": (post(b"/v1/vm/stop", b"{{{"), b"400"),
    "deep JSON": (post(b"/v1/vm/stop", b"[" * 50_000), b"400"),
    "an upgrade to something else": (
        post(b"/v1/exec", b"{}", b"Connection: Upgrade", b"Upgrade: h2c"),
        b"426",
    ),
    "a number that is none": (get(b"/v1/logs?tail=x"), b"400"),
    "a number too large": (get(b"/v1/logs?tail=1e300"), b"400"),
    "not a number": (get(b"/v1/wait?timeout_s=nan"), b"400"),
    "a hundred parameters": (get(b"/v1/logs?" + b"a=1&" * 100), b"400"),
    "a stop in the past": (post(b"/v1/vm/stop", b'{"timeout_s": -1}'), b"400"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_and_harms_nobody(vm: Daemon, case: str) -> None:
    data, status = GARBAGE[case]
    answer = raw(vm, data)
    assert answer.split(b" ")[1:2] == ([status] if status else []), answer[:200]
    if status:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert vm.api.exec("echo", "fine")[0] == b"fine\n"


BAD_MESSAGES = {
    "no such type": HEADER.pack(77, 0),
    "too long": HEADER.pack(STDIN, 70_000),
    "a size of three bytes": HEADER.pack(4, 3) + bytes(3),
    "a signal that there is not": HEADER.pack(5, 1) + b"\x63",
    "an exit": HEADER.pack(3, 2) + b"{}",
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_stream_with_bad_messages_ends_and_its_command_with_it(vm: Daemon, case: str) -> None:
    stream = vm.api.start("sleep", stdin=True)
    with contextlib.closing(stream.sock):
        assert stream.receive() == (STDOUT, b"sleeping\n")
        stream.sock.sendall(BAD_MESSAGES[case])
        with pytest.raises(EOFError):
            stream.receive()
    assert vm.api.exec("echo", "fine")[0] == b"fine\n"


def test_input_after_its_end_is_ignored(vm: Daemon) -> None:
    stream = vm.api.start("cat", stdin=True)
    with contextlib.closing(stream.sock):
        stream.sock.sendall(
            HEADER.pack(STDIN, 1) + b"a" + HEADER.pack(END, 0) + HEADER.pack(STDIN, 1) + b"b"
        )
        assert stream.until_exit()[0] == b"a"


def test_many_requests_on_one_connection(vm: Daemon) -> None:
    request = b"GET /v1/ping HTTP/1.1\r\nHost: u\r\n\r\n"
    assert raw(vm, request * 5).count(b'"version"') == 5


def test_connections_are_bounded_and_free_again(vm: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(http.CONNECTIONS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(vm.api.path))
        assert b" 503 " in raw(vm, b"GET /v1/ping HTTP/1.1\r\nHost: u\r\n\r\n")
    deadline = time.monotonic() + 20
    while b" 200 " not in raw(vm, b"GET /v1/ping HTTP/1.1\r\nHost: u\r\n\r\n"):
        assert time.monotonic() < deadline


MANY = int(os.environ.get("UIO_MANY", "300"))  # of each, at least


def test_commands_and_connections_leave_nothing_behind(vm: Daemon) -> None:
    def figures() -> tuple[int, int]:
        fds = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
        return vm.api.get("/v1/stats")["uiod_pss_bytes"], fds

    def some(n: int) -> None:
        for i in range(n):
            vm.api.exec("echo", str(i))
            raw(vm, b"GET /v1/ping HTTP/1.1\r\nHost: u\r\n\r\n")

    some(MANY // 2)
    before = figures()
    some(MANY)
    after = figures()
    assert after[0] - before[0] < 1 << 20
    assert after[1] <= before[1] + 1


def test_what_the_daemon_does_not_need_is_not_loaded(vm: Daemon) -> None:
    maps = Path(f"/proc/{vm.process.pid}/maps").read_text()
    for library in ("libssl", "libcrypto", "libcapstone", "_elementtree", "pydantic"):
        assert library not in maps


def test_followers_get_what_comes(vm: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(vm.api.path))
        sock.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: u\r\n\r\n")
        got = sock.recv(1 << 16)
        vm.api.exec("log", "here", "it", "is")
        while b"here it is" not in got:
            piece = sock.recv(1 << 16)
            assert piece
            got += piece


def test_follow_ends_with_the_client(vm: Daemon) -> None:
    before = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(vm.api.path))
            sock.sendall(b"GET /v1/logs?follow=1 HTTP/1.1\r\nHost: u\r\n\r\n")
            assert sock.recv(1000)
    deadline = time.monotonic() + 20
    while len(os.listdir(f"/proc/{vm.process.pid}/fd")) > before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_metrics_are_prometheus_text(vm: Daemon) -> None:
    types = {}
    for line in vm.api.get("/metrics").decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            float(value)
            base = name.partition("{")[0]
            assert base in types or base.rsplit("_", 1)[0] in types
            assert 'vm="t"' in name
    assert types["uio_exec_total"] == "counter"
    assert types["uio_9p_request_seconds"] == "histogram"


def test_stats_tell_of_the_guests_memory_and_count_no_command_for_it(vm: Daemon) -> None:
    before = vm.api.get("/v1/stats")
    assert (before["guest_mem_total"], before["guest_mem_free"]) == (64384 << 10, 62440 << 10)
    text = vm.api.get("/metrics").decode()
    assert f'uio_guest_memory_bytes{{vm="t",kind="free"}} {62440 << 10}' in text
    assert vm.api.get("/v1/stats")["execs"] == before["execs"]


def test_a_guest_that_does_not_tell_of_its_memory_holds_nobody_up(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path, "amnesia"), tmp_path / "run") as vm:
        vm.until_ready()
        for _ in range(3):
            stats = vm.api.get("/v1/stats")
            assert (stats["guest_mem_total"], stats["guest_mem_free"]) == (None, None)
        assert vm.api.exec("echo", "hi")[0] == b"hi\n"


def test_waiting_has_an_end(vm: Daemon) -> None:
    status, body = vm.api.request("GET", "/v1/wait?for=stopped&timeout_s=0.05")
    assert status == 408
    assert "not stopped" in body["error"]
    assert vm.api.request("GET", "/v1/wait?for=Godot")[0] == 400


def test_without_symbols_there_are_no_symbols(vm: Daemon) -> None:
    assert vm.api.request("GET", "/v1/symbol?name=main")[0] == 404
    assert vm.api.get("/v1/overlays") == []


# Who may connect

PEER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(chr(0) + sys.argv[1])
sock.sendall(b"GET /v1/ping HTTP/1.1\\r\\nHost: u\\r\\nConnection: close\\r\\n\\r\\n")
data = b""
while piece := sock.recv(4096):
    data += piece
print(data.split()[1].decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
def test_other_users_are_refused_unless_in_the_group(tmp_path: Any) -> None:
    path = f"\0uio-test-{tmp_path}"  # in no directory, so that nothing but the daemon's own check is in the way

    async def main() -> list[str]:
        async def handler(connection: http.Connection, _request: http.Request) -> None:
            await connection.answer_json({})

        def peer(**who: Any) -> str:
            # The venv's own interpreter may be where this user cannot look; any other one does.
            done = subprocess.run(
                ["/usr/bin/python3", "-c", PEER, path[1:]],
                capture_output=True, text=True, timeout=30, check=False, cwd="/", **who,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return str(done.stdout).strip()

        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(path)
        sock.listen(8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.Server(handler, group=12345).serve, trio.SocketListener(sock))
            answers = [
                await trio.to_thread.run_sync(lambda who=who: peer(**who))
                for who in (
                    {},
                    {"user": 65534, "group": 65534, "extra_groups": []},
                    {"user": 65534, "group": 12345, "extra_groups": []},
                    {"user": 65534, "group": 65534, "extra_groups": [12345]},
                )
            ]
            nursery.cancel_scope.cancel()
        return answers

    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("there is no /usr/bin/python3")
    assert trio.run(main) == ["200", "403", "200", "200"]


# Clients that hang: with a clock that jumps


async def hanging(data: bytes, autojump_clock: trio.testing.MockClock) -> bytes:
    del autojump_clock
    ours, theirs = trio.socket.socketpair()

    async def handler(connection: http.Connection, _request: http.Request) -> None:
        await connection.answer(200, bytes(1 << 22))

    client = trio.SocketStream(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.Server(handler)._client, trio.SocketStream(theirs))
        await client.send_all(data)
        await trio.sleep(http._IDLE_S + http._REQUEST_S + http._ANSWER_S)
        got = bytearray()
        with contextlib.suppress(trio.BrokenResourceError):
            while piece := await client.receive_some(65536):
                got += piece
    return bytes(got)


async def test_a_client_that_says_nothing_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    assert await hanging(b"", autojump_clock) == b""


async def test_half_a_request_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    half = b"POST / HTTP/1.1\r\nHost: u\r\nContent-Length: 10\r\n\r\n123"
    assert b" 408 " in await hanging(half, autojump_clock)


async def test_an_answer_that_nobody_takes_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    got = await hanging(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n", autojump_clock)
    assert b" 200 " in got
    assert len(got) < 1 << 22
