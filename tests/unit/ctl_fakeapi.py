# SPDX-License-Identifier: BSD-3-Clause
"""A daemon that is none: docs/api.md on a unix socket, with commands that do what tests of uioctl need.

It is written from the document alone, in threads and blocking sockets, and shares no code with uioctl or uiod.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HELLO = {
    "kernel": "count 1.0",
    "build_id": "00" * 20,
    "features": ["w^x", "fail-stop"],
    "builtins": ["cat", "cp", "help", "ls"],
    "uptime_ns": 5_000_000_000,
    "arena_base": 0x4000_0000,
    "arena_size": 0x1000_0000,
}
FAULT = {
    "kind": "write",
    "ip": 0x4000_1012,
    "address": 0x10,
    "sp": 0x4000_8FF0,
    "error_code": 2,
    "trap": 14,
    "where": "main+0x12",
    "source": "crash.c:14",
    "what": "",
    "registers": {"rax": 1, "rbx": (1 << 64) - 1},
    "backtrace": ["main+0x12", "uio_overlay_run+0x40"],
    "overlay": "crash",
    "hash": "ab" * 32,
}


class Gone(Exception):
    """The client has closed."""


class Exec:
    """One exec stream, the daemon's end."""

    def __init__(self, sock: socket.socket, request: dict[str, Any]) -> None:
        self.sock = sock
        self.request = request
        self.windows: list[tuple[int, int]] = []
        self.signals: list[int] = []

    def send(self, kind: int, payload: bytes) -> None:
        try:
            self.sock.sendall(struct.pack("<B3xI", kind, len(payload)) + payload)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def out(self, data: bytes) -> None:
        for at in range(0, len(data), 65_536):
            self.send(1, data[at : at + 65_536])

    def err(self, data: bytes) -> None:
        self.send(2, data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise Gone
            data += piece
        return data

    def next(self) -> tuple[int, bytes]:
        """The client's next message."""
        kind, length = struct.unpack("<B3xI", self._exactly(8))
        assert length <= 65_536, "a message longer than docs/api.md allows"
        payload = self._exactly(length)
        if kind == 4:
            self.windows.append(struct.unpack("<HH", payload))
        elif kind == 5:
            self.signals.append(payload[0])
        return kind, payload

    def input(self) -> bytes:
        """All of standard input."""
        data = b""
        while True:
            kind, payload = self.next()
            if kind == 6:
                return data
            if kind == 0:
                data += payload

    def exit(self, kind: str = "ok", code: int = 0, message: str = "", **more: Any) -> None:
        info = {
            "kind": kind,
            "code": code,
            "status": code,
            "message": message,
            "run_ns": 1000,
        } | more
        self.send(3, json.dumps(info).encode())


Command = Callable[["FakeApi", Exec, list[str]], None]


def _echo(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(" ".join(argv[1:]).encode() + b"\n")
    x.exit()


def _cat(_: FakeApi, x: Exec, argv: list[str]) -> None:
    """Without arguments: input to output, while it comes."""
    while True:
        kind, payload = x.next()
        if kind == 0:
            x.out(payload)
        elif kind == 6:
            break
    x.exit()


def _both(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(b"to stdout\n")
    x.err(b"to stderr\n")
    x.exit(code=3)


def _request(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(json.dumps(x.request).encode())
    x.exit()


def _status(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.exit(kind=argv[2] if len(argv) > 2 else "ok", code=int(argv[1]))


def _crash(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(b"before\n")
    x.exit("fault", 139, "write to 0x10 at main+0x12", fault=FAULT)


def _nosuch(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.exit("not-found", 127, "no builtin or overlay nosuch; did you mean nonesuch?")


def _sleep(_: FakeApi, x: Exec, argv: list[str]) -> None:
    """Until interrupted; with `deaf`, until told to end now."""
    x.out(b"asleep\n")
    deaf = "deaf" in argv
    while True:
        kind, payload = x.next()
        if kind == 5 and (payload[0] == 9 or not deaf):
            x.exit("cancelled", 128 + payload[0])
            return


def _spew(api: FakeApi, x: Exec, argv: list[str]) -> None:
    """So many bytes, counted in `api.spewed` as the client takes them."""
    left = int(argv[1])
    while left:
        piece = bytes(min(left, 65_536))
        x.send(1, piece)
        api.spewed += len(piece)
        left -= len(piece)
    x.exit()


def _vanish(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(b"half an ans")


def _garbage(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.send(77, b"?")


def _winsize(_: FakeApi, x: Exec, argv: list[str]) -> None:
    x.out(f"{x.request['rows']}x{x.request['columns']}\n".encode())
    while not x.windows:
        x.next()
    rows, columns = x.windows[0]
    x.out(f"{rows}x{columns}\n".encode())
    x.exit()


COMMANDS: dict[str, Command] = {
    "echo": _echo,
    "cat": _cat,
    "both": _both,
    "request": _request,
    "status": _status,
    "crash": _crash,
    "nosuch": _nosuch,
    "sleep": _sleep,
    "spew": _spew,
    "vanish": _vanish,
    "garbage": _garbage,
    "winsize": _winsize,
}


class FakeApi:
    """A VM `name` below the runtime root `root`."""

    def __init__(self, root: Path, name: str = "count", *, ready: bool = True) -> None:
        self.name = name
        self.kernel = "/k/count.elf"
        self.directory = root / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ready = ready
        self.state = "running" if ready else "starting"
        self.commands = dict(COMMANDS)
        self.log = b"line 1\nline 2\nline 3\n"
        self.events: list[dict[str, Any]] = [
            {"time": 1_700_000_000.25, "kind": "vm.ready", "data": {"after_ms": 12}}
        ]
        self.changed = threading.Condition()  # log or events have grown, or the state is another
        self.overlays: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.execs: list[Exec] = []
        self.console: list[bytes] = []  # what attached clients typed
        self.attached = False
        self.old = False  # a daemon that does not know newer requests
        self.spewed = 0
        self.closed = False
        self._sockets: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.directory / "api.sock"))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End, as a daemon does that is stopped."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self.directory / "api.sock").unlink(missing_ok=True)
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def die(self) -> None:
        """End as one that was killed: the socket file stays."""
        path = self.directory / "api.sock"
        path.rename(self.directory / "kept")
        self.close()
        (self.directory / "kept").rename(path)

    def append_log(self, data: bytes) -> None:
        with self.changed:
            self.log += data
            self.changed.notify_all()

    def append_event(self, kind: str, **data: Any) -> None:
        with self.changed:
            self.events.append({"time": time.time(), "kind": kind, "data": data})
            self.changed.notify_all()

    def until(self, request: tuple[str, str, Any]) -> None:
        """Wait for a request."""
        with self.changed:
            assert self.changed.wait_for(lambda: request in self.requests, 60), self.requests

    def info(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "ready": self.ready,
            "pid": 1234,
            "qemu_pid": 1235,
            "accel": "tcg",
            "accel_reason": "KVM does not run guests here",
            "kernel": self.kernel,
            "config": "/etc/uio/count.cfg",
            "memory_bytes": 128 << 20,
            "cpus": 1,
            "started": time.time() - 65,
            "cgroup": "/uio/count",
            "restarts": 0,
            "adopted": False,
            "exit_status": None,
            "reason": "",
            "hello": HELLO if self.ready else None,
            "warnings": [],
            "argv": ["qemu-system-x86_64", "-nodefaults"],
            "confinement": {},
        }

    def stats(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "time": time.time(),
            "uptime_s": 65.0,
            "cpu_usec": 12_345_678 + int(time.monotonic() * 1e6) // 4,
            "memory_bytes": 100 << 20,
            "memory_limit": 192 << 20,
            "pids": 7,
            "uiod_pss_bytes": 20 << 20,
            "qemu_rss_bytes": 80 << 20,
            "guest_mem_total": None,
            "guest_mem_free": 64 << 20,
            "ninep_ops": 42,
            "ninep_read_bytes": 1 << 20,
            "ninep_write_bytes": 512,
            "execs": 3,
            "faults": 1,
            "overlays_loaded": 2,
        }

    # --- the server ---

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(Gone, OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(65_536)
                if not piece:
                    return
                head += piece
            head, _, rest = head.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, target, version = first.split(" ")
            assert version == "HTTP/1.1"
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            assert "host" in headers
            while len(rest) < int(headers.get("content-length", 0)):
                rest += sock.recv(65_536)
            body = json.loads(rest) if rest else None
            url = urlsplit(target)
            with self.changed:
                self.requests.append((method, target, body))
                self.changed.notify_all()
            self._route(sock, method, url.path, dict(parse_qsl(url.query)), headers, body)
        self._sockets.discard(sock)

    def _route(
        self,
        sock: socket.socket,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: Any,
    ) -> None:
        if path in ("/v1/exec", "/v1/attach"):
            wanted = "uio-exec/1" if path == "/v1/exec" else "uio-console/1"
            assert (headers.get("connection"), headers.get("upgrade")) == ("Upgrade", wanted)
            if not self.ready:
                self._error(sock, 503, "the guest is not ready", "uioctl wait count")
            elif path == "/v1/exec":
                self._exec(sock, body)
            else:
                self._attach(sock, body)
            return
        if path == "/v1/wait":
            self._wait(sock, query)
        elif path in ("/v1/logs", "/v1/events"):
            self._stream(sock, path, query)
        elif path == "/metrics":
            self._answer(sock, 200, b"# HELP uio_up 1\nuio_up 1\n", "text/plain")
        else:
            self._simple(sock, method, path, query, body)

    def _simple(
        self, sock: socket.socket, method: str, path: str, query: dict[str, str], body: Any
    ) -> None:
        match method, path:
            case "GET", "/v1/ping":
                self._json(sock, 200, {"api": 1, "version": "0.1.0"})
            case "GET", "/v1/vm":
                self._json(sock, 200, self.info())
            case "GET", "/v1/stats":
                self._json(sock, 200, self.stats())
            case "GET", "/v1/overlays":
                self._json(sock, 200, self.overlays)
            case "POST", "/v1/attach/size" if self.attached and not self.old:
                self._json(sock, 200, body)
            case "POST", "/v1/vm/stop" | "/v1/vm/kill":
                self._json(sock, 202, {})
                self.state = "stopped"
                self.close()
            case "POST", "/v1/vm/pause":
                self.state = "paused"
                self._json(sock, 200, self.info())
            case "POST", "/v1/vm/resume" | "/v1/vm/reset":
                self.state = "running"
                self._json(sock, 200, self.info())
            case "POST", "/v1/overlays/load" | "/v1/overlays/unload":
                found = next((o for o in self.overlays if o["name"] == body["name"]), None)
                if found is None:
                    self._error(sock, 404, f"no overlay {body['name']}", "did you mean hello?")
                elif found["state"] == "refused":
                    self._error(sock, 422, found["reason"])
                else:
                    found["loaded"] = path.endswith("/load")
                    self._json(sock, 200, found)
            case "GET", "/v1/symbol":
                if query.get("name") == "main" or "address" in query:
                    self._json(
                        sock,
                        200,
                        {
                            "name": "main",
                            "address": 0x106A42,
                            "size": 84,
                            "type": "function",
                            "source": "count.c:12",
                        },
                    )
                else:
                    self._error(sock, 404, f"no symbol {query['name']}", "near: main")
            case _:
                self._error(sock, 404, "no such request")

    def _exec(self, sock: socket.socket, body: Any) -> None:
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: uio-exec/1\r\n\r\n"
        )
        x = Exec(sock, body)
        self.execs.append(x)
        argv = body["argv"]
        self.commands.get(argv[0], _nosuch)(self, x, argv)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65_536):  # what crossed the exit message
            pass

    def _attach(self, sock: socket.socket, body: Any) -> None:
        if self.attached and not body.get("force"):
            self._error(sock, 409, "somebody else is attached", "--force takes over")
            return
        self.attached = True
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: uio-console/1\r\n\r\n"
            b"uio> "
        )
        while data := sock.recv(4096):
            self.console.append(data)
            if b"end\r" in data:
                break
            sock.sendall(data.replace(b"\r", b"\r\nuio> "))
        self.attached = False

    def _wait(self, sock: socket.socket, query: dict[str, str]) -> None:
        limit = float(query["timeout_s"]) if "timeout_s" in query else None
        wanted = (lambda: self.ready) if query["for"] == "ready" else (lambda: self.closed)
        with self.changed:
            reached = self.changed.wait_for(lambda: wanted() or self.closed, limit)
        if self.closed:
            return  # the connection ends with the daemon
        if reached:
            self._json(sock, 200, self.info())
        else:
            self._error(sock, 408, "timeout")

    def _stream(self, sock: socket.socket, path: str, query: dict[str, str]) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

        def chunk(data: bytes) -> None:
            sock.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def content() -> bytes:
            if path == "/v1/logs":
                return self.log
            since = float(query.get("since", 0))
            found = [e for e in self.events if e["time"] >= since]
            return b"".join(json.dumps(e).encode() + b"\n" for e in found)

        data = content()
        sent = len(data)
        if "tail" in query:
            lines = data.splitlines(keepends=True)
            data = b"".join(lines[max(0, len(lines) - int(query["tail"])) :])
        if data:
            chunk(data)
        while query.get("follow") == "1" and not self.closed:
            with self.changed:
                while not self.closed and len(content()) <= sent:
                    self.changed.wait()
                more = content()[sent:]
            if more:
                chunk(more)
                sent += len(more)
        sock.sendall(b"0\r\n\r\n")

    def _json(self, sock: socket.socket, status: int, value: Any) -> None:
        self._answer(sock, status, json.dumps(value).encode(), "application/json")

    def _error(self, sock: socket.socket, status: int, message: str, hint: str = "") -> None:
        self._json(sock, status, {"error": message, "hint": hint})

    def _answer(self, sock: socket.socket, status: int, body: bytes, kind: str) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
