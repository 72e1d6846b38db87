# SPDX-License-Identifier: BSD-3-Clause
"""What the verifier knows at one point of a program: the type of each register, and what lies in the frames."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from overlays.bpf import isa, scalars
from overlays.bpf.model import MapDef
from overlays.bpf.scalars import Scalar

FRAME_SIZE = 512
MAX_FRAMES = 8


class Base(enum.Enum):
    """What a pointer points into."""

    CTX = "the context"
    FRAME = "the frame"
    VALUE = "a value"
    RECORD = "a record"
    MAP = "map"


class Pointer(NamedTuple):
    base: Base
    which: int  # map, or depth of the frame, or size of the record
    offset: Scalar
    id: int = 0  # of the lookup or record it comes from
    maybe_null: bool = False


Value = Scalar | Pointer | None  # None: never written
ValueChange = Callable[[Scalar | Pointer], Value]
Cell = tuple[int, Scalar | Pointer]  # bytes, and what was stored


class Frame:
    """The registers and stack of one function call."""

    __slots__ = ("cells", "init", "regs", "return_pc")

    def __init__(self, return_pc: int) -> None:
        self.regs: list[Value] = [None] * 11
        self.return_pc = return_pc
        self.init = 0  # bit per byte: 0 is the lowest
        self.cells: dict[int, Cell] = {}  # by offset from the lowest byte

    def copy(self) -> Frame:
        frame = Frame(self.return_pc)
        frame.regs = self.regs.copy()
        frame.init = self.init
        frame.cells = self.cells.copy()
        return frame

    def forget(self, low: int, size: int) -> None:
        """Values in [low, low + size) are no longer known."""
        for at in [at for at, cell in self.cells.items() if at < low + size and low < at + cell[0]]:
            del self.cells[at]

    def store(self, low: int, size: int, value: Scalar | Pointer) -> None:
        self.forget(low, size)
        self.cells[low] = (size, value)
        self.init |= ((1 << size) - 1) << low

    def is_init(self, low: int, size: int) -> bool:
        want = ((1 << size) - 1) << low
        return self.init & want == want


class State:
    __slots__ = ("frames", "records")

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.records: frozenset[int] = frozenset()  # held, by id

    @property
    def regs(self) -> list[Value]:
        return self.frames[-1].regs

    def copy(self) -> State:
        state = State()
        # Frames below the running one change too, through pointers.
        state.frames = [frame.copy() for frame in self.frames]
        state.records = self.records
        return state

    def map_values(self, change: ValueChange) -> None:
        """Apply a function to every register and cell."""
        for frame in self.frames:
            frame.regs = [value if value is None else change(value) for value in frame.regs]
            for at, (size, value) in list(frame.cells.items()):
                changed = change(value)
                if changed is None:
                    del frame.cells[at]
                elif changed is not value:
                    frame.cells[at] = (size, changed)


def describe(value: Value, maps: list[MapDef]) -> str:
    """A register's content in words."""
    if value is None:
        return "not written"
    if isinstance(value, Scalar):
        return f"number {value}" if value.is_const else str(value)
    if value.base is Base.MAP:
        return f"map {maps[value.which].name}"
    if value.base is Base.VALUE:
        text = f"value of {maps[value.which].name}"
    elif value.base is Base.RECORD:
        text = f"record of {value.which} bytes"
    elif value.base is Base.FRAME:
        text = "frame" if value.which == 0 else f"frame {value.which}"
    else:
        text = "context"
    if value.offset.is_const:
        number = isa.signed(value.offset.value, 64)
        if number:
            text += f" {'+' if number > 0 else '-'} {abs(number)}"
    else:
        text += f" + {value.offset}"
    return f"{text}, or NULL" if value.maybe_null else text


class _Match:
    """Whether an old state covers a new one: what was found of the old holds for the new."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.ids: dict[int, int] = {}

    def same_id(self, old: int, new: int) -> bool:
        """Equal numbers in the old state are equal in the new one; 0 is equal to nothing."""
        return new != 0 and self.ids.setdefault(old, new) == new

    def value(self, old: Value, new: Value, deciding: bool) -> bool:
        if old is None:
            return new is None or not self.exact
        if new is None:
            return False
        if isinstance(old, Scalar):
            if not isinstance(new, Scalar):
                return False
            if not deciding:
                return True
            if self.exact:
                return old[:8] == new[:8]
            return scalars.covers(old, new) and (old.id == 0 or self.same_id(old.id, new.id))
        if not isinstance(new, Pointer):
            return False
        if (old.base, old.which, old.maybe_null) != (new.base, new.which, new.maybe_null):
            return False
        if old.id and not self.same_id(old.id, new.id):
            return False
        if self.exact:
            return old.offset[:8] == new.offset[:8]
        return scalars.covers(old.offset, new.offset)

    def frame(self, old: Frame, new: Frame, live: int, deciding: int) -> bool:
        if old.return_pc != new.return_pc or old.init & ~new.init:
            return False
        for number in range(11):
            if live >> number & 1 and not self.value(
                old.regs[number], new.regs[number], bool(deciding >> number & 1)
            ):
                return False
        for at, (size, value) in old.cells.items():
            cell = new.cells.get(at)
            if cell is None or cell[0] != size or not self.value(value, cell[1], True):
                return False
        return not self.exact or (old.init == new.init and old.cells.keys() == new.cells.keys())


def covers(old: State, new: State, masks: list[tuple[int, int]], *, exact: bool = False) -> bool:
    """Whether everything that could happen from new was seen from old; masks: live and deciding, per frame."""
    if len(old.frames) != len(new.frames):
        return False
    match = _Match(exact=exact)
    for old_frame, new_frame, (live, deciding) in zip(old.frames, new.frames, masks, strict=True):
        if not match.frame(old_frame, new_frame, live, deciding):
            return False
    return {match.ids.get(held, held) for held in old.records} == set(new.records)


def tidy(state: State, masks: list[tuple[int, int]]) -> None:
    """Forget what no longer matters, so that states compare equal more often."""
    counts: dict[int, int] = {}

    def count(value: Value) -> None:
        if isinstance(value, Scalar) and value.id:
            counts[value.id] = counts.get(value.id, 0) + 1

    for frame, (live, _) in zip(state.frames, masks, strict=True):
        for number in range(11):
            if not live >> number & 1:
                frame.regs[number] = None
            count(frame.regs[number])
        for _, value in frame.cells.values():
            count(value)

    def drop(value: Scalar | Pointer) -> Value:
        if isinstance(value, Scalar) and value.id and counts[value.id] == 1:
            return value._replace(id=0)
        return value

    state.map_values(drop)
