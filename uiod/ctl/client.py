# SPDX-License-Identifier: BSD-3-Clause
"""HTTP/1.1 over a VM's unix socket, as much of it as docs/api.md needs.

Plain sockets: http.client would cost `uioctl exec` a third of its time in imports. The daemon is trusted no further
than its format: headers, chunks and bodies are bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator

from uiod.ctl.errors import ApiError, NotRunning, ProtocolError

TYPE_CHECKING = False  # as typing's, whose import would take longer than this file's
if TYPE_CHECKING:
    from typing import Any

_HEAD_MAX = 16 << 10
_BODY_MAX = 16 << 20  # of an answer that is read as a whole
_PIECE = 64 << 10
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0


class Reply:
    """An answer whose body is read as it comes. Close it, or use it in a `with`."""

    def __init__(
        self, sock: socket.socket, status: int, headers: dict[str, str], rest: bytes
    ) -> None:
        self.sock = sock
        self.status = status
        self.headers = headers
        self._rest = rest

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def leftover(self) -> bytes:
        """What came behind the head of an upgraded connection."""
        rest, self._rest = self._rest, b""
        return rest

    def pieces(self) -> Iterator[bytes]:
        """The body, as it arrives."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        length = self.headers.get("content-length")
        if length is None:
            while piece := self._some():
                yield piece
            return
        left = _number(length, 10)
        while left:
            piece = self._some()
            if not piece:
                raise ConnectionResetError
            yield piece[:left]
            left -= min(left, len(piece))

    def body(self) -> bytes:
        """The whole body."""
        pieces: list[bytes] = []
        size = 0
        for piece in self.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > _BODY_MAX:
                raise ProtocolError(f"uiod's answer is longer than {_BODY_MAX >> 20} MiB")
        return b"".join(pieces)

    def json(self) -> Any:
        """The body as JSON."""
        body = self.body()
        try:
            return json.loads(body) if body else None
        except ValueError:
            raise ProtocolError("uiod's answer is no JSON") from None

    def _some(self) -> bytes:
        if self._rest:
            return self.leftover()
        return self.sock.recv(_PIECE)

    def _line(self) -> bytes:
        line = bytearray()
        while True:
            piece = self._some()
            if not piece:
                raise ConnectionResetError
            head, newline, tail = piece.partition(b"\n")
            line += head
            if newline:
                self._rest = tail
                return bytes(line).rstrip(b"\r")
            if len(line) > _HEAD_MAX:
                raise ProtocolError("uiod's answer has a line without end")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            left = _number(self._line().partition(b";")[0].decode("ascii", "replace"), 16)
            if not left:
                return
            while left:
                piece = self._some()
                if not piece:
                    raise ConnectionResetError
                yield piece[:left]
                if len(piece) > left:
                    self._rest = piece[left:]
                left -= min(left, len(piece))
            if self._line():
                raise ProtocolError("uiod's answer has a chunk that does not end where it says")


class Api:
    """One VM's daemon."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory

    def connect(self, timeout: float = CONNECT_TIMEOUT_S) -> socket.socket:
        """A connection to the daemon.

        :raise NotRunning: nobody listens
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            connect_unix(sock, self.directory, "api.sock")
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            raise NotRunning(
                f"the VM {self.name} has no running daemon",
                "start one with: uiod start CONFIG (a VM that still runs is adopted)",
            ) from None
        except BlockingIOError:  # the daemon's queue of connections is full
            sock.close()
            raise TimeoutError from None
        except PermissionError:
            sock.close()
            raise ApiError(
                403, f"you may not talk to the VM {self.name}", "ask its owner, or root"
            ) from None
        except BaseException:
            sock.close()
            raise
        return sock

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout: float | None = ANSWER_TIMEOUT_S,
        upgrade: str = "",
    ) -> Reply:
        """Send a request and read the answer's head.

        :param timeout: seconds without a byte; None waits for ever
        :raise ApiError: the status is 400 or above
        """
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: uio"]
        if data or method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        lines.append(
            f"Connection: Upgrade\r\nUpgrade: {upgrade}" if upgrade else "Connection: close"
        )
        sock = self.connect(min(timeout or CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S))
        try:
            sock.settimeout(timeout)
            with contextlib.suppress(
                BrokenPipeError
            ):  # refused before it was read: the answer says why
                sock.sendall("\r\n".join([*lines, "", ""]).encode() + data)
            reply = _read_head(sock)
            _check(reply, upgrade)
        except BaseException:
            sock.close()
            raise
        return reply

    def get(self, target: str, *, timeout: float | None = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """GET a JSON object. Fields that an older daemon does not send are not there."""
        with self.request("GET", target, timeout=timeout) as reply:
            value = reply.json()
        if not isinstance(value, dict):
            raise ProtocolError("uiod's answer is no JSON object")
        return value

    def get_list(
        self, target: str, *, timeout: float | None = ANSWER_TIMEOUT_S
    ) -> list[dict[str, Any]]:
        """GET a JSON list of objects."""
        with self.request("GET", target, timeout=timeout) as reply:
            value = reply.json()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ProtocolError("uiod's answer is no JSON list")
        return value

    def post(
        self, target: str, body: Any = None, *, timeout: float | None = ANSWER_TIMEOUT_S
    ) -> Any:
        """POST a JSON body, get one."""
        with self.request("POST", target, {} if body is None else body, timeout=timeout) as reply:
            return reply.json()


def connect_unix(sock: socket.socket, directory: str, name: str) -> None:
    """Connect to a socket whose path may be longer than the 107 bytes a socket address has room for."""
    path = f"{directory}/{name}"
    if len(os.fsencode(path)) <= 107:
        sock.connect(path)
        return
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def query(**values: object) -> str:
    """A query string of the values that are not None."""
    from urllib.parse import urlencode  # noqa: PLC0415 (not on exec's way)

    pairs = {key: value for key, value in values.items() if value is not None}
    return f"?{urlencode(pairs)}" if pairs else ""


def _read_head(sock: socket.socket) -> Reply:
    head = bytearray()
    while (end := head.find(b"\r\n\r\n")) < 0:
        piece = sock.recv(_PIECE)
        if not piece:
            raise ConnectionResetError
        head += piece
        if len(head) > _HEAD_MAX + _PIECE:
            raise ProtocolError("uiod's answer has a head without end")
    first, *lines = head[:end].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1."):
        raise ProtocolError("what listens there does not speak HTTP")
    headers = {}
    for line in lines:
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    return Reply(sock, _number(words[1], 10), headers, bytes(head[end + 4 :]))


def _check(reply: Reply, upgrade: str) -> None:
    if reply.status >= 400:
        raise _refusal(reply)
    if upgrade and reply.status != 101:
        raise ProtocolError(f"uiod answered {reply.status} instead of switching to {upgrade}")


def _refusal(reply: Reply) -> ApiError:
    try:
        body = json.loads(reply.body())
        return ApiError(reply.status, str(body["error"]), str(body.get("hint", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(reply.status, f"uiod answered with status {reply.status}")


def _number(text: str, base: int) -> int:
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if not 0 <= value <= 1 << 62:
        raise ProtocolError("uiod's answer has a length that is no number")
    return value
