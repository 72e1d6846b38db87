# SPDX-License-Identifier: BSD-3-Clause
"""nginx and SQLite in Unikraft, as their users meet them (docs/unikraft.md).

The kernels are built outside the repository: KERNEL_APP=nginx or sqlite, KERNEL and KERNEL_DBG, and for nginx INITRD,
whose root has nginx's files below /nginx.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import vm

from bench.guest import symbol
from uiod.run import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

APP = os.environ.get("KERNEL_APP", "") if os.environ.get("KERNEL") else ""
CONF = """
daemon off; master_process off; error_log logs/error.log info;
events {{ worker_connections 32; }}
http {{
    access_log logs/access.log;
    keepalive_requests 1000000;
    server {{ listen 80; location / {{ root html; index {text}.html; }} {more} }}
}}
"""

#: an overlay that would stop nginx, did it get away with it
HARM = """
// uio: name = "harm"
// uio: version = "1"
extern void *volatile ngx_cycle;
int main(void)
{
	ngx_cycle = 0;
	return 0;
}
"""


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 20)
        self._file = self._sock.makefile("rb")

    def get(self, path: str = "/") -> tuple[int, str]:
        """Status and body."""
        self._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        status = int(self._file.readline().split()[1])
        size = 0
        while (line := self._file.readline().strip().lower()) not in (b"",):
            if line.startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        return status, self._file.read(size).decode()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._sock.close()


class Load(threading.Thread):
    """Requests one after the other on a connection of its own; any failure ends it."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.client = Client(port)
        self.bodies: list[str] = []
        self.bad = False  # a status other than 200
        self.failed: object = None
        self.stop = threading.Event()

    def run(self) -> None:
        """Until asked to stop."""
        try:
            while not self.stop.is_set():
                status, body = self.client.get()
                self.bad = self.bad or status != 200
                if body not in self.bodies[-1:]:
                    self.bodies.append(body)
        except Exception as error:
            self.failed = error


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def configure(machine: Machine, text: str, more: str = "") -> None:
    """Write nginx's configuration, with a page that says that, and have it read."""
    conf = CONF.format(text=text, more=more).encode()
    files = {f"html/{text}.html": text.encode(), "conf/nginx.conf": conf}
    for name, content in files.items():
        done = machine.exec("cp", "-", f"guest:/nginx/{name}", stdin=content)
        assert done.code == 0, done
    assert machine.exec("kill", "-HUP").code == 0


def await_page(machine: Machine, client: Client, text: str) -> None:
    """Ask until it is that one."""
    while (got := client.get()) != (200, text):
        assert got[0] == 200
        machine.deadline.left(f"waiting for the page {text}")


def log(machine: Machine, name: str) -> str:
    """One of nginx's logs, from its file system in memory."""
    return machine.exec("cat", f"guest:/nginx/logs/{name}.log").stdout.decode()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[Machine, int]]:
    """It serves on a port of this machine, and says `one`."""
    if APP != "nginx":
        pytest.skip("KERNEL is no nginx")
    port = free_port()
    config = vm.prepare(
        tmp_path,
        app="nginx",
        vm=[
            f'initrd = "{os.environ["INITRD"]}"',
            'append = \'netdev.ip=10.0.2.15/24:10.0.2.2 vfs.fstab=[ "none:/:ramfs:::"'
            ' "initrd0:/:extract:::" ] -- -c /nginx/conf/nginx.conf\'',
        ],
        more=f'[[net]]\nkind = "user"\nforward = ["tcp:127.0.0.1:{port}-:80"]',
    )
    with vm.machine(config, timeout_s=200) as machine:
        configure(machine, "one")
        first = Client(port)
        await_page(machine, first, "one")
        first.close()
        yield machine, port


def test_a_reload_loses_no_request_and_is_seen_on_kept_connections(
    nginx: tuple[Machine, int],
) -> None:
    machine, port = nginx
    loads = [Load(port), Load(port)]
    for load in loads:
        load.start()
    kept = Client(port)
    wanted = ["one"] + [f"page{number}" for number in range(20)]
    for text in wanted[1:]:
        configure(machine, text)
        await_page(machine, kept, text)
        while any(load.bodies[-1:] != [text] for load in loads):
            assert not any(load.failed for load in loads), [load.failed for load in loads]
    for load in loads:
        load.stop.set()
        load.join()
        assert load.failed is None
        assert not load.bad
        assert load.bodies == wanted
        load.client.close()
    kept.close()
    errors = log(machine, "error")
    assert errors.count("new configuration in use") == 21
    assert "[alert]" not in errors and "[emerg]" not in errors
    # The old ones do not stay: each is freed when its last connection has left it.
    assert errors.count("previous configuration freed") >= 20


def test_it_serves_while_the_first_overlay_switches_the_domain_on(
    nginx: tuple[Machine, int], tmp_path: Path
) -> None:
    machine, port = nginx
    assert "pku" in machine.api.get("/v1/vm")["hello"]["features"]
    source = tmp_path / "harm.c"
    source.write_text(HARM)
    symbols = vm.kernel("nginx")[1]
    vm.build_overlay(tmp_path, source, symbols)
    vm.build_overlay(tmp_path, "hello", symbols)
    load = Load(port)
    load.start()
    kept = Client(port)
    for _ in range(3):
        assert machine.exec("hello").code == 0
        done = machine.exec("harm")
        assert (done.code, done.info["fault"]["kind"]) == (139, "write")
        assert done.info["fault"]["error_code"] & 0x20  # a protection key forbade it
        assert kept.get() == (200, "one")
    load.stop.set()
    load.join()
    assert (load.failed, load.bad, load.bodies) == (None, False, ["one"])
    load.client.close()
    kept.close()


def test_a_reload_without_traffic_happens_at_once(nginx: tuple[Machine, int]) -> None:
    machine, _ = nginx
    before = log(machine, "error").count("new configuration in use")
    configure(machine, "two")
    while log(machine, "error").count("new configuration in use") == before:
        pass  # without requests, only the signal wakes nginx


def test_a_wrong_configuration_is_refused_and_the_old_one_serves_on(
    nginx: tuple[Machine, int],
) -> None:
    machine, port = nginx
    kept = Client(port)
    configure(machine, "never", "no_such_directive on;")
    while 'unknown directive "no_such_directive"' not in log(machine, "error"):
        assert kept.get() == (200, "one")
    assert kept.get() == (200, "one")
    configure(machine, "two")
    await_page(machine, kept, "two")
    kept.close()


def test_listening_addresses_come_and_go(nginx: tuple[Machine, int]) -> None:
    machine, port = nginx
    kept = Client(port)
    configure(machine, "two", "listen 81;")
    await_page(machine, kept, "two")
    configure(machine, "three")
    await_page(machine, kept, "three")
    new = Client(port)
    assert new.get() == (200, "three")
    new.close()
    kept.close()
    assert "[alert]" not in log(machine, "error")


def test_a_database_in_memory_is_copied_to_a_file(tmp_path: Path) -> None:
    if APP != "sqlite":
        pytest.skip("KERNEL is no SQLite")
    config = vm.prepare(
        tmp_path,
        ["sqlite_backup"],
        app="sqlite",
        vm=[
            'append = \'vfs.fstab=[ "none:/:ramfs:::" ] -- -cmd "create table t(id integer primary key, square);'
            " with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)"
            " insert into t select i, i * i from n\" :memory:'"
        ],
    )
    with vm.machine(config, timeout_s=200) as machine:
        # A variable of the shell's own file, which uIO knows no name of.
        handle = symbol(vm.kernel("sqlite")[1], "globalDb")
        assert handle is not None
        done = machine.exec("sqlite_backup", "-d", hex(handle), "/host/copy.db")
        assert done.code == 0, done
    with sqlite3.connect(tmp_path / "host" / "copy.db") as copy:
        assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert copy.execute("select count(*), max(square) from t").fetchall() == [(5000, 25000000)]
