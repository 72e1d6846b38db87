# SPDX-License-Identifier: BSD-3-Clause
"""A running guest as a debugger sees it: its kernel's ELF with symbols, where that was loaded, and its memory."""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

from overlays.errors import KernelError
from overlays.kernel import Kernel
from uiod.ctl.client import query
from uiod.ctl.errors import CtlError
from uiod.ctl.transfer import OverApi

_HEAD = struct.Struct("<QQ")
_ARGUMENTS = 100  # a command has at most 128
_TOTAL_MAX = 64 << 20


class Debuggee:
    """:param symbols: the kernel's ELF with symbols; None: the one that the VM's configuration names."""

    def __init__(self, vm: str, symbols: Path | None = None) -> None:
        self._guest = OverApi(vm)
        info = self._guest.api.get("/v1/vm")
        hello = info.get("hello")
        if not hello:
            raise CtlError(f"the guest of {vm} is not ready", f"uioctl wait {vm}")
        self.path = symbols or _symbols_of(info["config"], info["kernel"])
        try:
            self.kernel = Kernel.open(self.path)
        except KernelError as error:
            raise CtlError(error.message, error.hint) from None
        running, ours = hello["build_id"], self.kernel.build_id.hex()
        if running != ours:
            raise CtlError(
                f"the guest runs a kernel with build-id {running or 'none'}, "
                f"but {self.path} has {ours or 'none'}",
                "name the right file with --symbols",
            )

    @cached_property
    def slide(self) -> int:
        """Run-time minus link-time addresses."""
        for symbol in self.kernel.symbols():
            if symbol.kind == "function" and not symbol.absolute:
                found = self._guest.api.get("/v1/symbol" + query(name=symbol.name))
                return int(found["address"]) - symbol.address
        return 0

    def run(self, *argv: str) -> bytes:
        """The output of an overlay. :raise CtlError: it failed"""
        out = bytearray()

        def keep(piece: bytes) -> None:
            if len(out) + len(piece) > _TOTAL_MAX:
                raise CtlError(f"{argv[0]} answers with more than {_TOTAL_MAX >> 20} MiB")
            out.extend(piece)

        code, said = self._guest.run(list(argv), None, keep)
        if code == 127:
            raise CtlError(
                f"the VM has no overlay {argv[0]}", "put the shipped overlays into [uio] overlays"
            )
        if code:
            raise CtlError(said.strip() or f"{argv[0]} ended with status {code}")
        return bytes(out)

    def read(self, wanted: list[tuple[str, int]]) -> list[tuple[int, bytes]]:
        """Address and bytes of each path (docs: `peek -r`) and size; fewer bytes where memory ends."""
        found = []
        for start in range(0, len(wanted), _ARGUMENTS):
            part = wanted[start : start + _ARGUMENTS]
            data = self.run("peek", "-r", *(f"{path}:{size}" for path, size in part))
            at = 0
            for _, size in part:
                if at + _HEAD.size > len(data):
                    raise CtlError("the guest's answer is cut off")
                address, n = _HEAD.unpack_from(data, at)
                at += _HEAD.size
                if n > size or at + n > len(data):
                    raise CtlError("the guest's answer makes no sense")
                found.append((address, data[at : at + n]))
                at += n
        return found

    def word(self, address: int) -> str:
        """`name+0x12` of a run-time address of the kernel; empty if it is none."""
        near = self.kernel.nearest(address - self.slide)
        if near is None or near[1] > max(near[0].size, 0x10000 if not near[0].size else 0):
            return ""
        return near[0].name + (f"+{near[1]:#x}" if near[1] else "")


def _symbols_of(config: str, kernel: str) -> Path:
    from uiod.config import ConfigError, load  # noqa: PLC0415 (slow to import)

    try:
        return load(Path(config)).symbols
    except (ConfigError, OSError):
        return Path(kernel)
