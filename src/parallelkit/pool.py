"""`Pool`, a superset of `multiprocessing.Pool`, and `AsyncResult`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from operator import length_hint
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from typing_extensions import Unpack

from . import options as checks
from .driver import Call, Driver
from .engines import Engine, Style
from .errors import CallTimeoutError, ClosedError, TaskTimeoutError, WorkerDiedError
from .gathering import Gathering, as_input
from .iteration import ResultIterator, Stream
from .options import CallOptions, CallSettings, Errors, RetryOn
from .outcomes import Outcome

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_STATES = {"RUN": "open", "CLOSE": "closed", "TERMINATE": "terminated"}


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What has happened in a pool so far.

    workers: processes there are now. started: processes that were started in all. lost: of these, how
    many ended without being told to. done, failed: items by their outcome. retried: runs that were not
    the first of their item.
    """

    workers: int
    started: int
    lost: int
    done: int
    failed: int
    retried: int


class AsyncResult(Generic[R_co]):
    """The result of a call that is under way; made by `Pool.apply_async` and its kin."""

    def __init__(
        self,
        pool: Pool,
        settings: CallSettings,
        size: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        *,
        single: bool,
    ) -> None:
        self._pool = pool
        self._single = single
        self._callback = callback
        self._error_callback = error_callback
        self._gathering = Gathering(settings, size, self._ended)
        self._call: Call
        self._over = False

    def get(self, timeout: float | None = None) -> R_co:
        """The result, or raise what the call ended in.

        `CallTimeoutError` (a `multiprocessing.TimeoutError`) where it is not there within `timeout` seconds;
        the call goes on then.
        """
        if not self._wait(timeout):
            assert timeout is not None
            raise CallTimeoutError(timeout=timeout, completed=self._gathering.completed)
        self._pool._seen(self)
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
        self._pool._seen(self)
        return self._gathering.exception is None

    def cancel(self) -> None:
        """End the call, with what runs of it; `get` raises `ClosedError` then."""
        self._pool._driver.cancel(self._call, ClosedError("the call was cancelled"))

    def _wait(self, timeout: float | None) -> bool:
        limit = None if timeout is None else max(0.0, timeout)
        return self._over or self._pool._driver.wait(self._call, limit, self.ready)

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
                callback(given)
            except BaseException as error:
                gathering.set_error(error)
                callback = None
        if gathering.exception is not None and callback is None:
            self._pool._unseen_failure(self, gathering.exception)
        self._callback = self._error_callback = None
        self._over = True


class Pool:
    """Worker processes that calls are handed to: `multiprocessing.Pool`, and more.

    processes: how many workers; None: as many as this process may use CPUs. initializer, initargs: called
    in each worker before its first item. maxtasksperchild: a worker ends after so many items and is
    replaced. context: as of `multiprocessing.get_context`. `task_timeout`, `errors`, `retries` and
    `retry_on` are the defaults of the calls; `memory_limit`, `start_method` and `engine` are as for
    `pool_map`.

    At the end of a `with` block the work that was handed in is finished, and failures that nobody
    retrieved are raised as an `ExceptionGroup`; where an exception leaves the block, the work is ended.

    >>> with Pool(2) as pool:
    ...     result = pool.apply_async(pow, (2, 5))
    ...     pool.map(abs, [-1, 2]), result.get()
    ([1, 2], 32)
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        task_timeout: float | None = None,
        errors: Errors = "raise",
        retries: int = 0,
        retry_on: RetryOn = (WorkerDiedError, TaskTimeoutError),
        memory_limit: int | str | None = None,
        start_method: str | None = None,
        engine: str | Engine | None = None,
    ) -> None:
        if context is not None and start_method is None:
            start_method = context.get_start_method()
        self._defaults: dict[str, Any] = {
            "task_timeout": task_timeout,
            "errors": errors,
            "retries": retries,
            "retry_on": retry_on,
        }
        checks.call_settings(**self._defaults)
        settings = checks.worker_settings(
            max_workers=checks.count("processes", processes),
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=_lifetime(maxtasksperchild),
            memory_limit=memory_limit,
            start_method=start_method,
            engine=engine,
        )
        self._processes = settings.max_workers
        # The states have multiprocessing's names: there are programs that look.
        self._state: Literal["RUN", "CLOSE", "TERMINATE"] = "RUN"
        self._unseen: dict[AsyncResult[Any], BaseException] = {}
        self._streams: list[Stream] = []
        self._lock = threading.Lock()
        self._driver = Driver(settings)
        self._driver.prestart()

    # One call

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **options: Unpack[CallOptions],
    ) -> R:
        """Call `func(*args, **kwds)` in a worker and return what it returns."""
        return self._apply(func, args, kwds, None, None, options).get()

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Like `apply`, but return at once, with an `AsyncResult`.

        `callback` is called with the result, `error_callback` with the exception. What they raise
        becomes the error of the call.
        """
        result = self._apply(func, args, kwds, callback, error_callback, options)
        self._driver.serve()
        return result

    def _apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Callable[[R], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        options: CallOptions,
    ) -> AsyncResult[R]:
        checks.function(func)
        settings = self._settings("raise", None, options)
        result: AsyncResult[R] = AsyncResult(self, settings, 1, callback, error_callback, single=True)
        spec = settings.job(1, at_hand=True, single=True)
        return self._submit(result, func, Style.APPLY, [(tuple(args), dict(kwds))], spec)

    # Many calls, results all together

    @overload
    def map(
        self, func: Callable[[T], R], iterable: Iterable[T], chunksize: int | None = None, *,
        errors: Literal["raise", "group"] | None = None, **options: Unpack[CallOptions],
    ) -> list[R]: ...  # fmt: skip

    @overload
    def map(
        self, func: Callable[[T], R], iterable: Iterable[T], chunksize: int | None = None, *,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> list[Outcome[R]]: ...  # fmt: skip

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Call `func` with each item; return the results in the order of the items."""
        return self._map(func, Style.CALL, iterable, chunksize, None, None, errors, options).get()

    @overload
    def starmap(
        self, func: Callable[..., R], iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None, *,
        errors: Literal["raise", "group"] | None = None, **options: Unpack[CallOptions],
    ) -> list[R]: ...  # fmt: skip

    @overload
    def starmap(
        self, func: Callable[..., R], iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None, *,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> list[Outcome[R]]: ...  # fmt: skip

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Like `map`, calling `func(*item)`."""
        return self._map(func, Style.STAR, iterable, chunksize, None, None, errors, options).get()

    def map_async(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R]]:
        """Like `map`, but return at once, with an `AsyncResult`."""
        result = self._map(func, Style.CALL, iterable, chunksize, callback, error_callback, None, options)
        self._driver.serve()
        return result

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R]]:
        """Like `starmap`, but return at once, with an `AsyncResult`."""
        result = self._map(func, Style.STAR, iterable, chunksize, callback, error_callback, None, options)
        self._driver.serve()
        return result

    def _map(
        self,
        func: Callable[..., Any],
        style: Style,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        errors: Errors | None,
        options: CallOptions,
    ) -> AsyncResult[Any]:
        checks.function(func)
        checks.iterable(iterable)
        settings = self._settings(errors, chunksize, options)
        self._check_open()
        items = list(iterable)  # the caller may change his own before all of them are sent
        result: AsyncResult[Any] = AsyncResult(
            self, settings, len(items), callback, error_callback, single=False
        )
        spec = settings.job(len(items), at_hand=True)
        return self._submit(result, func, style, items, spec)

    def _submit(
        self, result: AsyncResult[Any], func: Any, style: Style, items: list[Any], spec: Any
    ) -> AsyncResult[Any]:
        self._check_open()
        result._call = self._driver.submit(func, style, items, spec, result._gathering)
        return result

    # Many calls, results one by one

    def imap(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[R]:
        """An iterator over the results, in the order of the items.

        The items are drawn as they are needed. A failed item raises in its turn, and the next `next` goes on
        behind it. An iterator that was begun and then dropped ends its work.
        """
        return self._imap(func, iterable, chunksize, buffersize, options, ordered=True)

    def imap_unordered(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[R]:
        """Like `imap`, in the order in which the results come up."""
        return self._imap(func, iterable, chunksize, buffersize, options, ordered=False)

    def _imap(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None,
        buffersize: int | None,
        options: CallOptions,
        *,
        ordered: bool,
    ) -> ResultIterator[R]:
        checks.function(func)
        checks.iterable(iterable)
        # A size of 1 is multiprocessing's default, not a wish: let the time that items take decide.
        settings = self._settings(None, None if chunksize == 1 else chunksize, options)
        size = checks.count("buffersize", buffersize)
        self._check_open()
        hint = length_hint(iterable) or None
        stream = Stream(settings, hint)

        def begin(stream: Stream) -> tuple[Driver, Call]:
            spec = settings.stream(hint, ordered=ordered, buffersize=size)
            items = as_input(iterable)
            call = self._driver.submit(func, Style.CALL, items, spec, stream)
            self._driver.serve(call)
            return self._driver, call

        results: ResultIterator[R] = ResultIterator(stream, begin, owns_driver=False)
        results.start()
        self._streams = [s for s in self._streams if not s.over or s.untaken_failures()]
        self._streams.append(stream)
        return results

    def _settings(self, errors: Errors | None, chunksize: int | None, options: CallOptions) -> CallSettings:
        given: dict[str, Any] = {**self._defaults, **options, "chunksize": chunksize}
        if errors is not None:
            given["errors"] = errors
        return checks.call_settings(**given)

    # The state and the end of the pool

    def stats(self) -> PoolStats:
        """What has happened so far."""
        counters = self._driver.counters
        return PoolStats(
            workers=self._driver.workers,
            started=counters.started,
            lost=counters.lost,
            done=counters.done,
            failed=counters.failed,
            retried=counters.retried,
        )

    def close(self) -> None:
        """Take no more calls; what was handed in goes on."""
        if self._state == "RUN":
            self._state = "CLOSE"
            self._driver.lift_bounds()
            self._driver.serve()

    def terminate(self) -> None:
        """End all work and all workers now."""
        self._state = "TERMINATE"
        self._driver.terminate()

    def join(self) -> None:
        """Wait until all work is done and all workers have ended; `close` or `terminate` comes first.

        Raises the failures that nobody has retrieved, as an `ExceptionGroup`.
        """
        if self._state == "RUN":
            raise ClosedError("the pool is still open: call close() or terminate() before join()")
        self._driver.shut_down()
        if self._state == "CLOSE":
            self._raise_unseen()

    def _raise_unseen(self) -> None:
        with self._lock:
            failures = list(self._unseen.values())
            self._unseen.clear()
            for stream in self._streams:
                failures += stream.untaken_failures()
            self._streams.clear()
        if failures:
            count = "1 failure" if len(failures) == 1 else f"{len(failures)} failures"
            raise BaseExceptionGroup(f"{count} that nobody retrieved", failures)

    def _unseen_failure(self, result: AsyncResult[Any], exception: BaseException) -> None:
        with self._lock:
            self._unseen[result] = exception

    def _seen(self, result: AsyncResult[Any]) -> None:
        if result in self._unseen:
            with self._lock:
                self._unseen.pop(result, None)

    def _check_open(self) -> None:
        if self._state != "RUN":
            raise ClosedError("the pool is closed: it takes no more calls")

    # What programs use of multiprocessing.Pool although its name is private

    @property
    def _pool(self) -> list[BaseProcess]:
        return self._driver.processes

    def _repopulate_pool(self) -> None:
        if self._state == "RUN":
            self._driver.prestart()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.terminate()
        elif self._state != "TERMINATE":
            self.close()
            try:
                self.join()
            except BaseException:
                self._driver.terminate()
                raise

    def __repr__(self) -> str:
        return f"<parallelkit.Pool {_STATES[self._state]} processes={self._processes}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("a pool cannot be sent to another process")

    def __del__(self) -> None:
        driver: Driver | None = getattr(self, "_driver", None)
        if driver is None or (driver.closed and self._state != "RUN"):
            return
        text = f"{self!r} was never joined"
        if self._state == "RUN":  # these words are multiprocessing's, for the filters that are set on them
            text = f"unclosed running multiprocessing pool: {self!r} was never closed"
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)
        driver.discard()


def _lifetime(maxtasksperchild: int | None) -> int | None:
    try:
        return checks.count("maxtasksperchild", maxtasksperchild)
    except TypeError as error:  # what multiprocessing says of any bad value
        raise ValueError(str(error)) from None
