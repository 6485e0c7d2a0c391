"""One scheduler, one crew of workers, and the threads that wait for them.

Whoever waits, drives: the thread that wants a result sleeps in the crew's `wait`, hands what happened to the
scheduler, and carries out what that answers. One thread at a time does so; other threads that wait sleep
on a condition, and one of them takes over when the driver has what it wanted. A service thread drives
where nobody waits (results of `apply_async` that have a callback, the next results of an iterator); it
leaves a caller a moment to come by himself, because each hand-over between threads costs more than a
small task.

Rules:

1. All state is under one lock, a `Shield`, which keeps signal handlers out, too. User code (inputs,
   callbacks, progress, `repr` of an item) never runs under it, but for the methods by which an object is
   pickled and unpickled.
2. The outcomes of one call are handed out by one thread at a time, in the order in which they came.
3. `Call.done` is set after the last outcome of the call was handed out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, cast

from . import threadlimits
from .engines import Crew, Setup, Style, Work
from .errors import ClosedError
from .logs import Forwarding
from .naming import Namer
from .options import WorkerSettings
from .scheduler import (
    Broken,
    Cancel,
    Command,
    Consumed,
    Deliver,
    Draw,
    Event,
    Finish,
    Hasten,
    InputFailed,
    ItemsReady,
    JobFailed,
    JobSpec,
    Kill,
    Measure,
    Observe,
    Peek,
    Revoke,
    RunChunk,
    Scheduler,
    StartWorker,
    StopWorker,
    Tick,
)
from .shielding import Shield, shielded, start_shielded, unshielded
from .stats import PoolStats

#: How long the service thread leaves it to a caller to come and drive, in seconds.
PATIENCE = 0.001
#: So many moments without work, and the service thread goes to sleep for good.
_MOMENTS = 20
#: An input that is slower than this hands over what it has, in seconds.
_DRAW_SECONDS = 0.01
#: What is left of workers this long after they were to be killed is given up, in seconds.
_END_SECONDS = 10.0
#: On the way out by an exception or a cancel, what runs gets so many seconds between SIGTERM and SIGKILL.
HURRY_SECONDS = 0.1
#: How long to wait for a thread that draws an input which does not end, in seconds.
_FEEDER_SECONDS = 0.2


class Sink(Protocol):
    """Where the outcomes of a call go. Called without the driver's lock; must not raise."""

    def deliver(self, outcomes: Deliver) -> None:
        """Take final outcomes."""

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more; `exception` ended the call early."""


class Call:
    """One call on its way."""

    def __init__(self, lock: Shield, work: Work, sink: Sink, source: Iterator[Any] | None) -> None:
        self.id = 0
        self.work = work
        self.namer: Namer = Namer(work)
        self.sink = sink
        self.source = source
        self.size: int | None = len(work.sequence) if work.sequence is not None else None
        self.drawn = 0
        self.wanted = 0  # items that the scheduler asks for
        self.fresh: deque[Any] = deque()  # items drawn that the scheduler does not know of
        self.hasty: bool = False  # each item drawn is to be handed over at once
        self._lock = lock
        self._news: threading.Condition | None = None
        self.waiting = 0  # threads that sleep on `news`
        self.pending: deque[Deliver | Finish] = deque()
        self.delivering: int | None = None  # the thread that does
        self.done = False

    @property
    def news(self) -> threading.Condition:
        """Told when something has changed; made when it is needed, as most calls are driven by who waits."""
        if self._news is None:
            self._news = threading.Condition(cast(threading.Lock, self._lock))
        return self._news


class Driver:
    """Runs calls on the workers that `settings` describe."""

    def __init__(self, settings: WorkerSettings, function: Callable[..., Any] | None = None) -> None:
        self._logs = Forwarding(settings.forward_logs)
        setup = Setup(
            initializer=settings.initializer,
            initargs=settings.initargs,
            start_method=settings.start_method,
            threads=threadlimits.limits(settings.threads_per_worker, settings.max_workers),
            function=function,
            logs=self._logs,
        )
        self._crew: Crew = settings.engine.open(setup)
        self._scheduler = Scheduler(
            settings.max_workers,
            max_tasks_per_child=settings.max_tasks_per_child,
            memory_limit=settings.memory_limit,
            initializes=settings.initializer is not None,
        )
        self.max_workers: int = settings.max_workers
        self._lock = Shield(self._tear_down, expected=(ClosedError,))
        self._calls: dict[int, Call] = {}
        self._outgoing: deque[Call] = deque()
        self._driving: int | None = None  # the thread that does
        self._sleeps_until: float | None = None
        self._waiting: dict[Call, int] = {}  # how many threads wait for a call without driving
        self._main_waits: list[Call] = []  # for which the main thread does; several, by signal handlers
        self._service: threading.Thread | None = None
        self._feeders: list[threading.Thread] = []
        self._service_news = threading.Condition(cast(threading.Lock, self._lock))
        self._service_sleeps = False
        self._hurried = False  # the service thread is not to wait for a caller
        self._ended = threading.Condition(cast(threading.Lock, self._lock))
        self._enders = 0  # threads that sleep on `_ended`
        self._closed = False
        self._all_ended = False  # the workers, and nothing struck their end in its midst
        self._refusing = False
        self._handing: list[int] = []  # threads that hand out outcomes
        self._torn: BaseException | None = None  # what ended all this in the midst of a step
        self._owner = os.getpid()
        _live.add(self)
        _end_all_at_exit()

    def stats(self) -> PoolStats:
        """What has happened here so far. ClosedError in a forked child."""
        self.check_owner()
        with self._lock:
            counters, usage = self._scheduler.counters, self._crew.usage()
            return PoolStats(
                workers=self._scheduler.workers,
                started=counters.started,
                lost=counters.lost,
                done=counters.done,
                failed=counters.failed,
                retried=counters.retried,
                dropped=counters.dropped,
                handed_in=counters.handed_in,
                busy_seconds=usage.busy,
                waiting_seconds=usage.waiting,
                bytes_in=usage.sent,
                bytes_out=usage.received,
                peak_rss=usage.peak,
                peak_rss_by_pid=usage.peaks,
            )

    @property
    def closed(self) -> bool:
        """Whether all is over here, or belongs to another process."""
        return self._closed or os.getpid() != self._owner

    @property
    def takes_calls(self) -> bool:
        """Whether a new call would be taken."""
        return not (self._closed or self._refusing or os.getpid() != self._owner)

    @property
    def is_served(self) -> bool:
        """Whether there is a service thread."""
        return self._service is not None

    @property
    def broken(self) -> BaseException | None:
        """Why no worker can be started."""
        return self._scheduler.broken

    @property
    def start_method(self) -> str | None:
        """The start method in use; None where the engine starts no processes."""
        return getattr(self._crew, "start_method", None)

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, and all of this belongs to its parent."""
        return os.getpid() != self._owner

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self._scheduler.workers

    @property
    def processes(self) -> list[BaseProcess]:
        """The processes of the workers; none where the engine has none."""
        with self._lock:
            return list(getattr(self._crew, "processes", ()))

    # Calls

    def submit(
        self,
        function: Callable[..., Any],
        style: Style,
        items: Sequence[Any] | Iterator[Any],
        spec: JobSpec,
        sink: Sink,
    ) -> Call:
        """Begin a call. An iterator is drawn by who waits for the call, or by `feed`."""
        self.check_owner()
        sequence = items if isinstance(items, (list, tuple, range)) else None
        source = iter(items) if sequence is None else None
        call = Call(self._lock, Work(function, style, sequence), sink, source)
        try:
            self._begin(call, spec)
        except BaseException:
            self.cancel(call)  # the caller will never have it
            raise
        return call

    def _begin(self, call: Call, spec: JobSpec) -> None:
        with self._lock:
            if self._closed or self._refusing:
                raise ClosedError("the pool is closed") from self._torn
            call.id = self._scheduler.submit(spec, time.monotonic())
            self._calls[call.id] = call
            self._crew.register(call.id, call.work)
            self._carry_out()
            self._hand_out()
            self._notice()

    @property
    def calls(self) -> list[Call]:
        """The calls that have not come to their end."""
        with self._lock:
            return list(self._calls.values())

    def is_running(self, call: Call) -> bool:
        """Whether a worker has been given something of the call."""
        with self._lock:
            return self._scheduler.is_held(call.id)

    def set_grace(self, seconds: float) -> None:
        """How long what is ended has between SIGTERM and SIGKILL, from now on."""
        self._scheduler.grace = seconds

    def refuse_calls(self) -> None:
        """Take no more calls."""
        with self._lock:
            self._refusing = True

    def make_room(self) -> None:
        """Start a worker for a task to come, if none is up and free."""
        with self._lock:
            if not self._closed:
                self._scheduler.make_room(time.monotonic())
                self._carry_out()

    def hear_logs(self) -> None:
        """Have what workers log handled also while nobody drives."""
        with self._lock:
            if not self._closed:
                with self._lock.unchanged():
                    self._logs.listen()

    def prestart(self) -> None:
        """Start all workers now."""
        with self._lock:
            if not self._closed:
                self._scheduler.prestart(self.max_workers, time.monotonic())
                self._carry_out()

    def wait(self, call: Call, timeout: float | None = None, ready: Callable[[], bool] | None = None) -> bool:
        """Wait until `call` is done, or `ready`; False where `timeout` seconds pass before."""
        self.check_owner()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            try:
                while not (call.done or (ready is not None and ready())):
                    if call.wanted and call.source is not None and ready is None:
                        self._draw(call)
                    elif not self._turn_or_sleep(call, deadline):
                        return False
            finally:
                self._lock.regain()
                self._wake_outer()
                self._pass_on()
        return True

    def feed(self, call: Call) -> None:
        """Draw the input of a call as it is wanted, until that ends: the work of a feeder thread."""
        with self._lock:
            while not (call.done or self._closed) and call.source is not None:
                if call.wanted:
                    self._draw(call)
                else:
                    call.waiting += 1
                    try:
                        self._lock.sleep(call.news, None)
                    finally:
                        call.waiting -= 1

    def cancel(self, call: Call, exception: BaseException | None = None) -> None:
        """End a call and what runs of it; returns at once."""
        self._tell(Cancel(call.id, exception))
        with self._lock:  # who waits may have seen enough, though the call ends with its processes only
            call.news.notify_all()
            if self._driving is not None and not self._closed:
                self._crew.wake()

    def take_back(self, make_error: Callable[[], BaseException]) -> None:
        """End what has not begun: calls as a whole, and the rest of those of many items."""
        with self._lock:
            if self._closed:
                return
            for call in list(self._calls.values()):
                if call.size != 1 or not self._scheduler.is_held(call.id):
                    self._scheduler.handle(JobFailed(call.id, make_error()), time.monotonic())
            self._carry_out()
            self._hand_out()
            self._notice()

    def consumed(self, call: Call, count: int) -> None:
        """The caller took results of a streaming call."""
        self._tell(Consumed(call.id, count))

    def _tell(self, event: Event) -> None:
        with self._lock:
            if self._closed:
                return
            self._scheduler.handle(event, time.monotonic())
            self._carry_out()
            self._hand_out()
            self._notice()

    # Driving

    def _turn_or_sleep(self, call: Call, deadline: float | None) -> bool:
        """Drive one turn, or let another thread drive; False where the deadline has passed."""
        if self._closed and not (call.pending or call.delivering is not None):
            raise ClosedError("the pool was ended while this call was under way") from self._torn
        if deadline is not None and time.monotonic() >= deadline:
            return False
        if deadline is None and call.delivering == threading.get_ident():
            with self._lock.unchanged():
                raise RuntimeError(
                    "a callback, a signal handler or a progress object waits for a call whose outcomes its "
                    "own thread is handing out at this moment, and would wait for itself: wait with a "
                    "timeout, or when the call is over"
                )
        if self._closed and call.delivering is None:
            self._hand_out()  # what there is of it; there will be no more
            return True
        if self._may_drive() and not self._closed:
            self._turn(deadline)
            return True
        in_main = threading.get_ident() == threading.main_thread().ident
        self._waiting[call] = self._waiting.get(call, 0) + 1
        if in_main:
            self._main_waits.append(call)
        call.waiting += 1
        try:
            self._lock.sleep(call.news, _left(deadline))
        finally:
            self._lock.regain()
            call.waiting -= 1
            if in_main:
                self._main_waits.remove(call)
            self._waiting[call] -= 1
            if not self._waiting[call]:  # `call.waiting` counts a feeder, too, who does not drive
                del self._waiting[call]
        return True

    def _may_drive(self) -> bool:
        # A signal handler may come here in the midst of its thread's own turn, which is at rest then.
        return self._driving is None or self._driving == threading.get_ident()

    def _wake_outer(self) -> None:
        # A turn of this thread in which a signal handler came sleeps on by what was known before: what it
        # sleeps for may have been taken in meanwhile, and when it is to wake may be another time.
        if self._driving == threading.get_ident():
            self._crew.wake()

    def _turn(self, deadline: float | None) -> None:
        """Sleep until something happens, and see to it."""
        if self._outgoing:  # who was to hand them out was struck meanwhile
            self._hand_out()
            return
        wake_at = self._scheduler.wake_at()
        if wake_at is not None and (deadline is None or wake_at < deadline):
            deadline = wake_at
        outer, self._driving = self._driving, threading.get_ident()
        self._sleeps_until = deadline
        try:
            timeout = None if deadline is None else deadline - time.monotonic()
            with self._lock.opened():
                happened = self._wait(timeout)
            try:
                if not self._closed:
                    self._take_in(self._crew.collect(happened))
            except Exception:
                if not self._closed:  # by another thread, which does not wait for this one: see `abandon`
                    raise
        finally:
            try:
                self._lock.regain()
            finally:
                self._driving = outer
                if self._enders:
                    self._ended.notify_all()
                if self._closed and outer is None:
                    self._crew.release()
        self._hand_out()

    def _wait(self, timeout: float | None) -> Any:
        try:
            return self._crew.wait(timeout)
        except (OSError, ValueError):
            if self._closed:  # by a signal handler, meanwhile
                return ()
            raise

    def _take_in(self, events: list[Event]) -> None:
        now = time.monotonic()
        for event in events:
            self._scheduler.handle(event, now)
        if not events:
            self._scheduler.handle(Tick(), now)
        self._carry_out()

    def _carry_out(self) -> None:
        """Do what the scheduler says, until it has no more to say."""
        while True:
            for command in self._scheduler.commands():
                _carry[type(command)](self, command)
            events = self._crew.collect(())
            if events:
                now = time.monotonic()
                for event in events:
                    self._scheduler.handle(event, now)
            elif not self._scheduler.has_commands:
                return

    def _answer(self, event: Event) -> None:
        self._scheduler.answer(event, time.monotonic())

    def _begin_draw(self, command: Draw) -> None:
        call = self._calls[command.job]
        if call.size is not None:
            count = min(command.count, call.size - call.drawn)
            call.drawn += count
            self._answer(ItemsReady(call.id, count, call.drawn >= call.size))
            return
        call.wanted = command.count
        call.hasty = False
        call.news.notify_all()

    def _queue(self, command: Deliver | Finish) -> None:
        call = self._calls[command.job]
        if not call.pending:
            self._outgoing.append(call)
        call.pending.append(command)
        if isinstance(command, Finish):
            del self._calls[command.job]
            self._crew.forget(command.job)

    def _hand_out(self) -> None:
        """Give outcomes to those who asked for them, without the lock."""
        me = threading.get_ident()
        while self._outgoing:
            call = self._outgoing.popleft()
            if call.delivering is not None:
                continue  # rule 2: the thread that is at it will see them
            call.delivering = me
            self._handing.append(me)
            try:
                with self._lock.lent():
                    while call.pending:
                        self._hand_over(call, call.pending.popleft())
            finally:
                try:
                    self._lock.regain()
                finally:
                    call.delivering = None
                    self._handing.remove(me)
                    if self._enders:
                        self._ended.notify_all()
                    if call.pending:  # user code was interrupted; the rest is for whoever comes next
                        self._outgoing.append(call)
                    if call.waiting:
                        call.news.notify_all()
                    if self._driving is not None:
                        self._crew.wake()  # who drives may be waiting for just this

    @staticmethod
    def _hand_over(call: Call, command: Deliver | Finish) -> None:
        # A Ctrl-C in the user's code, which is called here, costs a note or a bar, and no outcome.
        if isinstance(command, Finish):
            try:
                call.sink.finish(command.exception)
            finally:
                call.done = True
            return
        try:
            if command.failures:
                for offset, exception in command.failures.items():
                    with unshielded():
                        call.namer.name(command.start + offset, exception)
        finally:
            call.sink.deliver(command)
        drawn = call.work.drawn
        if drawn:
            for index in range(command.start, command.start + len(command.values)):
                drawn.pop(index, None)

    def _notice(self) -> None:
        """Something changed while another thread may be asleep in `wait`, or nobody drives."""
        if self._driving is not None:
            wake_at = self._scheduler.wake_at()
            asleep = self._sleeps_until
            if wake_at is not None and (asleep is None or wake_at < asleep):
                self._crew.wake()
        self._pass_on()

    def _pass_on(self) -> None:
        """Nobody drives any more: let one who waits do it, or the service thread."""
        if self._driving is not None:
            return
        for call in self._waiting:
            if call not in self._main_waits:
                call.news.notify_all()
                return
        # The main thread may be in a signal handler, and not wake before that has ended, which waits perhaps.
        for call in self._main_waits:
            call.news.notify_all()
        if self._service_sleeps and self._has_work():
            self._service_news.notify_all()

    def _has_work(self) -> bool:
        return bool(self._scheduler.jobs or self._outgoing)

    # Inputs

    def _draw(self, call: Call) -> None:
        """Draw as many items as are wanted; called under the lock, which is let go meanwhile."""
        wanted, call.wanted = call.wanted, 0
        error: BaseException | None = None
        exhausted = False
        try:
            with self._lock.opened(), unshielded():
                exhausted = _take(call, wanted)
        except BaseException as raised:
            error = raised  # of any kind: it ends the call, not the thread that draws
        try:
            self._lock.regain()
        except BaseException as raised:
            error = error or raised
        if self._closed:  # meanwhile: the calls of a torn pool are at their end
            return
        if exhausted or error is not None:
            call.source = None
        count = _add_drawn(call)
        now = time.monotonic()
        self._scheduler.handle(ItemsReady(call.id, count, exhausted and error is None), now)
        if error is not None:
            self._scheduler.handle(InputFailed(call.id, error), now)
        self._carry_out()
        self._hand_out()
        self._notice()

    def _hasten(self, command: Hasten) -> None:
        call = self._calls[command.job]
        # In this order, as the thread that draws adds an item first and looks at `hasty` then.
        call.hasty = True
        count = _add_drawn(call)
        if count:
            self._answer(ItemsReady(call.id, count, exhausted=False, under_way=True))

    # The service thread

    def serve(self, call: Call | None = None) -> None:
        """From now on calls go on also where nobody waits for them.

        With `call`, its input is drawn in a thread of its own: whoever takes its results may do so to
        make the next items.
        """
        self.check_owner()
        with self._lock:
            if self._closed:
                return
            with self._lock.unchanged():
                if call is not None and call.source is not None:
                    self._start_feeder(call)
                if self._service is None:
                    self._start_service()

    def _start_service(self) -> None:
        work = self._serve, self._start_service
        self._service = start_shielded(self._hold_out, work, "parallelkit-service")

    def _start_feeder(self, call: Call) -> None:
        work = functools.partial(self.feed, call), functools.partial(self._start_feeder, call)
        self._feeders = [thread for thread in self._feeders if thread.is_alive()]
        self._feeders.append(start_shielded(self._hold_out, work, "parallelkit-feeder"))

    def _hold_out(self, work: Callable[[], None], begin_again: Callable[[], None]) -> None:
        """The life of a thread of ours: where it is struck, another takes over, or all ends.

        SystemExit and its like come from outside (`PyThreadState_SetAsyncExc`) and mean this thread alone.
        """
        try:
            with self._lock, self._lock.unchanged():
                ours = self._has_this_thread()
            if ours:  # or who started it was struck
                work()
        except BaseException as error:
            with self._lock:
                if isinstance(error, Exception):
                    self._tear_down(error)
                elif not self._closed and self._has_this_thread():
                    begin_again()
            raise

    def _has_this_thread(self) -> bool:
        me = threading.current_thread()
        return me is self._service or me in self._feeders

    def _serve(self) -> None:
        with self._lock:
            idle = 0
            while not self._closed:
                if self._driving is not None or not self._has_work():
                    idle += 1
                    self._nap(None if idle > _MOMENTS else PATIENCE)
                    continue
                idle = 0
                if not self._hurried:
                    self._nap(PATIENCE)
                self._hurried = False
                while self._driving is None and self._has_work() and not self._closed:
                    self._turn(None)
                self._pass_on()

    def hurry(self) -> None:
        """Nobody will come and drive: somebody is to be told of an outcome, and does not wait for it."""
        with self._lock:
            if self._driving is None and not self._closed:
                self._hurried = True
                self._service_news.notify_all()

    def _nap(self, timeout: float | None) -> None:
        self._service_sleeps = timeout is None
        try:
            self._lock.sleep(self._service_news, timeout)
        finally:
            self._service_sleeps = False

    # The end

    def lift_bounds(self) -> None:
        """Nobody may come any more to take results: finish the work all the same."""
        with self._lock:
            if not self._closed:
                self._scheduler.lift_bounds(time.monotonic())
                self._carry_out()
                self._notice()

    def hand_out(self) -> None:
        """Wait until all outcomes that there are have been handed out, by whichever threads are at it."""
        with self._lock:
            self._hand_out()
            me = threading.get_ident()  # which does so itself, where this is called by a signal handler
            while any(thread != me for thread in self._handing):
                self._enders += 1
                try:
                    self._lock.sleep(self._ended, None)
                finally:
                    self._lock.regain()
                    self._enders -= 1

    def shut_down(self, timeout: float | None = None) -> bool:
        """Let all work finish, then all workers end; False where `timeout` passes before."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if not self._drive_until(lambda: not self._scheduler.jobs, deadline):
                return False
            self._scheduler.stop_workers(time.monotonic())
            self._carry_out()
            if not self._drive_until(lambda: not self._scheduler.workers, deadline):
                return False
            self._close()
        self._join_threads(None)
        return True

    def terminate(self, grace: float | None = None) -> None:
        """End all work and all workers now; by force where they are still there after `grace` seconds."""
        if os.getpid() != self._owner:
            return
        try:
            with self._lock:
                if not self._closed:
                    self._end_work(grace)
                    self._close()
                    self._end_calls(None)  # of workers that even the kernel has not ended
                    self._hand_out()
        except BaseException as error:
            # A second Ctrl-C, say, or a first one that struck in the midst of a step.
            with shielded():
                try:
                    if not self._closed:
                        self._closed = True
                        self._end_crew()
                finally:
                    # Not by this thread, which would wait for whoever has the lock.
                    self.in_background(functools.partial(self._finish_calls, error))
            raise
        self._join_threads(_END_SECONDS)

    def _end_work(self, grace: float | None) -> None:
        now = time.monotonic()
        if grace is not None:
            self.set_grace(grace)
        self._scheduler.end_all(ClosedError("the pool was terminated"), now)
        self._scheduler.kill_workers(now)
        self._carry_out()
        self._hand_out()
        self._crew.wake()
        self._drive_until(lambda: not self._scheduler.workers, now + _END_SECONDS)

    def discard(self) -> None:
        """Terminate, called by the garbage collector, which may interrupt this very driver."""
        if self._closed or os.getpid() != self._owner:
            return
        if self._may_enter():
            self.terminate()
        else:
            self.in_background(self.terminate)

    def discard_call(self, call: Call) -> None:
        """Cancel, called by the garbage collector."""
        if self._closed or os.getpid() != self._owner:
            return
        if self._may_enter():
            self.cancel(call)
        else:
            self.in_background(lambda: self.cancel(call))

    def _may_enter(self) -> bool:
        if self._driving == threading.get_ident() or self._lock.mine:
            return False
        if not self._lock.acquire(blocking=False):
            return False
        self._lock.release()
        return True

    def in_background(self, function: Callable[[], None]) -> None:
        """Do what may take some time, without waiting for it."""
        try:
            threading.Thread(target=function, name="parallelkit-discard", daemon=True).start()
        except RuntimeError:  # the interpreter is about to end
            self.abandon()

    def _drive_until(self, reached: Callable[[], bool], deadline: float | None) -> bool:
        try:
            while not reached() and not self._closed:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                if self._may_drive():
                    self._turn(deadline)
                else:
                    # Another thread drives: look again when it has done something.
                    self._enders += 1
                    try:
                        self._lock.sleep(self._ended, _left(deadline))
                    finally:
                        self._lock.regain()
                        self._enders -= 1
        finally:
            self._wake_outer()
            self._pass_on()
        return True

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._wake_all()
            self._end_crew()

    def _end_crew(self) -> None:
        try:
            self._close_crew()
        finally:
            self._logs.end()

    def _close_crew(self) -> None:
        # Whoever sleeps in `wait` is woken, and closes himself what he sleeps on: where that is closed before
        # he has seen why he was woken, the kernel lets him sleep on, for ever.
        try:
            self._crew.wake()
        finally:
            try:
                self._crew.close()
                self._all_ended = True
            except BaseException:  # struck in its midst, perhaps: it goes on with what is left
                self._crew.close()
                self._all_ended = True
                raise
            finally:
                if self._may_drive():
                    self._crew.release()

    def _wake_all(self) -> None:
        self._service_news.notify_all()
        self._ended.notify_all()
        for call in [*self._calls.values(), *self._waiting]:
            call.news.notify_all()

    def _tear_down(self, error: BaseException) -> None:
        """Something has left the state in two: nobody can count on it any more, so all of it ends."""
        if self._closed:
            return
        self._torn = error
        self._closed = True
        self._wake_all()
        self._end_calls(error)
        try:
            with contextlib.suppress(Exception):
                self._end_crew()
        finally:
            if self._outgoing:
                # Not by this thread, which is on its way out and has the lock.
                self.in_background(functools.partial(self._finish_calls, error))

    def _end_calls(self, error: BaseException | None) -> None:
        for call in self._calls.values():
            ended = ClosedError("the pool was ended while this call was under way")
            ended.__cause__ = error
            call.pending.append(Finish(call.id, ended))
            self._outgoing.append(call)
        self._calls.clear()

    def _finish_calls(self, error: BaseException) -> None:
        """What no worker will end any more: tell who waits, and whoever sleeps."""
        with self._lock:
            self._end_calls(error)
            self._wake_all()
            self._hand_out()

    def _join_threads(self, seconds_for_logs: float | None) -> None:
        with self._lock:
            self._wake_all()
        for thread in (self._service, *self._feeders):
            if thread is not None and thread is not threading.current_thread():
                # A feeder may be blocked in the caller's own input: it ends when that moves on.
                thread.join(None if thread is self._service else _FEEDER_SECONDS)
        self._logs.join(seconds_for_logs)

    def abandon(self) -> None:
        """Kill what there is, without asking: the interpreter is about to end, or the owner forgot us."""
        if os.getpid() == self._owner and not self._closed:
            with shielded():
                self._closed = True
                try:
                    self._end_crew()
                finally:
                    # Whoever has the lock now sees by himself that it is over; who sleeps has to be told.
                    if not self._lock.mine and self._lock.acquire(blocking=False):
                        self._wake_all()
                        self._lock.release()

    def check_owner(self) -> None:
        """ClosedError in a forked child, which has inherited the pool and none of its workers."""
        if os.getpid() != self._owner:
            raise ClosedError(
                f"this pool belongs to process {self._owner}: a forked child cannot use it; "
                "make a pool in the child"
            )


_carry: dict[type[Command], Callable[[Driver, Any], None]] = {
    StartWorker: lambda driver, command: driver._crew.start(command.worker),
    StopWorker: lambda driver, command: driver._crew.stop(command.worker),
    RunChunk: lambda driver, command: driver._crew.run(command.worker, command.chunk),
    Kill: lambda driver, command: driver._crew.kill(command.worker, force=command.force),
    Observe: lambda driver, command: driver._answer(driver._crew.observe(command.worker)),
    Peek: lambda driver, command: driver._crew.peek(command.worker),
    Revoke: lambda driver, command: driver._answer(driver._crew.revoke(command.worker)),
    Measure: lambda driver, command: driver._answer(driver._crew.measure(command.worker)),
    Draw: Driver._begin_draw,
    Hasten: Driver._hasten,
    Deliver: Driver._queue,
    Finish: Driver._queue,
    Broken: lambda driver, command: None,
}


def _take(call: Call, most: int) -> bool:
    """Draw up to `most` items into `call.fresh`; True where there are no more."""
    begin = time.monotonic()
    add = call.fresh.append
    source = call.source
    assert source is not None
    count = 0
    for item in itertools.islice(source, most):
        add(item)
        count += 1
        if call.hasty:
            return False
        if (count < 64 or count & 63 == 0) and time.monotonic() - begin > _DRAW_SECONDS:
            return False
    return count < most


def _add_drawn(call: Call) -> int:
    """Number the items that were drawn, for the workers to be given; return how many there are."""
    first = call.drawn
    fresh, drawn = call.fresh, call.work.drawn
    while fresh:
        drawn[call.drawn] = fresh.popleft()
        call.drawn += 1
    return call.drawn - first


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


_live: weakref.WeakSet[Driver] = weakref.WeakSet()
_registered_in = 0


def _end_all_at_exit() -> None:
    # multiprocessing runs these before it waits for its processes, in the main process and in workers.
    global _registered_in
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        util.Finalize(None, _abandon_all, exitpriority=100)


def _abandon_all() -> None:
    with contextlib.ExitStack() as each:  # whatever becomes of another
        for driver in list(_live):
            if not driver.inherited:
                each.callback(_abandon_for_good, driver)


def _abandon_for_good(driver: Driver) -> None:
    try:
        try:
            driver.abandon()
        finally:
            if not driver._all_ended:
                driver._closed = True
                driver._end_crew()
    finally:
        driver._logs.join(_END_SECONDS)
