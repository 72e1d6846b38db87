# SPDX-License-Identifier: BSD-3-Clause
"""The tests of test_cgroup_real.py once more, on cgroup v2: in Debian's kernel under QEMU, with our files over 9P.

CI's machines have v1 controllers; systems with systemd have v2 since years. Both are to be tested everywhere.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from linux_kernel import initramfs, vmlinuz, with_dependencies

HERE = Path(__file__).parent
TOP = HERE.parents[1]
MODULES = ["virtio_pci", "9pnet_virtio", "9p"]


def build(work: Path) -> Path:
    init = work / "init"
    subprocess.run(
        ["gcc", "-static", "-O1", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
         "-o", init, HERE / "cgroup_linux" / "init.c"],
        check=True,
    )  # fmt: skip
    modules = with_dependencies(MODULES)
    files = {f"modules/{p.name}": p.read_bytes() for p in modules}
    files["modules/order"] = "".join(f"/modules/{p.name}\n" for p in modules).encode()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = [sys.executable, "-B", "-m", "pytest", "-v", "--color=no", "--noconftest", "-p", "no:cacheprovider",
               "--rootdir=/tmp", "-c", "/dev/null", str(HERE / "test_cgroup_real.py")]  # fmt: skip
    files["script"] = (
        f"export PATH={shlex.quote(path)} HOME=/tmp PYTEST_DISABLE_PLUGIN_AUTOLOAD=1\n"
        f"export PYTHONPATH={shlex.quote(str(TOP))} UIO_TEST_CGROUP=v2\n"
        f"exec {shlex.join(command)}\n"
    ).encode()
    initramfs(work / "initramfs", {"init": init.read_bytes(), **files})
    return work / "initramfs"


@pytest.mark.guest
@pytest.mark.linux
@pytest.mark.timeout(900)
def test_cgroup_v2_of_a_real_kernel(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "768M",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on",
        "-serial", f"file:{log}",
        "-kernel", str(vmlinuz()), "-initrd", str(build(tmp_path)),
        "-append", "console=ttyS0 quiet panic=-1 psi=1",
        "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=800)
    text = log.read_text(errors="replace").replace("\r", "")
    print(text)
    assert re.search(r"^status 0$", text, re.M)
    done = re.search(r"(\d+) passed", text)
    assert done and int(done[1]) >= 11
    assert "skipped" not in text and "failed" not in text
