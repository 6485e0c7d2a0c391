"""The scheduler against a model of workers: whatever happens, each item gets exactly one outcome."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelkit import scheduler as s
from parallelkit.errors import (
    CallTimeoutError,
    ClosedError,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
)


class FakeWorker:
    """A worker as the protocol has it: chunks in turn, items in turn, a place, a revoked mark."""

    def __init__(self) -> None:
        self.chunks: deque[s.Chunk] = deque()
        self.stops: deque[int] = deque()  # how long each chunk was when it was sent
        self.position = 0
        self.place: s.Place | None = None
        self.running = False
        self.revoked = 0
        self.last = 0
        self.stopping = False
        self.unsent: s.Results | None = None


class World:
    """Workers, a clock and callers, all made up."""

    def __init__(self, data: st.DataObject, machine: s.Scheduler, inputs: dict[int, int | None]) -> None:
        self.data = data
        self.machine = machine
        self.now = 0.0
        self.workers: dict[int, FakeWorker] = {}
        self.left = inputs  # items that the lazy input of a job still has
        self.draws: deque[s.Draw] = deque()
        self.outcomes: dict[int, list[tuple[int, Any]]] = {}
        self.finished: dict[int, BaseException | None] = {}
        self.runs: Counter[tuple[int, int]] = Counter()
        self.drawn: Counter[int] = Counter()
        self.most_started = 0
        self.prompt = False  # workers send each result at once
        self.starts = 0
        self.lost = 0
        self._counted = replace(machine.counters)

    # The engine's part

    def carry_out(self) -> None:
        while commands := self.machine.commands():
            for command in commands:
                self.carry(command)

    def tell(self, event: s.Event) -> None:
        self.machine.handle(event, self.now)
        self.carry_out()
        self.check_counters()

    def check_counters(self) -> None:
        """Whatever happens, none of them falls, and no task is counted twice."""
        before, now = self._counted, replace(self.machine.counters)
        for counter in fields(now):
            assert getattr(before, counter.name) <= getattr(now, counter.name), counter.name
        assert now.done + now.failed + now.dropped <= now.handed_in
        delivered = sum(map(len, self.outcomes.values()))
        assert delivered <= now.done + now.failed  # what waits for its turn is not delivered yet
        if not self.machine.jobs:
            assert now.done + now.failed + now.dropped == now.handed_in
        assert (now.started, now.lost) == (self.starts, self.lost)
        self._counted = now

    def carry(self, command: s.Command) -> None:
        match command:
            case s.StartWorker(worker=number):
                self.workers[number] = FakeWorker()
                self.starts += 1
                self.most_started = max(self.most_started, len(self.workers))
            case s.RunChunk(worker=number, chunk=chunk):
                worker = self.workers.get(number)
                if worker is not None:
                    worker.chunks.append(chunk)
                    worker.stops.append(len(chunk))
                    worker.last = chunk.id
            case s.StopWorker(worker=number):
                self.workers[number].stopping = True
            case s.Kill(worker=number):
                if number in self.workers:
                    self.die(number, signal=15, expected=True)
            case s.Observe(worker=number):
                worker = self.workers.get(number)
                self.machine.handle(s.Observed(number, worker.place if worker else None), self.now)
            case s.Peek(worker=number):
                self.peek(number)
            case s.Revoke(worker=number):
                worker = self.workers.get(number)
                if worker is None:
                    self.machine.handle(s.Revoked(number, None), self.now)
                    return
                worker.revoked = worker.last
                place = worker.place or s.Place(0, 0, 0.0)
                self.machine.handle(s.Revoked(number, place), self.now)
            case s.Measure(worker=number):
                self.machine.handle(s.Measured(number, 0), self.now)
            case s.Draw():
                self.draws.append(command)
            case s.Hasten(job=job):
                draw = next(draw for draw in self.draws if draw.job == job)
                left = self.left[job]
                most = draw.count - 1 if left is None else min(draw.count - 1, left)
                count = self.data.draw(st.integers(0, most))
                if count:
                    draw.count -= count
                    if left is not None:
                        self.left[job] = left - count
                    self.drawn[job] += count
                    self.machine.handle(s.ItemsReady(job, count, False, under_way=True), self.now)
            case s.Deliver(job=job, start=start, values=values, failures=failures):
                assert job not in self.finished
                for at, value in enumerate(values):
                    self.outcomes.setdefault(job, []).append((start + at, (failures or {}).get(at, value)))
            case s.Finish(job=job, exception=exception):
                assert job not in self.finished
                self.finished[job] = exception
            case s.Broken():
                pass

    def peek(self, number: int) -> None:
        worker = self.workers.get(number)
        if worker is not None and worker.unsent is not None:
            batch = worker.unsent
            values, failures = [*batch.values], {**(batch.failures or {})}
            copy = s.Results(batch.worker, batch.chunk, batch.first, values, failures, None)
            self.machine.handle(copy, self.now)

    # What may happen

    def die(self, number: int, signal: int = 9, *, expected: bool = False) -> None:
        worker = self.workers.pop(number)
        self.lost += not (expected or worker.stopping)
        if worker.unsent is not None:
            self.machine.handle(worker.unsent, self.now)
        self.machine.handle(s.WorkerDied(number, s.Death(number, -signal, signal, worker.place)), self.now)

    def begin_item(self, number: int) -> None:
        """The worker starts its next item, or sees that it is not to."""
        worker = self.workers[number]
        if worker.running or not worker.chunks:
            return
        chunk = worker.chunks[0]
        if worker.revoked >= chunk.id:
            worker.chunks.popleft()
            worker.stops.popleft()
            position, worker.position = worker.position, 0
            self.send(number)
            self.tell(s.StoppedShort(number, chunk.id, position))
            return
        worker.running = True
        worker.place = s.Place(chunk.id, worker.position, self.now)
        self.runs[chunk.job, chunk.start + worker.position] += 1

    def end_item(self, number: int, error: BaseException | None = None) -> None:
        worker = self.workers[number]
        if not worker.running:
            return
        worker.running = False
        chunk, position = worker.chunks[0], worker.position
        worker.position += 1
        worker.place = s.Place(chunk.id, worker.position, self.now)
        if worker.position >= worker.stops[0]:
            worker.chunks.popleft()
            worker.stops.popleft()
            worker.position = 0
        if worker.unsent is None:
            worker.unsent = s.Results(number, chunk.id, position, [], {}, 0.001)
        if error is not None:
            worker.unsent.failures = {**(worker.unsent.failures or {}), len(worker.unsent.values): error}
        worker.unsent.values.append(chunk.start + position)
        over = worker.position == 0
        if over or self.prompt or self.data.draw(st.booleans(), label="send now"):
            self.send(number)

    def send(self, number: int) -> None:
        worker = self.workers[number]
        if worker.unsent is not None:
            event, worker.unsent = worker.unsent, None
            self.tell(event)

    def draw(self) -> None:
        command = self.draws.popleft()
        left = self.left[command.job]
        count = command.count if left is None else min(command.count, left)
        if left is not None:
            self.left[command.job] = left - count
        self.drawn[command.job] += count
        self.tell(s.ItemsReady(command.job, count, self.left[command.job] == 0))

    def step(self, *, faults: bool) -> None:
        """One thing that may happen, chosen by hypothesis."""
        choices = ["tick"]
        busy = [n for n, w in self.workers.items() if w.chunks]
        stopping = [n for n, w in self.workers.items() if w.stopping and not w.chunks]
        if self.draws:
            choices.append("draw")
        if busy:
            choices += ["begin", "end", "both", "both"]
            if faults:
                choices += ["fail", "die"]
        if stopping:
            choices.append("leave")
        choice = self.data.draw(st.sampled_from(choices))
        if choice == "tick":
            self.now += self.data.draw(st.sampled_from([0.001, 0.01, 0.3]))
            self.tell(s.Tick())
        elif choice == "draw":
            self.draw()
        elif choice == "leave":
            self.die(stopping[0], signal=0)
            self.carry_out()
        else:
            number = self.data.draw(st.sampled_from(busy))
            if choice in ("begin", "both", "fail"):
                self.begin_item(number)
            if choice == "die":
                self.die(number)
                self.carry_out()
            elif choice != "begin" and number in self.workers:
                self.end_item(number, ValueError("no") if choice == "fail" else None)

    def drain(self) -> None:
        """Nothing but good happens any more: all has to come to its end."""
        self.prompt = True
        for _ in range(10_000):
            if not self.machine.jobs:
                return
            self.now += 0.002
            self.tell(s.Tick())
            while self.draws:
                self.draw()
            for number in list(self.workers):
                if number in self.workers:
                    self.begin_item(number)
                if number in self.workers:
                    self.end_item(number)
                if number in self.workers and self.workers[number].stopping:
                    self.die(number, signal=0)
                    self.carry_out()
            for job, outcomes in self.outcomes.items():
                self.tell(s.Consumed(job, len(outcomes)))
        pytest.fail(f"hangs: {self.machine.jobs} jobs, {self.machine.workers} workers")


JOBS = st.builds(
    s.JobSpec,
    size=st.integers(1, 40),
    at_hand=st.booleans(),
    chunksize=st.none() | st.integers(1, 7),
    ordered=st.booleans(),
    retries=st.integers(0, 2),
    task_timeout=st.none() | st.just(0.2),
    stop_on_failure=st.just(False),
)


@settings(max_examples=150)
@given(
    data=st.data(),
    specs=st.lists(JOBS, min_size=1, max_size=3),
    workers=st.integers(1, 4),
    most_tasks=st.none() | st.integers(1, 5),
)
def test_each_item_gets_exactly_one_outcome(
    data: st.DataObject, specs: list[s.JobSpec], workers: int, most_tasks: int | None
) -> None:
    machine = s.Scheduler(workers, max_tasks_per_child=most_tasks)
    world = World(data, machine, {number: spec.size for number, spec in enumerate(specs, 1)})
    for spec in specs:
        machine.submit(spec, world.now)
    world.carry_out()
    for _ in range(data.draw(st.integers(0, 60))):
        world.step(faults=True)
    world.drain()

    # Those that are being ended do not count: nobody waits for them.
    for number, spec in enumerate(specs, 1):
        indices = [index for index, _ in world.outcomes.get(number, [])]
        if world.finished[number] is not None:
            assert isinstance(world.finished[number], WorkerInitError)
            assert len(set(indices)) == len(indices)
            continue
        assert sorted(indices) == list(range(spec.size or 0))
        if spec.ordered:
            assert indices == sorted(indices)
        for index, value in world.outcomes[number]:
            assert value == index or isinstance(value, (ValueError, WorkerDiedError, TaskTimeoutError))
        for index in range(spec.size or 0):
            assert world.runs[number, index] <= 1 + spec.retries
    assert machine.jobs == 0
    if not any(world.finished.values()):
        outcomes = [value for outcomes in world.outcomes.values() for _, value in outcomes]
        errors = [value for value in outcomes if isinstance(value, BaseException)]
        counters = machine.counters
        assert counters.handed_in == sum(spec.size or 0 for spec in specs)
        assert (counters.done, counters.failed) == (len(outcomes) - len(errors), len(errors))
        assert counters.dropped == 0
        # Each run has ended in one of these; a failure that is none was that of an item not begun.
        assert world.runs.total() <= counters.done + counters.failed + counters.retried


@settings(max_examples=100)
@given(
    data=st.data(),
    buffersize=st.integers(1, 20),
    ordered=st.booleans(),
    workers=st.integers(1, 3),
)
def test_an_endless_input_stays_within_the_buffer(
    data: st.DataObject, buffersize: int, ordered: bool, workers: int
) -> None:
    machine = s.Scheduler(workers)
    world = World(data, machine, {1: None})
    spec = s.JobSpec(size=None, ordered=ordered, streaming=True, buffersize=buffersize, stop_on_failure=False)
    job = machine.submit(spec, 0.0)
    world.carry_out()
    consumed = 0
    for _ in range(80):
        world.step(faults=False)
        ready = len(world.outcomes.get(job, [])) - consumed
        assert world.drawn[job] - consumed <= buffersize
        if ready and data.draw(st.booleans()):
            consumed += ready
            world.tell(s.Consumed(job, ready))
    world.tell(s.Cancel(job))
    world.drain()
    indices = [index for index, _ in world.outcomes.get(job, [])]
    assert len(set(indices)) == len(indices)
    if ordered:
        assert indices == list(range(len(indices)))
    assert job in world.finished


@settings(max_examples=100)
@given(
    data=st.data(), spec=JOBS, workers=st.integers(1, 3), way=st.sampled_from(["cancel", "timeout", "all"])
)
def test_a_call_can_be_ended_at_any_time(
    data: st.DataObject, spec: s.JobSpec, workers: int, way: str
) -> None:
    machine = s.Scheduler(workers)
    timeout = 5.0 if way == "timeout" else None
    spec = s.JobSpec(
        spec.size, spec.at_hand, chunksize=spec.chunksize, timeout=timeout, stop_on_failure=False
    )
    world = World(data, machine, {1: spec.size})
    machine.submit(spec, 0.0)
    world.carry_out()
    for _ in range(data.draw(st.integers(0, 30))):
        world.step(faults=True)
    over = 1 in world.finished
    if way == "cancel":
        world.tell(s.Cancel(1, ClosedError("enough")))
    elif way == "all":
        machine.end_all(ClosedError("enough"), world.now)
        world.carry_out()
    else:
        world.now += 10
        world.tell(s.Tick())
    world.drain()
    if not over and way != "timeout":
        assert isinstance(world.finished[1], (ClosedError, WorkerInitError))
    elif not over:
        assert isinstance(world.finished[1], (CallTimeoutError, WorkerInitError))


def test_results_that_leave_some_out_are_refused() -> None:
    """They would be handed out as those of other items."""
    machine = s.Scheduler(1)
    machine.submit(s.JobSpec(size=4, at_hand=True, chunksize=4), 0.0)
    start, run = machine.commands()
    assert isinstance(start, s.StartWorker)
    assert isinstance(run, s.RunChunk)
    machine.handle(s.Results(start.worker, run.chunk.id, 0, [0], None, None), 0.0)
    with pytest.raises(RuntimeError, match="results of 1 items are missing"):
        machine.handle(s.Results(start.worker, run.chunk.id, 2, [2, 3], None, None), 0.0)


def test_a_death_costs_the_item_that_ran_and_no_other() -> None:
    machine = s.Scheduler(1)
    machine.submit(s.JobSpec(size=4, at_hand=True, chunksize=4, stop_on_failure=False), 0.0)
    start, run = machine.commands()
    assert isinstance(start, s.StartWorker)
    assert isinstance(run, s.RunChunk)
    machine.handle(s.Results(1, run.chunk.id, 0, ["a"], None, 0.1), 0.1)
    machine.handle(s.WorkerDied(1, s.Death(9, -9, 9, s.Place(run.chunk.id, 1, 0.1))), 0.2)
    deliveries = [c for c in machine.commands() if isinstance(c, s.Deliver)]
    assert [(d.start, d.values) for d in deliveries] == [(0, ["a"]), (1, [None])]
    error = (deliveries[1].failures or {})[0]
    assert isinstance(error, WorkerDiedError)
    assert (error.index, error.pid, error.signal, error.started) == (1, 9, 9, True)


@pytest.mark.parametrize("at_hand", [True, False])
def test_short_items_go_together_and_long_ones_alone_with_a_chunksize_of_one(at_hand: bool) -> None:
    machine = s.Scheduler(1)
    size = 1000 if at_hand else None
    job = machine.submit(s.JobSpec(size=size, at_hand=at_hand, chunksize=1, stop_on_failure=False), 0.0)
    if not at_hand:
        machine.handle(s.ItemsReady(job, 1000, exhausted=False), 0.0)
    chunks: deque[s.RunChunk] = deque()
    lengths: list[int] = []
    for seconds in [0.0001] * 3 + [1.0] * 4:
        chunks += [command for command in machine.commands() if isinstance(command, s.RunChunk)]
        run = chunks.popleft()
        count = len(run.chunk)
        lengths.append(count)
        machine.handle(s.Results(run.worker, run.chunk.id, 0, [None] * count, None, seconds * count), 0.0)
    assert lengths[0] == 1
    assert max(lengths) > 10
    assert lengths[-1] == 1


def test_starts_that_always_fail_end_all_calls() -> None:
    machine = s.Scheduler(1)
    machine.submit(s.JobSpec(size=2, at_hand=True), 0.0)
    starts = 0
    while starts < 10 and (started := [c for c in machine.commands() if isinstance(c, s.StartWorker)]):
        starts += 1
        machine.handle(s.StartFailed(started[0].worker, ZeroDivisionError()), 0.1)
    assert starts == 3
    assert isinstance(machine.broken, WorkerInitError)
    assert isinstance(machine.broken.__cause__, ZeroDivisionError)
    assert machine.jobs == 0


def _refuse(machine: s.Scheduler, worker: int, now: float) -> None:
    """There is no room for that worker."""
    machine.handle(s.StartFailed(worker, OSError(24, "full"), no_room=True), now)


def _tick(machine: s.Scheduler) -> float:
    """Let the next thing come whose time is set; return that time."""
    now = machine.wake_at()
    assert now is not None
    machine.handle(s.Tick(), now)
    return now


@pytest.mark.parametrize("max_workers", [1, 2, 3])
def test_no_room_for_a_worker_ends_the_calls_there_are_and_not_the_pool(max_workers: int) -> None:
    machine = s.Scheduler(max_workers)
    now = 0.0
    for _ in range(2):
        machine.submit(s.JobSpec(size=3, at_hand=True), now)
        finished: list[s.Finish] = []
        starts = 0
        while not finished:
            assert starts <= 3 * max_workers
            commands = machine.commands()
            finished = [c for c in commands if isinstance(c, s.Finish)]
            for start in (c for c in commands if isinstance(c, s.StartWorker)):
                starts += 1
                _refuse(machine, start.worker, now)
            now = machine.wake_at() or now
            machine.handle(s.Tick(), now)
        assert starts == 3 * max_workers
        assert isinstance(finished[0].exception, WorkerInitError)
        assert isinstance(finished[0].exception.__cause__, OSError)
    assert machine.broken is None


def test_no_room_beside_workers_that_die_while_they_start_breaks_the_pool() -> None:
    machine = s.Scheduler(2)
    machine.submit(s.JobSpec(size=2, at_hand=True), 0.0)
    now, starts = 0.0, 0
    while machine.jobs:
        commands = machine.commands()
        assert commands or machine.wake_at() is not None
        for start in (c for c in commands if isinstance(c, s.StartWorker)):
            starts += 1
            assert starts <= 6
            if starts % 2:
                _refuse(machine, start.worker, now)
            else:
                machine.handle(s.WorkerDied(start.worker, s.Death(1, 1, None, None)), now)
        now = machine.wake_at() or now
        machine.handle(s.Tick(), now)
    assert isinstance(machine.broken, WorkerInitError)


@pytest.mark.parametrize(("max_workers", "room"), [(2, 1), (3, 2), (4, 3), (8, 6)])
def test_workers_that_die_one_after_the_other_while_they_start_break_a_pool_without_room(
    max_workers: int, room: int
) -> None:
    machine = s.Scheduler(max_workers)
    machine.submit(s.JobSpec(size=9, at_hand=True, chunksize=1), 0.0)
    now, started = 0.0, 0
    deaths: list[tuple[float, int]] = []  # those to come, the next one first
    while machine.jobs:
        for command in machine.commands():
            if isinstance(command, s.StartWorker) and len(deaths) < room:
                started += 1
                deaths = sorted([*deaths, (now + 0.6 + started % 5 / 10, command.worker)])
            elif isinstance(command, s.StartWorker):
                _refuse(machine, command.worker, now)
        if not machine.jobs:
            break
        wake_at = machine.wake_at()
        if deaths and (wake_at is None or deaths[0][0] <= wake_at):
            now, worker = deaths.pop(0)
            machine.handle(s.WorkerDied(worker, s.Death(1, 1, None, None)), now)
        else:
            now = _tick(machine)
        assert now < 10.0
    assert isinstance(machine.broken, WorkerInitError)


@pytest.mark.parametrize("ready", [False, True])
def test_lack_of_room_and_one_death_do_not_break_a_pool(ready: bool) -> None:
    machine = s.Scheduler(2)
    machine.submit(s.JobSpec(size=4, at_hand=True, chunksize=1), 0.0)
    first, second = (c.worker for c in machine.commands() if isinstance(c, s.StartWorker))
    if ready:
        machine.handle(s.WorkerReady(first), 0.0)
    now, failed = 0.0, 1
    _refuse(machine, second, now)
    while failed < 5:
        now = _tick(machine)
        for start in (c for c in machine.commands() if isinstance(c, s.StartWorker)):
            failed += 1
            _refuse(machine, start.worker, now)
    machine.handle(s.WorkerDied(first, s.Death(1, -9, 9, None)), now)
    assert machine.broken is None


def test_the_tries_for_a_worker_begin_anew_when_one_has_died() -> None:
    machine = s.Scheduler(2)
    machine.submit(s.JobSpec(size=9, at_hand=True, chunksize=1, stop_on_failure=False), 0.0)
    commands = machine.commands()
    first, second = (c.worker for c in commands if isinstance(c, s.StartWorker))
    chunk = next(c.chunk for c in commands if isinstance(c, s.RunChunk) and c.worker == first)
    machine.handle(s.WorkerReady(first), 0.0)
    _refuse(machine, second, 0.0)
    now, refused = 0.0, 1
    died_at: float | None = None
    while machine.jobs:
        if refused == 10 and died_at is None:
            died_at = now
            machine.handle(s.WorkerDied(first, s.Death(1, -9, 9, s.Place(chunk.id, 0, 0.0))), now)
        elif not machine.has_commands:
            now = _tick(machine)
        for start in (c for c in machine.commands() if isinstance(c, s.StartWorker)):
            refused += 1
            _refuse(machine, start.worker, now)
    assert died_at is not None
    assert now - died_at >= 0.5
    assert machine.broken is None


def test_who_is_ending_makes_room_for_the_next_worker() -> None:
    machine = s.Scheduler(1)
    spec = s.JobSpec(size=2, at_hand=True, chunksize=1, task_timeout=1.0, stop_on_failure=False)
    machine.submit(spec, 0.0)
    now, alive, refused = 0.0, 0, 0
    place = s.Place(0, 0, 0.0)
    failed: list[BaseException] = []
    died_at: float | None = None
    finished: list[s.Finish] = []
    while not finished:
        commands = machine.commands()
        finished = [c for c in commands if isinstance(c, s.Finish)]
        for command in commands:
            if isinstance(command, s.StartWorker) and alive:
                refused += 1
                _refuse(machine, command.worker, now)
            elif isinstance(command, s.StartWorker):
                alive = command.worker
                machine.handle(s.WorkerReady(alive), now)
            elif isinstance(command, s.RunChunk) and command.worker == alive:
                place = s.Place(command.chunk.id, 0, now)
                if command.chunk.start == 1:
                    machine.handle(s.Results(alive, place.chunk, 0, ["b"], None, 0.0), now)
            elif isinstance(command, s.Observe):
                machine.answer(s.Observed(command.worker, place), now)
            elif isinstance(command, s.Revoke):
                machine.answer(s.Revoked(command.worker, place), now)
            elif isinstance(command, s.Kill) and died_at is None:
                died_at = now + 0.9  # it takes its time, and goes before the second signal
            elif isinstance(command, s.Deliver):
                failed += (command.failures or {}).values()
        if finished or machine.has_commands:
            continue
        wake_at = machine.wake_at()
        if died_at is not None and alive and (wake_at is None or wake_at > died_at):
            now, dead, alive = died_at, alive, 0
            machine.handle(s.WorkerDied(dead, s.Death(1, -15, 15, place)), now)
        else:
            now = _tick(machine)
    assert refused >= 3
    assert finished[0].exception is None
    assert [type(error) for error in failed] == [TaskTimeoutError]


def test_a_worker_that_is_up_does_the_work_for_as_long_as_there_is_room_for_no_other() -> None:
    machine = s.Scheduler(2)
    job = machine.submit(s.JobSpec(size=40, at_hand=True, chunksize=1), 0.0)
    now, failed, done = 0.0, 0, 0
    up: int | None = None
    while machine.jobs:
        commands = machine.commands()
        assert commands or machine.wake_at() is not None
        for command in commands:
            if isinstance(command, s.StartWorker) and up is None:
                up = command.worker
                machine.handle(s.WorkerReady(up), now)
            elif isinstance(command, s.StartWorker):
                failed += 1
                _refuse(machine, command.worker, now)
            elif isinstance(command, s.RunChunk) and command.worker == up:
                now += 0.3
                done += len(command.chunk)
                values = [None] * len(command.chunk)
                machine.handle(s.Results(command.worker, command.chunk.id, 0, values, None, 0.3), now)
            elif isinstance(command, s.Finish):
                assert (command.job, command.exception) == (job, None)
    assert done == 40
    assert failed > 3


def test_an_item_that_no_worker_survives_receiving_is_given_up() -> None:
    machine = s.Scheduler(1)
    machine.submit(s.JobSpec(size=3, at_hand=True, chunksize=3, stop_on_failure=False), 0.0)
    failed: dict[int, BaseException] = {}
    done: set[int] = set()
    deaths = 0
    while len(done) + len(failed) < 3:
        commands = machine.commands()
        for command in commands:
            if isinstance(command, s.StartWorker):
                machine.handle(s.WorkerReady(command.worker), 0.0)
            elif isinstance(command, s.Deliver):
                assert len(command.values) == 1
                if command.failures:
                    failed[command.start] = command.failures[0]
                else:
                    done.add(command.start)
            elif isinstance(command, s.RunChunk):
                chunk = command.chunk
                if chunk.start <= 1 < chunk.stop:
                    deaths += 1
                    death = s.Death(9, 1, None, s.Place(0, s.LOADING, 0.0))
                    machine.handle(s.WorkerDied(command.worker, death), 0.0)
                else:
                    machine.handle(s.Results(command.worker, chunk.id, 0, [None], None, 0.1), 0.0)
    assert list(failed) == [1]
    assert isinstance(failed[1], WorkerDiedError)
    assert (failed[1].index, failed[1].started) == (1, False)
    assert deaths == 6  # three of the whole chunk, three of the item alone


def test_what_is_taken_back_from_a_worker_that_still_receives_it_goes_to_the_idle_one() -> None:
    machine = s.Scheduler(2)
    machine.submit(s.JobSpec(size=4, at_hand=True, chunksize=1), 0.0)
    first, second = (command for command in machine.commands() if isinstance(command, s.RunChunk))
    machine.handle(s.Results(second.worker, second.chunk.id, 0, ["b"], None, 0.0004), 0.001)
    # Large items, which the worker has not finished receiving for as long as the test looks.
    place = s.Place(second.chunk.id, 0, 0.0)
    machine.handle(s.Results(first.worker, first.chunk.id, 0, ["a"], None, 0.0004), 0.002)
    given = [command for command in machine.commands() if isinstance(command, s.RunChunk)]
    assert [command.worker for command in given] == [second.worker] * 2
    given.clear()
    for _ in range(20):
        machine.handle(s.Tick(), machine.wake_at() or 1.0)
        for command in machine.commands():
            if isinstance(command, s.Revoke):
                machine.handle(s.Revoked(command.worker, place), machine.wake_at() or 1.0)
            elif isinstance(command, s.RunChunk):
                given.append(command)
    assert sorted(command.worker for command in given) == [first.worker, second.worker]


def test_who_is_told_to_end_while_it_comes_up_has_time_for_that() -> None:
    machine = s.Scheduler(1, initializes=True)
    machine.prestart(1, 0.0)
    machine.stop_workers(0.0)
    start, stop = machine.commands()
    assert isinstance(start, s.StartWorker)
    assert isinstance(stop, s.StopWorker)
    machine.handle(s.Tick(), 9.9)  # it may be in its initializer
    assert not machine.commands()
    machine.handle(s.WorkerReady(1), 9.9)
    machine.handle(s.Tick(), 10.8)
    assert not machine.commands()
    machine.handle(s.Tick(), 11.0)  # from now on it does not end by itself
    assert [type(command) for command in machine.commands()] == [s.Kill]


def _one_chunk_and_an_idle_worker() -> tuple[s.Scheduler, s.RunChunk]:
    machine = s.Scheduler(2)
    machine.submit(s.JobSpec(size=4, at_hand=True, chunksize=4), 0.0)
    machine.prestart(2, 0.0)
    run = next(command for command in machine.commands() if isinstance(command, s.RunChunk))
    machine.handle(s.Tick(), 0.0)
    return machine, run


def _revoked(machine: s.Scheduler) -> list[int]:
    return [command.worker for command in machine.commands() if isinstance(command, s.Revoke)]


def test_what_runs_is_not_asked_for_again_and_again() -> None:
    machine, run = _one_chunk_and_an_idle_worker()
    machine.handle(s.Tick(), 0.1)
    assert _revoked(machine) == [run.worker]
    machine.answer(s.Revoked(run.worker, s.Place(run.chunk.id, 3, 0.0)), 0.1)  # the last item runs already
    for now in (0.2, 0.3):
        machine.handle(s.Tick(), now)
        assert not _revoked(machine)


def test_an_answer_lets_nobodys_time_come() -> None:
    machine, run = _one_chunk_and_an_idle_worker()
    for now in (0.1, 2.2):
        machine.handle(s.Tick(), now)
        assert _revoked(machine) == [run.worker]
        machine.answer(s.Revoked(run.worker, None), now + 1.0)  # it has not come to the chunk
        assert not machine.commands()
