# SPDX-License-Identifier: BSD-3-Clause
"""What happened to the VM, the last few thousand things; and `Pulse`, by which tasks tell each other of changes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import trio

from uiod.apitypes import Event

log = logging.getLogger("uiod")

_MOST = 2000
_TEXT_MOST = 2000  # characters of one value
_QUIET = ("exec.", "attach.", "qmp.")  # kinds that are for listeners, not for the daemon's own log


class Pulse:
    """Wakes all who wait now; who comes later waits for the next."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        """Wake them."""
        if self._event.statistics().tasks_waiting:
            event, self._event = self._event, trio.Event()
            event.set()

    async def wait(self) -> None:
        """Until the next `fire`."""
        await self._event.wait()


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _TEXT_MOST else value[:_TEXT_MOST] + "…"
    if isinstance(value, dict):
        return {str(key)[:64]: _bounded(item) for key, item in list(value.items())[:32]}
    if isinstance(value, (list, tuple)):
        return [_bounded(item) for item in value[:64]]
    return value


class Events:
    """The ring. Each event has a number, so that a follower misses none that is still there."""

    def __init__(self) -> None:
        self.changed = Pulse()
        self.count = 0  # ever
        self._ring: deque[Event] = deque(maxlen=_MOST)

    def add(self, kind: str, **data: Any) -> None:
        """Record one, now. Values from the guest are cut to a bounded size."""
        event = Event(time=time.time(), kind=kind, data=_bounded(data))
        self._ring.append(event)
        self.count += 1
        self.changed.fire()
        level = logging.DEBUG if kind.startswith(_QUIET) else logging.INFO
        log.log(level, "%s%s", kind, "".join(f" {k}={v}" for k, v in event.data.items()))

    def since(self, number: int, when: float = 0.0) -> Iterator[Event]:
        """Those from a number on that happened at that Unix time or later."""
        skip = max(0, len(self._ring) - (self.count - number))
        for i, event in enumerate(list(self._ring)):
            if i >= skip and event.time >= when:
                yield event
