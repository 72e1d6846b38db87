# SPDX-License-Identifier: BSD-3-Clause
"""What uiod and a guest say to each other over virtio-console ports, and what people see of it.

`frames` is the channel's codec, `channel` its state without sockets, `seriallog` the bounded log of the serial port,
`tty` the terminal at the other end. Nothing here knows of uiod.
"""
