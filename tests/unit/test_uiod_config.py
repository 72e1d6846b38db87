# SPDX-License-Identifier: BSD-3-Clause
"""Configurations: what is right becomes types, and each mistake is named with its key and line."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uiod import accel, qemu, toml_lines
from uiod.config import Config, ConfigError, parse, parse_size, schema
from uiod.paths import RuntimeDir

FILE = Path("/etc/uio/count.cfg")
FULL = """
[vm]
name = "nginx"
kernel = "nginx_qemu-x86_64"
symbols = "../dbg/nginx.dbg"
memory = "128M"
cpus = 2
accel = "tcg"
append = "netdev.ip=172.44.0.2/24"
extra = ["-device", "virtio-rng-pci"]
[[share]]
tag = "fs0"
path = "root,fs"
readonly = false
[[share]]
tag = "fs1"
path = "/srv"
[[net]]
kind = "user"
forward = ["tcp:127.0.0.1:8080-:80"]
[[net]]
kind = "tap"
ifname = "tap0"
mac = "52:54:00:12:34:56"
[[net]]
kind = "socket"
connect = "127.0.0.1:1234"
[uio]
overlays = ["/usr/lib/uio/overlays", "overlays"]
exchange = "/var/lib/uio/nginx"
[trust]
keys = ["/etc/uio/keys"]
unsigned = "refuse"
[limits]
memory = "192M"
cpu = 1
pids = 64
[restart]
policy = "on-failure"
"""


def test_a_full_configuration() -> None:
    config = parse(FULL, FILE)
    assert config.name == "nginx"
    assert config.vm.memory == 128 << 20
    assert config.vm.kernel == Path("/etc/uio/nginx_qemu-x86_64")
    assert config.symbols == Path("/etc/dbg/nginx.dbg")
    assert config.uio.overlays == [Path("/usr/lib/uio/overlays"), Path("/etc/uio/overlays")]
    assert config.limits.cpu == 1.0
    assert [share.readonly for share in config.share] == [False, True]


def test_a_minimal_one_has_defaults() -> None:
    config = parse('[vm]\nkernel = "k"', FILE)
    assert (config.name, config.vm.accel, config.restart.policy) == ("count", "auto", "never")
    assert config.symbols == config.vm.kernel


MANY_LINES = 'extra = [\n  \'-x\', # ]\n  """\nmemory = \'\'\'"""\n]'
MISTAKES = {
    "unknown table": ("[vm]\nkernel='k'\n[limit]\n", 3, "limit: unknown table; did you mean 'limits'?"),
    "unknown key": ("[vm]\nkernel='k'\nmemroy='1G'", 3, "vm.memroy: unknown key; did you mean 'memory'?"),
    "a key like no other": ("[vm]\nkernel='k'\nxyzzy=1", 3, "vm.xyzzy: unknown key; known are kernel, name"),
    "a missing key": ("\n[vm]\nname='x'", 2, "vm: the key 'kernel' is missing"),
    "a missing table": ("", 0, "the table [vm] is missing"),
    "no TOML": ("[vm]\nkernel = = 'k'", 2, "no TOML"),
    "a size": ("[vm]\nkernel='k'\nmemory='12Q'", 3, "vm.memory: '12Q' is no size"),
    "a size that is a list": ("[vm]\nkernel='k'\nmemory=[]", 3, "vm.memory: expected a size"),
    "too little memory": ("[vm]\nkernel='k'\nmemory=1", 3, "1 bytes is no memory"),
    "a number": ("[vm]\nkernel='k'\ncpus='two'", 3, "vm.cpus: expected `int`, got `str`"),
    "out of range": ("[vm]\nkernel='k'\ncpus=0", 3, "vm.cpus: expected `int` >= 1"),
    "a word": ("[vm]\nkernel='k'\naccel='xen'", 3, "vm.accel: 'xen' is none of auto, kvm, tcg"),
    "a name": ("[vm]\nkernel='k'\nname='a/b'", 3, "vm.name: not of the form"),
    "a path": ("[vm]\nkernel=7", 2, "vm.kernel: expected a path"),
    "a table that is a value": ("vm = 3", 1, "vm: expected a table: write [vm]"),
    "a table in one pair of brackets": ("[vm]\nkernel='k'\n[net]\nkind='user'", 3, "write [[net]]"),
    "a table in two": ("[[vm]]\nkernel='k'", 1, "vm: expected a table: write [vm]"),
    "a list": ("[vm]\nkernel='k'\n[uio]\noverlays='x'", 4, "uio.overlays: expected a list"),
    "in the second of two": ("[vm]\nkernel='k'\n[[net]]\nkind='user'\n\n[[net]]\nkind='usr'", 7, "net.kind [1]: 'usr'"),
    "a forward": ("[vm]\nkernel='k'\n[[net]]\nkind='user'\nforward=['80:80']", 5, "'80:80' is not of the form"),
    "a port": ("[vm]\nkernel='k'\n[[net]]\nkind='user'\nforward=['tcp::99999-:80']", 5, "is not of the form"),
    "an option for another": ("[vm]\nkernel='k'\n[[net]]\nkind='user'\nifname='a'", 5, "means nothing for kind"),
    "an injected option": ("[vm]\nkernel='k'\n[[net]]\nkind='tap'\nifname='a,b=c'", 5, "not of the form"),
    "bridge without": ("[vm]\nkernel='k'\n[[net]]\nkind='bridge'", 3, "needs bridge"),
    "socket without": ("[vm]\nkernel='k'\n[[net]]\nkind='socket'", 3, "needs either connect or listen"),
    "one tag twice": ("[vm]\nkernel='k'\n" + 2 * "[[share]]\ntag='a'\npath='p'\n", 7, "another share"),
    "a limit below the guest": ("[vm]\nkernel='k'\n[limits]\nmemory='100M'", 4, "leaves QEMU and uiod no room"),
    "one behind a value of many lines": ("[vm]\nkernel='k'\n" + MANY_LINES + "\ncpus='x'", 8, "vm.cpus"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_with_its_line(case: str) -> None:
    text, line, words = MISTAKES[case]
    with pytest.raises(ConfigError) as error:
        parse(text, FILE)
    assert len(error.value.mistakes) == 1, error.value.mistakes
    assert error.value.mistakes[0].startswith(f"{FILE}:{line}: " if line else f"{FILE}: ")
    assert words in error.value.mistakes[0]


def test_all_mistakes_are_named_in_order() -> None:
    with pytest.raises(ConfigError) as error:
        parse("[vm]\ncpus=0\nfoo=1\n[uio]\ngroup=3\n[bar]", FILE)
    lines = [int(text.split(":")[1]) for text in error.value.mistakes]
    assert lines == [1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128M", 128 << 20), ("128MiB", 128 << 20), ("1.5G", 3 << 29), ("4k", 4096), ("12", 12),
        (4096, 4096), (" 1 G ", 1 << 30),
    ],
)  # fmt: skip
def test_sizes(text: str | int, value: int) -> None:
    assert parse_size(text) == value


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert str(error)


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_an_error(text: str) -> None:
    try:
        assert isinstance(parse(text, FILE), Config)
    except ConfigError as error:
        assert error.mistakes


@given(st.text("[]={}'\"#\\\n ab.,1", max_size=80))
def test_lines_of_any_toml_are_where_tomllib_has_keys(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    found = toml_lines.lines(text)
    for key, value in document.items():
        if not isinstance(value, (dict, list)):
            assert (key,) in found


def test_the_schema_names_every_key() -> None:
    found = schema()["$defs"]
    assert set(found) == {"Document", "Vm", "Share", "Net", "Uio", "Trust", "Limits", "Restart"}
    assert found["Vm"]["properties"]["memory"]["type"] == ["integer", "string"]


# QEMU's command line


def words(text: str, accel_: str = "tcg") -> list[str]:
    return qemu.command_line(parse(text, FILE), RuntimeDir(Path("/run/uio/x")), accel_)


def after(line: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(line) if name == option]


def test_the_command_line_of_a_full_configuration() -> None:
    line = words(FULL)
    assert {"-nodefaults", "-no-user-config", "-S", "-no-reboot"} <= set(line)
    assert after(line, "-sandbox")[0].startswith("on,")
    assert after(line, "-m") == ["128M"]
    assert after(line, "-append") == ["netdev.ip=172.44.0.2/24"]
    assert "path=/etc/uio/root,,fs" in after(line, "-fsdev")[0]
    assert [",readonly=on" in device for device in after(line, "-fsdev")] == [False, True]
    assert all("security_model=mapped-xattr" in device for device in after(line, "-fsdev"))
    assert after(line, "-netdev") == [
        "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80",
        "tap,id=net1,ifname=tap0,script=no,downscript=no",
        "socket,id=net2,connect=127.0.0.1:1234",
    ]
    assert line[-2:] == ["-device", "virtio-rng-pci"]
    for port in ("channel", "console", "fs"):
        assert any(
            f"chardev={port},name=org.uio.{port}" in device for device in after(line, "-device")
        )


def test_a_port_for_mounting_is_there_if_it_is_wanted() -> None:
    """And no more ports than are used: each costs the guest memory."""

    def ports(more: str) -> list[str]:
        devices = after(words(f"[vm]\nkernel='k'\n[uio]\n{more}"), "-device")
        assert f"virtio-serial-pci,id=uio,max_ports={len(devices)}" == devices[0]
        return [device.rpartition("=")[2] for device in devices[1:]]

    plain = ["org.uio.channel", "org.uio.console", "org.uio.fs"]
    assert ports("") == plain
    assert ports("mount=true") == [*plain, "org.uio.mount"]


def test_microvm_has_no_pci() -> None:
    line = words(
        "[vm]\nkernel='k'\nmachine='microvm'\n[[net]]\nkind='user'\n[[share]]\ntag='a'\npath='p'"
    )
    assert not [word for word in line if "-pci" in word]


def test_only_the_bridge_helper_loosens_the_sandbox() -> None:
    assert "spawn=deny" in after(words("[vm]\nkernel='k'\n[[net]]\nkind='user'"), "-sandbox")[0]
    bridged = words("[vm]\nkernel='k'\n[[net]]\nkind='bridge'\nbridge='br0'")
    assert "spawn=allow" in after(bridged, "-sandbox")[0]


# The accelerator


def probe(tmp_path: Path, status: int) -> str:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/runs\necho oops >&2\nexit {status}\n")
    program.chmod(0o755)
    return str(program)


def test_kvm_is_used_if_a_guest_runs_and_the_answer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path)
    program = probe(tmp_path, accel._EXIT)
    for _ in range(2):
        assert accel.choose("auto", program, tmp_path / "cache").accel == "kvm"
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_kvm_that_opens_and_runs_nothing_means_tcg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path)
    program = probe(tmp_path, 134)
    for _ in range(2):
        choice = accel.choose("auto", program, tmp_path / "cache")
        assert (choice.accel, choice.reason) == ("tcg", "a test guest did not run: oops")
    assert (tmp_path / "runs").read_text() == "ran\n"
    with pytest.raises(accel.UiodError, match="KVM is asked for and cannot be used"):
        accel.choose("kvm", program, tmp_path / "cache")


def test_without_kvm_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path / "nosuch")
    choice = accel.choose("auto", probe(tmp_path, 33), tmp_path / "cache")
    assert choice == accel.Choice("tcg", "there is no /dev/kvm")
    assert not (tmp_path / "runs").exists()


def test_a_damaged_memory_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path)
    (tmp_path / "cache").write_text("[1, 2")
    assert accel.choose("auto", probe(tmp_path, accel._EXIT), tmp_path / "cache").accel == "kvm"


def test_the_probe_is_a_guest_that_qemu_runs() -> None:
    assert accel.runs_guests(qemu.find("qemu-system-x86_64"), "tcg") is None
