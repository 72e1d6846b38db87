# SPDX-License-Identifier: BSD-3-Clause
"""The v2 side on a tree of ordinary files that behaves as the kernel's does where it matters.

`FakeKernel` fills a new directory with the files of the controllers that its parent gives, keeps a process in one
cgroup only, and refuses processes beside given controllers. tests/guest/test_cgroup_linux.py asks a real kernel.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import cgroup
from cgroup import nodes

FILES = {
    "memory": {
        "memory.max": "max",
        "memory.high": "max",
        "memory.current": "8192",
        "memory.peak": "9000",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
    },
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "pids": {"pids.max": "max", "pids.current": "3"},
    "io": {"io.max": "", "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=6\n"},
}
CORE = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "cgroup.freeze": "0",
    "cpu.stat": "usage_usec 1234\nuser_usec 1\nthrottled_usec 55\n",
    "cpu.pressure": "some avg10=2.00 avg60=0 avg300=0 total=7\n",
}


class FakeKernel:
    """A cgroup2 mount below `root`, and the system calls that the code makes on it."""

    def __init__(self, root: Path, controllers: str = "cpu io memory pids") -> None:
        self.root = root
        root.mkdir()
        self.refuse: set[str] = set()  # files that may not be written
        self._fill(root, controllers.split())

    def _fill(self, directory: Path, controllers: list[str]) -> None:
        for name, text in CORE.items():
            (directory / name).write_text(text)
        (directory / "cgroup.controllers").write_text(" ".join(controllers))
        if directory != self.root:
            for controller in controllers:
                for name, text in FILES[controller].items():
                    (directory / name).write_text(text)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        directory = Path(path)
        directory.mkdir()
        self._fill(directory, (directory.parent / "cgroup.subtree_control").read_text().split())

    def rmdir(self, path: str) -> None:
        directory = Path(path)
        if (directory / "cgroup.procs").read_text().split():
            raise OSError(errno.EBUSY, "Device or resource busy")
        if any(entry.is_dir() for entry in directory.iterdir()):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        shutil.rmtree(directory)

    def place(self, pid: int, path: str) -> None:
        """Put a process where it is at first."""
        (self.root / path.strip("/") / "cgroup.procs").write_text(f"{pid}\n")

    def write(self, file: Path, text: str) -> None:
        """What a write to `file` does."""
        if file.name in self.refuse:
            raise OSError(errno.EACCES, "Permission denied")
        if file.name == "cgroup.procs":
            control = file.parent / "cgroup.subtree_control"
            if file.parent != self.root and control.read_text().split():
                raise OSError(errno.EBUSY, "Device or resource busy")
            for other in self.root.rglob("cgroup.procs"):
                left = [line for line in other.read_text().split() if line != text]
                other.write_text("".join(f"{line}\n" for line in left))
            file.write_text(file.read_text() + f"{text}\n")
        elif file.name == "cgroup.subtree_control":
            if file.parent != self.root and (file.parent / "cgroup.procs").read_text().split():
                raise OSError(errno.EBUSY, "Device or resource busy")
            enabled = set(file.read_text().split())
            name = text[1:]
            (enabled.add if text[0] == "+" else enabled.discard)(name)
            file.write_text(" ".join(sorted(enabled)))
            for child in file.parent.iterdir():
                if child.is_dir():
                    (child / "cgroup.controllers").write_text(" ".join(sorted(enabled)))
                    for extra, content in FILES[name].items():
                        if not (child / extra).exists():
                            (child / extra).write_text(content)
        elif file.name == "io.max":
            file.write_text(file.read_text() + text + "\n")
        elif not file.exists():
            raise OSError(errno.ENOENT, "No such file or directory")
        else:
            file.write_text(text)

    def layout(self, own: str = "/") -> cgroup.Layout:
        """What a process in `own` detects."""
        controllers = frozenset((self.root / "cgroup.controllers").read_text().split())
        return cgroup.Layout((cgroup.Hierarchy(str(self.root), 2, controllers, own, True),))


class Written:
    """An unbuffered file opened for writing."""

    def __init__(self, kernel: FakeKernel, path: str) -> None:
        self.kernel, self.path = kernel, Path(path)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *args: object) -> None:
        return

    def write(self, data: bytes) -> int:
        self.kernel.write(self.path, data.decode())
        return len(data)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel(tmp_path / "cg")

    def fake_open(path: str, mode: str = "r", **options: object) -> object:
        if mode == "wb" and str(path).startswith(str(fake.root)):
            return Written(fake, path)
        return open(path, mode)

    monkeypatch.setattr(nodes, "open", fake_open, raising=False)
    monkeypatch.setattr(nodes, "mkdir", fake.mkdir)
    monkeypatch.setattr(nodes, "rmdir", fake.rmdir)
    yield fake
    monkeypatch.undo()


def text(kernel: FakeKernel, path: str) -> str:
    return (kernel.root / path.lstrip("/")).read_text().strip()


LIMITS = cgroup.Limits(
    memory=64 << 20,
    memory_high=48 << 20,
    cpu=1.5,
    cpu_weight=50,
    pids=9,
    io={"8:0": cgroup.IoLimit(read_bytes=4096)},
)


def test_root_gets_a_group_with_all_limits(kernel: FakeKernel) -> None:
    group = cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    assert (group.path, group.version, group.warnings) == ("/uio/vm", 2, [])
    assert text(kernel, "cgroup.subtree_control").split() == ["cpu", "io", "memory", "pids"]
    assert text(kernel, "uio/vm/memory.max") == str(64 << 20)
    assert text(kernel, "uio/vm/memory.high") == str(48 << 20)
    assert text(kernel, "uio/vm/cpu.max") == "150000 100000"
    assert text(kernel, "uio/vm/cpu.weight") == "50"
    assert text(kernel, "uio/vm/pids.max") == "9"
    assert text(kernel, "uio/vm/io.max") == "8:0 rbps=4096 wbps=max riops=max wiops=max"
    group.delete()
    assert not (kernel.root / "uio").exists()


def test_limits_change_and_go(kernel: FakeKernel) -> None:
    group = cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    (kernel.root / "uio/vm/pids.max").write_text("by somebody else")
    group.set(cgroup.Limits(memory=32 << 20, pids=9))
    assert text(kernel, "uio/vm/memory.max") == str(32 << 20)
    assert text(kernel, "uio/vm/memory.high") == "max"
    assert text(kernel, "uio/vm/cpu.max") == "max 100000"
    assert text(kernel, "uio/vm/cpu.weight") == "100"
    assert text(kernel, "uio/vm/pids.max") == "by somebody else"  # unchanged, so not written
    again = cgroup.open("/uio/vm", layout=kernel.layout())
    again.set(cgroup.Limits(pids=9))  # what was in force is not known here: everything is written
    assert text(kernel, "uio/vm/pids.max") == "9"
    assert text(kernel, "uio/vm/memory.max") == "max"


def test_usage_is_read_from_all_files(kernel: FakeKernel) -> None:
    group = cgroup.create("vm", cgroup.Limits(pids=9), base="/uio", layout=kernel.layout())
    usage = group.stats()
    assert (usage.cpu_usec, usage.throttled_usec) == (1234, 55)
    assert (usage.memory_bytes, usage.memory_limit, usage.memory_peak) == (8192, None, 9000)
    assert (usage.pids, usage.pids_limit) == (3, 9)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (15, 26)
    assert usage.oom_kills == group.oom_kills() == 2
    assert usage.pressure["cpu"].some_total_usec == 7
    assert "io" not in usage.pressure


def test_a_delegated_cgroup_is_emptied_into_the_leaf(kernel: FakeKernel) -> None:
    """No processes beside given controllers: the daemon moves before it may enable any."""
    kernel.mkdir(str(kernel.root / "system.slice"))
    for controller in FILES:
        kernel.write(kernel.root / "cgroup.subtree_control", f"+{controller}")
        kernel.write(kernel.root / "system.slice" / "cgroup.subtree_control", f"+{controller}")
    unit = "/system.slice/uiod@vm.service"
    kernel.mkdir(str(kernel.root) + unit)
    kernel.place(os.getpid(), unit)
    layout = kernel.layout(own=unit)
    group = cgroup.create("vm", LIMITS, base=unit, layout=layout)
    assert group.warnings == []
    assert group.pids() == [os.getpid()]
    assert text(kernel, f"{unit}/cgroup.procs") == ""
    assert text(kernel, f"{unit}/vm/memory.max") == str(64 << 20)

    group.delete()  # and the way back, for which the unit takes its controllers back
    assert text(kernel, f"{unit}/cgroup.procs") == str(os.getpid())
    assert text(kernel, f"{unit}/cgroup.subtree_control") == ""
    assert not (kernel.root / unit.lstrip("/") / "vm").exists()
    assert (kernel.root / unit.lstrip("/")).exists()  # systemd's


def test_where_controllers_are_not_given_the_limits_are_named(kernel: FakeKernel) -> None:
    kernel.refuse.add("cgroup.subtree_control")
    limits = cgroup.Limits(memory=64 << 20, cpu=0.5)
    group = cgroup.create("vm", limits, base="/uio", layout=kernel.layout())
    assert group.warnings == [
        "the limit memory is not in force: the cgroup controller memory is not available here",
        "the limit cpu is not in force: the cgroup controller cpu is not available here",
    ]
    assert group.stats().cpu_usec == 1234
    assert group.oom_kills() == 0
    with pytest.raises(cgroup.Unavailable, match="memory is not available"):
        group.oom_fd()
    group.delete()


def test_a_limit_that_the_kernel_refuses_leaves_no_group(kernel: FakeKernel) -> None:
    kernel.refuse.add("memory.max")
    with pytest.raises(
        cgroup.CgroupError, match=r"cannot set memory\.max of /uio/vm to .*: Permission denied"
    ):
        cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    assert not (kernel.root / "uio").exists()


def test_a_name_in_use_is_refused_and_an_empty_one_taken_over(kernel: FakeKernel) -> None:
    group = cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    kernel.place(1, "/uio/vm")
    with pytest.raises(cgroup.Unavailable, match=r"/uio/vm is in use by processes \[1\]"):
        cgroup.create("vm", LIMITS, base="/uio", layout=kernel.layout())
    with pytest.raises(cgroup.CgroupError, match=r"processes \[1\] are in it"):
        group.delete()
    assert group.exists()


@pytest.mark.parametrize("name", ["memory.max", "tasks", "cgroup.procs"])
def test_a_vm_may_have_the_name_of_a_control_file(kernel: FakeKernel, name: str) -> None:
    group = cgroup.create(name, cgroup.Limits(), base="/uio", layout=kernel.layout())
    assert group.path == f"/uio/_{name}"


def test_inotify_tells_of_memory_events(kernel: FakeKernel) -> None:
    group = cgroup.create("vm", cgroup.Limits(), base="/uio", layout=kernel.layout())
    fd = group.oom_fd()
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        (kernel.root / "uio/vm/memory.events").write_text("oom_kill 3\n")
        assert os.read(fd, 4096)
        assert group.oom_kills() == 3
    finally:
        os.close(fd)


def test_systemd_marks_what_it_delegates(kernel: FakeKernel) -> None:
    unit = kernel.root / "unit"
    kernel.mkdir(str(unit))
    kernel.mkdir(str(unit / "leaf"))
    try:
        os.setxattr(unit, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no user attributes on this file system: {error.strerror}")
    assert kernel.layout(own="/unit").delegated() == "/unit"
    assert kernel.layout(own="/unit").base() == "/unit"
    os.setxattr(unit / "leaf", "user.delegate", b"1")
    assert kernel.layout(own="/unit/leaf").base() == "/unit"  # a restarted daemon, back in its leaf
    assert kernel.layout(own="/").delegated() is None


def test_without_rights_the_remedy_is_said(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cgroup.Unavailable, match="run as root, or under systemd with Delegate=yes"):
        cgroup.create("vm", LIMITS, layout=kernel.layout())
