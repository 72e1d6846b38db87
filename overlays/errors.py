# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong with an overlay, a key or a kernel file.

Every message is a sentence for the person at the terminal; `hint`, where there is one, says what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OverlayError(Exception):
    """The base of all errors of this package."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class FormatError(OverlayError):
    """The bytes are not the ELF object, manifest or signature that they should be."""


class KernelError(OverlayError):
    """The kernel's ELF cannot be used."""


class BuildError(OverlayError):
    """Compiling failed, or the result could never be loaded."""


class UnfitError(BuildError):
    """It builds, but the kernel at hand does not have what it needs."""


class KeyFileError(OverlayError):
    """A key file cannot be read, written or trusted."""


class NotFound(OverlayError):
    """No directory of the store has such an overlay."""


class Refused(OverlayError):
    """An overlay exists and may not run: signature, scan, policy or format."""

    @property
    def reason(self) -> str:
        return self.message


class LinkError(Refused):
    """The overlay does not fit this kernel."""


class UnluckyPlace(LinkError):
    """At this base, the relocated bytes happen to form an instruction that no overlay may have."""


def near(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Names that somebody who typed `name` may have meant, best first."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.6)


def did_you_mean(names: list[str]) -> str:
    """A hint from near names, empty if there are none."""
    if not names:
        return ""
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
    return f"did you mean {listed}?"
