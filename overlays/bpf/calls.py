# SPDX-License-Identifier: BSD-3-Clause
"""Helper calls as the verifier sees them: arguments against the helper's row, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overlays.bpf import memory, scalars
from overlays.bpf.helpers import MAX_SIZE, Arg, Helper, Ret
from overlays.bpf.memory import Refusal
from overlays.bpf.model import MapDef
from overlays.bpf.scalars import Scalar
from overlays.bpf.state import Base, Pointer, State, Value

# What a helper that returns a number returns at most: names of arguments are resolved below.
_RANGES: dict[str, tuple[int, int]] = {
    "get_prandom_u32": (0, scalars.U32),
    "thread_id": (0, scalars.U32),
    "log2": (0, 64),
    "get_func_arg_cnt": (6, 6),
    "strings_compare": (-255, 255),
    "map_update_elem": (-4095, 0),
    "map_delete_elem": (-4095, 0),
    "map_add": (-4095, 0),
    "probe_read_kernel": (-4095, 0),
    "get_current_comm": (-4095, 0),
    "ringbuf_output": (-4095, 0),
    "get_func_arg": (-4095, 0),
    "get_func_ret": (0, 0),
}


class Call:
    """One call: its checks share what earlier arguments have shown."""

    def __init__(
        self, state: State, helper: Helper, maps: Sequence[MapDef], new_id: Callable[[], int]
    ) -> None:
        self.state, self.helper, self.maps, self.new_id = state, helper, maps, new_id
        self.map: int | None = None
        self.record: Pointer | None = None
        self.writes: list[tuple[int, tuple[int, int]]] = []

    def size(self, number: int) -> Scalar:
        value = self.state.regs[number]
        arg = self.helper.args[number - 1]
        least = 1 if arg is Arg.SIZE else 0
        if not isinstance(value, Scalar):
            raise Refusal(f"{self.helper.name} takes a size in r{number}, which is no number")
        if value.umin < least or value.umax > MAX_SIZE:
            raise Refusal(
                f"{self.helper.name} takes a size of {least} to {MAX_SIZE} in r{number}, which is {value}"
            )
        return value

    def map_argument(self, number: int, value: Value) -> None:
        if not isinstance(value, Pointer) or value.base is not Base.MAP:
            raise Refusal(f"{self.helper.name} takes a map in r{number}")
        self.map = value.which
        definition = self.maps[value.which]
        if definition.type not in self.helper.maps:
            raise Refusal(
                f"{self.helper.name} does not work on {definition.name}, a map of type"
                f" {definition.type.name.lower().replace('_', ' ')}"
            )

    def memory_argument(self, number: int, value: Value) -> None:
        name = f"r{number}"
        arg = self.helper.args[number - 1]
        if arg in (Arg.READ, Arg.WRITE):
            size = self.size(number + 1)
            if size.umax == 0:
                return  # the pointer is not looked at
            if arg is Arg.READ:
                memory.examine(self.state, value, size.umax, self.maps, name)
            else:
                memory.resolve(value, 0, size.umax, self.maps, write=True, name=name)
                self.writes.append((number, (size.umin, size.umax)))
        elif arg is Arg.U64:
            memory.resolve(value, 0, 8, self.maps, write=True, name=name)
            self.writes.append((number, (8, 8)))
        else:
            assert self.map is not None
            m = self.maps[self.map]
            size_read = m.key_size if arg is Arg.KEY else m.value_size
            memory.examine(self.state, value, size_read, self.maps, name)

    def record_argument(self, number: int, value: Value) -> None:
        if not isinstance(value, Pointer) or value.base is not Base.RECORD or value.maybe_null:
            raise Refusal(f"{self.helper.name} takes a record in r{number}, tested not to be NULL")
        if memory.constant(value.offset) != 0:
            raise Refusal(f"{self.helper.name} takes the beginning of a record in r{number}")
        self.record = value

    def argument(self, number: int, arg: Arg) -> None:
        value = self.state.regs[number]
        if value is None:
            raise Refusal(f"{self.helper.name} takes r{number}, which was not written")
        if arg is Arg.CTX:
            if (
                not isinstance(value, Pointer)
                or value.base is not Base.CTX
                or memory.constant(value.offset) != 0
            ):
                raise Refusal(f"{self.helper.name} takes the context in r{number}")
        elif arg is Arg.MAP:
            self.map_argument(number, value)
        elif arg is Arg.RECORD:
            self.record_argument(number, value)
        elif arg in (Arg.SIZE, Arg.SIZE0):
            self.size(number)
        elif arg is not Arg.ANY:
            self.memory_argument(number, value)

    def result(self) -> Value:
        if self.helper.ret is Ret.VOID:
            return None
        zero = scalars.const(0)
        if self.helper.ret is Ret.VALUE:
            assert self.map is not None
            return Pointer(Base.VALUE, self.map, zero, self.new_id(), True)
        if self.helper.ret is Ret.RECORD:
            size = memory.constant(self.state.regs[2])
            if size is None:
                raise Refusal("the size of a record must be a constant")
            id_ = self.new_id()
            self.state.records |= {id_}
            return Pointer(Base.RECORD, size, zero, id_, True)
        if self.helper.name == "probe_read_kernel_str":
            most = self.size(2).umax
            return scalars.between_signed(-4095, most)
        bounds = _RANGES.get(self.helper.name)
        return scalars.between_signed(*bounds) if bounds else scalars.UNKNOWN

    def apply(self) -> None:
        """Check everything, then change the state as the call does."""
        for number, arg in enumerate(self.helper.args, 1):
            self.argument(number, arg)
        result = self.result()
        for number, sizes in self.writes:
            memory.fill(self.state, self.state.regs[number], sizes, self.maps, f"r{number}")
        if self.record is not None:
            self.end_record(self.record)
        self.state.regs[0] = result
        for number in range(1, 6):
            self.state.regs[number] = None

    def end_record(self, record: Pointer) -> None:
        self.state.records -= {record.id}

        def gone(value: Scalar | Pointer) -> Value:
            mine = (
                isinstance(value, Pointer) and value.base is Base.RECORD and value.id == record.id
            )
            return None if mine else value

        self.state.map_values(gone)
