# SPDX-License-Identifier: BSD-3-Clause
"""The part of docs/overlays.md's tutorial that needs a VM: its commands, in a guest, print what is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import vm

from uiod.run import Machine

TEXT = (Path(__file__).parents[2] / "docs" / "overlays.md").read_text()
BLOCK = re.compile(r"^```(\w+) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = "import sys; from uiod.ctl.main import main; sys.exit(main(sys.argv[1:]))"


def same(text: str) -> str:
    """Without what differs from run to run: counts but for the one that is set, sizes, hashes, signers."""
    text = re.sub(r"^(recount +loaded +1\.0).*", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^NAME .*", "NAME", text, flags=re.MULTILINE)
    text = re.sub(r"(counter is |^count: )(?!5000)\d+", r"\1N", text, flags=re.MULTILINE)
    return re.sub(r" +", " ", re.sub(r"0x[0-9a-f]+", "N", text)).strip()


@pytest.mark.guest
@pytest.mark.timeout(180)
def test_the_tutorials_commands_in_a_guest(tmp_path: Path) -> None:
    config = vm.prepare(tmp_path)
    blocks = BLOCK.findall(TEXT)
    commands = 0
    with vm.machine(config) as guest:
        guest.expect(r"^count: 1$")
        environment = {**os.environ, "UIO_RUNTIME_DIR": str(guest.root)}
        for kind, name, body in blocks:
            if kind == "c" and name in ("recount.c", "crash.c"):
                (tmp_path / name).write_text(body)
                vm.build_overlay(tmp_path, tmp_path / name)
            if (kind, name) == ("console", "vm"):
                for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                    _check(guest, environment, step)
                    commands += 1
    assert commands >= 5


def _check(guest: Machine, environment: dict[str, str], step: str) -> None:
    command, _, expected = step.partition("\n")
    if "logs" in command:
        guest.expect(r"^count: 5000$")
    words = [guest.name if word == "count" else word for word in command.split()[1:]]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    status = f"(status {done.returncode})\n" if done.returncode else ""
    shown = same(done.stdout.replace(guest.name, "count") + status)
    wanted = same(expected)
    if "…" in wanted:
        head, _, tail = wanted.partition("…")
        assert shown.startswith(head.strip()), command
        assert shown.endswith(tail.strip()), command
    elif "logs" in command:
        assert len(shown.splitlines()) == len(wanted.splitlines()), command
    else:
        assert shown == wanted, command
