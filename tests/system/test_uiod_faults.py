# SPDX-License-Identifier: BSD-3-Clause
"""What may go wrong around a daemon, done to it: full disks, no memory, clocks that jump, pauses by others."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vm as guests
from uiod_harness import END, STDIN, TOP, Daemon, daemon, write_config

import cgroup

pytestmark = pytest.mark.timeout(300)

ROOT = os.geteuid() == 0


@pytest.fixture
def short() -> Iterator[Path]:
    # Not pytest's own, whose paths are too long for sockets.
    directory = Path(tempfile.mkdtemp(prefix="uiod-"))
    yield directory
    shutil.rmtree(directory)


def until(true: Any, what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def events(vm: Daemon) -> list[dict[str, Any]]:
    return [json.loads(line) for line in vm.api.get("/v1/events").splitlines()]


def kinds(vm: Daemon) -> list[str]:
    return [event["kind"] for event in events(vm)]


# Full disks


def test_a_log_that_may_not_grow_costs_its_own_bytes_and_nothing_else(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, f"chatty={1 << 20}", '[uio]\nlog_bytes = "8M"\n')
    limited = Limited(resource.RLIMIT_FSIZE, 256 << 10)
    monkeypatch.setattr(subprocess, "Popen", limited)
    with daemon(config, short) as vm:
        monkeypatch.undo()
        vm.until_ready()
        size = until(lambda: (vm.run / "serial.log").stat().st_size >= 256 << 10, "no log")
        assert size
        assert vm.api.exec("echo", "unharmed")[0] == b"unharmed\n"
        # There is room again: what is lost is said.
        resource.prlimit(vm.process.pid, resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        vm.process.terminate()
        assert vm.wait() == 0
    assert b"bytes lost: no room on disk]" in (vm.run / "serial.log").read_bytes()


class Limited:
    """Popen under a limit that the child alone has."""

    def __init__(self, what: int, limit: int) -> None:
        self.what, self.limit, self.popen = what, limit, subprocess.Popen

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        _soft, hard = resource.getrlimit(self.what)

        def limit() -> None:
            resource.setrlimit(self.what, (self.limit, hard))

        return self.popen(*arguments, preexec_fn=limit, **more)


def own_tmpfs(directory: Path, size: str) -> None:
    """In the child: a small file system there that nobody else sees, and that is gone with the child."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private, recursive = 0x00020000, 1 << 18, 1 << 14
    if (
        libc.unshare(new_mounts)
        or libc.mount(b"none", b"/", None, private | recursive, None)
        or libc.mount(b"tmpfs", bytes(directory), b"tmpfs", 0, f"size={size}".encode())
    ):
        raise OSError(ctypes.get_errno(), "no mount")


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        try:
            subprocess.run(
                ["true"], check=True, preexec_fn=lambda: own_tmpfs(Path(directory), "64k")
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return True


class Mounted:
    """Popen with a tmpfs of the child's own."""

    def __init__(self, directory: Path, size: str) -> None:
        self.directory, self.size, self.popen = directory, size, subprocess.Popen

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self.popen(
            *arguments, preexec_fn=lambda: own_tmpfs(self.directory, self.size), **more
        )


@pytest.mark.guest
def test_a_full_exchange_directory_is_an_error_of_the_command_that_writes(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not may_mount():
        pytest.skip("no rights to mount a file system")
    config = guests.prepare(
        tmp_path, vm=['accel = "tcg"', "stop_timeout_s = 5"], more='[limits]\ncgroup = "off"'
    )
    monkeypatch.setattr(subprocess, "Popen", Mounted(config.parent / "host", "256k"))
    with daemon(config, short) as vm:
        monkeypatch.undo()
        vm.until_ready()
        stream = vm.api.start("cp", "-", "/host/large", stdin=True)

        def send() -> None:
            with contextlib.suppress(OSError):  # the command may be over before
                for _ in range(32):
                    stream.send(STDIN, bytes(32768))
                stream.send(END)

        sender = threading.Thread(target=send)
        sender.start()
        _out, err, exit = stream.until_exit()
        stream.sock.shutdown(socket.SHUT_RDWR)
        sender.join()
        stream.sock.close()
        assert exit["code"] not in (0, 125)
        assert b"space" in err.lower(), (err, exit)
        assert vm.api.exec("rm", "/host/large")[2]["code"] == 0
        assert vm.api.exec("cp", "-", "/host/small", stdin=b"fits")[2]["code"] == 0
        assert vm.api.exec("cat", "/host/small")[0] == b"fits"
        # No room for the log either, if it is there: not so here, but the daemon is still well.
        assert not vm.api.get("/v1/vm")["warnings"]
        vm.process.terminate()
        assert vm.wait() == 0


@pytest.mark.skipif(not ROOT, reason="mounting a file system takes root")
def test_a_full_runtime_directory_is_survived(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log, state and QEMU's log are all there."""
    if not may_mount():
        pytest.skip("no rights to mount a file system")
    config = write_config(tmp_path, f"chatty={1 << 20}", '[uio]\nlog_bytes = "8M"\n')
    root = short / "run"
    root.mkdir()
    monkeypatch.setattr(subprocess, "Popen", Mounted(root, "512k"))
    with daemon(config, root) as vm:
        monkeypatch.undo()
        inside = Path(f"/proc/{vm.process.pid}/root{root}")  # as the daemon sees it
        vm.run = inside / "t"
        vm.api.path = vm.run / "api.sock"
        vm.until_ready()
        usage = until(lambda: os.statvfs(inside).f_bavail == 0, "it did not become full")
        assert usage
        assert vm.api.exec("echo", "unharmed")[0] == b"unharmed\n"
        vm.api.request("POST", "/v1/vm/pause")
        assert vm.api.get("/v1/vm")["state"] == "paused"
        vm.api.request("POST", "/v1/vm/resume")
        vm.process.terminate()
        assert vm.wait() == 0


# Memory

# Its memory is a file's, not its own, so that the kernel's choice of a victim depends on what it is told alone.
HOG = """
import contextlib, os, sys
import cgroup
group = cgroup.open(sys.argv[1])
with open("/proc/self/oom_score_adj", "w") as file:
    file.write(sys.argv[2])
group.add(os.getpid())
fd, kills = os.memfd_create("hog"), group.oom_kills()
while group.oom_kills() == kills:
    with contextlib.suppress(OSError):
        os.write(fd, bytes(1 << 20))
os.ftruncate(fd, 0)
"""


def hog(score: int, group: str) -> int:
    """A process in the group that eats memory until the kernel kills some process there: how it ended."""
    argv = [sys.executable, "-c", HOG, group, str(score)]
    return subprocess.run(argv, timeout=60, check=False, cwd=TOP).returncode


SPARE = """
import os, sys, time
import cgroup
with open("/proc/self/oom_score_adj", "w") as file:
    file.write(sys.argv[2])
cgroup.open(sys.argv[1]).add(os.getpid())
data = bytearray(b"x") * (24 << 20)
print("ready", flush=True)
time.sleep(1000)
"""


@contextlib.contextmanager
def spare(score: int, group: str) -> Iterator[None]:
    """Who is killed next: memory of a killed process is not free at once, and the kernel may go on."""
    argv = [sys.executable, "-c", SPARE, group, str(score)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=TOP) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture
def grouped(tmp_path: Path, short: Path) -> Iterator[Daemon]:
    """A VM in a cgroup with little memory; the hog is gone by the time it is restarted."""
    if not ROOT:
        pytest.skip("making cgroups takes root")
    name = f"t{uuid.uuid4().hex[:8]}"
    more = (
        '[limits]\nmemory = "160M"\ncgroup = "require"\n'
        '[restart]\npolicy = "on-failure"\ndelay_s = 2\n'
    )
    try:
        cgroup.create(name, cgroup.Limits(memory=64 << 20)).delete()
    except cgroup.CgroupError as error:
        pytest.skip(f"no cgroup here: {error}")
    if cgroup.Layout.detect().of("memory") is None:
        pytest.skip("no memory controller here")
    path = None
    try:
        with daemon(write_config(tmp_path, more=more, name=name), short) as vm:
            path = vm.until_ready()["cgroup"]
            yield vm
    finally:  # a daemon that was killed has left it
        with contextlib.suppress(cgroup.Unavailable):
            group = cgroup.open(path or f"/uio/{name}")
            group.kill()
            group.delete()


def test_who_eats_the_groups_memory_is_killed_and_the_vm_goes_on(grouped: Daemon) -> None:
    vm = grouped
    info = vm.api.get("/v1/vm")
    with spare(700, info["cgroup"]):
        assert hog(1000, info["cgroup"]) == -signal.SIGKILL
    until(lambda: "memory.oom" in kinds(vm), "not reported")
    after = vm.api.get("/v1/vm")
    assert after["qemu_pid"] == info["qemu_pid"]
    assert any("ran out of memory" in text for text in after["warnings"])
    assert vm.api.exec("echo", "unharmed")[0] == b"unharmed\n"


def test_when_qemu_is_killed_for_memory_it_is_said_and_the_vm_comes_back(grouped: Daemon) -> None:
    vm = grouped
    info = vm.api.get("/v1/vm")
    with spare(400, info["cgroup"]):
        assert hog(0, info["cgroup"]) == 0  # somebody else was killed
    after = until(
        lambda: (found := vm.api.get("/v1/vm"))["restarts"] and found["ready"] and found,
        "it did not come back",
    )
    assert after["pid"] == info["pid"]
    assert after["qemu_pid"] != info["qemu_pid"]
    (restart,) = [event for event in events(vm) if event["kind"] == "vm.restart"]
    assert "ran out of memory" in restart["data"]["reason"]
    assert vm.api.exec("echo", "again")[0] == b"again\n"
    os.kill(vm.qemu_pid(), signal.SIGKILL)  # for another reason now, which is told as such
    until(lambda: kinds(vm).count("vm.restart") == 2, "no second restart")
    assert "SIGKILL" in [e for e in events(vm) if e["kind"] == "vm.restart"][1]["data"]["reason"]


# Pauses by others, and a QEMU that hangs


def monitor(path: Path, command: str) -> None:
    """One command on a monitor of one's own."""
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rwb") as file:
        sock.settimeout(30)
        sock.connect(str(path))
        file.readline()
        for line in ("qmp_capabilities", command):
            file.write(json.dumps({"execute": line}).encode() + b"\n")
            file.flush()
            while b'"return"' not in file.readline():
                pass


@pytest.mark.guest
def test_a_pause_behind_our_back_is_noticed(tmp_path: Path, short: Path) -> None:
    other = short / "count" / "other.sock"
    extra = f'extra = ["-qmp", "unix:{other},server=on,wait=off"]'
    config = guests.prepare(tmp_path, vm=['accel = "tcg"', extra], more='[limits]\ncgroup = "off"')
    with daemon(config, short) as vm:
        vm.until_ready()
        monitor(other, "stop")
        until(lambda: vm.api.get("/v1/vm")["state"] == "paused", "not noticed")
        assert vm.api.get("/v1/vm")["reason"] == "paused through QEMU's monitor"
        monitor(other, "cont")
        until(lambda: vm.api.get("/v1/vm")["state"] == "running", "not noticed")
        assert vm.api.exec("echo", "on")[0] == b"on\n"
        other.unlink()


def test_a_pause_that_no_event_told_of_is_noticed(tmp_path: Path, short: Path) -> None:
    with daemon(write_config(tmp_path, "silent"), short) as vm:
        vm.until_ready()
        vm.api.exec("secretly", "stop")
        until(lambda: vm.api.get("/v1/vm")["state"] == "paused", "not noticed")
        vm.api.exec("secretly", "cont")
        until(lambda: vm.api.get("/v1/vm")["state"] == "running", "not noticed")


def test_a_qemu_that_hangs_is_an_event_and_a_warning(tmp_path: Path, short: Path) -> None:
    with daemon(write_config(tmp_path), short) as vm:
        vm.until_ready()
        os.kill(vm.qemu_pid(), signal.SIGSTOP)
        until(lambda: "qemu.hung" in kinds(vm), "not noticed")
        assert any("does not answer" in text for text in vm.api.get("/v1/vm")["warnings"])
        os.kill(vm.qemu_pid(), signal.SIGCONT)
        until(lambda: "qemu.answers" in kinds(vm), "not noticed")
        assert vm.api.exec("echo", "on")[0] == b"on\n"


# Clocks

STEPPING = """
import time
real = time.time
def stepped():
    try:
        return real() + float(open({path!r}).read() or 0)
    except OSError:
        return real()
time.time = stepped
"""


def test_steps_of_the_clock_harm_nothing(tmp_path: Path, short: Path) -> None:
    step = tmp_path / "step"
    (tmp_path / "sitecustomize.py").write_text(STEPPING.format(path=str(step)))
    env = {"PYTHONPATH": f"{tmp_path}:{TOP}"}

    def to(seconds: float) -> None:
        step.with_suffix(".new").write_text(str(seconds))
        step.with_suffix(".new").rename(step)

    with daemon(write_config(tmp_path), short, env=env) as vm:
        vm.until_ready()
        uptime = 0.0
        for at in (0.0, 86_400.0 * 400, -86_400.0 * 400, 0.0):
            to(at)
            stats = vm.api.get("/v1/stats")
            assert abs(stats["time"] - (time.time() + at)) < 3600  # it did step
            assert uptime <= stats["uptime_s"] < 600
            uptime = stats["uptime_s"]
            assert vm.api.exec("echo", "hi")[0] == b"hi\n"
            assert vm.api.exec("sleep", timeout_ms=50)[2]["code"] == 124
            assert vm.api.request("GET", "/v1/wait?for=stopped&timeout_s=0.05")[0] == 408
            assert vm.api.get("/v1/logs").startswith(b"booting\n")
        assert vm.api.get("/v1/vm")["ready"]
        assert "qemu.hung" not in kinds(vm)
        vm.process.terminate()
        assert vm.wait() == 0
