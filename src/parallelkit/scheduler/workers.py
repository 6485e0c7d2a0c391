"""What one worker holds, in which state it is, and who is free."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from .messages import LOADING, Chunk, Place


class State(enum.Enum):
    """A worker's life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"  # told to end by itself
    DYING = "dying"  # being killed


class Verdict(NamedTuple):
    """Why a worker is to be killed, and so what its item ends in.

    `timeout`: the item at `place` has run out of time. `memory`: the worker holds `used` bytes, which
    is too much. `ended`: the call that it works for is over.
    """

    kind: Literal["timeout", "memory", "ended"]
    place: Place | None = None
    used: int = 0


class Worker:
    """The scheduler's picture of one worker."""

    __slots__ = ("assigned", "attempt", "chunks", "id", "pause", "state", "verdict")

    def __init__(self, id: int, attempt: int = 0) -> None:
        self.id: int = id
        self.attempt: int = attempt  # how many starts in a row had failed when it was started
        self.state: State = State.STARTING
        self.chunks: deque[Chunk] = deque()
        self.assigned: int = 0  # items that it was ever given
        self.verdict: Verdict | None = None
        self.pause: float = 0.0  # seconds between two looks for results that it has not sent

    @property
    def usable(self) -> bool:
        """Whether it can be given work."""
        return self.state is State.STARTING or self.state is State.READY

    def find(self, chunk: int) -> Chunk | None:
        """The chunk of that number, where the worker still holds it."""
        for held in self.chunks:
            if held.id == chunk:
                return held
        return None


class Roster:
    """All workers of a pool, and which of them are free."""

    def __init__(self) -> None:
        self.all: dict[int, Worker] = {}
        self.idle: dict[int, Worker] = {}
        self.usable: int = 0
        self.surplus: int = 0
        self._next = 1

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self.all.values()))

    def add(self, attempt: int = 0) -> Worker:
        """A new worker, which is free; so many starts in a row have failed before."""
        worker = Worker(self._next, attempt)
        self._next += 1
        self.all[worker.id] = worker
        self.idle[worker.id] = worker
        self.usable += 1
        return worker

    def retire(self, worker: Worker, state: State) -> None:
        """A worker gets no more work."""
        self.usable -= worker.usable
        worker.state = state
        self.idle.pop(worker.id, None)

    def remove(self, worker: Worker) -> None:
        """A worker is gone."""
        self.retire(worker, State.DYING)
        del self.all[worker.id]

    def free(self) -> Worker | None:
        """A worker that holds nothing: the one that was busy last, whose caches are warm."""
        return next(reversed(self.idle.values())) if self.idle else None

    def hold(self, worker: Worker, chunk: Chunk) -> None:
        """A worker is given a chunk."""
        chunk.surplus = len(chunk) > 1 or len(worker.chunks) > 0
        self.surplus += chunk.surplus
        worker.chunks.append(chunk)
        worker.assigned += len(chunk)
        self.idle.pop(worker.id, None)

    def pin(self, chunk: Chunk) -> None:
        """Nothing of a chunk can be taken back any more."""
        self.surplus -= chunk.surplus
        chunk.surplus = False

    def drop(self, worker: Worker, chunk: Chunk) -> None:
        """A worker holds a chunk no more."""
        worker.chunks.remove(chunk)
        self.surplus -= chunk.surplus


class Remains(NamedTuple):
    """What a death leaves of a chunk, as indices of its job.

    `struck`: items that had started; they are lost. `unread`: the one item at whose unpickling the
    worker died. `back`: items that had not started. `alone`: one of those may have been the cause, so
    each has to go into a chunk of its own.
    """

    struck: range
    unread: int | None
    back: range
    alone: bool = False


def remains(chunk: Chunk, place: Place | None) -> Remains:
    """Tell what had become of the items of `chunk` when its worker died at `place`."""
    first = chunk.start + chunk.received
    nothing = range(0)
    if place is None or chunk.id > place.chunk:
        return Remains(nothing, None, range(first, chunk.stop))
    if chunk.id < place.chunk:
        return Remains(range(first, chunk.stop), None, nothing)
    if place.position == LOADING:
        if len(chunk) == 1:
            return Remains(nothing, chunk.start, nothing)
        return Remains(nothing, None, range(first, chunk.stop), alone=True)
    behind = min(chunk.stop, chunk.start + place.position + 1)
    return Remains(range(first, behind), None, range(max(first, behind), chunk.stop))
