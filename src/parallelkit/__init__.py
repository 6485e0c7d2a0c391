"""Task parallelism over processes that does not hang, loses no result and hides no error.

    import parallelkit
    results = parallelkit.pool_map(fn, items)

All public names of `multiprocessing` are here, too, so that a program changes over by its import line.

The rooms of this house, from the top; each imports only from those below it:

======================================= ==============================================================
integrations                            what makes other libraries run on this one: joblib
context                                 all of multiprocessing's names, bound to a start method
aio, groups                             the faces for asyncio; a group of tasks side by side
mapping, pool, executor                 the faces: a call and done; a pool, an executor for calls
errands, asynciteration                 calls that an event loop awaits, and their results one by one
results, futures                        what becomes of a pool's calls, and of an executor's
gathering, iteration                    what becomes of outcomes: a list, or one by one
driver                                  one scheduler, one crew, and the threads that wait for them
options                                 the options of the calls, and what is refused
naming, stats                           what a failure's note says of its item; what has happened so far
engines                                 how workers are started, spoken to and stopped: processes
                                        (the default), threads, serial
scheduler                               what is to happen next: pure, without I/O and clock
process                                 Process; below it launching, marking, resultfile
logs                                    what workers log, handled in their parent
connection, queues                      Pipe, Connection; Queue and its kin
encoding, sharing                       objects as messages, and memory that no dead process can keep
synchronize                             Lock and its kin, which a death does not block
errors, outcomes, tracebacks,           the ground
rebuilding, serialization, byvalue,
interactive, termination, resources,
threadlimits, progress, guardian,
shielding
======================================= ==============================================================
"""

# Not later: once the main thread has ended, the standard library lets nobody import this any more.
import concurrent.futures.process  # noqa: F401
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import aio, tracebacks
    from .connection import Connection, Pipe
    from .context import (
        Array,
        AuthenticationError,
        BufferTooShort,
        Manager,
        ProcessError,
        RawArray,
        RawValue,
        TimeoutError,
        Value,
        active_children,
        allow_connection_pickling,
        cpu_count,
        current_process,
        freeze_support,
        get_all_start_methods,
        get_context,
        get_logger,
        get_start_method,
        log_to_stderr,
        parent_process,
        reducer,
        set_executable,
        set_forkserver_preload,
        set_start_method,
    )
    from .engines import Engine, using
    from .errors import (
        AbandonedError,
        CallTimeoutError,
        ClosedError,
        MemoryLimitError,
        ParallelKitError,
        RemoteError,
        ResultError,
        SerializationError,
        TaskTimeoutError,
        UnreadableError,
        UnreadableResultError,
        WorkerDiedError,
        WorkerInitError,
    )
    from .executor import ProcessPoolExecutor
    from .groups import Task, TaskGroup
    from .iteration import ResultIterator
    from .mapping import pool_imap, pool_map, pool_starmap
    from .outcomes import Failure, Outcome, Success
    from .pool import Pool
    from .process import Process, ProcessDiedError
    from .queues import JoinableQueue, Queue, ShutDown, SimpleQueue
    from .resources import available_cpus
    from .results import AsyncResult
    from .stats import PoolStats
    from .synchronize import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
    from .termination import terminate_tree

#: Where each public name lives. A room is entered when something of it is asked for: who maps does not wait
#: for locks and pipes to be imported.
_HOMES = {
    "connection": "Connection Pipe",
    "context": (
        "Array AuthenticationError BufferTooShort Manager ProcessError RawArray RawValue TimeoutError "
        "Value active_children allow_connection_pickling cpu_count current_process freeze_support "
        "get_all_start_methods get_context get_logger get_start_method log_to_stderr parent_process "
        "reducer set_executable set_forkserver_preload set_start_method"
    ),
    "engines": "Engine using",
    "errors": (
        "AbandonedError CallTimeoutError ClosedError MemoryLimitError ParallelKitError RemoteError "
        "ResultError SerializationError TaskTimeoutError UnreadableError UnreadableResultError "
        "WorkerDiedError WorkerInitError"
    ),
    "executor": "ProcessPoolExecutor",
    "groups": "Task TaskGroup",
    "iteration": "ResultIterator",
    "mapping": "pool_imap pool_map pool_starmap",
    "outcomes": "Failure Outcome Success",
    "pool": "Pool",
    "process": "Process ProcessDiedError",
    "queues": "JoinableQueue Queue ShutDown SimpleQueue",
    "resources": "available_cpus",
    "results": "AsyncResult",
    "stats": "PoolStats",
    "synchronize": "Barrier BoundedSemaphore Condition Event Lock RLock Semaphore",
    "termination": "terminate_tree",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        home = _HOME.get(name)
        if home is not None:
            value = getattr(importlib.import_module(f".{home}", __name__), name)
        elif name in _HOMES or name in ("aio", "tracebacks"):
            value = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "AbandonedError",
    "Array",
    "AsyncResult",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "CallTimeoutError",
    "ClosedError",
    "Condition",
    "Connection",
    "Engine",
    "Event",
    "Failure",
    "JoinableQueue",
    "Lock",
    "Manager",
    "MemoryLimitError",
    "Outcome",
    "ParallelKitError",
    "Pipe",
    "Pool",
    "PoolStats",
    "Process",
    "ProcessDiedError",
    "ProcessError",
    "ProcessPoolExecutor",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "RemoteError",
    "ResultError",
    "ResultIterator",
    "Semaphore",
    "SerializationError",
    "ShutDown",
    "SimpleQueue",
    "Success",
    "Task",
    "TaskGroup",
    "TaskTimeoutError",
    "TimeoutError",
    "UnreadableError",
    "UnreadableResultError",
    "Value",
    "WorkerDiedError",
    "WorkerInitError",
    "__version__",
    "active_children",
    "aio",
    "allow_connection_pickling",
    "available_cpus",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "pool_imap",
    "pool_map",
    "pool_starmap",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "terminate_tree",
    "tracebacks",
    "using",
]
