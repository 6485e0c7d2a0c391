"""The peers, each in the idiom of its own documentation, behind one small interface.

Each function opens one: it is given the number of workers and the start method, and yields a `Runner`. All
end as a program that is done does: they let the workers finish and wait for them.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]


class Runner:
    """A contestant that is ready to work. None as `chunksize` leaves the size to it."""

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """The results of all items, in their order."""
        raise NotImplementedError

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        """The results one by one, in their order."""
        raise NotImplementedError

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        """The results one by one, as they come."""
        raise NotImplementedError

    def call(self, fn: Function, *args: Any) -> Any:
        """The result of one call."""
        raise NotImplementedError


# Nobody


class _Serial(Runner):
    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(map(fn, items))

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        return map(fn, items)

    unordered = imap

    def call(self, fn: Function, *args: Any) -> Any:
        return fn(*args)


@contextlib.contextmanager
def serial(workers: int, method: str) -> Iterator[Runner]:
    """One item after the other, in this process."""
    yield _Serial()


# multiprocessing


@dataclass
class PoolRunner(Runner):
    """`multiprocessing.Pool`, and what is called like it."""

    pool: Any

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        results: list[Any] = self.pool.map(fn, items, chunksize)
        return results

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap(fn, items, chunksize or 1)
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap_unordered(fn, items, chunksize or 1)
        return results

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.apply(fn, args)


@contextlib.contextmanager
def multiprocessing_pool(
    workers: int, method: str, initializer: Function | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Runner]:
    """`multiprocessing.Pool`: `close` and `join`, as its `with` terminates."""
    pool = multiprocessing.get_context(method).Pool(workers, initializer, initargs)
    try:
        yield PoolRunner(pool)
    finally:
        pool.close()
        pool.join()


# concurrent.futures and loky


@dataclass
class ExecutorRunner(Runner):
    """`concurrent.futures.Executor`; a chunk size of 1 is its own choice."""

    executor: Any

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.imap(fn, items, chunksize))

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        options = {} if chunksize is None else {"chunksize": chunksize}
        results: Iterator[Any] = self.executor.map(fn, items, **options)
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        # There are no chunks on this way.
        for future in as_completed([self.executor.submit(fn, item) for item in items]):
            yield future.result()

    def call(self, fn: Function, *args: Any) -> Any:
        return self.executor.submit(fn, *args).result()


@contextlib.contextmanager
def futures(
    workers: int, method: str, initializer: Function | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Runner]:
    """`concurrent.futures.ProcessPoolExecutor`."""
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, context, initializer, initargs) as executor:
        yield ExecutorRunner(executor)


@contextlib.contextmanager
def loky(
    workers: int, method: str, initializer: Function | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Runner]:
    """`get_reusable_executor`, which is what loky is for."""
    import loky

    # With "auto" it would compare the arguments with those of the last one, which arrays do not allow.
    reuse: Any = "auto" if initializer is None else False
    # By default its workers end when they were idle for ten seconds, as they are while others are measured.
    executor = loky.get_reusable_executor(
        workers, timeout=600, reuse=reuse, initializer=initializer, initargs=initargs
    )
    try:
        yield ExecutorRunner(executor)
    finally:
        executor.shutdown(wait=True)


# joblib


@dataclass
class _Joblib(Runner):
    open: Callable[..., Any]

    def _call(self, fn: Function, items: Iterable[Any], chunksize: int | None, how: str) -> Any:
        import joblib

        call = joblib.delayed(fn)
        return self.open(batch_size=chunksize or "auto", return_as=how)(call(item) for item in items)

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        results: list[Any] = self._call(fn, items, chunksize, "list")
        return results

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self._call(fn, items, chunksize, "generator")
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self._call(fn, items, chunksize, "generator_unordered")
        return results

    def call(self, fn: Function, *args: Any) -> Any:
        import joblib

        return self.open(batch_size="auto", return_as="list")([joblib.delayed(fn)(*args)])[0]


@contextlib.contextmanager
def joblib(workers: int, method: str) -> Iterator[Runner]:
    """`Parallel` as a context manager, which keeps its workers; they are loky's, whose end is asked for."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    parallel: Any = joblib.Parallel
    with contextlib.ExitStack() as opened:
        opened.callback(lambda: get_reusable_executor().shutdown(wait=True))
        # One for each way of calling, opened once.
        yield _Joblib(functools.cache(lambda **options: opened.enter_context(parallel(workers, **options))))


# mpire


@dataclass
class _Mpire(Runner):
    pool: Any

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        results: list[Any] = self.pool.map(
            fn, _single(items), len(items), chunk_size=chunksize, concatenate_numpy_output=False
        )
        return results

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap(fn, _single(items), chunk_size=chunksize)
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap_unordered(fn, _single(items), chunk_size=chunksize)
        return results

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.apply(fn, args)


def _single(items: Iterable[Any]) -> Iterable[Any]:
    """As mpire's manual says: what can itself be iterated would be taken for the arguments."""
    from mpire.utils import make_single_arguments

    return items if isinstance(items, range) else make_single_arguments(items)


@contextlib.contextmanager
def mpire(workers: int, method: str, shared_objects: Any = None) -> Iterator[Runner]:
    """`WorkerPool` with `keep_alive`."""
    from mpire.pool import WorkerPool

    with WorkerPool(workers, start_method=method, keep_alive=True, shared_objects=shared_objects) as pool:
        yield _Mpire(pool)
        pool.stop_and_join()  # its `with` terminates


# Pebble


@dataclass
class _Pebble(Runner):
    pool: Any

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.imap(fn, items, chunksize))

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.map(fn, items, chunksize=chunksize or 1).result()
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        # There are no chunks on this way.
        for future in as_completed([self.pool.schedule(fn, args=(item,)) for item in items]):
            yield future.result()

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.schedule(fn, args=args).result()


@contextlib.contextmanager
def pebble(
    workers: int, method: str, initializer: Function | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Runner]:
    """`pebble.ProcessPool`, whose `with` closes and joins."""
    from pebble import ProcessPool

    context: Any = multiprocessing.get_context(method)
    with ProcessPool(workers, initializer=initializer, initargs=initargs, context=context) as pool:
        yield _Pebble(pool)
