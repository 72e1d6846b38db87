# SPDX-License-Identifier: BSD-3-Clause
"""cgroup v1: each controller's limits and figures through its own files.

cgroupspy's controllers have the files; here they learn `apply` and `read`, which `Group` asks of every controller.
"""

from __future__ import annotations

import os
from typing import Any

from cgroupspy.contenttypes import DeviceThrottle
from cgroupspy.controllers import (
    BlkIOController,
    Controller,
    CpuAcctController,
    CpuController,
    MemoryController,
)
from cgroupspy.interfaces import IntegerFile, TypedFile

from cgroup.errors import CgroupError
from cgroup.limits import Limits, device_number
from cgroup.nodes import ErrorsInWords, KeyedFile, MaxFile, TextFile
from cgroup.usage import Usage

PERIOD_USEC = 100_000
_UNLIMITED = 1 << 62  # v1 writes "no limit" as the largest page count


class Memory(ErrorsInWords, MemoryController):
    """memory.*"""

    LIMITS = ("memory", "memory_high")
    oom_control = KeyedFile("memory.oom_control")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "memory" in changed:
            self.limit_in_bytes = limits.memory
        if "memory_high" in changed:
            self.soft_limit_in_bytes = limits.memory_high

    def read(self, usage: Usage) -> None:
        usage.memory_bytes = self.usage_in_bytes
        usage.memory_peak = self.max_usage_in_bytes
        limit = self.limit_in_bytes
        usage.memory_limit = None if limit is None or limit >= _UNLIMITED else limit
        usage.oom_kills = self.oom_kills()

    def oom_kills(self) -> int:
        return int(self.oom_control.get("oom_kill", 0))

    def oom_fd(self) -> int:
        """A descriptor that becomes readable when the group runs out of memory."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(self.filepath(b"memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.set_property(b"cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except OSError as error:
            os.close(event)
            raise CgroupError(f"cannot watch memory of {self.node}: {error.strerror}") from error
        except CgroupError:
            os.close(event)
            raise
        return event


class Cpu(ErrorsInWords, CpuController):
    """cpu.*"""

    LIMITS = ("cpu", "cpu_weight")
    stat = KeyedFile("cpu.stat")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "cpu" in changed:
            if limits.cpu is not None:
                self.cfs_period_us = PERIOD_USEC
            self.cfs_quota_us = quota_usec(limits.cpu)
        if "cpu_weight" in changed:
            self.shares = shares(limits.cpu_weight)

    def read(self, usage: Usage) -> None:
        usage.throttled_usec = self.stat.get("throttled_time", 0) // 1000


class CpuAcct(ErrorsInWords, CpuAcctController):
    """cpuacct.*"""

    LIMITS = ()
    usage_ns = IntegerFile("cpuacct.usage")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        """Accounting has no limits."""

    def read(self, usage: Usage) -> None:
        usage.cpu_usec = self.usage_ns // 1000


class Pids(ErrorsInWords, Controller):
    """pids.*, which cgroupspy does not have; the files are v2's."""

    LIMITS = ("pids",)
    max: Any = MaxFile("pids.max")
    current = IntegerFile("pids.current")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "pids" in changed:
            self.max = limits.pids

    def read(self, usage: Usage) -> None:
        usage.pids = self.current
        usage.pids_limit = self.max


class BlkIO(ErrorsInWords, BlkIOController):
    """blkio.throttle.*"""

    LIMITS = ("io",)
    # cgroupspy 0.2.3 has these two names with a blank at their end.
    throttle_write_bps_device = TypedFile("blkio.throttle.write_bps_device", DeviceThrottle)
    throttle_write_iops_device = TypedFile("blkio.throttle.write_iops_device", DeviceThrottle)
    throttle_read_bps_device = TypedFile("blkio.throttle.read_bps_device", DeviceThrottle)
    throttle_read_iops_device = TypedFile("blkio.throttle.read_iops_device", DeviceThrottle)
    served = TextFile("blkio.throttle.io_service_bytes_recursive", readonly=True)

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "io" not in changed:
            return
        for device, limit in limits.io.items():
            major, minor = device_number(device).split(":")

            def throttle(
                value: int | None, major: str = major, minor: str = minor
            ) -> DeviceThrottle:
                return DeviceThrottle(value or 0, major, minor)  # 0 lifts the limit

            self.throttle_read_bps_device = throttle(limit.read_bytes)
            self.throttle_write_bps_device = throttle(limit.write_bytes)
            self.throttle_read_iops_device = throttle(limit.read_ops)
            self.throttle_write_iops_device = throttle(limit.write_ops)

    def read(self, usage: Usage) -> None:
        totals = {"Read": 0, "Write": 0}
        for line in self.served.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in totals:
                totals[words[1]] += int(words[2])
        usage.io_read_bytes, usage.io_write_bytes = totals["Read"], totals["Write"]


class Freezer(ErrorsInWords, Controller):
    """freezer.*"""

    LIMITS = ()
    state: Any = TextFile("freezer.state")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        """Nothing to limit."""

    def read(self, usage: Usage) -> None:
        """Nothing to count."""

    def freeze(self) -> None:
        self.state = "FROZEN"

    def thaw(self) -> None:
        self.state = "THAWED"


def quota_usec(cores: float | None) -> int:
    """The quota per period; -1 lifts it."""
    return -1 if cores is None else max(1000, round(cores * PERIOD_USEC))


def shares(weight: int | None) -> int:
    """v2's weight (100 is everybody's) as v1's shares (1024 is everybody's)."""
    return 1024 if weight is None else min(max(weight * 1024 // 100, 2), 262_144)


KINDS: dict[str, Any] = {
    "memory": Memory,
    "cpu": Cpu,
    "cpuacct": CpuAcct,
    "pids": Pids,
    "io": BlkIO,
    "freezer": Freezer,
}
