# SPDX-License-Identifier: BSD-3-Clause
"""Plain options are converted without pydantic, and to the same values and errors as typer's own way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer import core

from uiod.ctl import plain


def command(found: list[Any]) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    def one(
        words: Annotated[list[str], typer.Argument()],
        flag: bool = False,
        number: int = 3,
        pause: float = 1.0,
        few: Annotated[int, typer.Option(min=1)] = 1,
        path: Annotated[Path | None, typer.Option()] = None,
        maybe: Annotated[int | None, typer.Option()] = None,
        several: Annotated[list[int] | None, typer.Option()] = None,
    ) -> None:
        found.append((words, flag, number, pause, few, path, maybe, several))

    return typer.main.get_command(app)


LINES = [
    ["a", "b c", ""],
    ["--flag", "a"],
    ["--number", "7", "--pause", "2", "a"],
    ["--number", "-7", "--pause", "2.5", "a"],
    ["--number", "x", "a"],
    ["--number", "1.5", "a"],
    ["--number", "٣", "a"],
    ["--number", "99999999999999999999", "a"],
    ["--pause", "soon", "a"],
    ["--few", "0", "a"],
    ["--few", "2", "a"],
    ["--path", "/x", "a"],
    ["--maybe", "4", "a"],
    ["--maybe", "", "a"],
    ["--several", "1", "--several", "2", "a"],
    ["--several", "1", "--several", "y", "a"],
    [],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_values_and_errors_are_those_of_typer(
    line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> Any:
        found: list[Any] = []
        try:
            command(found).main(args=line, prog_name="x", standalone_mode=False)
        except Exception as error:
            return type(error).__name__, getattr(error, "format_message", error.__str__)()
        return [(value, type(value)) for value in found[0]]

    if hasattr(core, "build_runtime_param"):
        from typer import _coercion  # noqa: PLC0415 - not in every version

        monkeypatch.setattr(core, "build_runtime_param", _coercion.build_runtime_param)
    theirs = outcome()
    plain.install()
    assert outcome() == theirs


@pytest.mark.parametrize("line", [["ps"], ["stop", "--help"], ["logs", "nosuch"]], ids=" ".join)
def test_quick_commands_import_no_pydantic(tmp_path: Path, line: list[str]) -> None:
    code = (
        "import sys; from uiod.ctl.main import main\n"
        f"try: main(['--runtime-dir', {str(tmp_path)!r}, *{line!r}])\n"
        "finally: print('loaded', [m for m in sys.modules if m.startswith('pydantic')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "loaded []" in done.stdout, done.stdout + done.stderr
