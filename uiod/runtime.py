# SPDX-License-Identifier: BSD-3-Clause
"""A VM's runtime directory: who owns it, what a later uiod needs to know, and what is left when it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

import msgspec

from uiod.errors import ExitStatus, UiodError
from uiod.paths import RuntimeDir
from uiod.qemu import OPTIONAL_SOCKETS, SOCKETS, Process, start_time


class SavedState(msgspec.Struct, kw_only=True):
    """state.json: written whenever a VM starts, read by the uiod that adopts it."""

    pid: int  # of QEMU
    started_ticks: int  # with the pid it names the process for good
    started: float  # Unix time
    argv: list[str]
    accel: str
    accel_reason: str
    config: str
    cgroup: str | None = None
    restarts: int = 0


class Ownership:
    """The lock on a name. Whoever holds it owns the directory and the VM."""

    def __init__(self, run: RuntimeDir) -> None:
        self.run = run
        self._fd = -1

    def acquire(self) -> None:
        """:raise UiodError: somebody else has it, or the directory cannot be made."""
        try:
            # The root may be anybody's, such as /tmp: what is ours in it is ours alone.
            self.run.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.run.path.mkdir(mode=0o700, exist_ok=True)
            found = self.run.path.lstat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o22:
                raise UiodError(
                    f"{self.run.path} belongs to somebody else or can be written by others",
                    "choose another --runtime-dir",
                    ExitStatus.UNAVAILABLE,
                )
            while True:
                self._fd = os.open(self.run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one before may have removed the file after we opened it: then it locks nobody out.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._fd), self.run.lock.stat()):
                        break
                os.close(self._fd)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise UiodError(
                f"the VM {self.run.path.name!r} is running already"
                + (f" (uiod is process {owner})" if owner else ""),
                "stop it first, or set another name in [vm]",
                ExitStatus.BUSY,
            ) from None
        except OSError as error:
            raise UiodError(
                f"{self.run.path}: {error.strerror}",
                "choose another --runtime-dir",
                ExitStatus.UNAVAILABLE,
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the name, with the lock's file; the directory too if nothing is in it."""
        self.run.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.run.path.rmdir()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the name and leave everything as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def clear(self) -> None:
        """Remove what belongs to a VM and its uiod."""
        self.clear_machine()
        for path in (self.run.api, self.run.qemu_log):
            path.unlink(missing_ok=True)

    def clear_machine(self) -> None:
        """Remove what belongs to one run of QEMU."""
        sockets = (self.run.port(name) for name in (*SOCKETS, *OPTIONAL_SOCKETS))
        for path in (*sockets, self.run.state):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
    temporary.replace(path)


def save_state(run: RuntimeDir, state: SavedState) -> None:
    """:raise UiodError: there is no room."""
    try:
        write_atomically(run.state, msgspec.json.encode(state))
    except OSError as error:
        raise UiodError(f"{run.state}: {error.strerror}", status=ExitStatus.UNAVAILABLE) from None


def load_state(run: RuntimeDir) -> SavedState | None:
    """What the uiod before us wrote; None: nothing, or nothing of use."""
    try:
        return msgspec.json.decode(run.state.read_bytes(), type=SavedState)
    except (OSError, msgspec.MsgspecError):
        return None


def find_running(run: RuntimeDir) -> tuple[Process, SavedState | None] | None:
    """The VM that goes on without its uiod, if there is one.

    Also one whose uiod died before it could write down its process: whoever listens at the monitor's socket is it.
    """
    state = load_state(run)
    if state is not None and (process := Process.adopt(state.pid, state.started_ticks)):
        return process, state
    pid = _listener(run.qmp)
    if pid is None or (started := start_time(pid)) is None:
        return None
    process = Process.adopt(pid, started)
    return (process, None) if process is not None else None


def _listener(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                raise UiodError(f"{path}: {error.strerror}", status=ExitStatus.QEMU) from None
            return None
        pid, _uid, _gid = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
    return int(pid) or None
