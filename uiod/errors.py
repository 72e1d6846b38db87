# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong, as values: one sentence with a remedy, and the exit status of `uiod` that it leads to."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Of `uiod` (docs/operations.md, `uiod --help`)."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CONFIG = 3
    KERNEL = 4
    BUSY = 5
    QEMU = 6
    NOT_READY = 7
    CRASHED = 8
    UNAVAILABLE = 9


EXIT_MEANINGS = {
    ExitStatus.OK: "the VM was stopped on request, or the guest powered off",
    ExitStatus.INTERNAL: "a mistake in uiod itself",
    ExitStatus.USAGE: "the command line is wrong",
    ExitStatus.CONFIG: "the configuration is wrong; each mistake is named with its line",
    ExitStatus.KERNEL: "the kernel or its symbols are missing or no such thing",
    ExitStatus.BUSY: "a VM of that name is running already",
    ExitStatus.QEMU: "QEMU is missing, or ended before the guest ran",
    ExitStatus.NOT_READY: "the guest did not say HELLO before the deadline",
    ExitStatus.CRASHED: "the VM ended by itself, and the restart policy allows no other try",
    ExitStatus.UNAVAILABLE: "something the configuration insists on is not there (KVM, cgroups)",
}


class UiodError(Exception):
    """Ends uiod: the text is one sentence, `hint` what to do about it."""

    def __init__(
        self, message: str, hint: str = "", status: ExitStatus = ExitStatus.INTERNAL
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.hint}" if self.hint else str(self.args[0])
