"""Runs tasks in threads of this process: for work that waits, or that lets go of the GIL."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..scheduler import (
    Chunk,
    Death,
    Event,
    Measured,
    Observed,
    Place,
    Results,
    Revoked,
    StartFailed,
    StoppedShort,
    WorkerDied,
    WorkerReady,
)
from .base import Crew, Setup, Work, caller, tamed
from .usage import Usage, Use

#: Results are handed on when so many seconds have passed.
_PAUSE = 0.005
#: How long to wait for a thread that has nothing more to do, in seconds.
_JOIN_SECONDS = 5.0


class ThreadsEngine:
    """Runs tasks in threads.

    Nothing is pickled. A thread cannot be killed: where `task_timeout`, `timeout` or a cancel ends its
    task, the caller gets the error and another thread takes over, and the old one goes on unseen
    until its task returns. `memory_limit` has no effect, as threads share their memory.

    A task may hand in more work to its own pool, but should not wait for it: where all workers do so, none
    is left for the work, and they wait for ever. Give such tasks a second pool.

    >>> import parallelkit
    >>> parallelkit.pool_map(abs, [-1, 2], engine="threads")
    [1, 2]
    """

    name = "threads"
    most_workers: int | None = None

    def open(self, setup: Setup) -> Crew:
        """Make a crew that has no worker yet."""
        return _ThreadCrew(setup)

    def __repr__(self) -> str:
        return "ThreadsEngine()"


@dataclass(slots=True)
class _Batch:
    """Outcomes of the items of a chunk from position `first` on, to which the thread adds."""

    chunk: int
    first: int
    values: list[Any] = field(default_factory=list)
    failures: dict[int, BaseException] = field(default_factory=dict)


class _Member:
    """One thread, and the place where it is."""

    def __init__(self, worker: int, crew: _ThreadCrew) -> None:
        self.worker = worker
        self.inbox: queue.SimpleQueue[tuple[Chunk, Work] | None] = queue.SimpleQueue()
        self.place: Place | None = None
        self.revoked = 0
        self.last_chunk = 0
        self.abandoned = False
        self.use = Use()
        self.up = 0.0  # as in the status page of a process
        self.worked = 0.0
        self._batch: _Batch | None = None  # the one under way
        self._lock = threading.Lock()
        self._crew = crew
        name = f"{crew.setup.name}-thread-{worker}"
        self.thread = threading.Thread(target=self._live, name=name, daemon=True)

    def revoke(self) -> Place:
        """Take back what has not started; return the place behind which nothing starts any more."""
        with self._lock:
            self.revoked = self.last_chunk
            return self.place or Place(0, 0, 0.0)

    def _live(self) -> None:
        setup = self._crew.setup
        if setup.initializer is not None:
            try:
                setup.initializer(*setup.initargs)
            except BaseException as error:
                self._crew.post(self, StartFailed(self.worker, tamed(error)))
                return
        self.up = time.monotonic()
        self._crew.post(self, WorkerReady(self.worker))
        while (entry := self.inbox.get()) is not None and not self.abandoned:
            self.worked -= time.monotonic()
            self._run(*entry)
            self.worked += time.monotonic()
        self._crew.post(self, WorkerDied(self.worker, Death(None, 0, None, self.place)))

    def _may_start(self, chunk: Chunk, position: int, now: float) -> bool:
        with self._lock:
            if self.revoked >= chunk.id:
                return False
            self.place = Place(chunk.id, position, now)
            return True

    def _run(self, chunk: Chunk, work: Work) -> None:
        call = caller(work.function, work.style)
        batch = self._batch = _Batch(chunk.id, 0)
        now = since = time.monotonic()
        for position, item in enumerate(work.items(chunk.start, chunk.stop)):
            if batch.values and (chunk.eager or now - since >= _PAUSE):
                self._post(batch, now - since)
                batch = self._batch = _Batch(chunk.id, position)
                since = now
            if not self._may_start(chunk, position, now):
                self._post(batch, now - since)
                self._crew.post(self, StoppedShort(self.worker, chunk.id, position))
                return
            try:
                batch.values.append(call(item))
            except BaseException as error:
                batch.failures[len(batch.values)] = tamed(error)
                batch.values.append(None)
            now = time.monotonic()
        self._post(batch, now - since)

    def _post(self, batch: _Batch, seconds: float | None) -> None:
        if batch.values:
            event = Results(
                self.worker, batch.chunk, batch.first, batch.values, batch.failures or None, seconds
            )
            self._crew.post(self, event)

    def see(self) -> Use:
        """What was used until now."""
        self.use.see(self.up, self.worked, time.monotonic())
        return self.use

    def peek(self) -> None:
        """Post a copy of what was done and not posted yet. Called in the driver's thread."""
        batch = self._batch
        if batch is not None:
            values = list(batch.values)  # a failure is noted before it takes its place in the values
            failures = {at: error for at, error in list(batch.failures.items()) if at < len(values)}
            self._post(_Batch(batch.chunk, batch.first, values, failures), None)


class _ThreadCrew:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._works: dict[int, Work] = {}
        self._members: dict[int, _Member] = {}
        #: What happened, in its order. Only `collect` takes out of it: who has waited may be struck before.
        self._events: deque[tuple[_Member, Event]] = deque()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ending: list[threading.Thread] = []
        self._gone = Usage()

    def post(self, member: _Member, event: Event) -> None:
        """Called in a worker's thread: something happened there."""
        if not member.abandoned:
            self._add(member, event)

    def _add(self, member: _Member, event: Event) -> None:
        self._events.append((member, event))
        self._news.put(None)

    def register(self, job: int, work: Work) -> None:
        self._works[job] = work

    def forget(self, job: int) -> None:
        self._works.pop(job, None)

    def start(self, worker: int) -> None:
        member = _Member(worker, self)
        self._members[worker] = member
        try:
            member.thread.start()
        except RuntimeError as error:
            member.abandoned = True
            self._add(member, StartFailed(worker, error, no_room=True))

    def run(self, worker: int, chunk: Chunk) -> None:
        member = self._members.get(worker)
        if member is not None:
            member.last_chunk = chunk.id
            member.inbox.put((chunk, self._works[chunk.job]))

    def stop(self, worker: int) -> None:
        if worker in self._members:
            self._members[worker].inbox.put(None)

    def kill(self, worker: int, *, force: bool) -> None:
        member = self._members.get(worker)
        if member is None or member.abandoned:
            return
        place = member.revoke()
        member.abandoned = True
        member.inbox.put(None)
        death = Death(None, None, None, place if place.chunk else None)
        self._add(member, WorkerDied(worker, death))

    def observe(self, worker: int) -> Event:
        member = self._members.get(worker)
        return Observed(worker, member.place if member else None)

    def peek(self, worker: int) -> None:
        if worker in self._members:
            self._members[worker].peek()

    def revoke(self, worker: int) -> Event:
        member = self._members.get(worker)
        return Revoked(worker, member.revoke() if member else None)

    def measure(self, worker: int) -> Event:
        return Measured(worker, 0)

    def wait(self, timeout: float | None) -> Any:
        with contextlib.suppress(queue.Empty):
            if not self._events:
                self._news.get(timeout=None if timeout is None else max(0.0, timeout))
            while True:
                self._news.get_nowait()
        return self._events

    def collect(self, happened: Any) -> list[Event]:
        events: list[Event] = []
        for _ in range(len(happened)):  # and no more: threads go on adding to them
            member: _Member
            member, event = happened.popleft()
            if self._members.get(member.worker) is not member:
                continue
            if isinstance(event, (WorkerDied, StartFailed)):
                del self._members[member.worker]
                self._gone.bury(member.see())
                if not member.abandoned:
                    self._ending.append(member.thread)
            events.append(event)
        return events

    def usage(self) -> Usage:
        return self._gone.with_living(member.see() for member in self._members.values())

    def wake(self) -> None:
        self._news.put(None)

    def release(self) -> None:
        pass

    def close(self) -> None:
        for member in self._members.values():
            member.abandoned = True
            member.inbox.put(None)
            self._gone.bury(member.see())
        for thread in self._ending:
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)
        self._members.clear()
