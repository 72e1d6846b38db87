# SPDX-License-Identifier: BSD-3-Clause
"""`python -m overlays`: the commands of `uioctl overlay` that need no running VM."""

from overlays.cli import app

if __name__ == "__main__":
    app(prog_name="python -m overlays")
