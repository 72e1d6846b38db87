# SPDX-License-Identifier: BSD-3-Clause
"""Starts the real `uiod` for tests, with the fake QEMU of `uiod_fakeguest` or any other, and speaks its API."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("uiod_fakeguest.py")
HEADER = struct.Struct("<B3xI")
STDIN, STDOUT, STDERR, EXIT, SIZE, SIGNAL, END = range(7)


class UnixConnection(http.client.HTTPConnection):
    """http.client on a unix socket."""

    def __init__(self, path: Path, timeout: float = 20) -> None:
        super().__init__("uio", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Stream:
    """An upgraded connection."""

    def __init__(self, sock: socket.socket, rest: bytes) -> None:
        self.sock = sock
        self.data = bytearray(rest)

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.sock.sendall(HEADER.pack(kind, len(payload)) + payload)

    def _take(self, size: int) -> bytes:
        while len(self.data) < size:
            piece = self.sock.recv(65536)
            if not piece:
                raise EOFError
            self.data += piece
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    def receive(self) -> tuple[int, bytes]:
        kind, size = HEADER.unpack(self._take(HEADER.size))
        return kind, self._take(size)

    def until_exit(self) -> tuple[bytes, bytes, dict[str, Any]]:
        """(stdout, stderr, ExitInfo)."""
        out = {STDOUT: bytearray(), STDERR: bytearray()}
        while True:
            kind, payload = self.receive()
            if kind == EXIT:
                return bytes(out[STDOUT]), bytes(out[STDERR]), json.loads(payload)
            out[kind] += payload


class Api:
    """uiod's API."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def request(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """(status, decoded body)."""
        connection = UnixConnection(self.path)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, target, data)
            answer = connection.getresponse()
            content = answer.read()
            if (
                "json" in (answer.headers["Content-Type"] or "")
                and "ndjson" not in answer.headers["Content-Type"]
            ):
                return answer.status, json.loads(content)
            return answer.status, content
        finally:
            connection.close()

    def get(self, target: str) -> Any:
        status, body = self.request("GET", target)
        assert status == 200, body
        return body

    def upgrade(self, target: str, protocol: str, body: Any) -> Stream:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.path))
        data = json.dumps(body).encode()
        head = (
            f"POST {target} HTTP/1.1\r\nHost: uio\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        sock.sendall(head.encode() + data)
        answer = bytearray()
        while b"\r\n\r\n" not in answer:
            piece = sock.recv(65536)
            if not piece:
                raise EOFError(bytes(answer))
            answer += piece
        head_bytes, _, rest = bytes(answer).partition(b"\r\n\r\n")
        if b" 101 " not in head_bytes.split(b"\r\n")[0]:
            sock.close()
            raise AssertionError(head_bytes + rest)
        return Stream(sock, rest)

    def start(self, *argv: str, **more: Any) -> Stream:
        return self.upgrade("/v1/exec", "uio-exec/1", {"argv": list(argv), **more})

    def exec(
        self, *argv: str, stdin: bytes | None = None, **more: Any
    ) -> tuple[bytes, bytes, dict[str, Any]]:
        stream = self.start(*argv, stdin=stdin is not None, **more)
        with contextlib.closing(stream.sock):
            if stdin is not None:
                if stdin:
                    stream.send(STDIN, stdin)
                stream.send(END)
            return stream.until_exit()


class Daemon:
    """A running `uiod start`."""

    def __init__(
        self, config: Path, root: Path, *options: str, env: dict[str, str] | None = None
    ) -> None:
        self.root = root
        self.run = root / config.stem
        self.api = Api(self.run / "api.sock")
        self.log = config.with_suffix(f".log{time.monotonic_ns()}")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "uiod.main",
                    "start",
                    str(config),
                    "--runtime-dir",
                    str(root),
                    *options,
                ],
                stderr=log,
                stdout=log,
                cwd=TOP,
                env={**os.environ, "PYTHONPATH": str(TOP), **(env or {})},
            )

    def said(self) -> str:
        return self.log.read_text()

    def until_serving(self) -> None:
        """Until the API answers."""
        deadline = time.monotonic() + 30
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"uiod ended with {self.process.returncode}: {self.said()}")
            with contextlib.suppress(OSError):
                self.api.get("/v1/ping")
                return
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def until_ready(self) -> dict[str, Any]:
        self.until_serving()
        status, body = self.api.request("GET", "/v1/wait?for=ready&timeout_s=30")
        assert status == 200, (body, self.said())
        return dict(body)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def qemu_pid(self) -> int:
        return int(json.loads((self.run / "state.json").read_text())["pid"])

    def end(self) -> None:
        """Whatever state it is in: nothing is left."""
        pid = None
        with contextlib.suppress(OSError, ValueError):
            pid = self.qemu_pid()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def fake_qemu(directory: Path) -> Path:
    """A program that is the fake QEMU."""
    program = directory / "fake-qemu"
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{TOP}' exec '{sys.executable}' '{FAKE}' \"$@\"\n")
    program.chmod(0o755)
    return program


def write_config(
    directory: Path, append: str = "", more: str = "", name: str = "t", **vm: str
) -> Path:
    """A configuration for the fake QEMU. `vm` are further lines of [vm], already in TOML."""
    kernel = directory / "kernel"
    if not kernel.exists():
        kernel.write_bytes(b"a kernel, says the fake")
    lines = {
        "kernel": '"kernel"',
        "qemu": f'"{fake_qemu(directory)}"',
        "accel": '"tcg"',
        "append": json.dumps(append),
        "stop_timeout_s": "5",
        **vm,
    }
    config = directory / f"{name}.cfg"
    text = "[vm]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()) + more
    if "[limits]" not in more:
        text += '\n[limits]\ncgroup = "off"\n'
    config.write_text(text)
    return config


@contextlib.contextmanager
def daemon(
    config: Path, root: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[Daemon]:
    """A uiod that is gone at the end, with its QEMU."""
    made = Daemon(config, root, *options, env=env)
    try:
        yield made
    finally:
        made.end()
