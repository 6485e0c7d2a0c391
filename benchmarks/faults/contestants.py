"""Who is measured: each contestant as the same small interface.

pool = contestant.open(2, "fork")
handle = pool.submit(fn, argument, task_timeout=1.0)
handle.settled(5.0) and handle.result()
pool.end()
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import tasks

METHODS = ("fork", "forkserver", "spawn")


class Handle(Protocol):
    """A task on its way."""

    def settled(self, seconds: float) -> bool:
        """Wait; False where there is neither result nor error after so many seconds."""
        ...

    def result(self) -> Any:
        """What a task that is settled has returned, or the exception that it has ended in."""
        ...

    def cancel(self) -> Any:
        """End the task, where the contestant can."""
        ...


class Served(Protocol):
    """A contestant that is ready to work."""

    def submit(self, fn: Callable[..., Any], *args: Any, task_timeout: float | None = None) -> Handle:
        """Hand in one task."""
        ...

    def end(self) -> None:
        """End it, and the work that is left."""
        ...


@dataclass(frozen=True)
class Contestant:
    """`map` is a map call as its users write it, with the pool's beginning and end."""

    name: str
    distribution: str
    open: Callable[[int, str], Served]
    map: Callable[[Callable[[Any], Any], Sequence[Any], str], object]
    methods: Sequence[str] = METHODS
    has_task_timeout: bool = False
    has_memory_limit: bool = False


@dataclass
class _Result:
    """`multiprocessing.pool.AsyncResult` and what is like it."""

    made: Any

    def settled(self, seconds: float) -> bool:
        self.made.wait(seconds)
        return bool(self.made.ready())

    def result(self) -> Any:
        return self.made.get()

    def cancel(self) -> Any:
        return self.made.cancel()


@dataclass
class _Future:
    """`concurrent.futures.Future`."""

    made: Any

    def settled(self, seconds: float) -> bool:
        return bool(concurrent.futures.wait([self.made], seconds).done)

    def result(self) -> Any:
        return self.made.result()

    def cancel(self) -> Any:
        return self.made.cancel()


@dataclass
class _PoolLike:
    pool: Any

    def submit(self, fn: Callable[..., Any], *args: Any, task_timeout: float | None = None) -> Handle:
        options = {} if task_timeout is None else {"task_timeout": task_timeout}
        return _Result(self.pool.apply_async(fn, args, **options))

    def end(self) -> None:
        self.pool.terminate()


class _Executor:
    def __init__(self, get: Callable[[], Any], **options: bool) -> None:
        self._get = get
        self._get()
        self._options = options

    def submit(self, fn: Callable[..., Any], *args: Any, task_timeout: float | None = None) -> Handle:
        return _Future(self._get().submit(fn, *args))

    def end(self) -> None:
        self._get().shutdown(wait=False, **self._options)


@dataclass
class _Pebble:
    pool: Any

    def submit(self, fn: Callable[..., Any], *args: Any, task_timeout: float | None = None) -> Handle:
        return _Future(self.pool.schedule(fn, args=args, timeout=task_timeout))

    def end(self) -> None:
        self.pool.stop()
        self.pool.join()


def _open_ours(workers: int, method: str) -> Served:
    import parallelkit

    return _PoolLike(parallelkit.Pool(workers, start_method=method))


def _map_ours(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    import parallelkit

    return parallelkit.pool_map(fn, items, max_workers=2, start_method=method)


def _open_multiprocessing(workers: int, method: str) -> Served:
    return _PoolLike(multiprocessing.get_context(method).Pool(workers))


def _map_multiprocessing(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(fn, items)


def _open_futures(workers: int, method: str) -> Served:
    context = multiprocessing.get_context(method)
    executor = concurrent.futures.ProcessPoolExecutor(workers, context)
    return _Executor(lambda: executor, cancel_futures=True)


def _map_futures(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as executor:
        return list(executor.map(fn, items))


def _open_loky(workers: int, method: str) -> Served:
    import loky

    # Asked for each time, as its manual says: it makes a new one where the last is broken.
    return _Executor(lambda: loky.get_reusable_executor(max_workers=workers), kill_workers=True)


def _map_loky(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    import loky

    return list(loky.get_reusable_executor(max_workers=2).map(fn, items))


def _open_mpire(workers: int, method: str) -> Served:
    from mpire.pool import WorkerPool

    return _PoolLike(WorkerPool(workers, start_method=method))


def _map_mpire(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    from mpire.pool import WorkerPool

    with WorkerPool(2, start_method=method) as pool:
        return pool.map(fn, items)


def _open_pebble(workers: int, method: str) -> Served:
    import pebble

    return _Pebble(pebble.ProcessPool(workers, context=multiprocessing.get_context(method)))


def _map_pebble(fn: Callable[[Any], Any], items: Sequence[Any], method: str) -> object:
    import pebble

    with pebble.ProcessPool(2, context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(fn, items).result())


OURS = Contestant("parallelkit", "parallelkit", _open_ours, _map_ours, METHODS, True, True)
_KNOWN = (
    OURS,
    Contestant("mp.Pool", "", _open_multiprocessing, _map_multiprocessing),
    Contestant("ProcessPoolExecutor", "", _open_futures, _map_futures),
    Contestant("loky", "loky", _open_loky, _map_loky, ("loky",)),
    Contestant("mpire", "mpire", _open_mpire, _map_mpire, METHODS, has_task_timeout=True),
    Contestant("Pebble", "pebble", _open_pebble, _map_pebble, METHODS, has_task_timeout=True),
)
#: Those that are installed.
ALL = tuple(
    known for known in _KNOWN if not known.distribution or importlib.util.find_spec(known.distribution)
)


def named(name: str) -> Contestant:
    """The contestant of that name."""
    return next(contestant for contestant in ALL if contestant.name == name)


def warm(contestant: Contestant, workers: int, method: str) -> Served:
    """A pool whose workers are all up."""
    pool = contestant.open(workers, method)
    seen: set[int] = set()
    for _ in range(100):
        handles = [pool.submit(tasks.pid, 0.05) for _ in range(workers)]
        seen.update(handle.result() for handle in handles if handle.settled(30))
        if len(seen) == workers:
            break
    return pool
