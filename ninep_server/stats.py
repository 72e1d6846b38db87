# SPDX-License-Identifier: BSD-3-Clause
"""What a server has done, cheap enough to be always on: two clock readings and an increment per request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

BUCKETS = 20  # bucket i counts requests of less than 2**i microseconds; the last one the rest


@dataclass
class Operation:
    """One kind of request: how many, how long in all (ns), and how they are spread."""

    count: int = 0
    total_ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def took(self, ns: int) -> None:
        """Count one request of that time."""
        self.count += 1
        self.total_ns += ns
        self.buckets[min((ns // 1000).bit_length(), BUCKETS - 1)] += 1


@dataclass
class Stats:
    """Of one server, over all its connections."""

    operations: dict[str, Operation] = field(default_factory=dict)
    errors: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    def operation(self, name: str) -> Operation:
        """The counters of one message, such as `Tread`."""
        found = self.operations.get(name)
        if found is None:
            found = self.operations[name] = Operation()
        return found

    @property
    def ops(self) -> dict[str, int]:
        """How many requests of each kind."""
        return {name: o.count for name, o in self.operations.items()}

    def rows(self) -> Iterator[tuple[str, int, float]]:
        """(message, count, mean seconds), most frequent first."""
        for name, o in sorted(self.operations.items(), key=lambda item: -item[1].count):
            yield name, o.count, o.total_ns / o.count / 1e9
