# SPDX-License-Identifier: BSD-3-Clause
"""Objects as compilers make them, loaded and run by libuio's loader in a process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import loader_tools as t
import pytest
from loader_tools import FAULT, NOT_FOUND, OK, REFUSED, TIMEOUT, Harness
from overlay_tools import private_key

from overlays import build, link, sign
from overlays.kernel import Kernel
from overlays.overlay import Overlay

SOURCES = Path(__file__).parent / "loader"

COMPILERS = {
    "gcc -O0": ("gcc", "-O0"),
    "gcc -O2": ("gcc", "-O2"),
    "gcc -Os, a section each": ("gcc", "-Os", "-ffunction-sections", "-fdata-sections"),
    "gcc -O2 -fno-common": ("gcc", "-O2", "-fno-common"),
    "gcc -O2 -fPIC": ("gcc", "-O2", "-fPIC"),
    "gcc -O1 -fPIE -fno-plt": ("gcc", "-O1", "-fPIE", "-fno-plt"),
    "gcc -O2 -mcmodel=large": ("gcc", "-O2", "-mcmodel=large"),
    "clang -O0": ("clang-14", "-O0"),
    "clang -O2": ("clang-14", "-O2"),
    "clang -O2 -fPIC": ("clang-14", "-O2", "-fPIC"),
    "musl's headers": ("musl-gcc", "-O2"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return t.build_harness(tmp_path_factory.mktemp("harness"))


@pytest.fixture
def harness(program: Path) -> Iterator[Harness]:
    h = Harness(program)
    yield h
    h.close()


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    shutil.copy(SOURCES / "rich.c", tmp_path)
    return t.compile_c(tmp_path / "rich.c", "-O2")


def check_rich(harness: Harness, verb: str, path: Path) -> None:
    for _ in range(3):
        answer = harness(verb, path, "argument")
        assert answer["out"] == "all right\n.", answer
        assert (answer["kind"], answer["status"], answer["err"]) == (OK, 42, "0 failures\n")


@pytest.mark.parametrize("how", COMPILERS)
def test_compilers(harness: Harness, tmp_path: Path, how: str) -> None:
    shutil.copy(SOURCES / "rich.c", tmp_path)
    compiler, *flags = COMPILERS[how]
    check_rich(harness, "pull", t.compile_c(tmp_path / "rich.c", *flags, compiler=compiler))
    state = harness.state()
    # Three runs, and the destructor at unloading.
    # Each run is a program of its own, constructed and destroyed.
    assert state["counter"] == 5 + 3 * 1001
    assert (state["pages"], state["blocks"], state["resident"]) == (0, 0, 0)


def test_several_files_in_one_object(harness: Harness, tmp_path: Path) -> None:
    a = t.write(
        tmp_path / "a.c", "int b(int); int shared; int main(void) { shared = 2; return b(3); }"
    )
    b = t.write(tmp_path / "b.c", "int shared; int b(int n) { return n * shared; }")
    out = tmp_path / "both.o"
    objects = [t.compile_c(source, "-O1", "-fcommon") for source in (a, b)]
    t.run("ld", "-r", "-o", out, *objects)
    answer = harness("pull", out)
    assert (answer["kind"], answer["status"]) == (OK, 6)


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-O2", "-fno-use-cxa-atexit")])
def test_cxx(harness: Harness, tmp_path: Path, flags: tuple[str, ...]) -> None:
    out = tmp_path / "objects.o"
    t.run(
        "g++", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", *t.OVERLAY_FLAGS, *flags,
        "-c", SOURCES / "objects.cc", "-o", out,
    )  # fmt: skip
    assert harness("pull", out)["out"] == "43 5 1\n"
    assert harness("pull", out)["out"] == "43 5 1\n"  # its variables begin anew
    state = harness.state()
    # Both static objects were destroyed, each time.
    assert state["counter"] == 5 + 2 * (100 + 10000)
    assert (state["pages"], state["blocks"]) == (0, 0)


@pytest.mark.skipif(not shutil.which("rustc"), reason="no Rust compiler")
@pytest.mark.parametrize("opt", ["0", "2"])
def test_rust(harness: Harness, tmp_path: Path, opt: str) -> None:
    library, out = tmp_path / "objects.a", tmp_path / "objects.o"
    t.run(
        "rustc", "--edition", "2021", "--crate-type", "staticlib", "-C", "panic=abort", "-C", f"opt-level={opt}",
        "-C", "relocation-model=static", "-C", "debuginfo=0", "-A", "static_mut_refs", "-o", library,
        SOURCES / "objects.rs",
    )  # fmt: skip
    # With the parts of core that it uses.
    t.run("ld", "-r", "-u", "main", "-e", "main", "--gc-sections", "-o", out, library)
    answer = harness("pull", out)
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 165, "blue\n"), answer[
        "message"
    ]
    answer = harness("pull", out, "two")
    assert (answer["kind"], answer["fault"]["kind"]) == (FAULT, 8)
    assert harness.state()["counter"] == 5 + 165 + 165


def test_loading_without_running(harness: Harness, rich: Path) -> None:
    assert harness("link", rich)["kind"] == OK
    state = harness.state()
    # Nothing has been constructed, so nothing is destroyed.
    assert (state["pages"], state["blocks"], state["counter"]) == (0, 0, 5)


def test_ten_thousand_loads_do_not_grow(harness: Harness, rich: Path) -> None:
    before = harness.state()
    answer = harness("loop", 10_000, rich, "argument")
    assert (answer["kind"], answer["status"]) == (OK, 42)
    after = harness.state()
    assert after["counter"] == 5 + 10_000 * 1001
    assert after["gone"] == 10_000
    assert (after["pages"], after["blocks"], after["bytes"]) == (0, 0, 0)
    assert before["pages"] == 0


def test_names_are_asked_for_once_per_load(harness: Harness, rich: Path) -> None:
    harness("pull", rich, "argument")
    harness("pull", rich, "argument")
    assert harness.state()["questions"] == 1


def test_a_changed_file_is_loaded_anew(harness: Harness, tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    for n in range(5):
        t.write(source, f"int main(void) {{ return {n}; }}")
        answer = harness("pull", t.compile_c(source))
        assert answer["status"] == n
    assert harness("tty")["resident"] == 1


def test_many_overlays_make_room_for_one_another(harness: Harness, tmp_path: Path) -> None:
    # 9 MiB each in an arena whose part for them is 32 MiB.
    names = []
    for n in range(6):
        source = t.write(
            tmp_path / f"big{n}.c",
            f"static char big[9 << 20]; int main(void) {{ big[5] += {n}; return big[5]; }}",
        )
        names.append(t.compile_c(source))
    for _ in range(2):
        for n, name in enumerate(names):
            answer = harness("pull", name)
            assert (answer["kind"], answer["status"]) == (OK, n), answer["message"]
    assert harness("tty")["resident"] < 4
    assert harness.state()["pages"] == 0


def test_link_errors_name_the_symbols(harness: Harness, tmp_path: Path) -> None:
    source = t.write(
        tmp_path / "x.c",
        "void no_such_function(void); extern int no_such_variable; int main(void) { no_such_function(); "
        "return no_such_variable; }",
    )
    answer = harness("pull", t.compile_c(source, "-O1"))
    assert answer["kind"] == REFUSED
    assert "no_such_function" in answer["message"]
    assert "no_such_variable" in answer["message"]
    assert harness.state()["blocks"] == 0


def test_thousands_of_names(harness: Harness, tmp_path: Path) -> None:
    """More than one frame has room for; the last one is there, so it is all about the weak ones."""
    names = [f"a_rather_long_name_of_a_function_that_no_kernel_has_{i:05}" for i in range(3000)]
    text = "".join(f"int {name}(void) __attribute__((weak));\n" for name in names)
    text += "int puts(const char *); int main(void) { int n = 0;\n"
    text += "".join(f"n += {name} != 0;\n" for name in names) + 'puts("x"); return n; }'
    answer = harness("pull", t.compile_c(t.write(tmp_path / "x.c", text), "-O1"))
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 0, "x\n"), answer
    assert harness.state()["questions"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int x;", "has no function main"),
        ("static int main(void) { return 1; } int (*p)(void) = main;", "has no function main"),
        ("int main = 5;", "main is no function"),
        ("_Thread_local int x; int main(void) { return x++; }", "thread-local"),
        ("_Alignas(8192) char x = 1; int main(void) { return x; }", "aligned to 0x2000"),
        ("void symbol_outside(void); int main(void) { symbol_outside(); }", "outside the kernel"),
        ('__attribute__((section(".text.x,\\"awx\\"#"))) int x = 1; int main(void) { return x; }', "writable and exec"),
    ],
)  # fmt: skip
def test_what_no_overlay_can_be(harness: Harness, tmp_path: Path, text: str, words: str) -> None:
    answer = harness("pull", t.compile_c(t.write(tmp_path / "x.c", text), "-O1", "-w"))
    assert answer["kind"] == REFUSED
    assert words in answer["message"]
    assert (harness.state()["pages"], harness.state()["blocks"]) == (0, 0)


def test_not_there(harness: Harness, tmp_path: Path) -> None:
    answer = harness("pull", tmp_path / "nothing")
    assert answer["kind"] == NOT_FOUND
    assert "no such command" in answer["message"]


def test_signature_blocks_are_passed_over(harness: Harness, rich: Path, tmp_path: Path) -> None:
    sign.sign_file(rich, private_key())
    check_rich(harness, "pull", rich)
    data = rich.read_bytes()
    # A block that speaks of another length, and one that is cut in front.
    (tmp_path / "longer.o").write_bytes(data[:-128] + b"x" + data[-128:])
    assert "of another file" in harness("pull", tmp_path / "longer.o")["message"]
    (tmp_path / "cut.o").write_bytes(data[-100:])
    assert "cut off" in harness("pull", tmp_path / "cut.o")["message"]


# ---- pushed images


def image(harness: Harness, program: Path, path: Path, offset: int = 0) -> bytes:
    """The image that the daemon would send."""
    base = harness("describe")["push_base"] + offset
    return link.link(Overlay.load(path), Kernel.open(program), slide=0, base=base)


PUSHED = r"""
#include <stdio.h>
// uio: name = "pushed"
extern long app_counter;
extern long app_sum(long a, long b, long c, long d, long e, long f, long g, long h);
static int twice(int x) { return 2 * x; }
static int (*const table[])(int) = {twice};
static int calls;
__attribute__((constructor)) static void first(void) { calls = 10; }
__attribute__((destructor)) static void last(void) { app_counter += 100; }
int main(int argc, char **argv)
{
    app_counter++;
    printf("%s %d %ld %d\n", argv[1], argc, app_sum(1, 2, 3, 4, 5, 6, 7, 8), table[0](++calls));
    return 9;
}
"""


@pytest.fixture
def pushed(harness: Harness, program: Path, tmp_path: Path) -> tuple[Path, bytes]:
    source = t.write(tmp_path / "pushed.c", PUSHED)
    out = tmp_path / "pushed.uio"
    build.build([source], out, kernel=None, key=None)
    path = tmp_path / "image"
    path.write_bytes(image(harness, program, out))
    return path, path.read_bytes()


def test_push(harness: Harness, pushed: tuple[Path, bytes]) -> None:
    answer = harness("push", pushed[0], "hello")
    assert (answer["kind"], answer["status"], answer["out"]) == (OK, 9, "hello 2 204 22\n"), answer
    # Pushed again, it is there already; and its address is taken for others.
    assert "resident already" in harness("push", pushed[0], "x")["message"]
    other = pushed[0].with_name("other")
    other.write_bytes(pushed[1][:8] + bytes(32) + pushed[1][40:])
    assert "in use" in harness("push", other)["message"]
    state = harness.state()
    assert (state["pages"], state["blocks"], state["counter"], state["gone"]) == (0, 0, 106, 1)
    assert harness("push", pushed[0], "again")["out"] == "again 2 204 22\n"


HEADER = {
    "magic": (0, 8), "hash": (8, 32), "build_id": (40, 20), "size": (60, 4), "base": (64, 8), "entry": (72, 8),
    "nseg": (80, 4), "nimport": (84, 4), "ninit": (88, 4), "nfini": (92, 4), "name": (96, 64), "policy": (160, 32),
    "offset0": (192, 4), "file_size0": (196, 4), "mem_size0": (200, 4), "prot0": (204, 4), "offset1": (208, 4),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("magic", 1, "no linked image"),
        ("build_id", 1, "another kernel"),
        ("size", 0, "multiple of a page"),
        ("size", 4097, "multiple of a page"),
        ("size", 1 << 31, "outside the arena"),
        ("base", 4096, "outside the arena"),
        ("base", (1 << 64) - 4096, "outside the arena"),
        ("base", 0x62000001, "multiple of a page"),
        ("base", 0x64000000 - 4096, "outside the arena"),
        ("entry", 0, "entry lies outside"),
        ("nseg", 0, "no segments"),
        ("nseg", 17, "no segments, or too many"),
        ("nimport", 1 << 30, "too many imports"),
        ("ninit", 1 << 30, "too many imports or constructors"),
        ("nfini", 0xFFFFFFFF, "too many imports or constructors"),
        ("name", 0, "name is malformed"),
        ("policy", 2, "policy"),
        ("offset0", 1, "do not begin at a page"),
        ("offset0", 0x80000000, "outside the image"),
        ("file_size0", 0xFFFFFFFF, "outside the image"),
        ("mem_size0", 0, "outside the image"),
        ("mem_size0", 0xFFFFFFFF, "outside the image"),
        ("mem_size0", 8192, "overlap"),
        ("prot0", 7, "rights that no segment"),
        ("prot0", 6, "rights that no segment"),
        ("prot0", 3, "entry lies outside"),
        ("offset1", 0, "overlap"),
    ],
)
def test_images_that_lie(
    harness: Harness, pushed: tuple[Path, bytes], field: str, value: int, words: str
) -> None:
    at, size = HEADER[field]
    bad = bytearray(pushed[1])
    bad[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    pushed[0].write_bytes(bad)
    answer = harness("push", pushed[0], "x")
    assert answer["kind"] == REFUSED, answer
    assert words in answer["message"]
    assert (harness.state()["pages"], harness.state()["blocks"]) == (0, 0)


@pytest.mark.parametrize("where", ["target", "slot", "kind"])
def test_imports_that_lie(harness: Harness, pushed: tuple[Path, bytes], where: str) -> None:
    """Every import in turn: a target outside the kernel, a slot outside the read-only part, an unknown kind."""
    nseg, nimport = (int.from_bytes(pushed[1][at : at + 4], "little") for at in (80, 84))
    assert nimport == 3
    offset, size, values = {
        "target": (0, 8, (0, 0x62000000, (1 << 64) - 1)),
        "slot": (8, 4, (0xFFFFFFF8, 1, 1 << 20)),
        "kind": (12, 4, (0, 3)),
    }[where]
    for i in range(nimport):
        for value in values:
            bad = bytearray(pushed[1])
            at = 192 + 16 * nseg + 16 * i + offset
            bad[at : at + size] = value.to_bytes(size, "little")
            pushed[0].write_bytes(bad)
            assert harness("push", pushed[0], "x")["kind"] == REFUSED
    assert (harness.state()["pages"], harness.state()["blocks"]) == (0, 0)


def test_images_of_the_wrong_length(harness: Harness, pushed: tuple[Path, bytes]) -> None:
    for size in (0, 1, 191, 192, 200, 240, len(pushed[1]) - 1):
        pushed[0].write_bytes(pushed[1][:size])
        assert "not complete" in harness("push", pushed[0], "x")["message"]
    pushed[0].write_bytes(pushed[1] + b"x")
    assert "longer" in harness("push", pushed[0], "x")["message"]
    assert (harness.state()["pages"], harness.state()["blocks"]) == (0, 0)


def test_policy_of_a_pulled_file(harness: Harness, tmp_path: Path) -> None:
    text = """
        // uio: name = "x"
        // uio: %s
        #include <stdio.h>
        #include <stdlib.h>
        static int deep(int n)
        {
            volatile char room[1024];
            room[0] = n;
            return n ? deep(n - 1) + room[0] : 0;
        }
        int main(int argc, char **argv)
        {
            if (argc == 3)
                return deep(atoi(argv[1])) != 0;
            if (argc == 2)
                for (;;)
                    ;
            puts(malloc(100000) ? "granted" : "denied");
        }"""

    def built(limit: str) -> Path:
        out = tmp_path / "x.uio"
        build.build([t.write(tmp_path / "x.c", text % limit)], out, kernel=None, key=None)
        return out

    assert harness("pull", built('timeout = "50ms"'), "loop")["kind"] == TIMEOUT
    assert harness("pull", built('memory = "64K"'))["out"] == "denied\n"
    assert harness("pull", built('memory = "1M"'))["out"] == "granted\n"
    assert harness("pull", built('stack = "16K"'), 30, "deep")["fault"]["kind"] == 7
    assert harness("pull", built('stack = "64K"'), 30, "deep")["kind"] == OK
    answer = harness("pull", built('domain = "required"'))
    assert (answer["kind"], "protection domain" in answer["message"]) == (REFUSED, True)
