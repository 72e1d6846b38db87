# SPDX-License-Identifier: BSD-3-Clause
"""Run the public bpf_conformance suite on libuio's eBPF machine.

    python tests/bpf/conformance.py CHECKOUT

CHECKOUT is a clone of https://github.com/Alan-Jowett/bpf_conformance. Its files are read by our assembler; cases in
`tests/` must give their result, cases in `negative/` with bytes must be refused. The suite's own runner works too:
`bpf_conformance_runner --test_file_directory tests --plugin_path build/bpf/bpf-run --cpu_version v4`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from machine import Case, build_runner, run_plugin  # noqa: E402

from overlays.bpf import asm, isa  # noqa: E402


def result_case(runner: Path, path: Path) -> str:
    """Empty, or what went wrong."""
    case = Case(path.read_text())
    if case.result is None:
        return "it has no result"
    r0, said = run_plugin(runner, case)
    return "" if r0 == case.result else f"wanted {case.result:#x}, got {said or hex(r0 or 0)}"


def refused_case(runner: Path, path: Path) -> str:
    """The suite writes bytes, not words, in its negative cases."""
    code = bytes.fromhex(Case(path.read_text()).sections["raw"])
    done = subprocess.run(
        [str(runner)], input=code.hex(), capture_output=True, text=True, check=False
    )
    refused = done.returncode == 1 and done.stderr.startswith("test, instruction 0: ")
    return "" if refused else f"{asm.disassemble(isa.decode(code))} was not refused"


def main(checkout: Path) -> int:
    runner = build_runner()
    failed = 0
    for folder, what, check in (
        ("tests", "give their result", result_case),
        ("negative", "are refused", refused_case),
    ):
        paths = sorted((checkout / folder).glob("*.data" if folder == "tests" else "unused-*.data"))
        wrong = [(path.name, said) for path in paths if (said := check(runner, path))]
        for name, said in wrong:
            print(f"FAIL {folder}/{name}: {said}")
        print(f"{folder}: {len(paths) - len(wrong)} of {len(paths)} {what}")
        failed += len(wrong) + (not paths)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
