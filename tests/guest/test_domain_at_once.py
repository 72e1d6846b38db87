# SPDX-License-Identifier: BSD-3-Clause
"""The protection domain with many overlays at once, with commands that are cancelled, and with overlays that the guest
links itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm

from overlays.build import build
from uiod.run import Machine, Result

# The first test's time is also that of building twenty overlays, on a machine that may be busy.
pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

SOURCES = Path(__file__).parent / "hostile"
DENIED = 0x20  # bit of a page fault's error code: a protection key forbade it
KEYS = 13  # that overlays can have
MANY = KEYS + 2

#: Its relocation makes the bytes of an instruction that its file does not have: wrpkru
MADE_UP = """
// uio: name = "made_up"
// uio: version = "1"
extern char bytes[];
int main(void)
{
	int value;

	__asm__("movl $bytes, %0" : "=r"(value));
	return value != 0;
}
"""
BYTES = """
	.globl bytes
bytes = 0xef010f
"""


def holders(directory: Path) -> Iterator[Path]:
    text = (SOURCES / "holder.c").read_text()
    for number in range(MANY):
        path = directory / f"holder{number}.c"
        path.write_text(
            f"#define NUMBER {number}\n" + text.replace('"holder"', f'"holder{number}"')
        )
        yield path


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    home = tmp_path_factory.mktemp("vm")
    sources = [*holders(home), *(SOURCES / f"{n}.c" for n in ("hostile", "lingers"))]
    sources += [SOURCES / "shapes.c", SOURCES / "blind.c"]
    config = vm.prepare(home, [*sources, "hello"], app="border")
    (home / "made_up.c").write_text(MADE_UP)
    (home / "bytes.s").write_text(BYTES)
    build(
        [home / "made_up.c", home / "bytes.s"],
        home / "bin" / "made_up.uio",
        kernel=vm.kernel("border")[1],
        key=home / "keys" / "test.pem",
    )
    with vm.machine(config, 900) as running:
        yield running


def pulled(guest: Machine, *argv: str) -> Result:
    return vm.Session(guest, *argv, pull=True).result()


def beats(guest: Machine) -> int:
    assert b"HARMED" not in guest.log()
    return len(re.findall(rb"^beat \d+ well\r?$", guest.log(), re.MULTILINE))


def thread(guest: Machine) -> int:
    """The number of the thread that runs the next command."""
    match = re.search(r"^ *(\d+) .*uio-exec", guest.exec("ps").text, re.MULTILINE)
    assert match
    return int(match[1])


# ---- more overlays than keys ----


def test_more_overlays_at_once_than_keys_share_and_the_log_says_so(guest: Machine) -> None:
    running = [vm.Session(guest, f"holder{n}") for n in range(MANY)]
    assert len({session.line() for session in running}) == MANY
    said = re.findall(rf"more than {KEYS} overlays run at once: (\w+)", guest.exec("dmesg").text)
    assert len(said) == MANY - KEYS
    assert said == [f"holder{n}" for n in range(KEYS, MANY)]
    for number, session in enumerate(running):
        done = session.result()
        assert (done.code, done.text) == (7, f"{number + 1}\n"), done


def test_who_shares_a_key_is_apart_from_all_others_again_afterwards(guest: Machine) -> None:
    running = [vm.Session(guest, f"holder{n}") for n in range(MANY)]
    at = [session.line() for session in running]
    for session in running[:-1]:
        assert session.result().code == 7
    # The last one shared with one that has ended: nobody else gets that key while it runs.
    others = [vm.Session(guest, f"holder{n}", at[-1]) for n in range(KEYS - 1)]
    for session in others:
        session.line()
    for session in others:
        done = session.result()
        assert done.info["fault"]["kind"] == "write", done
        assert done.info["fault"]["error_code"] & DENIED
    done = running[-1].result()
    assert (done.code, done.text) == (7, f"{MANY}\n")


# ---- cancelled ----


@pytest.mark.parametrize("number", [2, 9])
def test_an_endless_loop_is_cancelled(guest: Machine, number: int) -> None:
    before = beats(guest)
    session = vm.Session(guest, "hostile", "loop")
    guest.expect(rf"^beat {before + 2} well")
    session.signal(number)
    done = session.result()
    assert (done.kind, done.code) == ("cancelled", 128 + number), done
    assert guest.exec("hostile").code == 7


def test_threads_end_with_a_command_that_is_cancelled(guest: Machine) -> None:
    before = beats(guest)
    session = vm.Session(guest, "lingers", "thread-and-loop")
    assert session.line() == "both"
    assert "uio-overlay" in guest.exec("ps").text
    session.signal(2)
    assert session.result().kind == "cancelled"
    assert "uio-overlay" not in guest.exec("ps").text
    assert guest.exec("lingers").code == 5
    guest.expect(rf"^beat {before + 2} well")


# ---- the thread of the next command ----


def test_a_thread_serves_the_next_command_unless_an_overlay_has_left_something_in_it(
    guest: Machine,
) -> None:
    first = thread(guest)
    assert guest.exec("hello").code == 0
    assert thread(guest) == first
    # A fault, and a function of the kernel, which may keep what it likes in the thread.
    for what in (["hostile", "null"], ["hostile"]):
        guest.exec(*what)
        after = thread(guest)
        assert after != first, what
        first = after
    # A cancel, wherever it was.
    session = vm.Session(guest, "hostile", "loop")
    guest.expect(rf"^beat {beats(guest) + 2} well")
    session.signal(9)
    assert session.result().kind == "cancelled"
    assert thread(guest) != first


def test_an_idle_thread_ends(guest: Machine) -> None:
    first = thread(guest)
    before = beats(guest)
    guest.expect(rf"^beat {before + 15} well")
    assert thread(guest) != first


# ---- pulled ----


def test_calls_of_every_shape_pass_the_border_of_a_pulled_overlay(guest: Machine) -> None:
    pushed = guest.exec("shapes")
    guest.exec("unload", "shapes")
    done = pulled(guest, "shapes")
    assert (done.code, done.text) == (11, pushed.text), done
    done = pulled(guest, "blind", "word")
    assert (done.code, done.text.splitlines()[1]) == (3, "callback 41")


@pytest.mark.parametrize(
    ("what", "kind", "by_key", "half_done"),
    [
        ("data", "write", True, False),
        ("gates", "write", True, False),
        ("own-text", "write", False, False),
        ("jump-data", "execute", False, False),
        ("overflow", "stack overflow", False, False),
        ("smash", "execute", False, False),
        ("callback", "write", True, False),
        ("bad-copy", "write", True, False),
        ("bad-pointer", "write", False, True),
    ],
)
def test_a_pulled_overlay_is_stopped_alone(
    guest: Machine, what: str, kind: str, by_key: bool, half_done: bool
) -> None:
    before = beats(guest)
    guest.exec("unload", "hostile")
    done = pulled(guest, "hostile", what)
    assert done.code == 139, done
    fault = done.info["fault"]
    assert (fault["kind"], bool(fault["error_code"] & DENIED)) == (kind, by_key), fault
    assert ("a function of the kernel may be half done" in done.message) == half_done
    assert pulled(guest, "hostile").code == 7
    guest.expect(rf"^beat {before + 1} well")


def test_the_guest_itself_refuses_what_only_its_relocation_makes(guest: Machine) -> None:
    done = pulled(guest, "made_up")
    assert (done.code, done.kind) == (126, "refused"), done
    assert "wrpkru" in done.message
    assert guest.exec("hello").code == 0
