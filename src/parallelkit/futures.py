"""`Future`: the standard library's, for tasks that run in a `ProcessPoolExecutor`.

It differs in what is there to be had: `cancel` ends a task that runs, and the thread that waits for a result
drives the pool meanwhile. Whatever waits otherwise (`wait`, `as_completed`, asyncio) sees a
`concurrent.futures.Future`.
"""

from __future__ import annotations

import concurrent.futures as standard
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from . import options as checks
from .driver import Call, Driver
from .errors import CallTimeoutError, ResultError, SerializationError, UnreadableError, UnreadableResultError
from .scheduler import Deliver
from .shielding import shielded, start_shielded, unshielded

R = TypeVar("R")

_log = logging.getLogger("concurrent.futures")


class Future(standard.Future[R]):
    """What becomes of one task; made by `ProcessPoolExecutor.submit`.

    `cancel` ends the task also where it runs already, with all processes that it has started, and `result`
    raises `CancelledError` at once; `wait` and `as_completed` see the future as done when the task has ended.
    The callbacks are called in a thread of their own, one after the other.

    A failure that nobody has asked for when its future is collected is logged (logger "concurrent.futures").
    """

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: Callbacks | None = None
        self._driver: Driver | None = None
        self._call: Call | None = None
        self._over = False  # there will be no more from the driver
        self._trace: TracebackType | None = None
        self._asked = False

    def result(self, timeout: float | None = None) -> R:
        """What the task returned, or raise what it ended in.

        `CallTimeoutError` (a `TimeoutError`) where that is not there within `timeout` seconds; the task goes
        on then. `CancelledError` where it was cancelled.
        """
        try:
            self._await(timeout)
            if self._exception is not None:
                # With its own frames only: a second `result` must not show the frames of the first one.
                BaseException.with_traceback(self._exception, self._trace)
            return super().result(timeout)
        finally:
            del self  # or the exception would refer to itself, by its traceback and this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, None where it returned; otherwise as `result`."""
        self._await(timeout)
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[standard.Future[R]], object]) -> None:
        """Have `fn` called with this future when it is done, in the thread for callbacks."""
        super().add_done_callback(fn)
        driver = self._driver
        if driver is not None:
            driver.hurry()

    def cancel(self) -> bool:
        """End the task, whether it runs or waits; False where it is done already."""
        driver, call = self._driver, self._call
        if not super().cancel():
            return False
        if driver is not None and call is not None:
            driver.cancel(call)
        return True

    def running(self) -> bool:
        """Whether a worker has been given the task, and it is not done."""
        driver, call = self._driver, self._call
        if driver is None or call is None:
            return super().running()
        return not self.done() and driver.is_running(call)

    def __repr__(self) -> str:
        text = super().__repr__()
        return text.replace("state=pending", "state=running") if self.running() else text

    def __del__(self) -> None:
        error = getattr(self, "_exception", None)
        if error is not None and not self._asked and self._over:
            _log.error("a task failed, and nobody asked for its result: %r", self, exc_info=error)

    def _await(self, timeout: float | None) -> None:
        driver, call = self._driver, self._call
        if driver is not None and call is not None and not self.done():
            limit = checks.seconds("timeout", timeout, past=True)
            if not driver.wait(call, limit, self.done):
                assert limit is not None
                raise CallTimeoutError(timeout=limit)
        self._asked = self._asked or self.done()

    def _begin(self, driver: Driver, call: Call) -> None:
        """The call is under way; it may have come to its end meanwhile."""
        self._driver, self._call = driver, call
        if self._over:
            self._driver = self._call = None

    def _end(self, value: Any, error: BaseException | None) -> None:
        """The call has come to its end. Called by whichever thread drives."""
        self._over = True
        try:
            if error is not None:
                self._trace = error.__traceback__
                self.set_exception(error)
            else:
                self.set_result(value)
        except standard.InvalidStateError:  # it was cancelled meanwhile
            with contextlib.suppress(RuntimeError):
                self.set_running_or_notify_cancel()
        finally:
            # What the task was made of can go now, and whoever keeps the result does not keep the pool.
            self._driver = self._call = None

    def _cut(self) -> None:
        """The call was taken back before it ran."""
        self._over = True
        try:
            super().cancel()  # which may start the thread for callbacks
        finally:
            with contextlib.suppress(RuntimeError):
                self.set_running_or_notify_cancel()
            self._driver = self._call = None

    def _invoke_callbacks(self) -> None:
        if not vars(self)["_done_callbacks"]:
            return
        if self._over and self._callbacks is not None:
            # This thread drives: it may be one that waits for another result, and hold what a callback wants.
            self._callbacks.post(self)
        else:
            self._call_back()

    def _call_back(self) -> None:
        for callback in vars(self)["_done_callbacks"]:
            try:
                callback(self)
            except Exception:
                _log.exception("exception calling callback for %r", self)


class Settlement:
    """Takes the outcome of one task to its future."""

    __slots__ = ("_error", "_value", "future")

    def __init__(self, future: Future[Any]) -> None:
        self.future: Future[Any] = future
        self._value: Any = None
        self._error: BaseException | None = None

    def deliver(self, outcomes: Deliver) -> None:
        """Take the final outcome."""
        if outcomes.failures:
            self._error = _as_in_futures(outcomes.failures[0])
        else:
            self._value = outcomes.values[0]

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        if self._error is None and isinstance(exception, standard.CancelledError):
            self.future._cut()
        else:
            self.future._end(self._value, self._error or exception)


def _as_in_futures(error: BaseException) -> BaseException:
    """The error, so that it is caught by what catches that of the standard library's executor."""
    cause = error.__cause__
    if isinstance(error, ResultError):
        if error.value != "None":
            # It did not pickle: a SystemExit or KeyboardInterrupt by which it says so is the task's own.
            return error if cause is None or isinstance(cause, Exception) else cause
        made: UnreadableError = UnreadableResultError(
            path=error.path, reason=error.reason, exc=error.exc, value=error.value
        )
    elif isinstance(error, SerializationError) and error.what == "item":
        made = UnreadableError(what="call", path="call", reason=error.reason)
    else:
        return error  # what does not pickle here is a "call"
    made.__cause__ = cause
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made.with_traceback(error.__traceback__)


class Callbacks:
    """Calls what was given to `add_done_callback`, in a thread that is started for the first of them."""

    def __init__(self) -> None:
        self._futures: SimpleQueue[Future[Any] | None] = SimpleQueue()
        # The garbage collector may come back here: what it ends may complete another future.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closed = False
        #: Whether the wait for them was ended by a Ctrl-C, or to leave the program: nor does its end wait.
        self.given_up: bool = False

    def post(self, future: Future[Any]) -> None:
        """Have the callbacks of a future called. Called with the signals blocked."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._futures.put(future)
                if self._has_thread():
                    return
        if closed:
            with unshielded():
                future._call_back()
        else:
            self._call_here()

    def _has_thread(self) -> bool:
        """Start the thread if there is none yet; False where there is no room for one."""
        if self._thread is None:
            try:
                self._thread = start_shielded(self._run, (), "parallelkit-callbacks")
            except RuntimeError:
                return False
        return True

    def _call_here(self) -> None:
        """In this thread, then: late or early, but each is called."""
        with shielded(), contextlib.suppress(Empty):
            while (future := self._futures.get_nowait()) is not None:
                with unshielded():
                    future._call_back()
            self._futures.put(None)  # that one is the thread's

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # who started it was struck
        while (future := self._futures.get()) is not None:
            try:
                with unshielded():
                    future._call_back()
            except BaseException:
                _log.exception("exception calling callback for %r", future)
            del future

    def stop(self) -> None:
        """Nothing more will come: the thread ends when it has called what did. Does not wait for that."""
        with shielded(), self._lock:
            self._closed = True
            if not self._futures.empty():  # who was to start the thread was struck, perhaps
                self._has_thread()
            thread = self._thread
            if thread is not None:
                self._futures.put(None)
        if thread is None:
            self._call_here()

    def close(self) -> None:
        """Wait until all that came have been called."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            try:
                thread.join()
            except (KeyboardInterrupt, SystemExit):
                self.given_up = True
                raise
