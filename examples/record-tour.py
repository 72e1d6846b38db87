# SPDX-License-Identifier: BSD-3-Clause
"""Makes a picture of what `make tour` prints: `make tour | python examples/record-tour.py docs/tour.svg`."""

from __future__ import annotations

import re
import sys

from rich.console import Console
from rich.text import Text

WIDTH = 110


def main() -> int:
    """Standard input to an SVG; building is left out, commands stand out."""
    shown = [line.rstrip("\n") for line in sys.stdin]
    begin = next((i for i, line in enumerate(shown) if line.startswith("1. ")), 0)
    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    for line in shown[begin:]:
        text = Text(re.sub(r"\x1b\[[0-9;]*m", "", line))
        if line.startswith("$ "):
            text.stylize("bold green")
        elif re.match(r"\d\. ", line):
            text.stylize("bold yellow")
        console.print(text, soft_wrap=False)
    console.save_svg(sys.argv[1], title="make tour")
    return 0


if __name__ == "__main__":
    sys.exit(main())
