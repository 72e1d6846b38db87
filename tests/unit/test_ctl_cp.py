# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl cp` against a fake guest whose files are a directory, honest and hostile."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ctl_fakeapi import Exec, FakeApi

UIOCTL = [sys.executable, "-m", "uiod.ctl.main"]


class GuestFiles:
    """The guest's ls, cat, cp and mkdir on a directory, in the form of libuio's builtins."""

    def __init__(self, top: Path, api: FakeApi) -> None:
        self.top = top
        self.corrupt = False
        api.commands |= {
            name: getattr(self, name) for name in ("ls", "cat", "cp", "mkdir", "sha256sum")
        }

    def path(self, name: str) -> Path:
        assert name.startswith("guest:/")
        return self.top / name.removeprefix("guest:/")

    def fail(self, x: Exec, argv: list[str], error: OSError) -> None:
        x.err(f"{argv[0]}: {argv[-1]}: {error.strerror}\n".encode())
        x.exit(code=1)

    def ls(self, _: FakeApi, x: Exec, argv: list[str]) -> None:
        assert argv[1] == "-l"
        path = self.path(argv[2])
        try:
            found = sorted(path.iterdir()) if path.is_dir() else [path]
            for entry in found:
                status = entry.lstat()
                name = entry.name if path.is_dir() else argv[2]
                mode = stat.filemode(status.st_mode)
                x.out(f"{mode} {1:3} {status.st_size:10} 2026-01-31 12:00 {name}\n".encode())
        except OSError as error:
            self.fail(x, argv, error)
            return
        x.exit()

    def cat(self, _: FakeApi, x: Exec, argv: list[str]) -> None:
        try:
            with self.path(argv[1]).open("rb") as file:
                while piece := file.read(65_536):
                    x.out(piece)
        except OSError as error:
            self.fail(x, argv, error)
            return
        x.exit()

    def sha256sum(self, _: FakeApi, x: Exec, argv: list[str]) -> None:
        try:
            digest = hashlib.sha256(self.path(argv[1]).read_bytes()).hexdigest()
        except OSError as error:
            self.fail(x, argv, error)
            return
        x.out(f"{digest}  {argv[1]}\n".encode())
        x.exit()

    def cp(self, _: FakeApi, x: Exec, argv: list[str]) -> None:
        assert argv[1] == "-"
        try:
            with self.path(argv[2]).open("wb") as file:
                while True:
                    kind, payload = x.next()
                    if kind == 6:
                        break
                    if kind == 0:
                        file.write(payload[::-1] if self.corrupt else payload)
        except OSError as error:
            self.fail(x, argv, error)
            return
        x.exit()

    def mkdir(self, _: FakeApi, x: Exec, argv: list[str]) -> None:
        assert argv[1] == "-p"
        self.path(argv[2]).mkdir(parents=True, exist_ok=True)
        x.exit()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("UIO_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    fake = FakeApi(tmp_path / "run")
    yield fake
    fake.close()


@pytest.fixture
def guest(api: FakeApi, tmp_path: Path) -> GuestFiles:
    top = tmp_path / "guest"
    top.mkdir()
    return GuestFiles(top, api)


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UIOCTL, "cp", *argv], capture_output=True, timeout=60, text=True, check=False, **options
    )


def tree(top: Path) -> dict[str, bytes | None]:
    """Every path below `top` with its content; None for directories."""
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in sorted(top.rglob("*"))
    }


@pytest.fixture
def site(tmp_path: Path) -> Path:
    top = tmp_path / "site"
    (top / "img" / "empty").mkdir(parents=True)
    (top / "index.html").write_bytes(b"<html>")
    (top / "img" / "ä b.png").write_bytes(os.urandom(200_000))
    (top / "none").touch()
    return top


def test_a_file_there_and_back(guest: GuestFiles, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "in").write_bytes(data)
    done = run("in", "count:/motd", "--json")
    assert done.returncode == 0, done.stderr
    assert (guest.top / "motd").read_bytes() == data
    digest = hashlib.sha256(data).hexdigest()
    assert json.loads(done.stdout) == [
        {"source": "in", "target": "count:/motd", "bytes": len(data), "sha256": digest}
    ]
    done = run("count:/motd", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == data


def test_into_a_directory_the_name_is_kept(guest: GuestFiles, tmp_path: Path) -> None:
    (guest.top / "etc").mkdir()
    (tmp_path / "motd").write_text("hello")
    assert run("motd", "count:/etc").returncode == 0
    assert run("motd", "count:/new/dir/").returncode == 0
    assert tree(guest.top) == {
        "etc": None,
        "etc/motd": b"hello",
        "new": None,
        "new/dir": None,
        "new/dir/motd": b"hello",
    }
    (tmp_path / "here").mkdir()
    assert run("count:/etc/motd", "here").returncode == 0
    assert run("count:/etc/motd", "there/").returncode == 0
    assert (tmp_path / "here" / "motd").read_text() == "hello"
    assert (tmp_path / "there" / "motd").read_text() == "hello"


def test_trees_there_and_back(guest: GuestFiles, site: Path, tmp_path: Path) -> None:
    assert run("site", "count:/www").returncode == 0
    assert tree(guest.top / "www") == tree(site)
    assert run("site/.", "count:/www").returncode == 0
    assert tree(guest.top / "www") == tree(site)  # the content, not the directory in itself
    assert run("site", "count:/www").returncode == 0
    assert tree(guest.top / "www" / "site") == tree(site)
    done = run("count:/www/site", "back")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "back") == tree(site)
    assert run("count:/www/site/.", "back").returncode == 0
    assert tree(tmp_path / "back") == tree(site)


def test_several_sources_need_a_directory(guest: GuestFiles, site: Path) -> None:
    (guest.top / "d").mkdir()
    assert run("site/index.html", "site/none", "count:/d").returncode == 0
    assert set(tree(guest.top / "d")) == {"index.html", "none"}
    done = run("site/index.html", "site/none", "count:/x")
    assert done.returncode == 1
    assert "count:/x is no directory" in done.stderr


def test_the_mode_comes_along_without_special_bits(guest: GuestFiles, tmp_path: Path) -> None:
    (guest.top / "tool").write_text("x")
    (guest.top / "tool").chmod(0o750)
    run("count:/tool", "tool", umask=0o022)
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o750


def test_what_is_neither_file_nor_directory_is_skipped_and_said(
    guest: GuestFiles, site: Path, tmp_path: Path
) -> None:
    os.mkfifo(site / "pipe")
    (site / "loop").symlink_to(site)
    (site / "link").symlink_to("index.html")
    done = run("site", "count:/www")
    assert done.returncode == 1
    assert "skipped site/loop" in done.stderr and "skipped site/pipe" in done.stderr
    assert (guest.top / "www" / "link").read_bytes() == b"<html>"
    (guest.top / "www" / "sym").symlink_to("/etc/passwd")
    done = run("count:/www", "back")
    assert done.returncode == 1
    assert "skipped count:/www/sym" in done.stderr
    assert not (tmp_path / "back" / "sym").exists()


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["nothing", "count:/x"], 1, "nothing: No such file"),
        (["count:/nothing", "x"], 1, "count: ls: guest:/nothing: No such file"),
        (["site", "here"], 2, "either all sources or the destination must be in one VM"),
        (["count:/a", "count:/b"], 2, "either all sources"),
        (["count:/a", "other:/a", "b"], 2, "either all sources"),
        (["site", "count:www"], 2, "paths in a guest begin with a slash"),
        (["site"], 2, "a source and a destination"),
        (["site", "coumt:/x"], 1, "did you mean count?"),
        (["pipe", "count:/x"], 1, "pipe is no file"),
        (["site/none", "count:/no/such/dir"], 1, "count: cp: guest:/no/such/dir: No such file"),
    ],
)
def test_mistakes_are_one_sentence(
    guest: GuestFiles, site: Path, tmp_path: Path, argv: list[str], status: int, said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run(*argv)
    assert done.returncode == status
    assert said in done.stderr and "Traceback" not in done.stderr


def test_what_arrives_changed_is_noticed(guest: GuestFiles, site: Path) -> None:
    guest.corrupt = True
    done = run("site/index.html", "count:/x")
    assert done.returncode == 1
    assert "count:/x is not what was sent" in done.stderr
    assert run("--no-verify", "site/index.html", "count:/x").returncode == 0


def test_a_guest_that_cannot_tell_digests_is_read_back(
    guest: GuestFiles, api: FakeApi, site: Path
) -> None:
    del api.commands["sha256sum"]
    assert run("site/index.html", "count:/x").returncode == 0
    guest.corrupt = True
    assert "count:/x is not what was sent" in run("site/index.html", "count:/x").stderr


def test_a_truncated_file_does_not_replace_the_old_one(
    guest: GuestFiles, api: FakeApi, tmp_path: Path
) -> None:
    (guest.top / "log").write_bytes(bytes(100_000))
    (tmp_path / "log").write_text("old")

    def cat(_: FakeApi, x: Exec, argv: list[str]) -> None:
        x.out(bytes(50_000))
        x.exit()

    api.commands["cat"] = cat
    done = run("count:/log", "log")
    assert done.returncode == 1
    assert "count:/log has 100000 bytes, but 50000 came" in done.stderr

    api.commands["cat"] = lambda _, x, argv: x.out(bytes(50_000))  # and the daemon is gone
    assert run("count:/log", "log").returncode == 1
    assert (tmp_path / "log").read_text() == "old"
    assert not list(tmp_path.glob(".uioctl-*"))


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "..", ".", "a/b"])
def test_a_guest_cannot_write_elsewhere(
    guest: GuestFiles, api: FakeApi, tmp_path: Path, name: str
) -> None:
    def ls(_: FakeApi, x: Exec, argv: list[str]) -> None:
        x.out(f"-rw-r--r--   1          3 2026-01-31 12:00 {name}\n".encode())
        x.out(b"-rw-r--r--   1          3 2026-01-31 12:00 good\n")
        x.exit()

    api.commands["ls"] = ls
    before = set(tmp_path.rglob("*"))
    done = run("count:/dir", "back")
    assert done.returncode == 1
    assert "could lead elsewhere" in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_a_guest_that_talks_nonsense_or_nests_without_end(guest: GuestFiles, api: FakeApi) -> None:
    api.commands["ls"] = lambda _, x, argv: (x.out(b"total 0\n"), x.exit())
    assert "the guest's ls -l says 'total 0'" in run("count:/", "back").stderr
    line = b"drwxr-xr-x   1          0 2026-01-31 12:00 deeper\n"
    api.commands["ls"] = lambda _, x, argv: (x.out(line), x.exit())
    done = run("count:/", "back")
    assert done.returncode == 1
    assert "is nested too deeply" in done.stderr


def test_memory_stays_flat_and_progress_is_shown_on_a_terminal(
    guest: GuestFiles, tmp_path: Path
) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(300 << 20)
    master, slave = pty.openpty()
    code = (
        "import re, sys; from uiod.ctl.main import main; status = main(sys.argv[1:]);"
        # Not ru_maxrss, which begins with what the forking process had.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "cp", "big", "count:/big"],
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the other side is closed
        pass
    out, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert b"big  " in shown and b"%" in shown and b"checking /big" in shown
    assert shown.endswith(b"\r\x1b[K")
    assert int(out) < 64 << 10  # KiB
    assert (guest.top / "big").stat().st_size == 300 << 20
