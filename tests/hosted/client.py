# SPDX-License-Identifier: BSD-3-Clause
"""A small blocking client of the channel for tests.

It speaks docs/protocol.md by itself, without the product's code, so that a mistake common to both ends is seen, and can
say what no daemon would: half frames, wrong frames, no credit.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("<IHBBII")
MAGIC = 0x4975
SYNC, HELLO, PING, PONG, RESET = 1, 2, 3, 4, 5
EXEC, IMAGE, CANCEL, WINSIZE = 0x10, 0x11, 0x12, 0x13
DATA, CREDIT, EXIT = 0x20, 0x21, 0x22
SYMQ, SYMR, LISTQ, LISTR, UNLOAD, LOG, GONE = 0x30, 0x31, 0x32, 0x33, 0x34, 0x40, 0x41
OK, NOT_FOUND, REFUSED, ERROR, FAULT, TIMEOUT, CANCELLED, NEED_IMAGE = range(8)
SYNC_MAGIC = b"\x00uIO\xffSYN"
DEADLINE_S = 30.0
SYNC_AGAIN_S = 0.25


@dataclass
class Frame:
    type: int
    id: int
    arg: int
    payload: bytes


@dataclass
class Hello:
    nonce: int
    features: int
    window: int
    threads: int
    uptime_ns: int
    image_base: int
    slide: int
    arena: tuple[int, int]
    push: tuple[int, int]
    build_id: bytes
    kernel: str
    builtins: list[str]


@dataclass
class Exit:
    kind: int
    status: int
    message: str
    run_ns: int
    fault: bytes = b""
    stdout: bytes = b""
    stderr: bytes = b""
    log: list[Frame] = field(default_factory=list)


def string(data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("<H", len(raw)) + raw


def frame(kind: int, ident: int = 0, arg: int = 0, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), MAGIC, kind, 0, ident, arg) + payload


def exec_payload(
    argv: list[str],
    *,
    timeout_ms: int = 0,
    stdout: int = 1 << 20,
    stderr: int = 1 << 20,
    env: tuple[str, ...] = (),
    digest: bytes = bytes(32),
) -> bytes:
    out = struct.pack("<IIIHH", timeout_ms, stdout, stderr, 0, 0) + digest
    out += struct.pack("<H", len(argv)) + b"".join(string(a) for a in argv)
    return out + struct.pack("<H", len(env)) + b"".join(string(e) for e in env)


def parse_hello(data: bytes) -> Hello:
    assert data[:8] == b"\x00uIO\xffHEL"
    fixed = struct.Struct("<QQIIQQQQQQQ")
    nonce, features, window, threads, uptime, base, slide, a0, a1, p0, p1 = fixed.unpack_from(
        data, 8
    )
    at = 8 + fixed.size
    texts: list[bytes] = []

    def take() -> bytes:
        nonlocal at
        (length,) = struct.unpack_from("<H", data, at)
        at += 2 + length
        assert at <= len(data)
        return data[at - length : at]

    build_id, kernel = take(), take().decode()
    (count,) = struct.unpack_from("<H", data, at)
    at += 2
    texts = [take() for _ in range(count)]
    assert at == len(data)
    return Hello(
        nonce,
        features,
        window,
        threads,
        uptime,
        base,
        slide,
        (a0, a1),
        (p0, p1),
        build_id,
        kernel,
        [t.decode() for t in texts],
    )


def parse_exit(f: Frame) -> Exit:
    status, length = struct.unpack_from("<iH", f.payload)
    message = f.payload[6 : 6 + length].decode()
    (run_ns,) = struct.unpack_from("<Q", f.payload, 6 + length)
    return Exit(f.arg, status, message, run_ns, f.payload[14 + length :])


class Client:
    """One connection to channel.sock."""

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(path))
        self.buffer = b""
        self.next_id = 1
        self.hello: Hello | None = None
        if sync:
            self.hello = self.sync()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, kind: int, ident: int = 0, arg: int = 0, payload: bytes = b"") -> None:
        self.sock.sendall(frame(kind, ident, arg, payload))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def take(self, n: int) -> bytes:
        while len(self.buffer) < n:
            more = self.sock.recv(1 << 18)
            if not more:
                raise EOFError
            self.buffer += more
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def receive(self) -> Frame:
        length, magic, kind, flags, ident, arg = HEADER.unpack(self.take(HEADER.size))
        assert magic == MAGIC
        assert flags == 0
        assert length <= 65536
        return Frame(kind, ident, arg, self.take(length))

    def sync(self, nonce: int | None = None) -> Hello:
        """SYNC until HELLO with our nonce, whatever an older session has left in the pipe."""
        if nonce is None:
            nonce = int.from_bytes(os.urandom(8), "little")
        self.send(SYNC, 0, 1, SYNC_MAGIC + struct.pack("<Q", nonce))
        mark = b"\x00uIO\xffHEL" + struct.pack("<Q", nonce)
        deadline = time.monotonic() + DEADLINE_S
        self.sock.settimeout(SYNC_AGAIN_S)
        while (at := self.buffer.find(mark)) < 0:
            try:
                more = self.sock.recv(1 << 18)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                self.send(SYNC, 0, 1, SYNC_MAGIC + struct.pack("<Q", nonce))
                continue
            if not more:
                raise EOFError
            self.buffer = self.buffer[-(HEADER.size + 15) :] + more
        self.sock.settimeout(DEADLINE_S)
        self.buffer = self.buffer[at - HEADER.size :]
        return parse_hello(self.receive().payload)

    def expect(self, kind: int, ident: int | None = None) -> Frame:
        """The next frame of this type, passing over others."""
        while True:
            f = self.receive()
            if f.type == kind and (ident is None or f.id == ident):
                return f

    def start(self, *argv: str, flags: int = 0, **options: object) -> int:
        ident = self.next_id
        self.next_id += 1
        self.send(EXEC, ident, flags, exec_payload(list(argv), **options))  # type: ignore[arg-type]
        return ident

    def finish(self, ident: int) -> Exit:
        """Collect the command's output, giving credit, until its EXIT."""
        out: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        log = []
        while True:
            f = self.receive()
            if f.id == ident and f.type == DATA:
                out[f.arg] += f.payload
                self.send(CREDIT, ident, f.arg, struct.pack("<I", len(f.payload)))
            elif f.id == ident and f.type == EXIT:
                result = parse_exit(f)
                result.stdout, result.stderr, result.log = bytes(out[1]), bytes(out[2]), log
                return result
            elif f.type in (LOG, GONE):
                log.append(f)
            elif f.type == RESET:
                raise AssertionError(f"RESET: {f.payload.decode()}")

    def run(self, *argv: str, stdin: bytes | None = None, **options: object) -> Exit:
        ident = self.start(*argv, **options)
        if stdin is not None:
            if stdin:
                self.send(DATA, ident, 0, stdin)
            self.send(DATA, ident, 0)
        return self.finish(ident)
