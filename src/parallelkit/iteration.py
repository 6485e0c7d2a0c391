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
NOTHING: Any = object()


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
        #: In batches, the first result of each at its end. One that is to be raised has a batch of its own.
        self.results: deque[list[Any]] = deque()
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
            begin = outcomes.start
            self._add([
                Failure(begin + at, failures[at]) if at in failures else Success(begin + at, value)
                for at, value in enumerate(values)
            ])  # fmt: skip
        elif not failures:
            self._add(values)
        else:
            self._deliver_failures(outcomes.start, values, failures)
        if self.reporter is not None:
            if failures:
                self.reporter.failed(self.failed)
            self.reporter.update(len(values))

    def _deliver_failures(self, start: int, values: list[Any], failures: Any) -> None:
        if self.errors == "group":
            self.failures += failures.values()
        begin = 0
        for offset in sorted(failures):
            self._add(values[begin:offset])
            if self.errors == "raise":
                self._add([InPlace(failures[offset], start + offset)])
            begin = offset + 1
        self._add(values[begin:])

    def _add(self, batch: list[Any]) -> None:
        if batch:
            self.results.append(batch[::-1])

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        if exception is None and self.errors == "group" and self.failures:
            exception = BaseExceptionGroup(
                f"{len(self.failures)} of {self.completed} items failed", self.failures
            )
        try:
            if self.reporter is not None:
                self.reporter.close()
                exception = exception or self.reporter.error
        finally:
            self.exception = exception
            self.over = True

    def has_news(self) -> bool:
        """Whether there is something to take."""
        return bool(self.results) or self.over

    def untaken_failures(self) -> list[BaseException]:
        """What nobody has been told."""
        waiting = [entry.exception for batch in self.results for entry in batch[:1] if type(entry) is InPlace]
        if self.exception is None or isinstance(self.exception, ClosedError):
            return waiting  # that the rest was given up is for who asks for more
        return [*waiting, self.exception]


class Reader:
    """Takes the results of a stream, a batch at a time, and counts those that the scheduler was not told of.

    A batch counts when all of it has been taken. An exception of a signal handler may strike anywhere here:
    what is there is made known before it is taken away, and a result may count twice, but never not at all.
    """

    __slots__ = ("_counts", "_stream", "batch")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        #: Results at hand, the next at the end; several threads may `pop` it. None of them is to be raised.
        self.batch: list[Any] = []
        # Results that count and were not told of; those that count when the batch is at its end; batches.
        self._counts = 0, 0, 0

    def take(self) -> Any:
        """The next result, or `NOTHING`."""
        try:
            return self.batch.pop()
        except IndexError:
            pass
        untold, pending, batches = self._counts
        untold += pending
        self._counts = untold, 0, batches
        results = self._stream.results
        if results and results[0] is self.batch:
            results.popleft()
        if not results:
            return NOTHING
        batch = results[0]
        self._counts = untold + 1, len(batch) - 1, batches + 1
        self.batch = batch
        return batch.pop()

    @property
    def should_tell(self) -> bool:
        """Whether much of what there was has been taken: then it is time for more."""
        return self._counts[2] > len(self._stream.results) // 2

    @property
    def untold(self) -> int:
        """How many of those that count `told` does not know of."""
        return self._counts[0]

    def told(self, count: int) -> None:
        """The scheduler knows of so many now."""
        untold, pending, _ = self._counts
        self._counts = untold - count, pending, 0

    def clear(self) -> None:
        """Forget what is at hand."""
        self.batch = []


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
        self._reader = Reader(stream)
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
        try:
            result: R_co = self._reader.batch.pop()  # without the lock
        except IndexError:
            return self.next()
        return result

    def next(self, timeout: float | None = None) -> R_co:
        """The next result. `CallTimeoutError` where it is not there within `timeout` seconds.

        Raises the exception of a failed item in its place, and StopIteration at the end, or where another
        thread calls `close`. A StopIteration that an item raised comes as the cause of a RuntimeError.
        """
        limit = None if timeout is None else seconds("timeout", timeout, zero=True)
        deadline = None if limit is None else time.monotonic() + limit
        while (entry := self._take()) is NOTHING:
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
        """What comes next, or `NOTHING` where it is not there yet. Raises at the end."""
        with self._lock:
            self._begun = True
            over = self._stream.over or self._closed  # asked first: the last results come before the end
            entry = self._reader.take()
            if self._closed:  # by a signal handler, perhaps just now
                self._reader.clear()
                entry, over = NOTHING, True
            if entry is NOTHING:
                if over:
                    self._end()
                self.start()
                self._tell()
            elif self._reader.should_tell:
                self._tell()
            return entry

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
        if self._driver is not None and self._call is not None and (count := self._reader.untold):
            self._driver.consumed(self._call, count)
            self._reader.told(count)

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
            self._reader.clear()
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
