# SPDX-License-Identifier: BSD-3-Clause
"""Overlays on their way into a guest: found in the store, linked for a place in the guest's arena, remembered.

Knows which images are resident and where, gives out addresses in the part of the arena that is the host's to assign,
and keeps the images it has linked, so that sending one again costs no second linking.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from console.frames import Feature, Hello, Resident, SymbolReply
from overlays.callable import is_ungated

if TYPE_CHECKING:
    from overlays.kernel import Kernel
    from overlays.overlay import Overlay
    from uiod.shelf import Shelf

PAGE = 4096
_KEPT_BYTES = 1 << 20  # of linked images
_INLINE_BYTES = 128 * 1024  # larger overlays are linked in a thread, so that nobody waits for it
_FORMER = 32
_PLACES = 16  # tried, until the relocated bytes form no forbidden instruction
_KINDS = {"function": 1, "object": 2}
_UNGATED = 4


class NoRoom(Exception):
    """No gap in the host's part of the arena is large enough."""


@dataclass
class Place:
    """An image in the guest's memory: resident, or about to be."""

    base: int
    size: int
    name: str = ""
    uses: int = 0
    flags: int = 0


@dataclass
class Images:
    """What one VM's guest has, and can have, of overlays.

    :param kernel: what they are linked against; None: the kernel has no usable symbols.
    """

    kernel: Kernel | None
    store: Shelf | None
    require_domain: bool = False
    resident: dict[bytes, Place] = field(default_factory=dict)  # by hash
    former: dict[bytes, Place] = field(
        default_factory=dict
    )  # those gone last: a fault may be told of later
    _hello: Hello | None = None
    _linked: OrderedDict[tuple[bytes, bytes, int, int], bytes] = field(default_factory=OrderedDict)
    _linked_bytes: int = 0
    _last_base: dict[bytes, int] = field(default_factory=dict)

    def session(self, hello: Hello | None) -> None:
        """A session with the guest begins (or, None, ends): what is resident is to be learnt anew."""
        self._hello = hello
        self.resident.clear()
        self.former.clear()

    def learn(self, images: Iterable[Resident]) -> None:
        """What the guest says is resident."""
        self.resident = {
            image.hash: Place(image.base, image.size, image.name, image.uses, image.flags)
            for image in images
        }

    def gone(self, digest: bytes) -> None:
        """An image is no longer there."""
        place = self.resident.pop(digest, None)
        if place is not None:
            self.former.pop(digest, None)
            self.former[digest] = place
            while len(self.former) > _FORMER:
                del self.former[next(iter(self.former))]

    def mismatch(self) -> str | None:
        """Why nothing can be linked for the guest that runs, if so."""
        if self._hello is None:
            return "the guest is not ready"
        if self.kernel is None:
            return "the kernel has no symbols that overlays could be linked against"
        running, ours = self._hello.build_id, self.kernel.build_id
        if running != ours:
            return (
                f"the guest runs a kernel with build-id {running.hex() or 'none'}, "
                f"but {self.kernel.path} has {ours.hex() or 'none'}"
            )
        if self.require_domain and not self._hello.features & Feature.PKU:
            return "the configuration requires a protection domain, and this guest has no protection keys"
        return None

    async def image(self, overlay: Overlay) -> bytes:
        """An overlay linked for a place of its own, which is taken from now on until `gone`.

        :raise overlays.errors.LinkError: it does not fit the kernel. :raise NoRoom: the arena is full.
        """
        from overlays.errors import UnluckyPlace  # noqa: PLC0415 - only a VM that uses overlays pays for it
        from overlays.link import image_size  # noqa: PLC0415

        place = self.resident.get(overlay.hash)
        if place is not None:
            return await self._image_at(overlay, place)
        size = image_size(overlay)
        base = self._find(size, self._last_base.get(overlay.hash))
        for tries_left in reversed(range(_PLACES)):
            place = self.resident[overlay.hash] = Place(base, size, overlay.name)
            try:
                linked = await self._image_at(overlay, place)
            except UnluckyPlace:
                if not tries_left:
                    raise
                base = self._find(size, None, above=base + PAGE)
            else:
                self._last_base[overlay.hash] = base
                return linked
        raise AssertionError

    async def _image_at(self, overlay: Overlay, place: Place) -> bytes:
        # Gives the place up if the overlay cannot be linked there.
        from overlays.link import link  # noqa: PLC0415

        assert self._hello is not None and self.kernel is not None
        kernel, slide = self.kernel, self._hello.slide
        key = (overlay.hash, kernel.build_id, slide, place.base)
        if (linked := self._linked.get(key)) is not None:
            self._linked.move_to_end(key)
            return linked
        try:
            if len(overlay.data) <= _INLINE_BYTES:
                linked = link(overlay, kernel, slide=slide, base=place.base)
            else:
                base = place.base
                linked = await trio.to_thread.run_sync(
                    lambda: link(overlay, kernel, slide=slide, base=base)
                )
        except BaseException:
            self.gone(overlay.hash)
            raise
        self._keep(key, linked)
        return linked

    def _keep(self, key: tuple[bytes, bytes, int, int], linked: bytes) -> None:
        self._linked[key] = linked
        self._linked_bytes += len(linked)
        while self._linked_bytes > _KEPT_BYTES and len(self._linked) > 1:
            _, dropped = self._linked.popitem(last=False)
            self._linked_bytes -= len(dropped)
        while len(self._last_base) > 1024:
            del self._last_base[next(iter(self._last_base))]

    def _find(self, size: int, wish: int | None, above: int = 0) -> int:
        # First fit between what is there; the place it had before if that is free, because its image is kept for that.
        assert self._hello is not None
        start, end = self._hello.push_base, self._hello.push_base + self._hello.push_size
        start = max(start + -start % PAGE, above)
        taken = sorted((place.base, place.base + place.size) for place in self.resident.values())
        if (
            wish is not None
            and start <= wish
            and wish + size <= end
            and all(wish + size <= low or high <= wish for low, high in taken)
        ):
            return wish
        at = start
        for low, high in taken:
            if at + size <= low:
                break
            at = max(at, high + -high % PAGE)
        if at + size > end:
            raise NoRoom(f"no room for {size} bytes among {len(taken)} resident overlays")
        return at

    def idle(self) -> list[bytes]:
        """Resident images that may be unloaded to make room: those not running, least used first."""
        found = [
            (place.uses, digest)
            for digest, place in self.resident.items()
            if not place.flags & Resident.RUNNING
        ]
        return [digest for _, digest in sorted(found)]

    def resolve(self, names: tuple[str, ...]) -> list[SymbolReply]:
        """Run-time addresses of names that an overlay imports; 0 for those that are not there."""
        if self.mismatch() is not None:
            return [SymbolReply() for _ in names]
        assert self._hello is not None and self.kernel is not None
        replies = []
        for name in names:
            symbol = self.kernel.for_overlay(name)
            kind = _KINDS.get(symbol.kind, 0) if symbol is not None else 0
            if symbol is None or not kind or symbol.thread_local or symbol.indirect:
                replies.append(SymbolReply())
                continue
            address = symbol.address if symbol.absolute else symbol.address + self._hello.slide
            size = min(symbol.size, 0xFFFFFFFF)
            if symbol.kind == "function" and symbol.name == name and is_ungated(name, "none"):
                kind = _UNGATED
            replies.append(SymbolReply(address=address & (1 << 64) - 1, size=size, type=kind))
        return replies
