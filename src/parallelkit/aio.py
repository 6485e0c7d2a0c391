"""For programs with an event loop: calls in worker processes, to be awaited.

    import asyncio
    from parallelkit import aio

    async def main():
        one = await aio.run(fn, argument)
        all_of_them = await aio.pool_map(fn, items)
        async for result in aio.pool_imap(fn, items):
            ...

    asyncio.run(main())

The functions are those of `parallelkit` by the same names, with the same options and errors. Besides:

- A task that is cancelled while it awaits one of them ends the work, with all processes that this has
  started: by SIGTERM and, 0.1 s later, by SIGKILL (1 s later in an executor of the caller's). The
  CancelledError goes on when the work has ended, and after a second in any case. So `asyncio.timeout` and
  `asyncio.TaskGroup` end processes, too.
- The loop is not blocked: processes are started, and objects are pickled, in another thread. (The pickling
  of one object of very many parts holds the GIL all the same; that of an array does not.)
- So processes are started beside threads, and therefore not by fork unless `start_method="fork"` says so.
- `items` may be asynchronous, an `AsyncIterable`. It is gone through by a task of the loop, and other
  iterables by a thread: both no further than there is room for.
- A `progress` object is told in another thread.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import replace
from operator import length_hint
from typing import Any, Literal, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from . import options as checks
from .asynciteration import AsyncResultIterator
from .driver import HURRY_SECONDS, Call, Driver, Sink
from .engines import Engine, Style, resolve
from .errands import Courier, Errand, Feed, courier_of
from .executor import ProcessPoolExecutor, TaskOptions
from .gathering import Gathering, as_input
from .iteration import Stream
from .mapping import begin_served, settings_of
from .options import Arguments, CallSettings, Errors, MapOptions, Raising, WorkerSettings
from .outcomes import Outcome
from .scheduler import JobSpec

__all__ = ["AsyncResultIterator", "pool_imap", "pool_map", "pool_starmap", "run"]

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


# One call


async def run(
    fn: Callable[[*Ts], R],
    /,
    *args: *Ts,
    executor: ProcessPoolExecutor | None = None,
    **options: Unpack[TaskOptions],
) -> R:
    """Call `fn(*args)` in a worker process and return what it returns: `asyncio.to_thread`, with processes.

    executor: whose workers run it. Without one, the calls of a loop share workers, as many as this process
    may use CPUs; they are started when they are needed, kept, and ended with the loop (`asyncio.run`,
    `asyncio.Runner`, or `loop.shutdown_asyncgens()`). For workers with an initializer, a start method or a
    memory limit give an executor. options: those of `TaskOptions`: `task_timeout` (seconds), `retries` and
    `retry_on`. Keyword arguments of `fn` go into a `functools.partial`.

    Raises what `fn` raised; `TaskTimeoutError`, `WorkerDiedError` or `SerializationError` where that is what
    the call came to; `ClosedError` (a RuntimeError) where the executor is shut down, and
    `concurrent.futures.CancelledError` where that was done with `cancel_futures=True` before the call began
    to run; TypeError and ValueError for bad arguments.

    >>> async def main():
    ...     return await run(pow, 2, 10, task_timeout=60)
    >>> asyncio.run(main())
    1024
    """
    checks.function(fn)
    if executor is not None and not isinstance(executor, ProcessPoolExecutor):
        raise TypeError(f"executor must be a parallelkit.ProcessPoolExecutor or None, not {executor!r}")
    desk = await _desk() if executor is None else _Desk(executor)
    gathering = Gathering(CallSettings(), 1)

    def begin(sink: Sink) -> tuple[Driver, Call]:
        chosen = desk.executor()
        return (chosen.with_options(**options) if options else chosen)._begin(fn, args, {}, sink)

    await Errand(desk.courier, begin, gathering, owns_driver=False).done()
    result: R = gathering.result()[0]
    return result


class _Desk:
    """Where the single calls go: an executor, and who hands them in there."""

    def __init__(self, executor: ProcessPoolExecutor | None, engine: Engine | None = None) -> None:
        self.courier = Courier() if executor is None else courier_of(executor._driver)
        self.engine = engine
        self._executor = executor

    def executor(self) -> ProcessPoolExecutor:
        """The executor. Called by the courier, as are those below."""
        if self.engine is not None and (self._executor is None or self._executor._broken):
            self._executor = ProcessPoolExecutor(engine=self.engine)
            self._executor._serve_a_loop(HURRY_SECONDS)
        assert self._executor is not None
        return self._executor

    def close(self, tell: Callable[[], object]) -> None:
        """End the executor."""
        try:
            if self._executor is not None:
                self._executor.terminate_workers()
        finally:
            self.courier.close()
            tell()


class _Desks:
    """The desks of one loop, one for each engine, as `using` may choose another."""

    #: They are an attribute of the loop: so they go with it where it does not say that it ends.
    NAME = "_parallelkit_desks"

    def __init__(self) -> None:
        self._desks: list[_Desk] = []
        self.keeper: AsyncGenerator[None] = self._keep()

    def desk(self, engine: Engine) -> _Desk:
        for desk in self._desks:
            if desk.engine is engine:
                return desk
        self._desks.append(_Desk(None, engine))
        return self._desks[-1]

    async def _keep(self) -> AsyncGenerator[None]:
        # Such generators are what a loop ends last, when its tasks have been cancelled.
        try:
            yield
        finally:
            loop = asyncio.get_running_loop()
            delattr(loop, self.NAME)
            for desk in self._desks:
                closed = asyncio.Event()
                tell = functools.partial(loop.call_soon_threadsafe, closed.set)
                desk.courier.post(functools.partial(desk.close, tell))
                await closed.wait()


async def _desk() -> _Desk:
    loop = asyncio.get_running_loop()
    desks: _Desks | None = getattr(loop, _Desks.NAME, None)
    if desks is None:
        desks = _Desks()
        setattr(loop, _Desks.NAME, desks)
        await anext(desks.keeper)  # from now on the loop knows of it
    return desks.desk(resolve(None))


# Many calls, results all together


@overload
async def pool_map(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    errors: Raising = "raise",
    **options: Unpack[MapOptions],
) -> list[R]: ...


@overload
async def pool_map(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    errors: Literal["return"],
    **options: Unpack[MapOptions],
) -> list[Outcome[R]]: ...


async def pool_map(
    fn: Callable[[Any], Any],
    items: Iterable[Any] | AsyncIterable[Any],
    /,
    *,
    errors: Errors = "raise",
    **options: Unpack[MapOptions],
) -> list[Any]:
    """Call `fn` with each item, in worker processes of this call's own; as `parallelkit.pool_map`.

    >>> asyncio.run(pool_map(abs, [-1, 2, -3], max_workers=2))
    [1, 2, 3]
    """
    return await _gather(fn, Style.CALL, items, errors, options)


@overload
async def pool_starmap(
    fn: Callable[[*Ts], R],
    tuples: Iterable[Arguments[*Ts]] | AsyncIterable[Arguments[*Ts]],
    /,
    *,
    errors: Raising = "raise",
    **options: Unpack[MapOptions],
) -> list[R]: ...


@overload
async def pool_starmap(
    fn: Callable[[*Ts], R],
    tuples: Iterable[Arguments[*Ts]] | AsyncIterable[Arguments[*Ts]],
    /,
    *,
    errors: Literal["return"],
    **options: Unpack[MapOptions],
) -> list[Outcome[R]]: ...


async def pool_starmap(
    fn: Callable[..., Any],
    tuples: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
    /,
    *,
    errors: Errors = "raise",
    **options: Unpack[MapOptions],
) -> list[Any]:
    """Like `pool_map`, for a function of several arguments: calls `fn(*arguments)` for each of `tuples`.

    >>> asyncio.run(pool_starmap(pow, [(2, 3), (3, 2)], max_workers=2))
    [8, 9]
    """
    return await _gather(fn, Style.STAR, tuples, errors, options)


async def _gather(
    fn: Callable[..., Any],
    style: Style,
    items: Iterable[Any] | AsyncIterable[Any],
    errors: str,
    options: MapOptions,
) -> list[Any]:
    settings, workers, hint = _check(fn, items, errors, options)
    source, feed = _source(items)
    size = hint if isinstance(source, Iterator) else len(source)
    gathering = Gathering(settings, size)
    if size == 0:
        gathering.finish(None)
    else:
        spec = settings.job(size, at_hand=not isinstance(source, Iterator))
        begin = functools.partial(_begin, workers, fn, style, source, spec)
        await Errand(Courier(), begin, gathering, owns_driver=True, feed=feed).done()
    result: list[Any] = gathering.result()
    return result


def _check(
    fn: Callable[..., Any], items: Any, errors: str, options: MapOptions
) -> tuple[CallSettings, WorkerSettings, int | None]:
    """Refuse what is not right; the settings, and how many items there will be, if that is known."""
    checks.function(fn)
    if not isinstance(items, AsyncIterable):
        checks.iterable(items)
    return *settings_of(errors, options), length_hint(items) or None


def _source(items: Any) -> tuple[Sequence[Any] | Iterator[Any], Feed[Any] | None]:
    """What the driver draws from, and the part of it that lives in the loop."""
    if isinstance(items, AsyncIterable):
        feed = Feed(items)
        return feed, feed
    return as_input(items), None


def _begin(
    workers: WorkerSettings,
    fn: Callable[..., Any],
    style: Style,
    source: Sequence[Any] | Iterator[Any],
    spec: JobSpec,
    sink: Sink,
) -> tuple[Driver, Call]:
    if not isinstance(source, Iterator):
        workers = replace(workers, max_workers=max(1, min(len(source), workers.max_workers)))
    return begin_served(workers, fn, style, source, spec, sink)


# Many calls, results one by one


@overload
def pool_imap(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    errors: Raising = "raise",
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> AsyncResultIterator[R]: ...


@overload
def pool_imap(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    errors: Literal["return"],
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> AsyncResultIterator[Outcome[R]]: ...


def pool_imap(
    fn: Callable[[Any], Any],
    items: Iterable[Any] | AsyncIterable[Any],
    /,
    *,
    errors: Errors = "raise",
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> AsyncResultIterator[Any]:
    """Like `pool_map`, but results are had one by one; as `parallelkit.pool_imap`, for `async for`.

    The work begins when the first result is asked for. `aclose`, the end of an `async with` block, or a
    cancel of the task that waits for a result ends it. Where a task may be cancelled, or leave the loop,
    between two results, the block is the way to have the work ended at once.

    >>> import itertools
    >>> async def main():
    ...     async with pool_imap(abs, itertools.count(-2), max_workers=2) as results:
    ...         return [await anext(results) for _ in range(4)]
    >>> asyncio.run(main())
    [2, 1, 0, 1]
    """
    settings, workers, hint = _check(fn, items, errors, options)
    size = checks.count("buffersize", buffersize)
    spec = settings.stream(hint, ordered=bool(ordered), buffersize=size)
    if not isinstance(items, AsyncIterable):
        items = as_input(items)

    def start(stream: Stream) -> Errand:
        source, feed = _source(items)
        begin = functools.partial(_begin, workers, fn, Style.CALL, source, spec)
        return Errand(Courier(), begin, stream, owns_driver=True, feed=feed)

    return AsyncResultIterator(Stream(settings, hint), start)
