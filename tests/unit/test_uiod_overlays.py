# SPDX-License-Identifier: BSD-3-Clause
"""Overlays through the daemon: found, judged, linked, pushed once, run by hash, put into words when they fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from uiod_harness import Daemon, daemon, write_config
from uiod_kernel import build as build_kernel

from overlays.build import build
from overlays.kernel import Kernel
from overlays.keys import generate

SOURCE = """
extern int counter;
extern int set_count(int n);
extern void puts(const char *s);
static int helper(int n) {{ return set_count(n) + {number}; }}
int main(int argc, char **argv) {{ puts(argv[0]); return helper(argc) + counter; }}
"""


@dataclass
class Site:
    """A directory with a kernel, a key, a store, and a daemon."""

    directory: Path
    kernel: Path
    vm: Daemon

    def overlay(self, name: str, signed: bool = True, source: str | None = None) -> Path:
        text = self.directory / f"{name}.c"
        text.write_text(source or SOURCE.format(number=hash(name) % 1000))
        output = self.directory / "store" / f"{name}.uio"
        build([text], output, key=self.directory / "key.pem" if signed else None)
        return output

    def exec(self, *argv: str, **more: Any) -> tuple[str, dict[str, Any]]:
        out, _err, exit = self.vm.api.exec(*argv, **more)
        return out.decode(), exit


def site(directory: Path, append: str = "", build_id: str | None = None) -> tuple[Path, Path]:
    kernel = build_kernel(directory)
    (directory / "store").mkdir()
    generate(directory / "key.pem")
    build_id = build_id or Kernel.open(kernel).build_id.hex()
    public = next(path for path in directory.glob("*.pem") if path.name != "key.pem")
    more = f'[uio]\noverlays = ["store"]\n[trust]\nkeys = ["{public.name}"]\n'
    config = write_config(
        directory, f"build_id={build_id} {append}", more, kernel=json.dumps(kernel.name)
    )
    return kernel, config


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    kernel, config = site(directory)
    with daemon(config, directory / "run") as vm:
        vm.until_ready()
        made = Site(directory, kernel, vm)
        made.overlay("first")
        yield made


def test_an_overlay_is_sent_once_and_run_by_hash_after_that(here: Site) -> None:
    here.overlay("once")
    first, exit = here.exec("once", "a", "b")
    assert exit["code"] == 0, exit
    assert first.startswith("once a b: sent at 0x10")
    again, _ = here.exec("once")
    assert again.startswith("once: resident at 0x10")


def test_overlays_get_places_of_their_own(here: Site) -> None:
    places = set()
    for name in ("one", "two", "three"):
        here.overlay(name)
        places.add(here.exec(name)[0].split()[-1])
    assert len(places) == 3


def test_an_image_that_went_missing_is_sent_again_with_the_input_so_far(here: Site) -> None:
    here.exec("first")
    here.exec("forget")
    out, exit = here.exec("first", stdin=b"some input")
    assert out.startswith("first: sent at")
    assert exit["code"] == 0


def test_the_list_shows_what_is_loaded(here: Site) -> None:
    here.exec("first")
    found = {info["name"]: info for info in here.vm.api.get("/v1/overlays")}
    assert found["first"]["loaded"]
    assert found["first"]["uses"] >= 1
    assert found["first"]["signed_by"]


def test_load_and_unload(here: Site) -> None:
    here.overlay("idle")
    status, info = here.vm.api.request("POST", "/v1/overlays/load", {"name": "idle"})
    assert (status, info["loaded"], info["uses"]) == (200, True, 0)
    status, info = here.vm.api.request("POST", "/v1/overlays/unload", {"name": "idle"})
    assert (status, info["loaded"]) == (200, False)
    assert here.vm.api.request("POST", "/v1/overlays/unload", {"name": "idle"})[0] == 404
    assert here.vm.api.request("POST", "/v1/overlays/load", {"name": "nosuch"})[0] == 404
    assert here.vm.api.request("POST", "/v1/overlays/load", {"nam": "idle"})[0] == 400


def test_an_unsigned_overlay_is_refused(here: Site) -> None:
    here.overlay("unsigned", signed=False)
    _, exit = here.exec("unsigned")
    assert (exit["kind"], exit["code"]) == ("refused", 126)
    assert "sign" in exit["message"]
    listed = next(i for i in here.vm.api.get("/v1/overlays") if i["name"] == "unsigned")
    assert listed["state"] == "refused"
    status, body = here.vm.api.request("POST", "/v1/overlays/load", {"name": "unsigned"})
    assert status == 422, body


def test_a_file_that_is_no_elf_is_refused(here: Site) -> None:
    (here.directory / "store" / "text.uio").write_text("not at all\n" * 100)
    _, exit = here.exec("text")
    assert (exit["kind"], exit["code"]) == ("refused", 126)
    assert "text.uio: it is not signed" in exit["message"]


def test_a_name_the_kernel_does_not_have_is_refused_with_near_ones(here: Site) -> None:
    here.overlay(
        "wrong", source="extern int set_cuont(int); int main(void) { return set_cuont(1); }"
    )
    _, exit = here.exec("wrong")
    assert (exit["kind"], exit["code"]) == ("refused", 126)
    assert "set_cuont" in exit["message"]
    assert "set_count" in exit["message"]


def test_a_fault_in_an_overlay_names_function_and_line(here: Site) -> None:
    fault = here.exec("first", "crash")[1]["fault"]
    assert fault["overlay"] == "first"
    assert fault["where"].startswith("first:")
    assert "first.c:" in (fault["source"] or "")
    assert fault["backtrace"][0].split()[1].startswith("first:")


def test_names_are_resolved_for_a_guest_that_links_itself(here: Site) -> None:
    out, _ = here.exec("symbols", "set_count", "counter", "nosuch", "puts")
    kernel = Kernel.open(here.kernel)
    lines = out.splitlines()
    addresses = [kernel.for_overlay(name) for name in ("set_count", "counter", "puts")]
    assert all(addresses)
    set_count, counter, puts = addresses
    assert set_count and counter and puts
    assert lines[0] == f"{set_count.address:#x} {set_count.size} 1"
    assert lines[1] == f"{counter.address:#x} 4 2"
    assert lines[2] == "0x0 0 0"
    assert lines[3] == f"{puts.address:#x} {puts.size} 1"
    assert puts.name == "uio_libc_puts"


def test_symbols_over_the_api(here: Site) -> None:
    found = here.vm.api.get("/v1/symbol?name=set_count")
    assert found["type"] == "function"
    assert "kernel.c:" in found["source"]
    at = here.vm.api.get(f"/v1/symbol?address={found['address'] + 1:#x}")
    assert (at["name"], at["offset"]) == ("set_count", 1)
    status, body = here.vm.api.request("GET", "/v1/symbol?name=set_cuont")
    assert status == 404
    assert "set_count" in body["hint"]


def test_another_kernel_than_the_running_one_is_refused_with_both_ids(tmp_path: Path) -> None:
    kernel, config = site(tmp_path, build_id="bb" * 20)
    with daemon(config, tmp_path / "run") as vm:
        vm.until_ready()
        made = Site(tmp_path, kernel, vm)
        made.overlay("first")
        _, exit = made.exec("first")
        assert exit["code"] == 126
        assert "bb" * 20 in exit["message"]
        assert Kernel.open(kernel).build_id.hex() in exit["message"]
        assert made.exec("echo", "builtins", "go", "on")[1]["code"] == 0
        assert any("bb" * 20 in text for text in vm.api.get("/v1/vm")["warnings"])


def test_a_full_arena_makes_room(tmp_path: Path) -> None:
    kernel, config = site(tmp_path, f"push_size={4 * 4096}")
    with daemon(config, tmp_path / "run") as vm:
        vm.until_ready()
        made = Site(tmp_path, kernel, vm)
        for i in range(6):
            made.overlay(f"o{i}")
            out, exit = made.exec(f"o{i}")
            assert exit["code"] == 0, exit
            assert "sent at" in out


def test_an_adopted_guest_keeps_its_overlays(tmp_path: Path) -> None:
    kernel, config = site(tmp_path)
    with daemon(config, tmp_path / "run") as first:
        first.until_ready()
        made = Site(tmp_path, kernel, first)
        made.overlay("stay")
        assert "sent at" in made.exec("stay")[0]
        first.process.kill()
        first.process.wait()
        with daemon(config, tmp_path / "run") as second:
            second.until_ready()
            assert "resident at" in Site(tmp_path, kernel, second).exec("stay")[0]
