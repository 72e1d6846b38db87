# SPDX-License-Identifier: BSD-3-Clause
"""Figures of a VM: `Stats` for uioctl, and the text that Prometheus reads. Metrics are rows of a table."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ninep_server.stats import BUCKETS
from uiod.apitypes import Stats
from uiod.health import uptime_s

if TYPE_CHECKING:
    import cgroup
    from uiod.guestmem import Memory
    from uiod.supervisor import Supervisor

_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_STATES = ("starting", "running", "paused", "stopping", "stopped", "crashed")


def pss_bytes() -> int | None:
    """Our own memory, with a fair share of what others use too."""
    try:
        match = _PSS.search(Path("/proc/self/smaps_rollup").read_bytes())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def rss_bytes(pid: int) -> int | None:
    """What a process has in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def cpu_usec(pid: int) -> int | None:
    """What a process has used of the CPUs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000 // _TICK
    except (OSError, IndexError, ValueError):
        return None


def _usage(vm: Supervisor) -> cgroup.Usage | None:
    if vm.group is None:
        return None
    try:
        return vm.group.stats()
    except OSError:
        return None
    except Exception as error:
        from cgroup import CgroupError  # noqa: PLC0415 - the package is there, or there were no group

        if isinstance(error, CgroupError):
            return None
        raise


def collect(vm: Supervisor, guest_memory: Memory = (None, None)) -> Stats:
    """GET /v1/stats."""
    usage = _usage(vm)
    qemu_pid = vm.process.pid if vm.process else None
    cpu = usage.cpu_usec if usage is not None else None
    if cpu is None:
        parts = [cpu_usec(pid) for pid in (os.getpid(), qemu_pid) if pid is not None]
        cpu = sum(part for part in parts if part is not None)
    ninep = vm.guest.ninep
    return Stats(
        name=vm.config.name,
        time=time.time(),
        uptime_s=uptime_s(vm.process),
        cpu_usec=cpu,
        memory_bytes=usage.memory_bytes if usage else None,
        memory_limit=usage.memory_limit if usage else None,
        pids=usage.pids if usage else None,
        uiod_pss_bytes=pss_bytes(),
        qemu_rss_bytes=rss_bytes(qemu_pid) if qemu_pid is not None else None,
        guest_mem_total=guest_memory[0],
        guest_mem_free=guest_memory[1],
        ninep_ops=sum(ninep.ops.values()),
        ninep_read_bytes=ninep.read_bytes,
        ninep_write_bytes=ninep.write_bytes,
        execs=sum(vm.guest.results.values()),
        faults=vm.guest.results["fault"],
        overlays_loaded=len(vm.guest.images.resident),
    )


Sample = tuple[dict[str, str], float | None]


def _rows(vm: Supervisor, guest_memory: Memory) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    """(name, type, help, samples). A sample of None is left out."""
    stats = collect(vm, guest_memory)
    channel, ninep, results = vm.guest.link.channel, vm.guest.ninep, vm.guest.results

    yield (
        "uio_vm_state",
        "gauge",
        "1 for the state the VM is in.",
        (({"state": state}, float(vm.state == state)) for state in _STATES),
    )
    yield (
        "uio_vm_ready",
        "gauge",
        "1 when the guest has said HELLO.",
        [({}, float(vm.guest.hello is not None))],
    )
    yield "uio_vm_restarts_total", "counter", "Restarts by this daemon.", [({}, vm.restarts)]
    yield "uio_vm_uptime_seconds", "gauge", "Since QEMU started.", [({}, stats.uptime_s)]
    yield (
        "uio_cpu_seconds_total",
        "counter",
        "Used by QEMU and uiod.",
        [({}, None if stats.cpu_usec is None else stats.cpu_usec / 1e6)],
    )
    yield "uio_memory_bytes", "gauge", "Of the VM's cgroup.", [({}, stats.memory_bytes)]
    yield "uio_memory_limit_bytes", "gauge", "Of the VM's cgroup.", [({}, stats.memory_limit)]
    yield "uio_pids", "gauge", "Processes and threads in the VM's cgroup.", [({}, stats.pids)]
    yield "uio_daemon_pss_bytes", "gauge", "Memory of uiod itself.", [({}, stats.uiod_pss_bytes)]
    yield "uio_qemu_rss_bytes", "gauge", "Memory of QEMU.", [({}, stats.qemu_rss_bytes)]
    yield (
        "uio_guest_memory_bytes",
        "gauge",
        "Of the guest's own heap.",
        [({"kind": "total"}, stats.guest_mem_total), ({"kind": "free"}, stats.guest_mem_free)],
    )
    yield (
        "uio_exec_total",
        "counter",
        "Commands by how they ended.",
        (({"result": result}, count) for result, count in sorted(results.items())),
    )
    yield "uio_exec_running", "gauge", "Commands under way.", [({}, vm.guest.running)]
    yield (
        "uio_overlays_loaded",
        "gauge",
        "Overlays resident in the guest.",
        [({}, stats.overlays_loaded)],
    )
    yield (
        "uio_channel_frames_total",
        "counter",
        "Frames of the channel.",
        [
            ({"direction": "in"}, channel.frames_in),
            ({"direction": "out"}, channel.frames_out),
        ],
    )
    yield (
        "uio_9p_errors_total",
        "counter",
        "9P requests answered with an error.",
        [({}, ninep.errors)],
    )
    yield (
        "uio_9p_bytes_total",
        "counter",
        "Bytes moved by 9P.",
        [
            ({"direction": "read"}, ninep.read_bytes),
            ({"direction": "write"}, ninep.write_bytes),
        ],
    )
    yield "uio_9p_request_seconds", "histogram", "9P requests by message.", []


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {_number(value)}"


def _histograms(vm: Supervisor, name: str, common: dict[str, str]) -> Iterator[str]:
    for message, operation in sorted(vm.guest.ninep.operations.items()):
        labels = {**common, "message": message}
        total = 0
        for i, count in enumerate(operation.buckets):
            total += count
            bound = "+Inf" if i == BUCKETS - 1 else repr((1 << i) / 1e6)
            yield _line(f"{name}_bucket", {**labels, "le": bound}, total)
        yield _line(f"{name}_sum", labels, operation.total_ns / 1e9)
        yield _line(f"{name}_count", labels, operation.count)


def prometheus(vm: Supervisor, guest_memory: Memory = (None, None)) -> str:
    """GET /metrics."""
    common = {"vm": vm.config.name}
    lines: list[str] = []
    for name, kind, text, samples in _rows(vm, guest_memory):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [
            _line(name, {**common, **labels}, value)
            for labels, value in samples
            if value is not None
        ]
        if kind == "histogram":
            lines += _histograms(vm, name, common)
    return "\n".join(lines) + "\n"
