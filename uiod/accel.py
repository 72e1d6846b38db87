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

from uiod.errors import ExitStatus, UiodError
from uiod.qemu import cpu, find

_KVM = Path("/dev/kvm")
_DEADLINE_S = 2.0
# A firmware of 64 KiB that goes where every guest of ours goes: from real mode to protected mode to long mode with its
# page tables. There it writes 0x10 to port 0xf4, where isa-debug-exit ends QEMU with 2 * 0x10 + 1. A host that only
# emulates guests' first steps, or cannot set up `-cpu host`, fails at it.
_EXIT = 2 * 0x10 + 1
_START = 0xF000
_CODE = bytes.fromhex(
    # 16 bit, at 0xfffff000
    "fa"  # cli
    "2e660f0116c0f0"  # lgdtl %cs:gdtr
    "0f20c0 6683c801 0f22c0"  # cr0 |= PE
    "66ea1af0ffff0800"  # ljmpl $8, 1f
    # 32 bit; 1:
    "66b81000 8ed8 8ec0 8ed0"  # ds = es = ss = 16
    "c70500100000 03200000"  # PML4[0] = the table at 0x2000
    "c70500200000 03300000"  # its [0] = that at 0x3000, for the lowest 2 MiB
    "c70518200000 03400000"  # its [3] = that at 0x4000, for the highest 2 MiB below 4 GiB
    "c70500300000 83000000"
    "c705f84f0000 8300e0ff"
    "b800100000 0f22d8"  # cr3 = 0x1000
    "0f20e0 83c820 0f22e0"  # cr4 |= PAE
    "b9800000c0 0f32 0d00010000 0f30"  # EFER |= LME
    "0f20c0 0d00000080 0f22c0"  # cr0 |= PG
    "ea87f0ffff1800"  # ljmp $24, 2f
    # 64 bit; 2:
    "bc00800000"  # rsp = 0x8000
    "48c7c310000000 53 58"  # rax = 0x10, by way of the stack
    "e6f4"  # out %al, $0xf4
    "f4 ebfd"  # hlt, for ever
    "000000000000"
    # at 0xfffff0a0: the GDT (32-bit code, data, 64-bit code), and gdtr
    "0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009baf00"
    "1f00a0f0ffff"
)
_RESET_VECTOR = 0xFFF0
_JUMP = bytes.fromhex("e90df0")  # jmp to 0xf000


@dataclass(frozen=True)
class Choice:
    """What is used, and why."""

    accel: str  # "kvm" or "tcg"
    reason: str


def firmware() -> bytes:
    """The probe's guest."""
    image = bytearray(65536)
    image[_START : _START + len(_CODE)] = _CODE
    image[_RESET_VECTOR : _RESET_VECTOR + len(_JUMP)] = _JUMP
    return bytes(image)


def runs_guests(program: str, accel: str) -> str | None:
    """Try it. None: it does; else why it does not, in a few words."""
    with tempfile.TemporaryDirectory(prefix="uio-probe-") as directory:
        image = Path(directory, "probe.bin")
        image.write_bytes(firmware())
        argv = [
            *(program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "pc", "-accel", accel, "-cpu", cpu(accel), "-m", "2M"),
            *("-bios", str(image)),
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
    obstacle = _obstacle(find(program), cache)
    if wanted == "kvm":
        if obstacle is not None:
            raise UiodError(
                f"KVM is asked for and cannot be used: {obstacle}",
                'set accel = "auto" or "tcg" in [vm]',
                ExitStatus.UNAVAILABLE,
            )
        return Choice("kvm", "asked for")
    return Choice("kvm", "it runs guests here") if obstacle is None else Choice("tcg", obstacle)
