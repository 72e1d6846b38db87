# SPDX-License-Identifier: BSD-3-Clause
"""`python -m ninep_server.reference`: docs/ninep-messages.md, made from the table of messages and docstrings."""

from __future__ import annotations

import inspect

from ninep_server import messages
from ninep_server.messages import BY_NAME, MESSAGES, Kind, Message
from ninep_server.session import Session

_KINDS = {
    id(kind): (name, size)
    for name, kind, size in (
        ("u8", messages.u8, "1"),
        ("u16", messages.u16, "2"),
        ("u32", messages.u32, "4"),
        ("u64", messages.u64, "8"),
        ("name", messages.name, "s"),
        ("names", messages.names, "n s"),
        ("qid", messages.qid, "13"),
        ("qids", messages.qids, "n 13"),
        ("data", messages.data, "n"),
    )
}

_HEAD = """\
# The messages of ninep_server

Made by `python -m ninep_server.reference` from the table in `ninep_server/messages.py`.

Each message is `size[4] type[1] tag[2]` and its fields. Integers are little-endian; `[4]` is a length in bytes,
`[s]` a string (u16 length, then bytes), `[n s]` a u16 count of strings, `[13]` a qid (type u8, version u32, path u64),
`[n 13]` a u16 count of qids, `[n]` a u32 length and that many bytes. Any request may be answered by Rlerror. Fields in
parentheses may be missing.

| request | fields | reply | meaning |
|---|---|---|---|
"""


def _field(name: str, kind: Kind, optional: bool) -> str:
    text = f"{name}[{_KINDS[id(kind)][1]}]"
    return f"({text})" if optional else text


def _fields(message: Message) -> str:
    last = len(message.fields) - message.optional
    shown = (_field(name, kind, i >= last) for i, (name, kind) in enumerate(message.fields))
    return " ".join(shown) or "none"


def _meaning(message: Message) -> str:
    handler = getattr(Session, message.name, None)
    if handler is None:  # Tflush, which is about other requests: the driver's business
        return "flush(5): answered when the request it names has been"
    return (inspect.getdoc(handler) or "").split("\n")[0].rstrip(".").replace("|", "\\|")


def reference() -> str:
    """The page."""
    rows = []
    for message in MESSAGES:
        if message.reply is None:
            continue
        reply = BY_NAME[message.reply]
        rows.append(
            f"| {message.number} {message.name} | {_fields(message)} "
            f"| {reply.number} {reply.name}: {_fields(reply)} | {_meaning(message)} |\n"
        )
    error = BY_NAME["Rlerror"]
    rows.append(f"| any | | {error.number} Rlerror: {_fields(error)} | a Linux errno |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(reference(), end="")
