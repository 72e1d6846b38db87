# SPDX-License-Identifier: BSD-3-Clause
"""A VM's cgroup: one name in every hierarchy that has a controller of use, worked as if it were one thing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from cgroupspy.nodes import NodeControlGroup

from cgroup.errors import CgroupError, Unavailable
from cgroup.layout import USED
from cgroup.limits import Limits
from cgroup.nodes import GroupNode
from cgroup.usage import Usage

_KILL_PATIENCE_S = 10.0
_FIELDS = ("memory", "memory_high", "cpu", "cpu_weight", "pids", "io")


class Group(NodeControlGroup):
    """One cgroup. Made by `cgroup.create` or `cgroup.open`.

    The calling process may be in the group itself, as uiod is: `kill` spares it and `delete` moves it back to where it
    came from. `warnings` says which limits could not be set, each in a sentence. None of the methods is asynchronous;
    `kill` and `delete` may take seconds when processes are slow to die.
    """

    def __init__(self, path: str, nodes: list[GroupNode]) -> None:
        super().__init__(path.rpartition("/")[2].encode())
        self.facets: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._path = path
        self._limits: Limits | None = None  # unknown
        for node in nodes:
            self.add_node(node)

    def __repr__(self) -> str:
        return f"<Group {self._path}>"

    def add_node(self, node: GroupNode) -> None:
        """Take in the group's directory in one more hierarchy."""
        self.nodes.append(node)
        for name, facet in node.facets.items():
            self.facets[name] = facet
            self.controllers[name.encode()] = facet

    @property
    def path(self) -> str:
        """The path below each hierarchy's mount, as /proc/PID/cgroup shows it."""
        return self._path

    @property
    def version(self) -> int:
        """2 if the memory controller (or, without one, the group) is in the unified hierarchy."""
        node = self.facets["memory"].node if "memory" in self.facets else self.nodes[0]
        return int(node.hierarchy.version)

    @property
    def directories(self) -> list[str]:
        """The directories, one per hierarchy."""
        return [node.directory for node in self.nodes]

    def exists(self) -> bool:
        """Whether it is there in at least one hierarchy."""
        return any(node.exists() for node in self.nodes)

    def pids(self) -> list[int]:
        """The processes in the group."""
        return sorted(set().union(*(node.pids() for node in self.nodes)))

    def add(self, pid: int) -> None:
        """Move a process and all its threads into the group, in every hierarchy.

        :raise CgroupError: it has ended, or the kernel refuses
        """
        for node in self.nodes:
            node.add(pid)

    def set(self, limits: Limits) -> list[str]:
        """Put limits in force; what was in force and is `None` now is lifted.

        :return: the limits that this machine cannot keep, each in a sentence (also in `warnings`)
        :raise CgroupError: the kernel refuses a value, e.g. a memory limit below what is in use
        """
        before = self._limits
        changed = {
            key for key in _FIELDS if before is None or getattr(before, key) != getattr(limits, key)
        }
        served: set[str] = set()
        for facet in self.facets.values():
            facet.apply(limits, changed)
            served.update(facet.LIMITS)
        self._limits = limits
        missing = [key for key in _FIELDS if key not in served and getattr(limits, key)]
        self.warnings = [
            f"the limit {key} is not in force: the cgroup controller {_controller_of(key)} "
            "is not available here"
            for key in missing
        ]
        return self.warnings

    def stats(self) -> Usage:
        """What the group has used so far and uses now."""
        usage = Usage()
        for name in (
            "core",
            *USED,
        ):  # v1's own figures win over those of an empty unified hierarchy
            if name in self.facets:
                self.facets[name].read(usage)
        return usage

    def oom_kills(self) -> int:
        """How many processes of the group were killed because its memory limit was reached."""
        return int(self.facets["memory"].oom_kills()) if "memory" in self.facets else 0

    def oom_fd(self) -> int:
        """A non-blocking descriptor that turns readable when memory runs out; the caller drains and closes it.

        It may fire without a kill: look at `oom_kills` afterwards.
        """
        if "memory" not in self.facets:
            raise Unavailable("the cgroup controller memory is not available here")
        return int(self.facets["memory"].oom_fd())

    def kill(self) -> None:
        """Kill all processes of the group but the caller, and wait until they are gone.

        :raise CgroupError: some are still there after ten seconds
        """
        mine = os.getpid()
        core = self.facets.get("core")
        if mine not in self.pids() and core is not None and core.has("cgroup.kill"):
            core.kill_all = True  # atomic: not even a fork bomb escapes
        with self._no_forks():
            self._kill_one_by_one(mine, self.facets.get("freezer", core))

    @contextlib.contextmanager
    def _no_forks(self) -> Iterator[None]:
        """While members are killed one by one, a fork bomb must not be quicker."""
        pids = self.facets.get("pids")
        if pids is None:
            yield
            return
        before = pids.max
        pids.max = 0
        try:
            yield
        finally:
            pids.max = before

    def _kill_one_by_one(self, mine: int, freezer: Any) -> None:
        deadline = time.monotonic() + _KILL_PATIENCE_S
        while left := [pid for pid in self.pids() if pid != mine]:
            if time.monotonic() > deadline:
                raise CgroupError(f"processes {left} of cgroup {self._path} do not end")
            # Frozen, they cannot fork away from the signals; but then neither could this process send them.
            freeze = freezer if mine not in self.pids() else None
            if freeze is not None:
                with contextlib.suppress(CgroupError):
                    freeze.freeze()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if freeze is not None:
                with contextlib.suppress(CgroupError):
                    freeze.thaw()
            time.sleep(0.005)

    def delete(self) -> None:
        """Remove the group; the caller leaves it first. Nothing happens if it is gone already.

        :raise CgroupError: there are still other processes in it
        """
        if os.getpid() in self.pids():
            self._go_back()
        if alive := [pid for pid in self.pids() if _is_alive(pid)]:
            raise CgroupError(f"cannot remove the cgroup {self._path}: processes {alive} are in it")
        for node in self.nodes:
            node.remove()
        for node in self.nodes:
            if node.parent is not None and node.parent.parent is not None:
                if str(node.parent) == node.hierarchy.own:
                    continue  # a delegated cgroup is systemd's to remove
                node.parent.remove_if_empty()

    def _go_back(self) -> None:
        for node in self.nodes:
            if os.getpid() not in node.pids():
                continue
            origin = node.hierarchy.own
            if origin == self._path:  # adopted by a process that systemd started in here
                origin = str(node.parent)
            above = GroupNode.at(node.hierarchy, origin)
            if "core" in above.facets and origin == str(node.parent):
                above.facets[
                    "core"
                ].disable_all()  # a v2 cgroup has processes or gives controllers, not both
            above.add(os.getpid())


def _controller_of(key: str) -> str:
    return "cpu" if key.startswith("cpu") else "memory" if key.startswith("memory") else key


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
