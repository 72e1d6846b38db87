# SPDX-License-Identifier: BSD-3-Clause
"""The command `uiod`. Whatever a subcommand needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from uiod import __version__
from uiod.errors import EXIT_MEANINGS, ExitStatus, UiodError


def _start(arguments: argparse.Namespace) -> int:
    import logging  # noqa: PLC0415

    from uiod import config  # noqa: PLC0415
    from uiod.paths import runtime_root  # noqa: PLC0415

    settings = config.load(arguments.config)
    logging.basicConfig(
        level=logging.DEBUG
        if arguments.verbose
        else logging.WARNING
        if arguments.quiet
        else logging.INFO,
        format="uiod: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("qemu").setLevel(logging.CRITICAL)  # what matters of it is raised, too
    from uiod import slim  # noqa: PLC0415

    slim.without_openssl()
    import trio  # noqa: PLC0415

    from uiod.api import serve  # noqa: PLC0415
    from uiod.supervisor import Supervisor  # noqa: PLC0415

    supervisor = Supervisor(settings, runtime_root(arguments.runtime_dir))
    return int(trio.run(supervisor.run, serve))


def _check(arguments: argparse.Namespace) -> int:
    import shlex  # noqa: PLC0415

    from uiod import config, placement, qemu  # noqa: PLC0415
    from uiod.paths import RuntimeDir, runtime_root  # noqa: PLC0415

    settings = config.load(arguments.config)
    run = RuntimeDir(runtime_root(arguments.runtime_dir) / settings.name)
    placement.check_sockets(run)
    accel = settings.vm.accel if settings.vm.accel != "auto" else "kvm"
    lines = [shlex.quote(settings.vm.qemu)]
    lines += [" ".join(map(shlex.quote, option)) for option in qemu.options(settings, run, accel)]
    print(" \\\n  ".join(lines))
    if settings.vm.accel == "auto":
        print(
            'accel is "auto": with tcg in place of kvm where KVM does not run guests',
            file=sys.stderr,
        )
    return ExitStatus.OK


def _schema(_arguments: argparse.Namespace) -> int:
    import json  # noqa: PLC0415

    from uiod import config  # noqa: PLC0415

    print(json.dumps(config.schema(), indent=2))
    return ExitStatus.OK


def _version(_arguments: argparse.Namespace) -> int:
    print(f"uiod {__version__}")
    return ExitStatus.OK


def _run(_arguments: argparse.Namespace) -> int:
    raise UiodError("`uiod run` comes first on the command line", status=ExitStatus.USAGE)


def _parser() -> argparse.ArgumentParser:
    statuses = "\n".join(f"  {status.value}  {text}" for status, text in EXIT_MEANINGS.items())
    parser = argparse.ArgumentParser(
        prog="uiod",
        description="Run a unikernel and everything around it: one daemon per VM, in the foreground.",
        epilog=f"signals:\n"
        "  TERM, INT  stop the VM, gracefully, and end; a second one kills it\n"
        "  HUP        read the configuration again and take over what can change\n"
        "  USR1       end and leave the VM running; the next `uiod start` adopts it\n\n"
        f"exit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"uiod {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    def on_config(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("config", metavar="CFG", type=Path, help="the configuration, a TOML file")
        made.add_argument(
            "--runtime-dir",
            type=Path,
            metavar="DIR",
            help="where sockets and state are (default: $UIO_RUNTIME_DIR, /run/uio, $XDG_RUNTIME_DIR/uio)",
        )
        return made

    start = on_config(
        command("start", _start, "run a VM until it ends; adopts one that is running already")
    )
    start.add_argument("-v", "--verbose", action="store_true", help="say everything that happens")
    start.add_argument("-q", "--quiet", action="store_true", help="say warnings only")
    on_config(command("check", _check, "check a configuration and print QEMU's command line"))
    command("run", _run, "boot a VM, run commands in it, stop it; for CI (`uiod run --help`)")
    command("schema", _schema, "print the JSON schema of configurations")
    command("version", _version, "print the version")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        from uiod.run import main as run  # noqa: PLC0415

        return run(words[1:])  # it has options and a `--` of its own
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except UiodError as error:
        for line in str(error).splitlines():
            print(f"uiod: {line}", file=sys.stderr)
        return int(error.status)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
