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


class _Message:
    """Shown and compared by what it holds: the parameters of `__init__`, which are the attributes.

    No dataclass: to make the methods of thirty takes 20 ms, in each program.
    """

    __slots__ = ()

    def __init__(self) -> None:
        """Of what holds nothing."""

    def _fields(self) -> tuple[str, ...]:
        code = type(self).__init__.__code__
        return code.co_varnames[1 : code.co_argcount]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self._fields())
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields())


# Events


class ItemsReady(_Message):
    """`count` more items of a job were drawn from its input; `exhausted`: they were the last.

    `under_way`: the answer to `Hasten`; the draw itself goes on.
    """

    __slots__ = ("count", "exhausted", "job", "under_way")

    def __init__(self, job: int, count: int, exhausted: bool, under_way: bool = False) -> None:
        self.job: int = job
        self.count: int = count
        self.exhausted: bool = exhausted
        self.under_way: bool = under_way


class InputFailed(_Message):
    """The input of a job raised."""

    __slots__ = ("exception", "job")

    def __init__(self, job: int, exception: BaseException) -> None:
        self.job: int = job
        self.exception: BaseException = exception


class JobFailed(_Message):
    """A job cannot be run at all, as its function cannot be sent or read."""

    __slots__ = ("exception", "job")

    def __init__(self, job: int, exception: BaseException) -> None:
        self.job: int = job
        self.exception: BaseException = exception


class Cancel(_Message):
    """The caller wants no more of a job: end what runs of it."""

    __slots__ = ("exception", "job")

    def __init__(self, job: int, exception: BaseException | None = None) -> None:
        self.job: int = job
        self.exception: BaseException | None = exception


class Consumed(_Message):
    """The caller of a streaming job took `count` results."""

    __slots__ = ("count", "job")

    def __init__(self, job: int, count: int) -> None:
        self.job: int = job
        self.count: int = count


class WorkerReady(_Message):
    """A worker has finished its initializer."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class StartFailed(_Message):
    """A worker could not be started, or its initializer raised.

    `no_room`: the system would not have one more (descriptors, processes, memory), which may pass.
    """

    __slots__ = ("exception", "no_room", "worker")

    def __init__(self, worker: int, exception: BaseException, no_room: bool = False) -> None:
        self.worker: int = worker
        self.exception: BaseException = exception
        self.no_room: bool = no_room


class Sent(_Message):
    """A chunk was sent and took so many bytes."""

    __slots__ = ("items", "job", "size")

    def __init__(self, job: int, items: int, size: int) -> None:
        self.job: int = job
        self.items: int = items
        self.size: int = size


class Results(_Message):
    """Outcomes of positions `first` and following of a chunk.

    `failures` maps offsets in `values` to exceptions, None where there are none. `seconds` is how
    long the worker took for them, None where that is not known.
    """

    __slots__ = ("chunk", "failures", "first", "seconds", "values", "worker")

    def __init__(
        self,
        worker: int,
        chunk: int,
        first: int,
        values: list[Any],
        failures: Mapping[int, BaseException] | None,
        seconds: float | None,
    ) -> None:
        self.worker: int = worker
        self.chunk: int = chunk
        self.first: int = first
        self.values: list[Any] = values
        self.failures: Mapping[int, BaseException] | None = failures
        self.seconds: float | None = seconds


class StoppedShort(_Message):
    """A worker saw that its chunk was revoked, and did not start `position` and what follows."""

    __slots__ = ("chunk", "position", "worker")

    def __init__(self, worker: int, chunk: int, position: int) -> None:
        self.worker: int = worker
        self.chunk: int = chunk
        self.position: int = position


class Unreadable(_Message):
    """A worker could not unpickle the batch of a chunk's items; none of them has started."""

    __slots__ = ("chunk", "worker")

    def __init__(self, worker: int, chunk: int) -> None:
        self.worker: int = worker
        self.chunk: int = chunk


class Observed(_Message):
    """The answer to `Observe`."""

    __slots__ = ("place", "worker")

    def __init__(self, worker: int, place: Place | None) -> None:
        self.worker: int = worker
        self.place: Place | None = place


class Revoked(_Message):
    """The answer to `Revoke`: nothing behind `place` starts any more.

    With None the worker is gone, and its death will tell where it was.
    """

    __slots__ = ("place", "worker")

    def __init__(self, worker: int, place: Place | None) -> None:
        self.worker: int = worker
        self.place: Place | None = place


class Measured(_Message):
    """The answer to `Measure`: bytes resident in a worker and its descendants."""

    __slots__ = ("used", "worker")

    def __init__(self, worker: int, used: int) -> None:
        self.worker: int = worker
        self.used: int = used


class WorkerDied(_Message):
    """A worker has ended. What it had finished came before this, as `Results`."""

    __slots__ = ("death", "worker")

    def __init__(self, worker: int, death: Death) -> None:
        self.worker: int = worker
        self.death: Death = death


class Tick(_Message):
    """Nothing happened but time."""

    __slots__ = ()


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


class StartWorker(_Message):
    """Begin to start a worker, which may be given chunks from now on."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class StopWorker(_Message):
    """Let a worker that holds nothing end by itself."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class RunChunk(_Message):
    """Hand a chunk to a worker."""

    __slots__ = ("chunk", "worker")

    def __init__(self, worker: int, chunk: Chunk) -> None:
        self.worker: int = worker
        self.chunk: Chunk = chunk


class Observe(_Message):
    """Ask where a worker is; answered by `Observed` at once."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class Peek(_Message):
    """Fetch the results that a worker has and has not sent, as it is in the midst of a long item."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class Revoke(_Message):
    """Take back from a worker what it has not started; answered by `Revoked` at once."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class Measure(_Message):
    """Ask how much memory a worker holds; answered by `Measured` at once."""

    __slots__ = ("worker",)

    def __init__(self, worker: int) -> None:
        self.worker: int = worker


class Kill(_Message):
    """End a worker with all that it started; answered by `WorkerDied` when it is gone."""

    __slots__ = ("force", "worker")

    def __init__(self, worker: int, force: bool) -> None:
        self.worker: int = worker
        self.force: bool = force


class Draw(_Message):
    """Get up to `count` more items from the input of a job."""

    __slots__ = ("count", "job")

    def __init__(self, job: int, count: int) -> None:
        self.job: int = job
        self.count: int = count


class Hasten(_Message):
    """Workers have nothing to do: what a draw has brought so far is wanted now, and then item by item."""

    __slots__ = ("job",)

    def __init__(self, job: int) -> None:
        self.job: int = job


class Deliver(_Message):
    """Outcomes of items `start` and following: as in `Results`, and final."""

    __slots__ = ("failures", "job", "start", "values")

    def __init__(
        self, job: int, start: int, values: list[Any], failures: Mapping[int, BaseException] | None
    ) -> None:
        self.job: int = job
        self.start: int = start
        self.values: list[Any] = values
        self.failures: Mapping[int, BaseException] | None = failures


class Finish(_Message):
    """A job has come to its end; with an exception where that ended it early."""

    __slots__ = ("exception", "job")

    def __init__(self, job: int, exception: BaseException | None) -> None:
        self.job: int = job
        self.exception: BaseException | None = exception


class Broken(_Message):
    """No worker can be started: nothing will ever run here."""

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception: BaseException = exception


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
