"""Events (what happened), commands (what is to be done), and the plain values they carry.

All times are seconds on one monotonic clock; all positions count from 0 inside their chunk; all
indices count from 0 inside their job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import TaskTimeoutError, WorkerDiedError

#: The position of a worker that is still reading the items of its chunk: none has started.
LOADING = -1


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the scheduler has to know of one call.

    `size` is the number of items where it is known; `at_hand` says that all of them can be had at
    once (a list), not drawn one after the other. `streaming` says that somebody takes the results
    one by one and reports that with `Consumed`. `single` marks a call of one function, whose errors
    should not speak of an item. `keeps_failures`: nobody takes those, they are had together at the end.
    """

    size: int | None
    at_hand: bool = False
    single: bool = False
    chunksize: int | None = None
    ordered: bool = False
    streaming: bool = False
    keeps_failures: bool = False
    buffersize: int | None = None
    timeout: float | None = None
    task_timeout: float | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = (WorkerDiedError, TaskTimeoutError)
    stop_on_failure: bool = True


@dataclass(slots=True, eq=False)
class Chunk:
    """Items `start` to `stop` (exclusive) of a job, on their way through one worker.

    `received` counts the outcomes that have come back; `stop` shrinks when the rest is revoked.
    `piecewise` asks for each item to be pickled for itself, because the batch could not be read.
    `eager` asks for each result to be sent at once, because the items are long. `surplus` marks what
    another worker could do: more than one item, or one that waits behind another chunk.
    """

    id: int
    job: int
    start: int
    stop: int
    piecewise: bool = False
    eager: bool = False
    surplus: bool = False
    received: int = 0

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is: in which chunk, at which position (or `LOADING`), since when."""

    chunk: int
    position: int
    since: float


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended, and where it was then (None: it had not begun any chunk)."""

    pid: int | None
    exitcode: int | None
    signal: int | None
    place: Place | None


# Events


@dataclass(slots=True)
class ItemsReady:
    """`count` more items of a job were drawn from its input; `exhausted`: they were the last.

    `under_way`: the answer to `Hasten`; the draw itself goes on.
    """

    job: int
    count: int
    exhausted: bool
    under_way: bool = False


@dataclass(slots=True)
class InputFailed:
    """The input of a job raised."""

    job: int
    exception: BaseException


@dataclass(slots=True)
class JobFailed:
    """A job cannot be run at all, as its function cannot be sent or read."""

    job: int
    exception: BaseException


@dataclass(slots=True)
class Cancel:
    """The caller wants no more of a job: end what runs of it."""

    job: int
    exception: BaseException | None = None


@dataclass(slots=True)
class Consumed:
    """The caller of a streaming job took `count` results."""

    job: int
    count: int


@dataclass(slots=True)
class WorkerReady:
    """A worker has finished its initializer."""

    worker: int


@dataclass(slots=True)
class StartFailed:
    """A worker could not be started, or its initializer raised.

    `no_room`: the system would not have one more (descriptors, processes, memory), which may pass.
    """

    worker: int
    exception: BaseException
    no_room: bool = False


@dataclass(slots=True)
class Sent:
    """A chunk was sent and took so many bytes."""

    job: int
    items: int
    size: int


@dataclass(slots=True)
class Results:
    """Outcomes of positions `first` and following of a chunk.

    `failures` maps offsets in `values` to exceptions, None where there are none. `seconds` is how
    long the worker took for them, None where that is not known.
    """

    worker: int
    chunk: int
    first: int
    values: list[Any]
    failures: Mapping[int, BaseException] | None
    seconds: float | None


@dataclass(slots=True)
class StoppedShort:
    """A worker saw that its chunk was revoked, and did not start `position` and what follows."""

    worker: int
    chunk: int
    position: int


@dataclass(slots=True)
class Unreadable:
    """A worker could not unpickle the batch of a chunk's items; none of them has started."""

    worker: int
    chunk: int


@dataclass(slots=True)
class Observed:
    """The answer to `Observe`."""

    worker: int
    place: Place | None


@dataclass(slots=True)
class Revoked:
    """The answer to `Revoke`: nothing behind `place` starts any more.

    With None the worker is gone, and its death will tell where it was.
    """

    worker: int
    place: Place | None


@dataclass(slots=True)
class Measured:
    """The answer to `Measure`: bytes resident in a worker and its descendants."""

    worker: int
    used: int


@dataclass(slots=True)
class WorkerDied:
    """A worker has ended. What it had finished came before this, as `Results`."""

    worker: int
    death: Death


@dataclass(slots=True)
class Tick:
    """Nothing happened but time."""


Event: TypeAlias = (
    ItemsReady
    | InputFailed
    | JobFailed
    | Cancel
    | Consumed
    | WorkerReady
    | StartFailed
    | Sent
    | Results
    | StoppedShort
    | Unreadable
    | Observed
    | Revoked
    | Measured
    | WorkerDied
    | Tick
)


# Commands


@dataclass(slots=True)
class StartWorker:
    """Begin to start a worker, which may be given chunks from now on."""

    worker: int


@dataclass(slots=True)
class StopWorker:
    """Let a worker that holds nothing end by itself."""

    worker: int


@dataclass(slots=True)
class RunChunk:
    """Hand a chunk to a worker."""

    worker: int
    chunk: Chunk


@dataclass(slots=True)
class Observe:
    """Ask where a worker is; answered by `Observed` at once."""

    worker: int


@dataclass(slots=True)
class Peek:
    """Fetch the results that a worker has and has not sent, as it is in the midst of a long item."""

    worker: int


@dataclass(slots=True)
class Revoke:
    """Take back from a worker what it has not started; answered by `Revoked` at once."""

    worker: int


@dataclass(slots=True)
class Measure:
    """Ask how much memory a worker holds; answered by `Measured` at once."""

    worker: int


@dataclass(slots=True)
class Kill:
    """End a worker with all that it started; answered by `WorkerDied` when it is gone."""

    worker: int
    force: bool


@dataclass(slots=True)
class Draw:
    """Get up to `count` more items from the input of a job."""

    job: int
    count: int


@dataclass(slots=True)
class Hasten:
    """Workers have nothing to do: what a draw has brought so far is wanted now, and then item by item."""

    job: int


@dataclass(slots=True)
class Deliver:
    """Outcomes of items `start` and following: as in `Results`, and final."""

    job: int
    start: int
    values: list[Any]
    failures: Mapping[int, BaseException] | None


@dataclass(slots=True)
class Finish:
    """A job has come to its end; with an exception where that ended it early."""

    job: int
    exception: BaseException | None


@dataclass(slots=True)
class Broken:
    """No worker can be started: nothing will ever run here."""

    exception: BaseException


Command: TypeAlias = (
    StartWorker
    | StopWorker
    | RunChunk
    | Observe
    | Peek
    | Revoke
    | Measure
    | Kill
    | Draw
    | Hasten
    | Deliver
    | Finish
    | Broken
)
