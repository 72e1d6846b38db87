# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl bpf`: work on files of programs (`overlays.bpf.cli`); run, attach and detach them, see what they do."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from overlays.bpf import compile as bpf_compile
from overlays.bpf import session
from overlays.bpf.cli import app as tools
from overlays.bpf.model import Object
from overlays.bpf.session import Type
from uiod.ctl import execstream, vms
from uiod.ctl.bpf_stream import Interrupts, Stream, Vm, in_words, request_body
from uiod.ctl.completion import complete_vm
from uiod.ctl.errors import TRANSPORT, USAGE, CtlError, printable
from uiod.ctl.options import Json, VmName
from uiod.ctl.output import Output

app = typer.Typer(
    help="Build, check, run and attach eBPF programs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.registered_commands = list(tools.registered_commands)

_EXEC_S = 30.0


def _complete_session(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    complete_vm(ctx, args, "")  # for the runtime root
    try:
        rows = _parse(_builtin(ctx.params["vm"], "ls"))
    except (CtlError, OSError, KeyError):
        return []
    return [
        number for number in dict.fromkeys(row[0] for row in rows) if number.startswith(incomplete)
    ]


File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A source (.c) or an object of clang's (.o).", show_default=False
    ),
]
SessionNumber = Annotated[
    int,
    typer.Argument(
        metavar="SESSION", help="Its number, which ls shows.", autocompletion=_complete_session
    ),
]


def _builtin(vm: str, *argv: str) -> str:
    """What the guest's own `bpf` prints. :raise CtlError: its words."""
    kept = {execstream.STDOUT: bytearray(), execstream.STDERR: bytearray()}
    body = {"argv": ["bpf", *argv], "timeout_ms": int(_EXEC_S * 1000)}
    with vms.find(vm).request("POST", "/v1/exec", body, upgrade="uio-exec/1") as reply:
        decoder = execstream.Decoder()
        data = reply.leftover()
        while True:
            for kind, payload in list(decoder.feed(data)):
                if kind != execstream.EXIT:
                    kept[kind] += payload
                    continue
                info = jsons.loads(payload)
                if int(info["code"]):
                    said = kept[execstream.STDERR].decode(errors="replace").strip()
                    words = said.removeprefix("bpf: ") or str(info.get("message", "it failed"))
                    raise CtlError(words)
                return kept[execstream.STDOUT].decode(errors="replace")
            data = reply.sock.recv(65_536)
            if not data:
                raise ConnectionResetError


def _parse(text: str) -> list[list[str]]:
    return [words for line in text.splitlines() if len(words := line.split()) > 3]


# ---- running in the foreground


@app.command("run", context_settings={"allow_interspersed_args": False})
def run(
    vm: VmName,
    file: File,
    args: Annotated[
        list[str] | None, typer.Argument(metavar="[ARG]…", help="Arguments of an exec program.")
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            "-p", "--program", metavar="NAME", help="Which exec program; the first if none."
        ),
    ] = None,
) -> int:
    """Run a file's programs: an exec program once, with its result as status; others until Ctrl-C.

    \b
    Examples:
      uioctl bpf run web fib.bpf.c 20
      uioctl bpf run web slow.bpf.c
    """
    with in_words():
        machine = Vm(vm)
        obj = bpf_compile.load(file)
        attach = machine.places(obj)
    once = _exec_program(obj, program)
    with Interrupts() as interrupts, Stream(machine.api, obj) as stream:
        stream.attach(attach)
        if once is not None:
            value, fault = stream.run(once, args or ())
            _print_events(stream)
            if fault.status:
                raise CtlError(f"{obj.programs[once].name} {fault}")
            return value & 0xFF
        Output().note(f"{len(attach)} programs are attached; Ctrl-C ends it.")
        while not interrupts.wait(stream, None):
            _print_events(stream)
            if stream.ended:
                raise CtlError(stream.ended, status=TRANSPORT)
        stream.detach()
        _print_events(stream)
        for index, m in enumerate(obj.maps):
            if m.type.name != "RINGBUF" and not m.name.startswith("."):
                for key, value_bytes, thread in stream.read(index):
                    print(_row_text(m.name, key, value_bytes, str(thread) if thread else ""))
    return 0


def _exec_program(obj: Object, name: str | None) -> int | None:
    found = [(n, p) for n, p in enumerate(obj.programs) if p.kind.name == "EXEC"]
    if name is None:
        return found[0][0] if found else None
    for number, p in found:
        if p.name == name:
            return number
    known = ", ".join(p.name for _, p in found) or "none"
    raise CtlError(f"there is no exec program {name!r}", f"there is: {known}", USAGE)


def _print_events(stream: Stream) -> None:
    while stream.events:
        message = stream.events.popleft()
        if message.type is Type.TEXT:
            sys.stdout.write(printable(message.payload.decode("utf-8", "replace")))
        elif message.type is Type.EVENT:
            with in_words():
                index, record = session.event_of(message.payload)
            if index < len(stream.object.maps):
                print(f"{stream.object.maps[index].name} {record.hex()}")
        elif message.type is Type.STOPPED:
            with in_words():
                number, fault = session.stopped_of(message.payload)
            if number < len(stream.object.programs):
                Output().note(f"{stream.object.programs[number].name} {fault}")
    sys.stdout.flush()


# ---- in the background


@app.command("attach")
def attach(vm: VmName, file: File, json: Json = False) -> int:
    """Attach a file's programs to functions and timers; they stay until detach, or until uiod or the guest ends.

    \b
    Examples:
      uioctl bpf attach web count.bpf.c
      uioctl bpf maps web 3
      uioctl bpf detach web 3
    """
    with in_words():
        machine = Vm(vm)
        obj = bpf_compile.load(file)
        places = machine.places(obj)
    if not places:
        raise CtlError(f"{file.name} has nothing to attach", "uioctl bpf run runs exec programs")
    answer = machine.api.post("/v1/bpf/attach", request_body(obj, places))
    out = Output(json=json)
    if out.as_json:
        out.json(answer)
    else:
        out.line(str(answer["session"]))
    return 0


@app.command("detach")
def detach(
    vm: VmName,
    sessions: Annotated[
        list[int],
        typer.Argument(
            metavar="SESSION", help="Numbers, which ls shows.", autocompletion=_complete_session
        ),
    ],
) -> int:
    """Detach all programs of sessions, and free their maps.

    \b
    Examples:
      uioctl bpf detach web 3
    """
    for number in sessions:
        _builtin(vm, "detach", str(number))
    return 0


@app.command("ls")
def ls(
    vm: VmName,
    maps_too: Annotated[bool, typer.Option("-m", "--maps", help="List maps too.")] = False,
    json: Json = False,
) -> None:
    """List what is loaded in a guest, and where it is attached.

    \b
    Examples:
      uioctl bpf ls web
      uioctl bpf ls --json web
    """
    rows = _parse(_builtin(vm, "ls"))
    programs = [_program_json(row) for row in rows if row[2] == "program" and len(row) == 9]
    found = [_map_json(row) for row in rows if row[2] == "map" and len(row) == 10]
    out = Output(json=json)
    columns = (">SESSION", "OBJECT", "PROGRAM", "KIND", "AT", ">RUNS", ">FAULTS")
    cells = [
        (
            p["session"],
            p["object"],
            p["program"],
            p["kind"],
            p["target"] or "-",
            p["runs"],
            p["faults"],
        )
        for p in programs
    ]
    out.table(columns, cells, programs + found)
    if maps_too and not out.as_json:
        out.line("")
        heads = (">SESSION", "MAP", "TYPE", ">KEY", ">VALUE", ">SIZE", ">ENTRIES", ">LOST")
        names = (
            "session",
            "map",
            "type",
            "key_size",
            "value_size",
            "max_entries",
            "entries",
            "lost",
        )
        out.table(heads, [tuple(m[name] for name in names) for m in found], [])


def _program_json(row: list[str]) -> dict[str, Any]:
    return {
        "session": int(row[0]),
        "object": row[1],
        "program": row[3],
        "kind": row[4],
        "target": "" if row[5] == "-" else row[5],
        "address": int(row[6], 16),
        "runs": int(row[7]),
        "faults": int(row[8]),
    }


def _map_json(row: list[str]) -> dict[str, Any]:
    return {
        "session": int(row[0]),
        "object": row[1],
        "map": row[3],
        "type": row[4],
        "key_size": int(row[5]),
        "value_size": int(row[6]),
        "max_entries": int(row[7]),
        "entries": int(row[8]),
        "lost": int(row[9]),
    }


@app.command("maps")
def maps(
    vm: VmName,
    number: SessionNumber,
    name: Annotated[
        str | None, typer.Argument(metavar="[MAP]", help="One map; all if none.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the entries of a session's maps.

    \b
    Examples:
      uioctl bpf maps web 3
      uioctl bpf maps --json web 3 hits
    """
    text = _builtin(vm, "maps", str(number), *([name] if name else []))
    out = Output(json=json)
    rows = []
    for line in text.splitlines():
        map_name, key, value, *thread = line.split(" ")
        if map_name.startswith(".") and name is None:
            continue  # .rodata and the like: constants of the program
        rows.append(
            (map_name, bytes.fromhex(key), bytes.fromhex(value), thread[0] if thread else "")
        )
    if out.as_json:
        out.json(
            [
                {
                    "map": m,
                    "key": key.hex(),
                    "value": value.hex(),
                    **({"thread": int(t)} if t else {}),
                }
                for m, key, value, t in rows
            ]
        )
        return
    for row in rows:
        out.line(_row_text(*row))


def _row_text(name: str, key: bytes, value: bytes, thread: str) -> str:
    where = f" (thread {thread})" if thread else ""
    return f"{name}[{_bytes_text(key)}]{where} = {_bytes_text(value)}"


def _bytes_text(raw: bytes) -> str:
    """Small things as a number, others in hexadecimal."""
    if len(raw) in (1, 2, 4, 8):
        return str(int.from_bytes(raw, "little"))
    return raw.hex(" ", 8)
