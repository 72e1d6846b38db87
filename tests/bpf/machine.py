# SPDX-License-Identifier: BSD-3-Clause
"""Build and drive `bpf-run`, libuio's eBPF machine as a Linux program with sanitizers, and read conformance files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from overlays.bpf import asm, isa
from overlays.bpf.isa import Insn

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "unikraft_patches/libuio/core"
DATA = Path(__file__).parent / "data"
BUILD = ROOT / "build/bpf"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
INCLUDES = [f"-I{CORE}", f"-I{CORE.parent / 'include'}"]


def sources() -> list[str]:
    """The machine's files; bpf_attach*.c and the like need a guest and are not part of it."""
    names = ("vm", "check", "map", "hash", "ring", "helpers", "print", "object")
    return [str(CORE / f"bpf_{name}.c") for name in names]


def _newer(output: Path, inputs: Sequence[str]) -> bool:
    if not output.exists():
        return False
    headers = [str(path) for path in CORE.glob("bpf*.h")]
    made = output.stat().st_mtime_ns
    return all(Path(path).stat().st_mtime_ns < made for path in [*inputs, *headers])


def build(name: str, source: str, compiler: str, flags: Sequence[str]) -> Path:
    """Compile one C program of tests/bpf with the machine, unless that is done already."""
    output = BUILD / name
    inputs = [str(Path(__file__).parent / source), *sources()]
    if not _newer(output, inputs):
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".new")
        command = [compiler, *WARNINGS, *flags, *INCLUDES, *inputs, "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        partial.rename(output)
    return output


def build_runner() -> Path:
    compiler = "gcc-12" if shutil.which("gcc-12") else "gcc"
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    return build("bpf-run", "bpf_run.c", compiler, sanitizers)


class Case:
    """A file of tests/bpf/data, or of the public suite."""

    def __init__(self, text: str) -> None:
        self.sections: dict[str, str] = defaultdict(str)
        current = ""
        for line in text.splitlines():
            line = line.split("#")[0].rstrip()
            if line.startswith("--"):
                current = line[2:].strip()
                self.sections[current] = ""
            elif current:
                self.sections[current] += line + "\n"

    @property
    def insns(self) -> list[Insn]:
        if "raw" in self.sections:
            words = self.sections["raw"].split()
            return isa.decode(b"".join(int(word, 0).to_bytes(8, "little") for word in words))
        return asm.assemble(self.sections["asm"])

    @property
    def memory(self) -> bytes:
        return bytes.fromhex(self.sections["mem"]) if "mem" in self.sections else b""

    @property
    def result(self) -> int | None:
        return int(self.sections["result"], 0) if "result" in self.sections else None

    @property
    def error(self) -> str | None:
        return self.sections["error"].strip() if "error" in self.sections else None


def run_plugin(runner: Path, case: Case) -> tuple[int | None, str]:
    """Run a case as the public suite runs its plug-ins: (r0, what was said on standard error)."""
    done = subprocess.run(
        [str(runner), case.memory.hex(" ")],
        input=isa.encode(case.insns).hex(" "),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return (int(done.stdout, 16) if done.returncode == 0 else None), done.stderr.strip()


class Machine:
    """A `bpf-run --serve`: one command, one answer."""

    def __init__(self, runner: Path) -> None:
        self.process = subprocess.Popen(
            [str(runner), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _, stderr = self.process.communicate(timeout=30)
        if kind is None:
            assert self.process.returncode == 0, stderr

    def ask(self, *words: object) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            _, stderr = self.process.communicate(timeout=30)
            raise AssertionError(f"bpf-run ended: {stderr}")
        return json.loads(line)

    def load(self, data: bytes) -> Any:
        return self.ask("load", data.hex())

    def run(self, program: int = 0, ctx: bytes | None = None, *, rights: str = "ro") -> Any:
        return self.ask("run", program, rights, ctx.hex() if ctx is not None else "-")
