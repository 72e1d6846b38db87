# SPDX-License-Identifier: BSD-3-Clause
"""A 9P2000.L server in Python, usable alone (`python -m ninep_server`) or inside a trio program.

root = Node.root("/srv/export", Policy(uid=1000, gid=1000))
await serve_stream(stream, root)
"""

from ninep_server.messages import ProtocolError, Qid
from ninep_server.node import Node, Policy
from ninep_server.server import serve_stream
from ninep_server.session import Limits, Stats

__all__ = ["Limits", "Node", "Policy", "ProtocolError", "Qid", "Stats", "serve_stream"]
