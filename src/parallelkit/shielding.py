"""A lock under which no signal handler runs, so that a Ctrl-C cannot cut a change of state in two.

The thread that waits for a result drives the pool, and that is the main thread most of the time, in which
Python runs signal handlers between any two instructions. A KeyboardInterrupt there, between a command and
its being carried out, would lose a result or a worker. So whoever holds a `Shield` has the usual signals
blocked:

    acquire    blocks the signals, if this is the main thread, and takes the lock
    release    gives the lock back, and unblocks them: the handlers of what came meanwhile run here

Rules:

1. Code that waits or is the user's runs within `opened()`, without the lock and with the signals as they
   were. An exception from there is an ordinary one: the state was at rest.
2. An exception that leaves a `with` block of the lock otherwise (a signal that the kernel gave to another
   thread, whose handler runs in the main thread all the same; a full disk) may have left the state in two.
   `on_torn` is told, which has to end everything. What can wait, or fail, and has changed nothing then, as
   the start of a thread, stands in `unchanged()`.
3. Threads of ours that serve a pool have the signals blocked from the beginning (`start_shielded`), so that
   the kernel does not choose them; they are unblocked where such a thread runs user code, as a program
   that is started there would inherit the mask.

Measured: blocking and unblocking take 0.8 µs together; by `signal.pthread_sigmask`, which makes
enumerations of all numbers, 3.5 µs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

_sigmask: Callable[[int, Any], set[int]] | None = getattr(sys.modules.get("_signal"), "pthread_sigmask", None)
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGCHLD")
#: Those for which programs have handlers that may raise, or that may use a pool.
SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))

_main = threading.main_thread().ident
#: The masks of the threads that have the signals blocked, as they were before.
_usual: dict[int, set[int]] = {}


def _after_fork_in_child() -> None:
    global _main
    _main = threading.get_ident()
    _usual.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def usual_mask() -> set[int] | None:
    """The signals that are blocked in this thread but for the shield; None where it has none."""
    return _usual.get(threading.get_ident())


def set_mask(mask: set[int] | None) -> None:
    """Give a new process the mask that its parent has without the shield."""
    if mask is not None and _sigmask is not None:
        _sigmask(signal.SIG_SETMASK, mask)


def start_shielded(target: Callable[..., None], args: tuple[Any, ...], name: str) -> threading.Thread:
    """Start a thread of ours, which has the signals blocked from its first instruction to its last.

    To be called with the owner's lock held. A handler may strike in the midst all the same (the kernel gave
    the signal to another thread), most likely while `Thread.start` waits until the thread is up: then that
    lives, and nobody has it. So the first thing that a thread does is to ask, with the lock, whether its
    owner has it.
    """
    mask = _usual.get(threading.get_ident())

    def live() -> None:
        me = threading.get_ident()
        if _sigmask is not None:
            before = _sigmask(signal.SIG_BLOCK, SIGNALS)
            _usual[me] = before if mask is None else mask
        try:
            target(*args)
        finally:
            _usual.pop(me, None)

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    return thread


def _block(me: int) -> bool:
    """Block the signals if this is the main thread and they are not; True where that was done."""
    if me != _main or me in _usual or _sigmask is None:
        return False
    try:
        usual = _sigmask(signal.SIG_BLOCK, SIGNALS)
    except BaseException:  # a handler of a signal that came just before; they are blocked by now
        _sigmask(signal.SIG_UNBLOCK, SIGNALS)
        raise
    _usual[me] = usual
    return True


def _unblock(me: int) -> None:
    usual = _usual.pop(me, None)
    if usual is not None and _sigmask is not None:
        _sigmask(signal.SIG_SETMASK, usual)  # handlers run here


class shielded:
    """Within the block, signals wait: for a few steps that belong together, where there is no lock to hold.

    >>> with shielded():
    ...     print("one step and the next")
    one step and the next
    """

    __slots__ = ("_blocked",)

    def __enter__(self) -> None:
        self._blocked = _block(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        if self._blocked:
            _unblock(threading.get_ident())


class unshielded:
    """Within the block, signals are as usual: for user code that a thread runs while it has them blocked.

    >>> with unshielded():
    ...     print("your code")
    your code
    """

    __slots__ = ("_mask",)

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._mask = _usual.pop(me, None)
        if self._mask is not None and _sigmask is not None:
            try:
                _sigmask(signal.SIG_SETMASK, self._mask)
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *_: object) -> None:
        if self._mask is not None and _sigmask is not None:
            me = threading.get_ident()
            try:
                _sigmask(signal.SIG_BLOCK, SIGNALS)
            finally:  # an exception here is that of a handler: the signals are blocked
                _usual[me] = self._mask


class Shield:
    """The lock. `on_torn` is called under it, with the exception that may have left the state in two.

    `expected` are exceptions that are raised on purpose before anything is changed.
    """

    def __init__(
        self, on_torn: Callable[[BaseException], None], expected: tuple[type[BaseException], ...]
    ) -> None:
        # One that knows its owner: there is no moment at which it is taken and we have not noted by whom.
        self._lock: Any = threading.RLock()
        self._at_rest: BaseException | None = None
        self._on_torn = on_torn
        self._expected = expected

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        return bool(self._lock._is_owned())

    # threading.Condition asks for these

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())

    @property
    def locked(self) -> Callable[[], bool]:
        """From Python 3.14 on, as an `RLock` has it."""
        locked: Callable[[], bool] = self._lock.locked
        return locked

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, with the signals blocked. RuntimeError where this thread has it already."""
        if self._lock._is_owned():
            raise RuntimeError("a signal handler cannot use a pool while that is changing its state")
        me = threading.get_ident()
        try:
            blocked = _block(me)
            taken: bool = self._lock.acquire(blocking)
        except BaseException:
            self._leave(me)
            raise
        if not taken and blocked:
            _unblock(me)
        return taken

    def release(self) -> None:
        """Give the lock back, and let in the signals that came meanwhile."""
        self._leave(threading.get_ident())

    def _leave(self, me: int) -> None:
        if self._lock._is_owned():
            self._lock.release()
        if me == _main:
            _unblock(me)

    def regain(self) -> None:
        """Have the lock again, whatever interrupts; no change where this thread has it.

        An exception that is on its way then came up while the state was at rest. Where one strikes between
        the end of an `opened()` block and its `__exit__`, whoever tidies up calls this first.
        """
        late: BaseException | None = None
        missed = False
        while not self._lock._is_owned():
            missed = True
            try:
                self.acquire()
            except BaseException as raised:
                late = raised
        if missed:
            self._at_rest = late or sys.exception()
        if late is not None:
            raise late

    def opened(self) -> _Opened:
        """A block in which this thread does not hold the lock, and signals are as usual."""
        return _Opened(self)

    def lent(self) -> _Lent:
        """A block in which this thread does not hold the lock, and the signals stay blocked."""
        return _Lent(self)

    def unchanged(self) -> _Unchanged:
        """A block that changes nothing where it is left by an exception, so that this does not tear."""
        return _Unchanged(self)

    def sleep(self, news: threading.Condition, timeout: float | None) -> None:
        """Wait for `news`, a condition of this lock."""
        try:
            news.wait(timeout)
        except BaseException as error:
            self.regain()
            self._at_rest = error  # the condition has taken the lock again by itself, perhaps
            raise

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.regain()
            at_rest, self._at_rest = self._at_rest, None
            if error is not None and error is not at_rest and not isinstance(error, self._expected):
                self._on_torn(error)
        finally:
            self.release()


class _Opened:
    __slots__ = ("_shield",)

    def __init__(self, shield: Shield) -> None:
        self._shield = shield

    def __enter__(self) -> None:
        try:
            self._shield.release()
        except BaseException:
            self._shield.regain()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shield.regain()


class _Lent(_Opened):
    __slots__ = ()

    def __enter__(self) -> None:
        self._shield._lock.release()


class _Unchanged:
    __slots__ = ("_shield",)

    def __init__(self, shield: Shield) -> None:
        self._shield = shield

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._shield._at_rest = error
