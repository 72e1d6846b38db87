# SPDX-License-Identifier: BSD-3-Clause
"""A running trace without its transport: records and maps of the guest in, text and wishes out.

The caller moves bytes: it hands in records of the ring buffer, carries out the wishes, and hands in the rows of maps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from overlays.bpf.trace import render
from overlays.bpf.trace.codegen import Trace
from overlays.bpf.trace.events import Symbolize, decode
from overlays.bpf.trace.render import Context, Row
from overlays.bpf.trace.types import TraceMap


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller shall do next: text (write it), map (read it, then show()), clear, zero (of a map), exit."""

    kind: str
    text: str = ""
    index: int = 0  # of the map in the object
    top: int = 0


class Session:
    """:param as_json: one JSON object a line, in bpftrace's form, instead of text."""

    def __init__(self, trace: Trace, *, symbolize: Symbolize = hex, as_json: bool = False) -> None:
        self.trace, self.symbolize, self.as_json = trace, symbolize, as_json
        self._by_name: dict[str, TraceMap] = {m.name: m for m in trace.maps}
        self._by_index: dict[int, TraceMap] = {m.index: m for m in trace.maps}

    def record(self, record: bytes) -> Wish:
        """:raise BpfError: the record is not one of this trace."""
        event = decode(self.trace, record, self.symbolize)
        if event.kind == "printf":
            text = event.text
            return Wish(
                "text",
                json.dumps({"type": "printf", "data": text}) + "\n" if self.as_json else text,
            )
        if event.kind == "exit":
            return Wish("exit")
        kind = "map" if event.kind == "print" else event.kind
        return Wish(kind, index=self._by_name[event.map].index, top=event.top)

    def show(
        self, index: int, rows: Sequence[Row], stacks: Sequence[Row] = (), top: int = 0
    ) -> str:
        """A map, from its rows and those of the map of stacks (if the trace has one)."""
        context = Context(self.symbolize, render.stacks_of(stacks))
        m = self._by_index[index]
        if self.as_json:
            return json.dumps(render.to_json(m, rows, context, top)) + "\n"
        return render.render(m, rows, context, top)

    def show_all(self, read: Callable[[int], Sequence[Row]]) -> str:
        """Every map, as at the end of a trace."""
        stacks = read(self.trace.stacks) if self.trace.stacks is not None else ()
        shown = (self.show(m.index, read(m.index), stacks) for m in self.trace.maps)
        return ("" if self.as_json else "\n").join(text for text in shown if text)

    def programs(self) -> Mapping[str, list[int]]:
        """Numbers of the programs to run once: at the start (BEGIN) and at the end (END)."""
        found: dict[str, list[int]] = {"BEGIN": [], "END": []}
        for number, program in enumerate(self.trace.object.programs):
            for kind, numbers in found.items():
                if program.name.startswith(kind):
                    numbers.append(number)
        return found
