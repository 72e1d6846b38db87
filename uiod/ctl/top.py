# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl top`: all VMs on one screen, with keys. The one command that needs rich."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from uiod.ctl import vms
from uiod.ctl.client import Api
from uiod.ctl.errors import CtlError, printable
from uiod.ctl.options import duration
from uiod.ctl.output import size, span
from uiod.ctl.settings import settings
from uiod.ctl.stats import Sampler
from uiod.ctl.vm import in_parallel, look

_KEYS = "↑↓ choose   a attach   l logs   p pause/resume   s sort   q quit"
_STYLES = {"running": "green", "paused": "yellow", "starting": "cyan", "stopping": "cyan"}
_COLUMNS = (
    ("NAME", "left"), ("STATE", "left"), ("CPU %", "right"), ("CPU TIME", "right"), ("MEMORY", "right"),
    ("LIMIT", "right"), ("GUEST FREE", "right"), ("9P OPS", "right"), ("9P/s", "right"), ("OVERLAYS", "right"),
    ("EXECS", "right"), ("FAULTS", "right"), ("UP", "right"),
)  # fmt: skip
_SORTS = ("name", "cpu", "memory")


def top(
    interval: Annotated[
        str, typer.Option(metavar="TIME", help="Time between two readings.")
    ] = "1s",
) -> None:
    """Watch all VMs: processor, memory, 9P traffic, overlays.

    Keys: arrows choose a VM, a attaches to its shell, l follows its log (Ctrl-C comes back), p pauses or
    resumes it, s changes the order, q quits.

    \b
    Examples:
      uioctl top
      uioctl top --interval 5s
    """
    pause = max(0.2, duration(interval, "--interval"))
    if not (os.isatty(0) and os.isatty(1)):
        raise CtlError("top needs a terminal", "uioctl stats --stream is for programs")
    from rich.console import Console  # noqa: PLC0415 (slow to import, and only needed here)
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    screen = Screen()
    while True:  # left for attach and logs, and entered again
        with keyboard(), Live(console=console, screen=True, auto_refresh=False) as live:
            command = watch(screen, live, pause)
        if command is None:
            return
        # Ctrl-C is for what runs now and not for us.
        with contextlib.suppress(KeyboardInterrupt):
            subprocess.run(command, check=False)


def watch(screen: Screen, live: Any, pause: float) -> list[str] | None:
    """Show and take keys until one wants the terminal for another command, or the end (None)."""
    due = 0.0
    while True:
        now = time.monotonic()
        if now >= due:
            screen.read()
            due = now + pause
        live.update(screen.render(live.console.height), refresh=True)
        ready, _, _ = select.select([0], [], [], max(0.0, due - time.monotonic()))
        if ready:
            for key in keys(os.read(0, 64)):
                if key == "q":
                    return None
                command = screen.press(key)
                if command is not None:
                    return command


def keys(data: bytes) -> Iterator[str]:
    """What was pressed: letters, `up`, `down`."""
    arrows = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
    while data:
        if data[:3] in arrows:
            yield arrows[data[:3]]
            data = data[3:]
        else:
            letter = data[:1].decode("latin-1")
            yield {"k": "up", "j": "down", "\x04": "q"}.get(letter, letter)
            data = data[1:]


@contextlib.contextmanager
def keyboard() -> Iterator[None]:
    """Keys at once and without echo; Ctrl-C still interrupts."""
    before = termios.tcgetattr(0)
    tty.setcbreak(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class Screen:
    """What is shown, and what is chosen."""

    def __init__(self) -> None:
        self.chosen = ""
        self.order = 0
        self.note = ""
        self.entries: list[dict[str, Any]] = []
        self._sampler = Sampler()
        self._ops: dict[str, tuple[float, int]] = {}

    def read(self) -> None:
        """Ask all VMs."""
        apis = [Api(name, f"{vms.root()}/{name}") for name in vms.names()]
        states = in_parallel(look, apis)
        running = [api for api, vm in zip(apis, states, strict=True) if vm.get("pid")]
        figures = {
            entry["name"]: entry
            for entry in self._sampler.read(running, explicit=False, quiet=True)[0]
        }
        self.entries = []
        for vm in states:
            entry = vm | figures.get(vm["name"], {})
            entry["ops_per_s"] = self._rate(entry)
            self.entries.append(entry)
        by = _SORTS[self.order]
        field = {"cpu": "cpu_percent", "memory": "memory_bytes"}.get(by)
        if field:
            self.entries.sort(key=lambda entry: -(entry.get(field) or 0))
        names = [entry["name"] for entry in self.entries]
        if self.chosen not in names:
            self.chosen = names[0] if names else ""

    def _rate(self, entry: dict[str, Any]) -> float | None:
        now, count = entry.get("time"), entry.get("ninep_ops")
        if now is None or count is None:
            return None
        before = self._ops.get(entry["name"])
        self._ops[entry["name"]] = (now, count)
        if before is None or now <= before[0]:
            return None
        return max(0.0, (float(count) - before[1]) / (float(now) - before[0]))

    def press(self, key: str) -> list[str] | None:
        """Do what a key says; the command that is to have the terminal, if any."""
        names = [entry["name"] for entry in self.entries]
        self.note = ""
        if not names:
            return None
        at = names.index(self.chosen) if self.chosen in names else 0
        match key:
            case "up" | "down":
                self.chosen = names[max(0, min(len(names) - 1, at + (1 if key == "down" else -1)))]
            case "a":
                return self._uioctl("attach", self.chosen)
            case "l":
                return self._uioctl("logs", "--follow", "--tail", "200", self.chosen)
            case "s":
                self.order = (self.order + 1) % len(_SORTS)
                self.note = f"sorted by {_SORTS[self.order]}"
            case "p":
                verb = "resume" if self.entries[at].get("state") == "paused" else "pause"
                try:
                    vms.find(self.chosen).post(f"/v1/vm/{verb}", timeout=5.0)
                    self.note = f"{verb}d {self.chosen}"
                except (CtlError, OSError) as error:
                    self.note = str(error)
        return None

    def _uioctl(self, *argv: str) -> list[str]:
        where = [] if settings.runtime_dir is None else ["--runtime-dir", settings.runtime_dir]
        return [sys.executable, "-m", "uiod.ctl.main", *where, *argv]

    def render(self, height: int) -> Any:
        """The screen as rich draws it."""
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, expand=True, header_style="bold reverse", pad_edge=False)
        for name, side in _COLUMNS:
            table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
        room = max(1, height - 5)
        names = [entry["name"] for entry in self.entries]
        at = names.index(self.chosen) if self.chosen in names else 0
        first = max(0, min(at - room // 2, len(names) - room))
        for entry in self.entries[first : first + room]:
            style = "reverse" if entry["name"] == self.chosen else ""
            state = printable(str(entry["state"]))
            cells = [Text(printable(cell)) for cell in cells_of(entry)]
            cells[1] = Text(state, style=_STYLES.get(state, "red"))
            table.add_row(*cells, style=style)
        running = sum(1 for entry in self.entries if entry.get("state") == "running")
        cpu = sum(entry.get("cpu_percent") or 0.0 for entry in self.entries)
        memory = sum(entry.get("memory_bytes") or 0 for entry in self.entries)
        count = len(self.entries)
        plural = "" if count == 1 else "s"
        head = Text.assemble(
            ("uIO", "bold"),
            f"  {count} VM{plural}, {running} running   CPU {cpu:.1f} %   memory {size(memory)}   ",
            (time.strftime("%H:%M:%S"), "dim"),
        )
        foot = Text(printable(self.note) if self.note else _KEYS, style="dim")
        return Group(head, Text(), table, Text(), foot)


def cells_of(entry: dict[str, Any]) -> list[str]:
    """One VM as cells of `_COLUMNS`."""

    def number(key: str, form: str = "{}") -> str:
        value = entry.get(key)
        return "-" if value is None else form.format(value)

    used = entry.get("cpu_usec")
    up = entry.get("uptime_s")
    return [
        str(entry["name"]),
        str(entry["state"]),
        number("cpu_percent", "{:.1f}"),
        "-" if used is None else f"{used / 1e6:.1f}s" if used < 60_000_000 else span(used / 1e6),
        size(entry.get("memory_bytes")) if "cpu_usec" in entry else "-",
        size(entry.get("memory_limit")),
        size(entry.get("guest_mem_free")),
        number("ninep_ops"),
        number("ops_per_s", "{:.0f}"),
        number("overlays_loaded"),
        number("execs"),
        number("faults"),
        "-" if up is None else span(up),
    ]
