# SPDX-License-Identifier: BSD-3-Clause
"""The shipped overlays, each in a running guest beside an application that goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import vm
from elftools.elf.elffile import ELFFile

from overlays.kernel import Kernel
from uiod.run import Machine

# The first test's time is also that of building all overlays, on a machine that may be busy.
pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

BOX = ("hello", "set_count", "top", "logcat", "peek", "poke", "strings", "heap", "perf", "bt",
       "snapshot", "sqlite_backup")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@pytest.fixture(scope="module")
def guest(home: Path) -> Iterator[Machine]:
    with vm.machine(vm.prepare(home, [*BOX, "leaker"]), timeout_s=900) as running:
        yield running


def ran(guest: Machine, *argv: str, code: int = 0, stdin: bytes = b"") -> str:
    """Run it; standard output."""
    done = guest.exec(*argv, stdin=stdin)
    assert done.code == code, done
    return done.text


def test_every_overlay_of_the_box_is_tested() -> None:
    assert sorted(p.stem for p in vm.SHIPPED.glob("*.c")) == sorted(BOX)


@pytest.mark.parametrize("name", sorted(set(BOX) - {"hello"}))
def test_help_is_output_and_wrong_usage_is_an_error(guest: Machine, name: str) -> None:
    assert ran(guest, name, "--help").startswith(f"usage: {name} ")
    wrong = guest.exec(name, "-wrong", "a", "b", "c")
    assert (wrong.code, wrong.stdout) == (2, b"")
    assert wrong.stderr.startswith(f"usage: {name} ".encode())


# ---- memory


def test_peek_shows_numbers_text_and_bytes(guest: Machine) -> None:
    ran(guest, "poke", "step", "0x41424344")
    assert re.fullmatch(
        r"[0-9a-f]{12}  1094861636  0x0000000041424344\n", ran(guest, "peek", "step")
    )
    assert ran(guest, "peek", "-2", "step", "2").split()[1::3] == ["17220", "16706"]
    assert ran(guest, "peek", "-s", "step") == "DCBA\n"
    assert ran(guest, "peek", "-x", "step+1", "3").split(maxsplit=1)[1] == (
        "43 42 41" + " " * 41 + "CBA\n"
    )
    assert guest.exec("peek", "nosuch").stderr == b"peek: there is no symbol 'nosuch'\n"


def test_peek_says_what_cannot_be_read_and_goes_on(guest: Machine) -> None:
    for how in ("-8", "-x", "-s"):
        done = guest.exec("peek", how, "0x10")
        assert (done.code, done.stderr) == (1, b"peek: 0x10 cannot be read\n")


def test_peek_follows_pointers_in_one_go(guest: Machine) -> None:
    address = int(ran(guest, "peek", "count").split()[0], 16)
    ran(guest, "poke", "step", str(address))
    step = int(ran(guest, "peek", "step").split()[0], 16)
    output = guest.exec("peek", "-r", f"{step:#x},0x4:4", "0x10:8", f"{step:#x}:8").stdout
    assert struct.unpack_from("<QQ", output) == (address + 4, 4)
    assert struct.unpack_from("<QQ", output, 20) == (0x10, 0)
    assert struct.unpack_from("<QQQ", output, 36) == (step, 8, address)
    assert len(output) == 60


def test_poke_changes_the_application(guest: Machine) -> None:
    ran(guest, "poke", "step", "3")
    assert ran(guest, "poke", "step", "-7") == "step: 3 -> -7\n"
    ran(guest, "poke", "count", "500000")
    guest.expect(r"^count: 4999[89]\d$")
    assert ran(guest, "poke", "-1", "step+7", "0x80") == "step+7: -1 -> -128\n"
    ran(guest, "poke", "step", "1")
    ran(guest, "poke", "-s", "step", "abcdefg")
    assert ran(guest, "peek", "-s", "step") == "abcdefg\n"
    ran(guest, "poke", "step", "1")


@pytest.mark.parametrize(("argv", "says"), [
    (("main", "1"), "main is a function"),
    (("step", "x1"), "'x1' is no number of 8 bytes"),
    (("-1", "step", "256"), "'256' is no number of 1 bytes"),
    (("-1", "step", "-129"), "'-129' is no number of 1 bytes"),
    (("-s", "step", "12345678"), "step has room for 8 bytes, the text takes 9"),
    (("stepp", "1"), "there is no symbol 'stepp'"),
    (("0x1000", "1"), "0x1000 has no size of a number"),
    (("-4", "0x10", "1"), "there is no memory at 0x10"),
])  # fmt: skip
def test_poke_refuses_what_makes_no_sense(guest: Machine, argv: tuple[str, ...], says: str) -> None:
    done = guest.exec("poke", *argv)
    assert done.code in (1, 2)
    assert says in done.stderr.decode()


def address_of(file: BinaryIO, text: bytes) -> int:
    """Where the kernel has it."""
    for segment in ELFFile(file).iter_segments("PT_LOAD"):
        if (at := segment.data().find(text)) >= 0:
            return int(segment["p_vaddr"]) + at
    raise AssertionError(text)


def image_start() -> tuple[str, bytes]:
    """The symbol at the beginning of the image, and what is there."""
    kernel = Kernel.open(vm.kernel()[1])
    symbol = kernel.lookup("__image_start") or kernel.lookup("_text")
    assert symbol is not None
    with vm.kernel()[1].open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            at = symbol.address - segment["p_vaddr"]
            if 0 <= at < segment["p_filesz"]:
                return symbol.name, segment.data()[at : at + 64]
    raise AssertionError(symbol)


def test_strings_finds_text_in_variables_and_ranges(guest: Machine) -> None:
    ran(guest, "poke", "-s", "step", "needle")
    found = ran(guest, "strings", "step")
    ran(guest, "poke", "step", "1")
    assert re.fullmatch(r"[0-9a-f]{12}  needle\n", found)
    assert ran(guest, "strings", "-n", "7", "step") == ""
    with vm.kernel()[1].open("rb") as file:
        address = address_of(file, b"count: reloaded, step=%ld")
    constants = ran(guest, "strings", hex(address & ~0xFFF), str(0x10000))
    assert "count: reloaded, step=%ld" in constants
    assert all(len(line.split("  ", 1)[1]) >= 4 for line in constants.splitlines())
    done = guest.exec("strings", "0xff0", "64")
    assert (done.code, done.stderr) == (1, b"strings: 0xff0 cannot be read\n")


def test_heap_shows_blocks_and_finds_leaks(guest: Machine) -> None:
    """`leaker` makes the application's allocator leak 7 blocks of 12345 bytes and free another it had."""
    old = ran(guest, "leaker", "1", "777").strip()
    assert re.fullmatch(r"\d+ blocks marked\n", ran(guest, "heap", "mark"))
    ran(guest, "leaker", "7", "12345")
    ran(guest, "leaker", "free", old)
    report = ran(guest, "heap", "diff").splitlines()
    match = re.fullmatch(
        r"since the mark, \d+ s ago: (\d+) blocks have come, (\d+) have gone", report[0]
    )
    assert match and int(match[1]) >= 7 and int(match[2]) >= 1
    assert re.search(rf"^ +12345 +7 +{7 * 12345} +\d+$", "\n".join(report), re.MULTILINE)
    blocks = [line.split() for line in report if re.match(r"[0-9a-f]{12} +12345  ", line)]
    assert len(blocks) == 7
    address = blocks[0][0]
    assert any(line.startswith(f"{address} ") for line in ran(guest, "heap", "map").splitlines())
    assert re.search(
        r"^memory of the guest: \d+ KiB, \d+ KiB of it free$", ran(guest, "heap"), re.M
    )


def test_heap_diff_without_a_mark_says_what_to_do(guest: Machine) -> None:
    done = guest.exec("heap", "diff", "-f", "/host/none")
    assert (done.code, done.stderr) == (
        1, b"heap: there is no mark /host/none: run `heap mark` first\n")  # fmt: skip
    ran(guest, "cp", "-", "/host/other", stdin=b"something else that is long enough")
    done = guest.exec("heap", "diff", "-f", "/host/other")
    assert (done.code, done.stderr) == (1, b"heap: /host/other is no mark\n")


# ---- on the host, with types


def uioctl(guest: Machine, command: str, *argv: str, code: int = 0) -> str:
    """Its standard output, or with another status standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "uiod.ctl.main", "--runtime-dir", str(guest.root),
         command, guest.name, *argv],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done
    return done.stderr if code else done.stdout


needs_refguest = pytest.mark.skipif("KERNEL_DBG" in os.environ, reason="names of the refguest")


def test_peek_on_the_host_knows_types(guest: Machine) -> None:
    ran(guest, "poke", "step", "-5")
    assert uioctl(guest, "peek", "step") == "step = -5\n"
    assert uioctl(guest, "peek", "step", "--json") == "-5\n"
    ran(guest, "poke", "step", "1")
    address = int(ran(guest, "peek", "step").split()[0], 16)
    assert uioctl(guest, "peek", "&step") == f"&step = {address:#x} <step>\n"


@needs_refguest
def test_peek_on_the_host_shows_structures_and_follows_pointers(guest: Machine) -> None:
    thread = json.loads(uioctl(guest, "peek", "*current", "--json"))
    # It is read by the thread that runs the overlay.
    assert (thread["name"], thread["state"]) == ("uio-exec", "THREAD_RUNNING")
    assert thread["ours"] is True and thread["spawn"] is None
    shown = uioctl(guest, "peek", "*current")
    assert re.search(r'^  name = "uio-exec"$', shown, re.MULTILINE)
    assert re.search(r"^  state = THREAD_RUNNING$", shown, re.MULTILINE)
    names = [uioctl(guest, "peek", f"all_threads{'->next' * i}->name") for i in range(3)]
    assert 'all_threads->next->next->name = "main"\n' in names
    sizes = json.loads(uioctl(guest, "peek", "sizes[1:4]", "--json"))
    assert sizes == [32, 48, 64]
    assert uioctl(guest, "peek", "sizes[0]") == "sizes[0] = 16\n"


@needs_refguest
@pytest.mark.parametrize(("expression", "says"), [
    ("stepp", "did you mean step?"),
    ("current->nmae", "did you mean name"),
    ("step.x", "that has no members: it is long int"),
    ("*step", "that is no pointer"),
    ("sizes[99]", "the array has 15 elements"),
    ("step +", "is not understood"),
    ("sizes[", "is no index"),
    ("all_threads->next->next->next->next->next->next->next->name", "cannot be read"),
])  # fmt: skip
def test_peek_on_the_host_says_what_is_wrong(guest: Machine, expression: str, says: str) -> None:
    error = uioctl(guest, "peek", expression, code=2 if "[" in says or "under" in says or
                   "index" in says else 1)  # fmt: skip
    assert says in error


def test_peek_watches(guest: Machine) -> None:
    ran(guest, "poke", "step", "1")
    values = [json.loads(line)["value"]
              for line in uioctl(guest, "peek", "count", "-w", "-n", "3", "-i", "100ms", "--json")
              .splitlines()]  # fmt: skip
    assert values == sorted(set(values)) and len(values) == 3


def test_bt_on_the_host_names_functions(guest: Machine) -> None:
    threads = {t["name"]: t for t in json.loads(uioctl(guest, "bt", "--json"))}
    assert any(f["where"].startswith("main+") for f in threads["main"]["frames"])
    assert re.search(r" main\+0x[0-9a-f]+ \(.*count\.c:\d+\)", uioctl(guest, "bt"))


# ---- time and threads


def test_perf_counts_over_intervals(guest: Machine) -> None:
    lines = ran(guest, "perf", "-i", "400ms", "-n", "3").splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["SECONDS", "CYCLES"])
    rows = [line.split() for line in lines[heading + 1 : heading + 4]]
    total = lines[lines.index("in all:") + 1].split()
    assert len(rows) == 3
    for row in [*rows, total]:
        assert float(row[0]) >= 0.4 and int(row[1]) > 0
        assert 0 <= float(row[2].rstrip("%")) <= 100
        assert int(row[4]) > 0  # the timer's, that ended the sleep
    assert int(total[3]) > 0  # the application counted once
    assert int(total[1]) == sum(int(row[1]) for row in rows)
    assert int(total[3]) == sum(int(row[3]) for row in rows)
    assert any(re.fullmatch(r" +1 .* main", line) for line in lines)


def test_perf_counts_while_another_command_runs(guest: Machine) -> None:
    done = guest.exec("perf", "-s", stdin=b"output of it\n" * 1000)
    assert (done.code, done.stdout) == (0, b"output of it\n" * 1000)
    assert re.search(r"^in all:$", done.stderr.decode(), re.MULTILINE)


def test_perf_is_honest_about_counters(guest: Machine) -> None:
    """QEMU's TCG has none: the guest must not claim any."""
    text = ran(guest, "perf", "-i", "1ms", "-n", "1")
    if "none visible" in text:
        row = text.splitlines()[text.splitlines().index("in all:") + 1]
        assert row.split()[-1] == "-"
    else:
        assert re.search(r"version \d+, \d+ general, \d+ fixed", text)


def test_top_lists_threads(guest: Machine) -> None:
    text = ran(guest, "top", "-n", "2", "-d", "1")
    assert text.count("   ID S  CPU%") == 2
    assert len(re.findall(r"^ +1 [RrS] .*  main$", text, re.MULTILINE)) == 2
    assert re.search(r"\(uIO\)$", text, re.MULTILINE)


def test_bt_shows_where_the_application_waits(guest: Machine) -> None:
    text = ran(guest, "bt")
    match = re.search(r"^thread 1 [rS] main\n((?:  .*\n)+)", text, re.MULTILINE)
    assert match and "(uIO)" not in text
    kernel = Kernel.open(vm.kernel()[1])
    addresses = [int(line.split()[0], 16) for line in match[1].splitlines()]
    names = [near[0].name for a in addresses if (near := kernel.nearest(a - 1))]
    assert "clock_nanosleep" in names[0] or "syscall" in names[0] or "nanosleep" in names[1]
    assert "main" in names
    assert "(uIO)" in ran(guest, "bt", "-a")
    assert guest.exec("bt", "9999").stderr == b"bt: there is no such thread\n"


# ---- files


def test_logcat_follows_a_file_of_the_guest(guest: Machine) -> None:
    lines = b"".join(b"line %d\n" % i for i in range(5000))
    ran(guest, "cp", "-", "guest:/tmp/log", stdin=lines)
    assert ran(guest, "logcat", "-n", "3", "guest:/tmp/log") == "line 4997\nline 4998\nline 4999\n"
    seen: list[bytes] = []
    followed = guest.exec("logcat", "-f", "-n", "1", "guest:/tmp/log", timeout_s=1.5)
    assert followed.kind == "timeout" and followed.stdout == b"line 4999\n"

    def on_output(_stream: int, data: bytes) -> None:
        if not seen:  # it has shown what was there: only now comes more
            ran(guest, "cp", "-", "guest:/tmp/log", stdin=lines + b"new\n")
        seen.append(data)

    guest.exec("logcat", "-f", "-n", "1", "guest:/tmp/log", timeout_s=4, echo=on_output)
    assert b"".join(seen).endswith(b"new\n")
    ran(guest, "rm", "guest:/tmp/log")


def load_segments(core: bytes) -> dict[int, bytes]:
    """Address and content of each PT_LOAD."""
    assert core[:4] == b"\x7fELF" and struct.unpack_from("<H", core, 16) == (4,)
    count = struct.unpack_from("<H", core, 56)[0]
    found = {}
    for i in range(count):
        kind, _, offset, address, _, size, *_ = struct.unpack_from("<IIQQQQQQ", core, 64 + 56 * i)
        if kind == 1:
            assert offset % 4096 == address % 4096
            found[address] = core[offset : offset + size]
    return found


def test_snapshot_is_a_core_file_of_what_was_asked_for(guest: Machine, home: Path) -> None:
    ran(guest, "poke", "step", "0x1122334455667788")
    name, start = image_start()
    said = ran(guest, "snapshot", "-o", "/host/two.core", "step", f"{name}:4096")
    ran(guest, "poke", "step", "1")
    assert said.startswith("/host/two.core: 4104 bytes in 2 ranges, ")
    kernel = Kernel.open(vm.kernel()[1])
    loads = load_segments((home / "host" / "two.core").read_bytes())
    step, image = kernel.lookup("step"), kernel.lookup(name)
    assert step and image
    assert loads[step.address] == struct.pack("<Q", 0x1122334455667788)
    assert loads[image.address].startswith(start)


def test_snapshot_says_what_it_cannot_do(guest: Machine, home: Path) -> None:
    for argv, says in (
        (("nosuch",), "there is no symbol 'nosuch'"),
        (("0x1000",), "how many bytes of 0x1000?"),
        (("-o", "/bin/x", "count"), "/bin/x"),
    ):
        done = guest.exec("snapshot", *argv)
        assert done.code == 1 and says in done.stderr.decode()
    done = guest.exec("snapshot", "-o", "/host/hole.core", "0x0:4096")
    assert (done.code, done.stderr) == (
        0, b"snapshot: 4096 bytes are not there to be read: zeros\n")  # fmt: skip
    assert load_segments((home / "host" / "hole.core").read_bytes()) == {0: bytes(4096)}


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_gdb_opens_a_snapshot(guest: Machine, home: Path) -> None:
    ran(guest, "poke", "step", "123456")
    ran(guest, "snapshot")
    ran(guest, "poke", "step", "1")
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", "-ex", "print step", "-ex", "backtrace", "-ex", "info threads",
         str(vm.kernel()[1]), str(home / "host" / "snapshot.core")],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "$1 = 123456" in done.stdout, done
    assert re.search(r"^#0 ", done.stdout, re.MULTILINE), done
    assert "LWP 1" in done.stdout or "process 1" in done.stdout, done


# ---- SQLite


def test_sqlite_backup_says_that_there_is_no_sqlite(guest: Machine) -> None:
    done = guest.exec("sqlite_backup", "/host/x.db")
    assert done.code == 1
    assert b"the application has no SQLite" in done.stderr


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Path]]:
    if "KERNEL" in os.environ:
        pytest.skip("the kernel is given, and is not the reference guest with SQLite")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: SQLite's source comes by it")
    home = tmp_path_factory.mktemp("sqlite")
    config = vm.prepare(
        home, [], app="sqlite", vm=['append = "-- 20000 5"'],
    )  # fmt: skip
    for overlay in ("sqlite_backup", "poke"):
        vm.build_overlay(home, overlay, vm.kernel("sqlite")[1])
    with vm.machine(config, timeout_s=170) as running:
        running.expect(r"rows to begin with$")
        yield running, home


def test_a_database_in_memory_is_backed_up_while_it_grows(database: tuple[Machine, Path]) -> None:
    guest, home = database
    counts = []
    for i in range(3):
        name = f"copy{i}.db"
        said = ran(guest, "sqlite_backup", "-n", "16", f"/host/{name}")
        path = home / "host" / name
        assert said == f"/host/{name}: {path.stat().st_size} bytes\n"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            count, last, ids = copy.execute(
                "SELECT COUNT(*), MAX(n), COUNT(DISTINCT n) FROM log"
            ).fetchone()
            assert count == last == ids >= 20_000  # whole transactions, none lost
            assert (count - 20_000) % 10 == 0
            by_index = copy.execute("SELECT COUNT(*) FROM log WHERE word >= ''").fetchone()
            assert by_index == (count,)
            counts.append(count)
    assert counts == sorted(set(counts)), "the application stood still"
    assert not list((home / "host").glob("*.part"))


def test_a_backup_that_cannot_be_leaves_nothing(database: tuple[Machine, Path]) -> None:
    guest, home = database
    assert guest.exec("sqlite_backup", "-d", "nosuch", "/host/x.db").code == 1
    assert guest.exec("sqlite_backup", "/bin/x.db").code == 1
    done = guest.exec("sqlite_backup", "-d", "rows", "/host/x.db")
    assert done.code != 0
    assert not (home / "host" / "x.db").exists()
