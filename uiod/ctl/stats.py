# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl stats` and `uioctl metrics`: what VMs use, once or again and again."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from uiod.ctl import vms
from uiod.ctl.client import Api
from uiod.ctl.errors import CtlError, NotRunning, in_words, show
from uiod.ctl.logs import write_all
from uiod.ctl.options import Json, SomeVms, VmName, duration
from uiod.ctl.output import Output, size, span
from uiod.ctl.vm import in_parallel

COLUMNS = (
    "NAME", ">CPU %", ">CPU TIME", ">MEMORY", ">LIMIT", ">GUEST FREE", ">PIDS", ">9P OPS", ">9P READ", ">9P WRITTEN",
    ">EXECS", ">FAULTS", ">OVERLAYS",
)  # fmt: skip


def stats(
    names: SomeVms = None,
    stream: Annotated[
        bool, typer.Option("-s", "--stream", help="Again and again, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        str,
        typer.Option(metavar="TIME", help="Time between two readings, over which CPU % is taken."),
    ] = "500ms",
    json: Json = False,
) -> int:
    """Show processor time, memory and traffic of VMs (QEMU and uiod together, as their cgroup counts).

    With --json and --stream there is one line per reading.

    \b
    Examples:
      uioctl stats
      uioctl stats --stream --interval 2s web
      uioctl stats --json | jq '.[].memory_bytes'
    """
    out = Output(json=json)
    pause = max(0.05, duration(interval, "--interval"))
    apis = [vms.find(name) for name in (names or vms.names())]
    sampler = Sampler()
    failed = sampler.read(apis, explicit=bool(names))[1]
    while True:
        time.sleep(pause if apis else 0)
        found, failed_now = sampler.read(apis, explicit=False)
        rows = [row(entry) for entry in found]
        if stream and not out.as_json and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        out.table(COLUMNS, rows, found)
        sys.stdout.flush()
        if not stream:
            return 1 if failed and names else 0
        if not apis or failed_now == len(apis):
            return 1


class Sampler:
    """Reads `Stats` and puts the share of a processor since the last reading beside them."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int]] = {}

    def read(
        self, apis: list[Api], *, explicit: bool, quiet: bool = False
    ) -> tuple[list[dict[str, Any]], int]:
        """The readings of those that answer, and how many do not (said on stderr if they were named)."""
        found, failed = [], 0
        for api, result in zip(apis, in_parallel(_read, apis), strict=True):
            if isinstance(result, BaseException):
                failed += 1
                if not quiet and (explicit or not isinstance(result, NotRunning)):
                    words = in_words(result)
                    assert words is not None
                    show(f"{api.name}: {words[0]}", words[1])
                continue
            found.append(result | {"cpu_percent": self._percent(api.name, result)})
        return found, failed

    def _percent(self, name: str, now: dict[str, Any]) -> float | None:
        used, moment = now.get("cpu_usec"), now.get("time")
        if used is None or moment is None:
            return None
        before = self._before.get(name)
        self._before[name] = (float(moment), int(used))
        if before is None or moment <= before[0]:
            return None
        share = (float(used) - before[1]) / (float(moment) - before[0])
        return max(0.0, round(share / 1e4, 1))


def _read(api: Api) -> dict[str, Any] | BaseException:
    try:
        return api.get("/v1/stats", timeout=5.0)
    except (CtlError, OSError) as error:
        return error


def row(entry: dict[str, Any]) -> tuple[object, ...]:
    """One VM as a row of `COLUMNS`."""
    percent, used = entry.get("cpu_percent"), entry.get("cpu_usec")

    def shown(key: str) -> object:
        value = entry.get(key)
        return "-" if value is None else value

    return (
        entry.get("name", "?"),
        "-" if percent is None else f"{percent:.1f}",
        "-" if used is None else span(used / 1e6) if used >= 10_000_000 else f"{used / 1e6:.2f}s",
        size(entry.get("memory_bytes")),
        size(entry.get("memory_limit")),
        size(entry.get("guest_mem_free")),
        shown("pids"),
        shown("ninep_ops"),
        size(entry.get("ninep_read_bytes")),
        size(entry.get("ninep_write_bytes")),
        shown("execs"),
        shown("faults"),
        shown("overlays_loaded"),
    )


def metrics(vm: VmName) -> None:
    """Print a VM's figures in Prometheus' text format, as GET /metrics gives them.

    \b
    Examples:
      uioctl metrics web
    """
    with vms.find(vm).request("GET", "/metrics") as reply:
        for piece in reply.pieces():
            write_all(1, piece)
