# SPDX-License-Identifier: BSD-3-Clause
"""Compare ninep_server with Debian's diod: same client, same files, same machine, in turns.

python -m bench.ninep [--quick] [--out DIR] prints a table and leaves ninep.json and ninep.svg in DIR (build/bench).
Ratios are diod's time over ours: more is better, 1 is equal. diod offers at most 64 KiB per message whatever the client
asks for, hence two rows of sequential reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Measurement: (what one unit is, units of a full run, goal from the issue).
ROWS = {
    "metadata": ("walk + getattr + clunk", 5000, 0.5),
    "read4k": ("4 KiB read, one outstanding", 10000, 0.5),
    "read64k": ("MiB in 64 KiB reads", 8, 0.8),
    "readseq": ("MiB, msize 512 KiB asked for", 8, 0.8),
    "readdir": ("directory of 5 000 entries", 30, 0.5),
}
FILE_MIB, NAMES = 128, 5000


def make_export(top: Path) -> Path:
    """The files that are read."""
    (top / "many").mkdir(parents=True)
    (top / "small").write_text("hello\n")
    with (top / "large").open("wb") as large:
        for _ in range(FILE_MIB):
            large.write(os.urandom(1 << 20))
    for number in range(NAMES):
        (top / "many" / f"file-number-{number}").touch()
    return top


@contextmanager
def server(command: list[str], socket: Path, log: Path) -> Iterator[int]:
    """A server process that has begun to listen; its process id."""
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


def resident_kib(pid: int) -> int:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def draw(ratios: dict[str, float], path: Path) -> None:
    """Bars of the ratios, with a line at diod's 1 and marks at the goals."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, for the last step only

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(ratios), list(ratios.values()), color="#4878a8")
    axes.scatter([ROWS[r][2] for r in ratios], range(len(ratios)), marker="|", s=300, c="black")
    axes.axvline(1, color="gray", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("speed relative to diod (black mark: goal)")
    figure.savefig(path)


def measure(rounds: int, share: float, work: Path) -> dict[str, dict[str, list[int]]]:
    """Nanoseconds per unit: row → server → one value a round."""
    client = work / "client"
    source = Path(__file__).with_name("ninep_client.c")
    subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", "-o", client, source], check=True)
    export = make_export(work / "export")
    ours, theirs = work / "ours.sock", work / "diod.sock"
    diod = shutil.which("diod", path=os.environ["PATH"] + ":/usr/sbin")
    if diod is None:
        raise RuntimeError("diod is missing: apt-get install diod")
    as_us = ["-f", "-n", "-N", "-S", "-U", "root", "-L", "stderr"]
    commands = {
        "ninep_server": ([sys.executable, "-m", "ninep_server", "--socket", str(ours), "--export",
                          str(export)], ours, "/"),
        "diod": ([diod, *as_us, "-l", str(theirs), "-e", str(export)], theirs, str(export)),
    }  # fmt: skip
    found: dict[str, dict[str, list[int]]] = {row: {name: [] for name in commands} for row in ROWS}
    with (
        server(*commands["ninep_server"][:2], work / "ours.log") as pid,
        server(*commands["diod"][:2], work / "diod.log"),
    ):
        idle = resident_kib(pid)
        for number in range(rounds):
            for row, (_, units, _) in ROWS.items():
                for name, (_, socket, aname) in commands.items():
                    count = str(max(1, int(units * share)))
                    done = subprocess.run(
                        [client, socket, aname, row, count], stdout=subprocess.PIPE, check=True
                    )
                    found[row][name].append(int(done.stdout))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        print(f"resident: {idle} KiB before the first client, {resident_kib(pid)} KiB after all")
    return found


def main() -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.ninep", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, three rounds")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="for the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as work:
        found = measure(3 if options.quick else 7, 0.1 if options.quick else 1, Path(work))
    ratios = {}
    print(f"{'':<10} {'one unit':<30} {'diod µs':>9} {'ours µs':>9} {'ratio':>6} {'goal':>5}")
    for row, (unit, _, goal) in ROWS.items():
        theirs, ours = (statistics.median(found[row][n]) for n in ("diod", "ninep_server"))
        ratios[row] = theirs / ours
        print(
            f"{row:<10} {unit:<30} {theirs / 1e3:9.1f} {ours / 1e3:9.1f} {ratios[row]:6.2f} {goal:5}"
        )
    (options.out / "ninep.json").write_text(json.dumps({"ns": found, "ratios": ratios}, indent=1))
    draw(ratios, options.out / "ninep.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
