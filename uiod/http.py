# SPDX-License-Identifier: BSD-3-Clause
"""HTTP/1.1 on a unix socket: h11 with trio around it, bounded on every side. What is asked for is `api`'s subject."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec
import trio

from uiod.apitypes import ErrorBody

log = logging.getLogger("uiod.api")

HEADER_BYTES = 16 * 1024
BODY_BYTES = 1 << 20
CONNECTIONS = 128
_IDLE_S = 60.0  # between two requests
_REQUEST_S = 10.0  # for a request to arrive as a whole
_ANSWER_S = 30.0  # for a client to take a whole answer
_LINGER_S = 1.0
_RECEIVE = 16 * 1024
_SO_PEERGROUPS = 59
_UCRED = struct.Struct("3i")


class Refused(Exception):
    """An answer with a status of 400 or above."""

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint


class Gone(Exception):
    """The client is no longer there."""


@dataclass
class Request:
    """A whole request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    def json(self, kind: type[Any]) -> Any:
        """The body as a type. :raise Refused: 400, it is none."""
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Refused(400, f"the body is wrong: {error}", "see docs/api.md") from None

    def number(self, key: str, default: float) -> float:
        """A number of the query. :raise Refused: 400, it is none."""
        text = self.query.get(key)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if abs(value) < 1e18:
            return value
        raise Refused(400, f"{key}={text[:40]} is no number")


@dataclass
class Connection:
    """One client; requests one after the other."""

    stream: trio.SocketStream
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES)
    )
    upgraded: bool = False

    async def _event(self) -> Any:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                self.http.receive_data(await self.stream.receive_some(_RECEIVE))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None

    async def request(self) -> Request | None:
        """The next one; None when there is none any more.

        :raise Refused: it is too large. :raise h11.RemoteProtocolError: it is no HTTP.
        """
        with trio.move_on_after(_IDLE_S):
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            with trio.move_on_after(_REQUEST_S):
                return await self._whole(head)
            raise Refused(408, f"the request did not arrive within {_REQUEST_S:.0f} s")
        return None

    async def _whole(self, head: h11.Request) -> Request:
        target = urlsplit(head.target.decode("ascii", "replace"))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        body = bytearray()
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise Gone
            body += event.data
            if len(body) > BODY_BYTES:
                raise Refused(413, f"a body of more than {BODY_BYTES} bytes")
        try:
            query = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=32))
        except ValueError:
            raise Refused(400, "too many query parameters") from None
        return Request(head.method.decode("ascii"), target.path, query, headers, bytes(body))

    async def _send(self, *events: Any) -> None:
        data = b"".join(self.http.send(event) or b"" for event in events)
        if data:
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None

    def _headers(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        return [("Server", "uiod"), ("Cache-Control", "no-store"), *more]

    async def answer(
        self, status: int, body: bytes, content_type: str = "application/json"
    ) -> None:
        """A whole answer."""
        headers = self._headers(("Content-Type", content_type), ("Content-Length", str(len(body))))
        with trio.move_on_after(_ANSWER_S):
            head = h11.Response(status_code=status, headers=headers)
            await self._send(head, h11.Data(data=body), h11.EndOfMessage())
            return
        raise Gone

    async def answer_json(self, value: Any, status: int = 200) -> None:
        """A whole answer, of a type of `apitypes`."""
        await self.answer(status, msgspec.json.encode(value) + b"\n")

    async def refuse(self, refused: Refused) -> None:
        """An error, if there is still a place for one."""
        if self.http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self.answer_json(
                ErrorBody(error=refused.error, hint=refused.hint), refused.status
            )

    @contextlib.asynccontextmanager
    async def streaming(
        self, content_type: str
    ) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """An answer in pieces: the block gets a function that sends one. Ends when the client goes."""
        headers = self._headers(("Content-Type", content_type), ("Transfer-Encoding", "chunked"))
        await self._send(h11.Response(status_code=200, headers=headers))

        async def send(piece: bytes) -> None:
            try:
                if piece:
                    await self._send(h11.Data(data=piece))
            except Gone:
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            yield send
            nursery.cancel_scope.cancel()
        await self._send(h11.EndOfMessage())

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        # A client that follows sends nothing; whatever comes, or the end, means that it wants no more.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self.stream.socket)
        scope.cancel()

    async def upgrade(self, protocol: str) -> bytes:
        """Change to another protocol on the same stream: the bytes of it that came already."""
        headers = [("Connection", "Upgrade"), ("Upgrade", protocol), ("Server", "uiod")]
        await self._send(h11.InformationalResponse(status_code=101, headers=headers))
        self.upgraded = True
        data, _ = self.http.trailing_data
        return bytes(data)


Handler = Callable[[Connection, Request], Awaitable[None]]


def wants_upgrade(request: Request, protocol: str) -> None:
    """:raise Refused: the request does not ask for that protocol."""
    connection = {word.strip().lower() for word in request.headers.get("connection", "").split(",")}
    if (
        "upgrade" not in connection
        or request.headers.get("upgrade", "").lower() != protocol.lower()
    ):
        raise Refused(
            426,
            "this request changes the protocol",
            f"send Connection: Upgrade and Upgrade: {protocol}",
        )


def may_connect(sock: Any, group: int | None) -> bool:
    """Whether the process at the other end may use the API."""
    _pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    if uid in {0, os.geteuid()}:
        return True
    if group is None:
        return False
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        data = b""  # more than 256 groups, which Python cannot ask for: the primary one counts
    return group in {gid, *(number for (number,) in struct.iter_unpack("=I", data))}


class Server:
    """:param group: id of the group whose members may connect, besides root and ourselves."""

    def __init__(self, handler: Handler, group: int | None = None) -> None:
        self.connections = 0
        self._handler = handler
        self._group = group

    async def serve(self, listener: trio.SocketListener) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:  # out of descriptors: let some go first
                    log.warning("accept: %s", error)
                    await trio.sleep(0.1)
                    continue
                nursery.start_soon(self._client, stream)

    async def _client(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            await self._serve(Connection(stream))
            await self._linger(stream)
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, connection: Connection) -> None:
        try:
            if not may_connect(connection.stream.socket, self._group):
                await connection.refuse(Refused(403, "this user may not use this VM's API"))
            elif self.connections > CONNECTIONS:
                await connection.refuse(
                    Refused(503, f"{CONNECTIONS} connections are open", "try again")
                )
            else:
                await self._requests(connection)
        except (Gone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:  # a mistake of ours costs one client its answer, not all of them the VM
            log.exception("a request failed")
            with contextlib.suppress(Gone, h11.LocalProtocolError):
                await connection.refuse(Refused(500, "a mistake in uiod; its log has more"))

    async def _linger(self, stream: trio.SocketStream) -> None:
        # Closing while the client still sends would take the answer from it that tells what is wrong.
        left = 2 * BODY_BYTES
        with (
            trio.move_on_after(_LINGER_S),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await stream.send_eof()
            while left > 0 and (data := await stream.receive_some(_RECEIVE)):
                left -= len(data)

    async def _requests(self, connection: Connection) -> None:
        while True:
            try:
                request = await connection.request()
                if request is None:
                    return
                await self._handler(connection, request)
            except Refused as refused:
                await connection.refuse(refused)
            except h11.RemoteProtocolError as error:
                await connection.refuse(Refused(error.error_status_hint, f"no HTTP/1.1: {error}"))
                return
            except h11.LocalProtocolError:
                return  # the client broke off in a way that left no answer possible
            if connection.upgraded:
                return
            if (
                connection.http.our_state is not h11.DONE
                or connection.http.their_state is not h11.DONE
            ):
                return
            connection.http.start_next_cycle()
