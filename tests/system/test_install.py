# SPDX-License-Identifier: BSD-3-Clause
"""`make install`, the wheel and the Debian package: what arrives where, and that it works from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)

TOP = Path(__file__).parents[2]

INSTALLED = (
    "usr/bin/uiod", "usr/bin/uioctl", "usr/lib/uio/unit-helper",
    "usr/lib/systemd/system/uiod@.service", "usr/lib/sysusers.d/uio.conf", "usr/lib/tmpfiles.d/uio.conf",
    "usr/share/man/man1/uiod.1", "usr/share/man/man1/uioctl.1", "usr/share/man/man5/uio.cfg.5",
    "usr/share/bash-completion/completions/uioctl", "usr/share/zsh/vendor-completions/_uioctl",
    "usr/share/fish/vendor_completions.d/uioctl.fish", "usr/include/uio/uio.h",
    "usr/share/uio/overlays/hello.c", "usr/share/doc/uio/operations.md",
    "usr/share/doc/uio/examples/nginx.cfg",
)  # fmt: skip


def clean() -> dict[str, str]:
    """The environment without what would let the tree's own modules be found."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "HOME": "/nonexistent"}


def works(uiod: Path, uioctl: Path, overlay: Path, tmp_path: Path) -> None:
    """Both programs run; an overlay is built, which needs the headers and sources that came along."""

    def run(*argv: str | Path) -> str:
        done = subprocess.run(
            argv, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    assert "uiod 0." in run(uiod, "version")
    assert "uiod 0." in run(uiod, "--version")
    assert "uioctl 0." in run(uioctl, "--version")
    config = tmp_path / "t.cfg"
    config.write_text('[vm]\nkernel = "k"\n')
    assert "virtio-serial-pci" in run(uiod, "check", config)
    built = tmp_path / "hello.uio"
    run(uioctl, "overlay", "build", overlay, "-o", built)
    assert built.read_bytes()[:4] == b"\x7fELF"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` has put below a directory, for Debian's Python."""
    top = tmp_path_factory.mktemp("install") / "d"
    subprocess.run(["make", "-s", "install", f"DESTDIR={top}", "PREFIX=/usr"], cwd=TOP, check=True)
    return top


def test_make_install(installed: Path, tmp_path: Path) -> None:
    top = tmp_path / "d"
    shutil.copytree(installed, top, symlinks=True)
    assert [path for path in INSTALLED if not (top / path).exists()] == []
    assert (top / "etc/uio/keys").is_dir()
    assert os.access(top / "usr/lib/uio/unit-helper", os.X_OK)
    # Nothing that is installed knows where it was built or staged.
    for path in INSTALLED:
        assert str(installed) not in (top / path).read_text()
        assert str(TOP) not in (top / path).read_text()
    compiled = next((top / "usr/lib/uio/python/uiod/__pycache__").glob("config.*.pyc"))
    assert str(installed).encode() not in compiled.read_bytes()
    # As if it were at /usr: the launchers' one absolute path is put where it is now.
    for name in ("uiod", "uioctl"):
        launcher = top / "usr/bin" / name
        launcher.write_text(launcher.read_text().replace("/usr/lib/uio", str(top / "usr/lib/uio")))
    source = top / "usr/share/uio/overlays/hello.c"
    works(top / "usr/bin/uiod", top / "usr/bin/uioctl", source, tmp_path)


def test_another_prefix_is_in_the_unit(tmp_path: Path) -> None:
    subprocess.run(
        ["make", "-s", "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/uio", "WITH_DEPS=no"],
        cwd=TOP,
        check=True,
    )
    unit = (tmp_path / "opt/uio/lib/systemd/system/uiod@.service").read_text()
    assert "ExecStart=/opt/uio/bin/uiod start" in unit
    assert "ExecStop=+/opt/uio/lib/uio/unit-helper" in unit and "/usr/" not in unit
    assert "/opt/uio/lib/uio/python" in (tmp_path / "opt/uio/bin/uiod").read_text()
    # Without the dependencies it is ours alone that is there.
    there = {path.name for path in (tmp_path / "opt/uio/lib/uio/python").iterdir()}
    assert "uiod" in there and "trio" not in there


def test_the_wheel_works_in_a_fresh_venv(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run(["make", "-s", "wheel"], cwd=TOP, check=True)
    wheel = next((TOP / "build/wheel").glob("uio-*.whl"))
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    subprocess.run([*pip, wheel], check=True, env={**os.environ, "PYTHONPATH": ""})
    where = subprocess.run(
        [venv / "bin/python", "-c", "import overlays; print(overlays.__path__[0])"],
        cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert where.startswith(str(venv))
    works(venv / "bin/uiod", venv / "bin/uioctl", Path(where) / "src/hello.c", tmp_path)


def test_the_debian_package(installed: Path, tmp_path: Path) -> None:
    """`make deb` does no more than this."""
    root = tmp_path / "root"
    shutil.copytree(installed, root, symlinks=True)
    subprocess.run([TOP / "examples/debian/build.sh", root, "0.1", tmp_path], check=True)
    package = tmp_path / "uio_0.1_amd64.deb"

    def asked(*argv: str | Path) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    fields = asked("dpkg-deb", "--field", package, "Package", "Depends", "Architecture")
    assert "Package: uio\n" in fields and "Architecture: amd64" in fields
    for name in ("python3 (>= 3.", "qemu-system-x86 (>= ", "libc6 (>= "):
        assert name in fields
    top = tmp_path / "d"
    asked("dpkg-deb", "--raw-extract", package, top)
    packed = [f"{path}.gz" if "/man/" in path else path for path in INSTALLED]
    assert [path for path in packed if not (top / path).exists()] == []
    assert "BSD-3-Clause" in (top / "usr/share/doc/uio/copyright").read_text()
    assert "@" not in (top / "DEBIAN/control").read_text().replace("maintainers@", "")
    # Everything is root's, and only root may write it.
    for line in asked("dpkg-deb", "--contents", package).splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root" and (mode[0] == "l" or mode[5] == mode[8] == "-"), line
    for line in (top / "DEBIAN/md5sums").read_text().splitlines():
        assert (top / line.split(maxsplit=1)[1]).is_file()
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", top / "DEBIAN" / script], check=True)
    for name in ("uiod", "uioctl"):
        launcher = top / "usr/bin" / name
        assert launcher.read_text().startswith("#!/usr/bin/python3\n")
        launcher.write_text(launcher.read_text().replace("/usr/lib/uio", str(top / "usr/lib/uio")))
    source = top / "usr/share/uio/overlays/hello.c"
    works(top / "usr/bin/uiod", top / "usr/bin/uioctl", source, tmp_path)
