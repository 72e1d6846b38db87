# SPDX-License-Identifier: BSD-3-Clause
"""Images linked on the host run as the sources say, and reach the kernel through slots only."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from overlay_tools import BASE, HELLO, RICH, SHIPPED, compile_kernel, make, run

from overlays import build, elf, link
from overlays.errors import LinkError, OverlayError
from overlays.kernel import Kernel
from overlays.overlay import Overlay


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel.open(compile_kernel(tmp_path_factory.mktemp("kernel") / "kernel"))


COMPILERS = [
    ("gcc", ()),
    ("gcc", ("-O0",)),
    ("gcc", ("-O3", "-fpic")),
    ("gcc", ("-Os", "-fpie")),
    ("gcc", ("-fno-plt", "-fpic")),
    ("gcc", ("-mcmodel=large",)),
    ("gcc", ("-fcommon", "-fno-function-sections", "-fno-data-sections")),
    ("clang-14", ()),
    ("clang-14", ("-O0",)),
    ("clang-14", ("-O3", "-fpic")),
    ("clang-14", ("-mcmodel=large",)),
]


@pytest.mark.parametrize(
    ("compiler", "flags"), COMPILERS, ids=lambda x: " ".join(x) if isinstance(x, tuple) else x
)
def test_c_of_any_code_model_runs(
    kernel: Kernel, tmp_path: Path, compiler: str, flags: tuple[str, ...]
) -> None:
    overlay = make(tmp_path, RICH, kernel=kernel.path, compiler=compiler, flags=flags)
    done = run(kernel, overlay, "3")
    assert done.stdout == "uio: two\nxxx 7 8 8 3 3 42 0\nuio: bye\n"
    assert done.returncode == 3


def test_all_relocation_types_of_the_design_are_exercised(kernel: Kernel, tmp_path: Path) -> None:
    seen = set()
    for number, (compiler, flags) in enumerate(COMPILERS):
        overlay = make(tmp_path, RICH, f"s{number}.c", compiler=compiler, flags=flags)
        for entries in overlay.object.relocs.values():
            seen |= {r.type for r in entries}
    overlay = make(tmp_path, ALL_TYPES, "types.S")
    for entries in overlay.object.relocs.values():
        seen |= {r.type for r in entries}
    assert seen >= set(link.RULES)
    assert run(kernel, overlay).returncode == 0


#: each type once, checked against what it must yield; returns the number of the first wrong one
ALL_TYPES = """
    .macro want number
    je 1f
    mov $\\number, %eax
    ret
1:
    .endm
    .text
    .globl main
main:
    nop
begin_0:
    mov here(%rip), %rax
    lea here(%rip), %rcx
    cmp %rcx, %rax
    want 1
    mov $here, %eax
    cmp %rcx, %rax
    want 2
    mov $here, %rax
    cmp %rcx, %rax
    want 3
    mov distance(%rip), %rax
    lea distance(%rip), %rdx
    add %rdx, %rax
    lea begin_0(%rip), %rdx
    cmp %rdx, %rax
    want 4
    .reloc .+3, R_X86_64_GOTPCREL, here-4
    mov 0(%rip), %rax
    cmp %rcx, %rax
    want 5
    mov counter@GOTPCREL(%rip), %rax
    cmp $counter, %rax
    want 6
    mov counter@GOTPCREL(%rip), %eax
    cmp $counter, %eax
    want 7
    mov $add, %rax
    mov function(%rip), %rcx
    cmp %rcx, %rax
    want 8
    mov $4, %edi
    mov $5, %esi
    call add@PLT
    cmp $9, %eax
    want 9
    mov $4, %edi
    mov $5, %esi
    call *add@GOTPCREL(%rip)
    cmp $9, %eax
    want 10
    xor %eax, %eax
    ret
    .data
here: .quad here
distance: .quad begin_0 - .
function: .quad add
    .section .note.GNU-stack
"""


def test_cxx_constructors_run_in_the_order_of_their_priorities(
    kernel: Kernel, tmp_path: Path
) -> None:
    source = """
    extern "C" int printf(const char *, ...);
    extern "C" long add(long, long);
    struct Noisy {
        int number;
        explicit Noisy(int n) : number(n) { printf("+%d", n); }
        ~Noisy() { printf("-%d", number); }
        virtual int value() { return number; }
    };
    struct Louder : Noisy { using Noisy::Noisy; int value() override { return 10 * number; } };
    template <typename T> T most(T a, T b) { return a < b ? b : a; }
    __attribute__((init_priority(300))) static Louder late(2);
    __attribute__((init_priority(200))) static Noisy early(1);
    Noisy *pick = &late;
    int main() { printf(" %d %d %ld ", pick->value(), most(3, early.value()), add(1, 1)); return 0; }
    """
    overlay = make(
        tmp_path, source, "objects.cpp", flags=["-fno-use-cxa-atexit", "-Wno-non-virtual-dtor"]
    )
    assert run(kernel, overlay).stdout == "+1+2 20 3 2 -2-1"


def test_rust_without_std_runs(kernel: Kernel, tmp_path: Path) -> None:
    if not shutil.which("rustc"):
        pytest.skip("rustc is not installed")
    source = """
    #![no_std]
    extern "C" {
        fn add(a: i64, b: i64) -> i64;
        fn printf(format: *const u8, ...) -> i32;
    }
    static TABLE: [fn(i64) -> i64; 2] = [double, triple];
    fn double(x: i64) -> i64 { 2 * x }
    fn triple(x: i64) -> i64 { 3 * x }
    #[no_mangle]
    pub extern "C" fn main(argc: i32, _argv: *const *const u8) -> i32 {
        let f = TABLE[(argc as usize) & 1];
        unsafe { printf(b"rust %ld %ld\\n\\0".as_ptr(), add(40, 2), f(5)); }
        0
    }
    """
    overlay = make(tmp_path, source, "rusty.rs", kernel=kernel.path)
    assert run(kernel, overlay).stdout == "rust 42 15\n"


def test_several_sources_make_one_overlay(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int other(int);\nint main(void) { return other(20); }\n")
    (tmp_path / "b.c").write_text(
        "extern long add(long, long);\nint other(int x) { return add(x, 3); }\n"
    )
    (tmp_path / "c.S").write_text(
        '.globl unused\nunused: ret\n.section .note.GNU-stack,"",@progbits\n'
    )
    built = build.build([tmp_path / n for n in ("a.c", "b.c", "c.S")], tmp_path / "all.uio")
    assert run(kernel, built.overlay).returncode == 23


@pytest.mark.parametrize("name", ["add", "apply"])
@pytest.mark.parametrize(
    "flags", [(), ("-fpic",), ("-fno-plt", "-fpic"), ("-mcmodel=large",), ("-O0",)]
)
def test_every_way_to_an_imported_function_goes_through_its_slot(
    kernel: Kernel, tmp_path: Path, name: str, flags: tuple[str, ...]
) -> None:
    """The slot gets a gate instead of the function, and the gate is what runs."""
    overlay = make(tmp_path, RICH, flags=flags)
    target = kernel.for_overlay(name)
    assert target
    done = run(kernel, overlay, before=["-g", f"{target.address:x}"])
    assert (done.returncode, done.stdout.endswith("gate\n")) == (42, True)


def test_no_address_of_a_kernel_function_is_in_the_image(kernel: Kernel, tmp_path: Path) -> None:
    """But in the table of imports, from which the guest fills the slots."""
    overlay = make(tmp_path, RICH)
    image = Image(link.link(overlay, kernel, slide=0, base=BASE))
    targets = [t for t, _, kind in image.imports if kind == link.KIND_FUNCTION]
    assert len(targets) >= 5
    for content in image.contents:
        for target in targets:
            assert struct.pack("<Q", target) not in content
    for target, slot, kind in image.imports:
        if kind == link.KIND_FUNCTION:
            assert target in kernel.text
        assert any(s[0] <= slot < s[0] + s[2] and s[3] == link.PROT_R for s in image.segments)
        assert slot % 8 == 0


class Image:
    """An image of docs/protocol.md §5, read back."""

    HEADER = struct.Struct("<8s32s20sIQQIIII64s32s")

    def __init__(self, data: bytes) -> None:
        (self.magic, self.hash, self.build_id, self.size, self.base, self.entry, nseg, nimport, ninit, nfini,
         self.name, self.policy) = self.HEADER.unpack_from(data)  # fmt: skip
        at = self.HEADER.size
        self.segments = [struct.unpack_from("<IIII", data, at + 16 * i) for i in range(nseg)]
        at += 16 * nseg
        self.imports = [struct.unpack_from("<QII", data, at + 16 * i) for i in range(nimport)]
        at += 16 * nimport
        self.functions = struct.unpack_from(f"<{ninit + nfini}Q", data, at)
        at += 8 * (ninit + nfini)
        self.contents = []
        for _, size, _, _ in self.segments:
            self.contents.append(data[at : at + size])
            at += size
        assert at == len(data)


def test_the_image_says_what_it_is(kernel: Kernel, tmp_path: Path) -> None:
    source = "// uio: stack = '32K'\n// uio: timeout = '2s'\n// uio: app = 'none'\n" + RICH
    overlay = make(tmp_path, source)
    image = Image(link.link(overlay, kernel, slide=0x1000, base=BASE))
    assert image.magic == b"\0uIOIMG1"
    assert image.hash == overlay.hash
    assert image.build_id == kernel.build_id
    assert image.name.rstrip(b"\0") == b"sample"
    assert image.size == link.image_size(overlay) and image.size % 4096 == 0
    assert image.base == BASE
    assert struct.unpack("<IIIIQQ", image.policy) == (1, 1, 32768, 2000, 0, 0)
    end = 0
    for offset, file_size, mem_size, prot in image.segments:
        assert offset % 4096 == 0 and offset >= end
        assert file_size <= mem_size and prot in (5, 1, 3)
        end = offset + mem_size
    assert end <= image.size
    code = next(s for s in image.segments if s[3] == 5)
    for address in (image.entry, *image.functions):
        assert code[0] <= address - BASE < code[0] + code[1]
    counter = kernel.lookup("counter")
    assert counter and (counter.address + 0x1000) in {t for t, _, k in image.imports if k == 2}


def test_linking_twice_gives_the_same_bytes(kernel: Kernel, tmp_path: Path) -> None:
    overlay = make(tmp_path, RICH)
    once = link.link(overlay, kernel, slide=0, base=BASE)
    again = link.link(Overlay.load(overlay.path), Kernel.open(kernel.path), slide=0, base=BASE)
    assert once == again
    assert once != link.link(overlay, kernel, slide=0, base=BASE + 4096)


def test_libuios_version_of_a_name_wins(kernel: Kernel, tmp_path: Path) -> None:
    done = run(kernel, make(tmp_path, HELLO.read_text(), "hello.c"))
    assert done.stdout == "uio: Hello, world!\n"


def test_the_shipped_set_count_calls_the_application(kernel: Kernel, tmp_path: Path) -> None:
    overlay = make(
        tmp_path, (SHIPPED / "set_count.c").read_text(), "set_count.c", kernel=kernel.path
    )
    done = run(kernel, overlay, "1000")
    assert (done.returncode, done.stdout) == (0, "count 1000\nthe counter is 1000 now\n")
    for arguments in ([], ["1", "2"], ["x"], ["7x"], ["99999999999999999999"]):
        assert run(kernel, overlay, *arguments).returncode == 2


MAIN = "int main(void) { return 0; }"
REFUSED = {
    "thread-local": ("__thread int x; int main(void) { return x; }", "thread-local"),
    "no main": ("int mian(void) { return 0; }", "has no main; did you mean mian?"),
    "main is data": ("int main = 5;", "main is no function"),
    "main is local": ("static int main(void) { return 0; } int (*p)(void) = main;", "no main"),
    "writable code": (
        '__asm__(".section .wx,\\"awx\\"; nop; .text"); ' + MAIN,
        "writable and exec",
    ),
    "alignment": (
        "static volatile char x[8] __attribute__((aligned(8192))) = {1}; int main(void) { return x[0]; }",
        "aligned to 8192",
    ),
    "too large": (
        "static volatile char x[100 << 20]; int main(void) { return x[5]; }",
        "more than 64 MiB",
    ),
    "ifunc": (
        "static int f(void) { return 1; } static int (*r(void))(void) { return f; }"
        'int g(void) __attribute__((ifunc("r"))); int main(void) { return g(); }',
        "indirect function",
    ),
    "odd relocation": ('__asm__(".data; .byte other; .text; other:"); ' + MAIN, "R_X86_64_8 of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_guest_could_load_is_refused_at_build_time(tmp_path: Path, case: str) -> None:
    source, message = REFUSED[case]
    with pytest.raises(OverlayError) as caught:
        make(tmp_path, source)
    assert message in str(caught.value).replace("\n", "; ")
    assert not (tmp_path / "sample.uio").exists()


def test_missing_names_are_all_named_with_near_ones(kernel: Kernel, tmp_path: Path) -> None:
    overlay = make(
        tmp_path,
        "extern long ad(long, long); extern long countr; extern void xyzzy_plugh(void);\n"
        "int main(void) { xyzzy_plugh(); return ad(1, countr); }",
    )
    with pytest.raises(LinkError) as caught:
        link.link(overlay, kernel, slide=0, base=BASE)
    assert "the kernel has no ad" in caught.value.message
    assert "the kernel has no countr" in caught.value.message
    assert "the kernel has no xyzzy_plugh" in caught.value.message
    assert "countr: did you mean counter" in caught.value.hint


def test_imports_outside_the_manifest_are_refused(kernel: Kernel, tmp_path: Path) -> None:
    source = "// uio: imports = ['p*', 'add']\n" + RICH
    with pytest.raises(OverlayError, match="do not list: apply, atoi, counter, missing"):
        make(tmp_path, source)


def test_an_image_out_of_reach_says_so(kernel: Kernel, tmp_path: Path) -> None:
    overlay = make(tmp_path, RICH)
    with pytest.raises(LinkError, match="out of reach"):
        link.link(overlay, kernel, slide=0, base=0x7000_0000_0000)
    for base in (0, 0x1001, -4096, 1 << 47):
        with pytest.raises(LinkError, match="an image cannot be at"):
            link.link(overlay, kernel, slide=0, base=base)


def test_a_kernel_without_build_id_is_refused(tmp_path: Path) -> None:
    kernel = Kernel.open(compile_kernel(tmp_path / "kernel", "-Wl,--build-id=none"))
    with pytest.raises(LinkError, match="no SHA-1 build-id"):
        link.link(make(tmp_path, RICH), kernel, slide=0, base=BASE)


def test_a_weak_function_that_is_missing_is_null_and_calling_it_anyway_faults(
    kernel: Kernel, tmp_path: Path
) -> None:
    source = """
    void nothing(void) __attribute__((weak));
    int main(int argc, char **argv) { (void)argv; if (argc > 1) nothing(); return nothing ? 1 : 0; }
    """
    overlay = make(tmp_path, source)
    assert run(kernel, overlay).returncode == 0
    assert run(kernel, overlay, "call").returncode == -4  # SIGILL, not a jump to nowhere


def test_forbidden_bytes_that_only_relocation_makes_are_found(
    kernel: Kernel, tmp_path: Path
) -> None:
    """An immediate that becomes the address 0x10ef010f at one base holds WRPKRU there, and not at another."""
    source = """
    .globl main
main:
    movabs $spot, %rax
    xor %eax, %eax
    ret
    .section .rodata
    .org 0x10f
spot: .byte 0
    .section .note.GNU-stack
    """
    overlay = make(tmp_path, source, "reloc.S")
    wanted = 0x10EF010F
    rodata = link.layout(overlay.object)
    offset = rodata.sections[next(s.index for s in overlay.object.sections if s.name == ".rodata")]
    base = wanted - 0x10F - offset
    assert base % 4096 == 0
    with pytest.raises(LinkError, match="wrpkru"):
        link.link(overlay, kernel, slide=0, base=base)
    link.link(overlay, kernel, slide=0, base=base + 4096)


def test_a_section_index_is_not_a_place(tmp_path: Path) -> None:
    """A reference from loaded code into debugging information is refused, not linked to garbage."""
    source = """
    .globl main
main:
    mov hidden(%rip), %eax
    ret
    .section .debug_fake
hidden: .quad 1
    .section .note.GNU-stack
    """
    with pytest.raises(LinkError, match="not loaded"):
        make(tmp_path, source, "debug.S")


def test_rules_cover_what_the_reader_names(tmp_path: Path) -> None:
    overlay = make(tmp_path, RICH)
    assert elf.STB_WEAK in {s.bind for s in overlay.object.undefined()}
    link.check(overlay.object)
