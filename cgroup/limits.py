# SPDX-License-Identifier: BSD-3-Clause
"""Limits of a group, in the units of a configuration; the controllers translate them for their kernel interface.

Values are checked here once, so that a wrong one is an error with the key's name and never a file half written.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from cgroup.errors import InvalidLimit

MEMORY_MIN = 4 << 20  # below this not even the launcher fits
MEMORY_MAX = (1 << 63) - mmap.PAGESIZE
CPU_MIN = (
    0.01  # the kernel's least quota is 1 ms; at a period of 100 ms that is a hundredth of a core
)
CPU_MAX = 8192.0
WEIGHT_MIN, WEIGHT_MAX = 1, 10_000
PIDS_MAX = 1 << 22  # the kernel's own limit on process ids

_DEVICE = re.compile(r"(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,6})")


@dataclass(frozen=True, kw_only=True)
class IoLimit:
    """The most one block device may be used, per second; `None` is no limit."""

    read_bytes: int | None = None
    write_bytes: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None

    def __post_init__(self) -> None:
        for key in ("read_bytes", "write_bytes", "read_ops", "write_ops"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, _whole(f"io.{key}", value, 1, (1 << 63) - 1))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a group may use; `None` is no limit.

    :param memory: bytes, rounded down to pages; above it the group's own OOM killer acts
    :param memory_high: bytes above which the group is slowed down and reclaimed from
    :param cpu: cores, e.g. 1.5
    :param cpu_weight: share of a busy machine, 1 to 10000, where 100 is everybody's
    :param pids: processes and threads
    :param io: per block device (`"8:0"`, or the path of a device or of a file on it)
    """

    memory: int | None = None
    memory_high: int | None = None
    cpu: float | None = None
    cpu_weight: int | None = None
    pids: int | None = None
    io: Mapping[str, IoLimit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("memory", "memory_high"):
            value = getattr(self, key)
            if value is not None:
                value = _whole(key, value, MEMORY_MIN, None)
                value = min(value, MEMORY_MAX) // mmap.PAGESIZE * mmap.PAGESIZE
                object.__setattr__(self, key, value)
        if self.cpu is not None:
            if isinstance(self.cpu, bool) or not isinstance(self.cpu, int | float):
                raise InvalidLimit(f"the limit cpu must be a number of cores, not {self.cpu!r}")
            if not math.isfinite(self.cpu) or not CPU_MIN <= self.cpu <= CPU_MAX:
                raise InvalidLimit(
                    f"the limit cpu must be between {CPU_MIN} and {CPU_MAX:.0f} cores, not {self.cpu}"
                )
        if self.cpu_weight is not None:
            weight = _whole("cpu_weight", self.cpu_weight, WEIGHT_MIN, WEIGHT_MAX)
            object.__setattr__(self, "cpu_weight", weight)
        if self.pids is not None:
            object.__setattr__(self, "pids", min(_whole("pids", self.pids, 1, None), PIDS_MAX))


def _whole(key: str, value: object, least: int, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidLimit(f"the limit {key} must be a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise InvalidLimit(f"the limit {key} must be {bounds}, not {value}")
    return value


def device_number(device: str) -> str:
    """`MAJOR:MINOR` of a device given as that, as a device's path, or as a file that lies on it."""
    if _DEVICE.fullmatch(device):
        return device
    try:
        status = os.stat(device)
    except OSError as error:
        raise InvalidLimit(f"no device for the limit io: {device}: {error.strerror}") from None
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    if os.major(number) == 0:
        raise InvalidLimit(f"{device} is not on a block device, so that io cannot be limited there")
    return f"{os.major(number)}:{os.minor(number)}"
