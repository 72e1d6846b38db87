# SPDX-License-Identifier: BSD-3-Clause
"""cgroup v2: the same controllers as `controllers_v1`, through the unified hierarchy's files."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from cgroupspy.controllers import Controller
from cgroupspy.interfaces import FlagFile, IntegerFile

from cgroup.controllers_v1 import PERIOD_USEC, quota_usec
from cgroup.errors import CgroupError
from cgroup.limits import IoLimit, Limits, device_number
from cgroup.nodes import ErrorsInWords, KeyedFile, MaxFile, TextFile, WordsFile
from cgroup.usage import Usage, parse_pressure

_PRESSURE = {"cpu": "cpu.pressure", "memory": "memory.pressure", "io": "io.pressure"}
_IN_MODIFY = 0x2


class Core(ErrorsInWords, Controller):
    """cgroup.* and the figures that are there without any controller."""

    LIMITS = ()
    available = WordsFile("cgroup.controllers", readonly=True)
    enabled = WordsFile("cgroup.subtree_control")
    frozen = FlagFile("cgroup.freeze")
    kill_all = FlagFile("cgroup.kill", writeonly=True)
    stat = KeyedFile("cpu.stat")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        """Nothing to limit."""

    def read(self, usage: Usage) -> None:
        if self.has("cpu.stat"):
            stat = self.stat
            usage.cpu_usec = stat.get("usage_usec", usage.cpu_usec)
            usage.throttled_usec = stat.get("throttled_usec", usage.throttled_usec)
        for resource, filename in _PRESSURE.items():
            try:
                usage.pressure[resource] = parse_pressure(self.get_property(filename.encode()))
            except CgroupError:
                continue  # a kernel without PSI, or with it switched off

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False

    def enable(self, controller: str) -> None:
        """Let the cgroups below this one use `controller`."""
        if controller not in self.enabled:
            self.set_property(b"cgroup.subtree_control", f"+{controller}")

    def disable_all(self) -> None:
        """Take all controllers back from the cgroups below, so that processes may be in this one."""
        for controller in self.enabled:
            self.set_property(b"cgroup.subtree_control", f"-{controller}")


class Memory(ErrorsInWords, Controller):
    """memory.*"""

    LIMITS = ("memory", "memory_high")
    max: Any = MaxFile("memory.max")
    high: Any = MaxFile("memory.high")
    current = IntegerFile("memory.current", readonly=True)
    peak = IntegerFile("memory.peak", readonly=True)
    events = KeyedFile("memory.events")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "memory_high" in changed:
            self.high = limits.memory_high
        if "memory" in changed:
            self.max = limits.memory

    def read(self, usage: Usage) -> None:
        usage.memory_bytes = self.current
        usage.memory_limit = self.max
        usage.memory_peak = self.peak if self.has("memory.peak") else None  # Linux 5.19
        usage.oom_kills = self.oom_kills()

    def oom_kills(self) -> int:
        return int(self.events.get("oom_kill", 0))

    def oom_fd(self) -> int:
        """A descriptor that becomes readable when a figure of memory.events changes."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        path = self.filepath(b"memory.events")
        if fd < 0 or libc.inotify_add_watch(fd, path.encode(), _IN_MODIFY) < 0:
            reason = os.strerror(ctypes.get_errno())
            if fd >= 0:
                os.close(fd)
            raise CgroupError(f"cannot watch {path}: {reason}")
        return fd


class Cpu(ErrorsInWords, Controller):
    """cpu.*"""

    LIMITS = ("cpu", "cpu_weight")
    max: Any = TextFile("cpu.max")
    weight = IntegerFile("cpu.weight")

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "cpu" in changed:
            quota = "max" if limits.cpu is None else str(quota_usec(limits.cpu))
            self.max = f"{quota} {PERIOD_USEC}"
        if "cpu_weight" in changed:
            self.weight = limits.cpu_weight or 100

    def read(self, usage: Usage) -> None:
        """`Core` reads cpu.stat."""


class Pids(ErrorsInWords, Controller):
    """pids.*"""

    LIMITS = ("pids",)
    max: Any = MaxFile("pids.max")
    current = IntegerFile("pids.current", readonly=True)

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "pids" in changed:
            self.max = limits.pids

    def read(self, usage: Usage) -> None:
        usage.pids = self.current
        usage.pids_limit = self.max


class Io(ErrorsInWords, Controller):
    """io.*"""

    LIMITS = ("io",)
    max: Any = TextFile("io.max")
    stat = TextFile("io.stat", readonly=True)

    def apply(self, limits: Limits, changed: set[str]) -> None:
        if "io" in changed:
            for device, limit in limits.io.items():
                self.max = io_max_line(device_number(device), limit)

    def read(self, usage: Usage) -> None:
        read = written = 0
        for line in self.stat.splitlines():
            for pair in line.split()[1:]:
                key, _, value = pair.partition("=")
                if key == "rbytes":
                    read += int(value)
                elif key == "wbytes":
                    written += int(value)
        usage.io_read_bytes, usage.io_write_bytes = read, written


def io_max_line(number: str, limit: IoLimit) -> str:
    """A line of io.max; what is not limited is said too, so that an older limit goes."""
    values = {
        "rbps": limit.read_bytes,
        "wbps": limit.write_bytes,
        "riops": limit.read_ops,
        "wiops": limit.write_ops,
    }
    return " ".join([number, *(f"{k}={'max' if v is None else v}" for k, v in values.items())])


KINDS: dict[str, Any] = {"memory": Memory, "cpu": Cpu, "pids": Pids, "io": Io}
