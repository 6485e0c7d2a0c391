"""parallelkit's faces, behind the interface of `peers.Runner`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import parallelkit

from .peers import ExecutorRunner, Function, PoolRunner, Runner

#: For what a deadline costs: it is never reached.
TASK_TIMEOUT = 600.0


class _Call(Runner):
    """`pool_map` and `pool_imap`, which start and end their workers in each call."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return parallelkit.pool_map(fn, items, chunksize=chunksize, **self._options)

    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        return parallelkit.pool_imap(fn, items, chunksize=chunksize, **self._options)

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        return parallelkit.pool_imap(fn, items, chunksize=chunksize, ordered=False, **self._options)

    def call(self, fn: Function, *args: Any) -> Any:
        return parallelkit.pool_starmap(fn, [args], **self._options)[0]


class _Stream(_Call):
    def map(self, fn: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.imap(fn, items, chunksize))


class _Pool(PoolRunner):
    def imap(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap(fn, items, chunksize)
        return results

    def unordered(self, fn: Function, items: Iterable[Any], chunksize: int | None = None) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap_unordered(fn, items, chunksize)
        return results


@contextlib.contextmanager
def pool_map(workers: int, method: str, task_timeout: float | None = None) -> Iterator[Runner]:
    """A call, and done."""
    yield _Call(max_workers=workers, start_method=method, task_timeout=task_timeout)


@contextlib.contextmanager
def pool_imap(workers: int, method: str) -> Iterator[Runner]:
    """The same, one by one."""
    yield _Stream(max_workers=workers, start_method=method)


@contextlib.contextmanager
def pool(workers: int, method: str, task_timeout: float | None = None) -> Iterator[Runner]:
    """`parallelkit.Pool`; its `with` finishes the work."""
    with parallelkit.Pool(workers, start_method=method, task_timeout=task_timeout) as opened:
        yield _Pool(opened)


@contextlib.contextmanager
def executor(workers: int, method: str) -> Iterator[Runner]:
    """`parallelkit.ProcessPoolExecutor`."""
    with parallelkit.ProcessPoolExecutor(workers, start_method=method) as opened:
        yield ExecutorRunner(opened)
