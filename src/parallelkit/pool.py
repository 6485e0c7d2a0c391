"""`Pool`, a superset of `multiprocessing.Pool`."""

from __future__ import annotations

import concurrent.futures as standard
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from operator import length_hint
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeAlias, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from . import options as checks
from .driver import Call, Driver
from .engines import Engine, Style
from .errors import ClosedError, TaskTimeoutError, WorkerDiedError
from .gathering import as_input, as_sequence
from .iteration import ResultIterator, Stream
from .options import Arguments, CallOptions, CallSettings, ErrorCallback, Errors, Raising, RetryOn
from .outcomes import Outcome
from .results import AsyncResult, Unretrieved
from .scheduler import JobSpec
from .stats import PoolStats
from .threadlimits import Threads

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

#: A call whose arguments were found good: what `Pool._submit` takes.
_Checked: TypeAlias = tuple[AsyncResult[R], Callable[..., Any], Style, Sequence[Any], JobSpec]

_STATES = {"RUN": "open", "CLOSE": "closed", "TERMINATE": "terminated"}


class Pool:
    """Worker processes that calls are handed to: `multiprocessing.Pool`, and more.

    processes: how many workers; None: as many as this process may use CPUs. initializer, initargs: called
    in each worker before its first item. maxtasksperchild: a worker ends after so many items and is
    replaced. context: as of `multiprocessing.get_context`. `task_timeout`, `errors`, `retries` and
    `retry_on` are the defaults of the calls (`errors="return"` is for a call to ask, as the type of its
    result follows from it); `memory_limit`, `threads_per_worker`, `start_method`, `forward_logs` and `engine`
    are as for `pool_map`.

    At the end of a `with` block the work that was handed in is finished, and failures that nobody
    retrieved are raised as an `ExceptionGroup`; where an exception leaves the block, the work is ended.
    The input of an `imap` that is still under way there is finished where its length is known; see `join`.

    Items and arguments are pickled when a worker is free for them, and large buffers (arrays) are sent from
    where they are: do not change them before the result is there, also after `apply_async` and its kin.

    >>> with Pool(2) as pool:
    ...     result = pool.apply_async(pow, (2, 5))
    ...     pool.map(abs, [-1, 2]), result.get()
    ([1, 2], 32)
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[[*Ts], object] | None = None,
        initargs: Arguments[*Ts] = (),  # type: ignore[assignment]
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        task_timeout: float | None = None,
        errors: Raising = "raise",
        retries: int = 0,
        retry_on: RetryOn = (WorkerDiedError, TaskTimeoutError),
        memory_limit: int | str | None = None,
        threads_per_worker: Threads = None,
        start_method: str | None = None,
        forward_logs: bool | None = None,
        engine: str | Engine | None = None,
    ) -> None:
        if context is not None and not isinstance(context, BaseContext):
            raise TypeError(f"context must be one of multiprocessing.get_context(), not {context!r}")
        if context is not None and start_method is None:
            start_method = context.get_start_method()
        self._defaults: dict[str, Any] = {
            "task_timeout": task_timeout,
            "errors": errors,
            "retries": retries,
            "retry_on": retry_on,
        }
        # A call without wishes of its own has these, checked once: that is half the cost of its beginning.
        self._usual = checks.call_settings(**self._defaults)
        self._usual_single = self._usual.job(1, at_hand=True, single=True)
        settings = checks.worker_settings(
            max_workers=checks.count("processes", processes),
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=_lifetime(maxtasksperchild),
            memory_limit=memory_limit,
            threads_per_worker=threads_per_worker,
            start_method=start_method,
            forward_logs=forward_logs,
            engine=engine,
        )
        self._processes = settings.max_workers
        # The states have multiprocessing's names: there are programs that look.
        self._state: Literal["RUN", "CLOSE", "TERMINATE"] = "RUN"
        self._unretrieved = Unretrieved()
        self._driver = Driver(settings)
        self._driver.prestart()
        self._driver.hear_logs()

    # One call

    @overload
    def apply(
        self, func: Callable[[*Ts], R], args: Arguments[*Ts] = ...,
        **options: Unpack[CallOptions],
    ) -> R: ...  # fmt: skip

    @overload
    def apply(
        self, func: Callable[..., R], args: Iterable[Any], kwds: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> R: ...  # fmt: skip

    @overload
    def apply(
        self, func: Callable[..., R], args: Iterable[Any] = ..., *, kwds: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> R: ...  # fmt: skip

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **options: Unpack[CallOptions],
    ) -> R:
        """Call `func(*args, **kwds)` in a worker and return what it returns."""
        return self._submit(*self._single(func, args, kwds, None, None, options)).get()

    @overload
    def apply_async(
        self, func: Callable[[*Ts], R], args: Arguments[*Ts] = ..., *,
        callback: Callable[[R], object] | None = None,
        error_callback: ErrorCallback | None = None, **options: Unpack[CallOptions],
    ) -> AsyncResult[R]: ...  # fmt: skip

    @overload
    def apply_async(
        self, func: Callable[..., R], args: Iterable[Any], kwds: Mapping[str, Any],
        callback: Callable[[R], object] | None = None,
        error_callback: ErrorCallback | None = None, **options: Unpack[CallOptions],
    ) -> AsyncResult[R]: ...  # fmt: skip

    @overload
    def apply_async(
        self, func: Callable[..., R], args: Iterable[Any] = ..., *, kwds: Mapping[str, Any],
        callback: Callable[[R], object] | None = None,
        error_callback: ErrorCallback | None = None, **options: Unpack[CallOptions],
    ) -> AsyncResult[R]: ...  # fmt: skip

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[R], object] | None = None,
        error_callback: ErrorCallback | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Like `apply`, but return at once, with an `AsyncResult`.

        `callback` is called with the result, `error_callback` with the exception. What they raise
        becomes the error of the call.
        """
        return self._submit_served(*self._single(func, args, kwds, callback, error_callback, options))

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> standard.Future[R]:
        """Begin `fn(*args, **kwargs)`, as an executor does; return at once, with a `Future`.

        For programs that take an executor (dask). The future cannot be cancelled, and its failure counts as
        retrieved: `ProcessPoolExecutor` has more.

        >>> with Pool(1) as pool:
        ...     pool.submit(pow, 2, 5).result()
        32
        """
        future: standard.Future[R] = standard.Future()
        future.set_running_or_notify_cancel()
        self.apply_async(fn, args, kwargs, future.set_result, future.set_exception)
        return future

    def _single(
        self,
        func: Callable[..., R],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Callable[[R], object] | None,
        error_callback: ErrorCallback | None,
        options: CallOptions,
    ) -> _Checked[R]:
        checks.function(func)
        settings = self._settings("raise", None, options)
        result: AsyncResult[R] = AsyncResult(
            self._driver, self._unretrieved, settings, 1, callback, error_callback, single=True
        )
        spec = self._usual_single
        if settings is not self._usual:
            spec = settings.job(1, at_hand=True, single=True)
        return result, func, Style.APPLY, [(tuple(args), dict(kwds))], spec

    # Many calls, results all together

    @overload
    def map(
        self, func: Callable[[T], R], iterable: Iterable[T], chunksize: int | None = None, *,
        errors: Raising | None = None, **options: Unpack[CallOptions],
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
        """Call `func` with each item; return the results in the order of the items.

        All items are run; then the first failure is raised (`errors="raise"`, the default here).
        """
        return self._submit(
            *self._many(func, Style.CALL, iterable, chunksize, None, None, errors, options)
        ).get()

    @overload
    def starmap(
        self, func: Callable[[*Ts], R], iterable: Iterable[Arguments[*Ts]], chunksize: int | None = None, *,
        errors: Raising | None = None, **options: Unpack[CallOptions],
    ) -> list[R]: ...  # fmt: skip

    @overload
    def starmap(
        self, func: Callable[[*Ts], R], iterable: Iterable[Arguments[*Ts]], chunksize: int | None = None, *,
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
        return self._submit(
            *self._many(func, Style.STAR, iterable, chunksize, None, None, errors, options)
        ).get()

    @overload
    def map_async(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = None, callback: Callable[[list[R]], object] | None = None,
        error_callback: ErrorCallback | None = None, *,
        errors: Raising | None = None, **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R]]: ...  # fmt: skip

    @overload
    def map_async(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = None, callback: Callable[[list[Outcome[R]]], object] | None = None,
        error_callback: ErrorCallback | None = None, *,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Outcome[R]]]: ...  # fmt: skip

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: ErrorCallback | None = None,
        *,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Any]]:
        """Like `map`, but return at once, with an `AsyncResult`."""
        call = self._many(func, Style.CALL, iterable, chunksize, callback, error_callback, errors, options)
        return self._submit_served(*call)

    @overload
    def starmap_async(
        self, func: Callable[[*Ts], R], iterable: Iterable[Arguments[*Ts]],
        chunksize: int | None = None, callback: Callable[[list[R]], object] | None = None,
        error_callback: ErrorCallback | None = None, *,
        errors: Raising | None = None, **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R]]: ...  # fmt: skip

    @overload
    def starmap_async(
        self, func: Callable[[*Ts], R], iterable: Iterable[Arguments[*Ts]],
        chunksize: int | None = None, callback: Callable[[list[Outcome[R]]], object] | None = None,
        error_callback: ErrorCallback | None = None, *,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Outcome[R]]]: ...  # fmt: skip

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: ErrorCallback | None = None,
        *,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Any]]:
        """Like `starmap`, but return at once, with an `AsyncResult`."""
        call = self._many(func, Style.STAR, iterable, chunksize, callback, error_callback, errors, options)
        return self._submit_served(*call)

    def _many(
        self,
        func: Callable[..., Any],
        style: Style,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: ErrorCallback | None,
        errors: Errors | None,
        options: CallOptions,
    ) -> _Checked[list[Any]]:
        checks.function(func)
        checks.iterable(iterable)
        settings = self._settings(errors, chunksize, options)
        self._check_open()
        items = as_sequence(iterable)
        result: AsyncResult[list[Any]] = AsyncResult(
            self._driver, self._unretrieved, settings, len(items), callback, error_callback, single=False
        )
        # As multiprocessing has it, a failure keeps no other item from being run.
        spec = replace(settings.job(len(items), at_hand=True), stop_on_failure=False)
        return result, func, style, items, spec

    def _submit_served(
        self, result: AsyncResult[R], func: Any, style: Style, items: Sequence[Any], spec: JobSpec
    ) -> AsyncResult[R]:
        """Submit what nobody may wait for."""
        self._check_open()
        self._driver.serve()  # first: what strikes there comes before the work has begun
        return self._submit(result, func, style, items, spec)

    def _submit(
        self, result: AsyncResult[R], func: Any, style: Style, items: Sequence[Any], spec: JobSpec
    ) -> AsyncResult[R]:
        self._check_open()
        result._call = self._driver.submit(func, style, items, spec, result._gathering)
        return result

    # Many calls, results one by one

    @overload
    def imap(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = 1, *, buffersize: int | None = None,
        errors: Raising | None = None, **options: Unpack[CallOptions],
    ) -> ResultIterator[R]: ...  # fmt: skip

    @overload
    def imap(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = 1, *, buffersize: int | None = None,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> ResultIterator[Outcome[R]]: ...  # fmt: skip

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[Any]:
        """An iterator over the results, in the order of the items.

        The items are drawn as they are needed. A failed item raises in its turn, and the next `next` goes on
        behind it. An iterator that was begun and then dropped ends its work.
        """
        return self._imap(func, iterable, chunksize, buffersize, errors, options, ordered=True)

    @overload
    def imap_unordered(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = 1, *, buffersize: int | None = None,
        errors: Raising | None = None, **options: Unpack[CallOptions],
    ) -> ResultIterator[R]: ...  # fmt: skip

    @overload
    def imap_unordered(
        self, func: Callable[[T], R], iterable: Iterable[T],
        chunksize: int | None = 1, *, buffersize: int | None = None,
        errors: Literal["return"], **options: Unpack[CallOptions],
    ) -> ResultIterator[Outcome[R]]: ...  # fmt: skip

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
        errors: Errors | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[Any]:
        """Like `imap`, in the order in which the results come up."""
        return self._imap(func, iterable, chunksize, buffersize, errors, options, ordered=False)

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
        errors: Errors | None,
        options: CallOptions,
        *,
        ordered: bool,
    ) -> ResultIterator[Any]:
        checks.function(func)
        checks.iterable(iterable)
        # A size of 1 is multiprocessing's default, not a wish: let the time that items take decide.
        settings = self._settings(errors, None if chunksize == 1 else chunksize, options)
        size = checks.count("buffersize", buffersize)
        self._check_open()
        hint = length_hint(iterable) or None
        stream = Stream(settings, hint)

        def begin(stream: Stream) -> tuple[Driver, Call]:
            spec = settings.stream(hint, ordered=ordered, buffersize=size)
            items = as_input(iterable)
            call = self._driver.submit(func, Style.CALL, items, spec, stream)
            try:
                self._driver.serve(call)
            except BaseException:
                self._driver.cancel(call)
                raise
            return self._driver, call

        results: ResultIterator[Any] = ResultIterator(stream, begin, owns_driver=False)
        results.start()
        self._unretrieved.watch(stream)
        return results

    def _settings(self, errors: Errors | None, chunksize: int | None, options: CallOptions) -> CallSettings:
        if not options and chunksize is None and (errors is None or errors == self._usual.errors):
            return self._usual
        given: dict[str, Any] = {**self._defaults, **options, "chunksize": chunksize}
        if errors is not None:
            given["errors"] = errors
        return checks.call_settings(**given)

    # The state and the end of the pool

    def stats(self) -> PoolStats:
        """What has happened so far: tasks, workers, seconds, bytes and memory; at any time, also at the end.

        `ClosedError` in a forked child.

        >>> with Pool(1) as pool:
        ...     _ = pool.map(abs, [-1, 2])
        ...     stats = pool.stats()
        >>> stats.done, stats.failed, stats.bytes_in > 0, stats.peak_rss > 0
        (2, 0, True, True)
        """
        return self._driver.stats()

    def close(self) -> None:
        """Take no more calls; what was handed in goes on."""
        self._driver.check_owner()
        if self._state == "RUN":
            self._state = "CLOSE"
            self._driver.serve()

    def terminate(self) -> None:
        """End all work and all workers now."""
        self._state = "TERMINATE"
        self._driver.terminate()

    def join(self) -> None:
        """Wait until all work is done and all workers have ended; `close` or `terminate` comes first.

        The input of an `imap` whose length is not known (a generator's) may be endless. It is drawn on as
        far as `buffersize` allows; where it is not at its end then, the iterator raises `ClosedError` behind
        the results that there are. So take the results first.

        Raises the failures that nobody has retrieved, as an `ExceptionGroup`.
        """
        self._driver.check_owner()
        if self._state == "RUN":
            raise ClosedError("the pool is still open: call close() or terminate() before join()")
        self._driver.lift_bounds()
        self._driver.shut_down()
        if self._state == "CLOSE":
            self._raise_unretrieved()

    def _raise_unretrieved(self) -> None:
        failures, total = self._unretrieved.take()
        if failures:
            count = "1 failure" if total == 1 else f"{total} failures"
            rest = f", of which these {len(failures)} were kept" if total > len(failures) else ""
            raise BaseExceptionGroup(f"{count} that nobody retrieved{rest}", failures)

    def _check_open(self) -> None:
        if self._state != "RUN":
            raise ClosedError("the pool is closed: it takes no more calls")

    @property
    def size(self) -> int:
        """How many workers there are at most: what programs ask of the pools of other libraries."""
        return self._processes

    # What programs use of multiprocessing.Pool, or of an executor, although its name is private

    @property
    def _max_workers(self) -> int:
        return self._processes

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
        if self._driver.inherited:
            return  # this is a forked child: the pool is its parent's
        if error is not None:
            self.terminate()
        elif self._state != "TERMINATE":
            try:
                self.close()
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
