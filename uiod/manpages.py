# SPDX-License-Identifier: BSD-3-Clause
"""Manual pages, made of what the programs themselves know: `python -m uiod.manpages DIRECTORY`.

uiod(1) comes from its argument parser, uioctl(1) from its commands, uio.cfg(5) from the rows of `configref`. The output
is roff with the `man` macros.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uiod import __version__, configref
from uiod.errors import EXIT_MEANINGS

FILES = (
    ("/etc/uio/NAME.cfg", "what uiod@NAME.service runs; see uio.cfg(5)"),
    ("/etc/uio/keys/", "public keys whose overlays are trusted, if the configuration says so"),
    ("/run/uio/NAME/", "sockets, state.json, the serial console's log; $XDG_RUNTIME_DIR/uio for others than root"),
    ("/var/lib/uio/", "home of what guests write"),
)  # fmt: skip
ENVIRONMENT = (
    ("UIO_RUNTIME_DIR", "in place of /run/uio"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "as systemd sets them: readiness, and signs of life"),
)
EXEC_STATUSES = (
    ("0-123, 128-255", "the command's own"),
    ("124", "timed out"),
    ("125", "an error of uIO or of the connection"),
    ("126", "refused: signature, policy, or it does not link"),
    ("127", "not found"),
    ("130", "interrupted"),
    ("139", "the overlay faulted; its record is on standard error"),
)


def text(words: str) -> str:
    """Text as roff: nothing in it is an instruction, `code` is bold, *emphasis* is italic."""
    words = words.replace("\\", "\\e").replace("-", "\\-")
    words = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", words)
    words = re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"\\fI\1\\fR", words)
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in words.split("\n")
    )


def page(name: str, section: int, about: str) -> list[str]:
    """The beginning of every page."""
    return [
        '.\\" SPDX-License-Identifier: BSD-3-Clause',
        f'.TH {name.upper()} {section} "" "uIO {__version__}" "uIO"',
        ".SH NAME",
        f"{text(name)} \\- {text(about)}",
    ]


def rows(pairs: Any) -> Iterator[str]:
    """Terms and what they mean."""
    for term, meaning in pairs:
        yield ".TP"
        yield f".B {text(term)}"
        yield text(meaning)


def literal(lines: str) -> list[str]:
    """As it stands."""
    return [".PP", ".nf", ".RS", text(lines), ".RE", ".fi"]


def _of_action(action: argparse.Action) -> tuple[str, str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        names += f" {action.metavar or action.dest.upper()}"
    return names, action.help or ""


def uiod() -> str:
    """uiod(1)."""
    from uiod.main import _parser  # noqa: PLC0415
    from uiod.run import _parser as run_parser  # noqa: PLC0415

    parser = _parser()
    lines = page("uiod", 1, "run a unikernel and everything around it")
    lines += [".SH SYNOPSIS", ".B uiod", ".I COMMAND", "[options]", ".SH DESCRIPTION"]
    lines.append(text(parser.description or ""))
    lines.append(
        text("It starts QEMU or adopts the one that a daemon before it left, serves the guest's files and console, "
             "loads overlays, and is what uioctl(1) talks to. The daemon may end at any moment without the VM.")
    )  # fmt: skip
    lines.append(".SH COMMANDS")
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, made in commands.choices.items():
        sub = run_parser() if name == "run" else made
        usage = sub.format_usage().removeprefix("usage: ").strip()
        lines += [".SS " + text(" ".join(usage.split())), text(sub.description or "")]
        lines += rows(_of_action(a) for a in sub._actions if a.dest != "help")
    lines += [".SH SIGNALS"]
    signals = re.findall(r"^  ([A-Z0-9, ]+?)  +(.*)$", parser.epilog or "", re.MULTILINE)
    lines += rows((name, what) for name, what in signals if not name.isdigit())
    lines += [".SH EXIT STATUS", *rows((str(int(s)), t) for s, t in EXIT_MEANINGS.items())]
    lines += [".SH FILES", *rows(FILES), ".SH ENVIRONMENT", *rows(ENVIRONMENT)]
    lines += [".SH SEE ALSO", text("uioctl(1), uio.cfg(5), qemu(1), systemd.service(5)")]
    return "\n".join(lines) + "\n"


def _help(words: str | None) -> Iterator[str]:
    """A command's help, whose examples stand behind click's mark."""
    for block in (words or "").split("\n\n"):
        if block.startswith("\b\n"):
            yield from literal(block.removeprefix("\b\n"))
        else:
            yield from (".PP", text(" ".join(block.split())))


def _parameters(command: Any) -> Iterator[tuple[str, str]]:
    import typer  # noqa: PLC0415

    context = typer.Context(command)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            yield re.sub(r" <[^>]*>$", "", record[0]), record[1]


def _usage(command: Any, path: str) -> str:
    import typer  # noqa: PLC0415

    pieces = command.collect_usage_pieces(typer.Context(command))
    return " ".join([path, *pieces])


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        import typer  # noqa: PLC0415

        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), f"{path} {name}")
        return
    yield ".SS " + text(_usage(command, path))
    yield from _help(command.help)
    yield from rows(_parameters(command))


def uioctl() -> str:
    """uioctl(1)."""
    import typer  # noqa: PLC0415

    from uiod.ctl.app import app, build  # noqa: PLC0415
    from uiod.ctl.commands import COMMANDS  # noqa: PLC0415

    top = typer.main.get_command(app)
    lines = page("uioctl", 1, "work with running unikernels")
    lines += [".SH SYNOPSIS", ".B uioctl", "[options]", ".I COMMAND", "[arguments]"]
    lines += [".SH DESCRIPTION", *_help(top.help), ".SH OPTIONS", *rows(_parameters(top))]
    for section in dict.fromkeys(command.section for command in COMMANDS):
        lines.append(f".SH COMMANDS: {section.upper()}")
        for command in COMMANDS:
            if command.section == section:
                lines += _commands(build(command), f"uioctl {command.name}")
    lines += [".SH EXIT STATUS", "Of", ".BR exec :", *rows(EXEC_STATUSES)]
    lines += [".SH FILES", *rows(FILES), ".SH ENVIRONMENT", *rows(ENVIRONMENT[:1])]
    lines += [".SH SEE ALSO", text("uiod(1), uio.cfg(5)")]
    return "\n".join(lines) + "\n"


def cfg() -> str:
    """uio.cfg(5)."""
    lines = page("uio.cfg", 5, "configuration of a VM")
    lines += [".SH DESCRIPTION", text(configref.INTRODUCTION)]
    for table, about in configref.TABLES.items():
        lines += [f".SH {text(configref.heading(table))}", text(about)]
        lines += rows((f"{k.name} = {k.kind}", f"{k.text} Default: {k.default}.") if k.default != "must be given"
                      else (f"{k.name} = {k.kind}", f"{k.text} Must be given.")
                      for k in configref.keys(table))  # fmt: skip
    lines += [".SH EXAMPLE", *literal(EXAMPLE)]
    lines += [".SH SEE ALSO", text("uiod(1), uioctl(1)")]
    return "\n".join(lines) + "\n"


EXAMPLE = """\
[vm]
kernel = "/srv/web/nginx_qemu-x86_64"
symbols = "/srv/web/nginx_qemu-x86_64.dbg"
memory = "128M"

[[net]]
kind = "user"
forward = ["tcp:127.0.0.1:8080-:80"]

[uio]
overlays = ["/usr/lib/uio/overlays"]
exchange = "/var/lib/uio/web"

[trust]
keys = ["/etc/uio/keys"]

[limits]
memory = "192M"
pids = 64"""

PAGES = {"uiod.1": uiod, "uioctl.1": uioctl, "uio.cfg.5": cfg}


def main(argv: list[str]) -> int:
    """Write all pages."""
    if len(argv) != 1:
        print("usage: python -m uiod.manpages DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(argv[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, made in PAGES.items():
        (directory / name).write_text(made())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
