# SPDX-License-Identifier: BSD-3-Clause
"""Keeps OpenSSL out of the daemon, which speaks no TLS: 6 MB less.

trio and asyncio import `ssl` because they could need it, and `hashlib` prefers OpenSSL's functions to its own. To be
called before any of them is imported; a library that really needs TLS fails where it uses it.
"""

from __future__ import annotations

import sys
import types


def _missing(name: str) -> type[Exception]:
    """Stands for each name of `ssl`: something to derive from, to catch, and to annotate with."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {"__doc__": "Of the ssl module, which is not loaded."})


def without_openssl() -> None:
    """Do it. Nothing happens if `ssl` is there already."""
    if "ssl" in sys.modules:
        return
    stand_in = types.ModuleType("ssl", "Stands for the real one; see uiod.slim.")
    stand_in.__getattr__ = _missing  # type: ignore[method-assign]
    sys.modules["ssl"] = stand_in
    sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]  # hashlib then uses its own code
