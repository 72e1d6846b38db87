# SPDX-License-Identifier: BSD-3-Clause
"""Detection of hierarchies from the texts that kernels write, and the checking of limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cgroup
from cgroup.controllers_v1 import quota_usec, shares
from cgroup.controllers_v2 import io_max_line
from cgroup.limits import device_number
from cgroup.usage import parse_pressure

V1_LINES = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/net_cls rw,relatime - cgroup cgroup rw,net_cls
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V1_GROUPS = (
    "5:cpu,cpuacct:/a\n4:memory:/a/b\n3:freezer:/\n2:net_cls:/\n1:name=systemd:/user.slice\n"
)


def detect(tmp_path: Path, mountinfo: str, membership: str) -> cgroup.Layout:
    (tmp_path / "mountinfo").write_text(mountinfo)
    (tmp_path / "cgroup").write_text(membership)
    return cgroup.Layout.detect(tmp_path)


def test_v1_controllers_are_found_where_they_are_mounted(tmp_path: Path) -> None:
    layout = detect(tmp_path, V1_LINES, V1_GROUPS)
    assert layout.mode == "v1"
    cpu = layout.of("cpu")
    assert cpu is layout.of("cpuacct") and cpu is not None
    assert (cpu.mount, cpu.own) == ("/sys/fs/cgroup/cpu,cpuacct", "/a")
    memory = layout.of("memory")
    assert memory is not None and memory.own == "/a/b"
    assert layout.of("pids") is None
    assert [h.mount for h in layout.hierarchies if h.systemd] == ["/sys/fs/cgroup/systemd"]


def test_hybrid_is_v1_with_a_unified_hierarchy(tmp_path: Path) -> None:
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
    layout = detect(tmp_path, V1_LINES + unified, V1_GROUPS + "0::/user.slice\n")
    assert layout.mode == "hybrid"
    assert layout.unified is not None and layout.unified.own == "/user.slice"
    assert not layout.unified.systemd  # the named v1 hierarchy is systemd's


def test_v2_alone(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup fs"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    escaped = str(mount).replace(" ", "\\040")
    layout = detect(
        tmp_path,
        f"28 20 0:25 / {escaped} rw,nosuid - cgroup2 cgroup2 rw\n",
        "0::/system.slice/uiod@x.service\n",
    )
    assert layout.mode == "v2"
    assert layout.unified is not None
    assert layout.unified.mount == str(mount)
    assert layout.unified.controllers == {"cpu", "io", "memory", "pids"}
    assert layout.unified.systemd


def test_a_mount_that_shows_only_a_part_makes_paths_relative_to_it(tmp_path: Path) -> None:
    line = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    layout = detect(tmp_path, line, "4:memory:/docker/abc/sub\n")
    assert layout.hierarchies[0].own == "/sub"


def test_a_cgroup_above_the_namespace_is_nobodys_to_name(tmp_path: Path) -> None:
    line = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert detect(tmp_path, line, "0::/../../other\n").hierarchies[0].own == "/"


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    layout = detect(tmp_path, "20 1 0:3 / /proc rw - proc proc rw\n", "")
    assert layout.mode == "none"
    with pytest.raises(cgroup.Unavailable, match="no cgroup file system"):
        cgroup.create("vm", cgroup.Limits(), base="/uio", layout=layout)


def test_an_unreadable_proc_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(cgroup.Unavailable, match=r"cannot read .*mountinfo: No such file"):
        cgroup.Layout.detect(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": 1024}, "memory must be at least 4194304"),
        ({"memory": "64M"}, "memory must be a whole number"),
        ({"memory_high": -1}, "memory_high must be at least"),
        ({"cpu": 0}, "cpu must be between 0.01"),
        ({"cpu": float("nan")}, "cpu must be between"),
        ({"cpu": True}, "cpu must be a number"),
        ({"cpu_weight": 0}, "cpu_weight must be between 1 and 10000"),
        ({"cpu_weight": 10_001}, "cpu_weight must be between 1 and 10000"),
        ({"pids": 0}, "pids must be at least 1"),
    ],
)
def test_limits_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(cgroup.InvalidLimit, match=message):
        cgroup.Limits(**values)  # type: ignore[arg-type]


def test_limits_are_brought_into_what_kernels_take() -> None:
    limits = cgroup.Limits(memory=(64 << 20) + 5, memory_high=1 << 80, pids=1 << 40)
    assert limits.memory == 64 << 20
    assert limits.memory_high is not None and limits.memory_high < 1 << 63
    assert limits.pids == 1 << 22
    with pytest.raises(cgroup.InvalidLimit, match=r"io\.read_bytes"):
        cgroup.IoLimit(read_bytes=0)


def test_translation_to_both_versions() -> None:
    assert (quota_usec(1.5), quota_usec(0.01), quota_usec(None)) == (150_000, 1000, -1)
    assert (shares(100), shares(1), shares(10_000), shares(None)) == (1024, 10, 102_400, 1024)
    line = io_max_line("8:0", cgroup.IoLimit(write_bytes=1000))
    assert line == "8:0 rbps=max wbps=1000 riops=max wiops=max"


def test_devices_by_number_or_path(tmp_path: Path) -> None:
    assert device_number("253:16") == "253:16"
    with pytest.raises(cgroup.InvalidLimit, match="No such file"):
        device_number("/nonexistent")
    if os.major(os.stat("/proc").st_dev) == 0:
        with pytest.raises(cgroup.InvalidLimit, match="not on a block device"):
            device_number("/proc")


def test_pressure_is_read_with_lines_missing_or_new() -> None:
    text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.25 total=99 new=1\n"
    pressure = parse_pressure(text)
    assert (pressure.some_avg10, pressure.some_total_usec) == (1.5, 1234)
    assert (pressure.full_avg10, pressure.full_total_usec) == (0.25, 99)
    assert parse_pressure("") == cgroup.Pressure()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\nb", "-x", "ä", "x" * 201])
def test_names_that_could_lead_elsewhere(name: str) -> None:
    with pytest.raises(cgroup.Unavailable, match="cannot be the name of a cgroup"):
        cgroup.create(name, cgroup.Limits(), base="/uio")


@pytest.mark.parametrize("path", ["", "uio/x", "/", "/a/../b", "/a//b", "/./a"])
def test_paths_that_could_lead_elsewhere(path: str) -> None:
    with pytest.raises(cgroup.Unavailable, match="is not the path of a cgroup"):
        cgroup.open(path)
