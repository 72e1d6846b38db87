# SPDX-License-Identifier: BSD-3-Clause
"""What the daemon answers on its socket (docs/api.md): a table of requests, and a function for each."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import socket
from typing import Any

import msgspec
import trio

from uiod import __version__, aside, bpf, metrics, streams
from uiod.apitypes import API_VERSION, BpfRequest, ExecRequest, OverlayInfo
from uiod.errors import ExitStatus, UiodError
from uiod.guest import Attached
from uiod.http import Connection, Handler, Refused, Request, Server, wants_upgrade
from uiod.link import LinkDown
from uiod.supervisor import Supervisor

_ARGV_BYTES = 32 * 1024
_STATUS_OF_EXIT = {"not-found": 404, "refused": 422, "timeout": 504}


class _Stop(msgspec.Struct, forbid_unknown_fields=True):
    timeout_s: float | None = None


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Attach(msgspec.Struct, forbid_unknown_fields=True):
    rows: int = 0
    columns: int = 0
    force: bool = False


class _Size(msgspec.Struct, forbid_unknown_fields=True):
    rows: int
    columns: int


class Api:
    """The requests of one VM."""

    def __init__(self, vm: Supervisor) -> None:
        self.vm = vm
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/v1/ping"): self.ping,
            ("GET", "/v1/vm"): self.info,
            ("POST", "/v1/vm/stop"): self.stop,
            ("POST", "/v1/vm/kill"): self.kill,
            ("POST", "/v1/vm/pause"): self.pause,
            ("POST", "/v1/vm/resume"): self.resume,
            ("POST", "/v1/vm/reset"): self.reset,
            ("GET", "/v1/wait"): self.wait,
            ("GET", "/v1/logs"): self.logs,
            ("GET", "/v1/events"): self.events,
            ("GET", "/v1/stats"): self.stats,
            ("GET", "/v1/overlays"): self.overlays,
            ("POST", "/v1/overlays/load"): self.load,
            ("POST", "/v1/overlays/unload"): self.unload,
            ("GET", "/v1/symbol"): self.symbol,
            ("GET", "/metrics"): self.metrics,
            ("POST", "/v1/exec"): self.exec,
            ("POST", "/v1/attach"): self.attach,
            ("POST", "/v1/attach/size"): self.attach_size,
            ("POST", "/v1/bpf"): self.bpf,
            ("POST", "/v1/bpf/attach"): self.bpf_attach,
        }
        self.held: trio.Nursery | None = None  # of sessions without a client

    async def handle(self, connection: Connection, request: Request) -> None:
        """One request. :raise Refused: with what is wrong about it."""
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            methods = sorted(method for method, path in self._routes if path == request.path)
            if methods:
                raise Refused(405, f"{request.path} knows {' and '.join(methods)} only")
            raise Refused(404, f"there is no {request.path[:100]}", "see docs/api.md")
        try:
            await handler(connection, request)
        except LinkDown as error:
            raise Refused(503, f"the guest cannot be reached: {error}", "see GET /v1/vm") from None
        except UiodError as error:
            raise Refused(503, error.args[0], error.hint) from None

    # The machine

    async def ping(self, connection: Connection, _request: Request) -> None:
        await connection.answer_json({"api": API_VERSION, "version": __version__})

    async def info(self, connection: Connection, _request: Request) -> None:
        await connection.answer_json(self.vm.info())

    async def stop(self, connection: Connection, request: Request) -> None:
        wish: _Stop = request.json(_Stop)
        if wish.timeout_s is not None and not 0 <= wish.timeout_s <= 86400:
            raise Refused(400, "timeout_s is between 0 and 86400")
        self.vm.stop(wish.timeout_s)
        await connection.answer_json(self.vm.info(), 202)

    async def kill(self, connection: Connection, _request: Request) -> None:
        info = self.vm.info()
        self.vm.kill()
        await connection.answer_json(info, 202)

    async def pause(self, connection: Connection, _request: Request) -> None:
        await self.vm.pause()
        await connection.answer_json(self.vm.info())

    async def resume(self, connection: Connection, _request: Request) -> None:
        await self.vm.resume()
        await connection.answer_json(self.vm.info())

    async def reset(self, connection: Connection, _request: Request) -> None:
        await self.vm.reset()
        await connection.answer_json(self.vm.info())

    async def wait(self, connection: Connection, request: Request) -> None:
        wanted = request.query.get("for", "ready")
        if wanted not in {"ready", "stopped"}:
            raise Refused(400, "for is either ready or stopped")
        timeout = max(0.0, request.number("timeout_s", 60.0))
        with trio.move_on_after(timeout):
            await self.vm.until(ready=wanted == "ready")
            await connection.answer_json(self.vm.info())
            return
        raise Refused(408, f"not {wanted} within {timeout:g} s", self.vm.reason)

    # What was and what is

    async def logs(self, connection: Connection, request: Request) -> None:
        log = self.vm.serial
        assert log is not None
        position, end = log.start, log.end
        if "since" in request.query:
            position = max(position, log.since(request.number("since", 0)))
        if "tail" in request.query:
            position = max(position, log.tail(max(0, int(request.number("tail", 0)))))
        follow = request.query.get("follow", "0") not in {"", "0"}
        async with connection.streaming("text/plain; charset=utf-8") as send:
            while True:
                data, position = log.read(position)
                if not follow and position > end:
                    data = data[: len(data) - (position - end)]
                await send(data)
                if not data:
                    if not follow:
                        break
                    await self.vm.serial_changed.wait()

    async def events(self, connection: Connection, request: Request) -> None:
        ring = self.vm.events
        since = request.number("since", 0)
        follow = request.query.get("follow", "0") not in {"", "0"}
        seen = 0
        async with connection.streaming("application/x-ndjson") as send:
            while True:
                found = list(ring.since(seen, since))
                seen = ring.count
                await send(b"".join(msgspec.json.encode(event) + b"\n" for event in found))
                if not follow:
                    break
                if seen == ring.count:
                    await ring.changed.wait()

    async def stats(self, connection: Connection, _request: Request) -> None:
        await connection.answer_json(metrics.collect(self.vm, await self.vm.guest_memory.read()))

    async def metrics(self, connection: Connection, _request: Request) -> None:
        text = metrics.prometheus(self.vm, await self.vm.guest_memory.read())
        await connection.answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    # Overlays and symbols

    async def overlays(self, connection: Connection, _request: Request) -> None:
        await connection.answer_json(await self.vm.guest.overlays())

    async def _overlay(self, name: str) -> OverlayInfo:
        found = next((i for i in await self.vm.guest.overlays() if i.name == name), None)
        if found is None:
            raise Refused(404, f"there is no overlay {name[:100]!r}", "see `uioctl overlay ls`")
        return found

    async def load(self, connection: Connection, request: Request) -> None:
        name = request.json(_Named).name
        done = await self.vm.guest.load(name)
        if done.code:
            raise Refused(_STATUS_OF_EXIT.get(done.kind, 502), done.message or done.kind)
        await connection.answer_json(await self._overlay(name))

    async def unload(self, connection: Connection, request: Request) -> None:
        info = await self._overlay(request.json(_Named).name)
        if not info.loaded:
            raise Refused(404, f"{info.name} is not loaded")
        done = await self.vm.guest.unload(bytes.fromhex(info.hash))
        if done.code:
            status = 409 if done.status == -16 else 404 if done.status == -2 else 502
            raise Refused(
                status, done.message or f"{info.name} is in use", "wait until it has ended"
            )
        await connection.answer_json(await self._overlay(info.name))

    async def symbol(self, connection: Connection, request: Request) -> None:
        kernel = self.vm.guest.images.kernel
        if kernel is None:
            raise Refused(404, "the kernel has no symbols", "set [vm] symbols")
        hello = self.vm.guest.hello
        slide = hello.slide if hello is not None else 0
        offset = 0
        if (text := request.query.get("address")) is not None:
            if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", text):
                raise Refused(400, f"{text[:40]} is no address; write 0x…")
            address = int(text, 16)
            found = kernel.nearest(address - slide)
            if found is None:
                raise Refused(404, f"nothing is known about {address:#x}")
            symbol, offset = found
        else:
            name = request.query.get("name", "")
            wanted = kernel.lookup(name)
            if wanted is None:
                near = ", ".join(kernel.near_names(name)) if name else ""
                raise Refused(
                    404,
                    f"there is no symbol {name[:100]!r}",
                    f"did you mean {near}?" if near else "",
                )
            symbol = wanted
        source = None
        with contextlib.suppress(aside.Failed):
            source = await aside.run(lambda: kernel.source(symbol.address + offset))
        answer: dict[str, Any] = {
            "name": symbol.name,
            "address": symbol.address + slide,
            "size": symbol.size,
            "type": symbol.kind,
            "source": source,
        }
        if "address" in request.query:
            answer["offset"] = offset
        await connection.answer_json(answer)

    # Streams

    async def exec(self, connection: Connection, request: Request) -> None:
        wants_upgrade(request, "uio-exec/1")
        wish: ExecRequest = request.json(ExecRequest)
        _check_exec(wish)
        async with contextlib.AsyncExitStack() as stack:
            try:
                execution = await stack.enter_async_context(self.vm.guest.exec(wish))
            except ValueError as error:
                raise Refused(400, str(error)) from None
            rest = await connection.upgrade("uio-exec/1")
            await streams.serve_exec(connection.stream, rest, execution)

    async def bpf(self, connection: Connection, request: Request) -> None:
        wants_upgrade(request, "uio-exec/1")
        wish: BpfRequest = request.json(BpfRequest)
        if wish.attach:
            raise Refused(400, "the client attaches with messages of its own", "see docs/bpf.md")
        wire = await bpf.examine(wish.object, self.vm.config.trust.bpf)
        async with bpf.session(self.vm.guest, wire) as execution:
            rest = await connection.upgrade("uio-exec/1")
            await streams.serve_exec(connection.stream, rest, execution)

    async def bpf_attach(self, connection: Connection, request: Request) -> None:
        wish: BpfRequest = request.json(BpfRequest)
        bpf.check(wish)
        wire = await bpf.examine(wish.object, self.vm.config.trust.bpf)
        assert self.held is not None
        session = await self.held.start(self._hold, wire, wish)
        if isinstance(session, Refused):
            raise session
        await connection.answer_json(session)

    async def _hold(self, wire: bytes, wish: BpfRequest, task_status: Any) -> None:
        """Whatever ends one held session must not end the others, nor the daemon."""
        begun = False

        class Status:
            def started(self, value: object) -> None:
                nonlocal begun
                begun = True
                task_status.started(value)

        try:
            await bpf.hold(self.vm.guest, wire, wish, Status())  # type: ignore[arg-type]
        except (Refused, LinkDown, UiodError) as error:
            if not begun:
                refused = error if isinstance(error, Refused) else Refused(503, str(error))
                task_status.started(refused)

    async def attach(self, connection: Connection, request: Request) -> None:
        wants_upgrade(request, "uio-console/1")
        wish: _Attach = request.json(_Attach)
        _check_size(wish.rows, wish.columns)
        async with contextlib.AsyncExitStack() as stack:
            try:
                console = await stack.enter_async_context(
                    self.vm.guest.attach(wish.force, wish.rows, wish.columns)
                )
            except Attached:
                raise Refused(409, "somebody else is attached", "force takes over") from None
            except OSError as error:
                raise Refused(503, f"the console cannot be reached: {error.strerror}") from None
            self.vm.events.add("attach.start")
            rest = await connection.upgrade("uio-console/1")
            await streams.serve_console(connection.stream, rest, console)
            self.vm.events.add("attach.end")

    async def attach_size(self, connection: Connection, request: Request) -> None:
        wish: _Size = request.json(_Size)
        _check_size(wish.rows, wish.columns)
        if not self.vm.guest.resize_console(wish.rows, wish.columns):
            raise Refused(409, "nobody is attached")
        await connection.answer_json(wish)


def _check_size(rows: int, columns: int) -> None:
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise Refused(400, "rows and columns are between 0 and 65535")


def _check_exec(wish: ExecRequest) -> None:
    if wish.argv[:2] == ["bpf", "session"]:
        raise Refused(403, "sessions begin with POST /v1/bpf, which has programs verified")
    strings = [*wish.argv, *(f"{key}={value}" for key, value in wish.env.items())]
    if not wish.argv or not wish.argv[0]:
        raise Refused(400, "argv is empty", "name a builtin or an overlay")
    if len(wish.argv) > 128 or len(wish.env) > 128:
        raise Refused(400, "more than 128 arguments or variables")
    if sum(len(text.encode("utf-8", "surrogatepass")) for text in strings) > _ARGV_BYTES:
        raise Refused(400, f"arguments and variables of more than {_ARGV_BYTES} bytes")
    if any("\0" in text for text in strings) or any("=" in key or not key for key in wish.env):
        raise Refused(400, "an argument with NUL inside, or a variable's name with = inside")
    _check_size(wish.rows, wish.columns)
    if not 0 <= wish.timeout_ms < 1 << 32:
        raise Refused(400, "timeout_ms is between 0 and 2³²-1")


def _listen(vm: Supervisor, group: int | None) -> trio.SocketListener:
    path = vm.run_dir.api
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # a dead uiod's: the name is locked
        sock._sock.bind(str(path))  # type: ignore[attr-defined]  # trio would do it in a thread
        path.chmod(0o600)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
            os.chown(vm.run_dir.path, -1, group)
            vm.run_dir.path.chmod(0o710)
        sock.listen(128)
    except OSError as error:
        sock.close()
        too_long = len(os.fsencode(path)) > 107
        hint = (
            "the path is too long for a socket: choose a shorter --runtime-dir" if too_long else ""
        )
        raise UiodError(
            f"{path}: {error.strerror or error}", hint, ExitStatus.UNAVAILABLE
        ) from None
    return trio.SocketListener(sock)


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UiodError(
            f"[uio] group: there is no group {name!r}",
            "create it, or remove the key",
            ExitStatus.CONFIG,
        ) from None


async def serve(vm: Supervisor, task_status: trio.TaskStatus[None]) -> None:
    """Open the socket and answer on it until cancelled. :raise UiodError: it cannot be opened."""
    group = _group_id(vm.config.uio.group)
    listener = _listen(vm, group)
    api = Api(vm)
    async with listener, trio.open_nursery() as api.held:
        task_status.started()
        await Server(api.handle, group).serve(listener)
