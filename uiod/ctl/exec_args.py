# SPDX-License-Identifier: BSD-3-Clause
"""The options of `uioctl exec`, and a parser for the plain cases that needs no imports.

typer is the house's choice for command lines, but importing it takes as long as all the rest of an exec. So `main`
tries `parse` first; whatever it does not understand (errors, --help, abbreviations) it leaves to the typer command in
`exec_command`, which has the same options (a test compares them) and makes the same `ExecArgs`.
"""

from __future__ import annotations


class ExecArgs:
    """What to run, where and how."""

    def __init__(self, vm: str, argv: list[str]) -> None:
        self.vm = vm
        self.argv = argv
        self.interactive = False
        self.tty: bool | None = None  # None: if standard input and output are terminals
        self.raw = False
        self.pull = False
        self.json = False
        self.env: list[str] = []
        self.timeout = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExecArgs) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ExecArgs({vars(self)})"


FLAGS: dict[str, tuple[str, bool]] = {
    "-i": ("interactive", True),
    "--interactive": ("interactive", True),
    "-t": ("tty", True),
    "--tty": ("tty", True),
    "-T": ("tty", False),
    "--no-tty": ("tty", False),
    "--raw": ("raw", True),
    "--pull": ("pull", True),
    "--json": ("json", True),
}
VALUES: dict[str, str] = {
    "-e": "env",
    "--env": "env",
    "--timeout": "timeout",
}


def parse(argv: list[str]) -> ExecArgs | None:
    """`exec`'s arguments, or None if typer is to have a look."""
    given = ExecArgs("", [])
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        word = argv[at]
        at += 1
        if word == "--":
            break
        if word in FLAGS:
            name, value = FLAGS[word]
            setattr(given, name, value)
        elif word[1:2] != "-" and all(f"-{letter}" in FLAGS for letter in word[1:]) and word != "-":
            for letter in word[1:]:  # -it
                name, value = FLAGS[f"-{letter}"]
                setattr(given, name, value)
        else:
            name, equals, text = word.partition("=")
            if name not in VALUES or (equals and not name.startswith("--")):
                return None
            if not equals:
                if at == len(argv):
                    return None
                text = argv[at]
                at += 1
            if VALUES[name] == "env":
                given.env.append(text)
            else:
                setattr(given, VALUES[name], text)
    words = argv[at:]
    if words[1:2] == ["--"]:  # exec VM -- COMMAND
        del words[1]
    if len(words) < 2:
        return None
    given.vm, given.argv = words[0], words[1:]
    return given


def seconds(text: str) -> float:
    """`90`, `1.5`, `2m`, `1h30m`, `500ms` as seconds.

    :raise ValueError: it is none of these
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    total = 0.0
    number = ""
    at = 0
    while at < len(text):
        if text[at] in "0123456789.":
            number += text[at]
            at += 1
            continue
        unit = "ms" if text.startswith("ms", at) else text[at]
        total += float(number) * units[unit] if unit in units else float("nan")
        number = ""
        at += len(unit)
    if number:
        total += float(number)
    if not text or not 0 <= total < 1e10:
        raise ValueError(text)
    return total
