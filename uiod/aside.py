# SPDX-License-Identifier: BSD-3-Clause
"""Work that is rare and needs much memory or time, such as reading DWARF or checking overlays.

Done in a forked child, so that its memory goes with it and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_DEADLINE_S = 10.0
_RESULT_BYTES = 4 << 20
_at_once = trio.CapacityLimiter(2)


class Failed(Exception):
    """The child gave no result in time."""


def _child(write: int, work: Callable[[], object], deadline_s: float) -> None:
    # Nothing of trio may run here; whatever happens, this process ends here.
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(int(deadline_s) + 5)  # it ends even if its parent did
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(work()))
    finally:
        os._exit(0)


async def run(
    work: Callable[[], T], *, deadline_s: float = _DEADLINE_S, most: int = _RESULT_BYTES
) -> T:
    """What the function returns, which must be picklable; nothing else of what it does stays.

    :param most: bytes of the pickled result.
    :raise Failed: it raised, or took too long.
    """
    async with _at_once:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        try:
            pid = os.fork()
        except OSError as error:  # the cgroup allows no more processes, or memory is short
            os.close(read)
            os.close(write)
            raise Failed(error.strerror) from None
        if pid == 0:
            _child(write, work, deadline_s)
        os.close(write)
        try:
            with trio.fail_after(deadline_s):
                data = await _receive(read, most)
        except trio.TooSlowError:
            raise Failed(f"no result within {deadline_s:.0f} s") from None
        finally:
            os.close(read)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if not data:
        raise Failed("no result")
    result: T = pickle.loads(data)  # our own child's
    return result


async def _receive(read: int, most: int) -> bytes:
    data = bytearray()
    while len(data) <= most:
        await trio.lowlevel.wait_readable(read)
        piece = os.read(read, 65536)
        if not piece:
            return bytes(data)
        data += piece
    raise Failed("the result is too large")
