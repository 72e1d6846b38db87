# SPDX-License-Identifier: BSD-3-Clause
"""libuio in a Linux process (port/hosted), started for a test, and a small client for its sockets."""
