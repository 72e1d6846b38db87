# SPDX-License-Identifier: BSD-3-Clause
"""`python -m bench [--quick] [--out DIR] [SUITE…]`: run suites, keep every value, write the report.

Each suite runs in a process of its own, so that nothing one does (fail, hang, leave a thread) costs another's results.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.guest import NotHere
from bench.measure import Row, load, save

LIMIT_S = {False: 900, True: 300}  # of one suite; by whether it is a quick run
GRACE_S = 20


@dataclass(frozen=True)
class Suite:
    """What it is about, and about how long it takes: of a whole run, of a quick one."""

    text: str
    full_s: int
    quick_s: int
    needs: tuple[str, ...] = ()  # variables, without any of which it ends at once

    def expected(self, quick: bool) -> int:
        """Seconds, on an idle machine with 2 cores under TCG."""
        if self.needs and not any(os.environ.get(name) for name in self.needs):
            return 1
        return self.quick_s if quick else self.full_s


# Each is a module with `measure(quick) -> Iterator[Row]`.
SUITES = {
    "console": Suite(
        "echo and whole commands, beside ssh, the guest agent, a local shell", 100, 40
    ),
    "commands": Suite("an overlay cold and cached, pushed and pulled; 10 000 loads", 45, 8),
    "loads": Suite("cold loads by size and imports, pushed, pulled, isolated, checked", 90, 20),
    "breakdown": Suite("where the time of a command goes; a hundred overlays in a row", 30, 15),
    "transfer": Suite("console output, files over uIO-fs", 20, 5),
    "files": Suite("uIO-fs, beside QEMU's virtio-9p and ext4 in a Linux guest", 150, 40),
    "boot": Suite("to the application, to the prompt, to the first command", 300, 25),
    "memory": Suite("of the guest, of uiod, of a Linux VM", 150, 30),
    "size": Suite("images, parts of libuio", 45, 30),
    "isolation": Suite("gates, interrupts, traps; domain on and off", 40, 8),
    "scale": Suite("many VMs: start, memory, processor time, latency", 150, 20),
    "tracing": Suite("what a program costs at a function", 120, 25),
    "ninep": Suite("our 9P server beside diod", 120, 15),
    "overhead": Suite("what uIO costs the application", 240, 40),
    "apps": Suite(
        "what uIO costs nginx and redis in Unikraft (NGINX=… REDIS=…)", 480, 90, ("NGINX", "REDIS")
    ),
    "apps_tracing": Suite(
        "what tracing costs redis and nginx in Unikraft (REDIS=… NGINX=…)",
        600,
        60,
        ("REDIS", "NGINX"),
    ),
}


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure uIO; raw values, table and plots go to a directory.",
        epilog="suites: " + "; ".join(f"{name}: {s.text}" for name, s in SUITES.items()),
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="default: build/bench"
    )
    parser.add_argument("--page", type=Path, help="the report; default: RESULTS.md in --out")
    parser.add_argument(
        "--add", action="store_true", help="to the results of other suites that are there"
    )
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)  # one suite's only
    options = parser.parse_args()
    raw = options.out / "raw.jsonl"
    if options.rows:
        return _rows(options.suites[0], options.quick, raw)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    suites = options.suites or list(SUITES)
    page = options.page or options.out / report.PAGE
    _begin(options.out, suites, add=options.add, quick=options.quick)
    # As an exception, so that the suite is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        failed = _run(suites, options.quick, options.out)
    finally:
        report.write(options.out, page)
        print(f"bench: see {page}", file=sys.stderr)
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _begin(out: Path, suites: Sequence[str], *, add: bool, quick: bool) -> None:
    """A directory that holds nothing of a run before, or of the suites that are run again."""
    now = report.conditions(quick)  # before files of the repository may be changed
    out.mkdir(parents=True, exist_ok=True)
    raw = out / "raw.jsonl"
    kept = [r for r in load(raw) if r.suite not in suites] if add and raw.exists() else []
    for pattern in () if kept else ("*.svg", "*.png", "*.jsonl", report.NOTE):
        for path in out.glob(pattern):
            path.unlink()
    raw.write_text("")
    save(kept, raw)
    report.note_conditions(out, now, suites if kept else [])


def _run(suites: Sequence[str], quick: bool, out: Path) -> list[str]:
    """One after the other, and say how long it goes on. Those that failed."""
    failed = []
    expected = {name: SUITES[name].expected(quick) for name in suites}
    begun, done_s = time.monotonic(), 0
    for number, name in enumerate(suites, 1):
        passed = time.monotonic() - begun
        slower = max(1.0, passed / done_s) if done_s else 1.0
        left = slower * (sum(expected.values()) - done_s)
        print(
            f"bench: {name} ({number} of {len(suites)}): about {_clock(slower * expected[name])}; "
            f"{_clock(left)} left",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        started = time.monotonic()
        failure = _suite(name, quick, out)
        if failure is not None:
            failed.append(name)
        if failure:
            row = Row(name, report.WHOLE, "", missing=failure)
            save([row], out / "raw.jsonl")
            print(report.line(row), flush=True)
        took = time.monotonic() - started
        report.note_time(out, name, took)
        done_s += expected[name]
        print(f"bench: {name} took {_clock(took)}", file=sys.stderr, flush=True)
    return failed


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _suite(name: str, quick: bool, out: Path) -> str | None:
    """None, or why it did not come to its end: nothing, if it has said so itself."""
    command = [sys.executable, "-m", "bench", "--rows", "--out", str(out), name]
    process = subprocess.Popen([*command, *(["--quick"] if quick else [])], start_new_session=True)
    try:
        status = process.wait(LIMIT_S[quick])
    except subprocess.TimeoutExpired:
        return f"it took longer than {_clock(LIMIT_S[quick])}"
    else:
        said = {0: None, REPORTED: ""}
        return said.get(status, f"its process ended with status {status}")
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """A suite that is not through, and what it may have left running."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


REPORTED = 3  # it failed, and has said so in the results


def _rows(name: str, quick: bool, raw: Path) -> int:
    """A suite's rows, in this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    suite = importlib.import_module(f"bench.{name}")
    try:
        for row in suite.measure(quick):
            save([row], raw)
            print(report.line(row), flush=True)
    except NotHere as why:
        save([Row(name, report.WHOLE, "", missing=str(why))], raw)
    except Exception as error:  # it is a result, like any other
        row = Row(name, report.WHOLE, "", missing=f"{type(error).__name__}: {error}")
        save([row], raw)
        print(report.line(row), flush=True)
        return REPORTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
