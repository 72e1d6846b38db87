# SPDX-License-Identifier: BSD-3-Clause
"""The shell on org.uio.console draws for the terminal that the channel tells it of."""

from __future__ import annotations

from collections.abc import Iterator

import hosted.guest
import pytest
from hosted.client import PING, PONG, WINSIZE, Client
from hosted.guest import Console, Guest

guest = hosted.guest.guest
hosted_binary = hosted.guest.hosted_binary


@pytest.fixture
def client(guest: Guest) -> Iterator[Client]:
    with guest.connect() as client:
        yield client


@pytest.fixture
def console(guest: Guest) -> Iterator[Console]:
    console = guest.console()
    yield console
    console.close()


def resize(client: Client, rows: int, columns: int) -> None:
    """Tell of the console's terminal, and know that it was heard."""
    client.send(WINSIZE, 0, rows << 16 | columns)
    client.send(PING)
    client.expect(PONG)


def drawn(console: Console, cursor: int) -> bytes:
    """The row as it is drawn next with the cursor in that column."""
    end = b"\x1b[K\r\x1b[%dC" % cursor
    return console.until(end).removesuffix(end).rpartition(b"\r")[2]


@pytest.mark.parametrize(
    ("columns", "used"),
    [(80, 78), (40, 38), (200, 198), (401, 398), (0, 78), (1, 8), (9, 8), (65535, 398)],
)
@pytest.mark.parametrize("rows", [0, 24, 65535])
def test_a_line_takes_the_terminals_columns_and_no_more(
    client: Client, console: Console, rows: int, columns: int, used: int
) -> None:
    resize(client, rows, columns)
    console.send(b"x" * 600)
    assert drawn(console, used) == b"uio> " + b"x" * (used - 5)


def test_what_is_told_before_the_console_opens_counts(guest: Guest, client: Client) -> None:
    resize(client, 50, 30)
    for _ in range(2):  # also for the next peer, until the host says something else
        console = guest.console()
        console.send(b"x" * 100)
        assert drawn(console, 28) == b"uio> " + b"x" * 23
        console.close()


def test_a_line_is_drawn_anew_when_the_terminal_changes(client: Client, console: Console) -> None:
    console.send(b"x" * 100)
    assert drawn(console, 78) == b"uio> " + b"x" * 73
    resize(client, 24, 40)
    assert drawn(console, 38) == b"uio> " + b"x" * 33
    resize(client, 24, 200)
    assert drawn(console, 105) == b"uio> " + b"x" * 100
    console.send(b"y")
    assert console.until(b"y") == b"y"  # there is room: no drawing
    console.send(b"\x7f")
    assert console.until(b" \b") == b"\b \b"


def test_the_end_of_the_session_is_the_end_of_what_it_said(guest: Guest, console: Console) -> None:
    with guest.connect() as client:
        resize(client, 24, 200)
        console.send(b"x" * 300)
        assert drawn(console, 198) == b"uio> " + b"x" * 193
    with guest.connect():
        assert drawn(console, 78) == b"uio> " + b"x" * 73


def test_nothing_is_drawn_where_no_line_is_edited(client: Client, console: Console) -> None:
    resize(client, 24, 100)
    console.send(b"sleep 1000\n")
    assert console.until(b"\r\n") == b"sleep 1000\r\n"
    resize(client, 24, 120)
    console.send(b"\x03")
    assert console.until() == b"^C\r\nuio> "
    resize(client, 24, 140)
    assert console.run("echo ok") == "ok\r\n"


def test_a_line_that_a_command_reads_is_drawn_anew(client: Client, console: Console) -> None:
    console.send(b"cat\n")
    console.until(b"\r\n")
    console.send(b"z" * 90)
    assert drawn(console, 78) == b"z" * 78
    resize(client, 24, 20)
    assert drawn(console, 18) == b"z" * 18
    console.send(b"\n")
    assert console.until(b"z" * 90 + b"\r\n").endswith(b"\r\n" + b"z" * 90 + b"\r\n")


@pytest.mark.parametrize(
    ("character", "shown"),
    [("ж", 393), ("日", 196), ("🚀", 196)],
    ids=["two bytes", "two columns", "four bytes"],
)
def test_the_widest_row_holds_any_characters(
    client: Client, console: Console, character: str, shown: int
) -> None:
    resize(client, 24, 65535)
    columns = shown if character == "ж" else 2 * shown
    console.send(character.encode() * 600)
    assert drawn(console, 5 + columns) == b"uio> " + character.encode() * shown


def test_characters_without_width_do_not_fill_the_echo(client: Client, console: Console) -> None:
    resize(client, 24, 65535)
    line = "echo a" + "\u0301" * 1900
    console.send(line.encode() + b"\x01")
    row = drawn(console, 5).decode()  # as much of it as the echo has room for
    assert 400 < len(row) < 512
    assert row == "uio> " + line[: len(row) - 5]
    console.send(b"\x05")
    row = drawn(console, 5).decode()
    assert 400 < len(row) < 512
    assert row == "uio> " + line[-len(row) + 5 :]
    console.send(b"\n")
    console.until(b"\r\n")
    assert console.until().decode() == line.removeprefix("echo ") + "\r\nuio> "
