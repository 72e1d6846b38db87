# SPDX-License-Identifier: BSD-3-Clause
"""`python -m bench [--quick] [--out DIR] [SUITE…]`: run suites, keep every value, write the report."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import report
from bench.measure import Row, load, save

# Suite → what it is about; each is a module with `measure(quick) -> Iterator[Row]`.
SUITES = {
    "console": "echo and whole commands, beside ssh, the guest agent, a local shell",
    "commands": "overlays cold and cached, pushed and pulled, by size and imports",
    "breakdown": "where the time of a command goes; a hundred overlays in a row",
    "transfer": "console output, files over uIO-fs",
    "files": "uIO-fs, beside QEMU's virtio-9p and ext4 in a Linux guest",
    "boot": "to the application, to the prompt, to the first command",
    "memory": "of the guest, of uiod, of a Linux VM",
    "size": "images, parts of libuio",
    "isolation": "gates, faults; domain on and off",
    "scale": "many VMs: start, memory, processor time, latency",
    "tracing": "what a program costs at a function",
    "ninep": "our 9P server beside diod",
    "overhead": "what uIO costs the application",
}


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure uIO; raw values, table and plots go to a directory.",
        epilog="suites: " + "; ".join(f"{name}: {text}" for name, text in SUITES.items()),
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="default: build/bench"
    )
    parser.add_argument(
        "--add", action="store_true", help="to the results of other suites that are there"
    )
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    raw = options.out / "raw.jsonl"
    kept = [r for r in load(raw) if r.suite not in options.suites] if options.add else []
    raw.unlink(missing_ok=True)
    save(kept, raw)
    report.note_conditions(options.out, options.suites if kept else [])
    signal.signal(signal.SIGALRM, _too_long)
    # As an exception, so that the guests are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in options.suites or SUITES:
        started = time.monotonic()
        print(f"bench: {name}", file=sys.stderr, flush=True)
        for row in _rows(name, options.quick):
            save([row], raw)
            print(report.line(row), flush=True)
        print(f"bench: {name} took {time.monotonic() - started:.0f} s", file=sys.stderr)
    report.write(options.out)
    print(f"bench: see {options.out}/RESULTS.md", file=sys.stderr)
    return 0


def _rows(name: str, quick: bool) -> Iterator[Row]:
    suite = importlib.import_module(f"bench.{name}")
    signal.alarm(300 if quick else 900)
    try:
        yield from suite.measure(quick)
    except Exception as error:  # one suite's failure is not to cost the others' results
        yield Row(name, "the suite", "", missing=f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TimeoutError("it took too long")


if __name__ == "__main__":
    sys.exit(main())
