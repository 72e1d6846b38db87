# SPDX-License-Identifier: BSD-3-Clause
"""A manifest is written by people, checked with sentences for people, and stored in one canonical form."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overlay_tools import make

from overlays import manifest
from overlays.elf import Object
from overlays.errors import FormatError, OverlayError
from overlays.manifest import Manifest

BLOCK = """
/* something else */
// uio: name = "probe"
// uio: version = "2.1"
// uio: description = "look at things"
// uio: usage = "[-v] NAME…"
// uio: help = '''
// uio: Looks at each NAME,
// uio:   and indents.
// uio: '''
// uio: imports = ["printf", "app_*"]
// uio: app = "none"
// uio: domain = "required"
// uio: stack = "128K"
// uio: memory = "2M"
// uio: timeout = "5s"
int main(void) { return 0; }
"""

WANTED = Manifest(
    name="probe",
    version="2.1",
    description="look at things",
    usage="[-v] NAME…",
    help="Looks at each NAME,\n  and indents.\n",
    imports=["printf", "app_*"],
    app="none",
    domain="required",
    stack=131072,
    memory=2 << 20,
    timeout_ms=5000,
)


def test_a_comment_block_says_it_all() -> None:
    assert manifest.from_dict(manifest.parse_block(BLOCK, "x.c")) == WANTED


def test_assembler_has_its_own_comments() -> None:
    assert manifest.parse_block('# uio: name = "x"\n; uio: version = "3"\n', "x.S") == {
        "name": "x",
        "version": "3",
    }


def test_toml_beside_the_source_wins(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(BLOCK)
    (tmp_path / "x.toml").write_text('name = "x"\nstack = 16384\ntimeout = "250ms"\n')
    found = manifest.from_dict(manifest.from_source(tmp_path / "x.c"))
    assert (found.name, found.stack, found.timeout_ms) == ("x", 16384, 250)


def test_json_is_canonical_and_comes_back() -> None:
    raw = manifest.encode(WANTED)
    assert manifest.decode(raw) == WANTED
    assert manifest.encode(manifest.decode(raw)) == raw
    assert raw.startswith(b'{"app":"none","description":')


def test_the_policy_has_the_guests_form() -> None:
    assert manifest.policy(WANTED).hex() == (
        "01000000" "03000000" "00000200" "88130000" "0000200000000000" "0000000000000000"
    )  # fmt: skip
    assert manifest.policy(Manifest(name="x"))[4:8] == bytes(4)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"name": "x", "import": []}, "no key 'import'\ndid you mean imports?"),
    "no name": ({}, "missing required field `name`"),
    "a slash": ({"name": "a/b"}, "no name for an overlay"),
    "dots": ({"name": "..", "version": "1"}, "no name for an overlay"),
    "a long name": ({"name": "x" * 64}, "no name for an overlay"),
    "a newline": ({"name": "x\n"}, "no name for an overlay"),
    "an empty name": ({"name": ""}, "no name for an overlay"),
    "a number": ({"name": 5}, "Expected `str`"),
    "a kind of domain": ({"name": "x", "app": "write"}, "Invalid enum value 'write'"),
    "a string list": ({"name": "x", "imports": "printf"}, "Expected `array`"),
    "an empty import": ({"name": "x", "imports": [""]}, "or one is empty"),
    "a small stack": ({"name": "x", "stack": 100}, "stack is 100; 8192 to"),
    "a huge stack": ({"name": "x", "stack": 1 << 40}, "stack is"),
    "a negative time": ({"name": "x", "timeout_ms": -1}, "timeout_ms is -1"),
    "a fraction": ({"name": "x", "stack": 1.5}, "Expected `int`"),
    "control characters": ({"name": "x", "description": "a\x1b[2J"}, "control characters"),
    "a long text": ({"name": "x", "description": "x" * 300}, "longer than 200"),
    "many imports": ({"name": "x", "imports": ["y"] * 5000}, "too many"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_refused_with_the_key(case: str) -> None:
    tree, message = WRONG[case]
    with pytest.raises(FormatError) as caught:
        manifest.from_dict(tree)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name = x", "x.c:1: the `// uio:` block is no TOML"),
        ('stack = "64 pages"', "stack is '64 pages'; write a size"),
        ("timeout = 5", "timeout is 5; write a time"),
        ('timeout = "soon"', "write a time"),
    ],
)
def test_a_wrong_block_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        manifest.parse_block(f"// uio: {line}\n", "x.c")
    assert message in str(caught.value)


HOSTILE = {
    "no JSON": b"{",
    "a list": b"[]",
    "text": b'"name"',
    "not UTF-8": b'{"name":"\xff"}',
    "nested": b'{"name":' * 100_000,
    "nested lists": b"[" * 60_000,
    "too long": b'{"name":"x","help":"' + b"a" * manifest.MAX_MANIFEST + b'"}',
    "a huge number": b'{"name":"x","stack":' + b"9" * 400 + b"}",
    "infinite": b'{"name":"x","stack":1e999}',
    "nothing": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_is_refused(case: str) -> None:
    with pytest.raises(FormatError):
        manifest.decode(HOSTILE[case])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    try:
        assert manifest.decode(raw).name
    except FormatError as error:
        assert error.message


def test_imports_are_patterns() -> None:
    assert WANTED.allows("printf") and WANTED.allows("app_start")
    assert not WANTED.allows("fprintf") and not WANTED.allows("APP_x")
    assert not Manifest(name="x").allows("printf")


@given(
    st.lists(st.text("ab*?[]!", max_size=4), max_size=6),
    st.lists(st.text("ab*[]", max_size=4), max_size=6),
)
def test_many_names_are_allowed_as_one_is_by_fnmatch(patterns: list[str], names: list[str]) -> None:
    allowed = Manifest(name="x", imports=patterns).allowed(names)
    assert allowed == {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)}


def test_a_thousand_plain_imports_compile_no_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns are for what has wildcards: names are looked up, or a link would be quadratic in them."""
    wanted = Manifest(name="x", imports=[f"name_{n}" for n in range(1000)])
    monkeypatch.setattr(fnmatch, "translate", lambda _: pytest.fail("a plain name was a pattern"))
    assert wanted.allowed(["name_7", "name_1000"]) == {"name_7"}


def test_the_file_carries_it_in_a_section_that_is_not_loaded(tmp_path: Path) -> None:
    overlay = make(tmp_path, BLOCK, "probe.c")
    assert overlay.manifest == WANTED
    for name in (manifest.SECTION, manifest.POLICY_SECTION):
        section = overlay.object.section(name)
        assert section and not section.allocated


def test_without_imports_the_manifest_lists_what_the_code_uses(tmp_path: Path) -> None:
    source = 'int puts(const char *); extern int unused; int main(void) { return puts("x"); }'
    assert make(tmp_path, source).manifest.imports == ["puts"]


def test_a_policy_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    overlay = make(tmp_path, BLOCK, "probe.c")
    section = overlay.object.section(manifest.POLICY_SECTION)
    assert section
    changed = bytearray(overlay.elf)
    changed[section.offset + 4] ^= 1
    with pytest.raises(FormatError, match="does not say what its manifest says"):
        manifest.of(Object.parse(bytes(changed)))


def test_an_object_without_manifest_is_no_overlay(tmp_path: Path) -> None:
    import subprocess  # noqa: PLC0415

    (tmp_path / "x.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-c", "x.c"], cwd=tmp_path, check=True)
    with pytest.raises(OverlayError, match="has no manifest"):
        manifest.of(Object.parse((tmp_path / "x.o").read_bytes()))
