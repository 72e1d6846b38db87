# SPDX-License-Identifier: BSD-3-Clause
"""A 9P2000.L server in Python, usable alone (`python -m ninep_server`) or inside a trio program.

root = LocalNode.root("/srv/export", Policy(uid=1000, gid=1000))
await serve_stream(stream, root)

A tree may be put together: SyntheticDirectory({"host": root, "vm": {…}}); other backends implement `Node` and `File`.
"""

from ninep_server.backend import Attributes, Entry, File, Node
from ninep_server.fids import Limits
from ninep_server.local import LocalNode, Policy
from ninep_server.messages import ProtocolError, Qid
from ninep_server.server import serve_stream
from ninep_server.stats import Stats
from ninep_server.synthetic import Source, SyntheticDirectory, SyntheticFile

__all__ = [
    "Attributes",
    "Entry",
    "File",
    "Limits",
    "LocalNode",
    "Node",
    "Policy",
    "ProtocolError",
    "Qid",
    "Source",
    "Stats",
    "SyntheticDirectory",
    "SyntheticFile",
    "serve_stream",
]
