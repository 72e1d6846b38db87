# SPDX-License-Identifier: BSD-3-Clause
"""Lexer and parser of the trace language: recursive descent, with operators by precedence as in C."""

from __future__ import annotations

import re
from typing import NamedTuple

from overlays.bpf.trace.ast import (
    Assign,
    Attach,
    Binary,
    Call,
    Cast,
    Do,
    Expr,
    If,
    MapRef,
    Member,
    Name,
    Number,
    Probe,
    Statement,
    String,
    Ternary,
    TraceError,
    Unary,
    Variable,
)  # fmt: skip

_TOKEN = re.compile(
    r"""
    (?P<number>0[xX][0-9a-fA-F]+|\d+(?:ns|us|ms|s)?)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<map>@\w*)
    | (?P<variable>\$\w+)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<op><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^~!<>=?:;,.(){}\[\]])
    """,
    re.X,
)
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)+", re.S)
_ATTACH = re.compile(r"(entry|return|interval|timer):([^\s,/{]+)|(BEGIN|END)\b")
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", '"': '"', "'": "'"}

_PRECEDENCE = [
    ["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!="], ["<", "<=", ">", ">="], ["<<", ">>"], ["+", "-"],
    ["*", "/", "%"],
]  # fmt: skip
_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
TYPES = {
    "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "char", "short", "int",
    "long", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "size_t",
}  # fmt: skip


class Token(NamedTuple):
    kind: str
    text: str
    at: int


def error_at(text: str, at: int, what: str) -> TraceError:
    """A message that shows the place."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)].replace("\t", " ")
    return TraceError(f"{what}\n  {line}\n  {' ' * (at - start)}^")


class Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.in_filter = False
        self.depth = 0
        self._peeked: Token | None = None

    # ---- tokens

    def fail(self, at: int, what: str) -> TraceError:
        return error_at(self.text, at, what)

    def skip_space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def peek(self) -> Token:
        if self._peeked is None:
            self.skip_space()
            if self.at >= len(self.text):
                self._peeked = Token("end", "", len(self.text))
            else:
                match = _TOKEN.match(self.text, self.at)
                if match is None:
                    raise self.fail(self.at, f"{self.text[self.at]!r} means nothing here")
                self._peeked = Token(str(match.lastgroup), match.group(), self.at)
        return self._peeked

    def next(self) -> Token:
        token = self.peek()
        self.at = token.at + len(token.text)
        self._peeked = None
        return token

    def accept(self, text: str) -> bool:
        if self.peek().kind == "op" and self.peek().text == text:
            self.next()
            return True
        return False

    def expect(self, text: str) -> Token:
        token = self.next()
        if token.text != text or token.kind == "string":
            found = token.text or "the end"
            raise self.fail(token.at, f"{text!r} is expected here, not {found!r}")
        return token

    # ---- probes

    def program(self) -> list[Probe]:
        probes = []
        while self.peek().kind != "end":
            probes.append(self.probe())
        if not probes:
            raise self.fail(
                0, "nothing to trace: write for example entry:FUNCTION { @ = count(); }"
            )
        return probes

    def probe(self) -> Probe:
        attach = [self.attach()]
        while self.accept(","):
            attach.append(self.attach())
        condition = None
        if self.accept("/"):
            self.in_filter = True
            condition = self.expression()
            self.in_filter = False
            self.expect("/")
        return Probe(attach, condition, self.block())

    def attach(self) -> Attach:
        self._peeked = None
        self.skip_space()
        match = _ATTACH.match(self.text, self.at)
        if match is None:
            raise self.fail(
                self.at,
                "a probe is expected here: entry:FUNCTION, return:FUNCTION, interval:1s, BEGIN or END",
            )
        at, self.at = self.at, match.end()
        kind = match[1] or match[3]
        return Attach(at, "interval" if kind == "timer" else kind, match[2] or "")

    def block(self) -> list[Statement]:
        self.expect("{")
        statements = []
        while not self.accept("}"):
            if self.accept(";"):
                continue
            statements.append(self.statement())
        return statements

    def statement(self) -> Statement:
        token = self.peek()
        if token.kind == "name" and token.text == "if":
            return self.if_statement()
        if token.kind in ("map", "variable"):
            statement: Statement = self.assignment()
        elif token.kind == "name":
            call = self.primary()
            if not isinstance(call, Call):
                raise self.fail(token.at, f"{token.text} does nothing by itself")
            statement = Do(token.at, call)
        else:
            raise self.fail(
                token.at, f"a statement is expected here, not {token.text or 'the end'!r}"
            )
        if self.peek().text != "}" or self.peek().kind != "op":
            self.expect(";")
        return statement

    def if_statement(self) -> If:
        at = self.next().at
        self.expect("(")
        condition = self.expression()
        self.expect(")")
        yes = self.block()
        no: list[Statement] = []
        if self.peek().text == "else" and self.peek().kind == "name":
            self.next()
            no = [self.if_statement()] if self.peek().text == "if" else self.block()
        return If(at, condition, yes, no)

    def assignment(self) -> Assign:
        target = self.primary()
        assert isinstance(target, MapRef | Variable)
        token = self.next()
        if token.text in ("++", "--"):
            return Assign(token.at, target, token.text[0] + "=", Number(token.at, 1))
        if token.kind != "op" or token.text not in _ASSIGNMENTS:
            raise self.fail(token.at, "an assignment is expected here, for example = count()")
        return Assign(token.at, target, token.text, self.expression())

    # ---- expressions

    def expression(self) -> Expr:
        self.depth += 1
        if self.depth > 60:
            raise self.fail(self.at, "too many nested parentheses")
        condition = self.binary(0)
        if self.accept("?"):
            yes = self.expression()
            self.expect(":")
            condition = Ternary(condition.at, condition, yes, self.expression())
        self.depth -= 1
        return condition

    def ends_filter(self, token: Token) -> bool:
        """Whether a slash closes a filter: it does in front of a brace."""
        return (
            self.in_filter
            and token.text == "/"
            and bool(re.compile(r"/\s*\{").match(self.text, token.at))
        )

    def binary(self, level: int) -> Expr:
        if level == len(_PRECEDENCE):
            return self.unary()
        left = self.binary(level + 1)
        while True:
            token = self.peek()
            if (
                token.kind != "op"
                or token.text not in _PRECEDENCE[level]
                or self.ends_filter(token)
            ):
                return left
            self.next()
            left = Binary(token.at, token.text, left, self.binary(level + 1))

    def unary(self) -> Expr:
        token = self.peek()
        if token.kind == "op" and token.text in ("-", "!", "~", "*", "+"):
            self.next()
            self.depth += 1
            if self.depth > 60:
                raise self.fail(token.at, "too many operators in a row")
            operand = self.unary()
            self.depth -= 1
            return operand if token.text == "+" else Unary(token.at, token.text, operand)
        if token.text == "(" and token.kind == "op" and (cast := self.cast()) is not None:
            return cast
        return self.postfix()

    def cast(self) -> Cast | None:
        match = re.compile(r"\(\s*(?:(unsigned|signed)\s+)?(\w+)\s*(\**)\s*\)").match(
            self.text, self.peek().at
        )
        if match is None or match[2] not in TYPES:
            return None
        at = self.peek().at
        self._peeked, self.at = None, match.end()
        return Cast(
            at, ("u" if match[1] == "unsigned" else "") + match[2], len(match[3]), self.unary()
        )

    def postfix(self) -> Expr:
        found = self.primary()
        while self.peek().kind == "op" and self.peek().text in ("->", "."):
            arrow = self.next().text == "->"
            token = self.next()
            if token.kind != "name":
                raise self.fail(token.at, "the name of a member is expected here")
            found = Member(token.at, found, token.text, arrow)
        return found

    def primary(self) -> Expr:
        token = self.next()
        if token.kind == "number":
            return Number(token.at, self.number(token.text))
        if token.kind == "string":
            return String(token.at, self.string(token))
        if token.kind == "variable":
            return Variable(token.at, token.text)
        if token.kind == "map":
            return MapRef(token.at, token.text, self.arguments("[", "]"))
        if token.kind == "name":
            if self.peek().text == "(" and self.peek().kind == "op":
                return Call(token.at, token.text, self.arguments("(", ")"))
            return Name(token.at, token.text)
        if token.text == "(":
            found = self.expression()
            self.expect(")")
            return found
        raise self.fail(token.at, f"a value is expected here, not {token.text or 'the end'!r}")

    def arguments(self, opening: str, closing: str) -> list[Expr]:
        found: list[Expr] = []
        if not self.accept(opening) or self.accept(closing):
            return found
        filtering, self.in_filter = self.in_filter, False
        found.append(self.expression())
        while self.accept(","):
            found.append(self.expression())
        self.expect(closing)
        self.in_filter = filtering
        return found

    def number(self, text: str) -> int:
        match = re.fullmatch(r"(\d+)(ns|us|ms|s)", text)
        if match is not None:
            return int(match[1]) * _UNITS[match[2]]
        return int(text, 0) if text[:2] in ("0x", "0X") else int(text)

    def string(self, token: Token) -> str:
        def escape(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                raise self.fail(token.at, f"\\{match[1]} is no escape")
            return _ESCAPES[match[1]]

        return re.sub(r"\\(.)", escape, token.text[1:-1])


def parse(text: str) -> list[Probe]:
    """:raise TraceError: with the place in the text."""
    return Parser(text).program()
