# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl overlay …` as a person uses it: results on stdout, reasons on stderr, status 0, 1 or 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from overlay_tools import HELLO, SHIPPED, compile_kernel
from typer.testing import CliRunner, Result

from overlays.cli import app


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernel(tmp_path_factory.mktemp("kernel") / "kernel")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UIO_PASSPHRASE", raising=False)
    (tmp_path / "hello.c").write_text(HELLO.read_text())
    return tmp_path


def uio(*arguments: object, status: int = 0, **options: Any) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], **options)
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def answer(*arguments: object, status: int = 0) -> Any:
    return json.loads(uio(*arguments, "--json", status=status).stdout)


def test_from_nothing_to_a_signed_overlay(here: Path, kernel: Path) -> None:
    made = uio("keygen", "demo.pem").stdout
    assert "demo.pem (keep it)" in made and "demo.pub.pem" in made
    built = uio("build", "hello.c", "--kernel", kernel, "--key", "demo.pem")
    assert (
        "hello.uio" in built.stdout and "imports printf, puts, signed with demo.pem" in built.stdout
    )
    assert "good, signed by demo" in uio("verify", "hello.uio", "-k", ".").stdout
    assert "nothing found" in uio("scan", "hello.uio").stdout
    text = uio("inspect", "hello.uio", "--keys", "demo.pub.pem", "--kernel", kernel).stdout
    for part in (
        "hello 1.0",
        "greet the world",
        "hello [NAME…]",
        "printf, puts",
        "signed by demo",
        "verdict:      good",
        "puts = uio_libc_puts 0x",
    ):
        assert part in text


def test_json_says_everything(here: Path, kernel: Path) -> None:
    key = answer("keygen", "demo.pem")
    built = answer("build", "hello.c", "--key", "demo.pem")
    about = answer("inspect", "hello.uio", "-k", ".", "--kernel", kernel)
    assert about["manifest"]["name"] == "hello"
    assert about["hash"] == built["hash"] and about["findings"] == []
    assert about["verdict"] == {"ok": True, "reason": "", "signed_by": ["demo"], "warnings": []}
    assert about["signatures"][0]["key_id"] == key["key_id"]
    assert about["kernel"]["imports"]["printf"]["kind"] == "function"
    assert about["image"]["size"] == 8192
    assert {i["name"] for i in about["imports"]} == {"printf", "puts"}
    verdict = answer("verify", "hello.uio", "-k", ".")
    assert verdict["ok"] and verdict["signatures"][0]["state"] == "good"
    assert answer("scan", "hello.uio") == {"hello.uio": []}
    assert list(answer("sign", "hello.uio", "--key", "demo.pem")) == ["hello.uio"]


def test_refusals_have_status_1_and_a_reason_on_stderr(here: Path) -> None:
    uio("keygen", "demo.pem")
    uio("keygen", "other.pem")
    uio("build", "hello.c")
    unsigned = uio("verify", "hello.uio", "-k", "demo.pub.pem", status=1)
    assert unsigned.stderr == "error: hello.uio: it is not signed\n"
    lenient = uio("verify", "hello.uio", "-k", "demo.pub.pem", "--unsigned", "warn")
    assert "warning: it is not signed" in lenient.stderr
    uio("sign", "hello.uio", "--key", "other.pem")
    stranger = uio("verify", "hello.uio", "-k", "demo.pub.pem", status=1)
    assert "not trusted here" in stranger.stderr
    assert not answer("verify", "hello.uio", "-k", "demo.pub.pem", status=1)["ok"]
    data = bytearray(Path("hello.uio").read_bytes())
    data[0x60] ^= 1
    Path("hello.uio").write_bytes(data)
    tampered = uio("verify", "hello.uio", "-k", "other.pub.pem", status=1)
    assert "changed after signing" in tampered.stderr


def test_findings_have_status_1_and_go_to_stdout(here: Path) -> None:
    Path("bad.c").write_text('int main(void)\n{\n\t__asm__("cli");\n\treturn 0;\n}\n')
    refused = uio("build", "bad.c", status=1)
    assert "cli at main" in refused.stderr and "bad.c:3" in refused.stderr
    assert not Path("bad.uio").exists()
    subprocess.run(["gcc", "-g", "-c", "bad.c"], check=True)
    assert "bad.o: cli at main" in uio("scan", "bad.o", status=1).stdout
    (finding,) = answer("scan", "bad.o", status=1)["bad.o"]
    assert (finding["what"], finding["source"], finding["aligned"]) == ("cli", "bad.c:3", True)


def test_a_directory_is_built_at_once(here: Path, kernel: Path) -> None:
    uio("keygen", "demo.pem")
    (here / "src").mkdir()
    for name in ("hello.c", "set_count.c"):
        (here / "src" / name).write_text((SHIPPED / name).read_text())
    uio("build", "--all", "src", "--output-dir", "out", "--kernel", kernel, "--key", "demo.pem")
    assert sorted(p.name for p in (here / "out").iterdir()) == ["hello.uio", "set_count.uio"]
    assert answer("verify", "out/set_count.uio", "-k", ".")["ok"]
    (here / "src" / "odd.c").write_text(
        "extern void odd(void); int main(void) { odd(); return 0; }"
    )
    command = ["build", "--all", "src", "--output-dir", "again", "--kernel", kernel]
    assert "the kernel has no odd" in uio(*command, status=1).stderr
    assert "left out: odd: " in uio(*command, "--skip-unfit").stderr
    assert sorted(p.name for p in (here / "again").iterdir()) == ["hello.uio", "set_count.uio"]


def test_expiry_and_several_signatures(here: Path) -> None:
    uio("keygen", "a.pem")
    uio("keygen", "b.pem")
    uio("build", "hello.c", "--key", "a.pem", "--expires", "90d")
    uio("sign", "hello.uio", "--key", "b.pem", "--expires", "2999-12-31")
    verdict = answer("verify", "hello.uio", "-k", ".")
    assert verdict["signed_by"] == ["a", "b"]
    assert verdict["signatures"][1]["expires"] == "2999-12-31 00:00:00 UTC"
    uio("sign", "hello.uio", "--key", "b.pem", "--replace")
    assert answer("verify", "hello.uio", "-k", ".")["signed_by"] == ["b"]


def test_passphrases_come_from_a_file_or_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret").write_text("open sesame\n")
    uio("keygen", "demo.pem", "--passphrase-file", "secret")
    uio("build", "hello.c")
    missing = uio("sign", "hello.uio", "--key", "demo.pem", status=1)
    assert "protected by a passphrase" in missing.stderr
    uio("sign", "hello.uio", "--key", "demo.pem", "--passphrase-file", "secret")
    monkeypatch.setenv("UIO_PASSPHRASE", "wrong")
    assert "passphrase is wrong" in uio("sign", "hello.uio", "--key", "demo.pem", status=1).stderr
    monkeypatch.setenv("UIO_PASSPHRASE", "open sesame")
    uio("sign", "hello.uio", "--key", "demo.pem")
    uio("keygen", "asked.pem", "--passphrase", input="x\nx\n")


def test_openssl_checks_what_extract_writes(here: Path) -> None:
    uio("keygen", "demo.pem")
    uio("build", "hello.c", "--key", "demo.pem")
    assert "sig/1.payload sig/1.sig" in uio("verify", "hello.uio", "--extract", "sig").stdout
    command = "openssl pkeyutl -verify -pubin -inkey demo.pub.pem -rawin -in sig/1.payload -sigfile sig/1.sig"
    assert command in " ".join(uio("verify", "--help").stdout.split())
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)


WRONG_USAGE = [
    ["build"],
    ["build", "hello.c", "--all", "."],
    ["build", "hello.c", "--nonsense"],
    ["build", "hello.c", "--expires", "someday"],
    ["build", "hello.c", "--expires", "2001-01-01"],
    ["sign", "hello.uio"],
    ["verify", "hello.uio"],
    ["verify", "hello.uio", "-k", ".", "--unsigned", "maybe"],
    ["inspect"],
    ["scan"],
    ["keygen"],
    ["frobnicate"],
]


@pytest.mark.parametrize("arguments", WRONG_USAGE, ids=" ".join)
def test_wrong_usage_has_status_2(here: Path, arguments: list[str]) -> None:
    result = uio(*arguments, status=2)
    assert "Usage" in result.stderr and not result.stdout


FAILURES = {
    "build none.c": "none.c: there is no such file",
    "build hello.c --kernel none": "none: No such file",
    "build hello.c --key none.pem": "none.pem: No such file",
    "build hello.c --manifest none.toml": "none.toml",
    "sign none.uio --key demo.pem": "none.uio: No such file",
    "sign hello.c --key demo.pem": "no ELF file",
    "verify none.uio -k .": "none.uio: No such file",
    "verify hello.c -k .": "it is not signed",
    "verify hello.c -k none": "none: No such file",
    "inspect hello.c": "no ELF file",
    "scan hello.c": "no ELF file",
    "scan .": "no regular file",
    "keygen demo.pem": "demo.pem is there already",
    "keygen no/where.pem": "no/where.pem: No such file",
}


@pytest.mark.parametrize("line", FAILURES)
def test_failures_have_status_1_and_one_sentence(here: Path, line: str) -> None:
    uio("keygen", "demo.pem")
    result = uio(*line.split(), status=1)
    assert result.stderr.startswith("error: ") and FAILURES[line] in result.stderr
    assert "Traceback" not in result.output and not result.stdout


@pytest.mark.parametrize("command", ["build", "sign", "verify", "inspect", "scan", "keygen"])
def test_help_has_an_example(command: str) -> None:
    assert f"uioctl overlay {command} " in uio(command, "--help").stdout


def test_as_a_module(here: Path) -> None:
    """Also that help needs none of the slow libraries."""
    code = (
        "import sys; sys.argv = ['overlays', '--help']; from overlays.cli import app\n"
        "try: app()\n"
        "except SystemExit as e: assert not e.code\n"
        "slow = {'capstone', 'elftools', 'cryptography', 'msgspec'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [sys.executable, "-m", "overlays", "scan", str(here / "hello.c")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "") and "no ELF file" in done.stderr
