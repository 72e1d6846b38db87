# SPDX-License-Identifier: BSD-3-Clause
"""The reference of the configuration: what each key means, beside what `config` declares of it.

`python -m uiod.configref` prints docs/config.md; `uiod.manpages` makes uio.cfg(5) of the same rows. uiod itself needs
none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from uiod import config

INTRODUCTION = (
    "One file of TOML per VM, `NAME.cfg`. Relative paths count from the file's own directory, and `~` is a home "
    "directory. `uiod check FILE` names each mistake with its key and line; `uiod schema` prints the same as JSON "
    "schema for editors. A key marked *live* takes effect with `systemctl reload uiod@NAME` (SIGHUP); the others when "
    "the VM is started the next time."
)

TABLES = {
    "vm": "The machine. The only table that must be there.",
    "share": "A directory of the host as a virtio-9p device, served by QEMU. As many as wanted.",
    "net": "A network interface. As many as wanted; without one the VM has no network.",
    "uio": "What the guest may use of the host through uIO.",
    "trust": "Whose overlays run.",
    "limits": "The limits of the VM's cgroup, in which QEMU and uiod are together. What is left out is unlimited.",
    "restart": "What happens when the VM ends by itself. A daemon that ends is the service manager's to restart.",
}

TEXTS = {
    "vm.kernel": "The image that is booted (`qemu -kernel`).",
    "vm.name": "The VM's name, by which uioctl finds it. Default: the file's name without its suffix.",
    "vm.symbols": "An ELF with the kernel's symbols, against which overlays are linked. Default: the kernel.",
    "vm.initrd": "An initial RAM disk.",
    "vm.memory": "The guest's memory.",
    "vm.cpus": "Virtual processors.",
    "vm.machine": "QEMU's machine type.",
    "vm.accel": "`auto` takes KVM where a small test guest really runs on it, else TCG; `uioctl inspect` says which "
    "and why. `kvm` is an error where KVM does not run guests.",
    "vm.append": "The kernel's command line.",
    "vm.qemu": "QEMU's program.",
    "vm.extra": "Further arguments for QEMU, as they are. Files they name belong into `uio.readable` or "
    "`uio.writable`, too.",
    "vm.ready_timeout_s": "How long the guest may take to its HELLO; then it is stopped. 0: for ever.",
    "vm.stop_timeout_s": "How long the guest may take to stop before QEMU is told to quit.",
    "share.tag": "The name by which the guest mounts it.",
    "share.path": "The directory.",
    "share.readonly": "Whether the guest may only read.",
    "share.security": "`mapped` keeps owners and modes in extended attributes, so that nothing the guest makes is "
    "special on the host; `none` takes them over as far as QEMU may.",
    "net.kind": "`user`: QEMU's own NAT; `tap`: an interface of the host; `bridge`: through QEMU's setuid helper, "
    "which keeps uiod from confining itself; `socket`: from QEMU to QEMU.",
    "net.forward": 'For `user`: ports, `"tcp:127.0.0.1:8080-:80"`.',
    "net.ifname": "For `tap`: the interface.",
    "net.bridge": "For `bridge`: the bridge.",
    "net.connect": "For `socket`: the other end.",
    "net.listen": "For `socket`: where to wait for the other end.",
    "net.mac": "The address.",
    "net.model": "The device.",
    "uio.overlays": "Directories with overlays (`*.uio`). *Live.*",
    "uio.exchange": "A directory that the guest sees as `/host`, to read and write; made if it is not there.",
    "uio.exchange_max_bytes": "How many bytes the guest may have in it.",
    "uio.exchange_max_files": "How many files the guest may have in it.",
    "uio.mount": "Whether the application itself may mount the same files, over a port and a session of its own "
    "(Unikraft with `LIBUIO_9PFS`: docs/unikraft.md).",
    "uio.group": "A group whose members may use the API, beside root and uiod's own user.",
    "uio.log_bytes": "How much of the serial console's output is kept on disk.",
    "uio.confine": "Landlock, seccomp, capabilities and resource limits on uiod and QEMU: as far as the kernel has "
    "them, all of them or no start, or none. `uioctl inspect` says what is in force.",
    "uio.domain": "`require`: overlays run only if the guest keeps them apart with protection keys (HELLO's `pku`).",
    "uio.readable": "More files and directories that QEMU reads, such as those named in `vm.extra`.",
    "uio.writable": "More files and directories that QEMU writes.",
    "uio.exec_timeout_s": "A deadline for commands that bring none. 0: none. *Live.*",
    "trust.keys": "Public keys (PEM), or directories of them. A file `revoked` in such a directory lists keys that are "
    "trusted no more. *Live.*",
    "trust.bpf": "Which eBPF programs run: `verified`, those that the verifier accepts; or `checked`, also those of "
    "which it cannot show that they are safe, under the machine's own checks. *Live.*",
    "trust.unsigned": "What becomes of overlays without a signature by one of these keys. *Live.*",
    "limits.memory": "Memory in all. At least the guest's and 32M; 64M beside it is a good measure. *Live.*",
    "limits.memory_high": "From here on the kernel slows the VM down and reclaims. *Live.*",
    "limits.cpu": "Processors, such as 0.5. *Live.*",
    "limits.cpu_weight": "Its share when processors are short; 100 is everybody's. *Live.*",
    "limits.pids": "Processes and threads; QEMU has few. *Live.*",
    "limits.cgroup": "`auto` warns where there can be no cgroup, `require` does not start, `off` makes none.",
    "restart.policy": "When to start it again: not at all, when it crashed, or also when the guest powered off.",
    "restart.delay_s": "How long to wait first; doubled each time, anew after a minute of running.",
    "restart.max_delay_s": "How long to wait at most.",
    "restart.max_tries": "How often at most. 0: no end.",
}


@dataclass(frozen=True)
class Key:
    """One key of the configuration."""

    table: str
    name: str
    kind: str
    default: str
    text: str


def _kind(kind: Any) -> str:
    options = [option for option in get_args(kind) if option is not type(None)]
    if kind == config.Size:
        return "size"
    if type(None) in get_args(kind) and len(options) == 1:
        return _kind(options[0])
    if get_origin(kind) is Literal:
        return " | ".join(f'"{option}"' for option in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_kind(get_args(kind)[0])}s"
    if kind is Path:
        return "path"
    if hasattr(kind, "__metadata__"):
        return _kind(kind.__origin__)
    return {str: "text", int: "number", float: "number", bool: "true | false"}[kind]


def _default(field: Any) -> str:
    if field.required:
        return "must be given"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None or value in ("", []):
        return "none"
    if field.type == config.Size:
        return f'"{value >> 20}M"'
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def keys(table: str) -> Iterator[Key]:
    """The keys of a table, in order."""
    kind, _several = config._TABLES[table]
    for field in msgspec.structs.fields(kind):
        text = TEXTS[f"{table}.{field.name}"]
        yield Key(table, field.name, _kind(field.type), _default(field), text)


def heading(table: str) -> str:
    """`[vm]` or `[[share]]`."""
    return f"[[{table}]]" if config._TABLES[table][1] else f"[{table}]"


def markdown() -> str:
    """docs/config.md."""
    lines = [
        "# Configuration of a VM",
        "",
        "<!-- made by `python -m uiod.configref >docs/config.md`; the texts are in uiod/configref.py -->",
        "",
        INTRODUCTION,
        "",
        'A *size* is a number of bytes, or text such as `"128M"` (K, M, G, T are powers of 1024).',
    ]
    for table in config._TABLES:
        lines += ["", f"## {heading(table)}", "", TABLES[table], ""]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        for key in keys(table):
            kind = key.kind.replace("|", "\\|")
            lines.append(f"| `{key.name}` | {kind} | {key.default} | {key.text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
