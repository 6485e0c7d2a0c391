"""Points in time that something waits for."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """At most one point in time a key, the earliest that was set.

    A timer may fire too early: who set it looks again and sets it anew. That way a timer need not be
    moved when the work it watches over ends in time, which is what happens nearly always.

    >>> timers = Timers()
    >>> timers.set("a", 2.0)
    >>> timers.set("a", 3.0)  # later than what is set already: no change
    >>> timers.next()
    2.0
    >>> timers.due(2.5)
    ['a']
    >>> timers.next() is None
    True
    """

    __slots__ = ("_count", "_heap", "_when")

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0  # keeps the heap from comparing keys

    def set(self, key: K, when: float) -> None:
        """Have `key` come out of `due` at `when`, or earlier where that is set already."""
        current = self._when.get(key)
        if current is None or when < current:
            self._when[key] = when
            self._count += 1
            heapq.heappush(self._heap, (when, self._count, key))

    def forget(self, key: K) -> None:
        """Drop a timer that nobody needs any more."""
        self._when.pop(key, None)

    def next(self) -> float | None:
        """When the earliest timer is due; None where there is none."""
        heap = self._heap
        while heap:
            when, _, key = heap[0]
            if self._when.get(key) == when:
                return when
            heapq.heappop(heap)
        return None

    def due(self, now: float) -> list[K]:
        """The keys whose time has come, earliest first; their timers are gone with that."""
        keys: list[K] = []
        while (when := self.next()) is not None and when <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._when[key]
            keys.append(key)
        return keys
