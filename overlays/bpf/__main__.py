# SPDX-License-Identifier: BSD-3-Clause
"""`python -m overlays.bpf`: the same as `uioctl bpf` for what needs no running VM."""

from __future__ import annotations

from overlays.bpf.cli import app

app(prog_name="python -m overlays.bpf")
