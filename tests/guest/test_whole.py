# SPDX-License-Identifier: BSD-3-Clause
"""The whole, end to end: uiod boots a guest, serves it files, runs builtins and overlays in it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm

from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vm")


@pytest.fixture(scope="module")
def guest(home: Path) -> Iterator[Machine]:
    config = vm.prepare(home, ["hello", "keeper", "kitchen", "set_count"])
    unsigned = home / "bin" / "unsigned.uio"
    shutil.copy(home / "bin" / "hello.uio", unsigned)
    elf = unsigned.read_bytes()
    unsigned.write_bytes(elf[: elf.rindex(b"\0") // 2])
    (home / "bin" / "text.uio").write_text("no ELF at all")
    with vm.machine(config) as running:
        yield running


def test_builtins_and_overlays_have_output_and_status(guest: Machine) -> None:
    assert guest.exec("true").code == 0
    assert guest.exec("false").code == 1
    assert guest.exec("hello", "world").text == "Hello, world!\n"
    assert guest.exec("echo", "a  b", "c").text == "a  b c\n"


def test_an_overlay_calls_the_application(guest: Machine) -> None:
    done = guest.exec("set_count", "700000")
    assert (done.code, done.stderr) == (0, b"")
    guest.expect(r"^count: 7000\d\d$")


def test_a_signal_reaches_the_applications_handler(guest: Machine) -> None:
    assert guest.exec("kill", "-HUP").code == 0
    guest.expect(r"count: reloaded")


def test_ordinary_c_loads_and_runs_again(guest: Machine) -> None:
    for _ in range(2):
        done = guest.exec("kitchen", "first")
        assert done.code == 7, done
        assert done.stderr == b"to stderr\n"
        assert done.text.splitlines() == [
            "constructor 1",
            "table 42 25",
            "words one two",
            "bss 0, data 4",
            "qsort 1 2 3",
            "heap x",
            "float-003.2",
            "count 1",
            "args 2 first",
        ]
        # Its data is new each time.


def test_an_overlay_may_keep_its_data_as_long_as_it_is_loaded(guest: Machine) -> None:
    assert guest.exec("keeper").text == "41 1\n"
    assert guest.exec("keeper").text == "42 2\n"
    assert guest.exec("unload", "keeper").code == 0
    assert guest.exec("keeper").text == "41 1\n"


def test_the_store_shows_only_what_is_verified(guest: Machine) -> None:
    assert guest.exec("ls", "/bin").text.split() == [
        "hello", "keeper", "kitchen", "set_count",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "code", "says"), [
    ("nosuch", 127, "nosuch"),
    ("unsigned", 126, "sign"),
    ("text", 126, "sign"),
])  # fmt: skip
def test_what_cannot_run_says_why(guest: Machine, name: str, code: int, says: str) -> None:
    done = guest.exec(name)
    assert (done.code, done.stdout) == (code, b"")
    assert says.lower() in done.message.lower()


def test_a_new_overlay_is_there_without_a_restart(guest: Machine, home: Path) -> None:
    source = home / "late.c"
    source.write_text(
        '// uio: name = "late"\n// uio: version = "1"\n#include <stdio.h>\n'
        'int main(void) { puts("late"); return 0; }\n'
    )
    assert guest.exec("late").code == 127
    built = vm.build_overlay(home, source)
    try:
        assert guest.exec("late").text == "late\n"
    finally:
        built.unlink()


def test_files_travel_both_ways_unharmed(guest: Machine, home: Path) -> None:
    data = os.urandom(3_000_001)
    (home / "host" / "in").write_bytes(data)
    assert (
        hashlib.sha256(guest.exec("cat", "/host/in").stdout).digest()
        == hashlib.sha256(data).digest()
    )
    assert guest.exec("cp", "/host/in", "/host/out").code == 0
    assert (home / "host" / "out").read_bytes() == data
    assert guest.exec("cp", "-", "/host/piped", stdin=data).code == 0
    assert (home / "host" / "piped").read_bytes() == data


def test_the_guests_own_files_are_reached(guest: Machine) -> None:
    assert guest.exec("cp", "-", "guest:/tmp/note", stdin=b"kept\n").code == 0
    assert guest.exec("cat", "guest:/tmp/note").text == "kept\n"
    assert guest.exec("rm", "guest:/tmp/note").code == 0
    assert guest.exec("cat", "guest:/tmp/note").code != 0


def test_nothing_outside_the_exchange_is_reached(guest: Machine, home: Path) -> None:
    (home / "canary").write_text("untouched")
    (home / "host" / "link").symlink_to("../canary")
    for path in ("/host/../canary", "/host/link", "/../canary", "/host/../../../canary"):
        done = guest.exec("cat", path)
        assert done.code != 0, path
        assert b"untouched" not in done.stdout
    assert guest.exec("cp", "-", "/host/link", stdin=b"harm").code != 0
    assert (home / "canary").read_text() == "untouched"


def test_a_command_is_ended_at_its_deadline(guest: Machine) -> None:
    done = guest.exec("sleep", "1000", timeout_s=0.2)
    assert (done.code, done.kind) == (124, "timeout")
