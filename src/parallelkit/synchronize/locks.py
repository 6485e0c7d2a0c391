"""`Lock` and `RLock`: multiprocessing's, and not lost with the process that holds them."""

from __future__ import annotations

import threading
from multiprocessing.context import assert_spawning
from multiprocessing.process import current_process
from types import TracebackType
from typing import Any, Literal

from ..errors import AbandonedError
from . import mutex
from .arena import COUNTING, RECURSIVE, Block
from .mutex import Mutex


class _Lock:
    """What both kinds of locks share."""

    _kind = COUNTING

    def __init__(
        self, *, on_abandoned: Literal["ignore", "raise"] = "ignore", ctx: object | None = None
    ) -> None:
        if on_abandoned not in ("ignore", "raise"):
            raise ValueError(f"on_abandoned must be 'ignore' or 'raise', not {on_abandoned!r}")
        self._on_abandoned = on_abandoned
        self._set_mutex(mutex.create(self._kind))

    def _set_mutex(self, own: Mutex) -> None:
        self._semlock = own
        acquire, release = mutex.fast_path(own, self._slow_acquire())
        # As multiprocessing does, and unless a subclass has its own: the call is then one function deep.
        if type(self).acquire is _Lock.acquire:
            self.__dict__["acquire"] = acquire
        if type(self).release is _Lock.release:
            self.__dict__["release"] = release

    def _slow_acquire(self) -> Any:
        own = self._semlock
        if self._on_abandoned == "ignore":
            return own.acquire

        def acquire(block: bool = True, timeout: float | None = None) -> bool:
            got = own.acquire(block, timeout)
            if got and own.state.cell_contents == mutex.ADOPTED and own._count() == 1:
                raise AbandonedError()
            return got

        return acquire

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock; True when it is held then, False where that was not possible.

        block: whether to wait. timeout: for how long at most, in seconds; None for as long as it takes, and
        a negative one is 0. AbandonedError with `on_abandoned="raise"`, and the lock is held then.
        """
        return bool(self._slow_acquire()(block, timeout))

    def release(self) -> None:
        """Release the lock."""
        self._semlock.release()

    def locked(self) -> bool:
        """Whether it is held at present, by whomever.

        One whose holder is dead counts as held until the next acquires it.
        """
        return self._semlock._is_zero()

    @property
    def abandoned(self) -> bool:
        """Whether this process holds the lock because a process died that held it.

        What the lock protects may then be half done. It is False again for the next holder.
        """
        return bool(self._semlock.state.cell_contents == mutex.ADOPTED)

    def __enter__(self) -> bool:
        try:
            return self.acquire()
        except AbandonedError:
            # The block is not run, so nobody would release it. The next to acquire is told as well.
            self._semlock.abandon()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __getstate__(self) -> tuple[Block, str]:
        assert_spawning(self)
        return self._semlock.block, self._on_abandoned

    def __setstate__(self, state: tuple[Block, Literal["ignore", "raise"]]) -> None:
        block, self._on_abandoned = state
        self._set_mutex(mutex.attach(block, self._kind))

    def _owner(self) -> tuple[str, int | str]:
        """Who holds it, and how many times, as multiprocessing's locks show it."""
        own = self._semlock
        if own._is_mine():
            name = current_process().name
            if threading.current_thread().name != "MainThread":
                name += "|" + threading.current_thread().name
            return name, own._count()
        if not own._is_zero():
            return "None", 0
        return ("SomeOtherThread" if own._count() > 0 else "SomeOtherProcess"), "nonzero"


class Lock(_Lock):
    """A lock between processes: `multiprocessing.Lock`, which a process that dies does not take with it.

    Any process and any thread may release it. When the process that holds it ends in whatever way, the next
    to acquire gets it and can see that in `abandoned`: what the lock protects may be half done. A process
    that waits looks 20 times a second whether the holder is dead. A thread that ends does not release what
    it holds. Where processes are of different pid namespaces, none can tell whether another is dead.

    on_abandoned: "ignore", or "raise" for an `AbandonedError` from `acquire` where `abandoned` would be
    true. The lock is held then, as after pthread's EOWNERDEAD: repair what it protects and release it.
    `with lock:` raises it, too, but as the block does not run the lock is not held, and the next to acquire
    it is told again. ctx: accepted as in `multiprocessing.synchronize`; a lock works with all start
    methods.

    ValueError from `release` where nobody holds it. Pickled only while a process is started: RuntimeError
    otherwise.

    >>> lock = Lock()
    >>> with lock:
    ...     print(lock, lock.acquire(timeout=0), lock.abandoned)
    <Lock(owner=MainProcess)> False False
    >>> lock
    <Lock(owner=None)>
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={self._owner()[0]})>"


class RLock(_Lock):
    """A lock that its holder may acquire again: `multiprocessing.RLock`, not lost with its holder.

    It belongs to a thread of a process, which releases it as often as it acquired it. `on_abandoned`,
    `ctx`, and what a death does, are as of `Lock`.

    AssertionError from `release` where it is not this thread's.

    >>> lock = RLock()
    >>> with lock, lock:
    ...     print(lock)
    <RLock(MainProcess, 2)>
    """

    _kind = RECURSIVE

    def __repr__(self) -> str:
        name, count = self._owner()
        return f"<{type(self).__name__}({name}, {count})>"


__all__ = ["Lock", "RLock"]
