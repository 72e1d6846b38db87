# SPDX-License-Identifier: BSD-3-Clause
"""What a traced function costs: `python -m bench.trace`. Per hit against the untraced call, and of a server's requests.

The application `calls` of the reference guest measures itself and says so on the serial line. References are those of
the paper's implementation under TCG: 437 ns for a hit of an empty program, 2 280 ns for one that counts.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlays.bpf import asm
from overlays.bpf.helpers import Kind
from overlays.bpf.model import Object, Program
from overlays.bpf.trace.codegen import compile_trace
from uiod.ctl.bpf_stream import Stream, Vm
from uiod.ctl.settings import settings
from uiod.run import Machine

ROOT = Path(__file__).parents[1]
EMPTY_REFERENCE_NS, COUNT_REFERENCE_NS, GOAL = 437.0, 2280.0, 0.3
_SAMPLE = re.compile(rb"calls: (\d+) ps each, (\d+) requests/s")
_FUNCTIONS = ("called", "request")


def _empty() -> Object:
    insns = asm.assemble("mov %r0, 0\nexit")
    return Object(
        "empty",
        [],
        [Program(f"p{n}", Kind.ENTRY, f, list(insns)) for n, f in enumerate(_FUNCTIONS)],
    )


def _traced(text: str) -> Object:
    return compile_trace(" ".join(text.replace("FUNC", f) for f in _FUNCTIONS)).object


# Name, object, reference of a hit in ns.
CASES: tuple[tuple[str, Object | None, float | None], ...] = (
    ("untraced", None, None),
    ("empty", _empty(), EMPTY_REFERENCE_NS),
    ("count", _traced("entry:FUNC { @FUNC = count(); }"), COUNT_REFERENCE_NS),
    ("count by key", _traced("entry:FUNC { @FUNC[arg0] = count(); }"), COUNT_REFERENCE_NS),
    ("histogram of time", _traced("return:FUNC { @FUNC = hist(elapsed_ns); }"), None),
    ("detached", None, None),
)


class Samples:
    """The lines of the serial log, from now on."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def take(self, count: int) -> tuple[float, float]:
        """Medians of the next samples: ns for a call, requests a second. The first is of before, in part."""
        found: list[tuple[int, int]] = []
        with self.machine.api.request("GET", "/v1/logs?follow=1&tail=0", timeout=60) as reply:
            seen = b""
            for piece in reply.pieces():
                seen += piece
                found = [(int(a), int(b)) for a, b in _SAMPLE.findall(seen)]
                if len(found) > count:
                    break
        calls, requests = zip(*found[1:], strict=True)
        return statistics.median(calls) / 1000, statistics.median(requests)


@contextmanager
def guest() -> Iterator[Machine]:
    """The VM with the application `calls`."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "calls.cfg"
        config.write_text(f'[vm]\nkernel = "{ROOT}/build/refguest/calls.elf"\nmemory = "64M"\n')
        with Machine(config, timeout_s=600) as machine:
            settings.runtime_dir = str(machine.root)
            yield machine


def measure(count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with guest() as machine:
        machine.expect("calls: started")
        vm, samples = Vm(machine.name), Samples(machine)
        call = speed = 0.0
        for name, obj, reference in CASES:
            if obj is None:
                ns, per_s = samples.take(count)
            else:
                with Stream(vm.api, obj) as stream:
                    stream.attach(vm.places(obj))
                    ns, per_s = samples.take(count)
            if name == "untraced":
                call, speed = ns, per_s
            hit = ns - call
            row: dict[str, object] = {
                "name": name,
                "call_ns": round(ns, 2),
                "hit_ns": round(hit, 2),
                "requests_per_s": per_s,
                "lost": round(1 - per_s / speed, 4),
            }
            if reference is not None:
                row |= {"reference_ns": reference, "ratio": round(hit / reference, 3), "goal": GOAL}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.trace", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--out", type=Path, help="directory for trace.json")
    args = parser.parse_args()
    rows = measure(8 if args.quick else 20)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "trace.json").write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        ratio = f"{row['ratio']:>6} of {row['reference_ns']} ns" if "ratio" in row else ""
        lost = f"{float(str(row['lost'])):>7.1%}"
        print(
            f"{row['name']:<18} {row['call_ns']:>9} ns a call {row['hit_ns']:>9} ns a hit {lost} lost {ratio}"
        )


if __name__ == "__main__":
    main()
