# SPDX-License-Identifier: BSD-3-Clause
"""The guest as the API sees it: commands, overlays, its console, and the files it is served.

What a command's name means is decided here: a builtin of the guest, else an overlay of the store, which is linked and
sent along if the guest does not have it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from console.frames import (
    Exec,
    ExecFlag,
    Exit,
    ExitKind,
    Fault,
    Feature,
    Hello,
    Resident,
    Stream,
    SymbolReply,
)
from ninep_server import (
    Limits,
    LocalNode,
    Policy,
    ProtocolError,
    Stats,
    SyntheticDirectory,
    serve_stream,
)
from uiod import aside
from uiod.apitypes import ExecRequest, ExitInfo, FaultInfo, OverlayInfo
from uiod.config import Config
from uiod.errors import ExitStatus, UiodError
from uiod.events import Events
from uiod.images import Images, NoRoom
from uiod.link import CREDIT, Command, Link, LinkDown
from uiod.paths import RuntimeDir
from uiod.words import Words, exit_info

if TYPE_CHECKING:
    from overlays.kernel import Kernel
    from overlays.overlay import Overlay
    from uiod.shelf import Shelf

log = logging.getLogger("uiod")

_RECONNECT_S = 0.25
_RECONNECT_MAX_S = 5.0


class Attached(Exception):
    """Somebody else has the console."""


class Execution:
    """One command of an API client, from its start to its exit."""

    def __init__(self, guest: Guest, name: str) -> None:
        self.name = name
        self.command: Command | None = None
        self.refusal: Exit | None = None
        self.overlay: Overlay | None = None
        self.pushed = False
        self.signal = 0
        self._guest = guest
        self._exec: tuple[Exec, int] | None = None

    async def receive(self) -> tuple[Stream, bytes] | ExitInfo:
        """The next output (length 0: the end of the stream), or how the command ended."""
        while True:
            got = self.refusal
            if got is None:
                assert self.command is not None
                received = await self.command.receive()
                if isinstance(received, tuple):
                    return received
                got = received
            if got.kind is ExitKind.NEED_IMAGE and self.overlay is not None and not self.pushed:
                self.refusal = await self._guest.push_again(self)
                continue
            return await self._guest.finish(self, got)

    def passed_on(self, stream: Stream, size: int) -> None:
        """Output has been handed on."""
        if self.command is not None:
            self.command.passed_on(stream, size)

    async def send(self, data: bytes) -> None:
        """Standard input; waits while the command does not read."""
        if self.command is not None:
            await self.command.send(data)

    def end_input(self) -> None:
        """No more standard input."""
        if self.command is not None:
            self.command.end_input()

    def cancel(self, signal: int) -> None:
        """Interrupt (2) or end (9) it."""
        self.signal = signal
        if self.command is not None:
            self.command.cancel(signal)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has another size."""
        if self.command is not None:
            self.command.resize(rows, columns)


class Guest:
    """Everything behind the three ports."""

    def __init__(self, config: Config, run: RuntimeDir, events: Events) -> None:
        self.config = config
        self.events = events
        self.images = Images(None, None, require_domain=config.uio.domain == "require")
        self.link = Link(run.port("channel"), events.add, self._resolve)
        self.link.on_ready = self._on_ready
        self.link.on_lost = self._on_lost
        self.link.on_gone = self._on_gone
        self.ninep = Stats()
        self.results: Counter[str] = Counter()  # commands by how they ended
        self.running = 0
        self.warnings: list[str] = []
        self._run = run
        self._listed = False
        self._pushing = trio.Lock()
        self._console = trio.Lock()
        self._attached: trio.CancelScope | None = None
        self._file_scopes: dict[str, trio.CancelScope] = {}  # by port
        self._tree: SyntheticDirectory | None = None

    # Preparation

    def prepare(self) -> None:
        """Open the kernel's symbols, the keys and the exchange directory.

        :raise UiodError: one of them is missing or unusable.
        """
        wanted = bool(self.config.uio.overlays)
        self.images.kernel = self._open_kernel(wanted)
        self.images.store = self._open_store() if wanted else None
        children: dict[str, object] = {
            "bin": SyntheticDirectory(self.images.store)
            if self.images.store
            else SyntheticDirectory({}),
            "modules": dict(self.images.kernel.modules) if self.images.kernel else {},
            "vm": {
                "name": self.config.name.encode() + b"\n",
                "config": self._describe,
            },
        }
        if self.config.uio.exchange is not None:
            children["host"] = self._open_exchange()
        self._tree = SyntheticDirectory(children)  # type: ignore[arg-type]  # mappings of mappings

    def _open_kernel(self, wanted: bool) -> Kernel | None:
        from overlays.errors import KernelError  # noqa: PLC0415 - what `uiod --help` does not need
        from overlays.kernel import Kernel  # noqa: PLC0415

        path = self.config.symbols
        problem = None
        try:
            kernel = Kernel.open(path)
            if not kernel.globals:
                problem = f"{path} has no symbols"
            elif not kernel.build_id:
                problem = f"{path} has no build-id, so nothing shows that it is the running kernel"
            else:
                return kernel
        except KernelError as error:
            problem = str(error).replace("\n", "; ")
        if wanted:
            raise UiodError(
                f"no overlays without the kernel's symbols: {problem}",
                "set [vm] symbols to the ELF with symbols, or remove [uio] overlays",
                ExitStatus.KERNEL,
            )
        return None

    def _open_store(self) -> Shelf:
        from overlays.errors import OverlayError  # noqa: PLC0415
        from overlays.trust import Trust  # noqa: PLC0415
        from uiod.shelf import Shelf  # noqa: PLC0415

        try:
            trust = Trust.load(self.config.trust.keys, self.config.trust.unsigned)
        except OverlayError as error:
            text = str(error).replace("\n", "; ")
            raise UiodError(f"[trust] keys: {text}", status=ExitStatus.CONFIG) from None
        self.warnings += trust.warnings
        if not trust.keys and trust.unsigned == "refuse":
            self.warnings.append("[trust] names no key, so every overlay is refused")
        return Shelf(self.config.uio.overlays, trust)

    def _open_exchange(self) -> LocalNode:
        path = self.config.uio.exchange
        assert path is not None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalNode.root(
                path,
                Policy(
                    uid=0,
                    gid=0,
                    max_bytes=self.config.uio.exchange_max_bytes,
                    max_files=self.config.uio.exchange_max_files,
                ),
            )
        except OSError as error:
            raise UiodError(
                f"[uio] exchange: {path}: {error.strerror}", "give a directory", ExitStatus.CONFIG
            ) from None

    def _describe(self) -> bytes:
        vm = self.config.vm
        found = {"name": vm.name, "memory_bytes": vm.memory, "cpus": vm.cpus, "machine": vm.machine}
        return json.dumps(found).encode() + b"\n"

    def reload(self, config: Config) -> None:
        """Take over what can change while the guest runs: keys, overlays, the exec timeout.

        :raise UiodError: the new keys cannot be used; the old ones stay.
        """
        before, self.config = self.config, config
        try:
            store = self._open_store() if config.uio.overlays and self.images.store else None
        except UiodError:
            self.config = before
            raise
        if store is not None and self.images.store is not None:
            self.images.store.directories = store.directories
            self.images.store.trust = store.trust

    # The ports

    async def run(self) -> None:
        """Serve channel and files for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.run)
            nursery.start_soon(self._serve_files, "fs")
            if self.config.uio.mount:
                nursery.start_soon(self._serve_files, "mount")
            if self.images.store is not None:
                nursery.start_soon(self.images.store.refresh)

    async def _serve_files(self, port: str) -> None:
        assert self._tree is not None
        pause = _RECONNECT_S
        while True:
            try:
                stream = await trio.open_unix_socket(self._run.port(port))
            except OSError:
                await trio.sleep(_RECONNECT_S)
                continue
            begun = trio.current_time()
            try:
                with trio.CancelScope() as scope:
                    self._file_scopes[port] = scope  # `guest_was_reset` cancels it
                    await serve_stream(stream, self._tree, Limits(fids=1024), self.ninep)
            except ProtocolError as error:
                self.events.add(f"{port}.protocol", error=str(error))
            if scope.cancelled_caught:
                continue
            # A guest that sends nonsense over and over is served ever more rarely.
            lasted = trio.current_time() - begun
            pause = _RECONNECT_S if lasted > _RECONNECT_MAX_S else min(2 * pause, _RECONNECT_MAX_S)
            await trio.sleep(pause if lasted < _RECONNECT_MAX_S else _RECONNECT_S)

    def guest_was_reset(self) -> None:
        """The guest boots anew: begin anew on the ports that have a state."""
        self.link.guest_was_reset()
        for scope in self._file_scopes.values():
            scope.cancel()

    @contextlib.asynccontextmanager
    async def attach(
        self, force: bool = False, rows: int = 0, columns: int = 0
    ) -> AsyncIterator[trio.SocketStream]:
        """The console, for one at a time.

        :param rows: of its terminal; 0: not known, as `columns`.
        :raise Attached: somebody has it. :raise OSError: QEMU does not answer.
        """
        if self._attached is not None:
            if not force:
                raise Attached
            self._attached.cancel()
        with trio.CancelScope() as scope:
            self._attached = scope
            self.link.resize_console(rows, columns)
            try:
                async with (
                    self._console,
                    await trio.open_unix_socket(self._run.port("console")) as stream,
                ):
                    yield stream
            finally:
                if self._attached is scope:
                    self._attached = None
                    self.link.resize_console(0, 0)

    def resize_console(self, rows: int, columns: int) -> bool:
        """The attached terminal has another size. False: nobody is attached."""
        if self._attached is not None:
            self.link.resize_console(rows, columns)
        return self._attached is not None

    # Sessions

    @property
    def hello(self) -> Hello | None:
        """What the guest said of itself; None while it is not ready."""
        return self.link.hello

    def _on_ready(self, hello: Hello) -> None:
        self._listed = False
        self.images.session(hello)
        self.events.add("vm.ready", kernel=hello.kernel, build_id=hello.build_id.hex())
        if self.images.kernel is not None and (mismatch := self.images.mismatch()):
            self.events.add("kernel.mismatch", reason=mismatch)

    def _on_lost(self) -> None:
        self.images.session(None)

    def _on_gone(self, digest: bytes) -> None:
        self.images.gone(digest)
        self.events.add("overlay.gone", hash=digest.hex())

    def _resolve(self, _digest: bytes, names: tuple[str, ...]) -> list[SymbolReply]:
        return self.images.resolve(names)

    # Commands

    @contextlib.asynccontextmanager
    async def exec(self, request: ExecRequest) -> AsyncIterator[Execution]:
        """Run a command; it is ended if it still runs at the end of the block.

        :raise LinkDown: the guest is not ready. :raise ValueError: the request fits into no frame.
        """
        execution = Execution(self, request.argv[0])
        self.running += 1
        self.events.add("exec.start", argv=request.argv)
        try:
            await self._start(execution, request)
            yield execution
        finally:
            self.running -= 1
            if execution.command is not None:
                execution.command.abandon()

    async def _start(self, execution: Execution, request: ExecRequest) -> None:
        if self.hello is None:
            raise LinkDown("the guest is not ready")
        flags = int(ExecFlag.TTY) if request.tty else 0
        timeout = request.timeout_ms or int(self.config.uio.exec_timeout_s * 1000)
        command = Exec(
            timeout_ms=timeout,
            stdout_credit=CREDIT,
            stderr_credit=CREDIT // 4,
            rows=request.rows if request.tty else 0,
            columns=request.columns if request.tty else 0,
            argv=tuple(request.argv),
            env=tuple(f"{key}={value}" for key, value in request.env.items()),
        )
        try:
            if request.argv[0] in self.hello.builtins or request.pull:
                execution.command = await self.link.start(command, flags, None, request.stdin)
            else:
                await self._start_overlay(execution, command, flags, request.stdin)
        except OSError as error:
            execution.refusal = Exit(
                ExitKind.ERROR, -(error.errno or errno.EIO), str(error.strerror)
            )

    async def _start_overlay(
        self, execution: Execution, command: Exec, flags: int, stdin: bool
    ) -> None:
        found = await self._find(execution.name)
        if isinstance(found, Exit):
            execution.refusal = found
            return
        execution.overlay = found
        assert self.hello is not None
        if self.hello.features & Feature.SIGNATURES:
            await self._start_pulled(execution, command, flags, stdin)
            return
        command = Exec(**{**command.__dict__, "hash": found.hash})
        flags |= ExecFlag.IMAGE
        execution._exec = (command, flags)
        # Images and the commands that use them leave here in order, so that what is sent once is there for the next.
        async with self._pushing:
            await self._know_images()
            image = None
            if found.hash not in self.images.resident:
                linked = await self._link(found)
                if isinstance(linked, Exit):
                    execution.refusal = linked
                    return
                image, execution.pushed = linked, True
            execution.command = await self.link.start(command, flags, image, stdin)

    async def _start_pulled(
        self, execution: Execution, command: Exec, flags: int, stdin: bool
    ) -> None:
        """For a guest that checks signatures itself: it reads the file that was signed, and takes no image."""
        assert execution.overlay is not None
        if execution.overlay.hash not in self.images.resident and not flags & ExecFlag.LOAD_ONLY:
            # Where it lies must be known before it runs: nobody can tell after a fault.
            loading = await self.link.start(command, int(ExecFlag.LOAD_ONLY), None, False)
            try:
                while isinstance(got := await loading.receive(), tuple):
                    loading.passed_on(got[0], len(got[1]))
            finally:
                loading.abandon()
            if got.kind is not ExitKind.OK:
                execution.refusal = got
                return
            self.images.learn(await self.link.list_images())
            self._listed = True
        execution.command = await self.link.start(command, flags, None, stdin)

    async def push_again(self, execution: Execution) -> Exit | None:
        """The guest does not have the image that we thought it had: send it. An exit if that cannot be done."""
        assert execution.overlay is not None and execution.command is not None
        assert execution._exec is not None
        execution.pushed = True
        try:
            async with self._pushing:
                self.images.gone(execution.overlay.hash)
                image = await self._link(execution.overlay)
                if isinstance(image, Exit):
                    return image
                await self.link.restart(execution.command, *execution._exec, image)
        except (LinkDown, OSError) as error:
            return Exit(
                ExitKind.ERROR, -errno.EPIPE, f"the connection to the guest was lost: {error}"
            )
        return None

    async def _find(self, name: str) -> Overlay | Exit:
        from overlays.errors import NotFound, Refused, did_you_mean, near  # noqa: PLC0415

        assert self.hello is not None
        store = self.images.store
        try:
            if store is not None:
                await store.refresh(name)
                return store.get(name)
        except Refused as error:
            self.events.add("overlay.refused", name=name, reason=error.reason)
            return Exit(ExitKind.REFUSED, -errno.EACCES, str(error).replace("\n", "; "))
        except NotFound:
            assert store is not None
            await store.refresh()  # for the names
        known = [*self.hello.builtins, *(n.decode() for n in (store.names() if store else []))]
        hint = did_you_mean(near(name, known))
        text = f"there is no builtin or overlay {name!r}" + (f"; {hint}" if hint else "")
        return Exit(ExitKind.NOT_FOUND, -errno.ENOENT, text)

    async def _know_images(self) -> None:
        if not self._listed:
            self.images.learn(await self.link.list_images())
            self._listed = True

    async def _link(self, overlay: Overlay) -> bytes | Exit:
        from overlays.errors import OverlayError  # noqa: PLC0415

        if mismatch := self.images.mismatch():
            return Exit(ExitKind.REFUSED, -errno.ENOEXEC, mismatch)
        try:
            while True:
                try:
                    return await self.images.image(overlay)
                except NoRoom as error:
                    if not await self._make_room():
                        return Exit(ExitKind.ERROR, -errno.ENOMEM, str(error))
        except OverlayError as error:
            self.events.add("overlay.refused", name=overlay.name, reason=error.message)
            return Exit(ExitKind.REFUSED, -errno.ENOEXEC, str(error).replace("\n", "; "))

    async def _make_room(self) -> bool:
        """Unload an image that does not run. False: all of them run."""
        self.images.learn(await self.link.list_images())
        for digest in self.images.idle():
            if (await self.link.unload(digest)).kind is ExitKind.OK:
                self.images.gone(digest)
                return True
        return False

    async def finish(self, execution: Execution, exit: Exit) -> ExitInfo:
        """A command has ended: count it, and put its fault into words."""
        fault = None
        if exit.fault is not None:
            fault = await self._in_words(exit.fault, execution)
            self.events.add(
                "fault",
                name=execution.name,
                fault=fault.kind,
                where=fault.where,
                source=fault.source,
            )
        if execution.pushed and exit.kind in (ExitKind.REFUSED, ExitKind.ERROR):
            self._listed = False  # whether it stayed is not known
        if exit.kind is ExitKind.NEED_IMAGE:
            exit = Exit(
                ExitKind.ERROR, exit.status, "the guest asks again for an image that it was sent"
            )
        info = exit_info(exit, fault, execution.signal)
        self.results[info.kind] += 1
        self.events.add("exec.exit", name=execution.name, result=info.kind, code=info.code)
        return info

    async def _in_words(self, fault: Fault, execution: Execution) -> FaultInfo:
        store = self.images.store
        words = Words(
            self.images,
            self.hello.slide if self.hello is not None else 0,
            store.by_hash if store is not None else lambda _digest: None,
        )
        digest = execution.overlay.hash.hex() if execution.overlay is not None else ""
        try:
            return await aside.run(lambda: words.fault(fault, execution.name, digest))
        except aside.Failed as error:
            log.warning("a fault is without words: %s", error)
            bare = Words(Images(None, None), 0, lambda _digest: None)
            return bare.fault(fault, execution.name, digest)

    # Overlays

    async def overlays(self) -> list[OverlayInfo]:
        """Every file of the store, with what the guest has of it."""
        if self.hello is not None:
            with contextlib.suppress(LinkDown):
                self.images.learn(await self.link.list_images())
                self._listed = True
        store = self.images.store
        if store is not None:
            await store.refresh()
        found = []
        for entry in store.entries() if store is not None else []:
            place = self.images.resident.get(entry.hash)
            info = OverlayInfo(
                name=entry.name,
                version=entry.version,
                description=entry.description,
                hash=entry.hash.hex(),
                size=entry.size,
                path=str(entry.path),
                signed_by=list(entry.signed_by),
                state=entry.state,
                reason=entry.reason,
            )
            if place is not None:
                info.loaded, info.base, info.resident_size = True, place.base, place.size
                info.running = bool(place.flags & Resident.RUNNING)
                info.uses = place.uses
            found.append(info)
        return found

    async def load(self, name: str) -> ExitInfo:
        """Make an overlay resident without running it. :raise LinkDown: the guest is not ready."""
        if self.hello is None:
            raise LinkDown("the guest is not ready")
        execution = Execution(self, name)
        command = Exec(argv=(name,), stdout_credit=CREDIT, stderr_credit=CREDIT // 4)
        try:
            await self._start_overlay(execution, command, int(ExecFlag.LOAD_ONLY), False)
            while not isinstance(got := await execution.receive(), ExitInfo):
                execution.passed_on(got[0], len(got[1]))
            return got
        finally:
            if execution.command is not None:
                execution.command.abandon()

    async def unload(self, digest: bytes) -> ExitInfo:
        """Unload a resident image. :raise LinkDown: the guest is not ready."""
        exit = await self.link.unload(digest)
        if exit.kind is ExitKind.OK:
            self.images.gone(digest)
        return exit_info(exit, None)
