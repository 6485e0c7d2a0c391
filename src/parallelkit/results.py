"""What becomes of the calls of a pool: `AsyncResult`, and the failures that nobody has retrieved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import options as checks
from .driver import Call, Driver
from .errors import CallTimeoutError, ClosedError
from .gathering import Gathering
from .iteration import Stream
from .options import CallSettings, ErrorCallback
from .shielding import shielded, unshielded

R_co = TypeVar("R_co", covariant=True)


class AsyncResult(Generic[R_co]):
    """The result of a call that is under way; made by `Pool.apply_async` and its kin."""

    def __init__(
        self,
        driver: Driver,
        unretrieved: Unretrieved,
        settings: CallSettings,
        size: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: ErrorCallback | None,
        *,
        single: bool,
    ) -> None:
        checks.callback("callback", callback)
        checks.callback("error_callback", error_callback)
        self._driver = driver
        self._unretrieved = unretrieved
        self._single = single
        self._callback = callback
        self._error_callback = error_callback
        self._gathering = Gathering(settings, size, self._ended)
        self._call: Call
        self._over = False
        self._beyond: bool = False  # its failure is counted by `Unretrieved` and not kept there

    def get(self, timeout: float | None = None) -> R_co:
        """The result, or raise what the call ended in.

        `CallTimeoutError` (a `multiprocessing.TimeoutError`) where it is not there within `timeout` seconds;
        the call goes on then.
        """
        if not self._wait(timeout):
            assert timeout is not None
            raise CallTimeoutError(timeout=timeout, completed=self._gathering.completed)
        self._unretrieved.discard(self)
        result = self._gathering.result()
        value: R_co = result[0] if self._single else result
        return value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, for at most `timeout` seconds."""
        self._wait(timeout)

    def ready(self) -> bool:
        """Whether the result is there."""
        return self._over

    def successful(self) -> bool:
        """Whether the call ended without an error; ValueError where it has not ended yet."""
        if not self._over:
            raise ValueError(f"{self!r} not ready")
        self._unretrieved.discard(self)
        return self._gathering.exception is None

    def cancel(self) -> None:
        """End the call, with what runs of it; `get` raises `ClosedError` then."""
        self._driver.cancel(self._call, ClosedError("the call was cancelled"))

    def _wait(self, timeout: float | None) -> bool:
        limit = checks.seconds("timeout", timeout, past=True)
        return self._over or self._driver.wait(self._call, limit, self.ready)

    def _ended(self, gathering: Gathering) -> None:
        callback: Callable[[Any], object] | None = self._callback
        given: Any = gathering.exception
        if given is not None:
            callback = self._error_callback
        elif callback is not None:
            given = gathering.result()
            given = given[0] if self._single else given
        if callback is not None:
            try:
                with unshielded():
                    callback(given)
            except BaseException as error:
                gathering.set_error(error)
                callback = None
        if gathering.exception is not None and callback is None:
            self._unretrieved.add(self, gathering.exception)
        self._callback = self._error_callback = None
        self._over = True


class Unretrieved:
    """The failures of a pool that nobody has been told of: the first `KEPT`, and how many more there are."""

    # Shielded: the exception of a signal handler just behind the acquire would leave the lock held for ever.

    KEPT = 1000  # with its result and traceback, each takes some kilobytes

    def __init__(self) -> None:
        self._failures: dict[AsyncResult[Any], BaseException] = {}
        self._beyond = 0
        self._streams: list[Stream] = []
        self._lock = threading.Lock()

    def add(self, result: AsyncResult[Any], exception: BaseException) -> None:
        """A call has ended in `exception`."""
        with shielded(), self._lock:
            if len(self._failures) < self.KEPT:
                self._failures[result] = exception
            else:
                self._beyond += 1
                result._beyond = True

    def discard(self, result: AsyncResult[Any]) -> None:
        """Somebody has been told what the call ended in."""
        if result in self._failures or result._beyond:
            with shielded(), self._lock:
                self._failures.pop(result, None)
                self._beyond -= result._beyond
                result._beyond = False

    def watch(self, stream: Stream) -> None:
        """There may be failures in `stream`."""
        with shielded(), self._lock:
            self._streams = [s for s in self._streams if not s.over or s.untaken_failures()]
            self._streams.append(stream)

    def take(self) -> tuple[list[BaseException], int]:
        """Those that are kept, and how many there are in all; they are retrieved by that."""
        with shielded(), self._lock:
            failures = list(self._failures.values())
            beyond, self._beyond = self._beyond, 0
            self._failures.clear()
            for stream in self._streams:
                failures += stream.untaken_failures()
            self._streams.clear()
        return failures, len(failures) + beyond
