"""Who sleeps until it is woken: the table behind `Condition`, `Event` and `Barrier`.

    block:  [ next ticket, places used | tickets | owners | woken | a semaphore for each place ]

Rules:
1. The table is changed only by who holds the lock that goes with it. Sleeping itself is done without.
2. A sleeper has a place with a semaphore of its own, so a wake-up that is meant for it is nobody else's. A
   waker marks the place as woken and raises the semaphore. It does not wait for the sleeper, which may be
   dead; multiprocessing's `notify` does, and hangs then.
3. `woken` counts; the semaphore only shortens the sleep. A waker that dies between the two costs the sleeper
   `LOOK_SECONDS`.
4. The place of a dead process is free, and a wake-up that it had not yet taken goes to another: when
   somebody is woken the next time, or when a sleeper that is asked to, `passes_on`, looks for itself. That
   one takes the lock, calls `wake(0)`, and sleeps on if it was not its own turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from .arena import COUNTING, MAX_VALUE, SEMAPHORE_BYTES, Block, NativeSemaphore, allocate

#: Seconds after which a sleeper looks for itself.
LOOK_SECONDS = 0.1
_HEADER_BYTES = 64
_NEXT, _USED = 0, 1
ALL = sys.maxsize


class Sleepers:
    """The table, for at most `capacity` sleepers at a time."""

    def __init__(self, capacity: int) -> None:
        self._attach(allocate(_HEADER_BYTES + capacity * (24 + SEMAPHORE_BYTES)), capacity)

    def _attach(self, block: Block, capacity: int) -> None:
        self.block = block
        self._capacity = capacity
        starts = [_HEADER_BYTES + column * 8 * capacity for column in range(4)]
        self._header = block.view(0, _HEADER_BYTES, "Q")
        self._tickets, self._owners, self._woken = (
            block.view(start, start + 8 * capacity, "Q") for start in starts[:3]
        )
        self._first_semaphore = starts[3]
        self._semaphores: dict[int, NativeSemaphore] = {}

    def __getstate__(self) -> tuple[Block, int]:
        return self.block, self._capacity

    def __setstate__(self, state: tuple[Block, int]) -> None:
        self._attach(*state)

    def enter(self) -> int:
        """A place to sleep at. RuntimeError where all are taken."""
        used = self._header[_USED]
        tickets = self._tickets[:used].tolist()
        if 0 in tickets:
            place = tickets.index(0)
        elif used < self._capacity:
            place = used
        else:
            dead = [place for place in range(used) if self._is_dead(place)]
            if not dead:
                raise RuntimeError(f"more than {self._capacity} threads and processes wait at once")
            place = dead[0]
        self._tickets[place] = 0
        self._owners[place] = self.block.arena.slot()
        self._woken[place] = 0
        self.block.init_semaphore(self._first_semaphore + place * SEMAPHORE_BYTES, 0)
        self._header[_NEXT] += 1
        self._header[_USED] = max(used, place + 1)
        self._tickets[place] = self._header[_NEXT]
        return place

    def sleep(
        self,
        place: int,
        deadline: float | None = None,
        *,
        is_over: Callable[[], bool] = lambda: False,
        passes_on: bool = False,
    ) -> bool:
        """Sleep until woken, or `is_over`, or `deadline` by the monotonic clock; the lock is not to be held.

        Where the sleeper `passes_on`, False says that it is to do so, by `wake(0)`, and to come again.
        """
        semaphore = self._semaphore(place)
        left = LOOK_SECONDS
        while not self._woken[place] and not is_over():
            if deadline is not None:
                left = min(LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0 or semaphore.acquire(True, left):
                break
            if passes_on and self._has_lost():
                return False
        return True

    def leave(self, place: int) -> bool:
        """Give the place back; whether its sleeper had been woken."""
        woken = bool(self._woken[place])
        self._tickets[place] = 0
        return woken

    def wake(self, count: int) -> None:
        """Wake so many of those who sleep, who came first first; and for each wake-up that was lost one."""
        tickets = self._tickets[: self._header[_USED]].tolist()
        asleep = sorted(
            (ticket, place) for place, ticket in enumerate(tickets) if ticket and not self._woken[place]
        )
        if count < len(asleep):
            # Only now does it matter whether one of them is dead.
            count += sum(
                self._bury(place) for place, ticket in enumerate(tickets) if ticket and self._woken[place]
            )
        for _, place in asleep:
            if count <= 0:
                break
            if count < len(asleep) and self._bury(place):
                continue
            self._woken[place] = 1
            self._semaphore(place).release()
            count -= 1

    def count(self) -> int:
        """How many sleep and have not been woken."""
        used = self._header[_USED]
        return sum(
            1
            for ticket, woken in zip(self._tickets[:used], self._woken[:used], strict=True)
            if ticket and not woken
        )

    def _has_lost(self) -> bool:
        """Whether a dead process has not taken a wake-up. Rough, as the lock is not held."""
        used = self._header[_USED]
        columns = self._tickets[:used].tolist(), self._woken[:used].tolist()
        return any(
            ticket and woken and self._is_dead(place)
            for place, (ticket, woken) in enumerate(zip(*columns, strict=True))
        )

    def _bury(self, place: int) -> bool:
        if not self._is_dead(place):
            return False
        self._tickets[place] = 0
        return True

    def _is_dead(self, place: int) -> bool:
        return self.block.arena.is_dead(self._owners[place])

    def _semaphore(self, place: int) -> NativeSemaphore:
        semaphore = self._semaphores.get(place)
        if semaphore is None:
            at = self._first_semaphore + place * SEMAPHORE_BYTES
            semaphore = self._semaphores[place] = self.block.semaphore(at, COUNTING, MAX_VALUE)
        return semaphore
