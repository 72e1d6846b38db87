# SPDX-License-Identifier: BSD-3-Clause
"""cgroupspy's tree nodes and file interfaces, extended for v2, for co-mounted controllers and for errors in words.

cgroupspy knows cgroup v1 with one controller per mount. Here a node may carry several controllers, in either version;
the controllers themselves are in `controllers_v1` and `controllers_v2`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from os import mkdir, rmdir
from typing import Any

from cgroupspy.interfaces import BaseFileInterface
from cgroupspy.nodes import Node

from cgroup.errors import CgroupError, Unavailable
from cgroup.layout import Hierarchy

_RMDIR_PATIENCE_S = 5.0  # a killed process is in its cgroup until the kernel has taken it apart


class MaxFile(BaseFileInterface):
    """A number or the word `max`, which is `None` here."""

    def sanitize_get(self, value: str) -> int | None:
        return None if value == "max" else int(value)

    def sanitize_set(self, value: int | None) -> str:
        return "max" if value is None else str(int(value))


class KeyedFile(BaseFileInterface):
    """Lines of `key number`, as in cpu.stat or memory.events."""

    readonly = True

    def sanitize_get(self, value: str) -> dict[str, int]:
        pairs = (line.split() for line in value.splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


class WordsFile(BaseFileInterface):
    """Words separated by blanks, as in cgroup.controllers; written as one string."""

    def sanitize_get(self, value: str) -> list[str]:
        return value.split()


class TextFile(BaseFileInterface):
    """A file whose content its controller reads itself."""


class ErrorsInWords:
    """Mixed into cgroupspy's controllers: what the kernel refuses becomes a sentence."""

    node: Node

    def filepath(self, filename: bytes) -> str:
        """The file's path, as text."""
        return os.fsdecode(os.path.join(self.node.full_path, filename))

    def get_property(self, filename: bytes) -> str:
        """Read a file of the group."""
        try:
            with open(self.filepath(filename)) as file:
                return file.read().strip()
        except OSError as error:
            name = os.fsdecode(filename)
            raise CgroupError(f"cannot read {name} of {self.node}: {error.strerror}") from error

    def set_property(self, filename: bytes, value: object) -> None:
        """Write a file of the group, in one system call, as the kernel wants it."""
        try:
            with open(self.filepath(filename), "wb", buffering=0) as file:
                file.write(str(value).encode())
        except OSError as error:
            name = os.fsdecode(filename)
            raise CgroupError(
                f"cannot set {name} of {self.node} to {value}: {error.strerror}"
            ) from error

    def has(self, filename: str) -> bool:
        """Whether this kernel offers the file."""
        return os.path.exists(self.filepath(filename.encode()))


class GroupNode(Node):
    """One cgroup in one hierarchy, with all the controllers that the hierarchy has.

    `path` is relative to the mount, as /proc/PID/cgroup shows it; `full_path` is the directory.
    """

    def __init__(self, name: str, hierarchy: Hierarchy, parent: GroupNode | None = None) -> None:
        self.hierarchy = hierarchy
        super().__init__(name, parent)
        self.facets: dict[str, Any] = self._facets()

    def __str__(self) -> str:
        return os.fsdecode(self.path)

    @property
    def directory(self) -> str:
        """`full_path` as text."""
        return os.fsdecode(self.full_path)

    @classmethod
    def at(cls, hierarchy: Hierarchy, path: str) -> GroupNode:
        """The node of `path` and those above it; nothing is made."""
        node = cls(hierarchy.mount, hierarchy)
        for name in path.strip("/").split("/"):
            if name:
                node = cls(name, hierarchy, node)
        return node

    def ancestors(self) -> list[GroupNode]:
        """From the mount down to the parent."""
        found: list[GroupNode] = []
        node = self.parent
        while node is not None:
            found.insert(0, node)
            node = node.parent
        return found

    def exists(self) -> bool:
        """Whether the cgroup is there."""
        return os.path.isdir(self.directory)

    def make(self) -> None:
        """Make the cgroup and those above it."""
        for node in [*self.ancestors()[1:], self]:
            try:
                mkdir(node.directory, 0o755)
            except FileExistsError:
                continue
            except OSError as error:
                raise Unavailable(
                    f"cannot make the cgroup {node.directory}: {error.strerror}"
                ) from error

    def remove(self) -> None:
        """Remove the cgroup and what is below it, waiting for killed processes to be gone."""
        deadline = time.monotonic() + _RMDIR_PATIENCE_S
        for directory in self.subtree():
            while True:
                try:
                    rmdir(directory)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if time.monotonic() < deadline:
                        time.sleep(0.01)
                        continue
                    raise CgroupError(
                        f"cannot remove the cgroup {directory}: {error.strerror}"
                    ) from error
                break

    def remove_if_empty(self) -> None:
        """Remove the cgroup unless somebody uses it."""
        try:
            rmdir(self.directory)
        except OSError:
            return

    def subtree(self) -> Iterator[str]:
        """The directories of this cgroup and of all below it, deepest first."""
        if not self.exists():
            return
        for directory, _, _ in os.walk(self.directory, topdown=False):
            yield directory

    def pids(self) -> set[int]:
        """Processes in this cgroup and below."""
        found: set[int] = set()
        for directory in self.subtree():
            try:
                with open(f"{directory}/cgroup.procs") as file:
                    found.update(int(line) for line in file)
            except OSError:
                continue  # removed meanwhile
        return found - {0}  # 0: a process outside our pid namespace

    def add(self, pid: int) -> None:
        """Move a process, with all its threads, here."""
        try:
            with open(f"{self.directory}/cgroup.procs", "wb", buffering=0) as file:
                file.write(str(pid).encode())
        except ProcessLookupError:
            raise CgroupError(f"cannot move process {pid} to {self}: it has ended") from None
        except OSError as error:
            raise CgroupError(f"cannot move process {pid} to {self}: {error.strerror}") from error

    # What cgroupspy derives from a directory's place below /sys/fs/cgroup comes from the hierarchy here.

    def _get_controller_type(self) -> bytes | None:
        names = sorted(self.hierarchy.controllers)
        return names[0].encode() if names else None

    def _get_controller(self) -> None:
        return None  # there may be several: `facets`

    def _facets(self) -> dict[str, Any]:
        from cgroup import controllers_v1, controllers_v2  # noqa: PLC0415 (they build on this file)

        kinds: dict[str, Any]
        kinds = controllers_v1.KINDS if self.hierarchy.version == 1 else controllers_v2.KINDS
        found = {
            name: kinds[name](self) for name in sorted(self.hierarchy.controllers) if name in kinds
        }
        if self.hierarchy.version == 2:
            found["core"] = controllers_v2.Core(self)
        return found
