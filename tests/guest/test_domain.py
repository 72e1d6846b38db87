# SPDX-License-Identifier: BSD-3-Clause
"""The protection domain: what overlays may do across its border, and how each that must not is stopped alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm

from overlays.kernel import Kernel
from uiod.run import Machine, Result

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

SOURCES = Path(__file__).parent / "hostile"
#: more by hand: LOADS=10000
LOADS = int(os.environ.get("LOADS", "100"))
DENIED = 0x20  # bit of a page fault's error code: a protection key forbade it

KERNEL_FUNCTION = "a function of the kernel may be half done"

#: what: (kind, whether a key forbade it (None: one or the other), words in the message)
FAULTS = {
    "data": ("write", True, "writes to 0x"),
    "heap": ("write", True, "writes to 0x"),
    "stack": ("write", True, "writes to 0x"),
    "page-table": ("write", True, "writes to 0x"),
    "kernel-text": ("write", False, "writes to 0x"),
    "own-text": ("write", False, "writes to 0x"),
    "mmio": ("write", True, "fee00080"),
    "runs": ("write", True, "writes to 0x"),
    "gates": ("write", True, "writes to 0x"),
    "kernel-stack": ("write", True, "writes to 0x"),
    "null": ("write", False, "writes to 0x8"),
    "non-canonical": ("general protection", False, "protection fault"),
    "jump-data": ("execute", False, "jumps to 0x"),
    "jump-null": ("execute", False, "jumps to 0x0"),
    "ud2": ("invalid opcode", False, "invalid instruction"),
    "divide": ("divide", False, "division error"),
    "overflow": ("stack overflow", False, "stack overflow"),
    "gp": ("general protection", False, "protection fault"),
    "unaligned": ("general protection", False, "protection fault"),
    "other-stack": ("write", True, "writes to 0x"),
    "bad-pointer": ("write", False, KERNEL_FUNCTION),
    "bad-string": ("read", False, KERNEL_FUNCTION),
    "bad-copy": ("write", True, "writes to 0x"),
    "bad-read": ("write", True, "writes to 0x"),
    "callback": ("write", True, "writes to 0x"),
    "allocation": ("write", None, "writes to 0x"),  # at NULL + 100000: the kernel's, or nobody's
    "abort": ("abort", False, "abort()"),
    "longjmp": (None, None, ""),  # to wherever zeroes lead
    "smash": ("execute", False, "jumps to 0x1234567"),
    "free-twice": ("abort", False, "abort()"),
    "free-wild": ("abort", False, "abort()"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vm")


@pytest.fixture(scope="module")
def guest(home: Path) -> Iterator[Machine]:
    sources = sorted(SOURCES.glob("*.c"))
    with vm.machine(vm.prepare(home, [*sources, "hello"], app="border"), 900) as running:
        yield running


def read_log(guest: Machine) -> str:
    with guest.api.request("GET", "/v1/logs") as reply:
        return b"".join(reply.pieces()).decode(errors="replace")


def beats(guest: Machine) -> list[tuple[int, str]]:
    """The application's heartbeats so far, with what it says of its data."""
    text = read_log(guest)
    return [(int(n), how) for n, how in re.findall(r"^beat (\d+) (\w+)\r?$", text, re.MULTILINE)]


def free_bytes(guest: Machine) -> int:
    match = re.search(r"(\d+) bytes used", guest.exec("mem").text)
    assert match
    return int(match[1])


def is_unikraft() -> bool:
    return Kernel.open(vm.kernel("border")[1]).lookup("ukplat_pt_get_active") is not None


def place(what: str) -> str:
    """The address that this needs, for those that an overlay does not find by a name."""
    if what == "mmio":  # the LAPIC; Unikraft has its direct map alone there
        return hex(0xFEE00080 + (0xFFFFFF8000000000 if is_unikraft() else 0))
    if what == "page-table" and not is_unikraft():
        # The root: in the reference guest's first frames, behind a bitmap of the 64 MiB's frames.
        end = Kernel.open(vm.kernel("border")[1]).lookup("_end")
        assert end
        return hex((end.address + 4095 & -4096) + 4096)
    return "0"


def assert_stopped_alone(
    guest: Machine, done: Result, kind: str | None, by_key: bool | None
) -> None:
    assert done.code == 139, done
    fault = done.info["fault"]
    assert done.info["fault"]["overlay"] == done.argv[0]
    if kind is not None:
        assert fault["kind"] == kind, fault
        assert by_key in {None, bool(fault["error_code"] & DENIED)}, fault
    # The same overlay runs again at once, and so do others.
    again = guest.exec(done.argv[0])
    assert again.code in {3, 5, 7, 11}, again
    assert guest.exec("hello").code == 0


def test_the_domain_is_announced(guest: Machine) -> None:
    assert "pku" in guest.api.get("/v1/vm")["hello"]["features"]


def test_calls_of_every_shape_pass_the_border(guest: Machine) -> None:
    for _ in range(2):
        done = guest.exec("shapes")
        assert done.text.splitlines() == [
            "sum10 385",
            "struct 10 14, 7 8",
            "mix 31.75",
            "sort 1 2 5 9",
            "nested 29",
            "mixed 1657.0",
            "longjmp 1",
            "errno 1",
            "in a thread one",
            "joined thread one",
            "joined two",
            "signal 1",
            "readdir 1",
        ], done
        assert done.code == 11


def test_an_overlay_that_may_read_nothing_still_works(guest: Machine) -> None:
    done = guest.exec("blind", "word")
    assert done.text.splitlines() == ["1 2 3 4 5 6 7 8 9.5 word", "callback 41", "!"]
    assert (done.code, done.stderr) == (3, b"errno is its own\n")


@pytest.mark.parametrize(("what", "kind"), [("read", "read"), ("write", "write"), ("show", "read")])
def test_an_overlay_that_may_read_nothing_is_stopped(guest: Machine, what: str, kind: str) -> None:
    assert_stopped_alone(guest, guest.exec("blind", what), kind, by_key=True)


@pytest.mark.parametrize("what", FAULTS)
def test_a_hostile_overlay_is_stopped_alone(guest: Machine, what: str) -> None:
    kind, by_key, words = FAULTS[what]
    arguments = ["hostile", what, place(what)]
    done = guest.exec(*arguments, stdin=b"harm")
    assert words in done.message
    assert_stopped_alone(guest, done, kind, by_key)
    # Once more: nothing of it has stayed, the first time only the kernel's own page tables.
    before = free_bytes(guest)
    assert guest.exec(*arguments, stdin=b"harm").code == 139
    assert_stopped_alone(guest, done, kind, by_key)
    assert free_bytes(guest) <= before


@pytest.mark.parametrize("access", ["other", "other-read"])
def test_overlays_are_apart_from_each_other(guest: Machine, access: str) -> None:
    guest.exec("blind")
    line = next(x for x in guest.exec("overlays").text.splitlines() if x.startswith("blind"))
    base = re.search(r"0x[0-9a-f]+", line)
    assert base
    # Its constants: they are nobody else's to read either.
    address = hex(int(base[0], 16) + 0x1000)
    kind = "write" if access == "other" else "read"
    assert_stopped_alone(guest, guest.exec("hostile", access, address), kind, by_key=True)


def test_an_endless_loop_ends_at_its_deadline(guest: Machine) -> None:
    before = len(beats(guest))
    done = guest.exec("hostile", "loop", timeout_s=1.0)
    assert (done.code, done.kind) == (124, "timeout")
    assert len(beats(guest)) > before
    assert guest.exec("hostile").code == 7


def test_endless_output_ends_at_its_deadline(guest: Machine) -> None:
    done = guest.exec("hostile", "output", timeout_s=0.5)
    assert (done.code, done.kind) == (124, "timeout")
    assert guest.exec("hostile").code == 7


def test_the_application_calls_what_an_overlay_left_with_it(guest: Machine) -> None:
    assert guest.exec("lingers", "counts").code == 5
    # Its code may go: then a call of it returns at once.
    assert guest.exec("unload", "lingers").code == 0
    at = beats(guest)[-1][0]
    guest.expect(rf"^beat {at + 3} well")
    assert guest.exec("lingers", "forget").code == 5


def test_a_callback_that_does_harm_stops_the_command(guest: Machine) -> None:
    done = guest.exec("lingers", "harms")
    assert guest.exec("lingers", "forget").code == 5
    assert_stopped_alone(guest, done, "write", by_key=True)


def test_a_thread_that_does_harm_stops_the_command(guest: Machine) -> None:
    assert_stopped_alone(guest, guest.exec("lingers", "thread-harms"), "write", by_key=True)


def test_threads_end_with_their_command(guest: Machine) -> None:
    assert guest.exec("lingers", "thread").code == 5
    assert "uio-overlay" not in guest.exec("ps").text


def test_loads_do_not_grow(guest: Machine) -> None:
    guest.exec("hello")
    guest.exec("unload", "hello")
    before = free_bytes(guest)
    for _ in range(LOADS):
        assert guest.exec("hello").code == 0
        assert guest.exec("unload", "hello").code == 0
    assert free_bytes(guest) <= before


def test_the_application_did_not_miss_a_beat(guest: Machine) -> None:
    seen = beats(guest)
    assert [n for n, _ in seen] == list(range(len(seen)))
    assert {how for _, how in seen} == {"well"}


def test_without_keys_it_runs_without_a_domain(tmp_path: Path) -> None:
    required = tmp_path / "needy.c"
    required.write_text(
        '// uio: name = "needy"\n// uio: version = "1"\n// uio: domain = "required"\nint main(void) { return 0; }\n'
    )
    sources = [SOURCES / "shapes.c", SOURCES / "hostile.c", required]
    qemu = tmp_path / "qemu"
    cpu = "qemu64,+pdpe1gb" if is_unikraft() else "qemu64"  # whose paging needs large pages
    qemu.write_text(f'#!/bin/sh\nexec qemu-system-x86_64 "$@" -cpu {cpu}\n')
    qemu.chmod(0o755)
    config = vm.prepare(tmp_path, sources, app="border", vm=[f'qemu = "{qemu}"', 'accel = "tcg"'])
    with vm.machine(config, 120) as guest:
        assert "pku" not in guest.api.get("/v1/vm")["hello"]["features"]
        assert guest.exec("shapes").code == 11
        done = guest.exec("hostile", "null")
        assert (done.code, done.info["fault"]["kind"]) == (139, "write")
        refused = guest.exec("needy")
        assert refused.code == 126
        assert "domain" in refused.message
    config.write_text(config.read_text().replace("[uio]", '[uio]\ndomain = "require"'))
    with vm.machine(config, 120) as guest:
        refused = guest.exec("shapes")
        assert refused.code == 126
        assert "domain" in refused.message
