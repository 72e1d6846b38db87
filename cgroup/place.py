# SPDX-License-Identifier: BSD-3-Clause
"""Where a group goes: making one with its limits, and finding one that is there."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from cgroup.errors import CgroupError, Unavailable
from cgroup.group import Group
from cgroup.layout import USED, Hierarchy, Layout
from cgroup.limits import Limits
from cgroup.nodes import GroupNode

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,199}")
# Names that a kernel's own files have or may get: those are prefixed with `_`, as systemd does.
_RESERVED = re.compile(r"(tasks|notify_on_release|release_agent)$|(cgroup|[a-z]+)\.")
_GIVEN = ("memory", "cpu", "pids", "io")  # the v2 controllers that are handed down to a group


def create(
    name: str, limits: Limits, *, base: str | None = None, layout: Layout | None = None
) -> Group:
    """Make the cgroup `name` and put `limits` in force. An empty one of that name is taken over.

    Where systemd has delegated a subtree to this process, the group is made there and this process is moved into it
    (v2 allows no processes beside groups); elsewhere root gets one below `/uio`. `Group.warnings` says which limits
    the machine cannot keep.

    :raise Unavailable: no cgroups, no rights, or processes are already in it
    :raise CgroupError: the kernel refuses a limit; the group is removed again
    """
    if not _NAME.fullmatch(name):
        raise Unavailable(f"{name!r} cannot be the name of a cgroup")
    if _RESERVED.match(name):
        name = f"_{name}"
    layout = layout or Layout.detect()
    hierarchies = _useful(layout)
    if not hierarchies:
        raise Unavailable("no cgroup file system is mounted with a controller of use")
    base = layout.base() if base is None else _checked(base)
    path = f"{base.rstrip('/')}/{name}"
    nodes = [GroupNode.at(hierarchy, path) for hierarchy in hierarchies]
    others = set().union(*(node.pids() for node in nodes)) - {os.getpid()}
    if others:
        raise Unavailable(
            f"the cgroup {path} is in use by processes {sorted(others)}; end them or choose another name"
        )
    made: list[GroupNode] = []
    try:
        for node in nodes:
            if _make(node):
                made.append(node)
        group = Group(path, made)
        group.set(limits)
    except CgroupError:
        with contextlib.suppress(CgroupError):
            Group(path, made).delete()
        raise
    return group


def open(path: str, *, layout: Layout | None = None) -> Group:
    """The existing group at `path` (what `Group.path` said), e.g. of a VM that another daemon started.

    As with `create`, a process that is in the group's parent is moved into the group.

    :raise Unavailable: there is none
    """
    layout = layout or Layout.detect()
    path = _checked(path)
    nodes = [GroupNode.at(hierarchy, path) for hierarchy in _useful(layout)]
    nodes = [node for node in nodes if node.exists()]
    if not nodes:
        raise Unavailable(f"there is no cgroup {path}")
    for node in nodes:
        _give(node)  # again: they may have been taken back for a new daemon to start beside it
    return Group(path, nodes)


def _useful(layout: Layout) -> list[Hierarchy]:
    """The hierarchies a group is made in: those with controllers, and v2 for killing and pressure."""
    found = [h for h in layout.hierarchies if h.controllers or h.version == 2]
    rank = {name: number for number, name in enumerate(USED)}
    return sorted(found, key=lambda h: min((rank[c] for c in h.controllers), default=len(USED)))


def _make(node: GroupNode) -> bool:
    """Make one hierarchy's directory and have it given its controllers; False where one can do without."""
    try:
        node.make()
    except Unavailable:
        if node.hierarchy.controllers:
            raise
        return False  # an empty unified hierarchy is only a convenience
    _give(node)
    return True


def _give(node: GroupNode) -> None:
    """Have a v2 group given its controllers, and forget those that it did not get."""
    if node.hierarchy.version != 2:
        return
    if node.hierarchy.controllers:
        if str(node.parent) == node.hierarchy.own != "/":
            _vacate(node)
        for ancestor in node.ancestors():
            core = ancestor.facets["core"]
            for controller in set(_GIVEN) & set(core.available):
                # Not delegated, or processes in that cgroup: `Group.set` says what it costs.
                with contextlib.suppress(CgroupError):
                    core.enable(controller)
    _drop_what_is_not_given(node)


def _vacate(node: GroupNode) -> None:
    """Empty the delegated cgroup into the leaf, so that it may give controllers to it."""
    for line in Path(node.parent.directory, "cgroup.procs").read_text().split():
        with contextlib.suppress(CgroupError):  # it has ended meanwhile
            node.add(int(line))


def _drop_what_is_not_given(node: GroupNode) -> None:
    if node.hierarchy.version == 2:
        given = set(node.facets["core"].available)
        for controller in node.hierarchy.controllers - given:
            node.facets.pop(controller, None)


def _checked(path: str) -> str:
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise Unavailable(f"{path!r} is not the path of a cgroup")
    return "/" + "/".join(parts)
