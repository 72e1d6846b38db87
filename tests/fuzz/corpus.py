# SPDX-License-Identifier: BSD-3-Clause
"""Make the corpora that libuio's fuzz targets begin with: `python tests/fuzz/corpus.py DIRECTORY`.

Objects of the compilers that are there, in several styles; images that are right; servers that answer as they should;
and what long runs have found to lead further (seeds/, the fewest bytes for most of their coverage).
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SOURCES = {
    "tiny": "int main(void) { return 0; }",
    "calls": "int puts(const char *); int main(void) { return puts(\"x\"); }",
    "data": "extern int v; int a = 1, b[9], *p = &b[3]; const int c = 2; int main(void) "
    "{ return a + b[1] + *p + c + v; }",
    "common": "int x; long y[100] __attribute__((common)); int main(void) { return x + (int)y[5]; }",
    "init": "int n; __attribute__((constructor(200))) void a(void) { n = 1; } __attribute__((destructor)) void b(void) "
    "{ n = 2; } int main(void) { return n; }",
    "weak": "int f(void) __attribute__((weak)); int main(void) { return f ? f() : 0; }",
    "table": "int f(int); int g(int); int (*const t[])(int) = {f, g}; int main(int c, char **v) { switch (c) { case 1: "
    "return f(1); case 2: return g(2); case 3: return 9; case 4: return t[c](1); case 5: return 6; } "
    "return (int)(long)v; }",
}  # fmt: skip
STYLES = {
    "static": ["-fno-pic", "-O2"],
    "pic": ["-fPIC", "-O1"],
    "large": ["-mcmodel=large", "-fno-pic", "-O0"],
    "sections": ["-fno-pic", "-Os", "-ffunction-sections", "-fdata-sections"],
}
POLICY = struct.pack("<IIIIQQ", 1, 0, 0, 0, 0, 0)
# What fuzz_port.c says of its kernel.
BUILD_ID = bytes(range(1, 20)) + b"\0"
PUSH_BASE, TEXT = 0x60800000, 0x400000


def objects(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in SOURCES.items():
            source = Path(scratch) / f"{name}.c"
            source.write_text(text)
            for compiler in ("gcc", "clang-14"):
                if not shutil.which(compiler):
                    continue
                for style, flags in STYLES.items():
                    subprocess.run(
                        [compiler, *flags, "-w", "-fno-asynchronous-unwind-tables", "-c", source,
                         "-o", directory / f"{name}-{style}-{compiler}"],
                        check=True,
                    )  # fmt: skip


def image(code: int, data: int, bss: int, imports: int, calls: int) -> bytes:
    """A linked image: code, constants with the GOT, data."""
    page = 4096

    def pages(n: int) -> int:
        return (n + page - 1) // page * page

    got = 8 * imports + 16
    segments = [(0, code, code, 5), (pages(code), got, got, 1)]
    if data + bss:
        segments.append((pages(code) + pages(got), data, data + bss, 3))
    size = segments[-1][0] + pages(segments[-1][2])
    return b"".join(
        [
            struct.pack("<8s32s20sIQQ", b"\0uIOIMG1", bytes(range(32)), BUILD_ID, size, PUSH_BASE, PUSH_BASE + 4),
            struct.pack("<IIII64s", len(segments), imports, calls, calls, b"fuzz"),
            POLICY,
            *(struct.pack("<IIII", *s) for s in segments),
            *(struct.pack("<QII", TEXT + 16 * i, pages(code) + 8 * i, 1 + i % 2) for i in range(imports)),
            *(struct.pack("<Q", PUSH_BASE + i % code) for i in range(2 * calls)),
            *(bytes(s[1]) for s in segments),
            b"\x40",
        ]
    )  # fmt: skip


def images(directory: Path) -> None:
    for i, shape in enumerate(
        [(16, 0, 0, 0, 0), (100, 8, 0, 3, 1), (5000, 9, 9000, 2, 0), (64, 0, 1 << 20, 1, 2)]
    ):
        (directory / str(i)).write_bytes(image(*shape))


def servers(directory: Path) -> None:
    for i in range(60):
        r = random.Random(i)
        # Mostly answers as they should be, for longer and longer.
        data = bytes(
            r.choice((0, 1, 2, 3, 4, 5, 6, 7, r.randrange(160), r.randrange(256)))
            for _ in range(20 + 10 * i)
        )
        (directory / str(i)).write_bytes(data)  # fmt: skip
    for i in range(20):
        r = random.Random(i)
        # Ones open a file and read it again and again; in between, replies that are put aside and come later.
        data = bytes(
            1 if r.randrange(2 + i) else r.choice((7, 130, 165, 172, 254)) for _ in range(300)
        )
        (directory / f"reader-{i}").write_bytes(data)  # fmt: skip


def main() -> None:
    top = Path(sys.argv[1])
    for name, make in {"loader": objects, "image": images, "ninep": servers}.items():
        (top / name).mkdir(parents=True, exist_ok=True)
        make(top / name)
        for seed in sorted((Path(__file__).parent / "seeds" / name).iterdir()):
            shutil.copyfile(seed, top / name / seed.name)


if __name__ == "__main__":
    main()
