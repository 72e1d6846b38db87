# SPDX-License-Identifier: BSD-3-Clause
"""Takes a picture of `uioctl top` as it runs: `python examples/record-top.py docs/top.svg`.

A terminal of our own (tmux) runs it beside whatever VMs are there; what it shows, colours included, becomes an
SVG through rich.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 110, 11


def capture(seconds: float) -> str:
    """The screen after that time, with escape sequences."""
    tmux = ["tmux", "-L", f"uio-{os.getpid()}", "-f", "/dev/null"]
    root = os.environ.get("UIO_RUNTIME_DIR")
    where = f"--runtime-dir {root}" if root else ""
    command = f"{sys.executable} -m uiod.ctl.main {where} top"
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    subprocess.run([*tmux, "new-session", "-d", "-s", "top", *size, command], check=True)
    try:
        time.sleep(seconds)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-e", "-p", "-t", "top"],
            check=True,
            capture_output=True,
            text=True,
        )
        return shown.stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def main(output: Path) -> None:
    """Write the picture."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(capture(6.0).rstrip("\n")))
    picture = console.export_svg(title="uioctl top")
    # The picture uses what fonts there are, and fetches none.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    output.write_text(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
