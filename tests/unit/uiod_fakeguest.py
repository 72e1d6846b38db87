# SPDX-License-Identifier: BSD-3-Clause
"""In place of QEMU: makes the sockets that the command line names, answers as its monitor, and is a guest behind them.

The guest's "kernel command line" (-append) chooses how it behaves: words such as `mute` (never says HELLO), `die`
(ends at once), `stubborn` (ignores SIGTERM), `chatty=N` (N bytes on the serial port). What it runs are the
builtins below and whatever image it is sent; its protocol is docs/protocol.md through `console.frames`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

import trio

from console import frames
from console.frames import ExecFlag, Exit, ExitKind, Frame, Stream, Type

WINDOW = 16 * 1024
BASE = 0x200000
PUSH = 0x10000000


@dataclass
class Running:
    """A command."""

    id: int
    exec: frames.Exec
    flags: int
    credit: dict[int, int]
    stdin: bytearray = field(default_factory=bytearray)
    ended: bool = False
    cancelled: int = 0
    size: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Guest:
    """The guest's half of the channel."""

    def __init__(self, words: dict[str, str], serial: Any, power_off: Any) -> None:
        self.words = words
        self.serial = serial
        self.power_off = power_off
        self.nonce: int | None = None
        self.stream: trio.SocketStream | None = None
        self.sending = trio.Lock()
        self.running: dict[int, Running] = {}
        self.images: dict[int, bytearray] = {}
        self.resident: dict[bytes, tuple[int, int, str, int]] = {}
        self.symbols: dict[int, tuple[frames.SymbolReply, ...]] = {}
        self.build_id = bytes.fromhex(words.get("build_id", "aa" * 20))
        self.booted = 0
        self.consoles: list[tuple[int, int]] = []  # sizes of its terminal, as told in this session
        self.machine: Any = None
        self.builtins = tuple(name[3:] for name in dir(self) if name.startswith("do_"))

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection of a host."""
        self.stream, self.nonce = stream, None
        self.running.clear()
        self.images.clear()
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            data = bytearray()
            while piece := await stream.receive_some(65536):
                data += piece
                while await self.step(data):
                    pass
            nursery.cancel_scope.cancel()
        self.stream = None

    async def step(self, data: bytearray) -> bool:
        if self.nonce is None:
            at = data.find(frames.SYNC_MAGIC)
            if at < 16 or len(data) < at + 16:
                return False
            del data[: at - 16]
        if len(data) < 16:
            return False
        length, kind, id, arg = frames.header(data, frames.FROM_HOST)
        if len(data) < 16 + length:
            return False
        payload = bytes(data[16 : 16 + length])
        del data[: 16 + length]
        await self.frame(Frame(kind, id, arg, payload))
        return True

    async def send(self, kind: Type, id: int = 0, arg: int = 0, payload: bytes = b"") -> None:
        async with self.sending:
            if self.stream is not None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.stream.send_all(frames.frame(kind, id, arg, payload))

    def hello(self) -> frames.Hello:
        self.booted += 1
        return frames.Hello(
            nonce=self.nonce or 0,
            features=int(frames.Feature.FAIL_STOP),
            window=WINDOW,
            threads=64,
            uptime=self.booted,
            image_base=BASE,
            arena_base=PUSH,
            arena_size=1 << 24,
            push_base=PUSH,
            push_size=int(self.words.get("push_size", 1 << 24)),
            build_id=self.build_id,
            kernel="fake 1.0",
            builtins=self.builtins,
        )

    async def frame(self, got: Frame) -> None:
        if got.type is Type.SYNC:
            nonce = frames.Sync.decode(got.payload).nonce
            if nonce != self.nonce:
                self.running.clear()
                self.consoles.clear()
            self.nonce = nonce
            if "mute" not in self.words:
                await self.send(Type.HELLO, 0, 1, self.hello().encode())
        elif got.type is Type.PING:
            await self.send(Type.PONG, got.id, got.arg, got.payload)
        elif got.type is Type.RESET:
            self.nonce = None
        elif got.type is Type.EXEC:
            exec = frames.Exec.decode(got.payload)
            command = Running(got.id, exec, got.arg, {1: exec.stdout_credit, 2: exec.stderr_credit})
            command.size = exec.rows << 16 | exec.columns
            self.running[got.id] = command
            self.nursery.start_soon(self.run, command)
        elif got.type is Type.IMAGE:
            image = self.images.setdefault(got.id, bytearray())
            assert got.arg == len(image)
            image += got.payload
        elif got.type is Type.LISTQ:
            items = [
                frames.Resident(hash=digest, base=base, size=size, uses=uses, flags=2, name=name)
                for digest, (base, size, name, uses) in self.resident.items()
            ]
            await self.send(Type.LISTR, got.id, len(items), frames.encode_items(items))
        elif got.type is Type.UNLOAD:
            digest = frames.Digest.decode(got.payload).hash
            there = self.resident.pop(digest, None)
            exit = Exit(ExitKind.OK) if there else Exit(ExitKind.ERROR, -2, "not resident")
            await self.send(Type.EXIT, got.id, exit.kind, exit.encode())
        elif got.type is Type.SYMR:
            self.symbols[got.id] = frames.decode_symbols(got.arg, got.payload)
            for command in self.running.values():
                command.wake()
        elif got.type is Type.WINSIZE and got.id == 0:
            self.consoles.append((got.arg >> 16, got.arg & 0xFFFF))
            for command in self.running.values():
                command.wake()
        elif (command := self.running.get(got.id)) is not None:
            if got.type is Type.DATA:
                command.stdin += got.payload
                command.ended |= not got.payload
            elif got.type is Type.CREDIT:
                command.credit[got.arg] += frames.Credit.decode(got.payload).bytes
            elif got.type is Type.CANCEL:
                command.cancelled = got.arg
            elif got.type is Type.WINSIZE:
                command.size = got.arg
            command.wake()

    # Commands

    async def wait(self, command: Running) -> None:
        if not command.cancelled:
            await command.changed.wait()
        if command.cancelled:
            raise KeyError(command.cancelled)

    async def write(self, command: Running, data: bytes, stream: int = Stream.STDOUT) -> None:
        while data:
            if command.cancelled:
                raise KeyError(command.cancelled)
            size = min(len(data), command.credit[stream], 8192)
            if not size:
                await self.wait(command)
                continue
            command.credit[stream] -= size
            await self.send(Type.DATA, command.id, stream, data[:size])
            data = data[size:]

    async def run(self, command: Running) -> None:
        try:
            exit = await self.command(command)
        except KeyError:
            exit = Exit(ExitKind.CANCELLED)
        if self.running.pop(command.id, None) is command:
            await self.send(Type.EXIT, command.id, exit.kind, exit.encode())

    async def command(self, command: Running) -> Exit:
        if command.flags & ExecFlag.IMAGE:
            return await self.overlay(command)
        name, *arguments = command.exec.argv
        if name not in self.builtins:
            return Exit(ExitKind.NOT_FOUND, -2, f"no {name}")
        return await getattr(self, f"do_{name}")(command, arguments)

    async def overlay(self, command: Running) -> Exit:
        digest = command.exec.hash
        image = self.images.pop(command.id, None)
        if image is not None:
            assert image[:8] == frames.IMAGE_MAGIC and bytes(image[8:40]) == digest
            if bytes(image[40:60]) != self.build_id:
                return Exit(ExitKind.REFUSED, -8, "wrong build-id")
            size, base = struct.unpack_from("<IQ", image, 60)
            for other, (low, length, _, _) in self.resident.items():
                if other != digest and base < low + length and low < base + size:
                    return Exit(ExitKind.REFUSED, -17, f"{base:#x} is in use")
            self.resident[digest] = (base, size, command.exec.argv[0], 0)
        if digest not in self.resident:
            return Exit(ExitKind.NEED_IMAGE)
        base, size, name, uses = self.resident[digest]
        if command.flags & ExecFlag.LOAD_ONLY:
            return Exit(ExitKind.OK)
        self.resident[digest] = (base, size, name, uses + 1)
        what = "sent" if image is not None else "resident"
        text = f"{' '.join(command.exec.argv)}: {what} at {base:#x}\n"
        await self.write(command, text.encode())
        if "crash" in command.exec.argv:
            del self.resident[digest]
            await self.send(Type.GONE, 0, 0, frames.Digest(hash=digest).encode())
            return self.fault_at(base)
        return Exit(ExitKind.OK, run_ns=1000)

    def fault_at(self, ip: int) -> Exit:
        fault = frames.Fault(
            kind=2,
            ip=ip,
            address=0x10,
            sp=0x7000,
            error_code=2,
            trap=14,
            registers=tuple(range(15)),
            backtrace=(ip + 5, BASE + 0x100),
        )
        return Exit(ExitKind.FAULT, -14, "stopped", 5, fault)

    async def do_echo(self, command: Running, arguments: list[str]) -> Exit:
        await self.write(command, " ".join(arguments).encode("utf-8", "surrogateescape") + b"\n")
        return Exit(ExitKind.OK)

    async def do_cat(self, command: Running, _arguments: list[str]) -> Exit:
        while True:
            if command.stdin:
                data = bytes(command.stdin)
                command.stdin.clear()
                await self.write(command, data)
                credit = frames.Credit(bytes=len(data)).encode()
                await self.send(Type.CREDIT, command.id, Stream.STDIN, credit)
            elif command.ended:
                return Exit(ExitKind.OK)
            else:
                await self.wait(command)

    async def do_env(self, command: Running, _arguments: list[str]) -> Exit:
        await self.write(command, "".join(f"{line}\n" for line in command.exec.env).encode())
        return Exit(ExitKind.OK)

    async def do_fail(self, _command: Running, arguments: list[str]) -> Exit:
        return Exit(ExitKind.OK, int(arguments[0]))

    async def do_sleep(self, command: Running, _arguments: list[str]) -> Exit:
        if command.exec.timeout_ms:
            with trio.move_on_after(command.exec.timeout_ms / 1000):
                while True:
                    await self.wait(command)
            return Exit(ExitKind.TIMEOUT, -110, "timed out")
        await self.write(command, b"sleeping\n")
        while True:
            await self.wait(command)

    async def do_flood(self, command: Running, arguments: list[str]) -> Exit:
        left = int(arguments[0])
        while left:
            size = min(left, 65536)
            await self.write(command, b"x" * size)
            left -= size
        return Exit(ExitKind.OK)

    async def do_errors(self, command: Running, arguments: list[str]) -> Exit:
        await self.write(command, b"out\n")
        await self.write(command, " ".join(arguments).encode(), Stream.STDERR)
        await self.send(Type.DATA, command.id, Stream.STDERR)
        return Exit(ExitKind.OK, 3)

    async def do_size(self, command: Running, _arguments: list[str]) -> Exit:
        first = command.size
        await self.write(command, f"{first >> 16}x{first & 0xFFFF}\n".encode())
        while command.size == first:
            await self.wait(command)
        await self.write(command, f"{command.size >> 16}x{command.size & 0xFFFF}\n".encode())
        return Exit(ExitKind.OK)

    async def do_console(self, command: Running, arguments: list[str]) -> Exit:
        """Wait until the console's terminal has that size; print how often one was told."""
        want = [tuple(int(number) for number in text.split("x")) for text in arguments]
        while want and self.consoles[-1:] != want:
            await self.wait(command)
        await self.write(command, f"{len(self.consoles)}\n".encode())
        return Exit(ExitKind.OK)

    async def do_fault(self, _command: Running, _arguments: list[str]) -> Exit:
        return self.fault_at(BASE + 0x10)

    async def do_log(self, _command: Running, arguments: list[str]) -> Exit:
        await self.send(Type.LOG, 0, 4, " ".join(arguments).encode())
        return Exit(ExitKind.OK)

    async def do_bad(self, _command: Running, _arguments: list[str]) -> Exit:
        await self.send(Type.DATA, 4_000_000, Stream.STDOUT, b"for nobody")
        return Exit(ExitKind.OK)

    async def do_forget(self, _command: Running, _arguments: list[str]) -> Exit:
        self.resident.clear()  # without GONE: the host believes they are there
        return Exit(ExitKind.OK)

    async def do_symbols(self, command: Running, arguments: list[str]) -> Exit:
        query = frames.SymbolQuery(bytes(32), tuple(arguments))
        await self.send(Type.SYMQ, 77, len(arguments), query.encode())
        while 77 not in self.symbols:
            await self.wait(command)
        for reply in self.symbols.pop(77):
            await self.write(command, f"{reply.address:#x} {reply.size} {reply.type}\n".encode())
        return Exit(ExitKind.OK)

    async def do_mem(self, command: Running, _arguments: list[str]) -> Exit:
        if "amnesia" in self.words:
            while True:
                await self.wait(command)
        text = b"heap          64384 KiB, 1990656 bytes used, 62440 KiB free\nimage  4 KiB\n"
        await self.write(command, text)
        return Exit(ExitKind.OK)

    async def do_secretly(self, _command: Running, arguments: list[str]) -> Exit:
        self.machine.paused = arguments == [
            "stop"
        ]  # as if somebody had it paused, and no event is sent
        return Exit(ExitKind.OK)

    async def do_kill(self, _command: Running, _arguments: list[str]) -> Exit:
        await self.serial(b"got SIGTERM\n")
        if "stubborn" not in self.words:
            self.power_off()
        return Exit(ExitKind.OK)


class Machine:
    """QEMU: sockets, monitor, serial port, and the guest."""

    def __init__(self, argv: list[str]) -> None:
        self.paths = {
            match[1]: match[2].replace(",,", ",")
            for word in argv
            if (match := re.match(r"socket,id=(\w+),path=((?:[^,]|,,)+),server=on", word))
        }
        append = argv[argv.index("-append") + 1] if "-append" in argv else ""
        self.words = {word.partition("=")[0]: word.partition("=")[2] for word in append.split()}
        self.running = trio.Event()
        self.paused = False
        self.ended = trio.Event()
        self.monitor: trio.SocketStream | None = None
        self.serial_stream: trio.SocketStream | None = None
        self.guest = Guest(self.words, self.serial, self.power_off)
        self.guest.machine = self
        self.reason = ""

    async def run(self) -> int:
        if "die" in self.words:
            print("fake-qemu: could not open a thing", file=sys.stderr)
            return 1
        async with trio.open_nursery() as nursery:
            for name, path in self.paths.items():
                sock = trio.socket.socket(trio.socket.AF_UNIX)
                await sock.bind(path)
                sock.listen(1)
                nursery.start_soon(self.listen, name, trio.SocketListener(sock))
            nursery.start_soon(self.boot)
            await self.ended.wait()
            if self.reason:
                event = {"guest": self.reason.startswith("guest"), "reason": self.reason}
                await self.event("SHUTDOWN", event)
            nursery.cancel_scope.cancel()
        return 0

    async def boot(self) -> None:
        await self.running.wait()
        left = int(self.words.get("chatty", 0))
        await self.serial(b"booting\n" + b"z" * (left % 65536))
        for _ in range(left // 65536):
            await self.serial(b"z" * 65536)
        if left > 65536:
            await self.serial(b"\n.")
        if "poweroff" in self.words:
            await trio.sleep(0.05)
            self.power_off()
        if "crash" in self.words:
            os.kill(os.getpid(), signal.SIGKILL)

    def power_off(self, reason: str = "guest-shutdown") -> None:
        self.reason = reason
        self.ended.set()

    async def serial(self, data: bytes) -> None:
        if self.serial_stream is not None:
            try:
                await self.serial_stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.serial_stream = None

    async def listen(self, name: str, listener: trio.SocketListener) -> None:
        while True:
            stream = await listener.accept()
            with contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, ExceptionGroup
            ):
                await getattr(self, f"on_{name}")(stream)
            await trio.aclose_forcefully(stream)

    async def on_serial(self, stream: trio.SocketStream) -> None:
        self.serial_stream = stream
        while await stream.receive_some(4096):
            pass
        self.serial_stream = None

    async def on_channel(self, stream: trio.SocketStream) -> None:
        await self.running.wait()
        while "noise" in self.words:
            await stream.send_all(os.urandom(4096) + frames.SYNC_MAGIC + b"\x75\x49\x02")
        await self.guest.serve(stream)

    async def on_console(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"fake> ")
        while data := await stream.receive_some(4096):
            await stream.send_all(data.upper())

    async def on_fs(self, stream: trio.SocketStream) -> None:
        while "noise" in self.words:
            await stream.send_all(os.urandom(4096))
        while await stream.receive_some(4096):
            pass

    async def event(self, name: str, data: dict[str, Any]) -> None:
        if self.monitor is not None:
            stamp = {"seconds": 1, "microseconds": 0}
            line = json.dumps({"event": name, "data": data, "timestamp": stamp})
            await self.monitor.send_all(line.encode() + b"\r\n")

    async def on_qmp(self, stream: trio.SocketStream) -> None:
        self.monitor = stream
        version = {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}
        greeting = {"QMP": {"version": version, "capabilities": ["oob"]}}
        await stream.send_all(json.dumps(greeting).encode() + b"\r\n")
        text, decoder = "", json.JSONDecoder()
        while piece := await stream.receive_some(4096):
            text += piece.decode()
            while text := text.lstrip():
                try:
                    request, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                answer = await self.execute(request.get("execute"))
                reply = json.dumps({"return": answer, "id": request.get("id")})
                await stream.send_all(reply.encode() + b"\r\n")
                if request.get("execute") == "quit":
                    self.power_off("host-qmp-quit")
        self.monitor = None

    async def execute(self, command: str) -> dict[str, Any]:
        if command == "query-status":
            state = "paused" if self.paused else "running" if self.running.is_set() else "prelaunch"
            return {"status": state, "running": state == "running", "singlestep": False}
        if command == "cont":
            self.running.set()
            self.paused = False
            await self.event("RESUME", {})
        elif command == "stop":
            self.paused = True
            await self.event("STOP", {})
        elif command == "system_reset":
            self.guest.nonce = None
            self.guest.booted = 0
            await self.event("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
        return {}


if __name__ == "__main__":
    sys.exit(trio.run(Machine(sys.argv[1:]).run))
