# SPDX-License-Identifier: BSD-3-Clause
"""Values of plain options without pydantic, whose import takes longer than everything else a `uioctl ps` does.

typer (from 0.26 on) converts every value by a pydantic adapter, also text to text. Here strings, flags and numbers are
converted at once, and all else is left to typer. With another typer, whose insides differ, nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args, get_origin

_NOTHING = object()


def _plain(value: Any, wanted: Any) -> Any:
    """The value as that type, `_NOTHING` if this is not obvious."""
    if get_origin(wanted) is list:
        if not isinstance(value, (list, tuple)):
            return _NOTHING
        items = [_plain(item, get_args(wanted)[0]) for item in value]
        return _NOTHING if any(item is _NOTHING for item in items) else items
    if wanted in (str, bool) and type(value) is wanted:
        return value
    if wanted in (int, float) and isinstance(value, (str, int, float)):
        if type(value) is wanted:
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
            return wanted(value)
    return _NOTHING


def install() -> None:
    """Have typer use it."""
    try:
        from typer import _coercion, core  # noqa: PLC0415

        typers = core.build_runtime_param  # type: ignore[attr-defined]
        base = _coercion.RuntimeParam
    except (ImportError, AttributeError):
        return

    @dataclass(frozen=True)
    class Plain(base):  # type: ignore[misc, valid-type]
        descriptor: Any

        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            info = self.descriptor.parameter_info
            custom = (info.parser, getattr(info, "click_type", None), info.min, info.max)
            found = _NOTHING
            if self.descriptor.file_annotation is None and all(part is None for part in custom):
                found = _plain(value, self.annotation)
            if found is _NOTHING:
                return typers(self.descriptor)._coerce_value(value, param=param, ctx=ctx)
            return found

    def build(descriptor: Any) -> Any:
        return Plain(
            annotation=descriptor.annotation,
            parameter_info=descriptor.parameter_info,
            descriptor=descriptor,
        )

    core.build_runtime_param = build  # type: ignore[attr-defined]
