# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong with cgroups, each as one sentence for whoever has to act on it."""

from __future__ import annotations


class CgroupError(Exception):
    """An operation on a cgroup failed."""


class Unavailable(CgroupError):
    """There is no cgroup to be had here: no controllers, no rights, or the name is in use."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidLimit(CgroupError, ValueError):
    """A limit that makes no sense, whatever the machine."""
