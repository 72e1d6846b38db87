# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl bpf build | verify | inspect`: what needs no running VM.

Results go to standard output, the rest to standard error. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from overlays.errors import OverlayError

app = typer.Typer(
    no_args_is_help=True,
    help="Build, check and read eBPF programs.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[
    Path, typer.Argument(help="A source (.c) or an object of clang's (.o).", show_default=False)
]


@app.callback()
def main() -> None:
    """Build, check and read eBPF programs."""


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OverlayError as error:
        print(f"uioctl: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command(epilog="Example: uioctl bpf build count.bpf.c -o count.o")
def build(
    source: Annotated[Path, typer.Argument(help="A C file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: the source's name, .o.")
    ] = None,
    flag: Annotated[
        list[str] | None,
        typer.Option("--flag", help="One more option for clang, e.g. --flag=-DX=1."),
    ] = None,
) -> None:
    """Compile a program with the flags and headers that it needs."""
    from overlays.bpf import compile as bpf_compile  # noqa: PLC0415

    target = output or source.with_name(source.name.removesuffix(".c").removesuffix(".bpf") + ".o")
    with _errors():
        said = bpf_compile.compile_source(source, target, flag or ())
    if said:
        print(said.rstrip(), file=sys.stderr)


@app.command(epilog="Example: uioctl bpf verify count.bpf.c")
def verify(
    file: File,
    limit: Annotated[
        int, typer.Option(help="Instructions to look at, over all paths of a program.", min=1)
    ] = 200_000,
    as_json: Json = False,
) -> None:
    """Prove that programs are safe, or say where they are not."""
    from overlays.bpf import compile as bpf_compile  # noqa: PLC0415
    from overlays.bpf import verifier  # noqa: PLC0415

    with _errors():
        reports = verifier.verify(bpf_compile.load(file), limit)
    if as_json:
        print(json.dumps([_report_json(report) for report in reports], indent=2))
    else:
        for report in reports:
            print(report)
    if not all(report.accepted for report in reports):
        raise typer.Exit(1)


def _report_json(report: Any) -> dict[str, Any]:
    return {
        "program": report.program,
        "accepted": report.accepted,
        "walked": report.walked,
        "reason": report.reason,
        "instruction": report.pc,
        "text": report.insn,
        "line": str(report.line) if report.line else None,
        "registers": report.registers,
    }


@app.command(epilog="Example: uioctl bpf inspect count.o --dump")
def inspect(
    file: File,
    dump: Annotated[bool, typer.Option("--dump", "-d", help="Show the instructions too.")] = False,
    as_json: Json = False,
) -> None:
    """List the programs and maps of a file."""
    from overlays.bpf import compile as bpf_compile  # noqa: PLC0415
    from overlays.bpf.describe import describe, listing  # noqa: PLC0415

    with _errors():
        obj = bpf_compile.load(file)
        described = describe(obj)
    if as_json:
        if dump:
            for program, entry in zip(obj.programs, described["programs"], strict=True):
                entry["listing"] = listing(program)
        print(json.dumps(described, indent=2))
        return
    for m in described["maps"]:
        size = f"{m['key_size']} -> {m['value_size']} bytes, {m['max_entries']} entries"
        print(f"map {m['name']}: {m['type']}, {size}{', read-only' if m['readonly'] else ''}")
    for program, entry in zip(obj.programs, described["programs"], strict=True):
        print(f"program {entry['name']}: {entry['attach']}, {entry['instructions']} instructions")
        if dump:
            print("\n".join(f"    {line}" for line in listing(program)))
