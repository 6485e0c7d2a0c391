"""`Condition` and `Event`: multiprocessing's, whose wakers do not wait for the dead."""

from __future__ import annotations

import multiprocessing.synchronize
import time
from collections.abc import Callable
from multiprocessing.context import assert_spawning
from types import TracebackType
from typing import Any, TypeVar

from ..errors import AbandonedError
from .arena import Block, allocate
from .locks import Lock, RLock
from .sleepers import ALL, Sleepers

__all__ = ["Condition", "Event"]

_T = TypeVar("_T")
#: How many may wait at once for a condition or an event.
_CAPACITY = 512


class Condition:
    """A lock, and a place to wait until another process has changed what it protects.

    `notify` does not wait for those it wakes: one that was killed meanwhile does not hold it up, and a
    notification that a dead waiter had not yet taken goes to another. (That takes 0.1 s where nobody notifies
    again. The other may have begun to wait later.) Where a waiter dies while it has the lock, that passes on
    as `Lock` says. 512 threads and processes can wait at a time: RuntimeError for more.

    lock: a `Lock` or `RLock` (multiprocessing's, too, but without what is said here about deaths); an
    `RLock` of its own where none is given. ctx: accepted as in `multiprocessing.synchronize`.
    AssertionError from `wait` and `notify` where the lock is not held by this thread. Pickled only while a
    process is started: RuntimeError otherwise.

    >>> changed = Condition()
    >>> with changed:
    ...     changed.notify_all()
    ...     print(changed.wait(timeout=0), changed)
    False <Condition(<RLock(MainProcess, 1)>, 0)>
    """

    def __init__(
        self,
        lock: Lock
        | RLock
        | multiprocessing.synchronize.Lock
        | multiprocessing.synchronize.RLock
        | None = None,
        *,
        ctx: object | None = None,
    ) -> None:
        if lock is not None and not hasattr(lock, "_semlock"):
            raise TypeError(f"lock must be a Lock or RLock for processes, not {type(lock).__name__}")
        self._set(RLock() if lock is None else lock, Sleepers(_CAPACITY))

    def _set(self, lock: Any, sleepers: Sleepers) -> None:
        self._lock = lock
        self._sleepers = sleepers

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock; see `Lock.acquire`."""
        return bool(self._lock.acquire(block, timeout))

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, traceback)

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait until notified or for `timeout` seconds, acquire it again.

        Whether it was notified. AbandonedError, with the lock held, where the lock is made with
        `on_abandoned="raise"` and a process died holding it meanwhile.
        """
        assert self._lock._semlock._is_mine(), "must acquire() condition before using wait()"
        depth = self._lock._semlock._count()
        deadline = None if timeout is None else time.monotonic() + timeout
        place = self._sleepers.enter()
        held = slept = False
        try:
            while not slept:
                held = False
                try:
                    for _ in range(depth):
                        self._lock.release()
                    slept = self._sleepers.sleep(place, deadline, passes_on=True)
                finally:
                    self._acquire_again(depth)
                    held = True
                if not slept:
                    self._sleepers.wake(0)
        finally:
            woken = self._sleepers.leave(place)
            if woken and held and not slept:  # by an exception, such as KeyboardInterrupt
                self._sleepers.wake(1)
        return woken

    def _acquire_again(self, depth: int) -> None:
        abandoned = None
        for _ in range(depth):
            try:
                self._lock.acquire()
            except AbandonedError as error:
                abandoned = error
        if abandoned is not None:
            raise abandoned

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate` returns a true value, or for `timeout` seconds; its last value."""
        result = predicate()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not result:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait, in the order in which they came."""
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._sleepers.wake(n)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self.notify(ALL)

    def __getstate__(self) -> tuple[Any, Sleepers]:
        assert_spawning(self)
        return self._lock, self._sleepers

    def __setstate__(self, state: tuple[Any, Sleepers]) -> None:
        self._set(*state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._sleepers.count()})>"


class Event:
    """A flag that processes wait for: `multiprocessing.Event`.

    Neither a process that dies while it waits, nor one that dies while it sets the flag, keeps the others
    waiting. A `wait` that `set` has woken returns True, also where the flag was cleared at once.
    512 threads and processes can wait at a time: RuntimeError for more.

    ctx: accepted as in `multiprocessing.synchronize`. Pickled only while a process is started: RuntimeError
    otherwise.

    >>> ready = Event()
    >>> ready.wait(timeout=0)
    False
    >>> ready.set()
    >>> ready.wait(), ready.is_set()
    (True, True)
    """

    def __init__(self, *, ctx: object | None = None) -> None:
        self._attach(Lock(), Sleepers(_CAPACITY), allocate(1))

    def _attach(self, lock: Lock, sleepers: Sleepers, block: Block) -> None:
        self._lock = lock
        self._sleepers = sleepers
        self._block = block
        self._flag = block.view(0, 1)

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return bool(self._flag[0])

    def set(self) -> None:
        """Set the flag and wake all who wait for it."""
        with self._lock:
            self._flag[0] = 1
            self._sleepers.wake(ALL)

    def clear(self) -> None:
        """Clear the flag."""
        with self._lock:
            self._flag[0] = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, or for `timeout` seconds; whether it was set."""
        if self._flag[0]:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._flag[0]:
                return True
            place = self._sleepers.enter()
        try:
            # The setter may die between the flag and the wake-up: hence the look at the flag.
            self._sleepers.sleep(place, deadline, is_over=self.is_set)
        finally:
            with self._lock:
                woken = self._sleepers.leave(place)
        return woken or self.is_set()

    def __getstate__(self) -> tuple[Lock, Sleepers, Block]:
        assert_spawning(self)
        return self._lock, self._sleepers, self._block

    def __setstate__(self, state: tuple[Lock, Sleepers, Block]) -> None:
        self._attach(*state)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"
