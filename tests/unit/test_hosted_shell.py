# SPDX-License-Identifier: BSD-3-Clause
"""The shell on the console port: what a person, a paste or a cat on the keyboard can do to it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import hosted.guest
import pytest
from hosted.guest import PROMPT, Console, Guest

guest = hosted.guest.guest
hosted_binary = hosted.guest.hosted_binary

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
INTERRUPT, EOF = b"\x03", b"\x04"


@pytest.fixture
def console(guest: Guest) -> Iterator[Console]:
    console = guest.console()
    yield console
    console.close()


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("", ""),
        ("   ", ""),
        ("# nothing", ""),
        ("echo hi", "hi\r\n"),
        ("echo   a    b  ", "a b\r\n"),
        ("echo -n x", "x"),
        ("echo 'a  b' \"c  d\" e\\ \\ f", "a  b c  d e  f\r\n"),
        ('echo "it\'s" \'say "x"\' "\\"\\\\\\n"', 'it\'s say "x" "\\\\n\r\n'),
        ("echo a'b'\"c\"d ''", "abcd \r\n"),
        ("echo 'a;b|c>d#e' # f", "a;b|c>d#e\r\n"),
        ("echo a#b", "a#b\r\n"),
        ("echo grün 日本語 🚀", "grün 日本語 🚀\r\n"),
        ("echo a; echo b;echo c", "a\r\nb\r\nc\r\n"),
        (";;; echo a ;; echo b ;", "a\r\nb\r\n"),
        ("echo a | cat", "a\r\n"),
        ("echo a|cat|cat|cat; echo b", "a\r\nb\r\n"),
        ("echo lost | true", ""),
        ("help | true", ""),
        ("true | echo b", "b\r\n"),
        ("false; echo go on", "go on\r\n"),
        ("echo abc | hexdump", None),
        ("echo 'open", "uio: a ' has no partner\r\n"),
        ('echo "open', 'uio: a " has no partner\r\n'),
        ("echo end\\", "uio: nothing follows the \\\r\n"),
        ("| cat", "uio: a command is missing\r\n"),
        ("echo a |", "uio: a command is missing\r\n"),
        ("echo a | | cat", "uio: a command is missing\r\n"),
        ("echo a >", "uio: a file's name is missing\r\n"),
        ("> ; echo b", "uio: a file's name is missing\r\n"),
        ("cat |" * 8 + "cat", "uio: too many commands in one pipeline\r\n"),
        ("echo" + " a" * 200, "uio: too many words\r\n"),
    ],
)
def test_lines(console: Console, line: str, output: str | None) -> None:
    console.send(line.encode() + b"\n")
    console.until(b"\r\n")
    printed = console.until().removesuffix(PROMPT).decode()
    if output is None:
        output = "00000000  61 62 63 0a" + " " * 39 + "|abc.|\r\n"
    assert printed == output
    assert console.run("echo ok") == "ok\r\n"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_ends_of_lines(console: Console, end: bytes) -> None:
    console.send(b"echo a" + end + b"echo b" + end)
    assert console.until() == b"echo a\r\na\r\nuio> "
    assert console.until() == b"echo b\r\nb\r\nuio> "
    assert console.run("echo c") == "c\r\n"


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        (b"echo abc\x7f\x7fX", "aX"),
        (b"echo abc\x08", "ab"),
        (b"cho a\x01e", "a"),
        (b"echo b" + LEFT + b"a", "ab"),
        (b"echo ac" + LEFT + b"b" + RIGHT + b"d", "abcd"),
        (b"echo ac\x02b\x06d", "abcd"),
        (b"cho a\x1b[He\x1b[Fb", "ab"),
        (b"cho a\x1b[1~e\x1b[4~b", "ab"),
        (b"echo axb" + LEFT * 2 + b"\x1b[3~", "ab"),
        (b"echo axb" + LEFT * 2 + EOF, "ab"),
        (b"echo keep drop\x17it", "keep it"),
        (b"wrong\x15echo right", "right"),
        (b"echo ab" + LEFT + b"\x0b", "a"),
        (b"echo a b c\x1b[1;5D\x1b[DX", "a bX c"),
        (b"echo one two\x1bb\x1bbX", "Xone two"),
        ("echo gün".encode() + LEFT + b"\x7f" + "ö".encode(), "gön"),
        ("echo a日b".encode() + LEFT + b"\x7f" + b"-", "a-b"),
        (b"echo \xff\xfea\xc3(\xe2\x82b\xed\xa0\x80c\xf5\x80\x80\x80d\xc0\xafe", "a(bcde"),
        (b"echo a\x1b[99;99;99~\x1b[?2004h\x1bOP\x1b[200~b\x1b[201~", "ab"),
        (b"echo a\0\x0e\x0fb", "ab"),
        (b"echo a\tb", "a b"),
        (LEFT * 50 + b"echo a" + RIGHT * 50 + b"b", "ab"),
    ],
)
def test_editing(console: Console, keys: bytes, arguments: str) -> None:
    console.send(keys + b"\n")
    console.until(b"\r\n")
    out = console.until()
    # The line may be drawn again before it ends: its output is the last thing before the prompt.
    assert out.removesuffix(PROMPT).decode() == arguments + "\r\n"


def test_what_is_typed_is_shown(console: Console) -> None:
    console.send(b"echo abc")
    assert console.until(b"abc") == b"echo abc"
    console.send(b"\x7f")
    assert console.until(b" \b") == b"\b \b"


def test_history(console: Console) -> None:
    for word in ("one", "two", "two", "three"):
        console.run(f"echo {word}")

    def recalled(keys: bytes) -> bytes:
        console.send(keys + b"\n")
        return console.until().removesuffix(b"\r\n" + PROMPT).rpartition(b"\r\n")[2]

    assert recalled(UP) == b"three"
    assert recalled(UP * 2) == b"two"  # not twice: a repeated line is kept once
    assert recalled(UP * 4) == b"one"
    assert recalled(UP * 2 + b"!") == b"two!"
    assert recalled(b"echo draft" + UP * 3 + DOWN * 3) == b"draft"
    assert recalled(UP * 100) == b"one"
    assert recalled(b"echo x" + DOWN * 9) == b"x"


def test_history_is_bounded(console: Console) -> None:
    for i in range(40):
        console.run(f"echo {i} " + "x" * 55)
    console.send(UP * 1000 + b"\n")
    out = console.until()
    assert b"\a" in out
    assert b"\r\n39 x" not in out
    assert console.run("echo ok") == "ok\r\n"


def test_interrupt_at_the_prompt_drops_the_line(console: Console) -> None:
    console.send(b"echo never" + INTERRUPT)
    assert console.until(b"^C\r\n" + PROMPT).startswith(b"echo never")
    assert console.run("echo ok") == "ok\r\n"


def test_interrupt_ends_the_running_command_only(guest: Guest, console: Console) -> None:
    with guest.connect() as client:
        other = client.start("cat")
        console.send(b"sleep 1000 | cat | cat; echo not reached\n")
        while b"sleep" not in client.run("ps").stdout:
            pass
        console.send(INTERRUPT)
        assert console.until() == b"sleep 1000 | cat | cat; echo not reached\r\n^C\r\nuio> "
        client.send(0x20, other, 0, b"alive")
        client.send(0x20, other, 0)
        assert client.finish(other).stdout == b"alive"


def test_interrupt_in_the_same_piece_as_the_command(console: Console) -> None:
    console.send(b"sleep 1000\n" + INTERRUPT + b"echo after\n")
    assert console.until(b"after\r\n" + PROMPT).count(b"^C") == 1


def test_end_of_file_at_the_prompt_does_nothing(console: Console) -> None:
    console.send(EOF)
    assert console.run("echo ok") == "ok\r\n"


def test_clear_screen_keeps_the_line(console: Console) -> None:
    console.send(b"echo x\x0c")
    console.until(b"\x1b[H\x1b[2J")
    console.send(b"y\n")
    assert console.until().endswith(b"\r\nxy\r\nuio> ")


def test_a_command_reads_lines_from_the_console(console: Console) -> None:
    console.send(b"cat\n")
    assert console.until(b"\r\n") == b"cat\r\n"
    console.send(b"firsx\x7ft\n")
    assert console.until(b"\r\n") == b"firsx\b \bt\r\n"
    assert console.until(b"first\r\n") == b"first\r\n"
    console.send(b"second\n" + EOF)
    assert console.until() == b"second\r\nsecond\r\nuio> "
    # The lines were the command's: they are not in the shell's history.
    console.send(UP + b"\n")
    assert b"cat\x1b[K" in console.until(b"\r\n")
    console.send(INTERRUPT)
    console.until()


def test_what_is_typed_ahead_is_the_next_line(guest: Guest, console: Console) -> None:
    console.send(b"sleep 1000\n")
    console.until(b"\r\n")
    with guest.connect() as client:
        console.send(b"echo early\n")
        number = next(
            line.split()[0].decode()
            for line in iter(lambda: client.run("ps").stdout, b"")
            for line in line.splitlines()
            if b"sleep 1000" in line
        )
        assert client.run("kill", number).status == 0
    console.until()
    assert console.until() == b"echo early\r\nearly\r\nuio> "


def test_paste_of_a_megabyte_in_one_line(console: Console) -> None:
    out = console.send_and_read(b"x" * (1 << 20) + b"\n", b"the line is too long")
    assert b"\a" in out
    console.until()
    assert console.run("echo ok") == "ok\r\n"


def test_paste_of_a_megabyte_of_lines_loses_none(console: Console) -> None:
    lines = 1050
    text = b"".join(b"echo %d %s\n" % (i, b"x" * 1000) for i in range(lines))
    assert len(text) >= 1 << 20
    out = console.send_and_read(text + b"echo the end\n", b"\r\nthe end\r\n")
    for i in range(lines):
        assert out.count(b"\r\n%d x" % i) == 1
    assert b"too long" not in out


@pytest.mark.parametrize("seed", range(4))
def test_garbage_does_no_harm(guest: Guest, console: Console, seed: int) -> None:
    noise = random.Random(seed).randbytes(1 << 18)
    # Ends whatever the noise has started, then asks for a sign of life.
    console.send_and_read(
        noise + b"\n" + INTERRUPT + b"\x1c\x15echo still here\n", b"\r\nstill here\r\n"
    )
    assert guest.run("true").kind == 0


def test_the_line_before_the_longest(console: Console) -> None:
    word = "x" * 4085
    assert console.run("echo " + "y" * 60) == "y" * 60 + "\r\n"
    console.send(b"echo " + word.encode() + b"\n")
    assert console.until().endswith(b"\r\n" + word.encode() + b"\r\nuio> ")


def test_reopening_the_console(guest: Guest) -> None:
    guest.console().close()
    before = guest.settle()
    for i in range(300):
        console = guest.console()
        if i % 3 == 0:
            console.send(b"sleep 1000 | cat\n")
        elif i % 3 == 1:
            console.send(b"cat\nsome input\n")
            console.until(b"some input")
        else:
            console.send(b"echo half a line")
        console.close()
    console = guest.console()
    assert console.run("echo fresh") == "fresh\r\n"
    console.close()
    while b"console" in guest.run("ps").stdout:
        pass
    assert guest.memory_used() <= before


def test_output_that_nobody_reads_does_not_hold_up_others(guest: Guest, console: Console) -> None:
    blob = guest.root / "blob"
    blob.write_bytes(b"0123456789abcdef" * (1 << 16))
    console.send(b"cat guest:/blob | hexdump\n")
    console.until(b"hexdump\r\n")
    # The socket is full long before the end, and the command waits; nobody else does.
    for _ in range(20):
        assert guest.run("echo", "others").stdout == b"others\n"
    out = console.until(b"\r\n" + PROMPT)
    assert out.count(b"\r\n") == 1 << 16


def test_redirection(guest: Guest, console: Console) -> None:
    assert console.run("echo one > guest:/file; echo two >> guest:/file") == ""
    assert (guest.root / "file").read_bytes() == b"one\ntwo\n"
    assert console.run("cat < guest:/file") == "one\r\ntwo\r\n"
    assert console.run("cat < guest:/file | hexdump > 'guest:/dump'; cat guest:/dump").startswith(
        "00000000  6f 6e 65"
    )
    assert console.run("echo three > guest:/file; cat guest:/file") == "three\r\n"
    assert "guest:/no/such: no such file" in console.run("echo x > guest:/no/such")
    assert "guest:/missing: no such file" in console.run("cat < guest:/missing")
