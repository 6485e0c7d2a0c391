"""Who is measured: each contestant as the same small interface, with the same workers and start method."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import parallelkit

#: All contestants get as many, and at least two: with one worker there is nothing to distribute.
WORKERS = max(2, parallelkit.available_cpus())
#: All contestants use this one, whatever the interpreter's default is.
START_METHOD = "fork"


class Runner(Protocol):
    """A contestant that is ready to work; None as `chunksize` leaves the size to it."""

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """The results of all items, in their order."""
        ...

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """The result of one item."""
        ...


@dataclass(frozen=True)
class Contestant:
    """`open` gives a runner; `keeps_workers` tells whether that has its workers from one call to the next."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Runner]]
    keeps_workers: bool = True


class _Serial:
    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return [fn(item) for item in items]

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return fn(item)


class _PoolMap:
    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return parallelkit.pool_map(
            fn, items, chunksize=chunksize, max_workers=WORKERS, start_method=START_METHOD
        )

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self.map(fn, [item])[0]


class _Pool:
    """`multiprocessing.Pool`, or the one that takes its place: they are called alike."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        values: list[Any] = self._pool.map(fn, items, chunksize)
        return values

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply(fn, (item,))


class _Executor:
    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        # It has no way to choose a size itself: 1 is its default.
        return list(self._executor.map(fn, items, chunksize=chunksize or 1))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(fn, item).result()


@contextlib.contextmanager
def _open_multiprocessing() -> Iterator[Runner]:
    pool = multiprocessing.get_context(START_METHOD).Pool(WORKERS)
    try:
        yield _Pool(pool)
    finally:
        # Its own `with` terminates; all contestants end as a program that is done does.
        pool.close()
        pool.join()


@contextlib.contextmanager
def _open_futures() -> Iterator[Runner]:
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context(START_METHOD)) as executor:
        yield _Executor(executor)


@contextlib.contextmanager
def _open_pool() -> Iterator[Runner]:
    with parallelkit.Pool(WORKERS, start_method=START_METHOD) as pool:
        yield _Pool(pool)


SERIAL = Contestant("serial", lambda: contextlib.nullcontext(_Serial()))
MULTIPROCESSING = Contestant("multiprocessing.Pool", _open_multiprocessing)
FUTURES = Contestant("futures.ProcessPoolExecutor", _open_futures)
POOL_MAP = Contestant("parallelkit.pool_map", lambda: contextlib.nullcontext(_PoolMap()), keeps_workers=False)
POOL = Contestant("parallelkit.Pool", _open_pool)

PARALLEL = (MULTIPROCESSING, FUTURES, POOL_MAP, POOL)
