# SPDX-License-Identifier: BSD-3-Clause
"""The guest's own memory, asked of its builtin `mem` when somebody wants to know, and remembered for a while."""

from __future__ import annotations

import re

import trio

from console.frames import Exec, Exit, Stream
from uiod.guest import Guest
from uiod.link import LinkDown

_HEAP = re.compile(rb"^heap +(\d+) KiB,.* (\d+) KiB free$", re.MULTILINE)
_FRESH_S = 2.0
_ANSWER_S = 0.5
_ANSWER_BYTES = 4096

Memory = tuple[int, int] | tuple[None, None]  # bytes in all, bytes free


class GuestMemory:
    """What the guest said last; asked again when that is too old."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._known: Memory = (None, None)
        self._when = -_FRESH_S
        self._asking = trio.Lock()

    async def read(self) -> Memory:
        """Bytes in all and free; (None, None) where there is no way to know."""
        guest = self._guest
        if guest.hello is None or "mem" not in guest.hello.builtins:
            self._known = (None, None)
        elif not guest.link.paused:
            async with self._asking:
                if trio.current_time() - self._when >= _FRESH_S:
                    self._known = await self._ask()
                    self._when = trio.current_time()
        return self._known

    async def _ask(self) -> Memory:
        # Not through Guest.exec: it is nobody's command, and counts as none.
        wanted = Exec(
            argv=("mem",),
            timeout_ms=int(1000 * _ANSWER_S),
            stdout_credit=_ANSWER_BYTES,
            stderr_credit=_ANSWER_BYTES,
        )
        said = b""
        try:
            with trio.move_on_after(_ANSWER_S):
                command = await self._guest.link.start(wanted, 0, None, False)
                try:
                    while not isinstance(got := await command.receive(), Exit):
                        if got[0] is Stream.STDOUT:
                            said += got[1]  # at most the credit
                finally:
                    command.abandon()
        except (LinkDown, OSError, ValueError):
            return (None, None)
        match = _HEAP.search(said)
        return (int(match[1]) << 10, int(match[2]) << 10) if match else (None, None)
