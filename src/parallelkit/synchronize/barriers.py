"""`Barrier`: multiprocessing's, which the death of a waiting party breaks instead of blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from multiprocessing.context import assert_spawning
from threading import BrokenBarrierError
from typing import Any

from .arena import Block, allocate
from .conditions import Condition
from .locks import RLock
from .sleepers import LOOK_SECONDS, Sleepers

__all__ = ["Barrier"]

_FILLING, _DRAINING, _RESETTING, _BROKEN = 0, 1, -1, -2


class Barrier(threading.Barrier):
    """A point that so many processes must have reached before any goes on: `multiprocessing.Barrier`.

    Where a process dies while it waits at the barrier, the barrier breaks, and the others get their
    `BrokenBarrierError` 0.1 s later. Of one that dies before it gets there nothing is known: for that there
    is `timeout`.

    parties: how many. action: called by one of them when all are there, before they go on; where it raises,
    or its process dies, the barrier breaks. timeout: for `wait`, in seconds, where that is given none. ctx:
    accepted as in `multiprocessing.synchronize`. ValueError where `parties` is less than 1. Pickled only
    while a process is started: RuntimeError otherwise.

    >>> barrier = Barrier(1, action=lambda: print("all here"))
    >>> barrier.wait()
    all here
    0
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: object | None = None,
    ) -> None:
        if parties < 1:
            raise ValueError(f"parties must be at least 1, not {parties}")
        # Those who wait for the last round to end sleep at the same place.
        condition = Condition.__new__(Condition)
        condition._set(RLock(), Sleepers(2 * parties + 64))
        self._attach(parties, action, timeout, condition, allocate(4 * (1 + parties)))

    def _attach(
        self,
        parties: int,
        action: Callable[[], object] | None,
        timeout: float | None,
        condition: Condition,
        block: Block,
    ) -> None:
        self._settings = parties, action, timeout
        self._condition = condition
        self._block = block
        #: The state, then for each party that is inside its process's slot, plus one.
        self._shared = block.view(0, 4 * (1 + parties), "i")

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties are there; a number from 0 to `parties` - 1 that each has for itself.

        timeout: after how many seconds to break the barrier; None for that of the barrier.
        BrokenBarrierError where it is broken, or is reset, or breaks meanwhile.
        """
        parties, _, default = self._settings
        with self._condition:
            self._enter()
            index = self._count()
            place = self._inside().index(0) + 1
            self._shared[place] = self._block.arena.slot() + 1
            try:
                if index + 1 == parties:
                    self._open()
                else:
                    self._stay(default if timeout is None else timeout)
            finally:
                self._shared[place] = 0
                self._settle()
        return index

    def reset(self) -> None:
        """Make it as new. Those who wait get a `BrokenBarrierError`."""
        with self._condition:
            self._remove_dead()
            if not self._count():
                self._shared[0] = _FILLING
            elif self._shared[0] in (_FILLING, _BROKEN):
                self._shared[0] = _RESETTING
            self._condition.notify_all()

    def abort(self) -> None:
        """Break the barrier: all who wait, or come to wait, get a `BrokenBarrierError` until `reset`."""
        with self._condition:
            self._break()

    @property
    def parties(self) -> int:
        """How many have to be there."""
        return self._settings[0]

    @property
    def n_waiting(self) -> int:
        """How many are there."""
        return self._count() if self._shared[0] == _FILLING else 0

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._shared[0] == _BROKEN)

    # All that follows runs with the lock held.
    def _inside(self) -> list[int]:
        return self._shared[1:].tolist()

    def _count(self) -> int:
        return sum(map(bool, self._inside()))

    def _enter(self) -> None:
        self._remove_dead()
        while self._shared[0] in (_RESETTING, _DRAINING):
            if not self._condition.wait(LOOK_SECONDS):
                self._remove_dead()
        if self._shared[0] < 0:
            raise BrokenBarrierError

    def _open(self) -> None:
        action = self._settings[1]
        try:
            if action is not None:
                action()
            self._shared[0] = _DRAINING
            self._condition.notify_all()
        except BaseException:
            self._break()
            raise

    def _stay(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        left = LOOK_SECONDS
        while self._shared[0] == _FILLING:
            if deadline is not None:
                left = min(LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                self._break()
            elif not self._condition.wait(left):
                self._remove_dead()
        if self._shared[0] < 0:
            raise BrokenBarrierError

    def _break(self) -> None:
        self._shared[0] = _BROKEN
        self._condition.notify_all()

    def _settle(self) -> None:
        """The last of a round to leave lets the next round in."""
        if self._shared[0] in (_RESETTING, _DRAINING) and not self._count():
            self._shared[0] = _FILLING
            self._condition.notify_all()

    def _remove_dead(self) -> None:
        arena = self._block.arena
        dead = [place for place, slot in enumerate(self._inside(), 1) if slot and arena.is_dead(slot - 1)]
        for place in dead:
            self._shared[place] = 0
        if dead and self._shared[0] == _FILLING:
            self._break()
        self._settle()

    def __getstate__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return *self._settings, self._condition, self._block

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._attach(*state)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x}: {state}>"
