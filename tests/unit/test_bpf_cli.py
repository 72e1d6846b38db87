# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl bpf build | verify | inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from overlays.bpf.cli import app

EXAMPLE = Path(__file__).resolve().parents[1] / "bpf/programs/everything.bpf.c"
BAD = "#include <uio/bpf.h>\nUIO_EXEC int bad(struct uio_ctx *c)\n{\n\treturn *(int *)(c->args[0]);\n}\n"


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_build_then_verify(tmp_path: Path) -> None:
    output = tmp_path / "out.o"
    assert run("build", EXAMPLE, "-o", output) == (0, "", "")
    code, text, _ = run("verify", output)
    assert code == 0
    assert text.splitlines()[0].startswith("count_entries: accepted after ")


def test_refusals_are_exit_status_1(tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(BAD)
    code, text, _ = run("verify", source)
    assert code == 1
    assert f"({source}:4)" in text and "which is a number and no pointer" in text
    code, text, _ = run("verify", source, "--json")
    (report,) = json.loads(text)
    assert (code, report["accepted"], report["line"]) == (1, False, f"{source}:4")


def test_inspect() -> None:
    code, text, _ = run("inspect", EXAMPLE)
    assert code == 0
    assert "map events: ringbuf, 0 -> 0 bytes, 4096 entries" in text
    assert "program tick: timer:10ms, " in text
    assert "map .rodata: array, 4 -> 45 bytes, 1 entries, read-only" in text
    code, text, _ = run("inspect", EXAMPLE, "--dump")
    assert "call map_lookup_elem" in text and re.search(r"; \d+: s->hits\+\+;", text)
    described = json.loads(run("inspect", EXAMPLE, "--json")[1])
    assert [p["attach"] for p in described["programs"]][:2] == ["entry:set_count"] * 2


@pytest.mark.parametrize(
    ("command", "said"), [("verify", "cannot read"), ("inspect", "cannot read")]
)
def test_what_is_not_there(command: str, said: str, tmp_path: Path) -> None:
    code, text, errors = run(command, tmp_path / "none.o")
    assert (code, text) == (1, "") and said in errors


def test_what_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(b"\x7fELF but no more")
    code, _, errors = run("inspect", path)
    assert code == 1 and "damaged" in errors
