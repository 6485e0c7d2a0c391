"""`Semaphore` and `BoundedSemaphore`: multiprocessing's, in memory that needs no name."""

from __future__ import annotations

import time
from multiprocessing.context import assert_spawning
from types import TracebackType

from .arena import COUNTING, MAX_VALUE, SEMAPHORE_BYTES, Block, NativeSemaphore, allocate

__all__ = ["BoundedSemaphore", "Semaphore"]

#: Seconds until a sleeper looks for a wake-up that went to another and died with it.
_LOOK_SECONDS = 0.1


class Semaphore:
    """A counter between processes that `acquire` lowers and waits for, and `release` raises.

    As any process may raise it, nobody is its holder: what a process had acquired stays acquired when it
    dies, as with `multiprocessing.Semaphore`. One that dies while it waits takes nothing with it and keeps
    nobody waiting.

    value: where it starts. ctx: accepted as in `multiprocessing.synchronize`; it works with all start
    methods. ValueError where `value` is out of range, or `release` goes beyond the highest value there is.
    Pickled only while a process is started: RuntimeError otherwise.

    >>> seats = Semaphore(2)
    >>> with seats:
    ...     print(seats)
    <Semaphore(value=1)>
    """

    def __init__(self, value: int = 1, *, ctx: object | None = None) -> None:
        self._create(value, MAX_VALUE)

    def _create(self, value: int, maxvalue: int) -> None:
        if not isinstance(value, int):
            raise TypeError(f"a semaphore's value must be an int, not {type(value).__name__}")
        if not 0 <= value <= MAX_VALUE:
            raise ValueError(f"a semaphore's value must be from 0 to {MAX_VALUE}, not {value}")
        block = allocate(SEMAPHORE_BYTES)
        block.init_semaphore(0, value)
        self._attach(block, maxvalue)

    def _attach(self, block: Block, maxvalue: int) -> None:
        self._block = block
        self._semlock: NativeSemaphore = block.semaphore(0, COUNTING, maxvalue)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Lower it by one; True when that is done, False where it was not possible.

        block: whether to wait while it is 0. timeout: for how long at most, in seconds; None for as
        long as it takes, and a negative one is 0.
        """
        take = self._semlock.acquire
        if take(False):
            return True
        if not block:
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        left = _LOOK_SECONDS
        while True:
            if deadline is not None:
                left = min(_LOOK_SECONDS, deadline - time.monotonic())
            if take(True, left):
                return True
            if left <= 0:
                return False

    def release(self) -> None:
        """Raise it by one."""
        self._semlock.release()

    def get_value(self) -> int:
        """What it is at present."""
        return self._semlock._get_value()

    def locked(self) -> bool:
        """Whether it is 0 at present, so that `acquire` would wait."""
        return self._semlock._is_zero()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __getstate__(self) -> tuple[Block, int]:
        assert_spawning(self)
        return self._block, self._semlock.maxvalue

    def __setstate__(self, state: tuple[Block, int]) -> None:
        self._attach(*state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that does not rise above the value it starts with: ValueError from `release`.

    >>> seats = BoundedSemaphore(2)
    >>> seats
    <BoundedSemaphore(value=2, maxvalue=2)>
    >>> seats.release()
    Traceback (most recent call last):
    ValueError: semaphore or lock released too many times
    """

    def __init__(self, value: int = 1, *, ctx: object | None = None) -> None:
        self._create(value, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._semlock.maxvalue})>"
