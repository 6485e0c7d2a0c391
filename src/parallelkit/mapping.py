"""`pool_map` and its kin: a call, and done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import length_hint
from typing import Any, Literal, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from . import options as checks
from .driver import HURRY_SECONDS, Call, Driver, Sink
from .engines import Style
from .gathering import Gathering, as_input
from .iteration import ResultIterator, Stream
from .options import Arguments, CallSettings, Errors, MapOptions, Raising, WorkerSettings
from .outcomes import Outcome
from .scheduler import JobSpec

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@overload
def pool_map(
    fn: Callable[[T], R],
    items: Iterable[T],
    /,
    *,
    errors: Raising = "raise",
    **options: Unpack[MapOptions],
) -> list[R]: ...


@overload
def pool_map(
    fn: Callable[[T], R],
    items: Iterable[T],
    /,
    *,
    errors: Literal["return"],
    **options: Unpack[MapOptions],
) -> list[Outcome[R]]: ...


def pool_map(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    /,
    *,
    errors: Errors = "raise",
    **options: Unpack[MapOptions],
) -> list[Any]:
    """Call `fn` with each item, in worker processes; return the results in the order of the items.

    errors: "raise": the first failure ends the call and is raised, with a note that names the item.
    "group": all items are run, then all failures are raised as an `ExceptionGroup`. "return": the list
    holds `Success` and `Failure` instead of values. `options` are those of `MapOptions`.

    Raises what `fn` raised; `WorkerDiedError`, `TaskTimeoutError` or `SerializationError` where that is
    what an item came to; `CallTimeoutError` after `timeout`; TypeError and ValueError for bad arguments,
    before any process is started.

    >>> import parallelkit
    >>> parallelkit.pool_map(abs, [-1, 2, -3], max_workers=2)
    [1, 2, 3]
    >>> parallelkit.pool_map(int, ["1", "x"], errors="return")[0]
    Success(index=0, value=1)
    """
    return _run(fn, Style.CALL, items, errors, options)


@overload
def pool_starmap(
    fn: Callable[[*Ts], R],
    tuples: Iterable[Arguments[*Ts]],
    /,
    *,
    errors: Raising = "raise",
    **options: Unpack[MapOptions],
) -> list[R]: ...


@overload
def pool_starmap(
    fn: Callable[[*Ts], R],
    tuples: Iterable[Arguments[*Ts]],
    /,
    *,
    errors: Literal["return"],
    **options: Unpack[MapOptions],
) -> list[Outcome[R]]: ...


def pool_starmap(
    fn: Callable[..., Any],
    tuples: Iterable[Iterable[Any]],
    /,
    *,
    errors: Errors = "raise",
    **options: Unpack[MapOptions],
) -> list[Any]:
    """Like `pool_map`, for a function of several arguments: calls `fn(*arguments)` for each of `tuples`.

    >>> import parallelkit
    >>> parallelkit.pool_starmap(pow, [(2, 3), (3, 2)])
    [8, 9]
    """
    return _run(fn, Style.STAR, tuples, errors, options)


@overload
def pool_imap(
    fn: Callable[[T], R],
    items: Iterable[T],
    /,
    *,
    errors: Raising = "raise",
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> ResultIterator[R]: ...


@overload
def pool_imap(
    fn: Callable[[T], R],
    items: Iterable[T],
    /,
    *,
    errors: Literal["return"],
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> ResultIterator[Outcome[R]]: ...


def pool_imap(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    /,
    *,
    errors: Errors = "raise",
    ordered: bool = True,
    buffersize: int | None = None,
    **options: Unpack[MapOptions],
) -> ResultIterator[Any]:
    """Like `pool_map`, but results are had one by one, while others are still being worked on.

    ordered: in the order of the items, or as they come. buffersize: how many items at most are drawn from
    `items` and not yet taken as results; None: a few chunks for each worker. So `items` may be infinite.
    The work begins with the first `next`; closing the iterator, or dropping it once begun, ends the work.

    >>> import itertools, parallelkit
    >>> results = parallelkit.pool_imap(abs, itertools.count(-2))
    >>> next(results), next(results)
    (2, 1)
    >>> results.close()
    """
    checks.function(fn)
    checks.iterable(items)
    settings, workers = settings_of(errors, options)
    size = checks.count("buffersize", buffersize)
    source = as_input(items)
    hint = length_hint(items) or None

    def begin(stream: Stream) -> tuple[Driver, Call]:
        spec = settings.stream(hint, ordered=bool(ordered), buffersize=size)
        return begin_served(workers, fn, Style.CALL, source, spec, stream)

    return ResultIterator(Stream(settings, hint), begin, owns_driver=True)


def begin_served(
    workers: WorkerSettings,
    fn: Callable[..., Any],
    style: Style,
    source: Sequence[Any] | Iterator[Any],
    spec: JobSpec,
    sink: Sink,
) -> tuple[Driver, Call]:
    """Begin a call on workers of its own, which goes on while nobody waits for it."""
    driver = Driver(workers, fn)
    try:
        call = driver.submit(fn, style, source, spec, sink)
        driver.prestart()
        driver.serve(call)
    except BaseException:
        driver.terminate(grace=HURRY_SECONDS)
        raise
    return driver, call


def settings_of(errors: str, options: MapOptions) -> tuple[CallSettings, WorkerSettings]:
    """What the options of a map function say of its call, and of its workers: checked."""
    given: dict[str, Any] = dict(options)
    of_call = {key: given.pop(key) for key in _CALL_KEYS & given.keys()}
    settings = checks.call_settings(errors=errors, **of_call)
    return settings, checks.worker_settings(**given)


_CALL_KEYS = frozenset({"chunksize", "timeout", "task_timeout", "retries", "retry_on", "progress"})


def _run(
    fn: Callable[..., Any], style: Style, items: Iterable[Any], errors: str, options: MapOptions
) -> list[Any]:
    checks.function(fn)
    checks.iterable(items)
    settings, workers = settings_of(errors, options)
    source = as_input(items)
    if isinstance(source, Iterator):
        size, at_hand = length_hint(items) or None, False
    else:
        size, at_hand = len(source), True
        workers = replace(workers, max_workers=max(1, min(size, workers.max_workers)))
    gathering = Gathering(settings, size)
    if at_hand and not size:
        gathering.finish(None)
        nothing: list[Any] = gathering.result()
        return nothing
    driver = Driver(workers, fn)
    try:
        call = driver.submit(fn, style, source, settings.job(size, at_hand=at_hand), gathering)
        if not at_hand and settings.has_deadlines:
            # An input may block, and this thread has to look at the clock: another one draws.
            driver.prestart()
            driver.serve(call)
            driver.wait(call, ready=lambda: call.done)
        else:
            driver.wait(call)
        if gathering.exception is None:
            driver.shut_down()
    except BaseException:
        gathering.close()
        driver.terminate(grace=HURRY_SECONDS)
        raise
    driver.terminate()
    result: list[Any] = gathering.result()
    return result
