"""The options of the public calls: their names and types, written once, and what is refused.

Bad values are refused when the call is made, before any process starts, with a message that says what
would be right.
"""

from __future__ import annotations

import math
import multiprocessing
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

from typing_extensions import TypedDict, TypeVarTuple

from .engines import Engine, resolve
from .errors import TaskTimeoutError, WorkerDiedError
from .progress import Progress, check_progress
from .resources import available_cpus, parse_memory
from .scheduler import JobSpec
from .threadlimits import Threads

Errors: TypeAlias = Literal["raise", "group", "return"]
#: With these a failure is raised, and what a call returns are values, not outcomes.
Raising: TypeAlias = Literal["raise", "group"]
ErrorCallback: TypeAlias = Callable[[BaseException], object]
RetryOn: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"

Ts = TypeVarTuple("Ts")
#: The positional arguments of one run. A tuple's types are checked against the function's parameters, also
#: where some have defaults; a list's cannot be.
Arguments: TypeAlias = tuple[*Ts] | list[Any]


class CallOptions(TypedDict, total=False):
    """What each call takes, on a pool of its own or on one that is there already.

    timeout: seconds for the whole call, then `CallTimeoutError`.
    task_timeout: seconds for each item, then `TaskTimeoutError`; its worker is ended.
    retries: how often an item is run again after one of `retry_on`.
    retry_on: exception types; by default `WorkerDiedError` and `TaskTimeoutError`.
    progress: True (a bar, with tqdm), "rich" (with rich), a `rich.progress.Progress`, or an object with
        `update(n)` and `close()`.
    """

    timeout: float | None
    task_timeout: float | None
    retries: int
    retry_on: RetryOn
    progress: Progress


class MapOptions(CallOptions, total=False):
    """What the map functions take besides `CallOptions`.

    max_workers: how many workers at most; None: as many as this process may use CPUs.
    chunksize: items a worker is given at once, at least: short ones go together. None: by how long they take.
    initializer, initargs: called in each worker before its first item.
    max_tasks_per_child: a worker ends after so many items and is replaced.
    memory_limit: bytes, or text such as "2GiB", for a worker with its descendants.
    threads_per_worker: how many threads numerical libraries (OpenMP, OpenBLAS, MKL, BLIS, numba, numexpr,
    vecLib) may use in a worker. None: what the environment says (OMP_NUM_THREADS and its like), else the
    worker's share of the CPUs. "inherit": whatever a child process has by itself.
    start_method: "fork", "forkserver" or "spawn".
    forward_logs: whether what workers log is handled in this process; None: unless they are forked, as
        they have the handlers of this process then.
    engine: "processes", "threads", "serial", or an `Engine`.
    """

    max_workers: int | None
    chunksize: int | None
    initializer: Callable[..., object] | None
    initargs: Iterable[Any]
    max_tasks_per_child: int | None
    memory_limit: int | str | None
    threads_per_worker: Threads
    start_method: str | None
    forward_logs: bool | None
    engine: str | Engine | None


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How one call is run: checked and complete."""

    chunksize: int | None = None
    timeout: float | None = None
    task_timeout: float | None = None
    errors: Errors = "raise"
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = (WorkerDiedError, TaskTimeoutError)
    progress: Progress = False

    @property
    def has_deadlines(self) -> bool:
        """Whether somebody has to look at the clock."""
        return self.timeout is not None or self.task_timeout is not None

    def job(self, size: int | None, *, at_hand: bool, single: bool = False) -> JobSpec:
        """The call for the scheduler, where the results are wanted all together."""
        return JobSpec(
            size=size,
            at_hand=at_hand,
            single=single,
            chunksize=self.chunksize,
            timeout=self.timeout,
            task_timeout=self.task_timeout,
            retries=self.retries,
            retry_on=self.retry_on,
            stop_on_failure=self.errors == "raise",
        )

    def stream(self, size: int | None, *, ordered: bool, buffersize: int | None) -> JobSpec:
        """The call for the scheduler, where the results are taken one by one."""
        return replace(
            self.job(size, at_hand=False),
            streaming=True,
            keeps_failures=self.errors == "group",
            ordered=ordered,
            buffersize=buffersize,
        )


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the workers are like: checked and complete."""

    engine: Engine
    max_workers: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    memory_limit: int | None = None
    threads_per_worker: Threads = None
    start_method: str | None = None
    forward_logs: bool | None = None


def call_settings(
    *,
    chunksize: int | None = None,
    timeout: float | None = None,
    task_timeout: float | None = None,
    errors: str = "raise",
    retries: int = 0,
    retry_on: RetryOn = (WorkerDiedError, TaskTimeoutError),
    progress: Progress = False,
    **unknown: object,
) -> CallSettings:
    """Check what concerns one call.

    >>> call_settings(chunksize=-1)
    Traceback (most recent call last):
    ValueError: chunksize must be at least 1, not -1
    """
    _refuse(unknown, CallOptions)
    check_progress(progress)
    return CallSettings(
        chunksize=count("chunksize", chunksize),
        timeout=seconds("timeout", timeout, zero=True),
        task_timeout=seconds("task_timeout", task_timeout),
        errors=_errors(errors),
        retries=count("retries", retries, least=0) or 0,
        retry_on=_exception_types(retry_on),
        progress=progress,
    )


def worker_settings(
    *,
    max_workers: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    max_tasks_per_child: int | None = None,
    memory_limit: int | str | None = None,
    threads_per_worker: Threads = None,
    start_method: str | None = None,
    forward_logs: bool | None = None,
    engine: str | Engine | None = None,
    **unknown: object,
) -> WorkerSettings:
    """Check what concerns the workers.

    >>> worker_settings(start_method="vfork")
    Traceback (most recent call last):
    ValueError: start_method must be 'fork', 'forkserver' or 'spawn', not 'vfork'
    """
    _refuse(unknown, MapOptions)
    chosen = resolve(engine)
    workers = count("max_workers", max_workers) or available_cpus()
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be callable, not {initializer!r}")
    if not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}")
    if forward_logs is not None and not isinstance(forward_logs, bool):
        raise TypeError(f"forward_logs must be True, False or None, not {forward_logs!r}")
    return WorkerSettings(
        engine=chosen,
        max_workers=min(workers, chosen.most_workers or workers),
        initializer=initializer,
        initargs=tuple(initargs),
        max_tasks_per_child=count("max_tasks_per_child", max_tasks_per_child),
        memory_limit=None if memory_limit is None else parse_memory(memory_limit),
        threads_per_worker=_threads(threads_per_worker),
        start_method=_start_method(start_method),
        forward_logs=forward_logs,
    )


def count(name: str, value: int | None, *, least: int = 1) -> int | None:
    """A whole number of at least `least`, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = value.__index__()
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def seconds(name: str, value: float | None, *, zero: bool = False, past: bool = False) -> float | None:
    """A span of time, or None for no limit. `past`: 0 and less mean 0, as for multiprocessing."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    try:
        span = float(value)
    except OverflowError:  # an int of hundreds of digits
        span = math.inf if value > 0 else -math.inf
    if past and span <= 0:
        return 0.0
    if math.isnan(span) or span < 0 or (span == 0 and not zero):
        least = "not negative" if zero else "more than 0"
        raise ValueError(f"{name} must be {least} (seconds), not {value!r}")
    return None if span > threading.TIMEOUT_MAX else span  # the clock does not reach that


def function(value: object) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(f"the function must be callable, not {value!r}")


def callback(name: str, value: object) -> None:
    """Refuse what cannot be called, but for None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {value!r}")


def iterable(value: object) -> None:
    """Refuse what cannot be iterated."""
    # Its type is asked, as iter() does: the class `list` itself has the __getitem__ of its lists.
    if not isinstance(value, Iterable) and not hasattr(type(value), "__getitem__"):
        raise TypeError(f"items must be iterable, not {value!r}")


def refuse_unknown(given: Iterable[str], known: type) -> None:
    """Refuse the names of options that `known`, a TypedDict, does not have."""
    _refuse([name for name in given if name not in known.__annotations__], known)


def _refuse(unknown: Iterable[str], known: type) -> None:
    for name in unknown:
        names = ", ".join(known.__annotations__)
        raise TypeError(f"there is no option {name!r}; the options are {names}")


def _errors(value: str) -> Errors:
    if value in get_args(Errors):
        return cast(Errors, value)
    raise ValueError(f"errors must be 'raise', 'group' or 'return', not {value!r}")


def _exception_types(value: RetryOn) -> tuple[type[BaseException], ...]:
    types = value if isinstance(value, tuple) else (value,)
    for kind in types:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise TypeError(f"retry_on must be an exception type or a tuple of them, not {value!r}")
    return types


def _threads(value: Threads) -> Threads:
    if value == "inherit":
        return "inherit"
    if isinstance(value, str):
        raise ValueError(f"threads_per_worker must be a whole number, 'inherit' or None, not {value!r}")
    return count("threads_per_worker", value)


def _start_method(value: str | None) -> str | None:
    methods = multiprocessing.get_all_start_methods()
    if value is None or value in methods:
        return value
    if not isinstance(value, str):
        raise TypeError(f"start_method must be the name of a start method, not {value!r}")
    names = [repr(method) for method in sorted(methods)]  # each Python has them in an order of its own
    raise ValueError(f"start_method must be {', '.join(names[:-1])} or {names[-1]}, not {value!r}")
