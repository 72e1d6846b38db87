# SPDX-License-Identifier: BSD-3-Clause
"""Addresses of a guest put into words: symbols and source lines of its kernel and of the overlays in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from console.frames import FAULT_KINDS, REGISTERS, Exit, ExitKind, Fault
from uiod.apitypes import ExitInfo, FaultInfo

if TYPE_CHECKING:
    from overlays.kernel import Kernel
    from overlays.overlay import Overlay
    from uiod.images import Images

_EXIT_CODES = {
    ExitKind.NOT_FOUND: 127,
    ExitKind.REFUSED: 126,
    ExitKind.ERROR: 125,
    ExitKind.FAULT: 139,
    ExitKind.TIMEOUT: 124,
    ExitKind.NEED_IMAGE: 125,
}
_NAMES = {kind: kind.name.lower().replace("_", "-") for kind in ExitKind}
_NEAR = 1 << 20  # how far behind a symbol an address still belongs to it
_BACKTRACE = 32


class Words:
    """For one kernel, its slide, and the overlays that are resident."""

    def __init__(
        self, images: Images, slide: int, overlay: Callable[[bytes], Overlay | None]
    ) -> None:
        self._kernel: Kernel | None = images.kernel
        self._slide = slide
        self._overlay = overlay
        # The guest may have dropped the image of an overlay that it stopped; the newest to have been there counts.
        former = dict(reversed(images.former.items()))
        self._places = [
            (place.base, place.size, place.name, digest)
            for digest, place in [*images.resident.items(), *former.items()]
        ]

    def name(self, address: int) -> str:
        """`symbol+0x12`, with the overlay's name before it; the bare number where nothing is known."""
        return self._find(address)[0]

    def source(self, address: int) -> str | None:
        """`file:line`."""
        return self._find(address)[1]

    def frame(self, address: int) -> str:
        """A line of a backtrace. The address is where a call returns to, so the call is before it."""
        name, source = self._find(address - 1 if address else 0)
        return f"{address:#x} {name}" + (f" ({source})" if source else "")

    def _find(self, address: int) -> tuple[str, str | None]:
        for base, size, name, digest in self._places:
            if base <= address < base + size:
                return _in_overlay(address - base, name, self._overlay(digest))
        if self._kernel is not None:
            linked = address - self._slide
            found = self._kernel.nearest(linked)
            if found is not None and found[1] < max(found[0].size, _NEAR):
                return f"{found[0].name}+{found[1]:#x}", self._kernel.source(linked)
        return f"{address:#x}", None

    def fault(self, fault: Fault, name: str, digest: str) -> FaultInfo:
        """A fault record for people."""
        return FaultInfo(
            kind=FAULT_KINDS.get(fault.kind, f"kind {fault.kind}"),
            ip=fault.ip,
            address=fault.address,
            sp=fault.sp,
            error_code=fault.error_code,
            trap=fault.trap,
            where=self.name(fault.ip),
            source=self.source(fault.ip),
            what=self.name(fault.address),
            registers=dict(zip(REGISTERS, fault.registers, strict=False)),
            backtrace=[self.frame(address) for address in fault.backtrace[:_BACKTRACE]],
            overlay=name,
            hash=digest,
        )


def _in_overlay(offset: int, name: str, overlay: Overlay | None) -> tuple[str, str | None]:
    plain = f"{name}+{offset:#x}"
    if overlay is None:
        return plain, None
    from overlays.lines import ObjectLines  # noqa: PLC0415 - only for faults
    from overlays.link import layout  # noqa: PLC0415

    places = layout(overlay.object).sections
    held = [(start, index) for index, start in places.items() if start <= offset]
    if not held:
        return plain, None
    start, section = max(held)
    within = offset - start
    if within >= max(1, overlay.object.sections[section].size):
        return plain, None
    symbols = [
        (symbol.value, symbol.name)
        for symbol in overlay.object.symbols
        if symbol.shndx == section
        and symbol.value <= within
        and symbol.name
        and symbol.type in (0, 1, 2)
    ]
    source = ObjectLines(overlay.elf).find(section, within)
    if not symbols:
        return plain, source
    value, symbol_name = max(symbols)
    return f"{name}:{symbol_name}+{within - value:#x}", source


def exit_info(exit: Exit, fault: FaultInfo | None, signal: int = 0) -> ExitInfo:
    """How a command ended, for the API. :param signal: what it was cancelled with."""
    if exit.kind is ExitKind.OK:
        code = exit.status & 0xFF
    elif exit.kind is ExitKind.CANCELLED:
        code = 128 + (signal or 2)
    else:
        code = _EXIT_CODES[exit.kind]
    return ExitInfo(
        kind=_NAMES[exit.kind],
        code=code,
        status=exit.status,
        message=exit.message,
        run_ns=exit.run_ns,
        fault=fault,
    )
