# SPDX-License-Identifier: BSD-3-Clause
"""The channel's link keeps time: an idle guest that answers is not silent, one that does not is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from uiod_fakeguest import Guest

from uiod import link as links
from uiod.link import Link


async def nothing(*_: Any) -> None:
    """In place of the serial port and the power switch."""


@pytest.mark.parametrize("answers", [True, False])
async def test_silence_is_what_nobody_answers(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(links, "_PING_S", 9.75)  # so that no look at the clock hits a limit exactly
    guest = Guest({}, nothing, nothing)
    if not answers:
        serve, seen = guest.frame, itertools.count()

        async def deaf(got: Any) -> None:
            if next(seen) < 1:  # it says HELLO, and then nothing any more
                await serve(got)

        guest.frame = deaf  # type: ignore[method-assign]
    told: list[str] = []
    path = tmp_path / "c"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    # Real sockets: time goes on only when they are idle for a moment.
    autojump_clock.autojump_threshold = 0.02
    link = Link(path, lambda kind, **_: told.append(kind), lambda *_: [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        sock, _ = await listener.accept()
        nursery.start_soon(guest.serve, trio.SocketStream(sock))
        while link.hello is None:
            await link.changed.wait()
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    assert ("guest.silent" in told) is not answers
