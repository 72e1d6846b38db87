# SPDX-License-Identifier: BSD-3-Clause
"""Build and boot the reference guest without uiod: the serial line is the process' standard output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build" / "refguest"
DEADLINE_S = 60.0


def build(app: str, *, libuio: bool, keys: Sequence[Path] = (), bpf: str = "module") -> Path:
    """The image of an application; made once, by one process at a time.

    :param keys: public keys; the image checks signatures of overlays itself
    :param bpf: eBPF as a "module" that is loaded when it is asked for, "builtin", or "no"
    """
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (OUTPUT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [
            "make",
            "--no-print-directory",
            "-j2",
            "-C",
            str(ROOT / "refguest"),
            f"APP={app}",
        ]
        command += [f"O={OUTPUT}", f"LIBUIO={'yes' if libuio else 'no'}"]
        command += [f"BPF={bpf}"]
        if keys:
            command += ["SIGNATURES=yes", f"KEYS={' '.join(map(str, keys))}"]
            command += [f"PYTHON={sys.executable}"]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
    kind = {"module": "", "builtin": "-bpf", "no": "-nobpf"}[bpf]
    options = f"{kind}{'-signed' if keys else ''}" if libuio else "-bare"
    return OUTPUT / f"{app}{options}.elf"


class Guest:
    """A running guest. Its serial output is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = ""

    def read_until(self, text: str) -> str:
        """Wait until the serial line has shown the text; all output up to now."""
        deadline = time.monotonic() + DEADLINE_S
        assert self.process.stdout is not None
        while text not in self.output:
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.output}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"{text!r} did not come before the end:\n{self.output}"
            self.output += data.decode(errors="replace").replace("\r", "")
        return self.output

    def finish(self) -> str:
        """Wait for the machine to switch itself off; all of its output."""
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        self.output += rest.decode(errors="replace").replace("\r", "")
        return self.output


@contextlib.contextmanager
def boot(
    kernel: Path,
    *qemu: str,
    command_line: str = "",
    machine: str = "q35",
    cpu: str = "max",
    memory: str = "64M",
) -> Iterator[Guest]:
    command = ["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"]
    command += ["-machine", machine, "-accel", "tcg", "-cpu", cpu, "-m", memory]
    command += ["-serial", "stdio", "-kernel", str(kernel), "-append", command_line, *qemu]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        yield Guest(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
