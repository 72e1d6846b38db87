# SPDX-License-Identifier: BSD-3-Clause
"""What one waits for: a newline's echo and a command's end, beside ssh, the guest agent, a local shell.

All in turns. Under load, the guest that is not measured is stopped meanwhile, so that the two applications do not take
the processor from each other.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from bench.guest import ROOT, Guest, NotHere, accelerator, guest, kernel_paths, reference
from bench.linux_vm import Agent, LinuxVm, Shell, linux_vm
from bench.measure import Row, in_turns, timed
from uiod.run import Machine

UIO_ECHO = "newline to prompt on uIO-console"
UIOCTL = "`uioctl exec VM true`, whole process"
SSH = "`ssh vm true`, whole process"
ECHO_FIGURE = "console echo `\\n` → prompt"
EXEC_FIGURE = "`uioctl exec` wall time, whole process"

Call = Callable[[], object]


def measure(quick: bool) -> Iterator[Row]:
    """Ours alone first, so that it is there if a peer is not."""
    samples = 30 if quick else 200
    with ExitStack() as stack:
        vm = stack.enter_context(guest())
        port = stack.enter_context(closing(console(vm)))
        echo = _echo(port)
        yield Row(
            "console", UIO_ECHO, "us", in_turns({"": echo}, samples)[""],
            goal=0.6, reference=169.0, figure=ECHO_FIGURE,
        )  # fmt: skip
        daemon = stack.enter_context(machine())
        uioctl = uioctl_command(daemon, "true")
        try:
            linux = stack.enter_context(linux_vm())
        except RuntimeError as error:
            yield Row("console", SSH, "us", missing=str(error))
            yield Row(
                "console", UIOCTL, "us", in_turns({"": _process(uioctl)}, samples // 3)[""],
                figure=EXEC_FIGURE, missing=str(error),
            )  # fmt: skip
            return
        yield from _echoes(stack, echo, linux, samples)
        agent = stack.enter_context(closing(linux.agent()))
        yield from _processes(stack, daemon, uioctl, linux, agent, max(30, samples // 4))
        yield from _loaded(stack, linux, agent, max(60, samples))


def console(vm: Guest) -> socket.socket:
    """uIO-console, at its prompt."""
    port = vm.port("console")
    port.sendall(b"\n")
    _prompt(port)
    return port


def _prompt(port: socket.socket) -> None:
    seen = b""
    while not seen.endswith(b"> "):
        seen += port.recv(4096)


def _echo(port: socket.socket) -> Call:
    def echo() -> None:
        port.sendall(b"\n")
        _prompt(port)

    return echo


def machine(overlays: Path = ROOT / "build" / "overlays") -> Machine:
    """A VM under uiod, with the shipped overlays, or those of a directory that has the key, too."""
    keys = overlays if list(overlays.glob("*.pub.pem")) else ROOT / "build" / "keys"
    image, symbols = kernel_paths()
    with tempfile.NamedTemporaryFile("w", suffix=".cfg", delete=False) as config:
        config.write(
            f'[vm]\nkernel = "{image}"\nsymbols = "{symbols}"\nmemory = "64M"\naccel = "{accelerator()}"\n'
            f'[uio]\noverlays = ["{overlays}"]\n[trust]\nkeys = ["{keys}"]\n'
        )
    return Temporary(Path(config.name))


class Temporary(Machine):
    """A Machine whose configuration goes with it."""

    def __init__(self, config: Path) -> None:
        super().__init__(config, timeout_s=1500)

    def close(self) -> None:
        """Stop it."""
        super().close()
        self.config.unlink(missing_ok=True)


def uioctl_command(daemon: Machine, *argv: str) -> list[str]:
    """`uioctl exec` for that VM."""
    uioctl = str(Path(sys.executable).with_name("uioctl"))
    return [uioctl, "--runtime-dir", str(daemon.root), "exec", daemon.name, *argv]


def _process(command: list[str]) -> Call:
    return lambda: subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _echoes(stack: ExitStack, echo: Call, linux: LinuxVm, samples: int) -> Iterator[Row]:
    ssh = stack.enter_context(closing(linux.terminal()))
    local = stack.enter_context(closing(local_shell()))
    cases = {
        "the same, in turns with ssh": echo,
        "newline to prompt over ssh, Linux VM": ssh.newline,
        "newline to prompt of a local shell": local.newline,
    }
    for name, values in in_turns(cases, samples).items():
        ours = name.startswith("the same")
        yield Row(
            "console", name, "us", values,
            against="newline to prompt over ssh, Linux VM" if ours else None,
        )  # fmt: skip


def local_shell() -> Shell:
    """A shell of this machine on a terminal, at its prompt."""
    os.environ["PS1"] = "# "
    shell = Shell(["/bin/sh", "-i"], terminal=True)
    shell.prompt()
    return shell


def _processes(
    stack: ExitStack,
    daemon: Machine,
    uioctl: list[str],
    linux: LinuxVm,
    agent: Agent,
    samples: int,
) -> Iterator[Row]:
    # A second ssh that has its connection already, kept by a first one.
    path = str(linux.directory / "master.sock")
    master = [*linux.ssh[:-1], "-o", f"ControlPath={path}"]
    kept = subprocess.Popen([*master, "-N", "-M", linux.ssh[-1]], stdin=subprocess.DEVNULL)
    stack.callback(kept.wait)
    stack.callback(kept.terminate)
    while not Path(path).exists():
        if kept.poll() is not None:
            raise RuntimeError("ssh keeps no connection")
    cases: Mapping[str, Call] = {
        UIOCTL: _process(uioctl),
        SSH: _process([*linux.ssh, "true"]),
        "the same, its connection kept open (ControlMaster)": _process(
            [*master, linux.ssh[-1], "true"]
        ),
        "a command through uiod's API": lambda: daemon.exec("true"),
        "guest agent: guest-exec /bin/true to its end": lambda: agent.run("/bin/true"),
        "local: `sh -c true`": _process(["/bin/sh", "-c", "true"]),
    }
    agent_case = "guest agent: guest-exec /bin/true to its end"
    against = {UIOCTL: SSH, "a command through uiod's API": agent_case}
    for name, values in in_turns(cases, samples, 1).items():
        yield Row(
            "console", name, "us", values, against=against.get(name),
            goal=0.5 if name == UIOCTL else None, figure=EXEC_FIGURE if name == UIOCTL else "",
        )  # fmt: skip


LOADED = {
    "ours": "uIO-console echo, the application never rests",
    "ssh": "echo over ssh, a process of the VM never rests",
    "agent": "guest agent: guest-exec, a process of the VM never rests",
    "local": "newline to prompt of a local shell, another process never rests",
}


def _loaded(stack: ExitStack, linux: LinuxVm, agent: Agent, samples: int) -> Iterator[Row]:
    try:
        image = reference("busy")
    except NotHere as why:
        yield Row("console", LOADED["ours"], "us", missing=str(why))
        return
    busy = stack.enter_context(guest(image))
    port = stack.enter_context(closing(console(busy)))
    terminal = stack.enter_context(closing(linux.terminal()))
    worker = stack.enter_context(closing(linux.shell()))
    worker.run("while :; do :; done >/dev/null 2>&1 &")
    local = stack.enter_context(closing(local_shell()))
    spinning = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
    stack.callback(spinning.wait)
    stack.callback(spinning.kill)
    # Who asks, and the process that is busy meanwhile; the others stand.
    calls: dict[str, tuple[Call, int]] = {
        "ours": (_echo(port), busy.process.pid),
        "ssh": (terminal.newline, linux.process.pid),
        "agent": (lambda: agent.run("/bin/true"), linux.process.pid),
        "local": (local.newline, spinning.pid),
    }
    pids = {pid for _, pid in calls.values()}
    # A guest that is stopped must run again before it can be killed in order.
    for pid in pids:
        stack.callback(os.kill, pid, signal.SIGCONT)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(3 + samples // 2):
        for name, (call, pid) in calls.items():
            for other in pids - {pid}:
                os.kill(other, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            call()  # whatever its stop has left to be done
            took = timed(call)
            if number >= 3:
                found[name].append(took)
    for name, values in found.items():
        yield Row(
            "console", LOADED[name], "us", values, against=LOADED["ssh"] if name == "ours" else None
        )  # fmt: skip
