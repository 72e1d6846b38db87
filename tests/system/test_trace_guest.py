# SPDX-License-Identifier: BSD-3-Clause
"""Tracing when uiod dies, and on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import vm as guests
from kernel_text import Image
from uiod_harness import TOP, Daemon, daemon

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

# In a process of its own, with what is its standard input as its terminal.
UIOCTL = """
import fcntl, os, sys, termios
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from uiod.ctl.main import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application `traced`, which calls its functions all the time and counts mistakes."""
    return guests.prepare(
        tmp_path_factory.mktemp("vm"),
        ["memory"],
        app="traced",
        vm=['accel = "tcg"', "stop_timeout_s = 5"],
        more='[limits]\ncgroup = "off"',
    )


@pytest.fixture
def root() -> Iterator[Path]:
    # Not pytest's own, whose paths are too long for sockets.
    directory = Path(tempfile.mkdtemp(prefix="uiod-"))
    yield directory
    shutil.rmtree(directory)


def trace(root: Path, expression: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", UIOCTL, "--runtime-dir", str(root)]
    return subprocess.Popen(
        [*command, "trace", "traced", expression],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP), "TERM": "xterm", "COLUMNS": "80"},
        start_new_session=True,
    )


def memory(vm: Daemon, start: int, size: int) -> bytes:
    out: bytes
    out, err, exit = vm.api.exec("memory", f"{start:x}", f"{size:x}")
    assert exit["code"] == 0, err
    return out


def number(vm: Daemon, image: Image, name: str) -> int:
    return int.from_bytes(memory(vm, image.symbols[name], 8), "little")


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_killed_uiod_leaves_nothing_attached(config: Path, root: Path) -> None:
    image = Image(guests.kernel("traced")[1])
    probes = (
        "entry:fib,entry:serve { @[arg0] = count(); } return:deep { @us = hist(elapsed_us); }"
        " interval:2ms { @t = count(); }"
    )
    tracers = []
    try:
        with daemon(config, root) as vm:
            vm.until_ready()
            tracers = [trace(root, probes), trace(root, "return:fib { @ = count(); }")]
            for tracer in tracers:
                assert tracer.stderr is not None
                assert tracer.stderr.readline().startswith(b"Tracing")
            changed = image.changed(lambda start, size: memory(vm, start, size))
            assert {image.symbols[f] for f in ("fib", "serve", "deep")} <= set(changed)
            pid = vm.qemu_pid()
            before = number(vm, image, "rounds")
            vm.process.send_signal(signal.SIGKILL)
            vm.process.wait()
            # Whoever traced is told, and has the status of a lost connection.
            for tracer in tracers:
                _, said = tracer.communicate(timeout=30)
                assert tracer.returncode == 125, said
            again = Daemon(config, root)
            try:
                assert again.until_ready()["adopted"]
                assert again.qemu_pid() == pid
                until(
                    lambda: len(again.api.exec("bpf", "ls")[0].splitlines()) == 1,
                    "there is still a session",
                )
                assert image.changed(lambda start, size: memory(again, start, size)) == []
                rounds = number(again, image, "rounds")
                assert rounds > before
                until(lambda: number(again, image, "rounds") > rounds, "the application stands")
                assert number(again, image, "mistakes") == 0
                # And the next one traces.
                tracers.append(
                    trace(root, "entry:many { @ = count(); } interval:100ms { exit(); }")
                )
                out, said = tracers[-1].communicate(timeout=30)
                assert tracers[-1].returncode == 0, said
                assert re.fullmatch(rb"@: [1-9]\d*\n", out)
            finally:
                again.end()
    finally:
        for tracer in tracers:
            if tracer.poll() is None:
                tracer.kill()
                tracer.communicate()


def test_maps_are_drawn_again_and_again_on_a_terminal(config: Path, root: Path) -> None:
    """Each second over what was there; Ctrl-C leaves the last state, once."""
    ours, its = os.openpty()
    modes = termios.tcgetattr(its)
    modes[3] |= termios.NOFLSH  # else Ctrl-C drops what of a drawing has not been read yet
    termios.tcsetattr(its, termios.TCSANOW, modes)
    try:
        with daemon(config, root) as vm:
            vm.until_ready()
            tracer = trace(
                root,
                "entry:many { @n = count(); } return:jumper { @us = hist(elapsed_us); }",
                its,
            )
            os.close(its)
            its = -1
            try:
                seen = b""
                while seen.count(b"@n: ") < 3:
                    seen += os.read(ours, 65536)
                os.write(ours, b"\x03")
                while True:
                    try:
                        seen += os.read(ours, 65536)
                    except OSError:  # the other end is closed
                        break
                assert tracer.wait(30) == 0, seen
            finally:
                tracer.kill()
                tracer.wait()
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)
    counts = [int(n) for n in re.findall(rb"@n: (\d+)", seen)]
    assert counts == sorted(set(counts))
    assert screen(seen.decode())[0].startswith("Tracing 2 probes")
    shown = "\n".join(screen(seen.decode()))
    assert shown.count("@n: ") == shown.count("@us:") == 1
    assert f"@n: {counts[-1]}" in shown
    assert "|@@@@" in shown


def screen(text: str) -> list[str]:
    """What a terminal shows after that, of all that uioctl sends: lines, cursor up, erase to the end."""
    lines, row = [""], 0
    text = text.replace("\r\n", "\n").replace("^C", "")
    for piece in re.findall(r"\x1b\[\d*[A-Za-z]|\n|[^\x1b\n]+", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.startswith("\x1b"):
            if piece.endswith("F"):
                row -= int(piece[2:-1])
                assert row >= 0
            else:
                assert piece == "\x1b[J", piece
                del lines[row:]
                lines.append("")
        else:
            lines[row] += piece
    return lines
