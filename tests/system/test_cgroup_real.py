# SPDX-License-Identifier: BSD-3-Clause
"""Real cgroups, whichever kind this machine has. Root only; nothing may be left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cgroup

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make cgroups")


@pytest.fixture
def base() -> Iterator[str]:
    """A base of this test's own, which must be gone at the end, in every hierarchy."""
    path = f"/uio-test-{uuid.uuid4().hex[:12]}"
    yield path
    mounts = [h.mount for h in cgroup.Layout.detect().hierarchies]
    left = [f"{mount}{path}" for mount in mounts if os.path.exists(f"{mount}{path}")]
    for directory in left:  # clean up, then fail
        for below, _, _ in os.walk(directory, topdown=False):
            for pid in Path(below, "cgroup.procs").read_text().split():
                if int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
            os.rmdir(below)
    assert not left, f"cgroups left behind: {left}"


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program that waits for a line before it does anything."""
    started: list[subprocess.Popen[bytes]] = []

    def factory(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys, os, time; sys.stdin.readline()\n{code}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield factory
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def own_paths() -> str:
    return Path("/proc/self/cgroup").read_text()


def require(*controllers: str) -> None:
    layout = cgroup.Layout.detect()
    missing = [name for name in controllers if layout.of(name) is None]
    if missing:
        pytest.skip(f"this machine has no controller {missing}")


def test_what_a_member_burns_is_charged(base: str, start: Start) -> None:
    require("cpu")
    group = cgroup.create("vm", cgroup.Limits(memory=128 << 20, cpu=1.0, pids=32), base=base)
    assert group.warnings == []
    worker = start(
        "data = bytearray(b'x') * (16 << 20)\nwhile time.process_time() < 0.3: pass\n"
        "print('done', flush=True); time.sleep(1000)"
    )
    group.add(worker.pid)
    assert group.pids() == [worker.pid]
    go(worker)
    assert worker.stdout is not None and worker.stdout.readline() == b"done\n"
    usage = group.stats()
    assert usage.cpu_usec is not None and usage.cpu_usec >= 250_000
    assert usage.memory_bytes is not None and usage.memory_bytes >= 16 << 20
    assert usage.memory_limit == 128 << 20
    assert (usage.pids, usage.pids_limit) == (1, 32)
    group.kill()
    assert worker.wait() == -signal.SIGKILL
    group.delete()


def test_the_memory_limit_kills_and_is_told(base: str, start: Start) -> None:
    require("memory")
    group = cgroup.create("vm", cgroup.Limits(memory=32 << 20), base=base)
    hog = start("data = []\nwhile True: data.append(bytearray(b'x') * (1 << 20))")
    group.add(hog.pid)
    fd = group.oom_fd()
    try:
        go(hog)
        assert hog.wait(60) == -signal.SIGKILL
        assert select.select([fd], [], [], 30)[0]
        assert group.oom_kills() >= 1
    finally:
        os.close(fd)
        group.kill()
        group.delete()


def test_the_pids_limit_holds(base: str, start: Start) -> None:
    require("pids")
    group = cgroup.create("vm", cgroup.Limits(pids=4), base=base)
    forker = start(
        "n = 0\n"
        "try:\n"
        "  while n < 50:\n"
        "    if os.fork() == 0: time.sleep(1000)\n"
        "    n += 1\n"
        "except OSError as error: print(n, error.errno, flush=True)\n"
        "time.sleep(1000)"
    )
    group.add(forker.pid)
    go(forker)
    assert forker.stdout is not None and forker.stdout.readline() == b"3 11\n"
    assert len(group.pids()) == 4
    group.kill()
    assert group.pids() == []
    group.delete()


def test_the_cpu_limit_throttles(base: str, start: Start) -> None:
    require("cpu")
    group = cgroup.create("vm", cgroup.Limits(cpu=0.1), base=base)
    worker = start("while time.process_time() < 0.3: pass\nprint('done', flush=True)")
    group.add(worker.pid)
    go(worker)
    assert worker.stdout is not None and worker.stdout.readline() == b"done\n"
    worker.wait()
    assert (group.stats().throttled_usec or 0) > 0
    group.delete()


def test_kill_spares_the_caller_and_takes_a_fork_bomb(base: str, start: Start) -> None:
    group = cgroup.create("vm", cgroup.Limits(pids=100), base=base)
    before = own_paths()
    bomb = start(
        # In one write: two processes say it, and print() may take two for the line and its end.
        "os.fork()\nos.write(1, b'go\\n')\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    )
    group.add(bomb.pid)
    group.add(os.getpid())
    try:
        assert f":{group.path}\n" in own_paths()
        go(bomb)
        assert bomb.stdout is not None and bomb.stdout.readline() == b"go\n"
        group.kill()
        assert group.pids() == [os.getpid()]
        bomb.wait()
    finally:
        group.kill()
        group.delete()
    assert own_paths() == before


def test_kill_without_the_caller_inside(base: str, start: Start) -> None:
    group = cgroup.create("vm", cgroup.Limits(), base=base)
    members = [start("time.sleep(1000)") for _ in range(3)]
    for member in members:
        group.add(member.pid)
    os.kill(members[0].pid, signal.SIGSTOP)  # a stopped one dies too
    group.kill()
    assert [member.wait(20) for member in members] == [-signal.SIGKILL] * 3
    group.delete()
    assert not group.exists()
    group.delete()  # twice is no error


def test_an_adopted_group_is_the_same_group(base: str, start: Start) -> None:
    require("memory")
    made = cgroup.create("vm", cgroup.Limits(memory=64 << 20), base=base)
    member = start("time.sleep(1000)")
    made.add(member.pid)
    adopted = cgroup.open(made.path)
    assert adopted.pids() == [member.pid]
    assert adopted.stats().memory_limit == 64 << 20
    adopted.set(cgroup.Limits(memory=96 << 20))
    assert made.stats().memory_limit == 96 << 20
    with pytest.raises(cgroup.CgroupError, match=f"processes \\[{member.pid}\\] are in it"):
        adopted.delete()
    adopted.kill()
    adopted.delete()
    with pytest.raises(cgroup.Unavailable, match="there is no cgroup"):
        cgroup.open(made.path)


def test_groups_side_by_side_share_only_the_base(base: str) -> None:
    one = cgroup.create("one", cgroup.Limits(), base=base)
    two = cgroup.create("two", cgroup.Limits(), base=base)
    one.delete()
    assert two.exists()
    two.delete()
    assert not two.exists()


def test_a_process_that_has_ended_cannot_be_moved(base: str) -> None:
    group = cgroup.create("vm", cgroup.Limits(), base=base)
    done = subprocess.Popen(["true"])
    done.wait()
    with pytest.raises(cgroup.CgroupError, match="it has ended"):
        group.add(done.pid)
    group.delete()


def test_a_memory_limit_below_what_is_in_use_is_the_kernels_to_refuse_or_enforce(
    base: str, start: Start
) -> None:
    require("memory")
    group = cgroup.create("vm", cgroup.Limits(memory=64 << 20), base=base)
    member = start("data = bytearray(b'x') * (32 << 20)\nprint('up', flush=True); time.sleep(1000)")
    group.add(member.pid)
    go(member)
    assert member.stdout is not None and member.stdout.readline() == b"up\n"
    if group.version == 1:
        with pytest.raises(cgroup.CgroupError, match="busy"):
            group.set(cgroup.Limits(memory=4 << 20))
    else:
        group.set(cgroup.Limits(memory=4 << 20))
        assert member.wait(60) == -signal.SIGKILL
    group.kill()
    group.delete()


@pytest.fixture
def unit(base: str) -> Iterator[str]:
    """A cgroup as systemd makes it for a unit with Delegate=yes, with this process in it."""
    hierarchy = cgroup.Layout.detect().unified
    if hierarchy is None or "memory" not in hierarchy.controllers:
        pytest.skip(
            "the controllers of this machine are not v2's; test_cgroup_linux.py has such a one"
        )
    top = Path(hierarchy.mount)
    for given in ("+memory", "+cpu", "+pids"):
        (top / "cgroup.subtree_control").write_text(given)
    directory = Path(f"{top}{base}")
    directory.mkdir()
    for given in ("+memory", "+cpu", "+pids"):
        (directory / "cgroup.subtree_control").write_text(given)
    service = directory / "uiod@vm.service"
    service.mkdir()
    os.setxattr(service, "trusted.delegate", b"1")
    before = hierarchy.own
    (service / "cgroup.procs").write_text(str(os.getpid()))
    yield f"{base}/{service.name}"
    Path(f"{top}{before}", "cgroup.procs").write_text(str(os.getpid()))
    service.rmdir()
    directory.rmdir()


def test_a_delegated_unit_gives_its_controllers_to_the_leaf(unit: str, start: Start) -> None:
    group = cgroup.create("vm", cgroup.Limits(memory=64 << 20, cpu=1.0, pids=16))
    assert group.path == f"{unit}/vm"
    assert (group.version, group.warnings) == (2, [])
    assert group.pids() == [os.getpid()]
    assert f"::{group.path}\n" in own_paths()
    member = start("time.sleep(1000)")
    assert group.pids() == sorted([os.getpid(), member.pid])  # it is born there
    assert group.stats().memory_limit == 64 << 20
    assert group.stats().pressure["memory"].full_total_usec >= 0
    adopted = cgroup.create  # a daemon restarted in its unit finds the name in use
    with pytest.raises(cgroup.Unavailable, match="is in use by processes"):
        adopted("vm", cgroup.Limits(), base=unit)
    group.kill()
    assert member.wait() == -signal.SIGKILL
    group.delete()
    assert f"::{unit}\n" in own_paths()
