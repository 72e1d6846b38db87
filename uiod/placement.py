# SPDX-License-Identifier: BSD-3-Clause
"""Where a VM lives on the host: its cgroup and limits, the files it needs, and what remains reachable for it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from uiod.config import Config
from uiod.confine import Files, system_files
from uiod.errors import ExitStatus, UiodError
from uiod.paths import RuntimeDir
from uiod.qemu import SOCKETS
from uiod.runtime import SavedState

if TYPE_CHECKING:
    import cgroup

_OOM_SCORE = Path(f"/proc/{os.getpid()}/oom_score_adj")
_VICTIM = "500"
_SOCKET_PATH = 107  # bytes of a sockaddr_un, without the one that ends it


def check_sockets(run: RuntimeDir) -> None:
    """:raise UiodError: the runtime directory's path is too long for the sockets in it."""
    longest = max((*map(run.port, SOCKETS), run.api), key=lambda path: len(os.fsencode(path)))
    excess = len(os.fsencode(longest)) - _SOCKET_PATH
    if excess > 0:
        raise UiodError(
            f"{run.path} is {excess} bytes too long for a directory of unix sockets",
            "choose a shorter --runtime-dir, or a shorter name in [vm]",
            ExitStatus.UNAVAILABLE,
        )


def check_files(config: Config) -> None:
    """:raise UiodError: a file or directory that the configuration names is not there, or is something else."""
    vm = config.vm
    for what, path in (("kernel", vm.kernel), ("symbols", vm.symbols), ("initrd", vm.initrd)):
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise UiodError(
                f"[vm] {what}: {path}: {error.strerror}",
                "build it, or correct the path",
                ExitStatus.KERNEL,
            ) from None
        if what == "symbols" and magic != b"\x7fELF":
            raise UiodError(f"[vm] {what}: {path} is no ELF file", status=ExitStatus.KERNEL)
    for share in config.share:
        if not share.path.is_dir():
            raise UiodError(
                f"[[share]] {share.tag}: {share.path} is no directory",
                "make it, or correct the path",
                ExitStatus.CONFIG,
            )


def _limits(config: Config) -> cgroup.Limits:
    import cgroup  # noqa: PLC0415 - a VM without a group does not need it

    wish = config.limits
    return cgroup.Limits(
        memory=wish.memory,
        memory_high=wish.memory_high,
        cpu=wish.cpu,
        cpu_weight=wish.cpu_weight,
        pids=wish.pids,
    )


def join_group(
    config: Config, saved: SavedState | None, warn: Callable[[str], None]
) -> cgroup.Group | None:
    """Put this process, and so each QEMU it starts, into the VM's cgroup. None: the VM has none.

    :param saved: of a VM that runs already, in a group.
    :raise UiodError: there can be none, and the configuration insists on it.
    """
    if config.limits.cgroup == "off":
        return None
    import cgroup  # noqa: PLC0415

    made = None
    try:
        if saved is not None and saved.cgroup is not None:
            group = cgroup.open(saved.cgroup)
            group.add(os.getpid())
            group.set(_limits(config))
        else:
            group = made = cgroup.create(config.name, _limits(config))
            group.add(os.getpid())
    except cgroup.CgroupError as error:
        if made is not None:
            with contextlib.suppress(cgroup.CgroupError):
                made.delete()
        if config.limits.cgroup == "require":
            raise UiodError(
                f'[limits] cgroup = "require", but there is none: {error}',
                status=ExitStatus.UNAVAILABLE,
            ) from None
        warn(f"the VM is in no cgroup of its own, and [limits] are not in force: {error}")
        return None
    return group


def set_limits(group: cgroup.Group, config: Config) -> str | None:
    """Put changed limits in force: why that is refused, if it is."""
    import cgroup  # noqa: PLC0415

    try:
        group.set(_limits(config))
    except cgroup.CgroupError as error:
        return f"[limits]: {error}"
    return None


@contextlib.contextmanager
def first_to_be_killed() -> Iterator[None]:
    """What is started within is what the kernel kills when the group's memory runs out, rather than this process."""
    before = None
    with contextlib.suppress(OSError):
        before = _OOM_SCORE.read_text()
        _OOM_SCORE.write_text(_VICTIM)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                _OOM_SCORE.write_text(before)


def reachable(config: Config, run: RuntimeDir, root: Path, group: cgroup.Group | None) -> Files:
    """What stays reachable for uiod and QEMU when they are confined."""
    vm, uio = config.vm, config.uio
    program = shutil.which(vm.qemu)
    paths = [vm.kernel, vm.symbols, vm.initrd, config.file.parent]
    readable = [
        *system_files(),
        *(path for path in paths if path is not None),
        *uio.overlays,
        *config.trust.keys,
        *uio.readable,
        *(share.path for share in config.share if share.readonly),
    ]
    if program is not None:
        readable += [Path(program).parent, Path(program).resolve().parent]
    writable = [
        run.path,
        _OOM_SCORE,
        Path("/sys/fs/cgroup"),
        *([uio.exchange] if uio.exchange is not None else []),
        *uio.writable,
        *(share.path for share in config.share if not share.readonly),
    ]
    if group is not None:
        writable += [Path(directory).parent for directory in group.directories]
    return Files(readable, writable, emptied=[root])
