# SPDX-License-Identifier: BSD-3-Clause
"""Entry point of `uioctl`: takes the global options off, sends `exec` its short way and the rest through typer."""

from __future__ import annotations

import sys

from uiod.ctl import errors
from uiod.ctl.settings import settings, take_globals


def main(argv: list[str] | None = None) -> int:
    """Run one command line; the exit status."""
    given = sys.argv[1:] if argv is None else argv
    try:
        rest = take_globals(given)
        if settings.host is not None and rest:
            from uiod.ctl import remote  # noqa: PLC0415 (each branch imports what it needs and no more)

            if remote.is_for(rest):
                return remote.run(settings.host, rest)
        if rest[:1] == ["exec"]:
            from uiod.ctl import exec_args  # noqa: PLC0415

            args = exec_args.parse(rest[1:])
            if args is not None:
                from uiod.ctl import exec_session  # noqa: PLC0415

                args.json = args.json or settings.json
                return exec_session.run(args)
        from uiod.ctl.app import run  # noqa: PLC0415

        return run(rest)
    except BaseException as error:
        words = errors.in_words(error)
        if words is None:
            raise
        message, hint, status = words
        if message:
            errors.show(message, hint)
        return status


if __name__ == "__main__":
    sys.exit(main())
