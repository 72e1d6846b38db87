# SPDX-License-Identifier: BSD-3-Clause
"""uiod with a real guest: what it must survive, and what the VM must not notice of it.

UIO_KILLS=100 makes the test that kills uiod as long as one likes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import vm as guests
from uiod_harness import END, STDIN, STDOUT, Daemon, daemon

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("UIO_KILLS", "15"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return guests.prepare(
        tmp_path_factory.mktemp("vm"),
        ["hello"],
        vm=['accel = "tcg"', "stop_timeout_s = 5"],
        more='[limits]\ncgroup = "off"',
    )


@pytest.fixture
def root() -> Iterator[Path]:
    # Not pytest's own, whose paths are too long for sockets.
    directory = Path(tempfile.mkdtemp(prefix="uiod-"))
    yield directory
    shutil.rmtree(directory)


def counts(log: bytes) -> list[int]:
    return [int(n) for n in re.findall(rb"^count: (\d+)\r?$", log, re.MULTILINE)]


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_start_exec_logs_stop(config: Path, root: Path) -> None:
    with daemon(config, root) as vm:
        info = vm.until_ready()
        assert info["hello"]["build_id"]
        assert vm.api.exec("echo", "hi")[0] == b"hi\n"
        assert vm.api.exec("hello", "there")[2]["code"] == 0
        stats = vm.api.get("/v1/stats")
        assert 0 < stats["guest_mem_free"] < stats["guest_mem_total"] <= info["memory_bytes"]
        until(lambda: counts(vm.api.get("/v1/logs")), "no heartbeat in the log")
        vm.process.terminate()
        assert vm.wait() == 0
        assert "asked to stop" in vm.said()
    assert not list(root.glob("*/*.sock"))


def test_gigabytes_need_no_memory(config: Path, root: Path) -> None:
    """Some of them: a file of 24 MiB through the guest and back, whose memory is larger than uiod's."""
    with daemon(config, root) as vm:
        vm.until_ready()
        vm.api.exec("echo", "warm")
        data = random.Random(1).randbytes(24 << 20)
        before = vm.api.get("/v1/stats")["uiod_pss_bytes"]
        stream = vm.api.start("cp", "-", "/host/large", stdin=True)

        def send() -> None:
            for at in range(0, len(data), 60_000):
                stream.send(STDIN, data[at : at + 60_000])
            stream.send(END)

        sender = threading.Thread(target=send)
        sender.start()
        out, err, exit = stream.until_exit()
        sender.join()
        stream.sock.close()
        assert exit["code"] == 0, (out, err, exit)
        assert vm.api.get("/v1/stats")["uiod_pss_bytes"] - before < 4 << 20
        assert (config.parent / "host" / "large").read_bytes() == data
        back = vm.api.exec("cat", "/host/large")[0]
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        assert vm.api.get("/v1/stats")["uiod_pss_bytes"] - before < 4 << 20


def test_the_daemon_is_light(config: Path, root: Path) -> None:
    with daemon(config, root) as vm:
        vm.until_ready()
        for i in range(50):
            assert vm.api.exec("hello", str(i))[2]["code"] == 0
        assert vm.api.get("/v1/stats")["uiod_pss_bytes"] <= 30 << 20
        maps = Path(f"/proc/{vm.process.pid}/maps").read_text()
        assert "cryptography" not in maps
        assert "libssl" not in maps


def test_a_reader_that_stops_stops_the_writer_and_nobody_else(config: Path, root: Path) -> None:
    with daemon(config, root) as vm:
        vm.until_ready()
        (config.parent / "host" / "big").write_bytes(bytes(16 << 20))
        stuck = vm.api.start("cat", "/host/big")
        with contextlib.closing(stuck.sock):
            assert stuck.receive()[0] == STDOUT
            before = vm.api.get("/v1/stats")
            for i in range(20):
                assert vm.api.exec("echo", str(i))[0] == f"{i}\n".encode()
            after = vm.api.get("/v1/stats")
            # The guest reads no further, and nothing is piled up.
            assert after["ninep_read_bytes"] - before["ninep_read_bytes"] < 4 << 20
            assert after["uiod_pss_bytes"] - before["uiod_pss_bytes"] < 2 << 20


def kill_at_a_random_moment(vm: Daemon, chance: random.Random) -> None:
    time.sleep(chance.uniform(0.0, 0.6))
    vm.process.kill()
    vm.process.wait()


def test_killed_at_random_moments_the_vm_goes_on_and_no_written_byte_is_lost(
    config: Path, root: Path
) -> None:
    """During exec, cp and 9P writes; the heartbeat goes on, and each write that was confirmed is there."""
    chance = random.Random(7)
    host = config.parent / "host"
    pids, written = set(), dict[str, bytes]()
    longest = 0.0
    first = time.monotonic()
    for round_ in range(KILLS):
        begun = time.monotonic()
        vm = Daemon(config, root)
        try:
            info = vm.until_ready()
            longest = max(longest, time.monotonic() - begun)
            pids.add(info["qemu_pid"])
            assert info["adopted"] == (round_ > 0)
            killer = threading.Thread(target=kill_at_a_random_moment, args=(vm, chance))
            killer.start()
            number = 0
            with contextlib.suppress(OSError, EOFError, AssertionError, ValueError):
                while True:
                    name = f"r{round_}n{number}"
                    number += 1
                    data = name.encode() * chance.randrange(1, 20_000)
                    exit = vm.api.exec("cp", "-", f"/host/{name}", stdin=data)[2]
                    if exit["code"] == 0:
                        written[name] = data
                    vm.api.exec("hello", name)
                    vm.api.exec("cat", f"/host/{name}")
            killer.join()
        finally:
            vm.process.kill()
            vm.process.wait()
    with daemon(config, root) as vm:
        vm.until_ready()
        pids.add(vm.qemu_pid())
        assert len(pids) == 1, "the VM was started anew"
        assert len(written) > KILLS / 2
        for name, data in written.items():
            assert (host / name).read_bytes() == data, name
        assert vm.api.exec("echo", "alive")[0] == b"alive\n"
        assert vm.api.exec("cat", f"/host/{name}")[0] == data
        # One heart that goes on beating, whoever listened meanwhile.
        seen = counts(vm.api.get("/v1/logs"))
        until(lambda: counts(vm.api.get("/v1/logs"))[-1] > seen[-1], "the heart stopped")
        lived = time.monotonic() - first
        beats = counts(vm.api.get("/v1/logs"))
        assert beats == sorted(set(beats))
        assert vm.api.get("/v1/logs").count(b"count: started") == 1
        print(
            f"{KILLS} kills, {len(written)} files confirmed and there, "
            f"longest from start to ready {longest:.2f} s, {beats[-1]} beats in {lived:.0f} s"
        )


def test_a_killed_qemu_is_reported_and_restarted(config: Path, root: Path) -> None:
    again = config.with_name("again.cfg")
    again.write_text(config.read_text() + '\n[restart]\npolicy = "on-failure"\ndelay_s = 0.1\n')
    with daemon(again, root) as vm:
        vm.until_ready()
        pid = vm.qemu_pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: vm.api.get("/v1/vm")["restarts"] == 1, "no restart")
        assert vm.api.request("GET", "/v1/wait?timeout_s=60")[0] == 200
        assert vm.qemu_pid() != pid
        assert vm.api.exec("echo", "again")[0] == b"again\n"
        assert "QEMU was killed by SIGKILL" in vm.said()


def test_pause_resume_and_reset_of_a_real_machine(config: Path, root: Path) -> None:
    with daemon(config, root) as vm:
        vm.until_ready()
        assert vm.api.request("POST", "/v1/vm/pause")[1]["state"] == "paused"
        assert vm.api.request("POST", "/v1/vm/resume")[1]["state"] == "running"
        assert vm.api.exec("echo", "on")[0] == b"on\n"
        assert vm.api.request("POST", "/v1/vm/reset")[0] == 200
        until(lambda: vm.api.get("/v1/logs").count(b"count: started") == 2, "no second boot")
        assert vm.api.request("GET", "/v1/wait?timeout_s=60")[0] == 200
        assert vm.api.exec("ls", "/host")[2]["code"] == 0
