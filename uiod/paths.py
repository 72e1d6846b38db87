# SPDX-License-Identifier: BSD-3-Clause
"""Where a VM's run-time files are: one directory per VM below one root.

Shared by uiod, which makes them, and uioctl, which looks for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def runtime_root(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The directory that holds one directory per VM.

    In order: the ``--runtime-dir`` option, ``$UIO_RUNTIME_DIR``, ``/run/uio`` for root,
    ``$XDG_RUNTIME_DIR/uio``, and ``/tmp/uio-UID`` where there is nothing better.
    """
    if explicit is not None:
        return Path(explicit).absolute()
    if env := os.environ.get("UIO_RUNTIME_DIR"):
        return Path(env).absolute()
    if os.geteuid() == 0:
        return Path("/run/uio")
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "uio"
    return Path(f"/tmp/uio-{os.getuid()}")


@dataclass(frozen=True)
class RuntimeDir:
    """The files of one VM. All sockets are of mode 0600 inside a directory of mode 0700."""

    path: Path

    @property
    def api(self) -> Path:
        """uiod's HTTP socket."""
        return self.path / "api.sock"

    @property
    def lock(self) -> Path:
        """Locked (flock) by the uiod that owns the name."""
        return self.path / "lock"

    @property
    def state(self) -> Path:
        """What a later uiod needs to adopt the VM (JSON)."""
        return self.path / "state.json"

    @property
    def qmp(self) -> Path:
        """QEMU's monitor; QEMU listens."""
        return self.path / "qmp.sock"

    def port(self, name: str) -> Path:
        """A virtserialport's socket (``channel``, ``console``, ``fs``, ``mount``); QEMU listens."""
        return self.path / f"{name}.sock"

    @property
    def serial_log(self) -> Path:
        """The serial port's log (with ``.1`` and ``.idx`` beside it); stays when the VM has ended."""
        return self.path / "serial.log"

    @property
    def qemu_log(self) -> Path:
        """QEMU's standard output and error."""
        return self.path / "qemu.log"

    @property
    def last(self) -> Path:
        """The last `VmInfo` of a VM that has ended (JSON)."""
        return self.path / "last.json"
