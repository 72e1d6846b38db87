# SPDX-License-Identifier: BSD-3-Clause
"""KVM or TCG: KVM only where it really runs guests, found out with the smallest guest there is and remembered."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uiod import qemu
from uiod.errors import ExitStatus, UiodError

_KVM = Path("/dev/kvm")
_DEADLINE_S = 2.0
# A firmware of 64 KiB whose reset vector writes 0x10 to port 0xf4, where isa-debug-exit ends QEMU with 2 * 0x10 + 1.
_SIGN = 0x10
_EXIT = 2 * _SIGN + 1
_CODE = bytes((0xB0, _SIGN, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD))  # mov al, …; out 0xf4, al; hlt; jmp -1
_RESET_VECTOR = 0xFFF0


@dataclass(frozen=True)
class Choice:
    """What is used, and why."""

    accel: str  # "kvm" or "tcg"
    reason: str


def firmware() -> bytes:
    """The probe's guest."""
    image = bytearray(b"\xf4" * 65536)
    image[_RESET_VECTOR : _RESET_VECTOR + len(_CODE)] = _CODE
    return bytes(image)


def runs_guests(program: str, accel: str) -> str | None:
    """Try it. None: it does; else why it does not, in a few words."""
    with tempfile.TemporaryDirectory(prefix="uio-probe-") as directory:
        image = Path(directory, "probe.bin")
        image.write_bytes(firmware())
        argv = [
            *(program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "pc", "-accel", accel, "-m", "2M", "-bios", str(image)),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
        ]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"a test guest did not run within {_DEADLINE_S:.0f} s"
        except OSError as error:
            return f"{program}: {error.strerror}"
    if done.returncode == _EXIT:
        return None
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"a test guest did not run: {said[-1] if said else f'QEMU ended with {done.returncode}'}"


def _obstacle(program: str, cache: Path) -> str | None:
    if not _KVM.exists():
        return "there is no /dev/kvm"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "no permission for /dev/kvm"
    key = _key(program)
    remembered = _load(cache)
    if key in remembered:
        found = remembered[key]
        return found if isinstance(found, str) else None
    obstacle = runs_guests(program, "kvm")
    _save(cache, remembered | {key: obstacle})
    return obstacle


def _key(program: str) -> str:
    # What may change the answer: the kernel, its parameters since boot, the program, who asks.
    stat = Path(program).stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{os.uname().release} {boot} {program} {stat.st_mtime_ns} {stat.st_size} {os.geteuid()}"


def _load(cache: Path) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(cache: Path, answers: dict[str, Any]) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(list(answers.items())[-16:])))
        temporary.replace(cache)
    except OSError:
        temporary.unlink(missing_ok=True)  # then the probe runs again next time


def choose(wanted: str, program: str, cache: Path) -> Choice:
    """Decide. Blocks for up to two seconds the first time.

    :param cache: where the probe's answer is kept until the next boot.
    :raise UiodError: KVM is asked for and does not run guests; QEMU is missing.
    """
    if wanted == "tcg":
        return Choice("tcg", "asked for")
    obstacle = _obstacle(qemu.find(program), cache)
    if wanted == "kvm":
        if obstacle is not None:
            raise UiodError(
                f"KVM is asked for and cannot be used: {obstacle}",
                'set accel = "auto" or "tcg" in [vm]',
                ExitStatus.UNAVAILABLE,
            )
        return Choice("kvm", "asked for")
    return Choice("kvm", "it runs guests here") if obstacle is None else Choice("tcg", obstacle)
