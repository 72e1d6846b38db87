# SPDX-License-Identifier: BSD-3-Clause
"""The expressions of `uioctl peek`, as in C: `server.clients[2]->name`, `*head`, `&count`; `list[0:8]` is a part.

An expression becomes a path that the guest follows in one go (overlay `peek -r`): an address, and offsets after each of
which a pointer is followed.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from uiod.ctl.ctypes_dwarf import Member, Type, Types, Variable
from uiod.ctl.errors import USAGE, CtlError

_TOKEN = re.compile(r"\s*(->|0[xX][0-9a-fA-F]+|\d+|[A-Za-z_]\w*|[.*&()\[\]:])")


@dataclass
class Place:
    """A value in the guest: its type, and how to get to it. `offsets[0]` belongs to the variable's own address."""

    type: Type
    address: int
    offsets: list[int] = field(default_factory=lambda: [0])
    bits: tuple[int, int] | None = None
    address_only: bool = False

    def path(self, slide: int) -> str:
        first = hex(self.address + self.offsets[0] + slide)
        return ",".join([first, *(hex(o & (1 << 64) - 1) for o in self.offsets[1:])])


def parse(text: str, types: Types, find: Variables) -> Place:
    """:raise CtlError: what is wrong, with near names."""
    return _Parser(text, types, find).whole()


class Variables:
    """Finds variables by name, and near names of those that are not there."""

    def __init__(self, types: Types, names: list[str]) -> None:
        self.types, self.names = types, names

    def find(self, name: str) -> Variable:
        variable = self.types.variable(name)
        if variable is not None:
            return variable
        if name in self.names:
            raise CtlError(
                f"{name} is there, but the debugging information does not say as what",
                f"uioctl exec VM peek {name} shows its bytes",
            )
        near = difflib.get_close_matches(name, self.names, 3, 0.6)
        raise CtlError(
            f"there is no variable {name!r}", f"did you mean {' or '.join(near)}?" if near else ""
        )


class _Parser:
    def __init__(self, text: str, types: Types, variables: Variables) -> None:
        self.types, self.variables = types, variables
        self.tokens: list[str] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise CtlError(
                    f"{text[at:].strip()[:20]!r} in the expression is not understood",
                    "as in C: name, a.b, p->m, a[1], a[0:8], *p, &x",
                    USAGE,
                )
            self.tokens.append(match[1])
            at = match.end()
        self.at = 0

    def whole(self) -> Place:
        place = self.unary()
        if self.peek():
            raise CtlError(f"the expression goes on with {self.peek()!r}", status=USAGE)
        return place

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if wanted and token not in wanted:
            what = repr(token) if token else "its end"
            raise CtlError(f"the expression has {what} instead of {wanted[0]!r}", status=USAGE)
        self.at += 1
        return token

    def unary(self) -> Place:
        if self.peek() == "*":
            self.take()
            return self.follow(self.unary())
        if self.peek() == "&":
            self.take()
            place = self.unary()
            place.address_only = True
            return place
        return self.postfix()

    def postfix(self) -> Place:
        place = self.primary()
        while (token := self.peek()) in (".", "->", "["):
            self.take()
            if token == "[":
                place = self.element(place)
            else:
                # As gdb does: either sign for both.
                if place.type.kind == "pointer":
                    place = self.follow(place)
                place = self.member(place, self.take())
        return place

    def primary(self) -> Place:
        token = self.take()
        if token == "(":
            place = self.unary()
            self.take(")")
            return place
        if not token or not (token[0].isalpha() or token[0] == "_"):
            what = repr(token) if token else "nothing"
            raise CtlError(f"the expression has {what} where a name should be", status=USAGE)
        variable = self.variables.find(token)
        return Place(variable.type, variable.address)

    def follow(self, place: Place) -> Place:
        if place.type.kind == "array":
            return Place(self.types.target(place.type), place.address, place.offsets)
        if place.type.kind != "pointer":
            raise CtlError(f"that is no pointer, but {spell(place.type, self.types)}")
        return Place(self.types.target(place.type), place.address, [*place.offsets, 0])

    def element(self, place: Place) -> Place:
        first, last = self.number(), None
        if self.peek() == ":":
            self.take()
            last = self.number()
            if last <= first:
                raise CtlError(f"[{first}:{last}] is no part of an array", status=USAGE)
        self.take("]")
        kind = place.type
        if kind.kind not in ("array", "pointer"):
            raise CtlError(f"that is no array, but {spell(kind, self.types)}")
        item = self.types.target(kind)
        if kind.kind == "array" and kind.count and max(first, (last or 1) - 1) >= kind.count:
            raise CtlError(f"the array has {kind.count} elements")
        out = self.follow(place)
        out.offsets = [*out.offsets[:-1], out.offsets[-1] + first * item.size]
        if last is not None:
            n = last - first
            out.type = Type("array", n * item.size, "", count=n, die=kind.die,
                            dimensions=(n, *kind.dimensions[1:]))  # fmt: skip
        return out

    def number(self) -> int:
        token = self.take()
        if not token[:1].isdigit():
            raise CtlError(f"{token!r} is no index", status=USAGE)
        return int(token, 0)

    def member(self, place: Place, name: str) -> Place:
        if place.type.kind != "struct":
            raise CtlError(f"that has no members: it is {spell(place.type, self.types)}")
        known = flat_members(place.type, self.types)
        found = next((m for m in known if m.name == name), None)
        if found is None:
            names = [m.name for m in known]
            near = difflib.get_close_matches(name, names, 3, 0.5)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else "it has " + ", ".join(names[:12])
            )
            raise CtlError(f"{spell(place.type, self.types)} has no member {name!r}", hint)
        offsets = [*place.offsets[:-1], place.offsets[-1] + found.offset]
        return Place(found.type, place.address, offsets, found.bits)


def flat_members(record: Type, types: Types, depth: int = 0) -> list[Member]:
    """All named members, those of unnamed structs and unions too."""
    found = []
    for member in types.members(record):
        if member.name:
            found.append(member)
        elif member.type.kind == "struct" and depth < 16:
            for inner in flat_members(member.type, types, depth + 1):
                found.append(
                    Member(inner.name, member.offset + inner.offset, inner.type, inner.bits)
                )
    return found


def spell(kind: Type, types: Types, depth: int = 0) -> str:
    """A type as C spells it, nearly."""
    if depth > 8:
        return "…"
    if kind.kind == "pointer":
        target = spell(types.target(kind), types, depth + 1)
        return target + ("*" if target.endswith("*") else " *")
    if kind.kind == "array":
        return f"{spell(types.target(kind), types, depth + 1)}[{kind.count}]"
    if kind.kind in ("struct", "enum"):
        tag = {"DW_TAG_union_type": "union", "DW_TAG_class_type": "class"}
        word = tag.get(getattr(kind.die, "tag", ""), kind.kind)
        return f"{word} {kind.name}".strip()
    return kind.name or kind.kind
