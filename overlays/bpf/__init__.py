# SPDX-License-Identifier: BSD-3-Clause
"""eBPF on the host: build, check and trace. Programs run in the guest (libuio's core/bpf*.c); see docs/bpf.md."""
