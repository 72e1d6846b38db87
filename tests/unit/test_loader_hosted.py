# SPDX-License-Identifier: BSD-3-Clause
"""Overlays in the hosted guest, with its context, several at once: what one of them does holds nobody else up."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import loader_tools as t
import pytest
from loader_tools import CANCELLED, FAULT, OK, TIMEOUT, Hosted, channel

from overlays import build, link
from overlays.kernel import Kernel
from overlays.overlay import Overlay

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <uio/uio.h>
static int runs;
static int is(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}
static int count_threads(const struct uio_thread_entry *entry, void *arg)
{
    ++*(int *)arg;
    return entry->name[0] == 0;
}
static int name_entry(const struct uio_entry *entry, void *arg)
{
    if (entry->name[0] != '.')
        uio_printf("entry %s\n", entry->name);
    return *(int *)arg;
}
static int api(void)
{
    struct uio_symbol_info symbol;
    struct uio_info info;
    size_t total, left, size;
    int threads = 0, zero = 0, fd;
    void *data;

    int found = uio_symbol("uio_port_alloc", &symbol);
    printf("symbol %d %d\n", found, symbol.type);
    printf("no symbol %d\n", uio_symbol("no_such_symbol", &symbol) == -2);
    int result = uio_threads(count_threads, &threads);
    printf("threads %d %d\n", result, threads > 1);
    uio_meminfo(&total, &left);
    printf("memory %d\n", total > left && left > 0);
    fd = uio_open("/host/new", O_RDWR | O_CREAT, 0600);
    printf("write %d\n", (int)uio_write(fd, "0123456789", 10));
    printf("seek %d\n", (int)uio_seek(fd, 4, 0));
    char text[8] = "";
    printf("read %d", (int)uio_read(fd, text, 3));
    printf(" %s\n", text);
    printf("sync %d", uio_fsync(fd));
    printf(" close %d", uio_close(fd));
    printf(" again %d\n", uio_close(fd) == -9);
    printf("mkdir %d\n", uio_mkdir("/host/dir", 0700));
    printf("rename %d\n", uio_rename("/host/new", "/host/dir/old"));
    result = uio_stat("/host/dir/old", &info);
    printf("stat %d %d\n", result, (int)info.size);
    printf("readdir %d\n", uio_readdir("/host/dir", name_entry, &zero));
    printf("slurp %d", uio_slurp("/host/dir/old", &data, &size, 100));
    printf(" %.*s\n", (int)size, (char *)data);
    printf("too large %d\n", uio_slurp("/host/dir/old", &data, &size, 9) == -27);
    printf("unlink %d", uio_unlink("/host/dir/old"));
    printf(" rmdir %d", uio_rmdir("/host/dir"));
    printf(" gone %d\n", uio_stat("/host/dir", &info) == -2);
    printf("terminal %d\n", uio_terminal(NULL, NULL));
    uio_log(6, "said by an overlay");
    return 0;
}
int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    char line[64];

    runs++;
    if (*what) {
        fputs("in;", stderr);
        uio_flush();
    }
    if (is(what, "loop"))
        for (;;)
            ;
    if (is(what, "print"))
        for (;;)
            puts("and again");
    if (is(what, "polite")) {
        while (!uio_interrupted())
            ;
        return 3;
    }
    if (is(what, "sleep"))
        uio_sleep_ns(1000000000000000);
    if (is(what, "read"))
        while (fgets(line, sizeof(line), stdin))
            printf("got %s", line);
    if (is(what, "fault"))
        *(volatile int *)8 = 1;
    if (is(what, "file"))
        uio_open("/host/held", O_RDWR | O_CREAT, 0600);
    if (is(what, "api"))
        return api();
    if (is(what, "runs"))
        printf("%d\n", runs);
    return 5;
}
"""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Hosted]:
    with t.hosted(tmp_path) as g:
        put(g, "prog", PROGRAM)
        yield g


def put(guest: Hosted, name: str, text: str) -> None:
    """Build an overlay into /bin."""
    source = t.write(guest.root / "src" / f"{name}.c", text)
    t.compile_c(source, "-O2").rename(guest.root / "bin" / name)


def start_and_settle(guest: Hosted, *argv: str) -> int:
    """Start a command and wait until it is in its overlay."""
    ident = guest.client.start(*argv)
    f = guest.client.expect(channel.DATA, ident)
    while f.arg != 2:
        f = guest.client.expect(channel.DATA, ident)
    return ident


def ping(guest: Hosted) -> None:
    """The context answers, whatever overlays do."""
    guest.client.send(channel.PING, 77, 0, b"are you there")
    assert guest.client.expect(channel.PONG, 77).payload == b"are you there"


def test_the_api(guest: Hosted) -> None:
    answer = guest.run("prog", "api")
    assert (answer.kind, answer.status) == (OK, 0), answer
    assert answer.stdout.decode().splitlines() == [
        "symbol 0 1", "no symbol 1", "threads 0 1", "memory 1", "write 10", "seek 4", "read 3 456",
        "sync 0 close 0 again 1", "mkdir 0", "rename 0", "stat 0 10", "entry old", "readdir 0", "slurp 0 0123456789",
        "too large 1", "unlink 0 rmdir 0 gone 1", "terminal 0",
    ]  # fmt: skip
    assert any(b"said by an overlay" in f.payload for f in answer.log)


@pytest.mark.parametrize("what", ["loop", "print", "sleep", "read"])
def test_deadlines(guest: Hosted, what: str) -> None:
    answer = guest.run("prog", what, timeout_ms=100)
    assert (answer.kind, answer.status) == (TIMEOUT, -110)
    assert guest.run("prog", "runs").stdout == b"1\n"


@pytest.mark.parametrize("signal", [2, 9])
@pytest.mark.parametrize("what", ["loop", "print", "sleep", "read"])
def test_cancel(guest: Hosted, what: str, signal: int) -> None:
    assert guest.run("prog").status == 5
    ident = start_and_settle(guest, "prog", what)
    guest.client.send(channel.CANCEL, ident, signal)
    answer = guest.client.finish(ident)
    assert (answer.kind, answer.status) == (CANCELLED, signal)
    assert guest.run("prog").status == 5


def test_who_ends_in_order_when_asked_has_the_last_word(guest: Hosted) -> None:
    ident = start_and_settle(guest, "prog", "polite")
    guest.client.send(channel.CANCEL, ident, 2)
    answer = guest.client.finish(ident)
    assert (answer.kind, answer.status) == (OK, 3)


def test_who_is_asked_by_the_deadline_is_late_all_the_same(guest: Hosted) -> None:
    assert guest.run("prog", "polite", timeout_ms=100).kind == TIMEOUT


def test_a_loop_holds_nobody_up(guest: Hosted) -> None:
    put(guest, "other", PROGRAM)
    assert guest.run("other").status == 5
    assert guest.run("prog").status == 5
    ident = start_and_settle(guest, "prog", "loop")
    for _ in range(3):
        ping(guest)
        assert guest.run("other", "runs").status == 5
        assert guest.run("other", "fault").kind == FAULT
        assert guest.run("ls", "/host").kind == OK
    guest.client.send(channel.CANCEL, ident, 9)
    assert guest.client.finish(ident).kind == CANCELLED


def test_several_commands_in_one_overlay(guest: Hosted) -> None:
    """A fault ends one of them; the others go on, and the overlay goes when the last has left."""
    assert guest.run("prog").status == 5
    reader = start_and_settle(guest, "prog", "read")
    assert guest.run("prog", "fault").kind == FAULT
    # What faulted is not used for new commands, which get a fresh copy.
    assert guest.run("prog", "runs").stdout == b"1\n"
    guest.client.send(channel.DATA, reader, 0, b"line\n")
    guest.client.send(channel.DATA, reader, 0)
    answer = guest.client.finish(reader)
    assert (answer.kind, answer.status, answer.stdout) == (OK, 5, b"got line\n")
    assert guest.run("prog", "runs").stdout == b"1\n"  # its data is new for each command


def test_in_use(guest: Hosted) -> None:
    assert guest.run("prog").status == 5
    reader = start_and_settle(guest, "prog", "read")
    answer = guest.run("unload", "prog")
    assert answer.status == 1
    guest.client.send(channel.DATA, reader, 0)
    assert guest.client.finish(reader).status == 5
    assert guest.run("unload", "prog").status == 0


@pytest.mark.parametrize(("what", "kind"), [
    ("for (;;) ;", TIMEOUT),
    ("*(volatile int *)8 = 1;", FAULT),
    ("", OK),
])  # fmt: skip
def test_destructors_end_too(guest: Hosted, what: str, kind: int) -> None:
    """They run at the end of the command and share its fate."""
    put(
        guest,
        "bad",
        "#include <stdio.h>\n__attribute__((destructor)) static void f(void) { volatile int n = 1; "
        f"if (n) {{ {what} }} }} int main(void) {{ return 3; }}",
    )
    for _ in range(2):
        answer = guest.run("bad", timeout_ms=500 if kind == TIMEOUT else 0)
        assert answer.kind == kind
        assert kind != OK or answer.status == 3
    assert guest.run("true").status == 0


def test_what_the_host_is_told_holds_it_up_in_nothing(guest: Hosted) -> None:
    """GONE finds no room while a command floods the host, which gives it credit before it reads on."""
    put(guest, "other", PROGRAM + "int different;")
    client = guest.client
    assert guest.run("other").status == 5
    client.send(channel.LISTQ, 1000)
    digest = client.expect(channel.LISTR, 1000).payload[:32]
    assert guest.run("prog").status == 5
    printer = client.start("prog", "print", stdout=1 << 30)
    # Once it has begun it goes on until there is no room any more.
    assert select.select([client.sock], [], [], channel.DEADLINE_S)[0]
    client.send(channel.UNLOAD, 1001, 0, digest)
    # More than sockets hold.
    client.raw(channel.frame(channel.CREDIT, printer, 1, struct.pack("<I", 1)) * 20_000)
    client.send(channel.CANCEL, printer, 9)
    assert client.finish(printer).kind == CANCELLED


def test_nothing_is_kept(guest: Hosted) -> None:
    def used() -> int:
        # With a fault goes what is kept for the next command: its thread, the overlay, its stacks.
        assert guest.run("prog", "fault").kind == FAULT
        # The least of several: the thread of a command that has just ended may still be leaving.
        shown = [guest.run("mem").stdout for _ in range(20)]
        return min(int(out.split(b"KiB, ")[1].split(b" bytes")[0]) for out in shown)

    def round_of_all() -> None:
        for what in ("", "fault", "file", "api"):
            guest.run("prog", what)
        guest.run("prog", "print", timeout_ms=5)
        guest.run("unload", "prog")

    round_of_all()
    before = used()
    for _ in range(20):
        round_of_all()
    # The answer to a last Tclunk may be under way; a leak never gets there.
    deadline = time.monotonic() + channel.DEADLINE_S
    while (left := used()) > before:
        assert time.monotonic() < deadline, (left, before)


def test_push(guest: Hosted, tmp_path: Path) -> None:
    text = (
        '// uio: name = "pushed"\n#include <stdio.h>\nstatic int n; int main(int argc, char **argv) '
        '{ if (argc > 2) *(volatile int *)8 = 1; printf("%s %d\\n", argv[1], ++n); return 4; }'
    )
    out = tmp_path / "pushed.uio"
    build.build([t.write(tmp_path / "pushed.c", text)], out, kernel=None, key=None)
    overlay = Overlay.load(out)
    assert guest.client.hello
    image = link.link(overlay, Kernel.open(guest.program), slide=0, base=guest.client.hello.push[0])
    client = guest.client

    def run(*argv: str, send: bool) -> channel.Exit:
        ident = client.next_id
        if send:
            for at in range(0, len(image), 1000):
                client.send(channel.IMAGE, ident, at, image[at : at + 1000])
        assert client.start(*argv, flags=2, digest=overlay.hash) == ident
        return client.finish(ident)

    assert run("pushed", "x", send=False).kind == channel.NEED_IMAGE
    assert run("pushed", "cold", send=True).stdout == b"cold 1\n"
    assert run("pushed", "cached", send=False).stdout == b"cached 1\n"  # with new data
    answer = run("pushed", "x", "fault", send=False)
    assert answer.kind == FAULT
    kind, ip, address = struct.unpack_from("<B7xQQ", answer.fault)
    assert (kind, address) == (2, 8)
    assert 0 <= ip - guest.client.hello.push[0] < len(image)
    # It went with the fault, and the host was told.
    answer = run("pushed", "x", send=False)
    assert answer.kind == channel.NEED_IMAGE
    assert run("pushed", "again", send=True).stdout == b"again 1\n"
