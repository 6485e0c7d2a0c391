"""The joblib backend "parallelkit", and with it scikit-learn.

    Parallel ── BatchedCalls ───▶ backend.submit ──▶ _Workers ──▶ ProcessPoolExecutor ──▶ workers
       ▲                            (one a config)    (one for each choice of options, kept warm)
       └───── callback, in the executor's thread for callbacks ◀── Future

1. Workers are started by spawn, so no lock and no OpenMP runtime is inherited in the midst of its work. They
   do not import `__main__`, so a script needs no `if __name__ == "__main__":`; what tasks use of it is sent
   along, by cloudpickle. Both are joblib's own way, too.
2. The workers stay between calls, as joblib's own do, until nobody has used them for `idle_worker_timeout`.
3. An abort cancels what the aborted call has under way: the workers that run it are ended and replaced.
4. A worker's numerical libraries have its share of the CPUs, or `inner_max_num_threads`. A Parallel call in a
   task is run in so many threads, and where that is one, in none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

try:
    import cloudpickle  # noqa: F401 - used by the engine, and joblib 1.4 and 1.5 do not require it
    import joblib
except ImportError as _missing:
    raise ImportError(
        f"parallelkit.integrations.joblib needs {_missing.name}: pip install 'parallelkit[joblib]'"
    ) from _missing

from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from .. import options as checks
from .. import threadlimits
from ..engines import ProcessesEngine
from ..errors import SerializationError
from ..executor import ProcessPoolExecutor

__all__ = ["register", "shutdown"]

_NAME = "parallelkit"
#: What joblib tells each backend, and means loky's or multiprocessing's.
_JOBLIBS = frozenset({"max_nbytes", "temp_folder", "mmap_mode", "verbose", "context"})
_OPTIONS = frozenset(
    {
        "idle_worker_timeout",
        "initargs",
        "initializer",
        "max_tasks_per_child",
        "memory_limit",
        "retries",
        "retry_on",
        "start_method",
        "task_timeout",
    }
)
#: As joblib's own, in seconds.
_IDLE_SECONDS = 300.0


def register(*, make_default: bool = False) -> None:
    """Have joblib know the backend "parallelkit".

    make_default: use it wherever no other is named; otherwise `joblib.parallel_config(backend="parallelkit")`
    or `joblib.Parallel(backend="parallelkit")` name it. Both take `inner_max_num_threads`,
    `idle_worker_timeout` (seconds; None: never) and options of `ProcessPoolExecutor`: `task_timeout`
    (seconds, for a batch of tasks), `retries`, `retry_on`, `memory_limit`, `max_tasks_per_child`,
    `initializer`, `initargs` and `start_method`.

    A worker that dies ends its `Parallel` call with `WorkerDiedError`; the other errors are those of the
    tasks. The call's own `timeout` raises `multiprocessing.TimeoutError`, as joblib has it, and ends
    what runs.

    >>> import joblib
    >>> register()
    >>> with joblib.parallel_config(backend="parallelkit", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(number) for number in [-1, 2])
    [1, 2]
    >>> shutdown()
    """
    joblib.register_parallel_backend(_NAME, _Backend, make_default=make_default)


def shutdown() -> None:
    """End the workers that are kept for the next call, and return when they are gone.

    What runs is finished first. Nobody has to call this: they end with the program, or when they are idle
    for long. The next call starts new ones.
    """
    for workers in list(_open):
        workers.close(wait=True)


class _Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """See `register`; the methods are those of joblib's `ParallelBackendBase`."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = _checked(options)
        self._n_jobs = 1
        self._workers: _Workers | None = None
        #: What is under way, each with joblib's callback for it.
        self._pending: dict[concurrent.futures.Future[Any], Any] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        most = threadlimits.budget()
        if n_jobs < 0:
            return max(most + 1 + n_jobs, 1)
        return min(n_jobs, most) if self.nesting_level else n_jobs

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any
    ) -> int:
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        chosen = {**self._options, **_checked(options)}
        if os.environ.get("JOBLIB_START_METHOD", "").strip():
            chosen.setdefault("start_method", options["context"].get_start_method())
        self._workers = _workers(count, self.inner_max_num_threads, chosen)
        self._workers.open()  # bad options are refused now
        self._n_jobs = count
        self.parallel = parallel
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Any:
        assert self._workers is not None
        future: concurrent.futures.Future[Any]
        try:
            future = self._workers.submit(func)
        except Exception as error:
            # Where joblib hands in the next batch, in a callback, nobody would ever hear of it.
            future = concurrent.futures.Future()
            future.set_exception(error)
        self._pending[future] = callback
        future.add_done_callback(lambda done: self._pending.pop(done, None))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # as joblib 1.4 calls it

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        error = out.exception()
        if error is None:
            return out.result()
        _keep_frames(error)
        raise error

    def abort_everything(self, ensure_ready: bool = True) -> None:
        # A backend serves all calls within a `parallel_config`, and those that go on are left alone.
        for future, callback in list(self._pending.items()):
            if getattr(getattr(callback, "parallel", None), "_aborting", True):
                future.cancel()

    def terminate(self) -> None:
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, None]:
        level = (self.nesting_level or 0) + 1
        share = self.inner_max_num_threads or threadlimits.share(self._n_jobs)
        if share == 1 or level > 1:
            return SequentialBackend(nesting_level=level), None
        return _NestedThreads(share, nesting_level=level), None


_Backend.__name__ = "ParallelKitBackend"  # which joblib prints where it is to be verbose


class _NestedThreads(ThreadingBackend):  # type: ignore[misc]
    """Runs a Parallel call of a task in the threads that its worker may use."""

    def __init__(self, share: int, nesting_level: int) -> None:
        super().__init__(nesting_level=nesting_level)
        self._share = share
        self._limits: Any = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        count: int = super().effective_n_jobs(n_jobs)
        return min(count, self._share)

    def start_call(self) -> None:
        """Have each thread's share of the numerical threads be its own, where scikit-learn is about."""
        threadpoolctl = sys.modules.get("threadpoolctl")
        if threadpoolctl is not None:
            self._limits = threadpoolctl.threadpool_limits(self._share // self._n_jobs, user_api="blas")

    def stop_call(self) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are meant for workers of ours."""
    own = {name: value for name, value in options.items() if name not in _JOBLIBS}
    for name in own.keys() - _OPTIONS:
        names = ", ".join(sorted(_OPTIONS))
        raise TypeError(f"the joblib backend 'parallelkit' has no option {name!r}; its options are {names}")
    return own


# Workers that stay


class _Workers:
    """The workers for one choice of options: started when they are needed, ended when long idle."""

    def __init__(self, key: Any, make: Callable[[], ProcessPoolExecutor], patience: float | None) -> None:
        self._key = key
        self._make = make
        self._patience = patience
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()  # whoever hands in may be in a callback of his own
        self._executor: ProcessPoolExecutor | None = None
        self._under_way = 0
        self._idle_since = time.monotonic()
        self._timer: threading.Timer | None = None

    def open(self) -> None:
        """Have an executor; it starts its workers when there is work."""
        with self._lock:
            if self._executor is None:
                try:
                    self._executor = self._make()
                except BaseException:
                    self.close()  # nothing is kept of options that are refused
                    raise
                _open.add(self)
                _kept.setdefault(self._key, self)

    def submit(self, batch: Callable[[], Any]) -> concurrent.futures.Future[Any]:
        with self._lock:
            self.open()
            assert self._executor is not None
            try:
                future = self._executor.submit(_Runner(_name_of(batch)), batch)
            except BaseException:
                self.close()  # broken: the next call may do better
                raise
            self._under_way += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, future: concurrent.futures.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # joblib reports the first failure; the others are no news to be logged
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self._idle_since = time.monotonic()
                if self._timer is None and self._executor is not None and self._patience is not None:
                    self._look_again(self._patience)

    def _look_again(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._look)
        self._timer.name = "parallelkit-idle"
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # the interpreter is about to end, and the workers with it
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            if self._under_way or self._executor is None or self._patience is None:
                return
            left = self._idle_since + self._patience - time.monotonic()
            if left > 0:
                self._look_again(left)
            else:
                self.close()

    def close_if_idle(self) -> None:
        """Others are wanted now, and these would only hold memory."""
        with self._lock:
            if not self._under_way:
                self.close()

    def close(self, *, wait: bool = False) -> None:
        """Let work be finished and workers end; the next `submit` starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
            timer, self._timer = self._timer, None
            _open.discard(self)
            if _kept.get(self._key) is self:
                del _kept[self._key]
        if timer is not None:
            timer.cancel()
        if executor is not None:
            executor.shutdown(wait=wait)
        if wait and timer is not None and timer.is_alive():
            timer.join()


#: Those that have an executor.
_open: set[_Workers] = set()
#: Those that the next call finds.
_kept: dict[Any, _Workers] = {}


def _workers(count: int, threads: int | None, options: dict[str, Any]) -> _Workers:
    """Those that there are for just this; all others that are idle end."""
    key = (count, threads, *sorted((name, _comparable(value)) for name, value in options.items()))
    patience = options.get("idle_worker_timeout", _IDLE_SECONDS)
    patience = checks.seconds("idle_worker_timeout", patience, zero=True)
    make = functools.partial(_make_executor, count, threads, options)
    found = _kept.setdefault(key, _Workers(key, make, patience))
    for workers in list(_open):
        if workers is not found:
            workers.close_if_idle()
    return found


def _comparable(value: object) -> Any:
    try:
        hash(value)
    except TypeError:
        return "id", id(value)  # no other value has it: what is kept holds this one
    return "value", value


def _make_executor(count: int, threads: int | None, options: dict[str, Any]) -> ProcessPoolExecutor:
    given = {"start_method": "spawn", **options}
    given.pop("idle_worker_timeout", None)
    return ProcessPoolExecutor(
        count, threads_per_worker=threads, engine=ProcessesEngine(import_main=False), **given
    )


def _forget_all() -> None:
    for workers in [*_open, *_kept.values()]:
        workers._forget()  # they are the parent's
    _open.clear()
    _kept.clear()


os.register_at_fork(after_in_child=_forget_all)


# What travels


class _Runner:
    """Runs a batch in a worker. Its name is in the note of the batch's error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __call__(self, batch: Callable[[], Any]) -> Any:
        register()  # a task may name the backend
        return batch()


def _name_of(batch: Any) -> str:
    """As "fit", or "fit and 3 more"."""
    function, more = batch.items[0][0], len(batch.items) - 1
    name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
    return f"{name} and {more} more" if more else name


class _WorkerTraceback(Exception):
    """Holds the frames of a task as its traceback, because joblib takes them off the task's exception."""

    def __str__(self) -> str:
        return "the task failed in its worker, in the frames above"


def _keep_frames(error: BaseException) -> None:
    frames = error.__traceback__
    if frames is None or isinstance(error, SerializationError):  # those are ours, and no task's
        return
    if error.__cause__ is None:
        cause = _WorkerTraceback().with_traceback(frames)
        cause.__context__ = error.__context__
        error.__cause__ = cause
    else:
        error.add_note("in the worker:\n" + "".join(traceback.format_tb(frames)))
