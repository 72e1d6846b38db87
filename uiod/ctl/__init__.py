# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl`: the command line to running VMs. It talks to uiod's API alone.

`main` takes the command line apart, `commands` lists what there is, and each command has a file of its own. A new
process starts for every command, so what `exec` imports is kept small (tests/unit/test_ctl_speed.py); the rest loads
typer, and only `top` loads rich.
"""
