# SPDX-License-Identifier: BSD-3-Clause
"""The daemon that runs one unikernel, and the command line that talks to it."""
