# SPDX-License-Identifier: BSD-3-Clause
"""The helpers that programs may call: the same table as in libuio's core/bpf_helpers.c (a test compares them)."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.IntEnum):
    """What a program is attached to."""

    ENTRY = 1
    RETURN = 2
    TIMER = 3
    EXEC = 4


class MapType(enum.IntEnum):
    ARRAY = 1
    HASH = 2
    THREAD_ARRAY = 3
    LRU_HASH = 4
    RINGBUF = 5
    STACK = 6


class Arg(enum.IntEnum):
    """What an argument must be."""

    NONE = 0
    ANY = 1  # a number
    CTX = 2
    MAP = 3
    KEY = 4  # key_size readable bytes
    VALUE = 5  # value_size readable bytes
    READ = 6  # readable bytes; the next argument is how many
    WRITE = 7  # writable bytes; the next argument is how many
    SIZE = 8  # 1 to MAX_SIZE
    SIZE0 = 9  # 0 to MAX_SIZE; with 0 the pointer is not looked at
    U64 = 10  # 8 writable bytes
    RECORD = 11  # a record of a ring buffer


class Ret(enum.IntEnum):
    VOID = 0
    NUMBER = 1
    VALUE = 2  # a map's value or NULL
    RECORD = 3  # a record of arg 2 bytes or NULL


MAX_SIZE = 4096


class Helper(NamedTuple):
    id: int
    name: str
    ret: Ret
    args: tuple[Arg, ...]
    kinds: frozenset[Kind]
    maps: frozenset[MapType]


_ALL = frozenset(Kind)
_FUNC = frozenset({Kind.ENTRY, Kind.RETURN})
_NONE: frozenset[MapType] = frozenset()
_HASHES = frozenset({MapType.HASH, MapType.LRU_HASH})
_KEYED = _HASHES | {MapType.ARRAY, MapType.THREAD_ARRAY}
_RING = frozenset({MapType.RINGBUF})

_N = Ret.NUMBER
_A = Arg

HELPERS: dict[int, Helper] = {
    helper.id: helper
    for helper in (
        Helper(1, "map_lookup_elem", Ret.VALUE, (_A.MAP, _A.KEY), _ALL, _KEYED),
        Helper(2, "map_update_elem", _N, (_A.MAP, _A.KEY, _A.VALUE, _A.ANY), _ALL, _KEYED),
        Helper(3, "map_delete_elem", _N, (_A.MAP, _A.KEY), _ALL, _HASHES),
        Helper(5, "ktime_get_ns", _N, (), _ALL, _NONE),
        Helper(6, "trace_printk", _N, (_A.READ, _A.SIZE, _A.ANY, _A.ANY, _A.ANY), _ALL, _NONE),
        Helper(7, "get_prandom_u32", _N, (), _ALL, _NONE),
        Helper(16, "get_current_comm", _N, (_A.WRITE, _A.SIZE), _ALL, _NONE),
        Helper(27, "get_stackid", _N, (_A.CTX, _A.MAP, _A.ANY), _FUNC, frozenset({MapType.STACK})),
        Helper(109, "send_signal", _N, (_A.ANY,), _ALL, _NONE),
        Helper(113, "probe_read_kernel", _N, (_A.WRITE, _A.SIZE0, _A.ANY), _ALL, _NONE),
        Helper(115, "probe_read_kernel_str", _N, (_A.WRITE, _A.SIZE0, _A.ANY), _ALL, _NONE),
        Helper(130, "ringbuf_output", _N, (_A.MAP, _A.READ, _A.SIZE, _A.ANY), _ALL, _RING),
        Helper(131, "ringbuf_reserve", Ret.RECORD, (_A.MAP, _A.SIZE, _A.ANY), _ALL, _RING),
        Helper(132, "ringbuf_submit", Ret.VOID, (_A.RECORD, _A.ANY), _ALL, _NONE),
        Helper(133, "ringbuf_discard", Ret.VOID, (_A.RECORD, _A.ANY), _ALL, _NONE),
        Helper(173, "get_func_ip", _N, (_A.CTX,), _FUNC, _NONE),
        Helper(177, "trace_vprintk", _N, (_A.READ, _A.SIZE, _A.READ, _A.SIZE0), _ALL, _NONE),
        Helper(183, "get_func_arg", _N, (_A.CTX, _A.ANY, _A.U64), _FUNC, _NONE),
        Helper(184, "get_func_ret", _N, (_A.CTX, _A.U64), frozenset({Kind.RETURN}), _NONE),
        Helper(185, "get_func_arg_cnt", _N, (_A.CTX,), _FUNC, _NONE),
        Helper(1000, "thread_id", _N, (), _ALL, _NONE),
        Helper(1001, "exec_arg", _N, (_A.ANY, _A.WRITE, _A.SIZE), frozenset({Kind.EXEC}), _NONE),
        Helper(1002, "log2", _N, (_A.ANY,), _ALL, _NONE),
        Helper(1003, "map_add", _N, (_A.MAP, _A.KEY, _A.ANY), _ALL, _KEYED),
        Helper(1004, "strings_compare", _N, (_A.READ, _A.SIZE, _A.READ, _A.SIZE), _ALL, _NONE),
    )
}
BY_NAME: dict[str, Helper] = {helper.name: helper for helper in HELPERS.values()}

# The context: struct bpf_ctx of core/bpf.h, struct uio_ctx of overlays/include/uio/bpf.h.
CTX_FIELDS: dict[str, tuple[int, int]] = {
    "ip": (0, 8),
    "arg0": (8, 8),
    "arg1": (16, 8),
    "arg2": (24, 8),
    "arg3": (32, 8),
    "arg4": (40, 8),
    "arg5": (48, 8),
    "ret": (56, 8),
    "elapsed_ns": (64, 8),
    "caller": (72, 8),
    "sp": (80, 8),
    "fp": (88, 8),
    "thread": (96, 4),
    "kind": (100, 4),
}
CTX_SIZE = 104
