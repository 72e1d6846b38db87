# SPDX-License-Identifier: BSD-3-Clause
"""The unit uiod@.service: what systemd says of it, and Debian's systemd running it in a VM of the test's own.

What runs there is what `make install` installs; in place of QEMU, which would be emulated twice, is the fake one.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from linux_kernel import initramfs, vmlinuz, with_dependencies

from overlays.keys import generate

HERE = Path(__file__).parent
TOP = HERE.parents[1]
UNIT = TOP / "examples" / "uiod@.service"
MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]
FAKE = TOP / "tests" / "unit" / "uiod_fakeguest.py"

# What Debian would start besides and this machine does without.
MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket", "systemd-timesyncd.service", "systemd-networkd.service", "getty.target",
    "systemd-logind.service", "dbus.service", "dbus.socket", "systemd-update-utmp.service",
    "systemd-random-seed.service", "systemd-remount-fs.service", "systemd-modules-load.service",
    "systemd-sysctl.service", "systemd-binfmt.service", "systemd-journal-flush.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-firstboot.service",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-mqueue.mount", "dev-hugepages.mount",
    "proc-sys-fs-binfmt_misc.automount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "keyboard-setup.service", "console-setup.service", "apparmor.service", "networking.service",
    "e2scrub_reap.service", "timers.target", "user.slice", "modprobe@configfs.service",
    "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@fuse.service", "modprobe@loop.service", "ldconfig.service",
    "systemd-hwdb-update.service", "systemd-machine-id-commit.service",
)  # fmt: skip

CHECK = """[Unit]
Description=The test
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -B -u /opt/test/check.py
ExecStopPost=/bin/systemctl --force --force poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
"""

CONFIG = """[vm]
kernel = "/opt/test/kernel"
qemu = "/opt/test/qemu"
accel = "tcg"
stop_timeout_s = 30
[uio]
exchange = "/var/lib/uio/t"
overlays = ["/usr/lib/uio/overlays"]
confine = "require"
[trust]
keys = ["/etc/uio/keys"]
[limits]
memory = "256M"
pids = 64
cgroup = "require"
"""


@pytest.mark.timeout(900)
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    subprocess.run(
        ["make", "-s", "install", f"DESTDIR={tmp_path}", "WITH_DEPS=no"], cwd=TOP, check=True
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={tmp_path}",
         "/usr/lib/systemd/system/uiod@.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Versions before 254 do not know DelegateSubgroup; every other word about our file is a mistake.
    words = [w for w in done.stderr.splitlines() if "uiod@" in w and "DelegateSubgroup" not in w]
    words = [w for w in words if "is not executable" not in w]  # /bin/kill is not below the root
    assert not words


def test_the_unit_is_confined() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def files(work: Path) -> Path:
    """What lies over the host's root in the VM."""
    top = work / "files"
    subprocess.run(["make", "-s", "install", f"DESTDIR={top}"], cwd=TOP, check=True)
    test = top / "opt" / "test"
    test.mkdir(parents=True)
    for source in (FAKE, HERE / "systemd_linux" / "check.py"):
        (test / source.name).write_bytes(source.read_bytes())
    (test / "kernel").write_bytes((TOP / "build" / "refguest" / "count.elf").read_bytes())
    (test / "qemu").write_text(
        "#!/bin/sh\nPYTHONPATH=/usr/lib/uio/python exec /usr/bin/python3 -B "
        '/opt/test/uiod_fakeguest.py "$@"\n'
    )
    (test / "qemu").chmod(0o755)
    etc = top / "etc"
    (etc / "uio" / "t.cfg").write_text(CONFIG)
    (etc / "uio" / "bad.cfg").write_text('[vm]\nkernal = "/opt/test/kernel"\n')
    canary = top / "srv" / "canary"
    canary.mkdir(parents=True)
    for name, where in (("demo", etc / "uio" / "keys"), ("key", canary)):
        generate(work / f"{name}.pem")
        public = where / f"{name}.pub.pem"
        public.write_bytes((work / f"{name}.pub.pem").read_bytes())
        public.chmod(0o644)
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "fstab").write_text("")
    units = etc / "systemd" / "system"
    units.mkdir(parents=True)
    for name in MASKED:
        (units / name).symlink_to("/dev/null")
    (units / "test.service").write_text(CHECK)
    (units / "test.target").write_text(
        "[Unit]\nRequires=basic.target test.service\nAfter=basic.target\nAllowIsolate=yes\n"
    )
    return top


def boot(work: Path) -> Path:
    init = work / "init"
    subprocess.run(
        ["gcc", "-static", "-O1", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
         "-o", init, HERE / "systemd_linux" / "init.c"],
        check=True,
    )  # fmt: skip
    modules = with_dependencies(MODULES)
    packed = {f"modules/{p.name}": p.read_bytes() for p in modules}
    packed["modules/order"] = "".join(f"/modules/{p.name}\n" for p in modules).encode()
    initramfs(work / "initramfs", {"init": init.read_bytes(), **packed})
    return work / "initramfs"


@pytest.mark.guest
@pytest.mark.linux
@pytest.mark.timeout(1800)
def test_systemd_runs_the_unit(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    shares = []
    for tag, path in (("host", Path("/")), ("files", files(tmp_path))):
        shares += ["-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap",
                   "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]  # fmt: skip
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1G", "-smp", "2",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on",
        "-serial", f"file:{log}",
        "-kernel", str(vmlinuz()), "-initrd", str(boot(tmp_path)),
        "-append", "console=ttyS0 quiet panic=-1 psi=1 systemd.unit=test.target systemd.show_status=0 "
                   "systemd.unified_cgroup_hierarchy=1 systemd.log_target=journal",
        *shares,
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, timeout=1500)
    finally:
        text = log.read_text(errors="replace").replace("\r", "") if log.exists() else ""
        print(text)
    assert "all steps done" in text
    assert "FAILED" not in text
    assert len(re.findall(r"^ok \w+ ", text, re.M)) >= 9
