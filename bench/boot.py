# SPDX-License-Identifier: BSD-3-Clause
"""From the start of the QEMU process to the application's first line, the prompt, and the first command.

Beside the same guest without libuio, and a Linux VM: to the last line of its init, and to the end of a first command
over ssh.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.guest import guest, reference
from bench.linux_vm import linux_vm
from bench.measure import Row

# What the application's first line has in it; of another kernel's, KERNEL_FIRST_LINE says it.
FIRST_LINE = os.environ.get("KERNEL_FIRST_LINE", "count: ").encode()
DEADLINE_S = 60.0
LINUX_BOOTS, LINUX_S = 3, 270.0  # at least so many, and no more of them after so long
LINE, PROMPT, COMMAND = (
    "the application's first line", "the first prompt", "the first command has ended"
)  # fmt: skip
BARE = f"{LINE}, without libuio"
LINUX, SSH = "Linux VM: the last line of its init", "Linux VM: the first command over ssh has ended"


def measure(quick: bool) -> Iterator[Row]:
    """Boot again and again, in turns."""
    cases: dict[str, Callable[[], float]] = {LINE: _line, PROMPT: _prompt, COMMAND: _command}
    missing = ""
    try:
        bare = reference("count", libuio=False)
        cases[BARE] = lambda: _line(bare)
    except RuntimeError as error:
        missing = str(error)
    found: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(5 if quick else 30):
        for case, boot in cases.items():
            found[case].append(boot())
    yield Row(
        "boot", LINE, "ms", found[LINE], against=BARE if BARE in found else None
    )  # fmt: skip
    yield Row("boot", BARE, "ms", found.get(BARE, []), missing=missing)
    yield Row(
        "boot", PROMPT, "ms", found[PROMPT],
        goal=0.6, reference=233.0, figure="boot to first prompt",
    )  # fmt: skip
    linux: list[float] = []
    ssh: list[float] = []
    try:
        begun = time.monotonic()
        for number in range(2 if quick else 30):
            # On a busy machine one takes a minute.
            if number < LINUX_BOOTS or time.monotonic() < begun + LINUX_S:
                _linux(linux, ssh)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        missing = f"{type(error).__name__}: {error}"
    yield Row("boot", COMMAND, "ms", found[COMMAND], against=SSH if ssh else None)
    yield Row("boot", LINUX, "ms", linux, missing=missing)
    yield Row("boot", SSH, "ms", ssh, missing=missing)


def _line(kernel: Path | None = None) -> float:
    with guest(kernel) as vm:
        while FIRST_LINE not in vm.log():
            if time.monotonic() > vm.started + DEADLINE_S:
                raise TimeoutError(f"the log has no {FIRST_LINE!r} (KERNEL_FIRST_LINE)")
            time.sleep(0.0005)
        return (time.monotonic() - vm.started) * 1000


def _prompt() -> float:
    with guest() as vm:
        port = vm.port("console")
        port.settimeout(DEADLINE_S)
        seen = b""
        while b"> " not in seen:
            seen += port.recv(4096)
        took = (time.monotonic() - vm.started) * 1000
        port.close()
    return took


def _command() -> float:
    with guest() as vm:
        channel = vm.channel()
        channel.run("true")
        took = (time.monotonic() - vm.started) * 1000
        channel.close()
    return took


def _linux(ready: list[float], command: list[float]) -> None:
    with linux_vm(memory="256M") as vm:
        subprocess.run([*vm.ssh, "true"], check=True, stdin=subprocess.DEVNULL)
        command.append((time.monotonic() - vm.started) * 1000)
        ready.append(vm.ready_s * 1000)
