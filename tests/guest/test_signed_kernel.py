# SPDX-License-Identifier: BSD-3-Clause
"""A kernel that checks signatures itself: what uiod lets through and the guest does not, and the other way.

KERNEL=… KERNEL_DBG=… KERNEL_KEY=…/guest.pem: a prebuilt kernel that trusts that key (guest.pub.pem beside it) alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import refguest_vm
import vm
from hosted.client import IMAGE, REFUSED, Client

from overlays.build import build
from overlays.keys import generate, key_id, load_private, load_public
from overlays.sign import sign_file
from uiod.run import Machine

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        "KERNEL" in os.environ and "KERNEL_KEY" not in os.environ,
        reason="KERNEL checks no signatures, or KERNEL_KEY does not say by which key",
    ),
]

KEYS = refguest_vm.ROOT / "build" / "keys" / "tests"
PRIVATE = Path(os.environ.get("KERNEL_KEY", KEYS / "guest.pem"))
PUBLIC = PRIVATE.with_name("guest.pub.pem")


@pytest.fixture(scope="module")
def kernel() -> Path:
    """It trusts one key that stays, so that it need not be built each time."""
    if given := os.environ.get("KERNEL"):
        return Path(given)
    KEYS.mkdir(parents=True, exist_ok=True)
    if not PRIVATE.exists():
        generate(PRIVATE)
    return refguest_vm.build("count", libuio=True, keys=[PUBLIC])


@pytest.fixture(scope="module")
def symbols(kernel: Path) -> Path:
    return Path(os.environ.get("KERNEL_DBG", kernel))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, kernel: Path, symbols: Path) -> Path:
    """Overlays by all kinds of signers, on a host that is content with any of them."""
    home = tmp_path_factory.mktemp("signed")
    (home / "bin").mkdir()
    generate(home / "stranger.pem")
    trusted = load_private(PRIVATE)
    (home / "crash.c").write_text("int main(void)\n{\n\t*(volatile int *)8 = 1;\n\treturn 0;\n}\n")
    for source in (vm.SHIPPED / "hello.c", home / "crash.c"):
        build([source], home / "bin" / f"{source.stem}.uio", kernel=symbols, key=trusted)
    for name in ("unsigned", "foreign", "expired", "renewed"):
        source = home / f"{name}.c"
        source.write_text(
            f'#include <stdio.h>\nint main(void) {{ puts("{name} runs"); return 0; }}\n'
        )
        build([source], home / "bin" / f"{name}.uio", kernel=symbols)
    sign_file(home / "bin" / "foreign.uio", load_private(home / "stranger.pem"))
    sign_file(home / "bin" / "expired.uio", trusted, not_after=1_000_000_000)
    sign_file(home / "bin" / "renewed.uio", trusted, not_after=int(time.time()) + 86400)
    (home / "vm.cfg").write_text(
        f'[vm]\nkernel = "{kernel}"\nsymbols = "{symbols}"\nmemory = "64M"\n[uio]\noverlays = ["bin"]\n'
        '[trust]\nunsigned = "warn"\n'
    )
    return home


@pytest.fixture(scope="module")
def guest(home: Path) -> Iterator[Machine]:
    with vm.machine(home / "vm.cfg") as running:
        yield running


def identity() -> str:
    return load_public(PUBLIC).id.hex()


def test_what_the_trusted_key_signed_just_works(guest: Machine) -> None:
    for _ in range(2):
        done = guest.exec("hello", "world")
        assert (done.code, done.text) == (0, "Hello, world!\n"), done
    assert guest.exec("renewed").text == "renewed runs\n"


@pytest.mark.parametrize(("name", "says"), [
    ("unsigned", "it is not signed; this kernel wants it signed by guest ({guest})"),
    ("foreign", "it is signed by key {stranger}, not by guest ({guest})"),
    ("expired", "its signature by guest ({guest}) expired on 2001-09-09"),
])  # fmt: skip
def test_the_guest_refuses_what_the_host_lets_through(
    guest: Machine, home: Path, name: str, says: str
) -> None:
    stranger = load_private(home / "stranger.pem").public_key().public_bytes_raw()
    done = guest.exec(name)
    assert (done.code, done.kind, done.stdout) == (126, "refused", b""), done
    assert says.format(guest=identity(), stranger=key_id(stranger).hex()) in done.message


def test_a_fault_is_told_with_its_line_all_the_same(guest: Machine) -> None:
    for _ in range(2):  # the second time it is loaded afresh
        done = guest.exec("crash")
        assert done.code == 139, done
        assert done.info["fault"]["source"].endswith("crash.c:3"), done.info


def test_a_pushed_image_is_refused(kernel: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="uio-signed-"))
    devices = [
        "-device", "virtio-serial-pci,id=uio,max_ports=4",
        "-chardev", f"socket,id=channel,path={directory}/channel.sock,server=on,wait=off",
        "-device", "virtserialport,bus=uio.0,chardev=channel,name=org.uio.channel",
    ]  # fmt: skip
    try:
        with refguest_vm.boot(kernel, *devices) as booted:
            booted.read_until("count: 1")
            with Client(directory / "channel.sock") as client:
                client.send(IMAGE, client.next_id, 0, b"\0uIOIMG1" + bytes(4088))
                done = client.run("hello", flags=2, digest=b"\1" * 32)
                assert done.kind == REFUSED
                assert "takes the file" in done.message
                assert client.run("echo", "on").stdout == b"on\n"
    finally:
        shutil.rmtree(directory)
