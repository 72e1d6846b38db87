# SPDX-License-Identifier: BSD-3-Clause
"""Programs that the verifier cannot prove, in a real guest: refused, or with `bpf = "checked"` run under checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm

from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

HEAD = """
#include <uio/bpf.h>
UIO_MAP(table, UIO_MAP_HASH, uint64_t, uint64_t, 4);
"""

# It is right, but nothing says so: whether a key is there is not known before it runs.
RIGHT = """
UIO_EXEC int unproven(struct uio_ctx *ctx)
{
	uint64_t key = 1, value = 41;
	uio_map_update(&table, &key, &value, UIO_ANY);
	return *(uint64_t *)uio_map_lookup(&table, &key) + 1;
}
"""

# Each is wrong in another way, with what the guest says of it.
WRONG = {
    "null": (
        """
UIO_EXEC int wrong(struct uio_ctx *ctx)
{
	uint64_t key = 2;
	return *(uint64_t *)uio_map_lookup(&table, &key);
}
""",
        "0x0",
    ),
    "wild": (
        """
UIO_EXEC int wrong(struct uio_ctx *ctx)
{
	*(volatile uint64_t *)(UIO_ARG(ctx, 0, uint64_t) + 0x100000) = 1;
	return 0;
}
""",
        "0x100000",
    ),
    "endless": (
        """
UIO_EXEC int wrong(struct uio_ctx *ctx)
{
	for (volatile int i = 0;; i++)
		;
}
""",
        "used up its",  # instructions or time, whichever comes first
    ),
}

AT_A_FUNCTION = """
UIO_ENTRY("set_count") int wrong(struct uio_ctx *ctx)
{
	*(volatile uint64_t *)UIO_ARG(ctx, 0, uint64_t) = 1;
	return 0;
}
"""


def start(tmp_path_factory: pytest.TempPathFactory, more: str) -> Iterator[Machine]:
    config = vm.prepare(tmp_path_factory.mktemp("policy"), ["set_count"], more=more)
    with vm.machine(config, timeout_s=230) as running:
        yield running


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield from start(tmp_path_factory, 'bpf = "checked"')


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield from start(tmp_path_factory, 'bpf = "verified"')


def bpf(machine: Machine, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from uiod.ctl.main import main; sys.exit(main())"]
    command += ["--runtime-dir", str(machine.root), "bpf", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def source(directory: Path, text: str) -> str:
    path = directory / "program.bpf.c"
    path.write_text(HEAD + text)
    return str(path)


@pytest.mark.parametrize("text", [RIGHT, *(text for text, _ in WRONG.values()), AT_A_FUNCTION])
def test_what_is_not_proven_is_refused(verified: Machine, tmp_path: Path, text: str) -> None:
    done = bpf(verified, "run", verified.name, source(tmp_path, text))
    assert (done.returncode, done.stdout) == (1, "")
    assert '[trust] bpf = "verified"' in done.stderr
    assert verified.exec("bpf", "ls").text.startswith("missed ")


def test_under_checks_a_right_program_runs(checked: Machine, tmp_path: Path) -> None:
    done = bpf(checked, "run", checked.name, source(tmp_path, RIGHT))
    assert (done.returncode, done.stderr) == (42, "")


@pytest.mark.parametrize("kind", WRONG)
def test_under_checks_a_wrong_program_is_stopped(
    checked: Machine, tmp_path: Path, kind: str
) -> None:
    text, says = WRONG[kind]
    done = bpf(checked, "run", checked.name, source(tmp_path, text))
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert checked.exec("set_count", "5").code == 0
    assert len(checked.exec("bpf", "ls").text.splitlines()) == 1


def test_under_checks_a_wrong_program_does_the_function_no_harm(
    checked: Machine, tmp_path: Path
) -> None:
    attached = bpf(checked, "attach", checked.name, source(tmp_path, AT_A_FUNCTION))
    assert attached.returncode == 0, attached.stderr
    for value in (7_000, 8_000, 9_000):
        assert checked.exec("set_count", str(value)).code == 0
    listed = json.loads(bpf(checked, "ls", "--json", checked.name).stdout)
    wrong = next(p for p in listed if p.get("program") == "wrong")
    assert (wrong["runs"], wrong["faults"]) == (3, 3)
    checked.expect("count: 900")
    assert bpf(checked, "detach", checked.name, attached.stdout.strip()).returncode == 0
