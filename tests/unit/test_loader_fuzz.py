# SPDX-License-Identifier: BSD-3-Clause
"""A fixed number of runs of libuio's fuzz targets (tests/fuzz), with ASan and UBSan.

By the hour: `make -C tests/fuzz run TARGET=loader DURATION=3600` (loader, image, ninep).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loader_tools import TOP, run

FUZZ = TOP / "tests" / "fuzz"
RUNS = {"loader": 20_000, "image": 100_000, "ninep": 10_000}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The targets and what they begin with."""
    if not shutil.which("clang-14"):
        pytest.fail("clang-14 is missing; run: apt-get install clang-14", pytrace=False)
    out = tmp_path_factory.mktemp("fuzz")
    run("make", "-s", "-C", FUZZ, f"O={out}")
    run(sys.executable, FUZZ / "corpus.py", out / "corpus")
    return out


FOUND = sorted((FUZZ / "found").glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_fuzzing_has_found(built: Path, path: Path) -> None:
    done = subprocess.run(
        [built / f"fuzz_{path.parent.name}", path], capture_output=True, text=True, errors="replace", check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("target", RUNS)
def test_fuzz(built: Path, tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        [
            built / f"fuzz_{target}", f"-runs={RUNS[target]}", "-seed=1", "-max_len=32768", "-timeout=10",
            "-rss_limit_mb=1024", f"-artifact_prefix={tmp_path}/", tmp_path, built / "corpus" / target,
        ],
        capture_output=True, text=True, errors="replace", check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\nDone " in done.stderr
