# SPDX-License-Identifier: BSD-3-Clause
"""VMs for guest-level tests: a kernel that contains libuio, overlays built and signed for it, and a uiod around it.

The kernel is the reference guest, or with KERNEL=/path (and KERNEL_DBG=/path where that one has no symbols) a prebuilt
one, such as Unikraft's, with an application like `count`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import refguest_vm

from overlays.build import build
from overlays.keys import generate
from uiod.run import Machine

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "overlays" / "src"
OURS = HERE / "overlays"


def kernel(app: str = "count") -> tuple[Path, Path]:
    """The image to boot and the one with its symbols."""
    if given := os.environ.get("KERNEL"):
        if app != (there := os.environ.get("KERNEL_APP", "count")):
            pytest.skip(
                f"KERNEL has the application {there} (KERNEL_APP says so), this needs {app}"
            )
        return Path(given), Path(os.environ.get("KERNEL_DBG", given))
    image = refguest_vm.build(app, libuio=True)
    return image, image


def prepare(
    directory: Path,
    overlays: Iterable[Path | str] = (),
    *,
    app: str = "count",
    vm: Sequence[str] = (),
    more: str = "",
) -> Path:
    """A configuration in that directory, with those overlays (a source, or the name of a shipped or test one).

    :param vm: more lines of `[vm]`; :param more: more sections
    """
    image, symbols = kernel(app)
    private = directory / "keys" / "test.pem"
    private.parent.mkdir()
    generate(private)
    (directory / "bin").mkdir()
    (directory / "host").mkdir()
    for overlay in overlays:
        build_overlay(directory, overlay, symbols)
    lines = [
        "[vm]",
        f'kernel = "{image}"',
        f'symbols = "{symbols}"',
        'memory = "64M"',
        *vm,
        "[uio]",
        'overlays = ["bin"]',
        'exchange = "host"',
        "[trust]",
        'keys = ["keys/test.pub.pem"]',
        more,
    ]
    config = directory / f"{app}.cfg"
    config.write_text("\n".join(lines) + "\n")
    return config


def build_overlay(directory: Path, overlay: Path | str, symbols: Path | None = None) -> Path:
    """Build one more overlay into the store of a prepared directory: there at once, without a restart."""
    source = Path(overlay)
    if not source.is_absolute():
        source = OURS / f"{overlay}.c"
        if not source.exists():
            source = SHIPPED / f"{overlay}.c"
    output = directory / "bin" / f"{source.stem}.uio"
    build(
        [source],
        output,
        kernel=symbols if symbols is not None else kernel()[1],
        key=directory / "keys" / "test.pem",
    )
    return output


@contextmanager
def machine(config: Path, timeout_s: float = 90.0) -> Iterator[Machine]:
    """That VM, running and ready; gone afterwards."""
    with Machine(config, timeout_s=timeout_s) as running:
        yield running
