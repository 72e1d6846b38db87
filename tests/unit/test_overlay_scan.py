# SPDX-License-Identifier: BSD-3-Clause
"""Forbidden instructions are found wherever they hide, with place and source line; ordinary code has none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from overlay_tools import RICH, make

from overlays import encodings, scan
from overlays.errors import BuildError
from overlays.scan import Finding

#: as the GNU assembler writes it -> the word of the finding
INSTRUCTIONS = {
    "wrpkru": "wrpkru", "xrstor (%rax)": "xrstor", "xrstor64 8(%r9)": "xrstor64", "xrstors (%rax)": "xrstors",
    "xrstors64 (%rbx)": "xrstors64", "wrmsr": "wrmsr", "rdmsr": "rdmsr", "mov %rax, %cr3": "mov",
    "mov %cr0, %rax": "mov", "mov %rax, %cr8": "mov",
    "mov %rax, %dr7": "mov", "mov %dr7, %rax": "mov", "lgdt (%rax)": "lgdt", "lidt 4(%rax,%rbx,2)": "lidt",
    "lldt %ax": "lldt", "ltr %ax": "ltr", "lmsw %ax": "lmsw", "clts": "clts", "invlpg (%rax)": "invlpg",
    "invpcid (%rax), %rbx": "invpcid", "invd": "invd", "wbinvd": "wbinvd", "xsetbv": "xsetbv", "swapgs": "swapgs",
    "wrfsbase %rax": "wrfsbase", "wrgsbase %eax": "wrgsbase", "wrfsbase %r9": "wrfsbase",
    "clac": "clac", "stac": "stac",
    "in $0x60, %al": "in", "in %dx, %eax": "in", "out %al, $0x80": "out", "out %eax, %dx": "out",
    "insb": "insb", "rep insl": "rep", "outsw": "outsw", "rep outsb": "rep",
    "hlt": "hlt", "cli": "cli", "sti": "sti", "popfq": "popfq", "popfw": "popf", "monitor": "monitor", "mwait": "mwait",
    "syscall": "syscall", "sysretq": "sysretq", "sysretl": "sysret", "sysenter": "sysenter", "sysexit": "sysexit",
    "iretq": "iretq", "iretl": "iretd", "int $0x80": "int", "int $3; int $4": "int", "int1": "int1",
    "vmcall": "vmcall", "vmmcall": "vmmcall", "vmlaunch": "vmlaunch", "encls": "encls", "getsec": "getsec",
    "rsm": "rsm",
    "lret": "retf", "lretq": "retfq", "lcall *(%rax)": "call", "ljmp *(%rax)": "jmp", "rex.w lcall *(%rax)": "lcall",
    "mov %eax, %ss": "mov", "mov (%rax), %ds": "mov", "mov %eax, %gs": "mov", "pop %fs": "pop", "pop %gs": "pop",
    "lss (%rax), %ebx": "lss", "lfs (%rax), %ebx": "lfs",
}  # fmt: skip

ALLOWED = (
    "nop; int3; ud2; pause; rdtsc; rdtscp; rdpkru; rdpmc; cpuid; pushfq; lfence; mfence; sfence; "
    "mov %ss, %eax; mov %fs:0, %rax; mov %gs:8, %rax; xsave (%rax); fxsave (%rax); ldmxcsr (%rax); clflush (%rax); "
    "cmpxchg16b (%rax); rdrand %rax; rdseed %rax; lea 0x20(%rax), %rbx; xgetbv; call *%rax; jmp *8(%rax); endbr64; "
    "sgdt (%rax); rdfsbase %rax; prefetcht0 (%rax); lock incl (%rax); rep movsb; repne scasb; vzeroupper; "
    "vpaddd %ymm1, %ymm2, %ymm3"
)


def assembled(text: str) -> str:
    return f".globl main\nmain:\n{text}\nret\n.section .note.GNU-stack\n"


def findings(
    tmp_path: Path, source: str, name: str = "sample.S", **options: object
) -> list[Finding]:
    """What the scanner says of a source, as the build sees it."""
    try:
        overlay = make(tmp_path, source, name, **options)
    except BuildError as error:
        assert "no overlay may have" in error.message
        assert not (tmp_path / "sample.uio").exists()
        return scan.scan(_object(tmp_path, source))
    assert not scan.scan(overlay.elf)
    return []


def _object(tmp_path: Path, source: str) -> bytes:
    path = tmp_path / "raw.S"
    path.write_text(source)
    subprocess.run(["gcc", "-g", "-c", "raw.S", "-o", "raw.o"], cwd=tmp_path, check=True)
    return (tmp_path / "raw.o").read_bytes()


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_forbidden_instruction_is_found_with_its_place(tmp_path: Path, instruction: str) -> None:
    found = findings(tmp_path, assembled(f"nop\n{instruction}"))
    (only,) = [f for f in found if not f.what.startswith("int3")]
    assert only.what.split()[0] == INSTRUCTIONS[instruction]
    assert only.aligned
    assert (only.section, only.source) == (".text", "raw.S:4")
    assert only.symbol.startswith("main+0x")
    assert only.why and only.why in str(only) and "raw.S:4" in str(only)


def test_harmless_instructions_pass(tmp_path: Path) -> None:
    assert findings(tmp_path, assembled(ALLOWED.replace("; ", "\n"))) == []


@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-O3", "-mavx2"), ("-Os", "-fpic")])
def test_compiled_code_passes(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    make(tmp_path, RICH, compiler=compiler, flags=flags)


HIDDEN = {
    "in an immediate": ("mov $0xef010f, %eax", "wrpkru"),
    "in a 64-bit immediate": ("movabs $0x112233ef010f4455, %rax", "wrpkru"),
    "in a displacement": ("mov 0xef010f(%rax), %ebx", "wrpkru"),
    "across two instructions": ("mov $0x0f000000, %eax\n.byte 0x01, 0xef", "wrpkru"),  # add %ebp, %edi
    "behind an opcode prefix": (".byte 0xb8, 0x66, 0x0f, 0x01, 0xef", "wrpkru"),
    "xrstor in an immediate": ("mov $0x28ae0f, %eax", "xrstor"),
    "xrstors with a displacement": ("mov $0x5bc70f, %eax", "xrstors"),
    "wrmsr": ("mov $0x300f, %eax", "wrmsr"),
    "mov to cr3": ("mov $0xd8220f, %eax", "mov"),
    "syscall": ("mov $0x050f, %eax", "syscall"),
    "wrfsbase with rex": ("movabs $0xd0ae0f48f3, %rax", "wrfsbase"),
    "twice in one place": ("mov $0x300f300f, %eax", "wrmsr"),
}  # fmt: skip


@pytest.mark.parametrize("case", HIDDEN)
def test_bytes_of_a_forbidden_instruction_inside_others_are_found(
    tmp_path: Path, case: str
) -> None:
    text, what = HIDDEN[case]
    found = findings(tmp_path, assembled(text))
    assert found and {f.what.split()[0] for f in found} == {what}
    assert not any(f.aligned for f in found)
    assert "in the bytes of other instructions" in str(found[0])
    assert len(found) == (2 if "twice" in case else 1)


REACHED = {
    "a jump into an immediate": "jmp 1f + 1\n1: mov $0xfa, %eax",
    "a call into an immediate": "call 1f + 1\n1: mov $0xfa, %eax",
    "a conditional jump": "je 1f + 1\n1: mov $0xf4, %eax",
    "a loop": "1: mov $0xf4, %eax\nloop 1b + 1",
    "a jump from another section": ".section .other,\"ax\"\njmp inside + 1\n.text\ninside: mov $0xfa, %eax",
    "a symbol inside an instruction": "1: mov $0xfa, %eax\n.set spot, 1b + 1\n.globl spot",
    "a pointer in data": "1: mov $0xfa, %eax\n.data\n.quad 1b + 1\n.text",
    "an address in code": "mov $1f + 1, %rax\njmp *%rax\n1: mov $0xfa, %eax",
    "an address by lea": "lea 1f + 1(%rip), %rax\njmp *%rax\n1: mov $0xfa, %eax",
    "a constructor": "1: mov $0xfa, %eax\n.section .init_array,\"aw\"\n.quad 1b + 1\n.text",
    "code behind an odd jump": "jmp 1f\n.byte 0x0f, 0xb6\n1: cli",
}  # fmt: skip


@pytest.mark.parametrize("case", REACHED)
def test_one_byte_instructions_are_found_where_code_can_get_to(tmp_path: Path, case: str) -> None:
    found = findings(tmp_path, assembled(REACHED[case]))
    assert {f.what.split()[0] for f in found if f.aligned} & {"cli", "hlt"}


def test_one_byte_opcodes_inside_other_instructions_are_no_finding(tmp_path: Path) -> None:
    """Every program has them, and nothing direct leads there."""
    assert findings(tmp_path, assembled("mov $0xfafbf4ee, %eax\nmov 0xf4(%rax), %rbx")) == []


RELOCATED = {
    "over an opcode": ".reloc ., R_X86_64_32, value\nnop\nnop\nnop\nnop",
    "over a ModRM byte": ".reloc . + 1, R_X86_64_32, value\nmov %eax, %ebx\nnop\nnop",
    "over a prefix": ".reloc ., R_X86_64_32, value\n.byte 0x48\nmov $5, %eax\n.fill 8, 1, 0x90",
    "over the end": ".reloc . + 3, R_X86_64_32, value\nmov $5, %eax\nnop\nnop\nnop",
    "of eight bytes over four": ".reloc . + 1, R_X86_64_64, value\nmov $5, %eax\nnop\nnop\nnop\nnop",
    "over a scale byte": ".reloc . + 2, R_X86_64_32, value\nmov %eax, 0(%rbx,%rcx,4)\nnop\nnop\nnop",
}


@pytest.mark.parametrize("case", RELOCATED)
def test_a_relocation_may_not_make_an_instruction(tmp_path: Path, case: str) -> None:
    text = RELOCATED[case] + "\n.set value, 0x90f4fa0f\n.globl value"
    found = findings(tmp_path, assembled(text))
    assert any(f.what == "a relocation of an instruction" for f in found)


def test_bytes_under_a_relocation_do_not_count_before_linking(tmp_path: Path) -> None:
    """They are overwritten; what they become is looked at by the linker."""
    text = ".reloc . + 1, R_X86_64_32, spot\nmov $0xef010f, %eax\n.data\nspot: .long 0\n.text"
    assert findings(tmp_path, assembled(text)) == []


def test_data_in_code_is_refused_and_data_elsewhere_is_not(tmp_path: Path) -> None:
    assert any(
        f.what == "bytes that are no instruction" or f.what
        for f in findings(tmp_path, assembled("ret\n.byte 0x06, 0x07, 0x0e"))
    )
    assert findings(tmp_path, assembled(".section .rodata\n.byte 0x0f,0x01,0xef\n.text\nnop")) == []


def test_data_that_ends_up_executable_is_scanned(tmp_path: Path) -> None:
    """By flags, whatever the section is called."""
    text = 'nop\n.section .rodata.innocent,"ax"\n.byte 0x0f,0x01,0xef\n.text'
    assert findings(tmp_path, assembled(text))


def test_every_line_of_several_functions_is_named(tmp_path: Path) -> None:
    source = """
int f(void) { return 1; }
int g(void)
{
    __asm__ volatile("cli");
    return 2;
}
int main(void)
{
    __asm__ volatile("hlt");
    return f() + g();
}
"""
    with pytest.raises(BuildError) as caught:
        make(tmp_path, source)
    assert "cli at g" in caught.value.message and "sample.c:5" in caught.value.message
    assert "hlt at main" in caught.value.message and "sample.c:10" in caught.value.message


def test_a_file_full_of_them_ends_soon(tmp_path: Path) -> None:
    found = findings(tmp_path, assembled(".fill 1000000, 1, 0xfa"))
    assert len(found) == scan.MAX_FINDINGS


def test_a_long_function_is_swept_to_its_end(tmp_path: Path) -> None:
    """Past all windows, with instructions that lie across their borders."""
    text = ".rept 3000\nmov $0x11223344, %eax\nmovabs $1, %rbx\n.endr\ncli"
    (only,) = findings(tmp_path, assembled(text))
    assert (only.what, only.offset) == ("cli", 3000 * 15)


@pytest.mark.parametrize("before", ["", "f3", "f348", "66"])
def test_the_quick_search_misses_nothing_that_the_thorough_ones_find(before: str) -> None:
    for number in range(1 << 16):
        code = b"\0" + bytes.fromhex(before) + b"\x0f" + number.to_bytes(2) + b"\0"
        wanted = {e.name for e in encodings.MULTI_BYTE if e.pattern.search(code)}
        assert {e.name for _, e in encodings.find(code)} == wanted


@pytest.mark.parametrize("encoding", encodings.MULTI_BYTE, ids=lambda e: e.name)
def test_the_byte_search_finds_overlapping_occurrences(encoding: encodings.Encoding) -> None:
    code = bytes.fromhex(
        "0f01ef0f300fae280fc71b0f22c00f23c00f01100f01180f01f00f01380f00d00f00d80f01d10f01f80f01ca0f01cb"
    )
    code += bytes.fromhex(
        "f30faed0f30faed8f3480faed0f3480faed8660f38820f050f070f340f350f01c10f01d9"
    )
    assert encoding.pattern.search(code)
    assert not encoding.pattern.search(bytes(64))
