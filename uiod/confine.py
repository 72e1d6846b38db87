# SPDX-License-Identifier: BSD-3-Clause
"""What uiod, and each QEMU it starts, may do no more once it knows its files: Landlock, seccomp, capabilities, limits.

Applied to the main thread before there is another one, and inherited by all that comes after. Each part that the kernel
does not have is left out and says so; `Confinement.report` is what `inspect` shows. docs/security.md says what for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_DUMPABLE = 38, 22, 24, 4

# Landlock: linux/landlock.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR = 1 << 4
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_MAKE_DEVICES = 1 << 6 | 1 << 11  # character and block
_V2 = (1 << 14) - 1
_V3 = (1 << 15) - 1

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys")
_NOFILE = 4096

# capability(7): what serving files to a guest as root takes.
_KEPT = {0: "chown", 1: "dac_override", 3: "fowner", 4: "fsetid", 5: "kill", 10: "net_bind_service"}
_NET_ADMIN = (12, "net_admin")
_CAPABILITY_VERSION_3 = 0x20080522

# seccomp(2), for x86-64: calls that neither uiod nor a device model has a use for. `-sandbox on` takes more from QEMU.
_AUDIT_ARCH_X86_64 = 0xC000003E
_FORBIDDEN = {
    "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "chroot": 161, "clock_adjtime": 305,
    "clock_settime": 227, "delete_module": 176, "finit_module": 313, "fsconfig": 431, "fsmount": 432,
    "fsopen": 430, "fspick": 433, "init_module": 175, "io_uring_enter": 426, "io_uring_register": 427,
    "io_uring_setup": 425, "ioperm": 173, "iopl": 172, "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246,
    "keyctl": 250, "lookup_dcookie": 212, "mount": 165, "mount_setattr": 442, "move_mount": 429,
    "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298, "personality": 135, "pivot_root": 155,
    "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101, "quotactl": 179, "quotactl_fd": 443,
    "reboot": 169, "request_key": 249, "setdomainname": 171, "sethostname": 170, "setns": 308,
    "settimeofday": 164, "swapoff": 168, "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272,
    "userfaultfd": 323, "vhangup": 153,
}  # fmt: skip


class Unavailable(Exception):
    """The kernel or this machine does not have it; the text says what."""


@dataclass
class Files:
    """What stays reachable. Directories stand for all that is in them; what is not there is passed over."""

    readable: list[Path] = field(default_factory=list)
    writable: list[Path] = field(default_factory=list)
    emptied: list[Path] = field(default_factory=list)  # empty directories in them may be removed


def system_files() -> list[Path]:
    """What Python and QEMU themselves read."""
    return [
        *map(Path, _SYSTEM),
        *(Path(entry or ".").absolute() for entry in sys.path),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent,
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments))


def _prctl(option: int, *arguments: int) -> None:
    _check(_libc.prctl(option, *(ctypes.c_ulong(n) for n in (*arguments, 0, 0, 0, 0)[:4])))


def no_new_privileges() -> None:
    """No setuid program gives rights from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def landlock(files: Files) -> int:
    """Only these files from now on. The version of Landlock. :raise Unavailable: not here, or too old."""
    try:
        version = _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError as error:
        raise Unavailable(f"this kernel has no Landlock ({error.strerror})") from None
    if version < 2:
        raise Unavailable("Landlock of this kernel forbids every move between directories")
    handled = _V2 if version == 2 else _V3
    attributes = struct.pack("<Q", handled)
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(8), ctypes.c_uint32(0))
    try:
        for path in files.readable:
            _allow(ruleset, path, _EXECUTE | _READ)
        for path in files.writable:
            _allow(ruleset, path, handled & ~_MAKE_DEVICES & ~_EXECUTE)
        for path in files.emptied:
            _allow(ruleset, path, _REMOVE_DIR)
        _allow(ruleset, Path("/dev"), _READ | _WRITE_FILE)
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    except OSError as error:
        raise Unavailable(f"Landlock refuses its rules ({error.strerror})") from None
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("<Qi", rights, fd)
        _syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            rule,
            ctypes.c_uint32(0),
        )
    finally:
        os.close(fd)


def _filter() -> bytes:
    """The BPF program: forbidden calls, and those of other architectures, are EPERM."""
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    deny, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    numbers = sorted(_FORBIDDEN.values())
    count = len(numbers)
    program = [
        (load, 0, 0, 4),  # architecture
        (equal, 0, count + 3, _AUDIT_ARCH_X86_64),
        (load, 0, 0, 0),  # number
        (at_least, count + 1, 0, 0x40000000),  # x32
        *((equal, count - i, 0, number) for i, number in enumerate(numbers)),
        (ret, 0, 0, allow),
        (ret, 0, 0, deny),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp() -> int:
    """Forbid system calls; how many. :raise Unavailable: not here."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"there is no list of system calls for {platform.machine()}")
    code = _filter()
    program = _Program(len(code) // 8, code)
    try:
        _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0))
    except OSError as error:
        raise Unavailable(f"this kernel has no seccomp filters ({error.strerror})") from None
    return len(_FORBIDDEN)


def drop_capabilities(net_admin: bool) -> list[str]:
    """Keep what serving files takes, if it was there at all: what is left. :raise Unavailable: refused."""
    wanted = dict([*_KEPT.items(), *([_NET_ADMIN] if net_admin else [])])
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    try:
        _check(_libc.capget(header, data))
        e0, p0, i0, _e1, _p1, _i1 = struct.unpack("<6I", data.raw)
        if e0 & 1 << 8:  # CAP_SETPCAP: also what programs could get back
            for number in range(64):
                if number not in wanted:
                    try:
                        _prctl(_PR_CAPBSET_DROP, number)
                    except OSError:
                        break  # the kernel knows no more of them
        mask = sum(1 << number for number in wanted)
        _check(_libc.capset(header, struct.pack("<6I", e0 & mask, p0 & mask, i0 & mask, 0, 0, 0)))
    except OSError as error:
        raise Unavailable(f"capabilities cannot be dropped ({error.strerror})") from None
    return [name for number, name in wanted.items() if p0 & 1 << number]


def limit_resources() -> dict[str, int]:
    """No core files with a guest's memory in them, no more descriptors than are needed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _NOFILE if hard == resource.RLIM_INFINITY else min(hard, _NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return {"core": 0, "nofile": most}


def apply(files: Files, *, net_admin: bool, helper: bool) -> tuple[dict[str, object], list[str]]:
    """All of it: (what is in force, what is not and why).

    :param net_admin: QEMU opens tap devices. :param helper: QEMU starts its setuid bridge helper.
    """
    force: dict[str, object] = {"rlimits": limit_resources()}
    missing = []
    if helper:
        missing.append(
            "no_new_privs, capabilities, Landlock and seccomp: the bridge helper is setuid"
        )
        return force, missing
    no_new_privileges()
    force["no_new_privs"] = True
    steps: Iterable[tuple[str, Callable[[], object]]] = (
        ("capabilities", lambda: drop_capabilities(net_admin)),
        ("landlock_version", lambda: landlock(files)),
        ("seccomp_forbidden_calls", seccomp),
    )
    for name, step in steps:
        try:
            force[name] = step()
        except Unavailable as error:
            missing.append(f"{name}: {error}")
    return force, missing
