# SPDX-License-Identifier: BSD-3-Clause
"""From the start of the QEMU process to the application's first line, the prompt, and the first command."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.guest import guest
from bench.measure import Row

FIRST_LINE = b"started"


def measure(quick: bool) -> Iterator[Row]:
    """Boot again and again."""
    application, prompt, command = [], [], []
    for _ in range(5 if quick else 30):
        with guest() as vm:
            while FIRST_LINE not in vm.log():
                time.sleep(0.0005)
            application.append((time.monotonic() - vm.started) * 1000)
        with guest() as vm:
            port = vm.port("console")
            seen = b""
            while b"> " not in seen:
                seen += port.recv(4096)
            prompt.append((time.monotonic() - vm.started) * 1000)
            port.close()
        with guest() as vm:
            channel = vm.channel()
            channel.run("true")
            command.append((time.monotonic() - vm.started) * 1000)
            channel.close()
    yield Row("boot", "the application's first line", "ms", application)
    yield Row(
        "boot", "the first prompt", "ms", prompt,
        goal=0.6, reference=233.0, figure="boot to first prompt",
    )  # fmt: skip
    yield Row("boot", "the first command has ended", "ms", command)
