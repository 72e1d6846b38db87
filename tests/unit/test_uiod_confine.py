# SPDX-License-Identifier: BSD-3-Clause
"""Confinement: tried out in processes that confine themselves and then do what they must not, and what they must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from uiod_harness import TOP, daemon, write_config

from uiod import confine

LANDLOCK = subprocess.run(
    [sys.executable, "-c", "from uiod import confine; confine.no_new_privileges(); confine.landlock(confine.Files())"],
    cwd=TOP, capture_output=True, timeout=60, check=False,
).returncode == 0  # fmt: skip

PRELUDE = """
import ctypes, errno, json, os, socket, sys
from pathlib import Path
from uiod import confine
libc = ctypes.CDLL(None, use_errno=True)
top = Path(sys.argv[1])
def outcome(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
def syscall(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
"""


def confined(top: Path, code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(top)],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not LANDLOCK, reason="the kernel has no Landlock")
def test_files_are_those_that_are_named(tmp_path: Path) -> None:
    for name in ("readable", "writable", "elsewhere"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "writable" / "link").symlink_to(tmp_path / "elsewhere" / "file")
    found = confined(
        tmp_path,
        """
confine.no_new_privileges()
files = confine.Files([*confine.system_files(), top / "readable"], [top / "writable"], [top])
assert confine.landlock(files) >= 2
w = top / "writable"
print(json.dumps({
    "read readable": outcome((top / "readable/file").read_text),
    "write readable": outcome(lambda: (top / "readable/file").write_text("y")),
    "read elsewhere": outcome((top / "elsewhere/file").read_text),
    "list elsewhere": outcome(lambda: list((top / "elsewhere").iterdir())),
    "write elsewhere": outcome(lambda: (top / "elsewhere/file").write_text("y")),
    "through a link": outcome((w / "link").read_text),
    "write writable": outcome(lambda: (w / "file").write_text("y")),
    "make": outcome((w / "new").mkdir),
    "move between": outcome(lambda: (w / "file").rename(w / "new/file")),
    "truncate": outcome(lambda: os.truncate(w / "new/file", 0)),
    "socket": outcome(lambda: socket.socket(socket.AF_UNIX).bind(str(w / "sock"))),
    "move out": outcome(lambda: (w / "new/file").rename(top / "elsewhere/f")),
    "device": outcome(lambda: os.mknod(w / "dev", 0o20600, os.makedev(1, 3))),
    "run": outcome(lambda: os.execv(w / "new/file", ["x"])),
    "null": outcome(lambda: open("/dev/null", "wb").write(b"x")),
    "remove an empty directory": outcome((top / "elsewhere/sub").rmdir),
    "remove a file": outcome((top / "elsewhere/file").unlink),
}))
""",
    )
    good = {
        "read readable", "write writable", "make", "move between", "truncate", "socket", "null",
        "remove an empty directory",
    }  # fmt: skip
    assert {name for name, result in found.items() if result == "ok"} == good, found
    assert (tmp_path / "elsewhere" / "file").read_text() == "x"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the list of calls is for x86-64")
def test_system_calls_that_nobody_needs_are_refused() -> None:
    found = confined(
        Path("/"),
        """
confine.no_new_privileges()
count = confine.seccomp()
print(json.dumps({
    "count": count,
    **{name: outcome(lambda n=n: syscall(n, 0, 0, 0, 0, 0)) for name, n in confine._FORBIDDEN.items()
       if name != "vhangup"},
    "x32": outcome(lambda: syscall(0x40000000 + 39)),
    "getpid": outcome(lambda: syscall(39)),
}))
""",
    )
    assert found.pop("count") == len(confine._FORBIDDEN)
    assert found.pop("getpid") == "ok"
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.skipif(os.geteuid() != 0, reason="there are capabilities to drop for root only")
def test_root_keeps_what_serving_files_takes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = confined(
        tmp_path,
        """
kept = confine.drop_capabilities(False)
print(json.dumps({
    "kept": kept,
    "chown": outcome(lambda: os.chown(top / "file", 1, 1)),
    "read another's": outcome((top / "file").read_text),
    "mknod": outcome(lambda: os.mknod(top / "dev", 0o20600, os.makedev(1, 3))),
    "raw socket": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "chroot": outcome(lambda: os.chroot("/")),
    "bounding": int(next(l for l in open("/proc/self/status") if l.startswith("CapBnd")).split()[1], 16),
}))
""",
    )
    assert "chown" in found["kept"]
    assert (found["chown"], found["read another's"]) == ("ok", "ok")
    assert (found["mknod"], found["raw socket"], found["chroot"]) == ("EPERM",) * 3
    assert found["bounding"] & ~sum(1 << n for n in confine._KEPT) == 0


def test_what_is_in_force_is_said(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path), tmp_path / "run") as vm:
        found = vm.until_ready()["confinement"]
        status = Path(f"/proc/{vm.process.pid}/status").read_text()
        qemu = Path(f"/proc/{vm.qemu_pid()}/status").read_text()
        scores = [
            int(Path(f"/proc/{pid}/oom_score_adj").read_text())
            for pid in (vm.process.pid, vm.qemu_pid())
        ]
    assert found["no_new_privs"]
    assert scores[0] < scores[1] == 500  # when memory runs out, the daemon is there to tell
    assert "NoNewPrivs:\t1" in status
    if "seccomp_forbidden_calls" in found:
        assert "Seccomp:\t2" in status
        assert "Seccomp:\t2" in qemu
    assert ("landlock_version" in found) == LANDLOCK
    assert found["qemu_sandbox"].startswith("on,")


def test_confinement_can_be_switched_off_and_insisted_on(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path, more='[uio]\nconfine = "off"\n'), tmp_path / "run") as vm:
        assert set(vm.until_ready()["confinement"]) == {"qemu_sandbox", "off"}
    if LANDLOCK and os.uname().machine == "x86_64":
        config = write_config(tmp_path, more='[uio]\nconfine = "require"\n')
        with daemon(config, tmp_path / "run") as vm:
            assert "missing" not in vm.until_ready()["confinement"]
