# SPDX-License-Identifier: BSD-3-Clause
"""The JSON bodies of uiod's HTTP API (docs/api.md), shared by the daemon and uioctl."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

API_VERSION = 1

VmState = Literal["starting", "running", "paused", "stopping", "stopped", "crashed"]


class HelloInfo(msgspec.Struct, kw_only=True):
    """What the guest said of itself in HELLO (docs/protocol.md)."""

    kernel: str
    build_id: str  # hex
    features: list[str]  # "pku", "fail-stop", "w^x", …
    builtins: list[str]
    uptime_ns: int
    arena_base: int
    arena_size: int
    slide: int = 0  # run-time minus link-time address of the kernel's symbols


class VmInfo(msgspec.Struct, kw_only=True):
    """GET /v1/vm."""

    name: str
    state: VmState
    ready: bool  # HELLO has arrived
    pid: int  # of uiod
    qemu_pid: int | None
    accel: str  # "kvm" or "tcg"
    accel_reason: str
    kernel: str
    symbols: str = ""  # path of the ELF with symbols
    config: str  # path of the configuration
    memory_bytes: int
    cpus: int
    started: float  # Unix time
    cgroup: str | None
    restarts: int
    adopted: bool
    exit_status: int | None = None
    reason: str = ""  # why it is not running, if it is not
    hello: HelloInfo | None = None
    warnings: list[str] = msgspec.field(default_factory=list)
    argv: list[str] = msgspec.field(default_factory=list)  # QEMU's command line
    confinement: dict[str, Any] = msgspec.field(default_factory=dict)


class ExecRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/exec."""

    argv: list[str]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    tty: bool = False
    stdin: bool = False
    rows: int = 0
    columns: int = 0
    timeout_ms: int = 0
    pull: bool = False  # let the guest pull and link instead of pushing an image


class BpfRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/bpf, and /v1/bpf/attach."""

    object: str  # in base64: docs/bpf.md, section 2
    attach: list[tuple[int, int]] = msgspec.field(
        default_factory=list
    )  # program, address (timers: 0)


class BpfSession(msgspec.Struct, kw_only=True):
    """The answer to POST /v1/bpf/attach."""

    session: int  # its number in the guest: for `bpf ls`, `bpf maps`, `bpf detach`


class FaultInfo(msgspec.Struct, kw_only=True):
    """A fault record with addresses put into words."""

    kind: str  # "write", "divide", …
    ip: int
    address: int
    sp: int
    error_code: int
    trap: int
    where: str  # symbol+offset of ip
    source: str | None  # file:line
    what: str  # symbol+offset of address, where one is near
    registers: dict[str, int]
    backtrace: list[str]
    overlay: str
    hash: str


class ExitInfo(msgspec.Struct, kw_only=True):
    """The exit message of an exec stream; `code` is what uioctl exits with."""

    kind: str  # "ok", "not-found", "refused", "error", "fault", "timeout", "cancelled"
    code: int
    status: int
    message: str = ""
    run_ns: int = 0
    fault: FaultInfo | None = None


class OverlayInfo(msgspec.Struct, kw_only=True):
    """One element of GET /v1/overlays."""

    name: str
    version: str
    description: str
    hash: str
    size: int
    path: str
    signed_by: list[str]
    state: Literal["available", "refused"]
    reason: str = ""
    loaded: bool = False
    running: bool = False
    base: int = 0
    resident_size: int = 0
    uses: int = 0


class ErrorBody(msgspec.Struct, kw_only=True):
    """Every answer with a status of 400 or above."""

    error: str
    hint: str = ""


class Event(msgspec.Struct, kw_only=True):
    """One line of GET /v1/events."""

    time: float  # Unix time
    kind: str  # "vm.ready", "exec.start", "exec.exit", "fault", "qmp.STOP", "overlay.refused", …
    data: dict[str, Any] = msgspec.field(default_factory=dict)


class Stats(msgspec.Struct, kw_only=True):
    """GET /v1/stats. `None` where there is no way to know."""

    name: str
    time: float
    uptime_s: float
    cpu_usec: int | None  # of the cgroup, else of QEMU and uiod together
    memory_bytes: int | None
    memory_limit: int | None
    pids: int | None
    uiod_pss_bytes: int | None
    qemu_rss_bytes: int | None
    guest_mem_total: int | None
    guest_mem_free: int | None
    ninep_ops: int
    ninep_read_bytes: int
    ninep_write_bytes: int
    execs: int
    faults: int
    overlays_loaded: int
