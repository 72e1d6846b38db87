# SPDX-License-Identifier: BSD-3-Clause
"""How `uiod start` begins and ends, in each way it can: one clear sentence, its status, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uiod_harness import SIGNAL, STDOUT, TOP, Daemon, daemon, write_config
from uiod_kernel import build

ENV = {**os.environ, "PYTHONPATH": str(TOP)}


@pytest.fixture(scope="module")
def kernel_elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("kernel"))


def uiod(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uiod.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**ENV, **env},
        cwd=TOP,
        check=False,
    )


def start(config: Path, root: Path) -> subprocess.CompletedProcess[str]:
    return uiod("start", config, "--runtime-dir", root)


def processes_of(root: Path) -> list[int]:
    """Those that have the directory in their command line: QEMU, and uiod itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if bytes(root) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def assert_nothing_left(root: Path, name: str = "t") -> None:
    """No process, socket or lock; logs and the last state may stay."""
    deadline = time.monotonic() + 10
    while left := processes_of(root):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    run = root / name
    names = {path.name for path in run.iterdir()} if run.exists() else set()
    assert names <= {
        "last.json",
        "serial.log",
        "serial.log.idx",
        "serial.log.1",
        "serial.log.1.idx",
    }


def test_a_stop_asks_the_guest_first(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path), root) as vm:
        vm.until_ready()
        assert vm.api.request("POST", "/v1/vm/stop", {})[0] == 202
        assert vm.wait() == 0
    assert_nothing_left(root)
    assert (root / "t" / "serial.log").read_bytes() == b"booting\ngot SIGTERM\n"
    last = json.loads((root / "t" / "last.json").read_text())
    assert (last["state"], last["reason"]) == ("stopped", "asked to stop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_vm(tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path), root) as vm:
        vm.until_ready()
        vm.process.send_signal(number)
        assert vm.wait() == 0
    assert_nothing_left(root)


def test_a_guest_that_ignores_the_request_is_stopped_by_qemu(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path, "stubborn", stop_timeout_s="0.2"), root) as vm:
        vm.until_ready()
        vm.process.terminate()
        assert vm.wait() == 0
        assert b"got SIGTERM" in (root / "t" / "serial.log").read_bytes()
    assert_nothing_left(root)


def test_a_qemu_that_answers_nothing_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path, stop_timeout_s="0.2"), root) as vm:
        vm.until_ready()
        os.kill(vm.qemu_pid(), signal.SIGSTOP)
        vm.process.terminate()
        assert vm.wait() == 0
    assert_nothing_left(root)


def test_kill_is_at_once(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path, "stubborn", stop_timeout_s="1000"), root) as vm:
        vm.until_ready()
        assert vm.api.request("POST", "/v1/vm/kill")[0] == 202
        assert vm.wait() == 0
    assert_nothing_left(root)


def test_a_guest_that_powers_off_has_ended_well(tmp_path: Path) -> None:
    done = start(write_config(tmp_path, "poweroff"), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "the guest powered off" in done.stderr
    assert_nothing_left(tmp_path / "run")


def test_a_qemu_that_is_killed_is_a_crash(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with daemon(write_config(tmp_path), root) as vm:
        vm.until_ready()
        os.kill(vm.qemu_pid(), signal.SIGKILL)
        assert vm.wait() == 8
        assert vm.said().splitlines()[-1] == "uiod: QEMU was killed by SIGKILL"
    assert_nothing_left(root)


BAD = {
    "no configuration": (None, 3, "No such file"),
    "no TOML": ("[vm\nkernel = 1", 3, "t.cfg:1: no TOML"),
    "unknown key": ('[vm]\nkernel = "kernel"\nmemroy = "1G"', 3, "t.cfg:3: vm.memroy: unknown key; did you mean"),
    "no kernel": ('[vm]\nkernel = "nosuch"\n', 4, "[vm] kernel: "),
    "no symbols": ('[vm]\nkernel = "kernel"\n[uio]\noverlays = ["."]\n[trust]\nkeys = []', 4, "symbols"),
    "no keys": ("ELF", 3, "[trust] keys: "),
    "no QEMU": ('[vm]\nkernel = "kernel"\nqemu = "qemu-nosuch"\naccel = "tcg"', 6, "no program 'qemu-nosuch'"),
    "no QEMU to ask for KVM": ('[vm]\nkernel = "kernel"\nqemu = "qemu-nosuch"', 6, "QEMU is missing"),
    "no share": ('[vm]\nkernel = "kernel"\n[[share]]\ntag = "a"\npath = "nosuch"', 3, "[[share]] a: "),
    "no group": ('[vm]\nkernel = "kernel"\n[uio]\ngroup = "nosuch-group"', 3, "there is no group 'nosuch-group'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, case: str, kernel_elf: Path
) -> None:
    text, status, words = BAD[case]
    config = tmp_path / "t.cfg"
    (tmp_path / "kernel").write_bytes(b"no ELF")
    if text == "ELF":
        (tmp_path / "kernel").write_bytes(kernel_elf.read_bytes())
        text = '[vm]\nkernel = "kernel"\n[uio]\noverlays = ["."]\n[trust]\nkeys = ["nosuch.pem"]'
    if text is not None:
        config.write_text(text + ("" if "[limits]" in text else '\n[limits]\ncgroup = "off"'))
    done = start(config, tmp_path / "run")
    assert done.returncode == status, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("uiod: ")
    assert words in last
    assert "Traceback" not in done.stderr
    assert_nothing_left(tmp_path / "run")
    assert not (tmp_path / "run" / "t").exists()


@pytest.mark.parametrize("command", ["start", "check"])
def test_a_runtime_directory_too_long_for_sockets_is_one_sentence(
    tmp_path: Path, command: str
) -> None:
    root = tmp_path / ("x" * 120)
    done = uiod(command, write_config(tmp_path), "--runtime-dir", root)
    assert done.returncode == 9, done.stderr
    assert "too long for a directory of unix sockets; choose a shorter --runtime-dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not root.exists()


def test_every_mistake_is_named(tmp_path: Path) -> None:
    config = tmp_path / "t.cfg"
    config.write_text('[vm]\ncpus = "two"\n[limit]\n')
    done = start(config, tmp_path / "run")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 3


def test_a_qemu_that_ends_at_once_is_shown(tmp_path: Path) -> None:
    done = start(write_config(tmp_path, "die"), tmp_path / "run")
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1] == (
        "uiod: QEMU ended with status 1 before the guest ran: fake-qemu: could not open a thing"
    )
    assert_nothing_left(tmp_path / "run")


def test_a_guest_that_never_says_hello_is_given_up(tmp_path: Path) -> None:
    done = start(write_config(tmp_path, "mute", ready_timeout_s="0.5"), tmp_path / "run")
    assert done.returncode == 7
    assert "did not say HELLO within" in done.stderr.splitlines()[-1]
    assert_nothing_left(tmp_path / "run")


def test_a_name_is_for_one(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path)
    with daemon(config, root) as vm:
        vm.until_ready()
        done = start(config, root)
        assert done.returncode == 5
        assert done.stderr.splitlines() == [
            f"uiod: the VM 't' is running already (uiod is process {vm.process.pid}); "
            "stop it first, or set another name in [vm]"
        ]
        assert vm.api.exec("echo", "unharmed")[0] == b"unharmed\n"
    assert_nothing_left(root)


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path, "poweroff")
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(start(config, root).returncode))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Who came when the winner had ended already may win as well.
    assert set(done) <= {0, 5}
    assert 0 in done
    assert_nothing_left(root)


def test_restarts_after_failures(tmp_path: Path) -> None:
    root = tmp_path / "run"
    policy = '[restart]\npolicy = "on-failure"\ndelay_s = 0.05\nmax_tries = 2\n'
    with daemon(write_config(tmp_path, more=policy), root) as vm:
        for number in range(3):
            until(vm, lambda info, n=number: info["restarts"] == n and info["ready"])
            os.kill(vm.qemu_pid(), signal.SIGKILL)
        assert vm.wait() == 8
    assert_nothing_left(root)


def until(vm: Daemon, true: Callable[[dict[str, Any]], object]) -> dict[str, object]:
    vm.until_serving()
    deadline = time.monotonic() + 30
    while True:
        info = vm.api.get("/v1/vm")
        if true(info):
            return dict(info)
        assert time.monotonic() < deadline, info
        time.sleep(0.02)


# uiod dies, the VM goes on


def test_the_next_uiod_adopts_what_a_dead_one_left(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path)
    with daemon(config, root) as first:
        before = first.until_ready()
        stream = first.api.start("sleep")
        assert stream.receive() == (STDOUT, b"sleeping\n")
        first.process.kill()
        first.process.wait()
        stream.sock.close()
        with daemon(config, root) as second:
            info = second.until_ready()
            assert info["adopted"]
            assert info["qemu_pid"] == before["qemu_pid"]
            assert second.api.exec("echo", "again")[0] == b"again\n"
            assert second.api.upgrade("/v1/attach", "uio-console/1", {})._take(6) == b"fake> "
            second.process.terminate()
            assert second.wait() == 0
    assert_nothing_left(root)
    assert b"is missing here" in (root / "t" / "serial.log").read_bytes()


def test_handing_over_leaves_the_vm_running(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path)
    with daemon(config, root) as first:
        first.until_ready()
        first.process.send_signal(signal.SIGUSR1)
        assert first.wait() == 0
        with daemon(config, root) as second:
            assert second.until_ready()["adopted"]


def test_killed_again_and_again_at_any_moment(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path)
    pids = set()
    for round_ in range(12):
        with contextlib.ExitStack() as stack:
            vm = Daemon(config, root)
            stack.callback(vm.process.wait)
            stack.callback(vm.process.kill)
            # At a moment that differs: before the lock, while QEMU starts, when all is up.
            deadline = time.monotonic() + 0.08 * round_
            while time.monotonic() < deadline and vm.process.poll() is None:
                time.sleep(0.005)
            with contextlib.suppress(OSError, ValueError):
                pids.add(vm.qemu_pid())
    with daemon(config, root) as last:
        pids.add(last.until_ready()["qemu_pid"])
        assert len(pids) == 1
        assert last.api.exec("echo", "fine")[0] == b"fine\n"
    assert_nothing_left(root)


def test_a_stale_directory_is_cleared(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path)
    with daemon(config, root) as first:
        first.until_ready()
        pid = first.qemu_pid()
        first.process.kill()
        first.process.wait()
        os.kill(pid, signal.SIGKILL)
        with daemon(config, root) as second:
            info = second.until_ready()
            assert not info["adopted"]
            assert info["qemu_pid"] != pid
    assert_nothing_left(root)


def test_a_qemu_that_hangs_or_is_paused_from_outside_is_reported(tmp_path: Path) -> None:
    with daemon(write_config(tmp_path), tmp_path / "run") as vm:
        vm.until_ready()
        pid = vm.qemu_pid()
        os.kill(pid, signal.SIGSTOP)
        until(vm, lambda info: any("does not answer" in text for text in info["warnings"]))
        os.kill(pid, signal.SIGCONT)
        until(vm, lambda info: not info["warnings"])


def test_a_guest_that_floods_every_port_is_bounded(tmp_path: Path) -> None:
    root = tmp_path / "run"
    more = '[uio]\nlog_bytes = "1M"\n'
    config = write_config(tmp_path, f"noise chatty={64 << 20}", more, ready_timeout_s="0")
    with daemon(config, root) as vm:
        vm.until_serving()
        until(vm, lambda info: info["state"] == "running")
        before = vm.api.get("/v1/stats")["uiod_pss_bytes"]
        until(vm, lambda _: vm.api.get("/v1/logs?tail=1")[-1:] == b".")
        sizes = [path.stat().st_size for path in vm.run.glob("serial.log*")]
        assert sum(sizes) <= 1.3 * (1 << 20)
        assert vm.api.get("/v1/stats")["uiod_pss_bytes"] - before < 4 << 20
        assert not vm.api.get("/v1/vm")["ready"]
        vm.process.terminate()
        assert vm.wait() == 0
    assert_nothing_left(root)


# What a service manager sees


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        with daemon(write_config(tmp_path), tmp_path / "run", env=env) as vm:
            said = b""
            while b"READY=1" not in said:
                said += sock.recv(4096) + b"\n"
            assert b"WATCHDOG=1" in said
            assert vm.api.get("/v1/vm")["ready"]
            vm.process.terminate()
            while b"STOPPING=1" not in said:
                said += sock.recv(4096) + b"\n"


def test_hup_takes_over_what_can_change_and_refuses_mistakes(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with daemon(config, tmp_path / "run") as vm:
        vm.until_ready()
        good = config.read_text()
        config.write_text(good + "[uio]\nexec_timeout_s = 0.05\n")
        vm.process.send_signal(signal.SIGHUP)
        until(vm, lambda _: b"config.reloaded" in vm.api.get("/v1/events"))
        assert vm.api.exec("sleep")[2]["code"] == 124
        config.write_text("[vm]\nnonsense = 1\n")
        vm.process.send_signal(signal.SIGHUP)
        until(vm, lambda _: b"config.refused" in vm.api.get("/v1/events"))
        assert vm.api.exec("sleep")[2]["code"] == 124
        config.write_text(good + '[[net]]\nkind = "user"\n')
        vm.process.send_signal(signal.SIGHUP)
        until(vm, lambda info: any("restart it" in text for text in info["warnings"]))
        stream = vm.api.start("sleep")
        assert stream.receive() == (STDOUT, b"sleeping\n")
        stream.send(SIGNAL, b"\2")
        assert stream.until_exit()[2]["code"] == 130


# Beside starting


def test_check_prints_the_command_line(tmp_path: Path) -> None:
    done = uiod("check", write_config(tmp_path))
    assert done.returncode == 0
    assert "-nodefaults" in done.stdout
    assert "name=org.uio.channel" in done.stdout


def test_schema_is_json() -> None:
    schema = json.loads(uiod("schema").stdout)
    assert "kernel" in schema["$defs"]["Vm"]["properties"]


def test_help_documents_the_statuses() -> None:
    text = uiod("--help").stdout
    assert all(f"\n  {n}  " in text for n in range(10))
