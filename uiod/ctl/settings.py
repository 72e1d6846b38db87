# SPDX-License-Identifier: BSD-3-Clause
"""What was said before the command: `uioctl [-H HOST] [--runtime-dir DIR] [--json] COMMAND`.

`-H` and `--runtime-dir` may stand behind the command as well, up to where a guest's own arguments begin.
"""

from __future__ import annotations

from uiod.ctl.errors import USAGE, CtlError


class Settings:
    """One per process; commands read it."""

    def __init__(self) -> None:
        self.host: str | None = None
        self.runtime_dir: str | None = None
        self.json = False


settings = Settings()

_TAKES_VALUE = {"-H": "host", "--host": "host", "--runtime-dir": "runtime_dir"}


def take_globals(argv: list[str], opaque: tuple[str, ...] = ("exec",)) -> list[str]:
    """Put the global options among `argv` into `settings`; the rest is returned.

    :param opaque: commands whose arguments from the first word on belong to somebody else
    """
    rest: list[str] = []
    words = 0  # seen so far that are no options
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--" or (words and rest and _is_opaque(rest, opaque, words)):
            rest += argv[at - 1 :]
            break
        name, equals, value = word.partition("=")
        if name in _TAKES_VALUE and (not equals or name.startswith("--")):
            if not equals:
                if at >= len(argv):
                    raise CtlError(f"the option {name} needs a value", status=USAGE)
                value = argv[at]
                at += 1
            setattr(settings, _TAKES_VALUE[name], value)
        elif word == "--json" and not words:
            settings.json = True
        else:
            words += not word.startswith("-")
            rest.append(word)
    return rest


def _is_opaque(rest: list[str], opaque: tuple[str, ...], words: int) -> bool:
    return rest[0] in opaque and words > 1
