# SPDX-License-Identifier: BSD-3-Clause
"""One command builds an overlay in any language; the same input gives the same bytes; mistakes are told at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from overlay_tools import HELLO, RICH, SHIPPED, compile_kernel, make, private_key, trusting

from overlays import build, scan, sign
from overlays.errors import BuildError, OverlayError
from overlays.kernel import Kernel
from overlays.lines import ObjectLines


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernel(tmp_path_factory.mktemp("kernel") / "kernel")


HEADERS = '#include "x.h"\n#include <uio/uio.h>\n#include <assert.h>\n'
CXX = "#include <cstdio>\nstruct S { ~S() { std::puts(__FILE__); } };\nint main() { S s; return 0; }\n"
SOURCES = {
    "c": ("x.c", HEADERS + RICH.replace("initialised = 7", "initialised = SEVEN"), {}),
    "clang": ("x.c", RICH, {"compiler": "clang-14"}),
    "c++": ("x.cpp", CXX, {}),
    "assembler": ("x.S", ".globl main\nmain: xor %eax, %eax\nret\n.section .note.GNU-stack\n", {}),
    "rust": ("x.rs", '#![no_std]\n#[no_mangle] pub extern "C" fn main() -> i32 { 5 }\n', {}),
}  # fmt: skip


@pytest.mark.parametrize("language", SOURCES)
def test_the_same_input_gives_the_same_bytes_wherever_it_lies(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, text, options = SOURCES[language]
    if language == "rust" and not shutil.which("rustc"):
        pytest.skip("rustc is not installed")
    made = []
    for number, where in enumerate(("short", "a/much/longer/path with blanks")):
        directory = tmp_path / where
        directory.mkdir(parents=True)
        (directory / "x.h").write_text("#define SEVEN 7\n")
        (directory / name).write_text(text)
        os.utime(directory / name, (number * 10**6, number * 10**6))
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(number * 10**8))
        monkeypatch.setenv("TMPDIR", str(directory))
        monkeypatch.setenv("LANG", "de_DE.UTF-8" if number else "C")
        monkeypatch.chdir(directory if number else tmp_path)
        source = Path(name) if number else directory / name
        output = tmp_path / str(number) / "x.uio"
        built = build.build([source], output, key=private_key(), **options)
        made.append(output.read_bytes())
        assert built.overlay.data == made[-1]
    assert made[0] == made[1]
    for secret in (str(tmp_path).encode(), b"uio-build-", b"longer/path"):
        assert secret not in made[0]


@pytest.mark.parametrize("name", sorted(build.find_sources(SHIPPED)))
@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
def test_everything_shipped_builds_without_a_warning(
    tmp_path: Path, kernel: Path, name: str, compiler: str
) -> None:
    """Those that use libuio's API are not checked against the stand-in, which has none."""
    sources = build.find_sources(SHIPPED)[name]
    against = kernel if name in ("hello", "set_count") else None
    output = tmp_path / f"{name}.uio"
    built = build.build(sources, output, kernel=against, key=private_key(), compiler=compiler)
    assert sign.verify(output.read_bytes(), trusting(0)).ok
    assert not built.warnings and not built.compiler_output
    assert built.overlay.description
    assert f"| `{name}" in (SHIPPED.parents[1] / "docs" / "overlays.md").read_text()


def test_what_is_shipped() -> None:
    assert {"hello", "set_count", "top", "logcat", "peek"} <= build.find_sources(SHIPPED).keys()


def test_directories_of_sources(tmp_path: Path) -> None:
    for path in (
        "one.c",
        "two/helper.c",
        "two/two.c",
        "two/notes.txt",
        "three/main.cpp",
        "three/a.S",
        "README",
        "empty/x.txt",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    found = build.find_sources(tmp_path)
    assert {n: [p.name for p in ps] for n, ps in found.items()} == {
        "one": ["one.c"],
        "two": ["two.c", "helper.c"],
        "three": ["main.cpp", "a.S"],
    }
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.c").touch()
    with pytest.raises(BuildError, match="two overlays called one"):
        build.find_sources(tmp_path)


def test_a_compiler_error_is_shown_and_nothing_is_left(tmp_path: Path) -> None:
    output = tmp_path / "sample.uio"
    output.write_text("the old one")
    with pytest.raises(BuildError) as caught:
        make(tmp_path, "int main(void) { return nonsense; }")
    assert "gcc failed" in caught.value.message
    assert "sample.c:1:" in caught.value.message and "nonsense" in caught.value.message
    assert output.read_text() == "the old one"
    assert sorted(os.listdir(tmp_path)) == ["sample.c", "sample.uio"]


def test_warnings_of_the_compiler_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "sample.c"
    path.write_text("int main(void) { int unused; return 0; }")
    built = build.build([path], tmp_path / "sample.uio")
    assert "unused variable" in built.compiler_output


def test_a_forgotten_declaration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="implicit declaration"):
        make(tmp_path, "int main(void) { return helper(); }")


BAD_INPUT = {
    "nothing": ([], "nothing to build"),
    "a missing file": (["none.c"], "none.c: there is no such file"),
    "a directory": (["."], "no such file"),
    "an unknown language": (["x.py"], ".py is no language known here"),
    "a file without suffix": (["x"], "a file without suffix"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_wrong_input_is_refused(tmp_path: Path, case: str) -> None:
    names, message = BAD_INPUT[case]
    (tmp_path / "x.py").touch()
    (tmp_path / "x").touch()
    with pytest.raises(BuildError, match=message):
        build.build([tmp_path / n for n in names], tmp_path / "x.uio")


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="gcc-99 is not installed"):
        make(tmp_path, RICH, compiler="gcc-99")


def test_the_file_is_called_like_the_overlay(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text('// uio: name = "y"\nint main(void) { return 0; }')
    with pytest.raises(BuildError, match=r"must be y\.uio"):
        build.build([tmp_path / "x.c"], tmp_path / "x.uio")
    assert build.build([tmp_path / "x.c"], tmp_path / "y.uio").overlay.name == "y"


def test_the_key_is_read_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match="No such file"):
        make(tmp_path, RICH, key=tmp_path / "none.pem")
    assert not (tmp_path / "sample.uio").exists()


# Against a kernel.


def test_names_the_kernel_does_not_have(tmp_path: Path, kernel: Path) -> None:
    source = "extern void set_cuont(long);\nint main(void) { set_cuont(1); return 0; }"
    with pytest.raises(BuildError) as caught:
        make(tmp_path, source, kernel=kernel)
    assert "the kernel has no set_cuont" in caught.value.message
    assert caught.value.hint == "set_cuont: did you mean set_count?"


CALL = "int main(void) { return %s; }"
PAIR = "struct p { int a; %s b; }; "
#: what the overlay declares, how it uses it, and part of the message
MISMATCHES = {
    "a narrower parameter": (
        "void set_count(int);",
        "set_count(1), 0",
        "set_count: declared as `void set_count(int)`, but the kernel has `void set_count(long int)`",
    ),
    "a missing parameter": ("long add(long);", "add(1)", "`long int add(long int, long int)`"),
    "one too many": ("void set_count(long, int);", "set_count(1, 2), 0", "set_count("),
    "the result": ("int add(long, long);", "add(1, 2)", "declared as `int add("),
    "a result where there is none": ("int set_count(long);", "set_count(1)", "`int set_count("),
    "a float": ("float halve(float, int);", "halve(1, 0)", "`double halve(double, enum mode)`"),
    "an integer for a double": ("long halve(long, int);", "halve(1, 0)", "halve("),
    "varargs": ("int sum(int, int);", "sum(1, 2)", "`int sum(int, ...)`"),
    "a structure by value": (
        PAIR % "long" + "struct p twice(struct p); struct p p;",
        "twice(p).a",
        "twice(",
    ),
    "a small structure": (
        PAIR % "int" + "struct p twice(const struct p *); struct p p;",
        "twice(&p).a",
        "twice(",
    ),
    "a variable's size": (
        "extern int counter;",
        "counter",
        "declared as `int counter`, but the kernel has `long int counter`",
    ),
    "a pointer for an array": ("extern int *table;", "*table", "`int[4] table`"),
    "an array's size": (
        "extern int table[8]; extern long counter;",
        "table[counter]",
        "`int[8] table`",
    ),
}


def mismatch(case: str) -> str:
    declaration, use, _ = MISMATCHES[case]
    return f"{declaration}\n{CALL % use}\n"


@pytest.mark.parametrize("case", MISMATCHES)
def test_declarations_that_differ_from_the_kernels(tmp_path: Path, kernel: Path, case: str) -> None:
    message = MISMATCHES[case][2]
    with pytest.raises(BuildError) as caught:
        make(tmp_path, mismatch(case), kernel=kernel)
    assert "declarations differ" in caught.value.message
    assert message in caught.value.message
    if "(" in message:
        assert "overlay_kernel.c:" in caught.value.message


def test_clangs_declarations_are_compared_too(tmp_path: Path, kernel: Path) -> None:
    with pytest.raises(BuildError, match="declarations differ"):
        make(tmp_path, mismatch("a narrower parameter"), kernel=kernel, compiler="clang-14")


def test_declarations_that_fit(tmp_path: Path, kernel: Path) -> None:
    source = """
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    typedef unsigned long number;
    struct other { int x; long y; };
    extern number counter;
    extern int table[];
    extern const void *banner;
    extern number add(number, number);
    extern struct other twice(struct other *);
    extern int apply(void *, unsigned);
    extern double halve(const double, int);
    extern int sum(int, ...);
    extern void set_count();
    int main(int argc, char **argv)
    {
        struct other o = {argc, argc};
        set_count(1L);
        qsort(argv, 0, 8, (void *)strcmp);
        fprintf(stderr, "%p", banner);
        return counter + table[argc] + add(1, 2) + twice(&o).x + apply(main, 1) + halve(1, 1) + sum(1, 2);
    }
    """
    overlay = make(tmp_path, source, kernel=kernel)
    assert "set_count" in overlay.manifest.imports


def test_a_kernel_without_debugging_information_still_checks_names(
    tmp_path: Path, kernel: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["objcopy", "--strip-debug", str(kernel), str(bare)], check=True)
    make(tmp_path, mismatch("a narrower parameter"), kernel=bare)
    with pytest.raises(BuildError, match="has no set_cuont"):
        make(
            tmp_path, "void set_cuont(int); int main(void) { set_cuont(1); return 0; }", kernel=bare
        )
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(kernel)], check=True)
    with pytest.raises(OverlayError, match="has no symbols"):
        make(tmp_path, RICH, kernel=stripped)


# Debugging information.


def test_source_lines_are_known_for_every_section(tmp_path: Path) -> None:
    source = """int f(int x)
{
    return x + 1;
}

int main(int argc, char **argv)
{
    (void)argv;
    return f(argc);
}
"""
    overlay = make(tmp_path, source, flags=["-O0"])
    lines = ObjectLines(overlay.elf)
    places = {}
    for symbol in overlay.object.symbols:
        if symbol.type == 2:
            places[symbol.name] = lines.find(symbol.shndx, symbol.value)
    assert places == {"f": "sample.c:2", "main": "sample.c:7"}
    main = next(s for s in overlay.object.symbols if s.name == "main")
    assert lines.find(main.shndx, main.value + main.size - 1) == "sample.c:10"


def test_debugging_information_can_be_split_off(tmp_path: Path) -> None:
    whole = make(tmp_path, RICH)
    debug = tmp_path / "sample.debug"
    small = make(tmp_path, RICH, split_debug=debug)
    assert len(small.data) < len(whole.data) / 2
    assert not any(s.name.startswith(".debug") for s in small.object.sections)
    assert subprocess.run(["readelf", "-wi", str(debug)], capture_output=True, check=True).stdout
    assert scan.scan(small.elf) == []


def test_objects_made_elsewhere_are_taken(tmp_path: Path, kernel: Path) -> None:
    (tmp_path / "part.c").write_text(HELLO.read_text())
    subprocess.run(
        ["gcc", "-c", "-O1", "-fno-pic", "-fno-asynchronous-unwind-tables", "part.c"],
        cwd=tmp_path,
        check=True,
    )
    built = build.build([tmp_path / "part.o"], tmp_path / "part.uio", kernel=kernel)
    assert built.overlay.manifest.imports == ["printf", "puts"]


def test_unwind_tables_do_no_harm(tmp_path: Path, kernel: Path) -> None:
    """Objects made elsewhere usually have them."""
    overlay = make(tmp_path, RICH, flags=["-fasynchronous-unwind-tables"], kernel=kernel)
    assert Kernel.open(kernel).lookup("main")
    assert overlay.object.section(".eh_frame")
