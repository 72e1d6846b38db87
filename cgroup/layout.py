# SPDX-License-Identifier: BSD-3-Clause
"""Which cgroup hierarchies this machine has, and where in them this process is.

Read from /proc/self/mountinfo and /proc/self/cgroup alone, so that v1, hybrid and v2 machines, containers and
namespaces need no special cases further up: every controller is found where it is mounted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgroup.errors import Unavailable

DEFAULT_BASE = "/uio"

# The order in which a process is moved: memory first, so that nothing it allocates later escapes.
USED = ("memory", "cpu", "cpuacct", "pids", "io", "freezer")
_V1_NAMES = {"blkio": "io"}  # one name per controller, v2's
_DELEGATE = ("user.delegate", "trusted.delegate")  # what systemd marks a delegated cgroup with


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup file system.

    :param mount: where it is mounted
    :param controllers: the ones of `USED` that it has, with v2's names
    :param own: this process's cgroup, as a path below `mount`
    """

    mount: str
    version: Literal[1, 2]
    controllers: frozenset[str]
    own: str
    systemd: bool = False  # the one in which systemd keeps its units


@dataclass(frozen=True)
class Layout:
    """All hierarchies that matter."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def mode(self) -> Literal["none", "v1", "hybrid", "v2"]:
        """How one would call this machine."""
        v2 = self.unified is not None
        v1 = any(h.version == 1 and h.controllers for h in self.hierarchies)
        if v1:
            return "hybrid" if v2 else "v1"
        return "v2" if v2 else "none"

    @property
    def unified(self) -> Hierarchy | None:
        """The v2 hierarchy, which on a hybrid machine has few controllers or none."""
        return next((h for h in self.hierarchies if h.version == 2), None)

    def of(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has `controller`."""
        return next((h for h in self.hierarchies if controller in h.controllers), None)

    @classmethod
    def detect(cls, proc: str | os.PathLike[str] = "/proc/self") -> Layout:
        """Look at the machine."""
        try:
            mountinfo = Path(proc, "mountinfo").read_text(errors="surrogateescape")
            membership = Path(proc, "cgroup").read_text(errors="surrogateescape")
        except OSError as error:
            raise Unavailable(f"cannot read {error.filename}: {error.strerror}") from None
        return cls(tuple(_hierarchies(mountinfo, membership)))

    def delegated(self) -> str | None:
        """The cgroup that systemd has handed over to this process, if it has."""
        for hierarchy in self.hierarchies:
            if not hierarchy.systemd or hierarchy.own == "/":
                continue
            path = hierarchy.mount + hierarchy.own
            if is_marked_delegated(path):
                return hierarchy.own
            parent = os.path.dirname(hierarchy.own)
            if parent != "/" and is_marked_delegated(hierarchy.mount + parent):
                return parent  # systemd's DelegateSubgroup=: the process is in a leaf of what is delegated
            # Before 251 systemd marked nothing for users, but gave them the directory and these two files.
            files = (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
            if os.geteuid() != 0 and all(os.access(file, os.W_OK) for file in files):
                return hierarchy.own
        return None

    def base(self) -> str:
        """Where VMs' cgroups go: the delegated subtree, else `/uio` for those who may."""
        own = self.delegated()
        if own is not None:
            # A restarted daemon may find itself in a leaf it made earlier, which cannot have children.
            parent = os.path.dirname(own)
            above = next((h for h in self.hierarchies if h.systemd), None)
            if above and parent != "/" and is_marked_delegated(above.mount + parent):
                return parent
            return own
        if os.geteuid() == 0:
            return DEFAULT_BASE
        raise Unavailable(
            "no right to make cgroups: run as root, or under systemd with Delegate=yes"
        )


def is_marked_delegated(path: str) -> bool:
    """Whether systemd has marked the cgroup at `path` as somebody else's to manage."""
    for attribute in _DELEGATE:
        try:
            if os.getxattr(path, attribute) == b"1":
                return True
        except OSError:
            continue  # not set, not supported, or not ours to see: all mean no
    return False


def _hierarchies(mountinfo: str, membership: str) -> Iterator[Hierarchy]:
    paths: dict[str, str] = {}  # by controller or `name=…`; v2 is the empty one
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path

    seen: set[str] = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(tail) < 3:
            continue
        kind, root, mount = tail[0], _unescape(fields[3]), _unescape(fields[4])
        if kind == "cgroup2" and "" in paths and "" not in seen:
            seen.add("")
            yield Hierarchy(
                mount,
                2,
                _v2_controllers(mount),
                _below(paths[""], root),
                "name=systemd" not in paths,
            )
        elif kind == "cgroup":
            options = set(tail[2].split(","))
            here = {name for name in paths if name and name in options} - seen
            if not here:
                continue
            seen |= here
            used = frozenset(_V1_NAMES.get(name, name) for name in here) & frozenset(USED)
            own = _below(paths[min(here)], root)
            yield Hierarchy(mount, 1, used, own, "name=systemd" in here)


def _v2_controllers(mount: str) -> frozenset[str]:
    try:
        found = Path(mount, "cgroup.controllers").read_text().split()
    except OSError:
        found = []
    return frozenset(found) & frozenset(USED)


def _below(path: str, root: str) -> str:
    """A path of /proc/self/cgroup as seen below a mount that shows only `root` (a bind mount, a container)."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :] or "/"
    return (
        path if not path.startswith("/..") else "/"
    )  # above our cgroup namespace: not ours to name


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
