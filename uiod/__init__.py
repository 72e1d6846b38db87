# SPDX-License-Identifier: BSD-3-Clause
"""The daemon that runs one unikernel, and the command line that talks to it."""

__version__ = "0.1.0"  # as in pyproject.toml; asking the installation for it takes time and memory
