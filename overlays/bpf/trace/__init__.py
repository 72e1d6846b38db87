# SPDX-License-Identifier: BSD-3-Clause
"""The language of `uioctl trace`: one-liners in bpftrace's spirit, compiled to eBPF; see docs/bpf.md."""
