# SPDX-License-Identifier: BSD-3-Clause
"""Compare ninep_server with Debian's diod: same client, same files, same machine, in turns.

diod offers at most 64 KiB per message whatever the client asks for, hence two rows of sequential reads. Ours keeps the
directory that was listed last as long as that does not change, hence two rows of lists: of several directories in turn,
which is what a changed one costs too, and of one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Row

# Measurement: (what one unit is, units of a full run, goal from the issue).
ROWS = {
    "metadata": ("walk + getattr + clunk", 5000, 0.5),
    "read4k": ("4 KiB read, one outstanding", 10000, 0.5),
    "read64k": ("MiB in 64 KiB reads", 8, 0.8),
    "readseq": ("MiB, msize 512 KiB asked for", 8, 0.8),
    "readdir": ("directory of 5 000 entries, each time another of eight", 32, 0.5),
    "relist": ("directory of 5 000 entries, the same again", 30, 0.5),
}
FILE_MIB, NAMES, DIRECTORIES = 128, 5000, 8


def make_export(top: Path) -> Path:
    """The files that are read."""
    top.mkdir(parents=True)
    (top / "small").write_text("hello\n")
    with (top / "large").open("wb") as large:
        for _ in range(FILE_MIB):
            large.write(os.urandom(1 << 20))
    for directory in range(DIRECTORIES):
        many = top / f"many-{directory}"
        many.mkdir()
        for number in range(NAMES):
            (many / f"file-number-{number}").touch()
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


def measure(quick: bool) -> Iterator[Row]:
    """Units per second of both servers, in turns."""
    with tempfile.TemporaryDirectory(prefix="uio-bench-") as work:
        found = compare(3 if quick else 30, 0.1 if quick else 0.3, Path(work))
    for row, (unit, _, goal) in ROWS.items():
        for name in ("diod", "ninep_server"):
            ours = name != "diod"
            yield Row(
                "ninep", f"{unit}: {name}", "1/s", [1e9 / ns for ns in found[row][name]], "higher",
                against=f"{unit}: diod" if ours else None, goal=goal if ours else None,
                figure=f"9P server alone, against Debian's diod: {unit}" if ours else "",
            )  # fmt: skip


def compare(rounds: int, share: float, work: Path) -> dict[str, dict[str, list[int]]]:
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
        server(*commands["ninep_server"][:2], work / "ours.log"),
        server(*commands["diod"][:2], work / "diod.log"),
    ):
        for _ in range(rounds):
            for row, (_, units, _) in ROWS.items():
                for name, (_, socket, aname) in commands.items():
                    count = str(max(1, int(units * share)))
                    done = subprocess.run(
                        [client, socket, aname, row, count], stdout=subprocess.PIPE, check=True
                    )
                    found[row][name].append(int(done.stdout))
    return found
