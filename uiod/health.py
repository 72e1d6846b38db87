# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with a VM without anybody saying so: QEMU hangs or was paused by others, memory runs out."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import trio

from uiod import qmp
from uiod.qemu import Process

if TYPE_CHECKING:
    import cgroup
    from uiod.supervisor import Supervisor

_HEARTBEAT_S = 0.5
_HUNG_S = 1.0
_QEMU_LOG_BYTES = 256 * 1024
_TICK = os.sysconf("SC_CLK_TCK")
_LOOKS = 5  # for a kill that is counted only after it was told of
_ODD = {
    "internal-error": "QEMU cannot go on: its virtual CPU failed (see uiod inspect for the accelerator)",
    "io-error": "QEMU has paused the VM because of an I/O error",
    "guest-panicked": "the guest has panicked",
}


def uptime_s(process: Process | None) -> float:
    """How long QEMU has run, whatever was done to the clock meanwhile."""
    if process is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / _TICK)


class Health:
    """What is noticed here is an event, and a warning as long as it lasts."""

    def __init__(self, vm: Supervisor) -> None:
        self.hung = False
        self.odd = ""
        self.oom_kills = 0  # in the VM's cgroup, since this uiod is there
        self._vm = vm

    def warnings(self) -> list[str]:
        """What is wrong now."""
        found = []
        if self.hung:
            found.append("QEMU's monitor does not answer: it hangs, or is stopped by a signal")
        if self.odd:
            found.append(self.odd)
        if self.oom_kills:
            found.append(
                f"the VM's cgroup ran out of memory and {self.oom_kills} of its processes were killed; "
                "raise [limits] memory"
            )
        return found

    def begin(self) -> None:
        """Another QEMU is there."""
        self.hung, self.odd = False, ""

    async def heartbeat(self, ended: trio.Event) -> None:
        """Ask QEMU how it is twice a second, until it has ended; keep its own log bounded."""
        vm = self._vm
        while not ended.is_set():
            await trio.sleep(_HEARTBEAT_S)
            monitor, status, before = vm.monitor, "", vm.state
            if monitor is None:
                return
            with trio.move_on_after(_HUNG_S), contextlib.suppress(qmp.MonitorError):
                status = await monitor.status()
            # A QEMU that is on its way out owes no answers; one whose state changed meanwhile has not told of the new.
            if vm.state not in ("running", "paused") or vm.state != before:
                continue
            if bool(status) == self.hung:
                self.hung = not status
                vm.events.add("qemu.answers" if status else "qemu.hung")
            self._compare(status)
            with contextlib.suppress(OSError):
                if vm.run_dir.qemu_log.stat().st_size > _QEMU_LOG_BYTES:
                    os.truncate(vm.run_dir.qemu_log, 0)

    def _compare(self, status: str) -> None:
        # QEMU tells of these by events, too; but not to a uiod that was not connected then.
        if status == "paused" and self._vm.state == "running":
            self._vm.set_state("paused", "paused through QEMU's monitor")
        elif status == "running" and self._vm.state == "paused":
            self._vm.set_state("running")
        odd = _ODD.get(status, "")
        if odd != self.odd:
            self.odd = odd
            self._vm.events.add("qemu.status", status=status)

    async def memory(self, group: cgroup.Group) -> None:
        """Tell of processes that the kernel kills because the group's limit is reached."""
        from cgroup import CgroupError  # noqa: PLC0415 - there is a group, so the package is loaded

        try:
            fd = group.oom_fd()
        except (CgroupError, OSError):
            return
        try:
            seen = group.oom_kills()
            while True:
                await trio.lowlevel.wait_readable(fd)
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, 4096)
                for _ in range(_LOOKS):
                    kills = group.oom_kills()
                    if kills > seen:
                        self.oom_kills += kills - seen
                        self._vm.events.add("memory.oom", kills=kills - seen)
                        seen = kills
                        break
                    await trio.sleep(0.1)
        except (CgroupError, OSError):
            return
        finally:
            os.close(fd)
