# SPDX-License-Identifier: BSD-3-Clause
"""`uiod run` and the pytest plugin, with the fake guest: statuses, deadlines, reports, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from uiod_harness import TOP, write_config

from uiod.run import Machine, Report, RunError

RUN = [sys.executable, "-m", "uiod.run"]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runtime directories are made in a place of this test's own, which must be empty at the end."""
    place = Path(tempfile.mkdtemp(prefix="uio-t-", dir="/tmp"))  # short, for the sockets in it
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    left = list(place.iterdir())
    shutil.rmtree(place)
    assert not left
    found = subprocess.run(
        ["pgrep", "-f", str(place)], capture_output=True, text=True, check=False
    ).stdout.split()
    assert not found


def run(*argv: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *argv], capture_output=True, text=True, timeout=timeout, check=False, cwd=TOP
    )


def test_commands_run_one_after_the_other(tmp_path: Path) -> None:
    config = write_config(tmp_path, "chatty=100")
    done = run(str(config), "--", "echo", "one", "--", "errors", "--", "echo", "never")
    assert done.returncode == 3
    assert done.stdout == "one\nout\n"
    assert "is ready after" in done.stderr
    assert "errors: exit status 3" in done.stderr
    quiet = run("-q", str(config), "--", "echo", "one", "--", "echo", "two")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "one\ntwo\n", "")


@pytest.mark.parametrize(
    ("append", "argv", "status", "said"),
    [
        ("", ["--", "ecko"], 127, "did you mean echo?"),
        ("", ["--", "fault"], 139, "uioctl: fault:"),
        ("", [], 0, "all is well: 0 commands"),
        ("mute", ["--timeout", "2s"], 124, "booting took longer than the 2 s allowed"),
        (
            "",
            ["--timeout", "10s", "--", "sleep"],
            124,
            "the command sleep took longer than the 10 s",
        ),
        ("die", [], 125, "uiod run: "),
        (
            "chatty=100",
            ["--log-expect", "nothing like it", "--timeout", "10s"],
            124,
            "waiting for /nothing",
        ),
    ],
)
def test_each_end_has_its_status(
    tmp_path: Path, append: str, argv: list[str], status: int, said: str
) -> None:
    config = write_config(tmp_path, append)
    done = run(str(config), *argv)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_the_log_is_expected_to_say_something(tmp_path: Path) -> None:
    config = write_config(tmp_path, "chatty=100")
    done = run(str(config), "--log-expect", "(?m)^.+$", "--", "log", "it works 42")
    assert done.returncode == 0, done.stderr


def test_wrong_options(tmp_path: Path) -> None:
    assert run("--timeout", "soon", "x.cfg").returncode == 2
    assert run("--log-expect", "(", "x.cfg").returncode == 2
    assert run().returncode == 2
    done = run(str(tmp_path / "nothing.cfg"))
    assert done.returncode == 125
    assert "nothing.cfg" in done.stderr and "Traceback" not in done.stderr


def test_junit(tmp_path: Path) -> None:
    config = write_config(tmp_path, "chatty=100")
    file = tmp_path / "r.xml"
    run(str(config), "--junit", str(file), "--", "echo", "<&\x01>", "--", "fail", "7")
    suite = ET.parse(file).getroot()
    assert suite.attrib["tests"] == "4" and suite.attrib["failures"] == "1"
    boot, echo, fail, stop = suite.findall("testcase")
    assert [boot.attrib["name"], stop.attrib["name"]] == ["boot", "stop"]
    assert echo.findtext("system-out") == "<&\\x01>\n"
    failure = fail.find("failure")
    assert failure is not None and failure.attrib["message"] == "exit status 7"
    assert suite.findtext("system-out")


def test_several_at_once_do_not_meet(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    started = [
        subprocess.Popen(
            [*RUN, "-q", str(config), "--", "echo", str(n)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=TOP,
        )
        for n in range(3)
    ]
    outs = [process.communicate(timeout=100)[0] for process in started]
    assert outs == ["0\n", "1\n", "2\n"]
    assert [process.returncode for process in started] == [0, 0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_vm_too(tmp_path: Path, number: signal.Signals) -> None:
    config = write_config(tmp_path)
    process = subprocess.Popen(
        [*RUN, str(config), "--", "sleep"], stderr=subprocess.PIPE, text=True, cwd=TOP
    )
    assert process.stderr is not None
    assert "is ready" in process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number


def test_a_killed_run_takes_its_vm_along(tmp_path: Path, nothing_left: Path) -> None:
    config = write_config(tmp_path)
    process = subprocess.Popen(
        [*RUN, str(config), "--", "sleep"], stderr=subprocess.PIPE, text=True, cwd=TOP
    )
    assert process.stderr is not None
    assert "is ready" in process.stderr.readline()
    (root,) = nothing_left.glob("uio-run-*")
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 30
    while list(root.glob("*/state.json")):  # uiod stops the VM and clears up
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while subprocess.run(["pgrep", "-f", str(root)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shutil.rmtree(root)


def test_a_machine_in_a_program(tmp_path: Path) -> None:
    config = write_config(tmp_path, "chatty=100")
    with Machine(config, timeout_s=60) as vm:
        result = vm.exec("cat", stdin=os.urandom(10) * 30_000)
        assert (result.code, len(result.stdout)) == (0, 300_000)
        assert vm.exec("echo", "a").text == "a\n"
        assert vm.exec("sleep", timeout_s=0.05).kind == "timeout"
        assert vm.exec("env", env={"A": "1"}).text == "A=1\n"
        vm.expect(r"\w+")
        assert vm.log()
        os.kill(int(vm.api.get("/v1/vm")["qemu_pid"]), signal.SIGKILL)
        with pytest.raises(RunError):
            for _ in range(1000):
                vm.exec("echo")


def test_a_machine_whose_daemon_was_killed_leaves_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with Machine(config, timeout_s=60) as vm:
        info = vm.api.get("/v1/vm")
        os.kill(info["pid"], signal.SIGKILL)
    assert (
        not Path(f"/proc/{info['qemu_pid']}").exists()
        or "Z" in (Path(f"/proc/{info['qemu_pid']}/stat").read_text().rpartition(")")[2].split()[0])
    )


def test_reports_hold_what_xml_cannot() -> None:
    made = Report("x\x00<y>")
    with made.step('"\x1b'):
        pass
    ET.fromstring(made.junit(b"\xff\x00<tag>").replace("x\x00", "x"))


def test_the_plugin(tmp_path: Path) -> None:
    config = write_config(tmp_path, "chatty=100")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(f"""\
        import pytest

        def test_by_option(uio_vm):
            assert uio_vm.exec("echo", "hi").text == "hi\\n"

        @pytest.mark.uio(config={str(config)!r}, timeout=30)
        def test_by_marker(uio_vm):
            assert uio_vm.exec("fail", "7").code == 7
            assert uio_vm.deadline.limit_s == 30

        def test_shared_1(uio_vm_module):
            assert uio_vm_module.exec("echo").code == 0

        def test_shared_2(uio_vm_module):
            assert uio_vm_module.exec("echo").code == 0

        def test_that_fails(uio_vm):
            assert False

        @pytest.mark.uio(config="nothing.cfg")
        def test_without_a_vm(uio_vm):
            pass
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "uiod.pytest_plugin", "-p", "no:cacheprovider", "-q",
         "--strict-markers", "--uio-config", str(config), str(tmp_path / "test_it.py")],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TOP), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert "4 passed" in done.stdout and "1 failed" in done.stdout and "1 error" in done.stdout, (
        done.stdout
    )
    assert "serial log" in done.stdout
    assert "the VM did not start: " in done.stdout and "nothing.cfg" in done.stdout
