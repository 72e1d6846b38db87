# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl exec` as typer sees it: help, completion and errors. `exec_args` has the quick way round it."""

from __future__ import annotations

from typing import Annotated

import typer

from uiod.ctl.completion import complete_command
from uiod.ctl.exec_args import ExecArgs
from uiod.ctl.options import Json, VmName
from uiod.ctl.settings import settings


def exec_(
    vm: VmName,
    argv: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND",
            help="A builtin or an overlay, and its arguments.",
            autocompletion=complete_command,
        ),
    ],
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Send standard input to the command.")
    ] = False,
    tty: Annotated[
        bool | None,
        typer.Option(
            "-t/-T",
            "--tty/--no-tty",
            help="The command has a terminal, or none; else: if stdin and stdout are terminals. Implies -i.",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="With a terminal: send every key as it is typed.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "-e", "--env", metavar="NAME[=VALUE]", help="A variable; without a value: ours."
        ),
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="End the command after 30, 1.5s, 2m, 500ms.")
    ] = "",
    pull: Annotated[
        bool, typer.Option("--pull", help="Have the guest load and link the overlay by itself.")
    ] = False,
    json: Json = False,
) -> int:
    """Run a builtin or an overlay in a guest.

    The command's standard output and error are kept apart. Ctrl-C interrupts the command, and again
    ends it. With --json each line is {"stream", "data"} (or "base64" where it is no text), the last
    one {"exit"}.

    Exit status: the command's own; 124 timed out; 125 uIO failed; 126 refused (signature, policy, link); 127 not found;
    128+N ended by signal N; 139 the overlay faulted, with its record on standard error.

    \b
    Examples:
      uioctl exec web ls -l /bin
      uioctl exec --timeout 5s web hello world
      uioctl exec -i web cp - guest:/etc/motd < motd
      uioctl exec web sh -- -c 'x'          (all after COMMAND is the command's)
    """
    from uiod.ctl import exec_session  # noqa: PLC0415 (not for --help)

    args = ExecArgs(vm, argv[1:] if argv[:1] == ["--"] and len(argv) > 1 else argv)
    args.interactive, args.tty, args.raw, args.pull = interactive, tty, raw, pull
    args.env, args.timeout = env or [], timeout
    args.json = json or settings.json
    return exec_session.run(args)
