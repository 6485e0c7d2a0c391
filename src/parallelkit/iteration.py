"""Results one by one, while others are still being worked on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

from .driver import Call, Driver
from .errors import CallTimeoutError, ClosedError
from .options import CallSettings, seconds
from .outcomes import Failure, Success
from .progress import Guarded, make_reporter
from .scheduler import Deliver

R_co = TypeVar("R_co", covariant=True)
_NOTHING: Any = object()


class InPlace:
    """Stands in the line of results for the exception of an item, to be raised there."""

    __slots__ = ("exception", "index")

    def __init__(self, exception: BaseException, index: int) -> None:
        self.exception: BaseException = exception
        self.index: int = index


class Stream:
    """Takes the outcomes of one call, for an iterator to take them from here."""

    def __init__(self, settings: CallSettings, size: int | None) -> None:
        self.errors = settings.errors
        self.results: deque[Any] = deque()
        self.over: bool = False
        self.exception: BaseException | None = None
        self.failures: list[BaseException] = []  # where they are to be raised together
        self.failed: int = 0
        self.completed: int = 0
        self.reporter: Guarded | None = make_reporter(settings.progress, size)

    def deliver(self, outcomes: Deliver) -> None:
        """Take final outcomes."""
        values, failures = outcomes.values, outcomes.failures or {}
        self.completed += len(values)
        self.failed += len(failures)
        if self.errors == "return":
            for offset, value in enumerate(values):
                index = outcomes.start + offset
                failed = offset in failures
                self.results.append(Failure(index, failures[offset]) if failed else Success(index, value))
        elif not failures:
            self.results.extend(values)
        else:
            self._deliver_failures(outcomes.start, values, failures)
        if self.reporter is not None:
            if failures:
                self.reporter.failed(self.failed)
            self.reporter.update(len(values))

    def _deliver_failures(self, start: int, values: list[Any], failures: Any) -> None:
        if self.errors == "group":
            self.failures += failures.values()
        for offset, value in enumerate(values):
            if offset not in failures:
                self.results.append(value)
            elif self.errors == "raise":
                self.results.append(InPlace(failures[offset], start + offset))

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        if exception is None and self.errors == "group" and self.failures:
            exception = BaseExceptionGroup(
                f"{len(self.failures)} of {self.completed} items failed", self.failures
            )
        if self.reporter is not None:
            self.reporter.close()
            exception = exception or self.reporter.error
        self.exception = exception
        self.over = True

    def has_news(self) -> bool:
        """Whether there is something to take."""
        return bool(self.results) or self.over

    def untaken_failures(self) -> list[BaseException]:
        """What nobody has been told."""
        waiting = [entry.exception for entry in self.results if isinstance(entry, InPlace)]
        if self.exception is None or isinstance(self.exception, ClosedError):
            return waiting  # that the rest was given up is for who asks for more
        return [*waiting, self.exception]


def raise_for(exception: BaseException, whose: str) -> NoReturn:
    """Raise what `whose` work came to, out of an iterator."""
    if isinstance(exception, StopIteration):  # would look like the end; as PEP 479 has it for generators
        raise RuntimeError(f"{whose} raised StopIteration") from exception
    raise exception


class ResultIterator(Iterator[R_co], Generic[R_co]):
    """An iterator over results; `close` ends the work that is still under way.

    It may be used as a context manager, which closes it, and by several threads.
    """

    def __init__(
        self,
        stream: Stream,
        begin: Callable[[Stream], tuple[Driver, Call]],
        *,
        owns_driver: bool,
    ) -> None:
        self._stream = stream
        self._begin = begin
        self._owns_driver = owns_driver
        self._driver: Driver | None = None
        self._call: Call | None = None
        self._batch: Iterator[Any] = iter(())  # results at hand, which `__next__` gives without the lock
        self._batch_size = 0
        self._untold = 0  # results taken that the scheduler does not know of
        self._begun = False
        self._closed = False
        self._lock = threading.RLock()

    def start(self) -> None:
        """Begin the work, where that is not to wait for the first `next`."""
        with self._lock:
            if self._call is None and not self._closed:
                self._driver, self._call = self._begin(self._stream)

    def __iter__(self) -> ResultIterator[R_co]:
        return self

    def __next__(self) -> R_co:
        entry: Any = next(self._batch, _NOTHING)
        return self.next() if entry is _NOTHING else entry

    def next(self, timeout: float | None = None) -> R_co:
        """The next result. `CallTimeoutError` where it is not there within `timeout` seconds.

        Raises the exception of a failed item in its place, and StopIteration at the end, or where another
        thread calls `close`. A StopIteration that an item raised comes as the cause of a RuntimeError.
        """
        limit = None if timeout is None else seconds("timeout", timeout, zero=True)
        deadline = None if limit is None else time.monotonic() + limit
        while (entry := self._take()) is _NOTHING:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._wait(left):
                assert limit is not None
                raise CallTimeoutError(timeout=limit, completed=self._stream.completed)
        if type(entry) is not InPlace:
            result: R_co = entry
            return result
        if self._owns_driver:
            self.close()
        raise_for(entry.exception, f"item {entry.index}")

    def _take(self) -> Any:
        """What comes next, or `_NOTHING` where it is not there yet. Raises at the end."""
        with self._lock:
            entry = next(self._batch, _NOTHING)
            if entry is not _NOTHING:
                return entry
            self._begun = True
            self._untold += self._batch_size
            self._batch_size = 0
            results = self._stream.results
            over = self._stream.over or self._closed  # asked first: the last results come before the end
            if not results:
                if over:
                    self._end()
                self.start()
                self._tell()
                return _NOTHING
            entry = results.popleft()
            self._untold += 1
            if self._untold > len(results) // 2:
                self._tell()
            self._fill_batch(len(results) // 2)
            return entry

    def _fill_batch(self, most: int) -> None:
        """Have results at hand, up to one that is to be raised.

        They count as taken when all of them are: no more than half of what waits, so that work goes on.
        """
        results = self._stream.results
        batch: list[Any] = []
        while len(batch) < most and type(results[0]) is not InPlace:
            batch.append(results.popleft())
        self._batch, self._batch_size = iter(batch), len(batch)

    def _wait(self, timeout: float | None) -> bool:
        # Without the lock: `close` has to get in, and others who have less time.
        driver, call = self._driver, self._call
        assert driver is not None
        assert call is not None
        try:
            return driver.wait(call, timeout, self._stream.has_news) or self._stream.has_news()
        except BaseException as error:
            if self._closed and isinstance(error, ClosedError):
                return True  # another thread closed this while we waited
            if self._owns_driver:
                self.close()
            raise

    def _tell(self) -> None:
        if self._untold and self._driver is not None and self._call is not None:
            count, self._untold = self._untold, 0
            self._driver.consumed(self._call, count)

    def _end(self) -> None:
        error, self._stream.exception = self._stream.exception, None
        self.close()
        if error is not None:
            raise_for(error, "the call")
        raise StopIteration

    def close(self) -> None:
        """End what is still under way; there are no more results after that."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            driver, call, stream = self._driver, self._call, self._stream
            self._batch, self._batch_size = iter(()), 0
            stream.results.clear()
            if stream.reporter is not None:
                stream.reporter.close()
            if driver is None or call is None:
                stream.over = True
                return
            if not self._owns_driver:
                if not call.done:
                    driver.cancel(call)
            elif stream.over and stream.exception is None:
                driver.shut_down()
            else:
                driver.terminate()
            stream.results.clear()
            stream.exception = None
            stream.over = True

    def __enter__(self) -> ResultIterator[R_co]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        driver = getattr(self, "_driver", None)
        if driver is None or self._closed or not (self._begun or self._owns_driver):
            return
        # Whoever is asked by the garbage collector may hold any lock: no waiting here.
        if self._owns_driver:
            driver.discard()
        elif self._call is not None and not self._call.done:
            driver.discard_call(self._call)
