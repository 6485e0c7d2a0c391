"""What becomes of outcomes that are handed out all together: a list, an error, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from .options import CallSettings
from .outcomes import Failure, Success
from .progress import make_reporter
from .scheduler import Deliver


def as_input(items: Iterable[Any]) -> Sequence[Any] | Iterator[Any]:
    """Items that are all there, as a sequence; others as an iterator, to be drawn as they are needed.

    A list is copied: it could be changed while the call is under way, and a copy takes some nanoseconds for
    an item.

    >>> as_input({1: "one"})
    [1]
    """
    if type(items) in (tuple, range):
        return items  # type: ignore[return-value]
    if isinstance(items, (list, tuple, range, set, frozenset, dict, str, bytes, bytearray)):
        return list(items)
    return iter(items)


def as_sequence(items: Iterable[Any]) -> Sequence[Any]:
    """All items, drawn now where they are not there yet.

    >>> as_sequence(iter("ab"))
    ['a', 'b']
    """
    return items if type(items) in (tuple, range) else list(items)  # type: ignore[return-value]


class Gathering:
    """Takes the outcomes of one call until it is over.

    `on_end` is called then. A progress object that raises makes its error the call's.
    """

    def __init__(
        self,
        settings: CallSettings,
        size: int | None,
        on_end: Callable[[Gathering], None] | None = None,
    ) -> None:
        self._errors = settings.errors
        self._values: list[Any] = [None] * (size or 0)
        self._failures: dict[int, BaseException] = {}
        self._reporter = make_reporter(settings.progress, size)
        self._on_end = on_end
        self.exception: BaseException | None = None
        self._trace: TracebackType | None = None
        self.completed: int = 0

    def deliver(self, outcomes: Deliver) -> None:
        """Take final outcomes."""
        start, values = outcomes.start, outcomes.values
        stop = start + len(values)
        if stop > len(self._values):
            self._values += [None] * (stop - len(self._values))
        self._values[start:stop] = values
        self.completed += len(values)
        if outcomes.failures:
            for offset, exception in outcomes.failures.items():
                self._failures[start + offset] = exception
        if self._reporter is not None:
            if outcomes.failures:
                self._reporter.failed(len(self._failures))
            self._reporter.update(len(values))

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        try:
            self.close()
        finally:
            if exception is None and self._failures and self._errors != "return":
                exception = self._failure()
            if exception is None and self._reporter is not None:
                exception = self._reporter.error
            if exception is not None:
                self.set_error(exception)
            if self._on_end is not None:
                self._on_end(self)

    def set_error(self, exception: BaseException) -> None:
        """What the call ends in."""
        self.exception = exception
        self._trace = exception.__traceback__

    def close(self) -> None:
        """Close the progress bar, also where the call is left early."""
        if self._reporter is not None:
            self._reporter.close()

    def _failure(self) -> BaseException:
        failures = [self._failures[index] for index in sorted(self._failures)]
        if self._errors == "raise":
            return failures[0]
        total = len(self._values)
        return BaseExceptionGroup(f"{len(failures)} of {total} items failed", failures)

    def result(self) -> Any:
        """What the call returns, or raise what it ends in."""
        if self.exception is not None:
            # With its own frames only: a second `get` must not show the frames of the first one.
            raise BaseException.with_traceback(self.exception, self._trace)
        if self._errors != "return":
            return self._values
        failures = self._failures
        return [
            Failure(index, failures[index]) if index in failures else Success(index, value)
            for index, value in enumerate(self._values)
        ]
