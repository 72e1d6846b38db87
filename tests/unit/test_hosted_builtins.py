# SPDX-License-Identifier: BSD-3-Clause
"""The builtin commands over the channel; those on files, on uIO-fs and on the guest's own files alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hosted.guest
import pytest
from hosted.client import CANCEL, CANCELLED, DATA, NOT_FOUND, OK, Exit
from hosted.files import served
from hosted.guest import Guest

guest = hosted.guest.guest
hosted_binary = hosted.guest.hosted_binary


@dataclass
class Place:
    """A directory of the host, and what the guest calls it."""

    guest: Guest
    local: Path
    path: str

    def run(self, *argv: str, stdin: bytes | None = b"") -> Exit:
        """A command; in its arguments @ is this place's path."""
        return self.guest.run(*(a.replace("@", self.path) for a in argv), stdin=stdin)

    def ok(self, *argv: str, stdin: bytes | None = b"") -> bytes:
        result = self.run(*argv, stdin=stdin)
        assert (result.kind, result.status, result.stderr) == (OK, 0, b"")
        return result.stdout

    def fails(self, *argv: str) -> str:
        result = self.run(*argv)
        assert result.kind == OK
        assert result.status == 1
        assert result.stdout == b""
        return result.stderr.decode().replace(self.path, "@")


@pytest.fixture
def host(guest: Guest, tmp_path: Path) -> Iterator[Path]:
    """The directory that the guest sees as /host."""
    (tmp_path / "host").mkdir()
    (tmp_path / "bin").mkdir()
    with served(guest.directory / "fs.sock", tmp_path / "host", tmp_path / "bin"):
        yield tmp_path / "host"


@pytest.fixture(params=["/host", "guest:"])
def place(guest: Guest, host: Path, request: pytest.FixtureRequest) -> Place:
    return Place(guest, host if request.param == "/host" else guest.root, request.param)


# ---- help and the like ----


def test_help_tells_about_each_builtin(guest: Guest) -> None:
    with guest.connect() as client:
        assert client.hello is not None
        names = client.hello.builtins
        listed = client.run("help").stdout.decode()
        for name in names:
            told = client.run("help", name).stdout.decode()
            assert told.startswith(f"{name}: ")
            assert f"usage: {name}" in told
            assert f"\n  {name} " in listed
        result = client.run("help", "nosuch")
        assert (result.status, result.stderr) == (1, b"help: nosuch: no builtin command\n")


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["sleep"], 2),
        (["sleep", "x"], 2),
        (["sleep", "-1"], 2),
        (["cp", "a"], 2),
        (["mv", "a"], 2),
        (["rm"], 2),
        (["rm", "-x", "a"], 2),
        (["mkdir"], 2),
        (["ls", "-q"], 2),
        (["ps", "x"], 2),
        (["mem", "x"], 2),
        (["dmesg", "x"], 2),
        (["uptime", "x"], 2),
        (["overlays", "x"], 2),
        (["sym"], 2),
        (["run"], 2),
        (["load"], 2),
        (["unload"], 2),
        (["hexdump", "-n", "x"], 2),
        (["kill", "-NOSUCH"], 2),
        (["kill", "-99"], 2),
        (["kill", "-0"], 2),
        (["kill", "me"], 2),
        (["kill", "4000000"], 1),
        (["kill", "-l", "NOSUCH"], 1),
        (["unload", "nosuch"], 1),
        (["true"], 0),
        (["false"], 1),
        (["true", "x"], 0),
    ],
)
def test_status(guest: Guest, argv: list[str], status: int) -> None:
    result = guest.run(*argv)
    assert (result.kind, result.status) == (OK, status)
    if argv[0] not in ("true", "false"):
        assert argv[0].encode() in result.stderr


def test_echo(guest: Guest) -> None:
    assert guest.run("echo").stdout == b"\n"
    assert guest.run("echo", "a", "", "b").stdout == b"a  b\n"
    assert guest.run("echo", "-n", "a").stdout == b"a"
    assert guest.run("echo", "x" * 30_000).stdout == b"x" * 30_000 + b"\n"


# ---- signals, threads, memory ----


def test_kill_reaches_the_application(guest: Guest) -> None:
    for argv in (["-HUP"], ["-SIGHUP"], ["-hup"], ["-1"], ["-s", "HUP"]):
        assert guest.run("kill", *argv).status == 0
        guest.wait_for_output(b"count: reloaded\n")
        guest.output = b""


def test_kill_names(guest: Guest) -> None:
    listed = guest.run("kill", "-l").stdout.decode().split()
    table = dict(zip(listed[1::2], map(int, listed[::2]), strict=True))
    assert (table["HUP"], table["KILL"], table["TERM"], table["SYS"]) == (1, 9, 15, 31)
    assert len(table) == 31
    assert guest.run("kill", "-l", "TERM", "1", "sigint").stdout == b"15\nHUP\n2\n"


def test_kill_ends_a_command(guest: Guest) -> None:
    with guest.connect() as client:
        sleeper = client.start("sleep", "1000")
        lines = client.run("ps").stdout.splitlines()
        number = next(x.split()[0].decode() for x in lines if x.endswith(b"sleep 1000"))
        assert client.run("kill", "-INT", number).status == 0
        result = client.finish(sleeper)
        assert (result.kind, result.status) == (CANCELLED, 2)


def test_ps_shows_threads_and_commands(guest: Guest) -> None:
    text = guest.run("ps").stdout.decode()
    assert " uio (uIO)" in text
    assert " count" in text
    assert text.rstrip().endswith(" ps")


def test_mem(guest: Guest) -> None:
    assert 0 < guest.memory_used() < 64 << 10
    assert "0 resident" in guest.run("mem").stdout.decode()


def test_uptime_and_sleep(guest: Guest) -> None:
    def uptime_ms() -> int:
        seconds, ms = client.run("uptime").stdout.split()[1].split(b".")
        return int(seconds) * 1000 + int(ms)

    with guest.connect() as client:
        first = uptime_ms()
        assert client.run("sleep", "0.05").run_ns >= 50_000_000
        assert uptime_ms() - first >= 50


# ---- files ----


def test_ls(place: Place) -> None:
    for name in ("b", "a c", "ä", "d"):
        (place.local / name).write_text("x" * len(name))
    (place.local / "dir").mkdir()
    (place.local / "dir" / "inner").write_bytes(b"")
    assert place.ok("ls", "@/") == "a c\nb\nd\ndir\nä\n".encode()
    assert place.ok("ls", "@/b") == f"{place.path}/b\n".encode()
    assert place.ok("ls", "@/dir", "@/b") == f"{place.path}/dir:\ninner\n{place.path}/b\n".encode()
    assert place.fails("ls", "@/nosuch") == "ls: @/nosuch: no such file or directory\n"


def test_ls_long(place: Place) -> None:
    (place.local / "f").write_bytes(b"x" * 1234)
    (place.local / "f").chmod(0o640)
    os.utime(place.local / "f", (0, 951_825_600))  # 2000-02-29 12:00
    (place.local / "d").mkdir(0o755)
    directory, file = place.ok("ls", "-l", "@/").decode().splitlines()
    assert directory.startswith("drwxr-xr-x ")
    assert directory.endswith(" d")
    assert file.split() == ["-rw-r-----", "1", "1234", "2000-02-29", "12:00", "f"]


def test_ls_of_many(place: Place) -> None:
    names = [f"file-{i:05}" for i in range(800)]
    for name in names:
        (place.local / name).touch()
    assert place.ok("ls", "@/").decode().split() == names


def test_cat_and_cp(place: Place) -> None:
    data = os.urandom(300_000)
    (place.local / "in").write_bytes(data)
    assert place.ok("cat", "@/in") == data
    assert place.ok("cat", "@/in", "-", "@/in", stdin=b"mid") == data + b"mid" + data
    assert place.ok("cp", "@/in", "@/out") == b""
    assert (place.local / "out").read_bytes() == data
    assert place.ok("cp", "-", "@/typed", stdin=data[:60_000]) == b""
    assert (place.local / "typed").read_bytes() == data[:60_000]
    # Shorter content replaces longer.
    place.ok("cp", "-", "@/typed", stdin=b"short")
    assert (place.local / "typed").read_bytes() == b"short"
    (place.local / "dir").mkdir()
    place.ok("cp", "@/in", "@/typed", "@/dir")
    assert (place.local / "dir" / "in").read_bytes() == data
    assert (place.local / "dir" / "typed").read_bytes() == b"short"
    (place.local / "empty").touch()
    assert place.ok("cat", "@/empty") == b""


def test_cat_and_cp_say_what_is_wrong(place: Place) -> None:
    (place.local / "dir").mkdir()
    (place.local / "file").touch()
    assert place.fails("cat", "@/nosuch") == "cat: @/nosuch: no such file or directory\n"
    assert "@/dir: is a directory" in place.fails("cat", "@/dir")
    assert "@/dir: is a directory" in place.fails("cp", "@/dir", "@/x")
    assert "@/nosuch: no such" in place.fails("cp", "@/nosuch", "@/x")
    assert "@/no/x: no such" in place.fails("cp", "@/file", "@/no/x")
    assert "@/file: not a directory" in place.fails("cp", "@/file", "@/file", "@/file")
    assert not (place.local / "x").exists()


def test_copy_between_file_systems(guest: Guest, host: Path) -> None:
    data = os.urandom(1 << 20)
    (host / "there").write_bytes(data)
    assert guest.run("cp", "/host/there", "guest:/here").status == 0
    assert (guest.root / "here").read_bytes() == data
    assert guest.run("mv", "guest:/here", "/host/back").status == 0
    assert (host / "back").read_bytes() == data
    assert not (guest.root / "here").exists()


def test_rm(place: Place) -> None:
    (place.local / "file").touch()
    (place.local / "dir" / "a" / "b").mkdir(parents=True)
    for i in range(50):
        (place.local / "dir" / "a" / f"f{i}").touch()
    place.ok("rm", "@/file")
    assert not (place.local / "file").exists()
    assert place.fails("rm", "@/file") == "rm: @/file: no such file or directory\n"
    assert place.ok("rm", "-f", "@/file") == b""
    assert "is a directory" in place.fails("rm", "@/dir")
    place.ok("rm", "-r", "@/dir")
    assert not (place.local / "dir").exists()


def test_mkdir_and_mv(place: Place) -> None:
    place.ok("mkdir", "@/d", "@/e")
    assert (place.local / "d").is_dir()
    assert "exists already" in place.fails("mkdir", "@/d")
    assert "no such file" in place.fails("mkdir", "@/x/y/z")
    place.ok("mkdir", "-p", "@/x/y/z")
    place.ok("mkdir", "-p", "@/x/y/z")
    assert (place.local / "x" / "y" / "z").is_dir()
    (place.local / "one").write_text("1")
    place.ok("mv", "@/one", "@/two")
    assert (place.local / "two").read_text() == "1"
    place.ok("mv", "@/two", "@/d")
    assert (place.local / "d" / "two").read_text() == "1"
    assert "no such" in place.fails("mv", "@/one", "@/two")


def test_df(guest: Guest, host: Path) -> None:
    _, row = guest.run("df", "/host").stdout.decode().splitlines()
    total, available, used, path = row.split()
    assert int(total) >= int(available) > 0
    assert used.endswith("%")
    assert path == "/host"


def test_hexdump(place: Place) -> None:
    (place.local / "f").write_bytes(bytes(range(20)))
    expected = (
        "00000000  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|\n"
        "00000010  10 11 12 13" + " " * 39 + "|....|\n"
    )
    assert place.ok("hexdump", "@/f").decode() == expected
    assert place.ok("hexdump", stdin=bytes(range(20))).decode() == expected
    assert place.ok("hexdump", "-n", "16", "@/f").decode() == expected.splitlines(True)[0]
    assert place.ok("hexdump", "-n", "0", "@/f") == b""
    assert "no such" in place.fails("hexdump", "@/nosuch")


def test_guest_files_lead_nowhere_else(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (guest.root / "link").symlink_to(tmp_path)
    for path in ("guest:/link/secret", "guest:/../stderr", "guest:../stderr"):
        assert guest.run("cat", path).status == 1


def test_a_long_copy_can_be_cancelled(guest: Guest, host: Path) -> None:
    with guest.connect() as client:
        ident = client.start("cp", "-", "/host/slow")
        client.send(DATA, ident, 0, b"x" * 30_000)
        client.send(CANCEL, ident, 2)
        assert client.finish(ident).kind == CANCELLED
        assert client.run("cat", "/host/slow", stdin=b"").kind == OK


def test_without_a_file_server(guest: Guest) -> None:
    result = guest.run("ls", "/host")
    assert result.status == 1
    assert result.stderr
    assert guest.run("ls", "guest:/").status == 0


def test_file_server_comes_and_goes(guest: Guest, tmp_path: Path) -> None:
    for name in ("host", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "host" / "f").write_text("here")
    for _ in range(5):
        with served(guest.directory / "fs.sock", tmp_path / "host", tmp_path / "bin"):
            assert guest.run("cat", "/host/f").stdout == b"here"


def test_names_that_are_no_overlay(guest: Guest, host: Path) -> None:
    for argv in (["nosuch"], ["run", "nosuch"], ["load", "nosuch"]):
        result = guest.run(*argv)
        assert result.kind == NOT_FOUND
        assert "nosuch" in result.message


def test_digests_of_files_and_of_input(guest: Guest) -> None:
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 60_000):
        data = os.urandom(size)
        (guest.root / "f").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        assert guest.run("sha256sum", "guest:/f").stdout.decode() == f"{digest}  guest:/f\n"
        assert guest.run("sha256sum", stdin=data).stdout.decode() == f"{digest}  -\n"
    result = guest.run("sha256sum", "guest:/none", "guest:/f")
    assert result.status == 1
    assert result.stdout.decode() == f"{digest}  guest:/f\n"
    assert b"guest:/none: no such file" in result.stderr
