# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's monitor for trio: `qemu.qmp`, which is asyncio's, behind trio-asyncio.

Every request has a deadline, because a hung QEMU answers nothing. QEMU's events go to a callback, bounded by QEMU
itself (it sends those that a guest can cause at most once a second each) and by the event ring they end in.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
import trio_asyncio
from qemu.qmp import QMPClient, QMPError

from uiod.errors import ExitStatus, UiodError

_ANSWER_S = 5.0


class MonitorError(UiodError):
    """The monitor refused, or did not answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=ExitStatus.QEMU)


class Monitor:
    """A connected monitor."""

    def __init__(self, client: QMPClient, loop: trio_asyncio.BaseTrioEventLoop) -> None:
        self._client = client
        self._loop = loop  # named with each call: callers are tasks of any parentage

    async def _call(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        try:
            with trio.fail_after(_ANSWER_S):
                return await trio_asyncio.aio_as_trio(function, loop=self._loop)(*arguments)
        except trio.TooSlowError:
            raise MonitorError(f"QEMU's monitor did not answer within {_ANSWER_S:.0f} s") from None
        except (QMPError, OSError, EOFError) as error:
            raise MonitorError(f"QEMU's monitor: {error}") from None

    async def execute(self, command: str, **arguments: Any) -> Any:
        """One command. :raise MonitorError: refused, or no answer."""
        return await self._call(self._client.execute, command, arguments or None)

    async def status(self) -> str:
        """`running`, `paused`, `prelaunch`, `shutdown`, …"""
        return str((await self.execute("query-status"))["status"])

    async def reset(self) -> None:
        """Reset the machine. Resets by the guest are allowed from now on, until `reset_is_the_end`."""
        await self.execute("set-action", reboot="reset")
        await self.execute("system_reset")

    async def reset_is_the_end(self) -> None:
        """A guest that resets itself ends QEMU again, as `-no-reboot` says."""
        await self.execute("set-action", reboot="shutdown")

    async def _events(self, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        while True:
            message = await trio_asyncio.aio_as_trio(self._client.events.get, loop=self._loop)()
            data = message.get("data", {})
            on_event(str(message["event"]), data if isinstance(data, dict) else {})


@contextlib.asynccontextmanager
async def connect(
    path: Path, on_event: Callable[[str, dict[str, Any]], None]
) -> AsyncIterator[Monitor]:
    """Connect to a monitor that listens. :raise MonitorError: nobody answers there."""
    async with trio_asyncio.open_loop() as loop:
        client = QMPClient("uiod")
        monitor = Monitor(client, loop)
        await monitor._call(client.connect, str(path))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(monitor._events, on_event)
                yield monitor
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(MonitorError):
                await monitor._call(client.disconnect)
