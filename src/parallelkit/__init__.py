"""Task parallelism over processes that does not hang, loses no result and hides no error.

    import parallelkit
    results = parallelkit.pool_map(fn, items)

The rooms of this house, from the top; each imports only from those below it:

======================================= ==============================================================
mapping, pool                           the faces: a call and done; a pool that calls are handed to
results                                 what becomes of a pool's calls
gathering, iteration                    what becomes of outcomes: a list, or one by one
driver                                  one scheduler, one crew, and the threads that wait for them
options                                 the options of the calls, and what is refused
engines                                 how workers are started, spoken to and stopped: processes
                                        (the default), threads, serial
scheduler                               what is to happen next: pure, without I/O and clock
errors, outcomes, tracebacks,           the ground
rebuilding, serialization, termination,
resources, progress, guardian
======================================= ==============================================================
"""

from . import tracebacks
from .engines import Engine, using
from .errors import (
    CallTimeoutError,
    ClosedError,
    MemoryLimitError,
    ParallelKitError,
    RemoteError,
    SerializationError,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
)
from .iteration import ResultIterator
from .mapping import pool_imap, pool_map, pool_starmap
from .outcomes import Failure, Outcome, Success
from .pool import Pool
from .resources import available_cpus
from .results import AsyncResult, PoolStats
from .termination import terminate_tree

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "CallTimeoutError",
    "ClosedError",
    "Engine",
    "Failure",
    "MemoryLimitError",
    "Outcome",
    "ParallelKitError",
    "Pool",
    "PoolStats",
    "RemoteError",
    "ResultIterator",
    "SerializationError",
    "Success",
    "TaskTimeoutError",
    "WorkerDiedError",
    "WorkerInitError",
    "__version__",
    "available_cpus",
    "pool_imap",
    "pool_map",
    "pool_starmap",
    "terminate_tree",
    "tracebacks",
    "using",
]
