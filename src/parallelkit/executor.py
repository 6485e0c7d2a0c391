"""`ProcessPoolExecutor`: a `concurrent.futures.Executor` in which a fault costs one task."""

from __future__ import annotations

import concurrent.futures as standard
import contextlib
import logging
import multiprocessing
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from typing_extensions import TypedDict, TypeVarTuple, Unpack

from . import options as checks
from .driver import Call, Driver, Sink
from .engines import Engine, Style
from .errors import ClosedError, TaskTimeoutError, WorkerDiedError, WorkerInitError
from .futures import Callbacks, Future, Settlement
from .gathering import as_sequence
from .iteration import ResultIterator, Stream
from .options import Arguments, CallSettings, RetryOn
from .progress import Progress, check_progress
from .stats import PoolStats
from .threadlimits import Threads

P = ParamSpec("P")
R = TypeVar("R")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger("concurrent.futures")


class TaskOptions(TypedDict, total=False):
    """What `ProcessPoolExecutor.with_options` takes: what the constructor takes by the same name."""

    task_timeout: float | None
    retries: int
    retry_on: RetryOn


# A subclass, for programs that ask for that class, in `isinstance` or by their types. Nothing of the base but
# its type is used: its constructor, which makes its queues, is not called, and each public method is ours.
class ProcessPoolExecutor(standard.ProcessPoolExecutor):
    """Worker processes behind `submit` and `map`: `concurrent.futures.ProcessPoolExecutor`, and more.

    max_workers: how many workers at most; None: as many as this process may use CPUs. mp_context: as of
    `multiprocessing.get_context`. initializer, initargs: called in each worker before its first task.
    max_tasks_per_child: a worker ends after so many tasks and is replaced; the start method is then "spawn",
    where nobody chose. task_timeout: seconds for each task, then it is ended with `TaskTimeoutError`.
    retries: how often a task is run again after one of `retry_on`. `memory_limit`, `threads_per_worker`,
    `start_method`, `forward_logs` and `engine` are as for `pool_map`.

    A task whose worker dies fails with `WorkerDiedError`, which is a `BrokenProcessPool`, and all other tasks
    go on. Only where no worker can be started is the executor broken: `WorkerInitError`, also a
    `BrokenProcessPool`. Otherwise the errors are those of `Pool`.

    At the end of a `with` block, and at the interpreter's end, the work that was handed in is finished, as
    the standard library does it. A KeyboardInterrupt ends it. Failures are not raised there, as many programs
    ask their futures behind the block; those that nobody asks for are logged.

    >>> with ProcessPoolExecutor(2) as executor:
    ...     future = executor.submit(pow, 2, 5)
    ...     list(executor.map(abs, [-1, 2])), future.result()
    ([1, 2], 32)
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[[*Ts], object] | None = None,
        initargs: Arguments[*Ts] = (),  # type: ignore[assignment]
        *,
        max_tasks_per_child: int | None = None,
        task_timeout: float | None = None,
        retries: int = 0,
        retry_on: RetryOn = (WorkerDiedError, TaskTimeoutError),
        memory_limit: int | str | None = None,
        threads_per_worker: Threads = None,
        start_method: str | None = None,
        forward_logs: bool | None = None,
        engine: str | Engine | None = None,
    ) -> None:
        if mp_context is not None and not isinstance(mp_context, BaseContext):
            raise TypeError(f"mp_context must be one of multiprocessing.get_context(), not {mp_context!r}")
        if isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
        if start_method is None and mp_context is not None:
            start_method = mp_context.get_start_method()
        elif start_method is None and max_tasks_per_child is not None:
            start_method = "spawn"  # as the standard library documents it
        self._parent: ProcessPoolExecutor | None = None
        self._set(checks.call_settings(task_timeout=task_timeout, retries=retries, retry_on=retry_on))
        settings = checks.worker_settings(
            max_workers=max_workers,
            initializer=None if initializer is None else _Initializer(initializer),
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
            memory_limit=memory_limit,
            threads_per_worker=threads_per_worker,
            start_method=start_method,
            forward_logs=forward_logs,
            engine=engine,
        )
        self._max_workers = settings.max_workers
        self._mp_context = mp_context or multiprocessing.get_context(start_method)
        self._callbacks = Callbacks()
        self._driver = Driver(settings)
        _drivers[self._driver] = self._callbacks

    def _set(self, settings: CallSettings) -> None:
        self._settings = settings
        self._spec = settings.job(1, at_hand=True, single=True)

    def with_options(self, **options: Unpack[TaskOptions]) -> ProcessPoolExecutor:
        """This executor with other options for its tasks: the same workers, and one end for both.

        >>> with ProcessPoolExecutor(1) as executor:
        ...     executor.with_options(task_timeout=60, retries=2).submit(abs, -1).result()
        1
        """
        mine = self._settings
        given: dict[str, Any] = {
            "task_timeout": mine.task_timeout,
            "retries": mine.retries,
            "retry_on": mine.retry_on,
        }
        checks.refuse_unknown(options, TaskOptions)
        other: ProcessPoolExecutor = object.__new__(type(self))
        vars(other).update(vars(self), _parent=self)
        other._set(checks.call_settings(**{**given, **options}))
        return other

    # Calls

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> standard.Future[R]:
        """Begin `fn(*args, **kwargs)` in a worker; return at once, with a `Future`.

        RuntimeError (`ClosedError`) after `shutdown`, and at the interpreter's end; `WorkerInitError` where
        no worker can be started.
        """
        future: Future[R] = Future()
        future._callbacks = self._callbacks
        future._begin(*self._begin(fn, args, kwargs, Settlement(future)))
        return future

    def _begin(
        self, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any], sink: Sink
    ) -> tuple[Driver, Call]:
        checks.function(fn)
        self._prepare()
        try:
            return self._driver, self._driver.submit(fn, Style.APPLY, [(args, kwargs)], self._spec, sink)
        except ClosedError:
            self._check_open()  # which says it in the words of `concurrent.futures`
            raise

    @overload  # type: ignore[override]  # typed more closely than in the standard library
    def map(
        self, fn: Callable[[T1], R], iterable: Iterable[T1], /, *,
        timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None,
        progress: Progress = False,
    ) -> Iterator[R]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[[T1, T2], R], iterable: Iterable[T1], iterable2: Iterable[T2], /, *,
        timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None,
        progress: Progress = False,
    ) -> Iterator[R]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[[T1, T2, T3], R],
        iterable: Iterable[T1], iterable2: Iterable[T2], iterable3: Iterable[T3], /, *,
        timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None,
        progress: Progress = False,
    ) -> Iterator[R]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[..., R],
        iterable: Iterable[Any], iterable2: Iterable[Any], iterable3: Iterable[Any],
        iterable4: Iterable[Any], /, *iterables: Iterable[Any],
        timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None,
        progress: Progress = False,
    ) -> Iterator[R]: ...  # fmt: skip

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: Progress = False,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables, as `map` does; an iterator over the results, in order.

        The work begins at once. The first failure is raised in its place and ends the rest, as does the end
        of the iterator (`close`, or its being dropped after the first `next`). With `buffersize`, at most so
        many items are drawn and not yet taken as results, in a thread of their own; without it the
        iterables are read before `map` returns. With `chunksize` 1 the time that items take decides how many
        of them a worker is given at once. progress: as for `pool_map`.

        `CallTimeoutError` (a `TimeoutError`) `timeout` seconds after the call, for all of it. TypeError and
        ValueError for bad arguments, RuntimeError after `shutdown`.
        """
        checks.function(fn)
        for iterable in iterables:
            checks.iterable(iterable)
        settings = replace(
            self._settings,
            chunksize=_chunksize(chunksize),
            timeout=None if timeout is None else checks.seconds("timeout", timeout, past=True),
            progress=progress,
        )
        check_progress(progress)
        buffered = _buffersize(buffersize)
        self._prepare()
        style = Style.CALL if len(iterables) == 1 else Style.STAR
        items: Any = iterables[0] if style is Style.CALL else zip(*iterables)  # noqa: B905
        spec = settings.stream(None, ordered=True, buffersize=buffered)
        if buffered is None:
            items = as_sequence(items)
            spec = replace(spec, size=len(items), at_hand=True)
        else:
            items = iter(items)
        driver = self._driver  # and not `self`: the executor is not kept by its results

        def begin(stream: Stream) -> tuple[Driver, Call]:
            call = driver.submit(fn, style, items, spec, stream)
            if buffered is not None:
                try:
                    driver.serve(call)
                except BaseException:
                    driver.cancel(call)
                    raise
            return driver, call

        results: ResultIterator[Any] = ResultIterator(Stream(settings, spec.size), begin, owns_driver=False)
        results.start()
        return _until_failure(results)

    def _prepare(self) -> None:
        """Refuse where nothing more is taken; before the first call, start what lasts."""
        driver = self._driver
        if not (driver.takes_calls and driver.is_served and driver.broken is None):
            self._check_open()
            # By fork all at once: the fewer threads there are by then, the better.
            if driver.start_method == "fork":
                driver.prestart()
            driver.hear_logs()
            driver.serve()  # the last step, as this is what is asked for above
        if driver.workers < self._max_workers:
            driver.make_room()
            driver.hear_logs()

    def _serve_a_loop(self, grace: float) -> None:
        """This executor is an event loop's own: what the loop has not waited for need not be finished."""
        self._driver.set_grace(grace)
        _drivers.pop(self._driver, None)

    def _check_open(self) -> None:
        if _ended:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        self._driver.check_owner()
        broken = self._driver.broken
        if isinstance(broken, WorkerInitError):
            raise WorkerInitError(starts=broken.starts) from broken.__cause__
        if not self._driver.takes_calls:
            raise ClosedError("cannot schedule new futures after shutdown")

    # The state and the end

    def stats(self) -> PoolStats:
        """What has happened so far, as of `Pool.stats`; together with all that `with_options` made of it.

        `ClosedError` in a forked child.

        >>> with ProcessPoolExecutor(1) as executor:
        ...     _ = list(executor.map(abs, [-1, 2]))
        ...     executor.stats().done
        2
        """
        return self._driver.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, let the work be finished, and end the workers.

        wait: return when all that has happened. cancel_futures: what has not begun to run is cancelled.
        May be called several times, and does nothing in a forked child.
        """
        driver = self._driver
        if driver.inherited:
            return
        driver.refuse_calls()
        if cancel_futures:
            driver.take_back(standard.CancelledError)
        callbacks = self._callbacks
        if wait:
            _finish(driver, callbacks)
        else:
            driver.in_background(lambda: _finish(driver, callbacks))

    def terminate_workers(self) -> None:
        """End all tasks and all workers now: with SIGTERM, and after a second with SIGKILL.

        What runs fails with `WorkerDiedError`, what waits is cancelled, and nothing more is taken.
        """
        self._force(signal.SIGTERM, None)

    def kill_workers(self) -> None:
        """Like `terminate_workers`, with SIGKILL at once."""
        self._force(signal.SIGKILL, 0.0)

    def _force(self, signum: int, grace: float | None) -> None:
        driver = self._driver
        if driver.inherited:
            return
        driver.refuse_calls()
        driver.take_back(standard.CancelledError)
        for call in driver.calls:
            if isinstance(call.sink, Settlement):
                call.sink.future._asked = True  # who ends the tasks knows of their end
            driver.cancel(call, _struck(signum))
        driver.terminate(grace)
        _finish(driver, self._callbacks)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, KeyboardInterrupt):
                self.terminate_workers()
            else:
                self.shutdown(wait=True)
        except BaseException:
            # A Ctrl-C while the work was being finished: the workers have seen nothing of it.
            if not self._driver.inherited:
                try:
                    self._driver.terminate()
                finally:
                    self._callbacks.stop()  # not `close`: it may be a callback that was waited for
            raise

    def __del__(self) -> None:
        driver: Driver | None = getattr(self, "_driver", None)
        if driver is None or driver.closed or getattr(self, "_parent", self) is not None:
            return
        callbacks = self._callbacks
        # Nobody may be waited for here: the garbage collector interrupts whatever thread it likes.
        driver.in_background(lambda: _retire(driver, callbacks))

    def __reduce__(self) -> Any:
        raise NotImplementedError("an executor cannot be sent to another process")

    def __repr__(self) -> str:
        state = "open" if self._driver.takes_calls else "shut down"
        return f"<parallelkit.ProcessPoolExecutor {state} max_workers={self._max_workers}>"

    # What programs use of concurrent.futures' although its name is private; the base class has the types

    if not TYPE_CHECKING:

        @property
        def _processes(self) -> dict[int, BaseProcess]:
            return {process.pid or 0: process for process in self._driver.processes}

        @property
        def _broken(self) -> BaseException | bool:
            return self._driver.broken or False

        @property
        def _shutdown_thread(self) -> bool:
            return not self._driver.takes_calls


class _Initializer:
    """The initializer, whose error is logged in the worker, too, as the standard library does."""

    def __init__(self, function: Callable[..., object]) -> None:
        if not callable(function):
            raise TypeError(f"initializer must be callable, not {function!r}")
        self.function = function

    def __call__(self, *args: Any) -> None:
        try:
            self.function(*args)
        except BaseException:
            _log.critical("Exception in initializer:", exc_info=True)
            raise


def _chunksize(value: int) -> int | None:
    """None for 1, which is the default and not a wish: let the time that items take decide."""
    size = checks.count("chunksize", value)
    return None if size == 1 else size


def _buffersize(value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"buffersize must be an integer or None, not {value!r}")
    if value is not None and value < 1:
        raise ValueError(f"buffersize must be None or > 0, not {value}")
    return value


def _until_failure(results: ResultIterator[R]) -> Iterator[R]:
    with results:
        while True:
            try:
                result = [next(results)]
            except StopIteration:
                return
            yield result.pop()  # and nothing is kept here that the caller lets go


def _struck(signum: int) -> WorkerDiedError:
    return WorkerDiedError(index=None, pid=None, exitcode=None, signal=signum, started=True)


# The end of an executor, and of all of them at the interpreter's

_drivers: weakref.WeakKeyDictionary[Driver, Callbacks] = weakref.WeakKeyDictionary()
_ended = False


def _finish(driver: Driver, callbacks: Callbacks) -> None:
    """Let the work be finished, then end workers and threads."""
    driver.lift_bounds()
    driver.shut_down()
    driver.hand_out()
    callbacks.close()


def _retire(driver: Driver, callbacks: Callbacks) -> None:
    driver.refuse_calls()
    _finish(driver, callbacks)


def _finish_all() -> None:
    """At the interpreter's end, before its threads are waited for, as `concurrent.futures` does it."""
    global _ended
    _ended = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for driver, callbacks in list(_drivers.items()):
        if driver.inherited:
            continue
        if driver.closed:  # and its callbacks may be under way
            if not (interrupted or callbacks.given_up):
                callbacks.close()
            continue
        driver.refuse_calls()
        if interrupted:  # the workers have seen nothing of that Ctrl-C, and it is meant for them
            driver.terminate()
        _finish(driver, callbacks)


# Private, and what `concurrent.futures` uses since Python 3.9: `atexit` comes when its threads have ended.
# Where this is first imported while the program ends, that is refused, and there is nothing to wait for.
with contextlib.suppress(RuntimeError):
    threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
