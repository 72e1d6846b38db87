# SPDX-License-Identifier: BSD-3-Clause
"""`uioctl trace`: an expression becomes eBPF programs, which run in the guest until Ctrl-C prints the maps."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from overlays.bpf import session
from overlays.bpf.model import BpfError
from overlays.bpf.session import Type
from overlays.bpf.trace.codegen import Trace, compile_trace
from overlays.bpf.trace.session import Session
from overlays.bpf.trace.types import CType
from uiod.ctl.bpf_stream import Interrupts, Stream, Vm, in_words
from uiod.ctl.completion import complete_probe, complete_vm
from uiod.ctl.errors import TRANSPORT, USAGE, CtlError
from uiod.ctl.options import duration
from uiod.ctl.output import Output

_LIVE_S = 1.0


class _Types:
    """The debugging information, opened only if the expression asks for types."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._found: Any = None

    def _library(self) -> Any:
        if self._found is None:
            from overlays.bpf.trace.dwarf import DwarfTypes  # noqa: PLC0415

            self._found = DwarfTypes(self._vm.symbols, self._vm.functions.addresses.get)
        return self._found

    def arguments(self, function: str) -> dict[str, tuple[int, CType]]:
        found: dict[str, tuple[int, CType]] = self._library().arguments(function)
        return found

    def result(self, function: str) -> CType | None:
        found: CType | None = self._library().result(function)
        return found


def trace(
    vm: Annotated[
        str, typer.Argument(metavar="VM", help="Name of the VM.", autocompletion=complete_vm)
    ],
    expression: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPRESSION",
            help="Probes with what to do at them; - reads it from standard input.",
            autocompletion=complete_probe,
        ),
    ] = None,
    listing: Annotated[
        bool,
        typer.Option(
            "-l", "--list", help="List the functions that can be traced; EXPRESSION is a pattern."
        ),
    ] = False,
    form: Annotated[
        str, typer.Option("-f", "--format", metavar="text|json", help="How to print.")
    ] = "text",
    after: Annotated[
        str | None,
        typer.Option("-d", "--duration", metavar="TIME", help="End by itself, after 10s, 2m, …"),
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Show the maps every second; the default on a terminal, if nothing else is printed.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No remarks.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As -f json.")] = False,
) -> int:
    """Trace functions of the application while it runs. Ctrl-C prints the maps and detaches.

    \b
    Examples:
      uioctl trace -l web 'ngx_http_*'
      uioctl trace web 'entry:ngx_http_process_request_line { @ = count(); }'
      uioctl trace db 'return:sqlite3_step { @us = hist(elapsed_us); }'
      uioctl trace count 'entry:set_count /arg0 > 10/ { printf("%d\\n", args.value); }'
      uioctl trace -d 10s -f json web 'entry:malloc { @[caller] = sum(arg0); }'
    """
    out = Output(json=json)
    as_json = out.as_json or form == "json"
    if form not in ("text", "json"):
        raise CtlError(f"{form!r} is no format", "there are text and json", USAGE)
    machine = Vm(vm)
    if listing:
        with in_words():
            return _list(machine, expression or "*", as_json)
    if expression is None:
        raise CtlError(
            "what shall be traced?", "uioctl trace --help has examples; -l lists functions", USAGE
        )
    if expression == "-":
        expression = sys.stdin.read()
    until = time.monotonic() + duration(after, "--duration") if after is not None else None
    with in_words():
        compiled = compile_trace(expression, functions=_functions(machine), types=_Types(machine))
        attach = machine.places(compiled.object)
    shows_itself = compiled.events is None and sys.stdout.isatty() and not as_json
    runner = _Runner(machine, compiled, as_json, shows_itself if live is None else live, quiet)
    with Interrupts() as interrupts, Stream(machine.api, compiled.object) as stream:
        return runner.run(stream, interrupts, attach, until)


def _functions(vm: Vm) -> Any:
    def matching(pattern: str) -> list[str]:
        if any(c in pattern for c in "*?["):
            return vm.functions.matching(pattern)
        vm.functions.find(pattern)  # which says why not
        return [pattern]

    return matching


def _list(vm: Vm, pattern: str, as_json: bool) -> int:
    known = vm.functions
    is_pattern = any(c in pattern for c in "*?[")
    if not is_pattern:
        known.find(pattern)  # which says why not
    names = known.matching(pattern)
    if not known.sites:
        raise BpfError(
            f"{known.path.name} has no function with room for programs",
            "compile the application with -fpatchable-function-entry=7,5",
        )
    out = Output(json=as_json)
    if out.as_json:
        out.json([{"name": name, "address": known.addresses[name] + vm.slide} for name in names])
    else:
        for name in names:
            out.line(name)
    return 0 if names else 1


class _Runner:
    def __init__(self, vm: Vm, trace: Trace, as_json: bool, live: bool, quiet: bool) -> None:
        self.trace, self.live, self.quiet = trace, live, quiet
        self.session = Session(trace, symbolize=vm.symbolize, as_json=as_json)
        self.lines = 0  # of the maps on the terminal, to be drawn over
        self.exiting = False
        self.stream: Stream

    def note(self, text: str) -> None:
        if not self.quiet:
            Output().note(text)

    def run(
        self,
        stream: Stream,
        interrupts: Interrupts,
        attach: list[tuple[int, int]],
        until: float | None,
    ) -> int:
        self.stream = stream
        once = self.session.programs()
        for program in once["BEGIN"]:
            self.once(program)
        stream.attach(attach)
        if attach:
            self.note(
                f"Tracing {len(attach)} probe{'s' if len(attach) > 1 else ''}; Ctrl-C ends it."
            )
        self.handle()
        draw = time.monotonic() + _LIVE_S
        while attach and not self.exiting and not stream.ended:
            soonest = min(
                (t for t in (until, draw if self.live else None) if t is not None), default=None
            )
            if interrupts.wait(stream, soonest):
                break
            self.handle()
            now = time.monotonic()
            if until is not None and now >= until:
                break
            if self.live and now >= draw:
                self.draw()
                draw = now + _LIVE_S
        if stream.ended:
            raise CtlError(stream.ended, status=TRANSPORT)
        return self.finish(once["END"])

    def finish(self, last: list[int]) -> int:
        self.stream.detach()
        self.exiting = False
        self.handle()
        for program in last:
            self.once(program)
        text = self.session.show_all(self.stream.read)
        self.erase()
        self.write(text)
        counts = self.stream.counts()
        if counts.missed:
            self.note(
                f"{counts.missed} hits were missed since the kernel started, in the midst of other hits"
            )
        for m, (_, drops) in zip(self.trace.object.maps, counts.maps, strict=True):
            if drops:
                shown = {tm.index: tm.name for tm in self.trace.maps}
                what = shown.get(self.trace.object.maps.index(m), m.name)
                self.note(f"{drops} entries of {what} were lost: it is full")
        return 0

    def once(self, program: int) -> None:
        _, fault = self.stream.run(program)
        self.handle()
        if fault.status:
            self.note(f"{self.trace.object.programs[program].name} {fault}")

    # ---- what the guest says

    def handle(self) -> None:
        while self.stream.events and not self.exiting:
            message = self.stream.events.popleft()
            with in_words():
                if message.type is Type.EVENT:
                    self.event(session.event_of(message.payload)[1])
                elif message.type is Type.STOPPED:
                    self.stopped(message.payload)
        sys.stdout.flush()

    def event(self, record: bytes) -> None:
        wish = self.session.record(record)
        if wish.kind == "text":
            self.write(wish.text)
        elif wish.kind == "exit":
            self.exiting = True
        elif wish.kind == "map":
            stacks = self.stream.read(self.trace.stacks) if self.trace.stacks is not None else ()
            self.write(
                self.session.show(wish.index, self.stream.read(wish.index), stacks, wish.top)
            )
        elif wish.kind == "clear":
            self.stream.clear(wish.index)
        elif wish.kind == "zero":
            self.stream.zero(wish.index)

    def stopped(self, payload: bytes) -> None:
        number, fault = session.stopped_of(payload)
        if number < len(self.trace.object.programs):
            program = self.trace.object.programs[number]
            self.note(f"{program.kind.name.lower()}:{program.target or program.name} {fault}")

    # ---- the terminal

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def erase(self) -> None:
        if self.lines:
            sys.stdout.write(f"\x1b[{self.lines}F\x1b[J")
            self.lines = 0

    def draw(self) -> None:
        text = self.session.show_all(self.stream.read)
        self.erase()
        sys.stdout.write(text)
        sys.stdout.flush()
        self.lines = text.count("\n") if sys.stdout.isatty() else 0
