"""Runs tasks in the calling thread, one after the other: for debuggers, profilers and small inputs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
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
from .base import Crew, Setup, Work, caller

#: Results are handed on when so many seconds have passed.
_PAUSE = 0.005


class SerialEngine:
    """Runs tasks in this process and thread.

    A breakpoint in a task works, a profiler sees it, and nothing is pickled. Nothing can stop a task
    from outside here: `task_timeout` and `memory_limit` have no effect, and `timeout` ends the call
    after the item that was running.

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
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._works: dict[int, Work] = {}
        self._starting: deque[int] = deque()
        self._chunks: deque[tuple[int, Chunk]] = deque()
        self._position = 0  # in the first chunk
        self._events: list[Event] = []
        self._awake = threading.Event()

    def register(self, job: int, work: Work) -> None:
        self._works[job] = work

    def forget(self, job: int) -> None:
        self._works.pop(job, None)

    def start(self, worker: int) -> None:
        self._starting.append(worker)

    def run(self, worker: int, chunk: Chunk) -> None:
        self._chunks.append((worker, chunk))
        self._awake.set()

    def stop(self, worker: int) -> None:
        self._events.append(WorkerDied(worker, Death(None, 0, None, None)))

    def kill(self, worker: int, *, force: bool) -> None:
        if not force:
            self._chunks = deque(entry for entry in self._chunks if entry[0] != worker)
            self._position = 0
            self._events.append(WorkerDied(worker, Death(None, None, None, None)))

    def observe(self, worker: int) -> Event:
        return Observed(worker, None)

    def peek(self, worker: int) -> None:
        pass  # nothing runs while the driver asks

    def revoke(self, worker: int) -> Event:
        # Nothing runs while the driver asks, so nothing that is behind the results so far starts any more.
        if not self._chunks:
            return Revoked(worker, None)
        chunk = self._chunks[0][1]
        place = Place(chunk.id, self._position - 1, 0.0)
        self._chunks.clear()
        self._position = 0
        if place.position < 0:
            place = Place(chunk.id - 1, 0, 0.0)
        return Revoked(worker, place)

    def measure(self, worker: int) -> Event:
        return Measured(worker, 0)

    def wait(self, timeout: float | None) -> Any:
        if self._starting:
            return self._initialize(self._starting.popleft())
        if self._chunks:
            return self._run_some(*self._chunks[0])
        if not self._events:
            self._awake.wait(timeout)
        self._awake.clear()
        return None

    def _initialize(self, worker: int) -> Event:
        if self._setup.initializer is None:
            return WorkerReady(worker)
        try:
            self._setup.initializer(*self._setup.initargs)
        except Exception as error:
            return StartFailed(worker, error)
        return WorkerReady(worker)

    def _run_some(self, worker: int, chunk: Chunk) -> Event:
        work = self._works[chunk.job]
        call = caller(work.function, work.style)
        first = self._position
        values: list[Any] = []
        failures: dict[int, BaseException] = {}
        begin = now = time.monotonic()
        while first + len(values) < len(chunk) and now - begin < _PAUSE and not failures:
            self._run_one(call, work.item(chunk.start + first + len(values)), values, failures)
            now = time.monotonic()
        return Results(worker, chunk.id, first, values, failures or None, now - begin)

    @staticmethod
    def _run_one(
        call: Callable[[Any], Any],
        item: object,
        values: list[Any],
        failures: dict[int, BaseException],
    ) -> None:
        try:
            value = call(item)
        except KeyboardInterrupt:
            raise  # the user's own Ctrl-C, as this is his thread
        except BaseException as error:
            failures[len(values)] = error
            value = None
        values.append(value)

    def collect(self, happened: Any) -> list[Event]:
        events, self._events = self._events, []
        if happened:
            if isinstance(happened, Results):
                self._position += len(happened.values)
                if self._chunks and self._position >= len(self._chunks[0][1]):
                    self._chunks.popleft()
                    self._position = 0
            events.append(happened)
        return events

    def wake(self) -> None:
        self._awake.set()

    def close(self) -> None:
        self._chunks.clear()
