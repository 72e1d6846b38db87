# SPDX-License-Identifier: BSD-3-Clause
"""The trace language: what expressions compile to, run in the machine, and how their results are shown."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bpf"))

from machine import Machine, build_runner

from overlays.bpf.helpers import Kind
from overlays.bpf.model import BpfError
from overlays.bpf.trace import render
from overlays.bpf.trace.ast import TraceError
from overlays.bpf.trace.codegen import Trace, compile_trace
from overlays.bpf.trace.dwarf import DwarfTypes
from overlays.bpf.trace.events import Event, decode, format_text
from overlays.bpf.trace.render import Context, stacks_of
from overlays.bpf.trace.session import Session, Wish
from overlays.bpf.trace.types import Format, MapKind, TraceMap, Value
from overlays.bpf.trace.types import Kind as ValueKind

NAMES = {0x401000: "f", 0x402000: "main+16", 0x401010: "f+16", 0x401020: "main+32"}


def symbolize(address: int) -> str:
    return NAMES.get(address, hex(address))


class Traced:
    """A trace in the machine: hits in, results out."""

    def __init__(self, machine: Machine, trace: Trace) -> None:
        self.machine, self.trace = machine, trace
        loaded = machine.load(trace.object.to_wire())
        assert "error" not in loaded, loaded

    def hit(
        self, *args: int, ret: int = 0, elapsed: int = 0, thread: int = 1, program: int = 0
    ) -> None:
        kind = self.trace.object.programs[program].kind
        arguments = [arg & 2**64 - 1 for arg in args] + [0] * (6 - len(args))
        self.machine.ask("set", "thread", thread)
        words = (0x401000, *arguments, ret & 2**64 - 1, elapsed, 0x402000, 2, 0)
        answer = self.machine.run(program, struct.pack("<12Q2I", *words, thread, kind))
        assert answer["status"] == 0, answer

    def rows(self, index: int) -> list[render.Row]:
        entries = self.machine.ask("map", index)["entries"][:-1]
        return [
            (bytes.fromhex(key), bytes.fromhex(value), thread) for key, value, thread in entries
        ]

    @property
    def context(self) -> Context:
        stacks = stacks_of(self.rows(self.trace.stacks)) if self.trace.stacks is not None else None
        return Context(symbolize, stacks)

    def text(self, name: str = "@", top: int = 0) -> str:
        m = next(m for m in self.trace.maps if m.name == name)
        return render.render(m, self.rows(m.index), self.context, top)

    def json(self, name: str = "@") -> object:
        m = next(m for m in self.trace.maps if m.name == name)
        return json.loads(json.dumps(render.to_json(m, self.rows(m.index), self.context)))

    def events(self) -> list[Event]:
        assert self.trace.events is not None
        records = self.machine.ask("ring", self.trace.events)["records"][:-1]
        return [decode(self.trace, bytes.fromhex(record), symbolize) for record in records]

    def printed(self) -> str:
        return "".join(event.text for event in self.events())


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(build_runner()) as started:
        yield started


def traced(machine: Machine, text: str) -> Traced:
    return Traced(machine, compile_trace(text))


# ---- one-liners


def test_counting(machine: Machine) -> None:
    t = traced(machine, "entry:f { @ = count(); }")
    assert t.trace.object.verified
    assert t.text() == "@: 0\n"
    for _ in range(3):
        t.hit()
    assert t.text() == "@: 3\n"
    assert t.json() == {"type": "map", "data": {"@": 3}}


def test_a_histogram_of_times(machine: Machine) -> None:
    t = traced(machine, "return:f { @us = hist(elapsed_us); }")
    for us in (0, 1, 1, 5, 6, 7, 7, 2000):
        t.hit(elapsed=us * 1000 + 999)
    text = t.text("@us").splitlines()
    assert text[0] == "@us:"
    assert (
        text[1]
        == "[0]                     1 |@@@@@@@@@@@@@                                       |"
    )
    assert (
        text[2]
        == "[1]                     2 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |"
    )
    assert (
        text[3]
        == "[2, 4)                  0 |                                                    |"
    )
    assert (
        text[4]
        == "[4, 8)                  4 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|"
    )
    assert text[-1].startswith("[1K, 2K)                1 |") or text[-2].startswith(
        "[1K, 2K)                1 |"
    )
    data = t.json("@us")
    assert isinstance(data, dict) and data["type"] == "hist"
    assert data["data"]["@us"][0] == {"count": 1, "min": 0, "max": 0}


def test_negative_numbers_have_a_slot_of_their_own(machine: Machine) -> None:
    t = traced(machine, "return:f { @ = hist(retval); }")
    for ret in (-5, -1, 3):
        t.hit(ret=ret)
    assert [line.split("|")[0].split() for line in t.text().splitlines()[1:]][:2] == [
        ["(...,", "0)", "2"],
        ["[2,", "4)", "1"],
    ]


def test_linear_histograms(machine: Machine) -> None:
    t = traced(machine, "entry:f { @ = lhist(arg0, -10, 25, 10); }")
    for n in (-11, -10, -1, 0, 9, 10, 24, 25, 1000):
        t.hit(n)
    rows = [line.split("|")[0].rsplit(None, 1) for line in t.text().splitlines()[1:] if line]
    assert rows == [
        ["(..., -10)", "1"], ["[-10, 0)", "2"], ["[0, 10)", "2"], ["[10, 20)", "1"], ["[20, 25)", "1"],
        ["[25, ...)", "2"],
    ]  # fmt: skip


def test_printing(machine: Machine) -> None:
    t = traced(
        machine,
        r'entry:f { printf("%d %s %x|%5d|%-5d|%05u\n", arg0, comm, arg1, arg2, arg2, arg2); }',
    )
    t.hit(-3, 255, 7, thread=4)
    t.hit(1 << 40 | 5, 0, 1 << 31)
    assert (
        t.printed()
        == "-3 thread-4 ff|    7|7    |00007\n5 thread-1 0|-2147483648|-2147483648|2147483648\n"
    )


def test_filters(machine: Machine) -> None:
    t = traced(machine, "entry:f /arg0 > 3 && (arg1 == 1 || !arg2)/ { @[arg0] = count(); }")
    for args in ((3, 1, 0), (4, 1, 5), (5, 2, 0), (6, 2, 1), (-1, 1, 0)):
        t.hit(*args)
    assert t.text() == "@[4]: 1\n@[5]: 1\n"


def test_keys(machine: Machine) -> None:
    t = traced(machine, "entry:f { @[tid, comm, arg0] = sum(arg1); }")
    t.hit(1, 10, thread=1)
    t.hit(1, 20, thread=2)
    t.hit(1, 5, thread=1)
    t.hit(2, -7, thread=1)
    assert t.text() == "@[1, thread-1, 2]: -7\n@[1, thread-1, 1]: 15\n@[2, thread-2, 1]: 20\n"
    assert t.text(top=1) == "@[2, thread-2, 1]: 20\n"


def test_stacks(machine: Machine) -> None:
    t = traced(machine, "entry:f { @[stack] = count(); }")
    t.hit()
    t.hit()
    assert t.text() == "@[\n    f\n    f+16\n    main+32\n]: 2\n"
    assert t.json() == {"type": "map", "data": {"@": {"f;f+16;main+32": 2}}}


def test_callers_are_shown_by_name(machine: Machine) -> None:
    t = traced(
        machine,
        r'entry:f { @[caller, func] = count(); printf("%s called by %s\n", sym(ip), caller); }',
    )
    t.hit()
    assert t.text() == "@[main+16, f]: 1\n"
    assert t.printed() == "f called by main+16\n"


def test_least_most_and_average(machine: Machine) -> None:
    t = traced(
        machine,
        "entry:f { @a = min(arg0); @b = max(arg0); @c = avg(arg0); @d[tid] = avg(arg0); @e[tid] = min(arg0); }",
    )
    assert t.text("@a") == t.text("@c") == ""
    for n in (5, -8, 7):
        t.hit(n)
    t.hit(100, thread=2)
    assert t.text("@a") == "@a: -8\n" and t.text("@b") == "@b: 100\n" and t.text("@c") == "@c: 26\n"
    assert t.text("@d") == "@d[1]: 1\n@d[2]: 100\n" and t.text("@e") == "@e[1]: -8\n@e[2]: 100\n"


def test_variables_and_branches(machine: Machine) -> None:
    t = traced(
        machine,
        """
        entry:f
        {
            $x = arg0 * 2 + 1;  // odd
            $name = "small";
            if ($x > 10) { $name = "large"; $x -= 1; } else if ($x < 0) { $name = "negative"; }
            @[$name] += $x;
            @last = $x;
            @who = $name;
        }
        """,
    )
    for n in (1, 6, 7, -3):
        t.hit(n)
    assert t.text() == "@[negative]: -5\n@[small]: 3\n@[large]: 26\n"
    assert t.text("@last") == "@last: -5\n" and t.text("@who") == "@who: negative\n"


def test_maps_are_read_and_deleted(machine: Machine) -> None:
    t = traced(
        machine,
        r"""entry:f { @start[tid] = arg0; @n++; }
        return:f /@start[tid]/ { printf("%d\n", retval - @start[tid]); delete(@start[tid]); @n--; }""",
    )
    t.hit(5, program=0)
    t.hit(ret=12, program=1)
    t.hit(ret=99, program=1)
    assert t.printed() == "7\n"
    assert t.text("@start") == "" and t.text("@n") == "@n: 0\n"


def test_events_for_the_host(machine: Machine) -> None:
    t = traced(
        machine,
        'entry:f { @ = count(); } interval:1s { print(@, 5); clear(@); zero(@); exit(); } END { printf("bye"); }',
    )
    assert [p.kind for p in t.trace.object.programs] == [Kind.ENTRY, Kind.TIMER, Kind.EXEC]
    assert t.trace.object.programs[1].period_ns == 1_000_000_000
    assert t.trace.object.programs[2].name == "END_2"
    t.hit(program=1)
    t.hit(program=2)
    assert t.events() == [
        Event("print", map="@", top=5), Event("clear", map="@"), Event("zero", map="@"), Event("exit"),
        Event("printf", text="bye"),
    ]  # fmt: skip


def test_memory_by_address(machine: Machine) -> None:
    t = traced(
        machine,
        r'entry:f { printf("%d %u %s %s\n", *(int16_t *)arg0, *(uint8_t *)(arg0 + 1), str(arg0 + 2),'
        r" str(arg0 + 2, 4)); }",
    )
    address = machine.ask("memory", (b"\xfe\xff" + b"abcdefgh\0xyz").hex())["address"]
    t.hit(address)
    t.hit(8)
    assert t.printed() == "-2 255 abcdefgh abc\n0 0  \n"


def test_strings_compare(machine: Machine) -> None:
    t = traced(machine, 'entry:f /comm == "thread-2" || str(arg0) != "no"/ { @[comm] = count(); }')
    address = machine.ask("memory", b"no\0".hex())["address"]
    for thread in (1, 2, 3):
        t.hit(address, thread=thread)
    t.hit(8, thread=1)
    assert t.text() == "@[thread-1]: 1\n@[thread-2]: 1\n"


OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "^",
    "<<",
    ">>",
    "<",
    "<=",
    ">",
    ">=",
    "==",
    "!=",
    "&&",
    "||",
]


def c_value(op: str, a: int, b: int) -> int:
    """What the language says of two signed numbers of 64 bits."""
    quotient = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    result = {
        "+": a + b, "-": a - b, "*": a * b, "/": quotient, "%": a - quotient * b, "&": a & b, "|": a | b, "^": a ^ b,
        "<<": a << (b & 63), ">>": a >> (b & 63), "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b,
        "!=": a != b, "&&": bool(a) and bool(b), "||": bool(a) or bool(b),
    }[op]  # fmt: skip
    result = int(result) & 2**64 - 1
    return result - 2**64 if result >> 63 else result


Tree = int | str | tuple[str, "Tree", "Tree"]
leaves: st.SearchStrategy[Tree] = st.one_of(
    st.integers(0, 9), st.sampled_from(["arg0", "arg1", "arg2"]), st.integers(0, 2**63 - 1)
)
trees: st.SearchStrategy[Tree] = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from(OPERATORS), inner, inner), max_leaves=14
)


def evaluate(tree: Tree, args: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return args[tree]
    return c_value(tree[0], evaluate(tree[1], args), evaluate(tree[2], args))


def written(tree: Tree) -> str:
    return (
        str(tree)
        if not isinstance(tree, tuple)
        else f"({written(tree[1])} {tree[0]} {written(tree[2])})"
    )


_shared: list[Machine] = []


@pytest.fixture(scope="module", autouse=True)
def shared_machine() -> Iterator[None]:
    with Machine(build_runner()) as started:
        _shared.append(started)
        yield
    _shared.clear()


@settings(max_examples=150, deadline=None)
@given(trees, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3))
def test_any_expression_has_the_value_that_it_says(tree: Tree, args: list[int]) -> None:
    text = written(tree)
    try:
        t = traced(
            _shared[0], f"entry:f {{ @ = {text}; if ({text}) {{ @t = 1; }} else {{ @t = 2; }} }}"
        )
    except TraceError as error:
        assert "bytes of stack" in str(error)
        return
    t.hit(*args)
    value = evaluate(tree, dict(zip(("arg0", "arg1", "arg2"), args, strict=True)))
    assert t.text() == f"@: {value}\n"
    assert t.text("@t") == f"@t: {1 if value else 2}\n"


def test_precedence_is_that_of_c(machine: Machine) -> None:
    t = traced(
        machine,
        "entry:f { @ = 2 + 3 * 4 - 10 / 2 % 3 << 1 & 0xff | 1 ^ 1; @b = 1 < 2 == 1 && !0 ? -5 : ~0; }",
    )
    t.hit()
    assert t.text() == "@: 24\n" and t.text("@b") == "@b: -5\n"


# ---- types of the application


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DwarfTypes]:
    path = tmp_path_factory.mktemp("dwarf")
    (path / "app.c").write_text(
        """
        #include <stdint.h>
        typedef struct request request_t;
        struct buffer { char name[16]; uint16_t len; union { int code; struct { short low, high; }; }; };
        struct request { request_t *next; int64_t id; struct buffer in; const char *uri; unsigned flag : 1; };
        int handle(request_t *r, double ratio, int status, const char *what)
        { return r->in.len + status + (int)ratio + what[0]; }
        unsigned char small(signed char a, struct { long x, y; } pair, uint32_t b) { return a + pair.x + b; }
        int main(void) { request_t r = {0}; return handle(&r, 1.0, 2, ""); }
        """
    )
    subprocess.run(
        ["gcc", "-g", "-O0", "-w", str(path / "app.c"), "-o", str(path / "app")], check=True
    )
    types = DwarfTypes(path / "app")
    yield types
    types.close()


def request(machine: Machine) -> int:
    """A struct request in the machine's memory."""
    struct_bytes = struct.pack("<Qq16sHxxiQ", 0, -77, b"get", 512, -2 & 0x7FFFFFFF, 0)
    return int(machine.ask("memory", struct_bytes.hex())["address"])


def test_arguments_by_name(machine: Machine, library: DwarfTypes) -> None:
    text = (
        r'entry:handle /args.status > 1/ { printf("%ld %s %d %d %d %s\n", args.r->id, args.r->in.name, args.r->in.len,'
        r" args.r->in.code, args.r->in.low, str(args.what)); }"
    )
    t = Traced(machine, compile_trace(text, types=library))
    address = request(machine)
    t.hit(address, 5, 8)
    t.hit(address, 1)
    assert t.printed() == "-77 get 512 2147483646 -2 \n"


def test_pointers_through_variables(machine: Machine, library: DwarfTypes) -> None:
    t = Traced(
        machine,
        compile_trace(
            "entry:handle { $r = args.r; @[$r->in.name] = sum($r->in.len); }", types=library
        ),
    )
    t.hit(request(machine))
    assert t.text() == "@[get]: 512\n"


def test_narrow_arguments_and_results(machine: Machine, library: DwarfTypes) -> None:
    t = Traced(
        machine,
        compile_trace(
            "entry:small { @ = args.a; @b = args.b; } return:small { @r = retval; }", types=library
        ),
    )
    t.hit(0xFF80, 0, 0, 1 << 32 | 7)
    t.hit(ret=0x1FF, program=1)
    assert t.text() == "@: -128\n" and t.text("@b") == "@b: 7\n" and t.text("@r") == "@r: 255\n"


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing to trace"),
        ("entry:f", "'{' is expected here"),
        ("kprobe:f { }", "a probe is expected here"),
        ("entry:f { @ = ; }", "a value is expected here"),
        ("entry:f { @ = count() ", "';' is expected"),
        ("entry:f { arg0; }", "does nothing by itself"),
        ("entry:f { @ = arg9; }", "arg9 is not known"),
        ("entry:f { @ = elapsed_us; }", "known at the return"),
        ("interval:1s { @ = arg0; }", "arg0 is of functions"),
        ("interval:1 { @ = 1; }", "is no period"),
        ("interval:1ns { @ = 1; }", "too short"),
        ("entry:f { @ = $x; }", "$x has no value yet"),
        ("entry:f { print(@); }", "nothing is ever put into @"),
        ("entry:f { @ = @other; }", "nothing is ever put into @other"),
        ("entry:f { @ = count(); @ = 1; }", "as count elsewhere and as value here"),
        ("entry:f { @[1] = 1; @[1, 2] = 1; }", "has 1 keys elsewhere and 2 here"),
        ("entry:f { @[1] = 1; @[comm] = 1; }", "is a string here or there"),
        ("entry:f { @ = count(1); }", "has 0 arguments"),
        ("entry:f { @ = lhist(arg0, 0, 10); }", "has 4 arguments"),
        ("entry:f { @ = lhist(arg0, 10, 0, 1); }", "from 1 to 1000 steps"),
        ("entry:f { @ = comm + 1; }", "a string cannot be used as a number"),
        ("entry:f /comm > \"a\"/ { }", "can only be compared"),
        ("entry:f { $x = 1; $x = comm; }", "a string in one place"),
        ('entry:f { printf("%d %d", 1); }', "2 conversions, and there are 1 arguments"),
        ('entry:f { printf("%s", 1); }', "is a number"),
        ('entry:f { printf("%d", comm); }', "is no number"),
        ('entry:f { printf("%n", 1); }', "%n is not known"),
        ("entry:f { printf(1); }", "takes a format first"),
        ("entry:f { system(1); }", "system() is not known"),
        ("entry:f { @ = args.x; }", "nothing is known of the arguments"),
        ("entry:f { @ = *arg0; }", "no pointer of a known type"),
        ("entry:f { @ = arg0->x; }", "no pointer of a known type"),
        ("entry:f { @[comm] = hist(1); delete(@[comm]); }", "has no single entries"),
        ("entry:f* { @ = 1; }", "patterns need a kernel"),
        (f"entry:f {{ @[{','.join(['str(arg0)'] * 5)}] = 1; }}", "more than 256 bytes"),
        (f"entry:f {{ @ = {'(' * 80}1{')' * 80}; }}", "too many nested"),
        (f"entry:f {{ @ = {'~' * 80}1; }}", "too many operators"),
        ("entry:f { @ = 1 ` 2; }", "means nothing here"),
        ('entry:f { printf("\\q"); }', "is no escape"),
        ('entry:f { printf("' + "%s" * 8 + '"' + ", str(arg0)" * 8 + "); }",
         "more than the 512 bytes"),
    ],
)  # fmt: skip
def test_refused_expressions(text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        compile_trace(text)
    assert said in str(caught.value)


def test_messages_show_the_place() -> None:
    with pytest.raises(TraceError) as caught:
        compile_trace("entry:f {\n\t@ = arg0 + argh;\n}")
    assert str(caught.value).splitlines()[1:] == ["   @ = arg0 + argh;", "              ^"]


def test_unknown_members_and_arguments(library: DwarfTypes) -> None:
    for text, said in (
        ("entry:handle { @ = args.nothing; }", "has no argument nothing: r, status, what"),
        (
            "entry:handle { @ = args.r->nothing; }",
            "struct request has no member nothing: next, id, in, uri",
        ),
        ("entry:handle { @ = args.ratio; }", "has no argument ratio"),
    ):
        with pytest.raises(TraceError, match=said):
            compile_trace(text, types=library)


def test_patterns() -> None:
    known = ["ngx_a", "ngx_b", "main"]
    trace = compile_trace("entry:ngx_* { @[func] = count(); }", functions=lambda pattern: known)
    assert [p.target for p in trace.object.programs] == ["ngx_a", "ngx_b"]
    with pytest.raises(TraceError, match="no function matches"):
        compile_trace("entry:x* { }", functions=lambda pattern: known)
    with pytest.raises(TraceError, match="there is no function"):
        compile_trace("entry:x { }", functions=lambda pattern: [])
    with pytest.raises(TraceError, match="at most 64"):
        compile_trace("entry:f* { }", functions=lambda pattern: [f"f{n}" for n in range(65)])


WORDS = [
    *(
        "entry:f",
        "return:f",
        "interval:1s",
        "{",
        "}",
        "/",
        "(",
        ")",
        ";",
        "@",
        "@x",
        "[",
        "]",
        "=",
        "count()",
    ),
    *(
        "arg0",
        "comm",
        "1",
        "+",
        "==",
        "if",
        "else",
        "printf",
        '"%d"',
        ",",
        "$a",
        "->",
        "*",
        "hist",
        "str",
        "?",
    ),
    *(":", "args", ".", "(int)"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_any_words_are_compiled_or_refused(words: list[str]) -> None:
    """Never another exception, and never a program that the verifier refuses."""
    try:
        compile_trace("entry:f { " + " ".join(words) + " }")
    except TraceError:
        pass
    except BpfError as error:
        pytest.fail(str(error))


# ---- the guest is not believed


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_events_of_any_bytes_are_decoded_or_refused(record: bytes) -> None:
    trace = compile_trace(r'entry:f { @ = count(); printf("%d %s\n", arg0, comm); print(@); }')
    try:
        event = decode(trace, record)
    except BpfError:
        return
    assert all(c.isprintable() or c in "\n\t" for c in event.text)


def test_no_terminal_is_moved_by_the_guest() -> None:
    form = Format("%s|%c\n", [Value(ValueKind.STRING, 16), Value(ValueKind.INT)])
    payload = b"\x1b[2J\xff\0".ljust(16, b"x") + (0x1B).to_bytes(8, "little")
    assert format_text(form, payload, hex) == "\\x1b[2J\\xff|\\x1b\n"


def test_slots_that_do_not_exist_are_ignored() -> None:
    m = TraceMap("@", MapKind.HIST, [Value(ValueKind.INT)])
    rows = [(bytes(8) + (999).to_bytes(8, "little"), (5).to_bytes(8, "little"), 0)]
    assert render.render(m, rows) == ""


# ---- a session: the whole way, without a transport


def test_a_session_from_begin_to_end(machine: Machine) -> None:
    text = (
        r'BEGIN { printf("begin\n"); } entry:f { @[tid] = count(); @t = hist(arg0); } '
        r'interval:1s { print(@, 1); clear(@); } END { printf("end\n"); exit(); }'
    )
    t = traced(machine, text)
    session = Session(t.trace, symbolize=symbolize)
    once = session.programs()
    assert (once["BEGIN"], once["END"]) == ([0], [3])
    assert t.trace.events is not None
    t.hit(program=0)
    for thread in (1, 2, 2):
        t.hit(3, program=1, thread=thread)
    t.hit(program=2)
    t.hit(program=3)
    written = ""
    wishes = []
    for record in machine.ask("ring", t.trace.events)["records"][:-1]:
        wish = session.record(bytes.fromhex(record))
        wishes.append(wish.kind)
        if wish.kind == "text":
            written += wish.text
        elif wish.kind == "map":
            written += session.show(wish.index, t.rows(wish.index), top=wish.top)
        elif wish.kind == "clear":
            machine.ask("clear", wish.index)
    assert wishes == ["text", "map", "clear", "text", "exit"]
    assert written == "begin\n@[2]: 2\nend\n"
    assert session.show_all(t.rows).startswith("@t:\n[2, 4)")


def test_a_session_in_json(machine: Machine) -> None:
    t = traced(machine, r'entry:f { @[stack] = count(); printf("%s\n", comm); }')
    session = Session(t.trace, symbolize=symbolize, as_json=True)
    t.hit()
    assert t.trace.events is not None
    (record,) = machine.ask("ring", t.trace.events)["records"][:-1]
    assert session.record(bytes.fromhex(record)) == Wish(
        "text", '{"type": "printf", "data": "thread-1\\n"}\n'
    )
    assert json.loads(session.show_all(t.rows)) == {
        "type": "map",
        "data": {"@": {"f;f+16;main+32": 1}},
    }
