# SPDX-License-Identifier: BSD-3-Clause
"""The typer application: a group whose commands are imported when they are named, and not before.

Rich's help pages would take longer than everything else `uioctl --help` does, so they are off (rich_markup_mode=None).
"""

from __future__ import annotations

import difflib
import importlib
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from uiod.ctl import plain
from uiod.ctl.commands import BY_NAME, COMMANDS, Command
from uiod.ctl.errors import USAGE, CtlError

plain.install()

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def build(command: Command) -> Any:
    """The command as typer makes it of its function."""
    module = importlib.import_module(f"uiod.ctl.{command.module}")
    found = getattr(module, command.attribute)
    if isinstance(found, typer.Typer):
        built = typer.main.get_command(found)
    else:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        context = SETTINGS | {"allow_interspersed_args": not command.plain_arguments}
        single.command(command.name, context_settings=context)(found)
        built = typer.main.get_command(single)
    built.name = command.name
    return built


class LazyGroup(TyperGroup):
    """The rows of `COMMANDS` as a group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the table's order."""
        return [command.name for command in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one."""
        command = BY_NAME.get(cmd_name)
        return None if command is None else build(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is meant; an unknown one is an error with near names."""
        if args and args[0] not in BY_NAME and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], list(BY_NAME), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "uioctl --help lists them"
            raise CtlError(f"there is no command {args[0]!r}", hint, USAGE)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table for --help, without importing any command."""
        for section in dict.fromkeys(command.section for command in COMMANDS):
            with formatter.section(section):
                formatter.write_dl([(c.name, c.summary) for c in COMMANDS if c.section == section])


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings=SETTINGS,
    epilog="Examples:\n\n\b\n  uioctl ps\n  uioctl exec web ls /bin\n  uioctl -H root@server logs -f web",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"uioctl {version('uio')}")
        raise typer.Exit


@app.callback()
def _globals(
    host: Annotated[
        str | None,
        typer.Option(
            "-H", "--host", metavar="[USER@]HOST", help="Work on another machine, over ssh."
        ),
    ] = None,
    runtime_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where VMs are looked for ($UIO_RUNTIME_DIR; /run/uio for root)."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Work with running unikernels.

    Data goes to standard output, everything else to standard error.
    """
    # `take_globals` has taken them all by now; they are declared here for --help.


def run(argv: list[str]) -> int:
    """Run a command line; the exit status. Errors of commands come out as exceptions."""
    if "_UIOCTL_COMPLETE" in os.environ:
        from typer import completion  # noqa: PLC0415 (the shell asks)

        completion.completion_init()  # type: ignore[attr-defined]
    command = typer.main.get_command(app)
    try:
        result = command.main(args=argv, prog_name="uioctl", standalone_mode=False)
    except typer.Exit as done:
        return int(done.exit_code)
    except typer.Abort:
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # click's own errors: a usage line and what is wrong
        if show is None:
            raise
        show()
        return 125 if argv[:1] == ["exec"] else int(getattr(error, "exit_code", USAGE))
    return result if isinstance(result, int) else 0
