"""Runs tasks in the calling thread, one after the other: for debuggers, profilers and small inputs."""

from __future__ import annotations

import threading
import time
from collections import deque
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
    WorkerDied,
    WorkerReady,
)
from .base import Crew, Setup, Work, caller, tamed
from .usage import Usage, Use

#: Results are handed on when so many seconds have passed.
_PAUSE = 0.005


class SerialEngine:
    """Runs tasks in this process and thread.

    A breakpoint in a task works, a profiler sees it, and nothing is pickled. Nothing can stop a task
    from outside here: `task_timeout` and `memory_limit` have no effect, and `timeout` ends the call
    after the item that was running. An item that a KeyboardInterrupt has struck counts as run. A task
    that waits for its own pool gets a RuntimeError, as nobody is left to do that work.

    >>> import parallelkit
    >>> parallelkit.pool_map(abs, [-1, 2], engine="serial")
    [1, 2]
    """

    name = "serial"
    most_workers: int | None = 1

    def open(self, setup: Setup) -> Crew:
        """Make a crew that has no worker yet."""
        return _SerialCrew(setup)

    def __repr__(self) -> str:
        return "SerialEngine()"


class _SerialCrew:
    """The one worker, which lives in the thread that drives.

    That thread may get a KeyboardInterrupt between any two steps, and other threads may cancel and
    submit while it runs a task. So an item counts as started before it is called, under a lock, and what
    is under way is noted here and not in a local variable: `_settle` makes its events of that.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._works: dict[int, Work] = {}
        self._alive: set[int] = set()
        self._starting: deque[int] = deque()
        self._chunks: deque[tuple[int, Chunk]] = deque()
        self._started = (0, 0)  # which chunk came last, and how many items of it have started
        self._batch: Results | None = None  # outcomes of that chunk that are no event yet
        self._runs_in = 0  # the thread that is in `wait`
        self._worked = 0.0  # as in the status page of a process
        self._use = Use()
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._awake = threading.Event()

    def register(self, job: int, work: Work) -> None:
        self._works[job] = work

    def forget(self, job: int) -> None:
        self._works.pop(job, None)

    def start(self, worker: int) -> None:
        self._alive.add(worker)
        self._starting.append(worker)

    def run(self, worker: int, chunk: Chunk) -> None:
        self._chunks.append((worker, chunk))
        self._awake.set()

    def stop(self, worker: int) -> None:
        self._end(worker, Death(None, 0, None, None))

    def kill(self, worker: int, *, force: bool) -> None:
        if not force:
            self._end(worker, Death(None, None, None, self._take_back()))

    def _end(self, worker: int, death: Death) -> None:
        if worker in self._alive:
            self._alive.discard(worker)
            self._events.append(WorkerDied(worker, death))
            self._awake.set()

    def _take_back(self) -> Place | None:
        """Drop all chunks; return the place behind which nothing starts any more."""
        with self._lock:
            if not self._chunks:
                return None
            chunk = self._chunks[0][1]
            self._chunks.clear()
            started = self._started_of(chunk)
            return Place(chunk.id, started - 1, 0.0) if started else Place(chunk.id - 1, 0, 0.0)

    def _started_of(self, chunk: Chunk) -> int:
        number, started = self._started
        return started if number == chunk.id else 0

    def observe(self, worker: int) -> Event:
        return Observed(worker, None)

    def peek(self, worker: int) -> None:
        pass  # results are handed on by time, and nothing can be read in the midst of an item

    def revoke(self, worker: int) -> Event:
        return Revoked(worker, self._take_back())

    def measure(self, worker: int) -> Event:
        return Measured(worker, 0)

    def wait(self, timeout: float | None) -> Any:
        me = threading.get_ident()
        if self._runs_in == me:
            raise RuntimeError(
                "a task of the serial engine waits for its own pool, which would wait for that task: give "
                "it a second pool, or take the result when the task is over"
            )
        self._settle()  # what a KeyboardInterrupt has left
        try:
            self._runs_in = me
            if self._starting:
                self._initialize(self._starting.popleft())
            elif self._chunks:
                self._run_some()
            elif not self._events:
                self._awake.wait(timeout)
            self._awake.clear()
        finally:
            self._runs_in = 0
            self._settle()

    def _initialize(self, worker: int) -> None:
        try:
            if self._setup.initializer is not None:
                self._setup.initializer(*self._setup.initargs)
        except BaseException as error:
            if worker in self._alive:
                self._alive.discard(worker)
                self._take_back()  # the scheduler gives them to the next worker
                self._events.append(StartFailed(worker, tamed(error)))
            if issubclass(type(error), KeyboardInterrupt):
                raise  # the user's own Ctrl-C, as this is his thread
        else:
            if worker in self._alive:
                self._events.append(WorkerReady(worker))

    def _run_some(self) -> None:
        with self._lock:
            if not self._chunks:
                return
            worker, chunk = self._chunks[0]
            first = self._started_of(chunk)
            self._started = chunk.id, first
            batch = self._batch = Results(worker, chunk.id, first, [], None, None)
        work = self._works[chunk.job]
        call = caller(work.function, work.style)
        begin = now = time.monotonic()
        self._worked -= begin
        while now - begin < _PAUSE and not batch.failures and self._may_start(chunk):
            try:
                value = call(work.item(chunk.start + first + len(batch.values)))
            except BaseException as error:
                batch.failures = {len(batch.values): tamed(error)}
                if issubclass(type(error), KeyboardInterrupt):
                    raise  # the user's own Ctrl-C, as this is his thread
                value = None
            batch.values.append(value)
            now = time.monotonic()
        batch.seconds = now - begin

    def _may_start(self, chunk: Chunk) -> bool:
        with self._lock:
            if not self._chunks or self._chunks[0][1] is not chunk:
                return False  # taken back by another thread
            started = self._started_of(chunk)
            if started >= len(chunk):
                return False
            self._started = chunk.id, started + 1
            return True

    def _settle(self) -> None:
        """Make an event of the outcomes that there are. Once more does no harm: the scheduler knows them."""
        if self._worked < 0:
            self._worked += time.monotonic()
        batch = self._batch
        if batch is None:
            return
        if self._started[1] > batch.first + len(batch.values):
            batch.failures = batch.failures or {len(batch.values): KeyboardInterrupt()}
            batch.values.append(None)
        if batch.values and batch.worker in self._alive:
            self._events.append(batch)
        with self._lock:
            if self._chunks and self._started_of(self._chunks[0][1]) >= len(self._chunks[0][1]):
                self._chunks.popleft()
        self._batch = None

    def collect(self, happened: Any) -> list[Event]:
        events: list[Event] = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def usage(self) -> Usage:
        # The worker is whoever waits for results: it is never up and without work.
        now = time.monotonic()
        self._use.see(now, self._worked, now)
        return Usage(busy=self._use.busy)

    def wake(self) -> None:
        self._awake.set()

    def release(self) -> None:
        pass

    def close(self) -> None:
        with self._lock:
            self._chunks.clear()
