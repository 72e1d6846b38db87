# SPDX-License-Identifier: BSD-3-Clause
"""Runs in the guest, under systemd: what the unit uiod@ is to do, each thing said on the console when it was so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIT = "uiod@t.service"
GROUP = Path("/sys/fs/cgroup/uio.slice") / UNIT
DROPIN = Path("/run/systemd/system/uiod@.service.d/test.conf")
PATIENCE_S = 120.0


def run(*argv: str, status: int = 0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout.strip()


def of_unit(key: str, unit: str = UNIT) -> str:
    return run("systemctl", "show", "--value", "-p", key, unit)


def inspect() -> dict[str, Any]:
    return dict(json.loads(run("uioctl", "--json", "inspect", "t")))


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def qemu() -> int:
    return int(json.loads(Path("/run/uio/t/state.json").read_text())["pid"])


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2]


def replaced(before: str) -> Callable[[], bool]:
    return lambda: of_unit("MainPID") not in ("0", before) and of_unit("ActiveState") == "active"


def works(adopted: bool) -> None:
    """The VM is in its cgroup with its limits, and answers."""
    assert run("uioctl", "exec", "t", "echo", "hello") == "hello"
    info = inspect()
    assert info["adopted"] is adopted, info
    assert info["state"] == "running" and info["ready"], info
    for pid in (info["pid"], info["qemu_pid"]):
        assert group_of(pid) == f"/uio.slice/{UNIT}/t", group_of(pid)
    assert (GROUP / "t/memory.max").read_text().strip() == str(256 << 20)
    assert (GROUP / "t/pids.max").read_text().strip() == "64"
    assert not [w for w in info["warnings"] if "cgroup" in w or "limit" in w], info["warnings"]


def start() -> None:
    run("systemctl", "start", UNIT)
    assert of_unit("ActiveState") == "active"
    assert of_unit("StatusText") == "t: ready"
    works(adopted=False)


def unprivileged() -> None:
    status = Path(f"/proc/{of_unit('MainPID')}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    uid = run("id", "-u", "uio")
    assert uid != "0" and fields["Uid"].split() == [uid] * 4, fields["Uid"]
    assert int(fields["CapEff"], 16) == 0 and int(fields["NoNewPrivs"]) == 1
    found = inspect()["confinement"]
    assert found["no_new_privs"] and found["landlock_version"] >= 2, found
    assert found["seccomp_forbidden_calls"] > 40 and not found.get("missing"), found
    print("confinement:", json.dumps(found, sort_keys=True))


def canary() -> None:
    """A configuration that names files elsewhere is read again: uiod cannot reach them, though it could before."""
    config = Path("/etc/uio/t.cfg")
    before = config.read_text()
    try:
        config.write_text(before.replace('"/etc/uio/keys"', '"/srv/canary/key.pub.pem"'))
        run("systemctl", "reload", UNIT)
        until(lambda: "config.refused" in run("uioctl", "events", "t"), "no refusal")
        said = run("uioctl", "events", "t")
        assert "ermission denied" in said, said
    finally:
        config.write_text(before)
    run("systemctl", "reload", UNIT)
    until(lambda: "config.reloaded" in run("uioctl", "events", "t"), "not reloaded")
    assert run("runuser", "-u", "uio", "--", "cat", "/srv/canary/key.pub.pem")  # uid uio may


def killed() -> None:
    machine, main = qemu(), of_unit("MainPID")
    os.kill(int(main), signal.SIGKILL)
    until(replaced(main), "systemd did not start it again")
    assert qemu() == machine
    works(adopted=True)


def restarted() -> None:
    machine, main = qemu(), of_unit("MainPID")
    run("systemctl", "restart", UNIT)
    assert of_unit("MainPID") != main and qemu() == machine
    works(adopted=True)


def watchdog() -> None:
    machine, main = qemu(), of_unit("MainPID")
    before = int(of_unit("NRestarts"))
    os.kill(int(main), signal.SIGSTOP)
    until(replaced(main), "the watchdog did not bite")
    assert int(of_unit("NRestarts")) == before + 1
    assert qemu() == machine
    works(adopted=True)


def stopped() -> None:
    machine = qemu()
    run("systemctl", "stop", UNIT)
    assert not Path(f"/proc/{machine}").exists(), "the VM still runs"
    assert of_unit("ActiveState") == "inactive" and of_unit("Result") == "success"
    assert not GROUP.exists()
    assert Path("/run/uio/t/serial.log").exists()  # for who asks later


def mistakes() -> None:
    run("systemctl", "start", "uiod@bad.service", status=1)
    assert of_unit("ExecMainStatus", "uiod@bad.service") == "3"
    assert of_unit("NRestarts", "uiod@bad.service") == "0"
    assert "/etc/uio/bad.cfg:2" in run("journalctl", "-o", "cat", "-u", "uiod@bad.service")


def in_a_subgroup() -> None:
    """As systemd 254 and later do it with DelegateSubgroup: the daemon begins in a leaf of the unit's cgroup."""
    own = "/sys/fs/cgroup/uio.slice/uiod@t.service"
    DROPIN.write_text(
        "[Service]\nWatchdogSec=60s\nExecStopPost=\nExecStart=\n"
        f"ExecStart=/bin/sh -c 'mkdir -p {own}/daemon && echo $$$$ >{own}/daemon/cgroup.procs && "
        "exec /usr/bin/uiod start --runtime-dir /run/uio /etc/uio/t.cfg'\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "start", UNIT)
    works(adopted=False)
    run("systemctl", "stop", UNIT)


STEPS = (
    start, unprivileged, canary, killed, restarted, watchdog, stopped, mistakes, in_a_subgroup,
)  # fmt: skip


def main() -> int:
    # Emulated and beside other work, everything takes longer than it should.
    DROPIN.parent.mkdir(parents=True)
    DROPIN.write_text("[Service]\nWatchdogSec=10s\n")
    run("systemctl", "daemon-reload")
    print(run("systemctl", "--version").splitlines()[0])
    for step in STEPS:
        began = time.monotonic()
        try:
            step()
        except BaseException as error:
            print(f"FAILED {step.__name__}: {type(error).__name__}: {error}")
            for argv in (
                ["systemctl", "status", "--no-pager", "-l", UNIT],
                ["journalctl", "--no-pager", "-o", "cat", "-n", "60"],
            ):
                subprocess.run(argv, check=False)
            return 1
        print(f"ok {step.__name__} ({time.monotonic() - began:.0f} s)", flush=True)
    print(run("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1])
    print("all steps done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
