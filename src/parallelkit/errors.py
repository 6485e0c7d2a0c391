"""The errors of this library: what happened, to which item, and what to do about it.

All but `ClosedError` take their fields by keyword and make their message from them. Each can be
pickled, and each is caught by the handlers that programs have today: what a wait runs out of time with is
also `TimeoutError` and `multiprocessing.TimeoutError`, what a lost worker costs is also
`concurrent.futures.process.BrokenProcessPool`.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import pickle
import signal as signals
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class MaybeEncodingError(Exception):
        """`multiprocessing.pool.MaybeEncodingError`, which type checkers do not know."""

        exc: str
        value: str

else:
    from multiprocessing.pool import MaybeEncodingError

__all__ = [
    "AbandonedError",
    "CallTimeoutError",
    "ClosedError",
    "MemoryLimitError",
    "ParallelKitError",
    "RemoteError",
    "ResultError",
    "SerializationError",
    "TaskTimeoutError",
    "UnreadableError",
    "UnreadableResultError",
    "WorkerDiedError",
    "WorkerInitError",
]


class ParallelKitError(Exception):
    """What all errors of this library are.

    >>> try:
    ...     raise ClosedError("this pool is closed")
    ... except ParallelKitError as error:
    ...     print(error)
    this pool is closed
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[ParallelKitError], args: tuple[Any, ...], state: dict[str, Any]) -> ParallelKitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AbandonedError(ParallelKitError):
    """A lock was acquired that its last holder did not release but died with.

    Raised only by locks made with `on_abandoned="raise"`. Out of `acquire` the lock is held.

    >>> AbandonedError()
    AbandonedError('the process that held this lock died: what the lock protects may be half done')
    """

    def __init__(self) -> None:
        super().__init__("the process that held this lock died: what the lock protects may be half done")


class TaskTimeoutError(ParallelKitError, multiprocessing.TimeoutError, TimeoutError):
    """A task ran longer than `task_timeout` and was ended.

    index: which item, counted from 0; None for a single call.
    timeout: the limit, in seconds. pid: the process that ran it; None where there was none.

    >>> TaskTimeoutError(index=3, timeout=0.5, pid=None)
    TaskTimeoutError('item 3 ran longer than its task_timeout of 0.5 s and was ended')
    """

    def __init__(self, *, index: int | None, timeout: float, pid: int | None) -> None:
        self.index = index
        self.timeout = timeout
        self.pid = pid
        super().__init__(f"{_item(index)} ran longer than its task_timeout of {timeout:g} s and was ended")


class CallTimeoutError(ParallelKitError, multiprocessing.TimeoutError, TimeoutError):
    """A whole call, or the wait for what it gives, took longer than `timeout`.

    timeout: the limit, in seconds. completed: how many items had an outcome by then; None where there are
    no items, as with the result of a `Process` or with `Connection.recv`. begun: whether `Connection.send`
    had sent a part of its message, the rest of which goes ahead of the next one.

    >>> CallTimeoutError(timeout=2.0, completed=7)
    CallTimeoutError('no complete result within the timeout of 2 s; by then 7 items were done')
    """

    def __init__(self, *, timeout: float, completed: int | None = None, begun: bool = False) -> None:
        self.timeout = timeout
        self.completed = completed
        self.begun = begun
        if begun:
            super().__init__(
                f"not all of the message was sent within the timeout of {timeout:g} s; the rest goes ahead "
                "of the next one: do not send it again"
            )
            return
        if completed is None:
            super().__init__(f"nothing came within the timeout of {timeout:g} s; only the wait is over")
            return
        done = "1 item was" if completed == 1 else f"{completed} items were"
        super().__init__(f"no complete result within the timeout of {timeout:g} s; by then {done} done")


class WorkerDiedError(ParallelKitError, BrokenProcessPool):
    """The process that held an item ended, and the item is lost; other items are not.

    index: which item, counted from 0; None for a single call, or where no item was concerned.
    pid: the process. exitcode: as of `multiprocessing.Process.exitcode`; None where it is not known.
    signal: the number of the signal that ended it, None if none did.
    started: whether the item had begun to run, so that it may have had effects.

    >>> error = WorkerDiedError(index=2, pid=41, exitcode=-11, signal=11, started=True)
    >>> print(error)
    item 2 was running when its worker (pid 41) was killed by SIGSEGV
    """

    def __init__(
        self,
        *,
        index: int | None,
        pid: int | None,
        exitcode: int | None,
        signal: int | None,
        started: bool,
    ) -> None:
        self.index = index
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.started = started
        super().__init__(self._message())

    def _message(self) -> str:
        when = "was running when" if self.started else "had not started when"
        who = "its worker" if self.pid is None else f"its worker (pid {self.pid})"
        return f"{_item(self.index)} {when} {who} {self._end()}"

    def _end(self) -> str:
        if self.signal is not None:
            if self.exitcode is None:  # it was not waited for: the task was given up with the signal
                return f"was ended by this program, with {_signal_name(self.signal)}"
            end = f"was killed by {_signal_name(self.signal)}"
            if self.signal == signals.SIGKILL:
                end += ", possibly by the out-of-memory killer: look at the kernel's log"
            return end
        if self.exitcode is not None:
            return f"ended with exit code {self.exitcode}"
        if self.pid is not None:
            return (
                "ended; its exit code was taken by another part of the program (a SIGCHLD handler or os.wait)"
            )
        return "ended"


class MemoryLimitError(WorkerDiedError):
    """A worker with its descendants held more than `memory_limit`, and was ended.

    limit, used: bytes. The other fields are those of `WorkerDiedError`.

    >>> error = MemoryLimitError(
    ...     index=2, pid=41, exitcode=-9, signal=9, started=True, limit=2_000_000_000, used=2_300_000_000
    ... )
    >>> print(error)
    item 2 was ended, as its worker held 2,300 MB, more than the memory_limit of 2,000 MB
    """

    def __init__(
        self,
        *,
        index: int | None,
        pid: int | None,
        exitcode: int | None,
        signal: int | None,
        started: bool,
        limit: int,
        used: int,
    ) -> None:
        self.limit = limit
        self.used = used
        super().__init__(index=index, pid=pid, exitcode=exitcode, signal=signal, started=started)

    def _message(self) -> str:
        return (
            f"{_item(self.index)} was ended, as its worker held {self.used / 1e6:,.0f} MB, "
            f"more than the memory_limit of {self.limit / 1e6:,.0f} MB"
        )


class WorkerInitError(ParallelKitError, BrokenProcessPool):
    """No worker can be started; why not is the `__cause__`, such as the initializer's exception.

    starts: how many attempts in a row have failed.

    >>> print(WorkerInitError(starts=3))  # doctest: +ELLIPSIS
    no worker could be started: 3 attempts in a row have failed, for the reason ...
    """

    def __init__(self, *, starts: int) -> None:
        self.starts = starts
        super().__init__(
            f"no worker could be started: {starts} attempts in a row have failed, "
            "for the reason given as the cause of this error"
        )


class SerializationError(ParallelKitError, pickle.PicklingError):
    """Something could not be sent to another process, or not be read there.

    what: "function", "item", "call" (the arguments of a single one), "result", "exception" or
    "initializer". path: the way to the culprit inside of it, such as "item['lock']" or "args[0]".
    reason: what pickle said. index: which item, None for none.

    >>> print(SerializationError(what="result", path="result.lock", reason="a lock"))  # doctest: +ELLIPSIS
    the result cannot be sent between processes at result.lock: ... needed of it
    """

    def __init__(self, *, what: str, path: str, reason: str, index: int | None = None) -> None:
        self.what = what
        self.path = path
        self.reason = reason
        self.index = index
        which = f"{what} {index}" if index is not None and what == "item" else f"the {what}"
        culprit = "" if path == what else f" at {path}"
        text = f"{which} cannot be sent between processes{culprit}: {reason}{_cure(what, reason)}"
        Exception.__init__(self, text)  # not `super()`, which is another one in `ResultError`


class ResultError(SerializationError, MaybeEncodingError):
    """A task's result could not be sent back; also a `multiprocessing.pool.MaybeEncodingError`.

    exc: the repr of what pickle raised. value: the repr of the result, shortened; that of None where it
    was sent and could not be read here. The other fields are those of `SerializationError`.
    """

    def __init__(self, *, path: str, reason: str, exc: str, value: str) -> None:
        super().__init__(what="result", path=path, reason=reason)
        self.exc = exc
        self.value = value

    def __str__(self) -> str:
        return Exception.__str__(self)

    def __repr__(self) -> str:
        return Exception.__repr__(self)


def _cure(what: str, reason: str) -> str:
    if any(sign in reason for sign in ("<lambda>", "<locals>", "local object", "__main__")):
        cure = ". Define it at the top level of a module that can be imported"
        installed = importlib.util.find_spec("cloudpickle") is not None
        return (
            cure if installed else f"{cure}, or install cloudpickle: pip install 'parallelkit[cloudpickle]'"
        )
    if what == "result":
        return ". Return plain data, or only what is needed of it"
    return ". Send what it can be made from, and make it in the worker"


class UnreadableError(SerializationError, BrokenProcessPool):
    """The arguments or the result of a task of a `ProcessPoolExecutor` were sent and could not be read.

    A `concurrent.futures.process.BrokenProcessPool`, too, as that is what the standard library makes of it,
    for all tasks; here it is the one task, and the executor goes on. The fields are those of
    `SerializationError`.
    """

    def __str__(self) -> str:
        return Exception.__str__(self)


class UnreadableResultError(ResultError, UnreadableError):
    """An `UnreadableError` for a result, which is a `ResultError`, too, as behind each other face."""


class RemoteError(ParallelKitError):
    """Stands in for an exception of a worker that cannot be rebuilt here.

    type_name: the name of its type, with its module. traceback: its traceback, as text; its cause, context
    and notes are where the exception itself would have them.

    >>> RemoteError(type_name="shop.OutOfStock", text="no more tea", traceback="...")
    RemoteError('shop.OutOfStock: no more tea')
    """

    def __init__(self, *, type_name: str, text: str, traceback: str) -> None:
        self.type_name = type_name
        self.traceback = traceback
        super().__init__(f"{type_name}: {text}" if text else type_name)


class ClosedError(ParallelKitError, ValueError, RuntimeError):
    """What was asked for needs a pool that is open (or closed, in the case of `join`).

    >>> raise ClosedError("this pool is closed")
    Traceback (most recent call last):
        ...
    parallelkit.errors.ClosedError: this pool is closed
    """


def _item(index: int | None) -> str:
    return "the call" if index is None else f"item {index}"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
