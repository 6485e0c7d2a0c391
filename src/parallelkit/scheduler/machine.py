"""The state machine: who works on what, what is taken back, and what a death means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import (
    CallTimeoutError,
    ClosedError,
    MemoryLimitError,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
)
from . import messages as m
from .jobs import Job
from .timers import Timers
from .workers import Roster, State, Verdict, Worker, remains

#: Seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 1.0
#: With a worker idle, a draw that takes longer than this hands over what it has.
HASTEN_SECONDS = 0.005
#: With a worker idle, items that wait behind others for longer than this are taken back.
STEAL_SECONDS = 0.005
#: A worker sends its results between two items. Where one takes long, what was done before it is fetched
#: after the first of these, in seconds, and while the worker holds several, in pauses up to the second.
PEEK_SECONDS = (0.05, 1.0)
#: Who is to end by itself while its initializer may be at work has so many seconds for that.
START_GRACE_SECONDS = 10.0
#: A start for which the system had no room is tried again after so many seconds.
START_PAUSE_SECONDS = 0.25
#: So many starts in a row may fail before there is no hope left.
START_ATTEMPTS = 3
#: So many workers in a row may die before they have read the chunk that they were given.
READ_ATTEMPTS = 3
#: Memory is looked at again when it could have grown to the limit at so many bytes a second.
MEMORY_GROWTH = 1 << 30
MEMORY_SECONDS = (0.01, 0.25)
#: What could not be decided now, as a message is on its way, is looked at again after so long.
AGAIN_SECONDS = 0.005


@dataclass(slots=True)
class Counters:
    """What has happened so far.

    Each item that was handed in is done, has failed, was dropped with its call, or has its outcome ahead.
    """

    handed_in: int = 0
    dropped: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    started: int = 0
    lost: int = 0


class Scheduler:
    """Decides for one pool of workers and all calls that share it.

    >>> scheduler = Scheduler(max_workers=1)
    >>> job = scheduler.submit(m.JobSpec(size=1, at_hand=True), now=0.0)
    >>> start, run = scheduler.commands()
    >>> scheduler.handle(m.Results(start.worker, run.chunk.id, 0, ["value"], None, 0.001), now=0.1)
    >>> scheduler.commands()
    [Deliver(job=1, start=0, values=['value'], failures=None), Finish(job=1, exception=None)]
    """

    def __init__(
        self,
        max_workers: int,
        *,
        max_tasks_per_child: int | None = None,
        memory_limit: int | None = None,
        grace: float = GRACE_SECONDS,
        initializes: bool = False,
    ) -> None:
        self.max_workers = max_workers
        self.counters: Counters = Counters()
        self.broken: BaseException | None = None
        self._max_tasks = max_tasks_per_child
        self._memory_limit = memory_limit
        self.grace = grace
        self._initializes = initializes
        self._now = 0.0
        self._out: list[m.Command] = []
        self._jobs: dict[int, Job] = {}
        self._ready: dict[int, Job] = {}  # jobs with items to give out, the next to be served first
        self._lazy: dict[int, Job] = {}  # jobs whose input is drawn as they go
        self._roster = Roster()
        self._timers: Timers[tuple[str, int]] = Timers()
        self._next_job = 1
        self._next_chunk = 1
        self._failed_starts = 0
        self._unplaced = 0  # starts in a row for which there was no room
        self._pausing = False  # after one of these
        self._lifted = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.ItemsReady: self._on_items_ready,
            m.InputFailed: self._on_input_failed,
            m.JobFailed: self._on_job_failed,
            m.Cancel: self._on_cancel,
            m.Consumed: self._on_consumed,
            m.Sent: self._on_sent,
            m.WorkerReady: self._on_ready,
            m.StartFailed: self._on_start_failed,
            m.Results: self._on_results,
            m.StoppedShort: self._on_stopped_short,
            m.Unreadable: self._on_unreadable,
            m.Observed: self._on_observed,
            m.Revoked: self._on_revoked,
            m.Measured: self._on_measured,
            m.WorkerDied: self._on_died,
            m.Tick: lambda event: None,
        }

    # What comes in and goes out

    def submit(self, spec: m.JobSpec, now: float) -> int:
        """Take in a new call; return its number."""
        self._now = now
        job = Job(self._next_job, spec)
        self._next_job += 1
        self._jobs[job.id] = job
        self.counters.handed_in += job.drawn
        if self.broken is not None:
            self._end(job, self.broken, stop=False)
            return job.id
        if spec.timeout is not None:
            self._timers.set(("call", job.id), now + spec.timeout)
        if not job.exhausted:
            self._lazy[job.id] = job
        self._items_changed(job)
        self._dispatch()
        return job.id

    def handle(self, event: m.Event, now: float) -> None:
        """Take in what happened, and everything whose time has come."""
        self._now = now
        self._handlers[type(event)](event)
        when = self._timers.next()
        if when is not None and when <= now:
            for kind, number in self._timers.due(now):
                self._fire(kind, number)
        self._dispatch()

    def answer(self, event: m.Event, now: float) -> None:
        """Take in the answer to a command.

        Whose time has come waits for `handle`, until all else has been taken in that happened meanwhile.
        Where the answers take longer than it is from one time to the next, there would be no end to them.
        """
        self._now = now
        self._handlers[type(event)](event)
        self._dispatch()

    def commands(self) -> list[m.Command]:
        """What is to be done now, in this order; each command is handed out once."""
        out = self._out
        self._out = []
        return out

    @property
    def has_commands(self) -> bool:
        """Whether there is something to be done."""
        return bool(self._out)

    def wake_at(self) -> float | None:
        """When `handle(Tick(), now)` is wanted at the latest; None: only when something happens."""
        return self._timers.next()

    @property
    def jobs(self) -> int:
        """How many calls have not come to their end, or still run in a worker."""
        return len(self._jobs)

    def is_held(self, job: int) -> bool:
        """Whether a worker has been given something of a call that it has not given back."""
        return job in self._jobs and self._jobs[job].held > 0

    @property
    def workers(self) -> int:
        """How many workers there are, those that are ending included."""
        return len(self._roster.all)

    def prestart(self, count: int, now: float) -> None:
        """Start workers before there is work for them."""
        self._now = now
        while self._roster.usable < min(count, self.max_workers) and self.broken is None:
            self._start_worker()

    def make_room(self, now: float) -> None:
        """Start a worker for a task to come, if none is up and free: one that is coming up does not count."""
        self._now = now
        if all(worker.state is State.STARTING for worker in self._roster.idle.values()):
            self._more_workers()

    def stop_workers(self, now: float) -> None:
        """Let all workers end that hold nothing."""
        self._now = now
        for worker in self._roster:
            if worker.usable and not worker.chunks:
                self._stop(worker)

    def lift_bounds(self, now: float) -> None:
        """Nobody may come any more to take results: go on without waiting for that.

        An input of unknown length is drawn on as far as there is room for results, and then given up.
        """
        self._now = now
        for job in self._jobs.values():
            job.lift_bound()
        self._lifted = True
        self._dispatch()

    def kill_workers(self, now: float) -> None:
        """End all workers that are not being ended already."""
        self._now = now
        for worker in self._roster:
            if worker.state is not State.DYING:
                self._kill(worker)

    def end_all(self, exception: BaseException, now: float) -> None:
        """End every call with `exception`, and what runs of it."""
        self._now = now
        for job in list(self._jobs.values()):
            self._end(job, exception, stop=True)

    # Work to workers

    def _items_changed(self, job: Job) -> None:
        if job.ended:
            return
        if job.waiting:
            self._ready.setdefault(job.id, job)
        elif job.done:
            self._announce(job, job.input_error)

    def _dispatch(self) -> None:
        while self._ready:
            worker = self._roster.free() or self._more_workers()
            if worker is None:
                break
            self._give(worker)
        for job in self._lazy.values():
            count = job.may_draw(self.max_workers)
            if count:
                job.drawing, job.hastened = True, False
                self._out.append(m.Draw(job.id, count))
            if job.drawing and not job.hastened and self._starving:
                self._timers.set(("hasten", job.id), self._now + HASTEN_SECONDS)
        if self._lifted:
            self._cut_off_inputs()
        if self._roster.surplus and self._roster.idle and not self._ready:
            self._timers.set(("steal", 0), self._now + STEAL_SECONDS)

    def _cut_off_inputs(self) -> None:
        for job in list(self._lazy.values()):
            if job.is_cut_off(self.max_workers):
                self._end_input(
                    job, ClosedError("the pool ended before the input of this call was at its end")
                )

    @property
    def _starving(self) -> bool:
        """Whether a worker could be had for an item."""
        return not self._ready and (bool(self._roster.idle) or self._roster.usable < self.max_workers)

    def _more_workers(self) -> Worker | None:
        if self._roster.usable < self.max_workers and self.broken is None and not self._pausing:
            return self._start_worker()
        return None

    def _start_worker(self) -> Worker:
        worker = self._roster.add(self._failed_starts)
        self.counters.started += 1
        self._out.append(m.StartWorker(worker.id))
        return worker

    def _give(self, worker: Worker) -> None:
        """Give a worker its next chunk, from each call in turn."""
        job = next(iter(self._ready.values()))
        del self._ready[job.id]
        chunk = job.take(self._next_chunk, self._quota(worker), self.max_workers)
        if chunk is None:
            return
        if job.waiting:
            self._ready[job.id] = job
        self._next_chunk += 1
        self._roster.hold(worker, chunk)
        self._out.append(m.RunChunk(worker.id, chunk))
        if len(chunk) > 1:
            worker.pause = PEEK_SECONDS[0]
            self._timers.set(("peek", worker.id), self._now + worker.pause)
        if job.spec.task_timeout is not None:
            self._timers.set(("task", worker.id), self._now + job.spec.task_timeout)
        if self._memory_limit is not None:
            self._timers.set(("memory", worker.id), self._now + MEMORY_SECONDS[0])

    def _quota(self, worker: Worker) -> int:
        """How many more items a worker may be given in its life."""
        return self._max_tasks - worker.assigned if self._max_tasks is not None else 1 << 62

    def _refill(self, worker: Worker) -> None:
        """Keep a worker in work: one chunk, and a second behind it while the first is short."""
        if not worker.usable:
            return
        while self._ready and self._quota(worker) > 0:
            if worker.chunks:
                head = worker.chunks[0]
                if len(worker.chunks) > 1 or not self._jobs[head.job].is_quick(len(head)):
                    return
            self._give(worker)
        if worker.chunks:
            return
        self._set_free(worker)

    def _set_free(self, worker: Worker) -> None:
        """A worker holds nothing."""
        if self._quota(worker) > 0:
            self._roster.idle[worker.id] = worker
        else:
            self._stop(worker)

    def _stop(self, worker: Worker) -> None:
        # One that is coming up may be in its initializer, which a clean end lets finish.
        initializing = self._initializes and worker.state is State.STARTING
        grace = max(self.grace, START_GRACE_SECONDS) if initializing else self.grace
        self._roster.retire(worker, State.STOPPING)
        self._out.append(m.StopWorker(worker.id))
        self._timers.set(("stop", worker.id), self._now + grace)

    def _kill(self, worker: Worker) -> None:
        self._roster.retire(worker, State.DYING)
        self._out.append(m.Kill(worker.id, force=False))
        self._timers.set(("kill", worker.id), self._now + self.grace)

    def _revoke(self, worker: Worker, verdict: Verdict | None = None) -> None:
        worker.verdict = verdict or worker.verdict
        self._out.append(m.Revoke(worker.id))

    # The input of a call

    def _on_items_ready(self, event: m.ItemsReady) -> None:
        job = self._jobs.get(event.job)
        if job is None or job.ended:
            return
        job.drawing = event.under_way
        job.drawn += event.count
        self.counters.handed_in += event.count
        if event.exhausted:
            job.exhausted = True
            self._lazy.pop(job.id, None)
        self._items_changed(job)

    def _on_input_failed(self, event: m.InputFailed) -> None:
        job = self._jobs.get(event.job)
        if job is None or job.ended:
            return
        if not job.spec.streaming:
            self._end(job, event.exception, stop=True)
            return
        # Who takes results one by one gets those of the items before the fault, and then the fault.
        self._end_input(job, event.exception)

    def _end_input(self, job: Job, exception: BaseException) -> None:
        self._lazy.pop(job.id, None)
        job.exhausted = True
        job.input_error = exception
        self._items_changed(job)

    def _on_job_failed(self, event: m.JobFailed) -> None:
        job = self._jobs.get(event.job)
        if job is not None and not job.ended:
            self._end(job, event.exception, stop=False)

    def _on_cancel(self, event: m.Cancel) -> None:
        job = self._jobs.get(event.job)
        if job is not None and not job.stopping:
            self._end(job, event.exception, stop=True)

    def _on_consumed(self, event: m.Consumed) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            job.consumed += event.count

    def _on_sent(self, event: m.Sent) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            job.learn_bytes(event.items, event.size)

    # Outcomes

    def _on_results(self, event: m.Results) -> None:
        worker = self._roster.all[event.worker]
        if worker.state is State.STARTING:
            self._mark_ready(worker)
        chunk = worker.find(event.chunk)
        if chunk is None:
            return
        job = self._jobs[chunk.job]
        # What a dying worker had sent and not yet crossed out, or what was fetched before it was sent.
        known = chunk.received - event.first
        if known:
            if known < 0:
                raise RuntimeError(f"results of {-known} items are missing")
            event = m.Results(
                worker.id,
                chunk.id,
                chunk.received,
                event.values[known:],
                {at - known: error for at, error in (event.failures or {}).items() if at >= known},
                event.seconds,
            )
        if not event.values:
            return
        start = chunk.start + chunk.received
        chunk.received += len(event.values)
        if event.seconds is not None:
            job.learn(len(event.values), event.seconds)
        complete = chunk.received >= len(chunk)
        if complete:
            self._let_go(worker, chunk)
        if not job.ended:
            self._settle(job, start, event.values, event.failures)
        if complete:
            self._refill(worker)
            self._after(job)

    def _settle(
        self, job: Job, start: int, values: list[Any], failures: Mapping[int, BaseException] | None
    ) -> None:
        """Hand out what is final, and take back what is to be tried again."""
        if not failures:
            self.counters.done += len(values)
            self._out += job.accept(start, values, None)
            return
        again = [at for at in sorted(failures) if self._retry(job, start + at, failures[at])]
        final = [at for at in sorted(failures) if at not in again]
        self.counters.done += len(values) - len(failures)
        self.counters.failed += len(final)
        if job.spec.keeps_failures:
            job.consumed += len(final)
        begin = 0
        for end in [*again, len(values)]:
            if end > begin:
                part = {at - begin: failures[at] for at in final if begin <= at < end}
                self._out += job.accept(start + begin, values[begin:end], part or None)
            begin = end + 1
        if final and job.spec.stop_on_failure and not job.spec.streaming:
            self._end(job, failures[final[0]], stop=False)
        else:
            self._items_changed(job)

    def _retry(self, job: Job, index: int, exception: BaseException) -> bool:
        attempts = job.attempts.get(index, 0)
        if attempts >= job.spec.retries or not isinstance(exception, job.spec.retry_on):
            return False
        job.attempts[index] = attempts + 1
        job.give_back(index, index + 1, alone=True)
        self.counters.retried += 1
        return True

    def _let_go(self, worker: Worker, chunk: m.Chunk) -> None:
        self._roster.drop(worker, chunk)
        self._jobs[chunk.job].held -= 1

    def _on_stopped_short(self, event: m.StoppedShort) -> None:
        worker = self._roster.all.get(event.worker)
        if worker is None:
            return
        chunk = worker.find(event.chunk)
        if chunk is not None:
            self._take_back(worker, chunk, chunk.start + event.position)
            self._refill(worker)

    def _on_unreadable(self, event: m.Unreadable) -> None:
        worker = self._roster.all.get(event.worker)
        if worker is None:
            return
        chunk = worker.find(event.chunk)
        if chunk is not None:
            chunk.piecewise = True
            self._take_back(worker, chunk, chunk.start)
            self._refill(worker)

    def _take_back(self, worker: Worker, chunk: m.Chunk, stop: int) -> None:
        """The worker starts nothing of a chunk from index `stop` on."""
        job = self._jobs[chunk.job]
        if not job.ended:
            job.give_back(stop, chunk.stop, piecewise=chunk.piecewise)
            self._items_changed(job)
        chunk.stop = min(chunk.stop, stop)
        if chunk.received >= len(chunk):
            self._let_go(worker, chunk)
            self._after(job)

    # The end of a call

    def _end(self, job: Job, exception: BaseException | None, *, stop: bool) -> None:
        """End a call before all items have an outcome. `stop`: what runs of it has to end, too.

        Without `stop` a task that runs may finish, and its result is dropped: programs that go on
        after a failed `Pool.map` count on no task being cut in two.
        """
        if not job.ended:
            job.result = exception
            self.counters.dropped += job.drawn - job.finished
            job.drop_all()
            self._ready.pop(job.id, None)
            self._lazy.pop(job.id, None)
        job.stopping = job.stopping or stop
        if not stop or not job.held:
            self._announce(job, job.result)
        for worker in self._roster:
            if worker.usable and any(chunk.job == job.id for chunk in worker.chunks):
                self._revoke(worker, Verdict("ended") if stop else None)

    def _after(self, job: Job) -> None:
        """Something of a call has left a worker: see whether the call has come to its end."""
        if job.held:
            return
        if job.ended:
            self._announce(job, job.result)
        elif job.done:
            self._announce(job, job.input_error)

    def _announce(self, job: Job, exception: BaseException | None) -> None:
        if not job.announced:
            job.announced = True
            self._ready.pop(job.id, None)
            self._lazy.pop(job.id, None)
            self._timers.forget(("call", job.id))
            self._timers.forget(("hasten", job.id))
            self._out.append(m.Finish(job.id, exception))
        if not job.held:
            self._jobs.pop(job.id, None)

    # Time, memory, and what is taken back

    def _fire(self, kind: str, number: int) -> None:
        if kind == "call":
            job = self._jobs.get(number)
            if job is not None and job.spec.timeout is not None:
                late = CallTimeoutError(timeout=job.spec.timeout, completed=job.finished)
                self._end(job, late, stop=True)
        elif kind == "steal":
            self._steal()
        elif kind == "start":
            self._pausing = False
        elif kind == "hasten":
            job = self._jobs.get(number)
            if job is not None and job.drawing and not job.ended and self._starving:
                job.hastened = True
                self._out.append(m.Hasten(number))
        else:
            worker = self._roster.all.get(number)
            if worker is not None:
                self._fire_worker(kind, worker)

    def _fire_worker(self, kind: str, worker: Worker) -> None:
        if kind == "kill":
            self._out.append(m.Kill(worker.id, force=True))
        elif kind == "stop":
            self._kill(worker)
        elif kind == "task" and worker.usable and worker.chunks:
            self._out.append(m.Observe(worker.id))
        elif kind == "peek" and worker.usable and any(len(c) - c.received > 1 for c in worker.chunks):
            self._out.append(m.Peek(worker.id))
            worker.pause = min(2 * worker.pause, PEEK_SECONDS[1])
            self._timers.set(("peek", worker.id), self._now + worker.pause)
        elif kind == "memory" and worker.usable and worker.chunks:
            self._out.append(m.Measure(worker.id))

    def _steal(self) -> None:
        if not self._roster.idle or self._ready:
            return
        for worker in self._roster:
            if worker.usable and any(c.surplus for c in worker.chunks):
                self._revoke(worker)

    def _on_observed(self, event: m.Observed) -> None:
        worker = self._roster.all.get(event.worker)
        if worker is None:
            return
        place = event.place
        if not worker.usable or not worker.chunks:
            return
        chunk = worker.find(place.chunk) if place is not None else None
        if place is None or chunk is None or m.LOADING < place.position < chunk.received:
            self._look_again(worker)
            return
        job = self._jobs[chunk.job]
        limit = job.spec.task_timeout
        if job.stopping:
            self._revoke(worker, Verdict("ended"))
        elif limit is not None and self._now >= place.since + limit:
            self._revoke(worker, Verdict("timeout", place))
        elif limit is not None:
            self._timers.set(("task", worker.id), place.since + limit)

    def _look_again(self, worker: Worker) -> None:
        """A worker has not begun what it holds, or the news of it is on its way."""
        limits = [
            AGAIN_SECONDS if job.stopping else job.spec.task_timeout
            for job in (self._jobs[chunk.job] for chunk in worker.chunks)
        ]
        soonest = min((limit for limit in limits if limit is not None), default=None)
        if soonest is not None:
            self._timers.set(("task", worker.id), self._now + max(AGAIN_SECONDS, soonest / 8))

    def _on_revoked(self, event: m.Revoked) -> None:
        worker = self._roster.all.get(event.worker)
        place = event.place
        if worker is None or place is None or not worker.usable:
            return
        verdict, worker.verdict = worker.verdict, None
        self._take_back_behind(worker, place)
        if verdict is not None and self._still_holds(worker, verdict, place):
            worker.verdict = verdict
            self._kill(worker)
        elif verdict is not None and worker.chunks:
            self._timers.set(("task", worker.id), self._now + AGAIN_SECONDS)
        if worker.usable and not worker.chunks:
            # It gets its share with the idle ones, and not all of it again: as long as it receives large
            # items, that would be taken back and sent again for ever.
            self._set_free(worker)

    def _take_back_behind(self, worker: Worker, place: m.Place) -> None:
        for chunk in list(worker.chunks):
            if chunk.id > place.chunk:
                self._take_back(worker, chunk, chunk.start)
            elif chunk.id == place.chunk and place.position != m.LOADING:
                self._take_back(worker, chunk, chunk.start + place.position + 1)
                if worker.find(chunk.id) is chunk:
                    self._roster.pin(chunk)

    def _still_holds(self, worker: Worker, verdict: Verdict, place: m.Place) -> bool:
        """Whether a worker is to be killed, now that nothing behind `place` starts any more."""
        if verdict.kind == "memory":
            return True
        if verdict.kind == "ended":
            return bool(worker.chunks) and all(self._jobs[chunk.job].stopping for chunk in worker.chunks)
        return verdict.place == place

    def _on_measured(self, event: m.Measured) -> None:
        worker = self._roster.all.get(event.worker)
        if worker is None:
            return
        limit = self._memory_limit
        if limit is None or not worker.usable or not worker.chunks:
            return
        if event.used > limit:
            self._revoke(worker, Verdict("memory", used=event.used))
            return
        least, most = MEMORY_SECONDS
        pause = min(most, max(least, (limit - event.used) / MEMORY_GROWTH))
        self._timers.set(("memory", worker.id), self._now + pause)

    # Beginnings and ends of workers

    def _mark_ready(self, worker: Worker) -> None:
        worker.state = State.READY
        self._unplaced = 0
        if self._failed_starts:
            self._failed_starts = 0
            for other in self._roster:  # those that are under way count as one again
                other.attempt = 0

    def _on_ready(self, event: m.WorkerReady) -> None:
        worker = self._roster.all[event.worker]
        if worker.state is State.STARTING:
            self._mark_ready(worker)
        elif worker.state is State.STOPPING:
            self._timers.forget(("stop", worker.id))
            self._timers.set(("stop", worker.id), self._now + self.grace)

    def _on_start_failed(self, event: m.StartFailed) -> None:
        worker = self._roster.all[event.worker]
        starting = worker.state is State.STARTING
        self._roster.remove(worker)
        for chunk in list(worker.chunks):
            self._take_back(worker, chunk, chunk.start)
        if event.no_room:
            self._wait_for_room(event.exception)
        elif starting:
            self._count_failed_start(worker, event.exception)

    def _wait_for_room(self, cause: BaseException) -> None:
        """Those that are there do the work, and who ends makes room: without any, the calls are given up."""
        if not self._pausing:
            self._unplaced += 1
            self._pausing = True
            self._timers.set(("start", 0), self._now + START_PAUSE_SECONDS)
        if self._unplaced < START_ATTEMPTS or self._roster.all or self.broken is not None:
            return
        error = WorkerInitError(starts=self._unplaced)
        error.__cause__ = cause
        self._unplaced = 0  # there may be room again for the calls that follow
        self.end_all(error, self._now)

    def _count_failed_start(self, worker: Worker, cause: BaseException) -> None:
        if worker.attempt < self._failed_starts:
            return  # it was under way beside one that has counted
        self._failed_starts += 1
        if self._failed_starts < START_ATTEMPTS or self.broken is not None:
            return
        error = WorkerInitError(starts=self._failed_starts)
        error.__cause__ = cause
        self.broken = error
        self._out.append(m.Broken(error))
        self.end_all(error, self._now)
        self.kill_workers(self._now)

    def _on_died(self, event: m.WorkerDied) -> None:
        worker, death = self._roster.all[event.worker], event.death
        self._unplaced = 0  # there is room for one more
        starting = worker.state is State.STARTING
        expected = worker.state in (State.STOPPING, State.DYING)
        if worker.state is State.READY and worker.chunks:
            death = self._blame_reading(worker.chunks[0], death)
        self._roster.remove(worker)
        for kind in ("kill", "stop", "task", "memory", "peek"):
            self._timers.forget((kind, worker.id))
        self.counters.lost += not expected
        for chunk in list(worker.chunks):
            self._bury(worker, chunk, death)
        if starting:
            self._count_failed_start(worker, self._died(None, death, started=False))

    def _blame_reading(self, chunk: m.Chunk, death: m.Death) -> m.Death:
        """Whether a death between two chunks is that of receiving the second, too large for the memory there.

        It may be any death, so the chunk goes out again, for so many times.
        """
        if death.place is None or chunk.id <= death.place.chunk:
            return death
        unread = self._jobs[chunk.job].unread
        unread[chunk.start] = unread.get(chunk.start, 0) + 1
        if unread[chunk.start] < READ_ATTEMPTS:
            return death
        del unread[chunk.start]
        return replace(death, place=m.Place(chunk.id, m.LOADING, 0.0))

    def _bury(self, worker: Worker, chunk: m.Chunk, death: m.Death) -> None:
        """Settle what a dead worker leaves of one chunk."""
        job = self._jobs[chunk.job]
        left = remains(chunk, death.place)
        self._let_go(worker, chunk)
        if not job.ended:
            job.give_back(left.back.start, left.back.stop, alone=left.alone)
            for index in left.struck:
                if not job.ended:
                    error = self._epitaph(job, index, worker.verdict, death, started=True)
                    self._settle(job, index, [None], {0: error})
            if left.unread is not None:
                error = self._epitaph(job, left.unread, worker.verdict, death, started=False)
                self._settle(job, left.unread, [None], {0: error})
            self._items_changed(job)
        self._after(job)

    def _epitaph(
        self, job: Job, index: int, verdict: Verdict | None, death: m.Death, *, started: bool
    ) -> BaseException:
        """The error of an item that was lost with its worker."""
        number = None if job.spec.single else index
        if verdict is not None and verdict.kind == "timeout" and job.spec.task_timeout is not None:
            return TaskTimeoutError(index=number, timeout=job.spec.task_timeout, pid=death.pid)
        if verdict is not None and verdict.kind == "memory" and self._memory_limit is not None:
            return MemoryLimitError(
                index=number,
                pid=death.pid,
                exitcode=death.exitcode,
                signal=death.signal,
                started=started,
                limit=self._memory_limit,
                used=verdict.used,
            )
        return self._died(number, death, started=started)

    @staticmethod
    def _died(index: int | None, death: m.Death, *, started: bool) -> WorkerDiedError:
        return WorkerDiedError(
            index=index,
            pid=death.pid,
            exitcode=death.exitcode,
            signal=death.signal,
            started=started,
        )
