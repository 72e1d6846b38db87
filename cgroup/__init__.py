# SPDX-License-Identifier: BSD-3-Clause
"""cgroups v1, hybrid and v2 behind one interface: place processes, limit, account, kill.

`create(name, Limits(...))` makes a `Group`, `open(path)` finds one again. Built on cgroupspy, which knows v1: its nodes
and file interfaces are extended here. The package knows nothing of VMs.
"""

from cgroup.errors import CgroupError, InvalidLimit, Unavailable
from cgroup.group import Group
from cgroup.layout import Hierarchy, Layout
from cgroup.limits import IoLimit, Limits
from cgroup.place import create, open
from cgroup.usage import Pressure, Usage

__all__ = [
    "CgroupError",
    "Group",
    "Hierarchy",
    "InvalidLimit",
    "IoLimit",
    "Layout",
    "Limits",
    "Pressure",
    "Unavailable",
    "Usage",
    "create",
    "open",
]
