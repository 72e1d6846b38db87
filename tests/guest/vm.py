# SPDX-License-Identifier: BSD-3-Clause
"""VMs for guest-level tests: a kernel that contains libuio, overlays built and signed for it, and a uiod around it.

The kernel is the reference guest, or with KERNEL=/path (and KERNEL_DBG=/path where that one has no symbols) a prebuilt
one, such as Unikraft's, with an application like `count`. KERNEL_VM has further lines of its [vm], such as what another
machine than q35 wants.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import refguest_vm

from overlays.build import build
from overlays.keys import generate
from uiod.ctl import execstream
from uiod.run import Machine, Result

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "overlays" / "src"
OURS = HERE / "overlays"


def kernel(app: str = "count") -> tuple[Path, Path]:
    """The image to boot and the one with its symbols."""
    if given := os.environ.get("KERNEL"):
        if app != (there := os.environ.get("KERNEL_APP", "count")):
            pytest.skip(
                f"KERNEL has the application {there} (KERNEL_APP says so), this needs {app}"
            )
        return Path(given), Path(os.environ.get("KERNEL_DBG", given))
    image = refguest_vm.build(app, libuio=True)
    return image, image


def prepare(
    directory: Path,
    overlays: Iterable[Path | str] = (),
    *,
    app: str = "count",
    vm: Sequence[str] = (),
    more: str = "",
) -> Path:
    """A configuration in that directory, with those overlays (a source, or the name of a shipped or test one).

    :param vm: more lines of `[vm]`; :param more: more sections
    """
    image, symbols = kernel(app)
    private = directory / "keys" / "test.pem"
    private.parent.mkdir()
    generate(private)
    (directory / "bin").mkdir()
    (directory / "host").mkdir()
    for overlay in overlays:
        build_overlay(directory, overlay, symbols)
    lines = [
        "[vm]",
        f'kernel = "{image}"',
        f'symbols = "{symbols}"',
        'memory = "64M"',
        *os.environ.get("KERNEL_VM", "").splitlines(),
        *vm,
        "[uio]",
        'overlays = ["bin"]',
        'exchange = "host"',
        "[trust]",
        'keys = ["keys/test.pub.pem"]',
        more,
    ]
    config = directory / f"{app}.cfg"
    config.write_text("\n".join(lines) + "\n")
    return config


def build_overlay(directory: Path, overlay: Path | str, symbols: Path | None = None) -> Path:
    """Build one more overlay into the store of a prepared directory: there at once, without a restart."""
    source = Path(overlay)
    if not source.is_absolute():
        source = OURS / f"{overlay}.c"
        if not source.exists():
            source = SHIPPED / f"{overlay}.c"
    output = directory / "bin" / f"{source.stem}.uio"
    build(
        [source],
        output,
        kernel=symbols if symbols is not None else kernel()[1],
        key=directory / "keys" / "test.pem",
    )
    return output


@contextmanager
def machine(config: Path, timeout_s: float = 90.0) -> Iterator[Machine]:
    """That VM, running and ready; gone afterwards."""
    with Machine(config, timeout_s=timeout_s) as running:
        yield running


class Session:
    """A command that runs while the test does something else."""

    def __init__(self, guest: Machine, *argv: str, pull: bool = False) -> None:
        self.guest = guest
        self.argv = argv
        body = {"argv": list(argv), "stdin": True, "env": {}, "pull": pull}
        self._reply = guest.api.request(
            "POST", "/v1/exec", body, upgrade="uio-exec/1", timeout=guest.deadline.left("exec")
        )
        self._decoder = execstream.Decoder()
        self._first = self._reply.leftover()
        self._out = {execstream.STDOUT: bytearray(), execstream.STDERR: bytearray()}
        self._info: dict[str, Any] | None = None

    def signal(self, number: int) -> None:
        """As Ctrl-C (2) and such would."""
        self._reply.sock.sendall(execstream.signal(number))

    def line(self) -> str:
        """The next line of standard output."""
        out = self._out[execstream.STDOUT]
        while b"\n" not in out:
            assert self._info is None, (self._info, bytes(out))
            self._receive()
        text, _, rest = bytes(out).partition(b"\n")
        out[:] = rest
        return text.decode()

    def result(self) -> Result:
        """Its end, and the output that line() has not taken; its input ends."""
        if self._info is None:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._reply.sock.sendall(execstream.message(execstream.END_OF_STDIN))
        while self._info is None:
            self._receive()
        self._reply.__exit__(None, None, None)
        info = self._info
        return Result(
            list(self.argv),
            int(info["code"]) & 0xFF,
            str(info.get("kind", "")),
            str(info.get("message", "")),
            bytes(self._out[execstream.STDOUT]),
            bytes(self._out[execstream.STDERR]),
            info,
        )

    def _receive(self) -> None:
        data, self._first = self._first, b""
        if not data:
            self._reply.sock.settimeout(self.guest.deadline.left(f"the command {self.argv[0]}"))
            data = self._reply.sock.recv(65536)
            assert data, "the connection to uiod was lost"
        for kind, payload in self._decoder.feed(data):
            if kind == execstream.EXIT:
                self._info = json.loads(payload)
            else:
                self._out[kind] += payload
