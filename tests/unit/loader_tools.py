# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of libuio's loader, faults and files share: compiled objects, the harness, the hosted guest.

The harness (loader/harness.c) is libuio's loader alone in a process that obeys lines. The hosted guest is all of libuio
as a process; here it gets a host: a 9P server on its uIO-fs port and answers to its questions for symbols.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hosted import client as channel

from ninep_server import Limits, LocalNode, Policy, SyntheticDirectory, serve_stream

TOP = Path(__file__).resolve().parents[2]
LIBUIO = TOP / "unikraft_patches" / "libuio"
CORE = LIBUIO / "core"
HARNESS = Path(__file__).parent / "loader" / "harness.c"
HARNESS_CORE = (
    *(
        "elf_file",
        "loader",
        "image",
        "overlay",
        "overlay_arena",
        "overlay_file",
        "fault",
        "fault_trap",
        "run",
        "gate",
        "callback",
        "domain",
        "domain_scan",
        "loader_entries",
        "probe",
    ),
    *("api", "api_heap", "api_libc", "api_stdio", "sha256"),
)
STRICT = ["-Wall", "-Wextra", "-Werror"]
# As overlays/build.py has them, but with the optimisation left open.
OVERLAY_FLAGS = [
    "-g", "-fno-pic", "-fno-pie", "-mno-red-zone", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none", "-fno-omit-frame-pointer", f"-I{TOP / 'overlays' / 'include'}",
]  # fmt: skip
(
    OK,
    NOT_FOUND,
    REFUSED,
    ERROR,
    FAULT,
    TIMEOUT,
    CANCELLED,
    NEED_IMAGE,
) = range(8)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a tool; its words are the failure's."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stderr}", pytrace=False)


def build_harness(directory: Path) -> Path:
    """The harness as a static program at fixed addresses, like a kernel."""
    program = directory / "harness"
    sources = [HARNESS, *(CORE / f"{name}.c" for name in HARNESS_CORE)]
    run(
        "gcc", "-std=gnu11", "-g", "-O1", "-static", "-no-pie", "-fno-pie", "-fno-omit-frame-pointer",
        "-fcf-protection=none", "-Wl,--build-id=sha1", *STRICT,
        f"-I{LIBUIO / 'include'}", "-iquote", CORE, *sources, "-o", program,
    )  # fmt: skip
    return program


class Harness:
    """A running harness: one line in, one object out."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __call__(self, *words: str | int | Path) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            pytest.fail(
                f"the harness died of {words}: status {self.process.returncode}", pytrace=False
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def state(self) -> dict[str, Any]:
        """Memory in use, once all that is unused has been unloaded."""
        return self("unload")

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()


def hosted_program() -> Path:
    """The hosted port, built if need be."""
    run("make", "-s", "-C", LIBUIO / "port" / "hosted")
    return TOP / "build" / "hosted" / "uio-hosted"


class Host(channel.Client):
    """A channel client that answers SYMQ from the hosted program's symbol table."""

    def __init__(self, path: Path, symbols: dict[str, tuple[int, int, int]]) -> None:
        self.symbols = symbols
        super().__init__(path)

    def receive(self) -> channel.Frame:
        while (f := super().receive()).type == channel.SYMQ:
            at, answer = 32, b""
            for _ in range(f.arg):
                (length,) = struct.unpack_from("<H", f.payload, at)
                name = f.payload[at + 2 : at + 2 + length].decode()
                at += 2 + length
                found = self.symbols.get(f"uio_libc_{name}") or self.symbols.get(name, (0, 0, 0))
                answer += struct.pack("<QIBxxx", *found)
            self.send(channel.SYMR, f.id, f.arg, answer)
        return f


def read_symbols(program: Path) -> dict[str, tuple[int, int, int]]:
    """Global symbols of a program: address, size, kind (1 function, 2 object)."""
    listing = subprocess.run(
        ["nm", "-S", "--defined-only", "--extern-only", program],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    out = {}
    for line in listing.splitlines():
        *numbers, kind, name = line.split()
        if (
            kind == "i"
        ):  # chosen at start-up by a resolver, like strcmp() of a static glibc: no address to give
            continue
        size = int(numbers[1], 16) if len(numbers) > 1 else 0
        out[name] = (int(numbers[0], 16), size, 1 if kind in "TtWw" else 2)
    return out


class Hosted:
    """A hosted guest with its host: files of `root` as uIO-fs, symbols."""

    def __init__(self, directory: Path, root: Path, program: Path | None = None) -> None:
        self.directory = directory
        self.root = root
        self.program = program or hosted_program()
        self.process = subprocess.Popen([self.program, directory], stderr=subprocess.DEVNULL)
        if not self._listens(directory / "fs.sock"):
            pytest.fail("the hosted guest does not listen")
        self.client = Host(directory / "channel.sock", read_symbols(self.program))
        self._stop: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread: threading.Thread | None = None
        self.serve()

    def _listens(self, path: Path) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return True
            time.sleep(0.01)  # there is nothing to wait on before it listens
        self.process.kill()
        self.process.wait()
        return False

    def serve(self) -> None:
        """Connect a 9P server."""
        ready = threading.Event()

        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            tree = SyntheticDirectory({
                "bin": LocalNode.root(self.root / "bin", Policy(readonly=True)),
                "host": LocalNode.root(self.root / "host", Policy()),
            })  # fmt: skip
            stream = await trio.open_unix_socket(str(self.directory / "fs.sock"))
            with trio.CancelScope() as self._stop:
                ready.set()
                await serve_stream(stream, tree, Limits())

        self._thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def unserve(self) -> None:
        """Let the 9P server vanish."""
        assert self._thread
        assert self._token
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._cancel)
        self._thread.join(10)

    def _cancel(self) -> None:
        if self._stop:
            self._stop.cancel()

    def run(self, *argv: str, **options: Any) -> channel.Exit:
        return self.client.run(*argv, **options)

    def close(self) -> None:
        self.unserve()
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


@contextlib.contextmanager
def hosted(directory: Path, program: Path | None = None) -> Iterator[Hosted]:
    """A hosted guest with /bin and /host in `directory`."""
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    (root / "host").mkdir()
    run_directory = directory / "run"
    run_directory.mkdir()
    guest = Hosted(run_directory, root, program)
    try:
        yield guest
    finally:
        guest.close()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def compile_c(source: Path, *flags: str, compiler: str = "gcc", name: str | None = None) -> Path:
    """An object as an overlay is built."""
    out = source.with_name(name or f"{source.stem}.o")
    run(compiler, "-std=c11", *OVERLAY_FLAGS, *flags, "-c", source, "-o", out)
    return out
