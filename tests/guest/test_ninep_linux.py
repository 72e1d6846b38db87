# SPDX-License-Identifier: BSD-3-Clause
"""Linux' own 9P client, in Debian's kernel under QEMU, mounted twice from a ninep_server process pair."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from linux_kernel import initramfs, vmlinuz, with_dependencies
from ninep_client import descriptors

from ninep_server import LocalNode, Policy, Stats, serve_stream

HERE = Path(__file__).parent / "linux9p"
MODULES = ["virtio_pci", "virtio_console", "9pnet_fd", "9p"]


# Debian's own programs, run on the mount: program, its arguments, and what else it needs to have.
TOOLS = {
    "dbench": "-t 4 -c /usr/share/dbench/client.txt -D . 2",
    "fio": "--name=verify --directory=. --rw=randrw --size=2m --bs=8k --ioengine=psync --verify=crc32c --minimal",
    "stress-ng": "--temp-path . --verify --rename 1 --rename-ops 50 --link 1 --link-ops 10 --symlink 1 --symlink-ops 10"
    " --chmod 1 --chmod-ops 20 --dir 1 --dir-ops 50 --hdd 1 --hdd-ops 16 --hdd-bytes 1m --utime 1 --utime-ops 50"
    " --xattr 1 --xattr-ops 5 --timeout 60s",
}


def tools() -> dict[str, bytes]:
    """The programs, their libraries where they expect them, and the list of commands."""
    files = {"usr/share/dbench/client.txt": Path("/usr/share/dbench/client.txt").read_bytes()}
    commands = ""
    for name, arguments in TOOLS.items():
        program = shutil.which(name)
        assert program, f"{name} is missing: apt-get install {name}"
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for path in (program, *re.findall(r"(/\S+)", linked.stdout)):
            files[path.lstrip("/")] = Path(path).read_bytes()
        commands += f"{program} {arguments}\n"
    files["tools/commands"] = commands.encode()
    return files


def build(work: Path) -> Path:
    """An initramfs with the checks as its init."""
    init = work / "init"
    subprocess.run(
        ["gcc", "-static", "-O1", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
         "-o", init, *sorted(HERE.glob("*.c"))],
        check=True,
    )  # fmt: skip
    modules = with_dependencies(MODULES)
    files = {f"modules/{p.name}": p.read_bytes() for p in modules}
    files["modules/order"] = "".join(f"/modules/{p.name}\n" for p in modules).encode()
    initramfs(work / "initramfs", {"init": init.read_bytes(), **files, **tools()})
    return work / "initramfs"


async def boot(work: Path, image: Path, ports: int) -> trio.Process:
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "768M",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on",
        "-serial", f"file:{work}/serial.log",
        "-kernel", str(vmlinuz()), "-initrd", str(image),
        "-append", "console=ttyS0 quiet panic=-1",
        "-device", "virtio-serial-pci",
    ]  # fmt: skip
    for number in range(ports):
        command += [
            "-chardev", f"socket,id=fs{number},path={work}/fs{number}.sock,server=on,wait=off",
            "-device", f"virtserialport,chardev=fs{number},name=fs{number}",
        ]  # fmt: skip
    return await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)


async def connect(path: Path) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_unix_socket(path)
        except OSError:
            await trio.sleep(0.02)


@pytest.mark.guest
@pytest.mark.linux
@pytest.mark.timeout(900)
async def test_the_linux_client_finds_a_posix_file_system(tmp_path: Path) -> None:
    image = build(tmp_path)
    export = tmp_path / "export"
    export.mkdir()
    (tmp_path / "canary").write_text("untouched")
    root, stats = LocalNode.root(export, Policy(uid=0, gid=0)), Stats()
    before = descriptors()
    qemu = await boot(tmp_path, image, 2)
    try:
        with trio.fail_after(800):
            async with trio.open_nursery() as nursery:
                for number in range(2):
                    stream = await connect(tmp_path / f"fs{number}.sock")
                    nursery.start_soon(serve_stream, stream, root, None, stats)
                await qemu.wait()
    finally:
        if qemu.returncode is None:
            qemu.kill()
            await qemu.wait()
        assert qemu.stderr is not None
        await qemu.stderr.aclose()
    log = (tmp_path / "serial.log").read_text(errors="replace").replace("\r", "")
    print(log)
    assert re.findall(r"^not ok .*", log, re.M) == []
    done = re.search(r"^done (\d+)$", log, re.M)
    assert done
    assert len(re.findall(r"^ok (?!tool)", log, re.M)) == int(done[1]) >= 17
    assert len(re.findall(r"^ok tool", log, re.M)) == len(TOOLS)
    assert "unmounted" in log
    assert descriptors() == before
    assert sorted(p.name for p in tmp_path.glob("*") if p.suffix != ".sock") == [
        "canary", "export", "init", "initramfs", "serial.log",
    ]  # fmt: skip
    assert stats.ops["Twalk"] > 1000
