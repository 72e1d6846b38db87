# SPDX-License-Identifier: BSD-3-Clause
"""From sources to an overlay file: compile, join, add manifest and policy, check, sign.

All flags are here. The output depends on the sources and the compiler alone, not on where or when they are built.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlays import keys, link, manifest, scan, sign
from overlays.elf import Object
from overlays.errors import BuildError, FormatError, OverlayError, UnfitError
from overlays.files import write_atomically
from overlays.kernel import Kernel
from overlays.manifest import Manifest
from overlays.overlay import SUFFIX, Overlay
from overlays.scan import Finding

INCLUDE = Path(__file__).parent / "include"
MUSL_INCLUDE = Path(
    "/usr/include/x86_64-linux-musl"
)  # Debian's musl-dev: the headers of refguest's libc

# What makes code loadable: within 2 GiB of the kernel, no thread-local or unwind data, safe at interrupt time.
CODE = (
    "-O2", "-g", "-m64", "-mcmodel=small", "-fno-pic", "-fno-pie", "-mno-red-zone", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fcf-protection=none",
    "-fno-omit-frame-pointer", "-ffunction-sections", "-fdata-sections",
)  # fmt: skip
WARNINGS = ("-Wall", "-Wextra", "-Werror=implicit-function-declaration")
C = ("-std=gnu11", "-U_FORTIFY_SOURCE", *WARNINGS)
CXX = (
    "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE",
    "-Wall", "-Wextra",
)  # fmt: skip
RUST = (
    "--edition=2021", "--crate-type=lib", "--emit=obj", "-Copt-level=2", "-Cpanic=abort", "-Cdebuginfo=2",
    "-Crelocation-model=static", "-Ccode-model=small", "-Cno-redzone=yes", "-Ccodegen-units=1",
    "-Cforce-frame-pointers=yes", "-Cforce-unwind-tables=no",
)  # fmt: skip

_LANGUAGES = {
    ".c": "c", ".cc": "c++", ".cpp": "c++", ".cxx": "c++", ".S": "assembler", ".s": "assembler",
    ".rs": "rust", ".o": "object",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it."""

    output: Path
    overlay: Overlay
    warnings: list[str] = field(default_factory=list)
    compiler_output: str = ""


def build(
    sources: Sequence[Path],
    output: Path,
    *,
    kernel: Path | None = None,
    key: Path | Ed25519PrivateKey | None = None,
    passphrase: str | None = None,
    compiler: str = "gcc",
    flags: Sequence[str] = (),
    manifest_file: Path | None = None,
    not_after: int = 0,
    split_debug: Path | None = None,
) -> Built:
    """
    Make an overlay.

    :param sources: C, C++, Rust, assembler or objects; the first one has the manifest.
    :param output: the overlay's file; its stem is the default of the overlay's name.
    :param kernel: the kernel's ELF; names and types are checked against it.
    :param key: sign with this key.
    :param compiler: gcc or clang (any command that takes their options); C++ uses its g++ or clang++.
    :param flags: more options for C, C++ and assembler, after ours.
    :param split_debug: move the DWARF there, for a smaller overlay without source lines in it.
    :raise BuildError: the compiler failed, or a guest could never load the result.
    :raise OverlayError: what the other modules raise for manifest, kernel and key.
    """
    if not sources:
        raise BuildError("there is nothing to build")
    for source in sources:
        if not source.is_file():
            raise BuildError(f"{source}: there is no such file")
        if source.suffix not in _LANGUAGES:
            raise BuildError(
                f"{source}: {source.suffix or 'a file without suffix'} is no language known here",
                "known are " + " ".join(_LANGUAGES),
            )
    # All input is read before anything is written.
    opened = Kernel.open(kernel) if kernel else None
    private = keys.load_private(key, passphrase) if isinstance(key, Path) else key
    text = (
        manifest.from_toml(manifest_file)
        if manifest_file
        else manifest.from_source(Path(sources[0]))
    )
    text.setdefault("name", output.name.removesuffix(SUFFIX))
    declared = manifest.from_dict(dict(text))
    if output.suffix == SUFFIX and output.stem != declared.name:
        raise BuildError(
            f"the manifest calls the overlay {declared.name!r}, so its file must be {declared.name}{SUFFIX}"
        )
    with tempfile.TemporaryDirectory(prefix="uio-build-") as name:
        work = Path(name)
        said = ""
        objects = []
        for number, source in enumerate(sources):
            target = work / f"{number}.o"
            said += _compile(Path(source), target, compiler, flags)
            objects.append(target)
        joined = work / "joined.o"
        _run(["ld", "-r", "-m", "elf_x86_64", "-o", str(joined), *map(str, objects)], work)
        if split_debug:
            _run(["objcopy", "--only-keep-debug", str(joined), str(split_debug.absolute())], work)
            _run(["objcopy", "--strip-debug", str(joined)], work)
        obj = _parse(joined, output)
        complete = _with_imports(declared, obj, "imports" in text)
        data = _with_manifest(joined, complete, work)
    overlay = Overlay.parse(data, output)
    link.check(overlay.object)
    findings = scan.scan(overlay.elf)
    if findings:
        raise BuildError(_listed("it holds instructions that no overlay may have", findings))
    warnings = _check_against(overlay, opened) if opened else []
    if private:
        data = sign.sign(data, private, not_after=not_after)
        overlay = Overlay.parse(data, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, data)
    return Built(output, overlay, warnings, said)


def _listed(text: str, findings: list[Finding]) -> str:
    shown = "".join(f"\n  {f}" for f in findings[:10])
    more = f"\n  and {len(findings) - 10} more" if len(findings) > 10 else ""
    return f"{text}:{shown}{more}"


def _parse(path: Path, output: Path) -> Object:
    try:
        return Object.parse(path.read_bytes())
    except FormatError as error:
        raise BuildError(
            f"{output}: the compiler's output cannot be used: {error.message}"
        ) from None


def _compile(source: Path, target: Path, compiler: str, flags: Sequence[str]) -> str:
    language = _LANGUAGES[source.suffix]
    # The compiler runs in the source's directory and sees its bare name, so neither gets into the output.
    directory = source.absolute().parent
    if language == "object":
        shutil.copyfile(source, target)
        return ""
    if language == "rust":
        command = ["rustc", *RUST, "--crate-name=overlay", f"--remap-path-prefix={directory}=.",
                   f"--remap-path-prefix={target.parent}=.", "-o", str(target), source.name]  # fmt: skip
        return _run(command, directory)
    driver, options = compiler, list(C)
    if language == "c++":
        driver, options = _cxx(compiler), list(CXX)
    elif language == "assembler":
        options = []
    code = [f for f in CODE if language != "assembler" or f in ("-g", "-m64")]
    command = [
        driver,
        *options,
        *code,
        "-gno-record-gcc-switches" if "clang" not in driver else "-gno-record-command-line",
        *_headers(driver, language),
        f"-ffile-prefix-map={directory}=.",
        f"-ffile-prefix-map={INCLUDE}=uio-include",
        *flags,
        "-c", source.name,
        "-o", str(target),
    ]  # fmt: skip
    return _run(command, directory)


def _cxx(compiler: str) -> str:
    if "clang" in compiler and "clang++" not in compiler:
        return compiler.replace("clang", "clang++")
    if "gcc" in compiler:
        return compiler.replace("gcc", "g++")
    return compiler


def _headers(driver: str, language: str) -> list[str]:
    """Where headers are found: ours, and for C those of musl where it is there, for the kernels have musl."""
    options = ["-isystem", str(INCLUDE)]
    if language == "c" and MUSL_INCLUDE.is_dir():
        options += ["-nostdinc", "-isystem", str(MUSL_INCLUDE), "-isystem", _own_headers(driver)]
    return options


@functools.cache
def _own_headers(driver: str) -> str:
    """The directory of the compiler's own headers (stddef.h, immintrin.h)."""
    return _run([driver, "-print-file-name=include"], Path.cwd()).strip()


def _run(command: list[str], directory: Path) -> str:
    """Run a tool; returns what it said. The environment is the caller's but for what makes output differ."""
    env = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    env.pop("CPATH", None)
    try:
        done = subprocess.run(
            command, cwd=directory, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is not installed",
            "Debian: apt-get install gcc g++ binutils (or clang, rustc)",
        ) from None
    if done.returncode:
        raise BuildError(f"{command[0]} failed:\n{done.stdout.rstrip()}")
    return done.stdout


def _with_imports(declared: Manifest, obj: Object, listed: bool) -> Manifest:
    """The manifest lists what is imported: as written by the developer, else exactly what the code uses."""
    names = sorted({s.name for s in link.imports(obj)})
    if not listed:
        return msgspec.structs.replace(declared, imports=names)
    outside = sorted(set(names) - declared.allowed(names))
    if outside:
        raise BuildError(
            "the code uses what the manifest's imports do not list: " + ", ".join(outside),
            "list them, or leave `imports` out to have it made from the code",
        )
    return declared


def _with_manifest(joined: Path, complete: Manifest, work: Path) -> bytes:
    text, policy = work / "manifest", work / "policy"
    text.write_bytes(manifest.encode(complete))
    policy.write_bytes(manifest.policy(complete))
    result = work / "overlay"
    command = ["objcopy", "--remove-section=.comment", "--remove-section=.note.GNU-stack"]
    for section, content in ((manifest.SECTION, text), (manifest.POLICY_SECTION, policy)):
        command += ["--add-section", f"{section}={content.name}"]
        command += ["--set-section-flags", f"{section}=noload,readonly"]
    _run([*command, joined.name, result.name], work)
    return result.read_bytes()


def _check_against(overlay: Overlay, kernel: Kernel) -> list[str]:
    """Names and types that do not fit the kernel are errors; returns what is merely suspicious."""
    try:
        link.resolve(overlay, kernel)
    except OverlayError as error:
        raise UnfitError(f"it does not fit {kernel.path}: {error.message}", error.hint) from None
    from overlays import types  # noqa: PLC0415  pyelftools is slow to import

    mismatches, warnings = types.compare(overlay, kernel)
    if mismatches:
        listed = "".join(f"\n  {m}" for m in mismatches)
        raise UnfitError(f"declarations differ from the kernel's definitions:{listed}")
    return warnings


def find_sources(directory: Path) -> dict[str, list[Path]]:
    """
    The overlays whose sources are in a directory: each file of a known language is one, and so is each subdirectory
    with all such files in it (the file named like the directory, or `main`, comes first: it has the manifest).
    """
    if not directory.is_dir():
        raise BuildError(f"{directory}: there is no such directory")
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            files = [p for p in sorted(path.iterdir()) if p.suffix in _LANGUAGES]
            files.sort(key=lambda p: p.stem not in (p.parent.name, "main"))
        else:
            files = [path] if path.suffix in _LANGUAGES else []
        if not files:
            continue
        if path.stem in found:
            raise BuildError(f"{directory} has two overlays called {path.stem}")
        found[path.stem] = files
    return found
