# SPDX-License-Identifier: BSD-3-Clause
"""Overlays that go wrong are stopped alone: nothing of theirs stays, all else goes on, and they run again at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loader_tools as t
import pytest
from loader_tools import CANCELLED, FAULT, OK, TIMEOUT, Harness

SOURCES = Path(__file__).parent / "loader"
(
    READ,
    WRITE,
    EXECUTE,
    INVALID,
    DIVIDE,
    PROTECTION,
    STACK,
    ABORT,
    ALIGNMENT,
    BUDGET,
    OTHER,
) = range(1, 12)

#: what an overlay does, the kind of its fault, and words of the message
HOSTILE = {
    "null write": (WRITE, "writes to 0x0 at hostile.o+0x"),
    "null read": (READ, "reads from 0x0 at hostile.o+0x"),
    "non-canonical": (PROTECTION, "protection fault"),
    "write text": (WRITE, "writes to 0x6"),
    "write kernel text": (WRITE, "writes to 0x"),
    "write constant": (WRITE, "writes to 0x6"),
    "write got": (WRITE, "writes to 0x6"),
    "jump to data": (EXECUTE, "jumps to 0x6"),
    "jump to null": (EXECUTE, "jumps to 0x0, called from hostile.o+0x"),
    "jump non-canonical": (PROTECTION, "protection fault"),
    "stack as code": (EXECUTE, "jumps to 0x"),
    "heap as code": (EXECUTE, "jumps to 0x"),
    "ud2": (INVALID, "invalid instruction at hostile.o+0x"),
    "int3": (OTHER, "CPU exception at hostile.o+0x"),
    "divide": (DIVIDE, "division error at hostile.o+0x"),
    "privileged": (PROTECTION, "privileged instruction"),
    "stack overflow": (STACK, "stack overflow at hostile.o+0x"),
    "smash return": (PROTECTION, "protection fault"),
    "return to null": (EXECUTE, "jumps to 0x0"),
    "lose stack": (WRITE, "writes to 0x"),
    "mix registers": (WRITE, "writes to 0x0"),
    "abort": (ABORT, "abort() at hostile.o+0x"),
    "assert": (ABORT, "abort() at hostile.o+0x"),
    "endless allocation": (ABORT, "abort()"),
    "hold everything": (WRITE, "writes to 0x0"),
    "overflow heap": (WRITE, "writes to 0x"),
    "longjmp out": (None, ""),  # where it lands depends on the C library's mangling
    "bad pointer to kernel": (WRITE, "writes to 0x10, called from hostile.o+0x"),
    "bad pointer to uIO": (READ, "reads from 0x10, called from hostile.o+0x"),
    "bad path to uIO": (READ, "reads from 0x10, called from hostile.o+0x"),
    "bad buffer to uIO": (WRITE, "writes to 0x6"),
    "bad format": (READ, "reads from 0x10"),
    "fault in callback": (READ, "reads from 0x10 at hostile.o+0x"),
    "fault in qsort": (READ, "reads from 0x10 at hostile.o+0x"),
    "free twice": (WRITE, "writes to 0x20"),
}
ENDLESS = ["endless loop", "endless output", "endless sleep"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The harness, and the hostile overlay."""
    directory = tmp_path_factory.mktemp("faults")
    shutil.copy(SOURCES / "hostile.c", directory)
    return t.build_harness(directory), t.compile_c(directory / "hostile.c", "-O1", "-fno-inline")


@pytest.fixture
def harness(built: tuple[Path, Path]) -> Iterator[Harness]:
    h = Harness(built[0])
    h("limit", 64 << 20)
    yield h
    h.close()


def run(harness: Harness, built: tuple[Path, Path], what: str) -> dict[str, Any]:
    return harness("pull", built[1], *what.split())


def check_all_is_well(harness: Harness, built: tuple[Path, Path], runs: int) -> None:
    """Its memory is back, the application goes on, and the overlay runs."""
    state = harness("unload")
    assert (state["pages"], state["blocks"], state["bytes"], state["resident"]) == (0, 0, 0, 0)
    assert state["counter"] == 5 + runs
    answer = run(harness, built, "nothing")
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 3, "before\nafter\n")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(harness: Harness, built: tuple[Path, Path], what: str) -> None:
    kind, words = HOSTILE[what]
    answer = run(harness, built, what)
    assert answer["kind"] == FAULT, answer
    assert answer["out"].startswith("before\n")
    assert "after" not in answer["out"]
    if kind is not None:
        assert answer["fault"]["kind"] == kind, answer
    assert words in answer["message"]
    check_all_is_well(harness, built, 1)


def test_what_may_be_left_half_done(harness: Harness, built: tuple[Path, Path]) -> None:
    """Said of the kernel's functions only: libuio's own look at pointers before they do anything."""
    for what, half_done in {
        "bad pointer to kernel": True,
        "bad pointer to uIO": False,
        "bad path to uIO": False,
        "null write": False,
        "jump to null": False,
        "abort": False,
    }.items():
        assert ("half done" in run(harness, built, what)["message"]) == half_done, what


def test_hostile_ones_in_a_row(harness: Harness, built: tuple[Path, Path]) -> None:
    for _ in range(20):
        for what in HOSTILE:
            assert run(harness, built, what)["kind"] == FAULT
    check_all_is_well(harness, built, 20 * len(HOSTILE))


@pytest.mark.parametrize("what", ENDLESS)
def test_deadlines(harness: Harness, built: tuple[Path, Path], what: str) -> None:
    harness("timeout", 50)
    answer = run(harness, built, what)
    assert answer["kind"] == TIMEOUT, answer
    check_all_is_well(harness, built, 1)


@pytest.mark.parametrize("number", [2, 9])
@pytest.mark.parametrize("what", ENDLESS)
def test_cancel(harness: Harness, built: tuple[Path, Path], what: str, number: int) -> None:
    harness("cancel", number, 30)
    answer = run(harness, built, what)
    assert (answer["kind"], answer["status"]) == (CANCELLED, number), answer
    check_all_is_well(harness, built, 1)


def test_a_polite_overlay_ends_itself(harness: Harness, built: tuple[Path, Path]) -> None:
    harness("cancel", 2, 30)
    answer = run(harness, built, "polite")
    assert (answer["kind"], answer["status"]) == (OK, 11)


def test_a_polite_overlay_is_killed_all_the_same(
    harness: Harness, built: tuple[Path, Path]
) -> None:
    harness("cancel", 9, 30)
    assert run(harness, built, "polite")["kind"] == CANCELLED
    harness("timeout", 30)
    assert run(harness, built, "polite")["kind"] == TIMEOUT
    check_all_is_well(harness, built, 2)


def test_exit(harness: Harness, built: tuple[Path, Path]) -> None:
    answer = run(harness, built, "exit")
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 7, "before\n")
    answer = run(harness, built, "exit in handler")
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 9, "before\nafter\nhandler\n")
    check_all_is_well(harness, built, 2)


def test_globals_are_fresh_after_a_fault(harness: Harness, tmp_path: Path) -> None:
    text = "static int n; int main(int c, char **v) { n++; if (c > 1) *(volatile int *)8 = 1; return n; }"
    path = t.compile_c(t.write(tmp_path / "x.c", text))
    assert [harness("pull", path)["status"] for _ in range(3)] == [1, 1, 1]
    assert harness("pull", path, "fault")["kind"] == FAULT
    assert harness("pull", path)["status"] == 1


def test_backtrace(harness: Harness, tmp_path: Path) -> None:
    text = """
        __attribute__((noinline)) int c(volatile int *p) { return *p + 1; }
        __attribute__((noinline)) int b(volatile int *p) { return c(p) + 1; }
        __attribute__((noinline)) int a(volatile int *p) { return b(p) + 1; }
        int main(void) { return a((int *)8) + 1; }"""
    path = t.compile_c(t.write(tmp_path / "x.c", text), "-O1")
    answer = harness("pull", path)
    trace = answer["fault"]["backtrace"]
    assert len(trace) == 3
    # Return addresses into b, a and main, which lie in this order.
    assert trace == sorted(trace)
    assert answer["fault"]["ip"] < trace[0] < answer["fault"]["ip"] + 200


FAULTY, ENDLESS_LOOP = "*(volatile int *)8 = 1;", "for (;;) ;"


@pytest.mark.parametrize(
    ("where", "what", "kind"),
    [
        ("constructor", FAULTY, FAULT),
        ("constructor", ENDLESS_LOOP, TIMEOUT),
        (
            "destructor",
            FAULTY,
            FAULT,
        ),  # exit() runs them; endless ones: test_loader_hosted.py
    ],
)
def test_faults_outside_main(
    harness: Harness, tmp_path: Path, where: str, what: str, kind: int
) -> None:
    text = f"""
        static int n;
        __attribute__(({where})) static void f(void) {{ {what} n++; }}
        int main(void) {{ return 0; }}"""
    path = t.compile_c(t.write(tmp_path / "x.c", text))
    harness("timeout", 50)
    assert harness("pull", path)["kind"] == kind
    state = harness.state()
    assert (state["pages"], state["blocks"], state["resident"]) == (0, 0, 0)


def test_standard_streams(harness: Harness, tmp_path: Path) -> None:
    text = r"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        int main(int argc, char **argv)
        {
            char line[100];
            FILE *f = fopen(argv[1], "w+");
            fprintf(f, "%s %d\n", "written", 5);
            fputs("second\n", f);
            for (int i = 0; i < 5000; i++)
                fputc('a' + i % 26, f);
            rewind(f);
            while (fgets(line, sizeof(line), f) && line[0] != 'a')
                printf("read %s", line);
            printf("at %ld\n", ftell(f));
            fseek(f, -1, SEEK_END);
            int last = fgetc(f), then = fgetc(f);
            printf("last %c, then %d, end %d\n", last, then, feof(f) != 0);
            fclose(f);
            f = fopen(argv[1], "a");
            fputs("appended", f);            /* flushed at the end, without fclose() */
            while (fgets(line, sizeof(line), stdin))
                printf("input %s;", line);
            fprintf(stderr, "%s %5.2f %ld\n", "error", 1.5, 1L << 40);
            char big[3000];
            memset(big, 'x', sizeof(big));
            printf("%.*s|\n", (int)sizeof(big), big);
            printf("%s\n", fopen("/does/not/exist", "r") ? "there" : "not there");
            return 0;
        }"""
    path = t.compile_c(t.write(tmp_path / "x.c", text), "-O2", "-w")
    target = tmp_path / "file"
    harness("input", "words")
    answer = harness("pull", path, target)
    assert answer["kind"] == OK, answer
    assert answer["out"] == (
        "read written 5\nread second\nat 116\nlast h, then -1, end 1\ninput words;" + "x" * 3000 + "|\nnot there\n"
    )  # fmt: skip
    assert answer["err"] == "error  1.50 1099511627776\n"
    data = target.read_bytes()
    assert len(data) == 17 + 5000 + 8
    assert data.endswith(b"appended")
    assert harness.state()["blocks"] == 0
