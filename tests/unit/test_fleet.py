# SPDX-License-Identifier: BSD-3-Clause
"""The examples for many machines, as far as they can be checked without a cluster: their commands are ours, the
configurations in them load, the names in them lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from uiod import config
from uiod.metrics import prometheus
from uiod.supervisor import Supervisor

TOP = Path(__file__).parents[2]
FLEET = TOP / "examples" / "fleet"


def runs(command: list[str], tmp_path: Path) -> str:
    """What one of our programs says where no VM runs."""
    name = Path(command[0]).name
    assert name in ("uiod", "uioctl")
    env = {**os.environ, "UIO_RUNTIME_DIR": str(tmp_path)}
    argv = [str(Path(sys.executable).with_name(name)), *command[1:]]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env).stderr


def loads(text: str, tmp_path: Path) -> config.Config:
    path = tmp_path / "web.cfg"
    path.write_text(text)
    return config.load(path)


@pytest.fixture(scope="module")
def pod() -> tuple[dict[str, Any], dict[str, Any]]:
    settings, pod = yaml.safe_load_all((FLEET / "pod.yaml").read_text())
    assert (settings["kind"], pod["kind"]) == ("ConfigMap", "Pod")
    return settings, pod


def test_the_pods_configuration_loads(
    pod: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    settings, spec = pod[0], pod[1]["spec"]
    loaded = loads(settings["data"]["web.cfg"], tmp_path)
    (container,) = spec["containers"]
    assert container["args"] == ["start", "--runtime-dir", "/run/uio", "/etc/uio/web.cfg"]
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    assert memory >= loaded.vm.memory + (128 << 20)
    ports = [port["containerPort"] for port in container["ports"]]
    assert [int(f.split("-:")[0].split(":")[-1]) for f in loaded.net[0].forward] == ports


def test_the_pods_probes_are_commands_of_ours(
    pod: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    (container,) = pod[1]["spec"]["containers"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    for probe in probes:
        assert "there is no VM 'web'" in runs(probe["exec"]["command"], tmp_path)
    # uioctl gives up before the kubelet does, so that its message is what is seen.
    for probe in probes:
        command = probe["exec"]["command"]
        if "--timeout" in command:
            own = command[command.index("--timeout") + 1]
            assert int(own.removesuffix("s")) < probe["timeoutSeconds"]


def test_the_pods_mounts_user_and_programs_are_there(
    pod: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec = pod[1]["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    containerfile = (FLEET / "Containerfile").read_text()
    assert f"--uid {spec['securityContext']['runAsUser']} " in containerfile
    for name in ("web.elf", "web.dbg"):
        assert f"/srv/web/{name}" in pod[0]["data"]["web.cfg"]
        assert name in containerfile
    # What is written lies on a volume: the root is read-only.
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/run/uio", "/var/lib/uio", "/tmp"} <= mounts


def test_the_nomad_jobs_configuration_and_check_are_ours(tmp_path: Path) -> None:
    text = (FLEET / "web.nomad.hcl").read_text()
    found = re.search(r"data\s+= <<-CFG\n(.*?)\n\s+CFG\n", text, re.DOTALL)
    assert found
    values = {"NOMAD_IP_http": "127.0.0.1", "NOMAD_PORT_http": "8080"}
    filled = re.sub(r'\{\{ env "(\w+)" \}\}', lambda m: values[m[1]], found[1])
    loaded = loads(filled, tmp_path)
    stop_s = re.search(r'kill_timeout = "(\d+)s"', text)
    assert stop_s and int(stop_s[1]) > loaded.vm.stop_timeout_s
    commands = re.findall(r'command\s+= "([^"]+)"\n\s+args\s+= \[([^\]]*)\]', text)
    assert [Path(program).name for program, _ in commands] == ["uiod", "uioctl"]
    check = [word.strip().strip('"') for word in commands[1][1].split(",")]
    check[check.index("--runtime-dir") + 1] = str(tmp_path)
    assert "there is no VM 'web'" in runs(["uioctl", *check], tmp_path)
    assert text.count("{") == text.count("}")


def metrics(tmp_path: Path) -> set[str]:
    text = prometheus(Supervisor(loads('[vm]\nkernel = "k"\n', tmp_path), tmp_path))
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def test_prometheus_keeps_our_metrics_and_finds_its_rules(tmp_path: Path) -> None:
    scrape = yaml.safe_load((FLEET / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    for rule in job["metric_relabel_configs"]:
        assert (rule["source_labels"], rule["action"]) == (["__name__"], "keep")
        assert all(re.fullmatch(rule["regex"], name) for name in metrics(tmp_path))
    for name in scrape["rule_files"]:
        assert (FLEET / name).exists()


def test_alerts_are_about_metrics_and_labels_that_exist(tmp_path: Path) -> None:
    known = metrics(tmp_path)
    rules = yaml.safe_load((FLEET / "uio-alerts.yml").read_text())["groups"][0]["rules"]
    assert len(rules) >= 5
    for rule in rules:
        names = re.findall(r"\buio_[a-z0-9_]+", rule["expr"])
        assert names and set(names) <= known, rule["alert"]
        labels = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert set(labels) <= {"vm"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_timer_and_the_drop_in(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in ("uio-metrics.service", "uio-metrics.timer"):
        shutil.copy(FLEET / name, units)
    shutil.copy(TOP / "examples/uiod@.service", units)
    (units / "uiod@.service.d").mkdir()
    shutil.copy(FLEET / "uiod-credentials.conf", units / "uiod@.service.d")
    program = tmp_path / "usr/local/lib/uio/uio-metrics"
    program.parent.mkdir(parents=True)
    shutil.copy(FLEET / "uio-metrics", program)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={tmp_path}",
         *(f"/etc/systemd/system/{name}" for name in ("uio-metrics.timer", "uiod@.service"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    words = [w for w in done.stderr.splitlines() if "uio" in w and "is not executable" not in w]
    # Versions before 254 do not know DelegateSubgroup.
    assert [w for w in words if "DelegateSubgroup" not in w] == []
