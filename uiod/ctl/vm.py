# SPDX-License-Identifier: BSD-3-Clause
"""Commands about VMs as a whole: ps, inspect, stop, kill, pause, resume, reset, wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from uiod.ctl import vms
from uiod.ctl.client import Api, connect_unix, query
from uiod.ctl.errors import FAILED, TIMED_OUT, ApiError, CtlError, NotRunning, in_words, show
from uiod.ctl.options import Json, Quiet, VmName, VmNames, duration
from uiod.ctl.output import Output, size, span

_PATIENCE_S = 2.0
_ROUND_S = 60.0  # of waiting, until the daemon is asked again


def ps(json: Json = False, quiet: Quiet = False) -> None:
    """List the VMs below the runtime root, also those whose daemon is gone.

    States: what the daemon says or said at the end; `orphaned` if QEMU runs without a daemon;
    `stale` if only files are left; `hung` if the daemon does not answer.

    \b
    Examples:
      uioctl ps
      uioctl ps -q | xargs uioctl stop
      uioctl ps --json | jq '.[] | select(.ready) | .name'
    """
    found = in_parallel(look, [vms.find(name) for name in vms.names()])
    rows = [
        (
            vm["name"],
            vm["state"],
            {True: "yes", False: "no"}.get(vm.get("ready"), "-"),
            vm.get("pid") or "-",
            vm.get("accel") or "-",
            size(vm.get("memory_bytes")),
            span(time.time() - vm["started"]) if vm.get("started") and vm.get("pid") else "-",
            os.path.basename(vm.get("kernel") or "-"),
        )
        for vm in found
    ]
    columns = ("NAME", "STATE", "READY", ">PID", "ACCEL", ">MEMORY", ">UP", "KERNEL")
    Output(json=json, quiet=quiet).table(columns, rows, found)


def look(api: Api) -> dict[str, Any]:
    """A VM's `VmInfo`, or as much of it as there is to know without its daemon."""
    try:
        info = api.get("/v1/vm", timeout=_PATIENCE_S)
    except NotRunning:
        if _qemu_listens(api.directory):
            return {"name": api.name, "state": "orphaned", "ready": False}
        last = vms.last_info(api)
        return {"name": api.name, "state": "stale", "ready": False} if last is None else last
    except ApiError as error:
        return {"name": api.name, "state": "unknown", "reason": error.message}
    except (CtlError, OSError):
        return {"name": api.name, "state": "hung"}
    return {"name": api.name, "state": "unknown"} | info


def _qemu_listens(directory: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_S)
        try:
            connect_unix(sock, directory, "qmp.sock")
        except OSError:
            return False
        return True


def in_parallel(work: Callable[[Api], Any], apis: list[Api]) -> list[Any]:
    """`work` of each VM, so that one that hangs delays the others by its own time only."""
    if len(apis) < 2:
        return [work(api) for api in apis]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (slow to import)

    with ThreadPoolExecutor(min(16, len(apis))) as pool:
        return list(pool.map(work, apis))


def inspect(
    vm: VmName,
    field: Annotated[
        str | None,
        typer.Option("-f", "--field", metavar="PATH", help="One field, e.g. hello.kernel."),
    ] = None,
    json: Json = False,
) -> None:
    """Show everything that the daemon knows of a VM and its guest.

    \b
    Examples:
      uioctl inspect web
      uioctl inspect web -f hello.features
      uioctl inspect web --json
    """
    out = Output(json=json)
    api = vms.find(vm)
    try:
        info = api.get("/v1/vm")
    except NotRunning:
        last = vms.last_info(api)
        if last is None:
            raise
        info = last
    if field is None:
        out.fields(_flat(info), info)
        return
    value: Any = info
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            keys = ", ".join(value) if isinstance(value, dict) else "nothing below it"
            raise CtlError(f"there is no field {field!r}", f"there is {keys}")
        value = value[key]
    if out.as_json or isinstance(value, dict | list):
        out.json(value)
    else:
        out.line(_text("", value))


def _flat(info: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in info.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], {}):
            pairs.append((prefix + key, _text(key, value)))
    return pairs


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        separator = " " if all(isinstance(item, str) for item in value) else "\n"
        return ("\n" if key == "warnings" else separator).join(str(item) for item in value)
    if key.endswith("bytes") and isinstance(value, int):
        return f"{value} ({size(value)})"
    if key in ("arena_base", "arena_size") and isinstance(value, int):
        return f"{value:#x}"
    if key == "started" and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(value))
    if key.endswith("_ns") and isinstance(value, int):
        return span(value / 1e9)
    return str(value)


def _each(names: Iterable[str], work: Callable[[Api], None]) -> int:
    """Do it to every VM, print the name of each that worked, and fail if one did not."""
    status = 0
    out = Output()
    for name in dict.fromkeys(names):
        try:
            work(vms.find(name))
        except (CtlError, OSError) as error:
            words = in_words(error)
            assert words is not None
            show(*words[:2])
            status = words[2] if status in (0, words[2]) else FAILED
        else:
            out.line(name)
    return status


def stop(
    names: VmNames,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the guest may take; else the configuration's."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")] = False,
) -> int:
    """Stop VMs: the guest is asked first, then QEMU, then it is killed. Prints the names of the stopped.

    \b
    Examples:
      uioctl stop web
      uioctl stop --timeout 30s web db
    """
    body = {} if timeout is None else {"timeout_s": duration(timeout, "--timeout")}

    def work(api: Api) -> None:
        api.post("/v1/vm/stop", body)
        if not no_wait:
            wait_for(api, "stopped", None)

    return _each(names, work)


def kill(
    names: VmNames,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")] = False,
) -> int:
    """Kill VMs at once; what they have not written is lost. Prints the names.

    \b
    Examples:
      uioctl kill web
      uioctl exec web kill -HUP     (a signal for the application inside)
    """

    def work(api: Api) -> None:
        api.post("/v1/vm/kill")
        if not no_wait:
            wait_for(api, "stopped", None)

    return _each(names, work)


def pause(names: VmNames) -> int:
    """Stop the processors of VMs, until `resume`. Prints the names.

    \b
    Examples:
      uioctl pause web
    """
    return _each(names, lambda api: api.post("/v1/vm/pause"))


def resume(names: VmNames) -> int:
    """Let paused VMs go on. Prints the names.

    \b
    Examples:
      uioctl resume web
    """
    return _each(names, lambda api: api.post("/v1/vm/resume"))


def reset(names: VmNames) -> int:
    """Restart the guests of VMs, as the reset button does. Prints the names.

    \b
    Examples:
      uioctl reset web && uioctl wait web
    """
    return _each(names, lambda api: api.post("/v1/vm/reset"))


def wait(
    vm: VmName,
    what: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="ready|stopped",
            help="What to wait for.",
            autocompletion=lambda: ["ready", "stopped"],
        ),
    ] = "ready",
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after this time, with status 124.")
    ] = None,
    json: Json = False,
) -> int:
    """Wait until a VM is ready (its guest has said HELLO), or until it has stopped.

    Exit status: 0 when it is so, 124 after the timeout, 1 if it cannot become so.

    \b
    Examples:
      uioctl wait web
      uioctl wait web --for stopped --timeout 1m
    """
    if what not in ("ready", "stopped"):
        raise CtlError(f"cannot wait for {what!r}", "there is: ready, stopped")
    limit = None if timeout is None else duration(timeout, "--timeout")
    try:
        info = wait_for(vms.find(vm), what, limit)
    except CtlError as error:
        if error.status == TIMED_OUT:
            show(
                f"the VM {vm} is not {what}" + (f" after {limit:g} s" if limit is not None else "")
            )
            return TIMED_OUT
        raise
    if json or Output().as_json:
        Output(json=True).json(info)
    return 0


def wait_for(api: Api, what: str, limit_s: float | None) -> Any:
    """Until the VM is ready or stopped: its `VmInfo`, or None where the daemon has ended.

    :raise ApiError: 408 after the limit
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    while True:
        left = _ROUND_S if deadline is None else max(0.0, deadline - time.monotonic())
        target = "/v1/wait" + query(**{"for": what, "timeout_s": min(left, _ROUND_S)})
        try:
            # The daemon keeps the time; ours only ends what a hung daemon leaves open.
            return api.get(target, timeout=min(left, _ROUND_S) + 5.0)
        except (NotRunning, ConnectionError):
            if what == "stopped":
                return None
            raise
        except TimeoutError:
            raise ApiError(408, f"the VM {api.name} does not answer") from None
        except ApiError as error:
            if error.http != 408 or (deadline is not None and time.monotonic() >= deadline):
                raise
