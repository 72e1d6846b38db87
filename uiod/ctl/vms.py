# SPDX-License-Identifier: BSD-3-Clause
"""The VMs below the runtime root, by name."""

from __future__ import annotations

import os

from uiod.ctl.client import Api
from uiod.ctl.errors import CtlError, UnknownVm
from uiod.ctl.settings import settings

TYPE_CHECKING = False  # as typing's, whose import would take longer than this file's
if TYPE_CHECKING:
    from typing import Any


def root() -> str:
    """The runtime root in force: `uiod.paths.runtime_root`, whose import `exec` is spared in the plain cases."""
    if explicit := settings.runtime_dir or os.environ.get("UIO_RUNTIME_DIR"):
        return os.path.abspath(explicit)
    if os.geteuid() == 0:
        return "/run/uio"
    from uiod.paths import runtime_root  # noqa: PLC0415

    return os.fspath(runtime_root())


def names() -> list[str]:
    """All VMs that have a directory, running or not."""
    top = root()
    try:
        entries = sorted(os.listdir(top))
    except (FileNotFoundError, NotADirectoryError):
        return []
    files = ("api.sock", "state.json", "lock", "last.json", "serial.log")
    return [
        name for name in entries if any(os.path.lexists(f"{top}/{name}/{file}") for file in files)
    ]


def find(name: str) -> Api:
    """The daemon of a VM.

    :raise UnknownVm: there is none of that name; the message has near ones
    """
    if not name or "/" in name or name in (".", ".."):
        raise CtlError(f"{name!r} is no name of a VM")
    directory = f"{root()}/{name}"
    if os.path.isdir(directory):
        return Api(name, directory)
    import difflib  # noqa: PLC0415 (only for the message)

    known = names()
    near = difflib.get_close_matches(name, known, 3, 0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = f"there are: {', '.join(known[:10])}"
    else:
        hint = (
            f"no VM is running below {root()} (--runtime-dir or $UIO_RUNTIME_DIR say where to look)"
        )
    raise UnknownVm(f"there is no VM {name!r}", hint)


def last_info(api: Api) -> dict[str, Any] | None:
    """What the daemon wrote down of a VM that has ended (the last `VmInfo`); None if it has not."""
    import json  # noqa: PLC0415 (not on exec's way)
    from pathlib import Path  # noqa: PLC0415

    from uiod.paths import RuntimeDir  # noqa: PLC0415

    try:
        with open(RuntimeDir(Path(api.directory)).last, "rb") as file:
            info = json.loads(file.read(1 << 20))
    except (OSError, ValueError):
        return None
    if not isinstance(info, dict):
        return None
    return info | {"name": api.name, "ready": False, "pid": None, "qemu_pid": None}
