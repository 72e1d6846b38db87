# SPDX-License-Identifier: BSD-3-Clause
"""An application on Unikraft that mounts uIO-fs: tests/guest/unikraft/mount.c, given by KERNEL and KERNEL_APP=mount."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm as guests
from uiod_harness import Daemon, daemon

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        os.environ.get("KERNEL_APP") != "mount", reason="only Unikraft can mount uIO-fs"
    ),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    config = guests.prepare(
        tmp_path,
        app="mount",
        vm=['accel = "tcg"', "stop_timeout_s = 5"],
        more='[limits]\ncgroup = "off"',
    )
    config.write_text(config.read_text().replace("[uio]\n", "[uio]\nmount = true\n"))
    return config


@pytest.fixture
def root() -> Iterator[Path]:
    # Not pytest's own, whose paths are too long for sockets.
    directory = Path(tempfile.mkdtemp(prefix="uiod-"))
    yield directory
    shutil.rmtree(directory)


def said(vm: Daemon, line: str, times: int = 1) -> None:
    """Wait until the application has said so."""
    deadline = time.monotonic() + 60
    while vm.api.get("/v1/logs").replace(b"\r", b"").count(f"mount: {line}\n".encode()) < times:
        assert time.monotonic() < deadline, vm.api.get("/v1/logs")
        time.sleep(0.05)


def test_files_of_the_host_are_files_of_the_application(config: Path, root: Path) -> None:
    """And when uiod is killed it is told so, instead of waiting; then it can mount anew."""
    host = config.parent / "host"
    chance = random.Random(1)

    def give(size: int) -> None:
        (host / "new").write_bytes(chance.randbytes(size))
        (host / "new").rename(host / "in")

    def use(vm: Daemon) -> None:
        vm.until_ready()
        for size in (11, 300_001, 64 << 10):
            give(size)
            said(vm, f"copied {size} bytes")
            assert (host / "out").read_bytes() == (host / "in").read_bytes()
        # libuio's own session goes on beside it.
        assert vm.api.exec("cat", "/host/out")[0] == (host / "in").read_bytes()
        assert vm.api.exec("cat", "guest:/uio1/host/out")[0] == (host / "in").read_bytes()

    first = Daemon(config, root)
    try:
        use(first)
    except BaseException:
        first.end()
        raise
    first.process.kill()
    first.process.wait()
    with daemon(config, root) as vm:
        assert vm.until_ready()["adopted"]
        said(vm, "it is at /uio2 after: Input/output error")
        give(5000)
        said(vm, "copied 5000 bytes")
        assert (host / "out").read_bytes() == (host / "in").read_bytes()
