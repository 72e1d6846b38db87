# SPDX-License-Identifier: BSD-3-Clause
"""uioctl's overlays, top, -H, completion, tables, and how much exec imports."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
from ctl_fakeapi import FakeApi

from uiod.ctl import exec_args
from uiod.ctl.output import clip, display_width, layout, size, span

UIOCTL = [sys.executable, "-m", "uiod.ctl.main"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UIO_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def api(root: Path) -> Iterator[FakeApi]:
    fake = FakeApi(root)
    base = {"version": "1.0", "description": "says hello", "size": 5000, "path": "/o/hello.uio"}
    fake.overlays = [
        base | {"name": "hello", "hash": "ab" * 32, "signed_by": ["demo"], "state": "available"},
        base
        | {
            "name": "evil",
            "hash": "cd" * 32,
            "signed_by": [],
            "state": "refused",
            "reason": "it is not signed by a trusted key",
        },
    ]
    yield fake
    fake.close()


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UIOCTL, *argv],
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
        env=os.environ | env,
    )


# --- overlays ---


def test_overlay_ls_shows_refused_ones_with_the_reason(api: FakeApi) -> None:
    lines = run("overlay", "ls", "count").stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "VERSION"]
    assert lines[1].split()[:2] == ["hello", "available"] and "demo" in lines[1]
    assert lines[2].split()[:2] == ["evil", "refused"]
    assert lines[2].endswith("it is not signed by a trusted key")
    assert json.loads(run("overlay", "ls", "--json", "count").stdout)[0]["name"] == "hello"
    assert run("overlay", "ls", "-q", "--loaded", "count").stdout == ""


def test_overlay_load_and_unload(api: FakeApi) -> None:
    done = run("overlay", "load", "count", "hello")
    assert (done.stdout, done.returncode) == ("hello\n", 0)
    assert run("overlay", "ls", "-q", "--loaded", "count").stdout == "hello\n"
    assert run("overlay", "unload", "count", "hello").returncode == 0
    assert api.overlays[0]["loaded"] is False
    refused = run("overlay", "load", "count", "evil", "hello")
    assert (refused.returncode, refused.stdout) == (1, "hello\n")
    assert refused.stderr == "uioctl: evil: it is not signed by a trusted key\n"
    assert "did you mean hello?" in run("overlay", "load", "count", "helo").stderr


def test_overlay_has_the_tools_for_files_too(root: Path, tmp_path: Path) -> None:
    done = run("overlay", "keygen", str(tmp_path / "k.pem"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "k.pub.pem").exists()
    wrong = run("overlay", "inspect", str(tmp_path / "k.pem"))
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr


# --- top ---


class Terminal:
    """`uioctl top` on a pseudo-terminal."""

    def __init__(self, *argv: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.process = subprocess.Popen(
            [*UIOCTL, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(slave)
        self.seen = ""

    def expect(self, pattern: str) -> None:
        while not (match := re.search(pattern, self.seen, re.DOTALL)):
            self.seen += os.read(self.master, 65_536).decode(errors="replace")
        self.seen = self.seen[match.end() :]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        try:
            while os.read(self.master, 65_536):
                pass
        except OSError:
            pass
        os.close(self.master)
        return self.process.wait(60)


def test_top_shows_all_vms_and_takes_keys(api: FakeApi, root: Path) -> None:
    other = FakeApi(root, "other")
    FakeApi(root, "dead").die()
    terminal = Terminal("top", "--interval", "200ms")
    terminal.expect(r"3 VMs, 2 running")
    terminal.expect(r"NAME.*count.*running.*100M.*dead.*stale.*other")
    terminal.type("\x1b[Bj")  # two down: dead, other
    terminal.type("p")
    terminal.expect(r"paused other")
    assert other.state == "paused"
    terminal.type("s")
    terminal.expect("sorted by cpu")
    terminal.type("l")
    terminal.expect("line 1\r\nline 2\r\nline 3")
    other.close()
    terminal.expect(r"VMs, 1 running")  # back again when the log has ended
    terminal.type("q")
    assert terminal.end() == 0


def test_top_attaches(api: FakeApi) -> None:
    terminal = Terminal("top")
    terminal.expect("1 VM, 1 running")
    terminal.type("a")
    terminal.expect("uio> ")
    terminal.type("\x1d")
    terminal.expect("detached.*1 VM, 1 running")
    terminal.type("q")
    assert terminal.end() == 0


def test_top_needs_a_terminal(root: Path) -> None:
    done = run("top")
    assert done.returncode == 1
    assert done.stderr.startswith("uioctl: top needs a terminal\n")


# --- another machine ---


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that runs the command here, with a shell, as the real one does there."""
    directory = tmp_path / "bin"
    directory.mkdir()
    log = tmp_path / "ssh.log"
    (directory / "ssh").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\n'
        'while [ "$1" != -- ]; do shift; done; shift\nexec sh -c "$*"\n'
    )
    (directory / "uioctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m uiod.ctl.main "$@"\n')
    for name in ("ssh", "uioctl"):
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return log


def test_exec_on_another_machine_keeps_arguments_and_status(api: FakeApi, ssh: Path) -> None:
    words = ["a b", "$HOME", "'", '"', "*", ";exit", "", "-H"]
    done = run("-H", "root@server", "exec", "count", "request", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["argv"] == ["request", *words]
    assert run("exec", "-H", "server", "count", "status", "7").returncode == 7
    sent = ssh.read_text().splitlines()
    assert sent[:5] == ["-T", "-e", "none", "root@server", "--"]


def test_global_options_go_along(api: FakeApi, ssh: Path, root: Path) -> None:
    done = run(
        "-H", "server", "--runtime-dir", str(root), "--json", "ps", UIO_RUNTIME_DIR="/nowhere"
    )
    assert json.loads(done.stdout)[0]["name"] == "count"


def test_cp_to_another_machine_takes_files_from_here(
    api: FakeApi, ssh: Path, tmp_path: Path
) -> None:
    kept: dict[str, bytes] = {}

    def cp(_: FakeApi, x: object, argv: list[str]) -> None:
        kept[argv[2]] = x.input()  # type: ignore[attr-defined]
        x.exit()  # type: ignore[attr-defined]

    api.commands["cp"] = cp
    api.commands["ls"] = lambda _, x, argv: x.exit(code=1)
    api.commands["cat"] = lambda _, x, argv: (x.out(kept[argv[1]]), x.exit())
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    done = run("-H", "server", "cp", str(tmp_path / "file"), "count:/x y")
    assert done.returncode == 0, done.stderr
    assert kept == {"guest:/x y": data}


def test_a_host_cannot_be_an_option_of_ssh(root: Path, ssh: Path) -> None:
    done = run("-H", "-oProxyCommand=touch /tmp/x", "ps")
    assert done.returncode == 2
    assert "is no host" in done.stderr
    assert not ssh.exists()


# --- completion ---


def complete(line: str) -> list[str]:
    """What bash would offer for a line with the cursor at its end."""
    words = line.split(" ")
    env = {
        "_UIOCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    return run(**env).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("uioctl st", ["stop", "stats"]),
        ("uioctl overlay un", ["unload"]),
        ("uioctl logs ", ["count", "other"]),
        ("uioctl stop count ", ["other"]),
        ("uioctl exec c", ["count"]),
        ("uioctl exec count h", ["hello", "help"]),
        ("uioctl exec count cat ", []),
        ("uioctl overlay load count ", ["hello"]),
        ("uioctl cp c", ["count:/"]),
        ("uioctl exec --time", ["--timeout"]),
        ("uioctl wait count --for ", ["ready", "stopped"]),
    ],
)
def test_completion(api: FakeApi, root: Path, line: str, offered: list[str]) -> None:
    (root / "other").mkdir()
    (root / "other" / "lock").touch()
    assert complete(line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("uioctl trace c", ["count"]),
        ("uioctl trace count e", ["entry:"]),
        ("uioctl trace count entry:se", ["entry:serve", "entry:set_count"]),
        ("uioctl trace count 'return:ser", ["return:serve"]),
        ("uioctl trace count entry:serve,return:set", ["entry:serve,return:set_count"]),
        ("uioctl trace count interval:s", []),
        ("uioctl trace count entry:closed", []),
        ("uioctl trace -l count se", ["serve", "set_count"]),
        ("uioctl trace nosuch entry:se", []),
    ],
)
def test_completion_of_functions(
    api: FakeApi, tmp_path: Path, line: str, offered: list[str]
) -> None:
    (tmp_path / "a.c").write_text(
        "void serve(void) {}\nvoid set_count(long n) {}\nint main(void) { return 0; }\n"
        "__attribute__((patchable_function_entry(0))) void closed(void) {}\n"
    )
    api.kernel = str(tmp_path / "kernel")
    flags = ["-O2", "-fno-pie", "-no-pie", "-fpatchable-function-entry=7,5"]
    subprocess.run(["gcc", *flags, "-w", "-o", api.kernel, tmp_path / "a.c"], check=True)
    assert complete(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(root: Path, shell: str) -> None:
    script = run("completion", shell).stdout
    assert "uioctl" in script and "_UIOCTL_COMPLETE" in script
    assert "no completion for the shell 'tcsh'" in run("completion", SHELL="/bin/tcsh").stderr


# --- the two parsers of exec ---


PLAIN = [
    ["vm", "ls"],
    ["vm", "ls", "-l", "--json", "/bin"],
    ["-i", "vm", "cat", "-"],
    ["-it", "vm", "sh"],
    ["-iT", "--raw", "vm", "sh"],
    ["-t", "-T", "vm", "sh"],
    ["-e", "A=1", "--env", "B", "--env=C=x=y", "vm", "env"],
    ["--timeout", "2m", "--pull", "--json", "vm", "x"],
    ["--timeout=5", "vm", "x"],
    ["--", "vm", "-x"],
    ["vm", "--", "-x", "y"],
    ["vm", "x", "--"],
]


@pytest.mark.parametrize("argv", PLAIN, ids=" ".join)
def test_the_quick_parser_is_typers(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from uiod.ctl import exec_session  # noqa: PLC0415
    from uiod.ctl.app import run as run_typer  # noqa: PLC0415

    seen: list[exec_args.ExecArgs] = []
    monkeypatch.setattr(exec_session, "run", lambda args: seen.append(args) or 0)
    assert run_typer(["exec", *argv]) == 0
    assert exec_args.parse(argv) == seen[0]


@pytest.mark.parametrize(
    "argv",
    [[], ["vm"], ["--help"], ["-h"], ["-x", "vm", "ls"], ["-e"], ["--timeout"], ["-w=/d", "vm", "x"],
     ["-ei", "vm", "x"]],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_typer(argv: list[str]) -> None:
    assert exec_args.parse(argv) is None


def test_both_parsers_have_the_same_options() -> None:
    from uiod.ctl.app import build  # noqa: PLC0415
    from uiod.ctl.commands import BY_NAME  # noqa: PLC0415

    built = build(BY_NAME["exec"])
    options = {o for p in built.params for o in [*p.opts, *p.secondary_opts] if o.startswith("-")}
    assert options - {"--help", "-h"} == {*exec_args.FLAGS, *exec_args.VALUES}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1d", 86_400.0),
    ],
)
def test_durations(text: str, value: float) -> None:
    assert exec_args.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1x", "s", "1..5", "nan", "99999999999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        exec_args.seconds(text)


def test_exec_imports_little(api: FakeApi) -> None:
    """What exec must not wait for: each of these takes a fair part of its time."""
    code = (
        "import sys; from uiod.ctl.main import main; status = main(sys.argv[1:]);"
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            code,
            "exec",
            "count",
            "echo",
            "hi",
        ],  # without any other package
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
        text=True,
        check=True,
    )
    assert done.stdout == "hi\n"
    heavy = {"typer", "rich", "trio", "asyncio", "msgspec", "http.client", "email", "subprocess"}
    heavy |= {
        "argparse",
        "tempfile",
        "concurrent.futures",
        "difflib",
        "pathlib",
        "dataclasses",
        "typing",
    }
    assert heavy & set(done.stderr.split()) == set()


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from uiod.ctl.main import main; status = main(['--help']);"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, text=True, check=True
    )
    modules = set(done.stderr.split())
    assert "typer" in modules
    assert modules & {"rich", "trio", "msgspec", "uiod.ctl.vm", "uiod.ctl.exec_session"} == set()


@pytest.mark.parametrize("given", ["/a/b", "rel/c", "rel/../d", ""])
def test_the_runtime_root_is_uiods(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from uiod.ctl.settings import settings  # noqa: PLC0415
    from uiod.ctl.vms import root  # noqa: PLC0415
    from uiod.paths import runtime_root  # noqa: PLC0415

    monkeypatch.delenv("UIO_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(settings, "runtime_dir", given or None)
    assert root() == os.path.normpath(runtime_root(given or None))
    monkeypatch.setattr(settings, "runtime_dir", None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert root() == str(runtime_root())
    monkeypatch.setenv("UIO_RUNTIME_DIR", given or "/x")
    assert root() == os.path.normpath(runtime_root())


# --- tables ---


def test_tables_fit_the_terminal() -> None:
    rows = [("a", 1, "x" * 100), ("a long name", 22, "ü漢字")]
    wide = layout(("NAME", ">N", "TEXT"), rows, None)
    assert wide[1] == "a             1  " + "x" * 100
    assert wide[2] == "a long name  22  ü漢字"
    for width in (80, 40, 30):
        lines = layout(("NAME", ">N", "TEXT"), rows, width)
        assert all(display_width(line) <= width for line in lines)
        assert "…" in lines[1]


def test_cells_are_one_harmless_line() -> None:
    assert layout(("A",), [("x\ny\x1b[2J",)], None) == ["A", "x y\\x1b[2J"]


def test_clip_counts_columns() -> None:
    assert clip("漢字漢字", 5) == "漢字…"
    assert clip("abc", 3) == "abc"
    assert display_width(clip("漢字漢字", 4)) <= 4


def test_sizes_and_spans() -> None:
    assert [size(n) for n in (None, 0, 1023, 1536, 64 << 20, 5 << 40)] == [
        "-", "0", "1023", "1.5K", "64M", "5.0T",
    ]  # fmt: skip
    assert [span(n) for n in (0, 59.9, 65, 3720, 90_000)] == [
        "0s",
        "59s",
        "1m05s",
        "1h02m",
        "1d01h",
    ]
