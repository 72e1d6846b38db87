# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl events`: what has happened to a VM, as lines or as NDJSON."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator
from typing import Any

from uiod.ctl import vms
from uiod.ctl.client import Reply, query
from uiod.ctl.options import Follow, Json, Since, VmName, moment
from uiod.ctl.output import Output


def events(vm: VmName, since: Since = None, follow: Follow = False, json: Json = False) -> None:
    """Show what has happened to a VM: ready, commands, faults, refused overlays, QEMU's events.

    With --json the events are lines as the API sends them.

    \b
    Examples:
      uioctl events web
      uioctl events -f web
      uioctl events --since 1h --json web | jq 'select(.kind == "fault")'
    """
    out = Output(json=json)
    target = "/v1/events" + query(since=moment(since), follow=1 if follow else None)
    with vms.find(vm).request("GET", target, timeout=None if follow else 30.0) as reply:
        for line in lines(reply):
            if out.as_json:
                out.line(line.decode(errors="replace"))
            else:
                out.line(_words(json_module.loads(line)))
            if follow:
                sys.stdout.flush()


def lines(reply: Reply) -> Iterator[bytes]:
    """The lines of an answer, as they arrive."""
    rest = b""
    for piece in reply.pieces():
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest


def _words(event: dict[str, Any]) -> str:
    moment_ = float(event.get("time", 0))
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_))
    data = event.get("data") or {}
    rest = " ".join(f"{key}={_value(value)}" for key, value in data.items())
    return f"{stamp}.{int(moment_ * 1000) % 1000:03} {event.get('kind', '?'):<18} {rest}".rstrip()


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else json_module.dumps(value, ensure_ascii=False)
    return json_module.dumps(value, ensure_ascii=False)
