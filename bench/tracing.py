# SPDX-License-Identifier: BSD-3-Clause
"""What a traced function costs, per call, by what the program does: the cases of bench.trace, in turns."""

from __future__ import annotations

from collections.abc import Iterator

from bench import trace
from bench.guest import reference
from bench.measure import Row
from uiod.ctl.bpf_stream import Stream, Vm

FIGURE = "function traced with a counter, per call"
SAMPLES = 1  # each value is the median of so many of the application's lines


def measure(quick: bool) -> Iterator[Row]:
    """Attach, listen, detach, again and again."""
    reference("calls")
    cases = [case for case in trace.CASES if case[0] != "detached"]
    hits: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    speeds: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    with trace.guest() as machine:
        machine.expect("calls: started")
        vm, samples = Vm(machine.name), trace.Samples(machine)
        for _ in range(3 if quick else 30):
            untraced = 0.0
            for name, program, _ in cases:
                if program is None:
                    untraced, speed = samples.take(SAMPLES)
                    hits[name].append(untraced)
                else:
                    with Stream(vm.api, program) as stream:
                        stream.attach(vm.places(program))
                        ns, speed = samples.take(SAMPLES)
                    hits[name].append(ns - untraced)
                speeds[name].append(speed)
    for name, program, per_hit in cases:
        what = f"the program adds to a call: {name}" if program else "an untraced call"
        goal = name == "count"
        yield Row(
            "tracing", what, "ns", hits[name], goal=trace.GOAL if goal else None,
            reference=per_hit, figure=FIGURE if goal else "",
        )  # fmt: skip
    for name, program, _ in cases:
        yield Row(
            "tracing", f"requests served: {name}", "1/s", speeds[name], "higher",
            against="requests served: untraced" if program else None,
        )  # fmt: skip
