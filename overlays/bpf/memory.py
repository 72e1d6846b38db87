# SPDX-License-Identifier: BSD-3-Clause
"""What loads and stores may touch, and what they find: the verifier's half that knows of memory."""

from __future__ import annotations

from collections.abc import Sequence

from overlays.bpf import scalars
from overlays.bpf.helpers import CTX_SIZE
from overlays.bpf.isa import signed
from overlays.bpf.model import MapDef
from overlays.bpf.scalars import Scalar
from overlays.bpf.state import FRAME_SIZE, Base, Pointer, State, Value


class Refusal(Exception):
    """The verifier cannot show that an instruction is safe."""


def _window(pointer: Pointer, maps: Sequence[MapDef]) -> tuple[int, int, str]:
    """(lowest offset, bytes, name) of what a pointer points into."""
    if pointer.base is Base.CTX:
        return 0, CTX_SIZE, "the context"
    if pointer.base is Base.FRAME:
        return -FRAME_SIZE, FRAME_SIZE, "the frame"
    if pointer.base is Base.RECORD:
        return 0, pointer.which, "the record"
    m = maps[pointer.which]
    return 0, m.value_size, f"a value of {m.name}"


def is_inside(pointer: Pointer, maps: Sequence[MapDef]) -> bool:
    """Whether it points at what it belongs to, or just behind: then its address is not 0."""
    if pointer.base is Base.MAP:
        return False
    low, length, _ = _window(pointer, maps)
    return low <= pointer.offset.smin and pointer.offset.smax <= low + length


def resolve(
    value: Value, offset: int, size: int, maps: Sequence[MapDef], *, write: bool, name: str
) -> tuple[Pointer, int, int]:
    """Check an access: the pointer, and the lowest and highest offset from the window's low end.

    :raise Refusal: it may lie outside, or have no right.
    """
    verb = "written" if write else "read"
    if not isinstance(value, Pointer) or value.base is Base.MAP:
        what = "a map" if isinstance(value, Pointer) else "a number"
        raise Refusal(f"memory is {verb} through {name}, which is {what} and no pointer")
    if value.maybe_null:
        raise Refusal(f"memory is {verb} through {name}, which may be NULL: test it first")
    if write and value.base is Base.CTX:
        raise Refusal("the context cannot be written")
    if write and value.base is Base.VALUE and maps[value.which].readonly:
        raise Refusal(f"{maps[value.which].name} cannot be written")
    low, length, where = _window(value, maps)
    smin, smax = value.offset.smin + offset, value.offset.smax + offset
    if smin < low or smax + size > low + length:
        at = str(smin) if smin == smax else f"{smin}..{smax}"
        if smin <= scalars.S64_MIN // 2 or smax >= scalars.S64_MAX // 2:
            at = f"{value.offset}{offset:+d}" if offset else str(value.offset)
        within = f"{length} bytes" if low == 0 else f"offsets {low}..{low + length - 1}"
        raise Refusal(f"{size} bytes at offset {at} are {verb}, but {where} has {within}")
    return value, smin - low, smax - low


def _unknown(size: int) -> Scalar:
    return scalars.between(0, (1 << 8 * size) - 1)


def load(
    state: State, value: Value, offset: int, size: int, maps: Sequence[MapDef], name: str
) -> Scalar | Pointer:
    pointer, low, high = resolve(value, offset, size, maps, write=False, name=name)
    if pointer.base is not Base.FRAME:
        return _unknown(size)
    frame = state.frames[pointer.which]
    require_init(state, pointer, low, high + size)
    cell = frame.cells.get(low)
    if low == high and cell is not None:
        if cell[0] == size:
            return cell[1]
        if cell[0] > size and isinstance(cell[1], Scalar):
            return scalars.truncate(cell[1], 8 * size)._replace(id=0)
    return _unknown(size)


def require_init(state: State, pointer: Pointer, low: int, end: int) -> None:
    """Every byte of the frame in [low, end) was written before."""
    frame = state.frames[pointer.which]
    if frame.is_init(low, end - low):
        return
    missing = next(at for at in range(low, end) if not frame.init >> at & 1)
    raise Refusal(
        f"the frame is read at offset {missing - FRAME_SIZE}, where nothing was written"
        " (the padding of a struct counts too)"
    )


def store(
    state: State,
    target: tuple[Value, str],
    offset: int,
    size: int,
    value: Scalar | Pointer,
    maps: Sequence[MapDef],
    *,
    tracked: bool,
) -> None:
    """`tracked`: through r10, so that the value is worth remembering (see flow.py)."""
    pointer, low, high = resolve(target[0], offset, size, maps, write=True, name=target[1])
    if pointer.base is not Base.FRAME:
        return
    frame = state.frames[pointer.which]
    if low != high:
        frame.forget(low, high - low + size)
        return
    if size < 8:
        bits = 8 * size
        value = scalars.truncate(value, bits) if isinstance(value, Scalar) else _unknown(size)
    if not tracked and isinstance(value, Scalar):
        value = _unknown(size)
    frame.store(low, size, value)


def atomic(
    state: State, value: Value, offset: int, size: int, maps: Sequence[MapDef], name: str
) -> None:
    """Check a read-modify-write, and forget what was there."""
    pointer, low, high = resolve(value, offset, size, maps, write=True, name=name)
    address = scalars.operate("add", pointer.offset, scalars.const(offset), 64)
    if (address.value | address.mask) & (size - 1):
        raise Refusal(f"an atomic operation on {size} bytes at an offset that may not be aligned")
    if pointer.base is Base.FRAME:
        require_init(state, pointer, low, high + size)
        state.frames[pointer.which].forget(low, high - low + size)


def fill(
    state: State, value: Value, sizes: tuple[int, int], maps: Sequence[MapDef], name: str
) -> None:
    """A helper writes: between the least and the most bytes."""
    pointer, low, high = resolve(value, 0, sizes[1], maps, write=True, name=name)
    if pointer.base is not Base.FRAME:
        return
    frame = state.frames[pointer.which]
    frame.forget(low, high - low + sizes[1])
    if low == high and sizes[0]:
        frame.init |= ((1 << sizes[0]) - 1) << low


def examine(state: State, value: Value, size: int, maps: Sequence[MapDef], name: str) -> None:
    """A helper reads."""
    pointer, low, high = resolve(value, 0, size, maps, write=False, name=name)
    if pointer.base is Base.FRAME:
        require_init(state, pointer, low, high + size)


def constant(value: Value) -> int | None:
    """The number that a register holds, if only one is possible."""
    if isinstance(value, Scalar) and value.is_const:
        return signed(value.value, 64)
    return None
