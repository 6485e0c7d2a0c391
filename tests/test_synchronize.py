from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.process
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soak_locks import Numbers

from parallelkit import resources, synchronize
from parallelkit.synchronize import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
    arena,
    mutex,
    sleepers,
)

#: An answer that does not come is a failure, in seconds.
_LONG = 20.0
_FORK: Any = multiprocessing.get_context("fork")
#: Its barriers are in memory that it keeps for ever: not that of the first test that makes one.
_FORK.Barrier(1)
_NAMES = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"]


@pytest.fixture(params=["multiprocessing", "parallelkit"])
def kit(request: pytest.FixtureRequest) -> Any:
    """The same tests hold for multiprocessing's classes and for ours."""
    return _FORK if request.param == "multiprocessing" else synchronize


@contextlib.contextmanager
def running(
    context: Any, target: Callable[..., object], *args: object
) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that has ended by itself, and well, when the block is over."""
    process = context.Process(target=target, args=args)
    process.start()
    try:
        yield process
        process.join(_LONG)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def thread(target: Callable[[], object], name: str | None = None) -> Iterator[None]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LONG)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Locks.


def test_a_lock_is_held_by_one(kit: Any) -> None:
    lock = kit.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(block=True, timeout=0) is False
    assert lock.acquire(timeout=-1) is False
    assert lock.acquire(False, 100) is False
    assert lock.release() is None
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        lock.release()
    with lock as got:
        assert got is True
        assert lock.acquire(False) is False
    assert lock.acquire(False) is True


def test_a_recursive_lock_belongs_to_a_thread(kit: Any) -> None:
    lock = kit.RLock()
    assert all(lock.acquire() for _ in range(3))

    def other() -> None:
        assert lock.acquire(False) is False
        with pytest.raises(AssertionError, match="attempt to release recursive lock not owned by thread"):
            lock.release()

    for _ in range(3):
        with thread(other):
            pass
        lock.release()
    with pytest.raises(AssertionError, match="attempt to release recursive lock not owned by thread"):
        lock.release()
    with thread(lambda: lock.acquire(timeout=_LONG) and lock.release()):
        pass


def test_a_timeout_is_kept(kit: Any) -> None:
    lock = kit.Lock()
    with lock:
        start = time.monotonic()
        assert lock.acquire(timeout=0.15) is False
        assert 0.14 < time.monotonic() - start < 5


def test_another_thread_may_release_a_lock(kit: Any) -> None:
    lock = kit.Lock()
    lock.acquire()
    with thread(lock.release):
        assert lock.acquire(timeout=_LONG)


def test_a_waiting_thread_gets_the_lock(kit: Any) -> None:
    lock, got = kit.Lock(), []
    lock.acquire()
    with thread(lambda: got.append(lock.acquire())):
        time.sleep(0.01)
        assert not got
        lock.release()
    assert got == [True]


def release(lock: Any) -> None:
    lock.release()


def test_another_process_may_release_a_lock(kit: Any) -> None:
    lock = kit.Lock()
    for _ in range(3):
        assert lock.acquire(timeout=_LONG)
        with running(_FORK, release, lock):
            pass
    assert lock.acquire(False)
    with running(_FORK, release, lock):
        pass
    with pytest.raises(ValueError, match="too many times"):
        lock.release()
    assert lock.acquire(False)


def refuses_to_release(lock: Any) -> None:
    with pytest.raises(AssertionError):
        lock.release()


def test_no_other_process_may_release_a_recursive_lock(kit: Any) -> None:
    lock = kit.RLock()
    with lock, running(_FORK, refuses_to_release, lock):
        pass


def show(connection: Any, lock: Any) -> None:
    connection.send(repr(lock))
    connection.recv()
    lock.acquire()
    connection.send(repr(lock))
    connection.recv()
    lock.release()


@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_what_a_lock_looks_like(kit: Any, name: str) -> None:
    lock = getattr(kit, name)()
    first, second = ("", "") if name == "Lock" else (", 0", ", nonzero")
    prefix = f"<{name}(owner=" if name == "Lock" else f"<{name}("
    assert repr(lock) == f"{prefix}None{first})>"
    seen = []
    with lock:
        assert repr(lock) == f"{prefix}MainProcess{first and ', 1'})>"
        with thread(lambda: seen.append(repr(lock))):
            pass
        assert seen == [f"{prefix}SomeOtherThread{second})>"]

    def look() -> None:
        with lock:
            seen.append(repr(lock))

    with thread(look, "Ann"):
        pass
    assert seen[1] == f"{prefix}MainProcess|Ann{first and ', 1'})>"
    ours, theirs = _FORK.Pipe()
    with ours, theirs, running(_FORK, show, theirs, lock):
        assert ours.recv() == f"{prefix}None{first})>"
        ours.send(None)
        assert "Process-" in ours.recv()
        assert repr(lock) == f"{prefix}SomeOtherProcess{second})>"
        ours.send(None)


@settings(max_examples=60)
@given(st.sampled_from(_NAMES[:4]), st.lists(st.sampled_from(["acquire", "release", "with"]), max_size=12))
def test_the_same_calls_have_the_same_effects(name: str, calls: list[str]) -> None:
    def effects(thing: Any) -> Iterator[object]:
        for call in calls:
            try:
                if call == "acquire":
                    yield thing.acquire(False)
                elif call == "release":
                    yield thing.release()
                elif thing.acquire(timeout=0):
                    thing.release()
                    with thing as inner:
                        yield inner
            except (ValueError, AssertionError) as error:
                yield repr(error)
            yield repr(thing)

    assert list(effects(getattr(synchronize, name)())) == list(effects(getattr(_FORK, name)()))


def test_whether_it_is_locked() -> None:
    for thing in Lock(), RLock(), Semaphore(1):
        assert not thing.locked()
        with thing:
            assert thing.locked()
        assert not thing.locked()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="on_abandoned must be 'ignore' or 'raise', not 'cry'"):
        Lock(on_abandoned="cry")  # type: ignore[arg-type]
    for value in (-1, 1 << 40):
        with pytest.raises(ValueError, match="must be from 0 to"):
            Semaphore(value)
    with pytest.raises(TypeError, match="must be an int, not str"):
        BoundedSemaphore("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Lock or RLock for processes, not lock"):
        Condition(threading.Lock())  # type: ignore[arg-type]
    for parties in (0, -1):
        with pytest.raises(ValueError, match="parties must be at least 1"):
            Barrier(parties)
    with pytest.raises(ValueError, match="more than fit"):
        Barrier(1 << 20)


class Loud(Lock):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        self.heard.append("acquire")
        return super().acquire(block, timeout)


def test_a_subclass_can_have_its_own_acquire() -> None:
    lock = Loud()
    with lock:
        assert lock.acquire(False) is False
    assert lock.heard == ["acquire", "acquire"]
    assert not lock.locked()


class Alarm(Exception):
    pass


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_an_exception_of_a_signal_leaves_the_lock_in_order(kind: type[Lock] | type[RLock]) -> None:
    """Wherever it comes, the lock is then held as its state says, and can be used."""
    lock = kind()
    with lock:
        pass  # the first time takes what is not to be interrupted here

    def ring(*_: object) -> None:
        raise Alarm

    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, ring)
    rung = 0
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-4))
                while True:
                    lock.acquire()
                    lock.release()
            except Alarm:
                rung += 1
            if lock._semlock._count():
                lock.release()
            assert not lock.locked()
            with thread(lambda: lock.acquire(timeout=_LONG) and lock.release()):
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == 300


def increment(lock: Any, number: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            number[0] += 1


@pytest.mark.parametrize("has_gil", [True, False])
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_threads_of_processes_exclude_each_other(
    kind: type[Lock] | type[RLock], has_gil: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutex, "_HAS_GIL", has_gil)
    lock = kind()
    number = Numbers(1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work() -> None:
        with thread(lambda: increment(lock, number, 2000)), thread(lambda: increment(lock, number, 2000)):
            pass

    try:
        with running(_FORK, work), running(_FORK, work):
            work()
    finally:
        sys.setswitchinterval(interval)
    assert number[0] == 12000


def test_a_child_does_not_hold_what_its_parent_holds() -> None:
    lock, recursive = Lock(), RLock()

    def child() -> None:
        assert not lock.acquire(False)
        assert not recursive.acquire(False)
        assert not recursive.acquire(timeout=0.1)
        assert not lock.abandoned

    with lock, recursive:
        with running(_FORK, child):
            pass
        assert recursive.acquire(False)
        recursive.release()


def test_locks_are_not_bounded_by_the_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    locks = [Lock() for _ in range(3000)]
    assert len(os.listdir("/proc/self/fd")) - before < 30
    for lock in locks:
        with lock:
            pass


def test_the_slot_of_a_dead_process_is_reused_when_there_is_no_other() -> None:
    lock = Lock()
    own = lock._semlock.block.arena
    with running(_FORK, int) as process:
        pass
    for slot in range(arena.SLOTS):
        own._registry[2 * slot] = process.pid or 0
        lock._semlock.words[slot] = 0x0101
    assert own.slot() == 0
    assert lock._semlock.words[:2].tolist() == [0, 0x0101]
    lock._semlock.words[1:] = memoryview(bytes(2 * (arena.SLOTS - 1))).cast("H")
    with lock:
        assert lock._semlock.words[0] == mutex.CLAIM


def test_too_many_processes() -> None:
    lock = Lock()
    own = lock._semlock.block.arena
    for slot in range(arena.SLOTS):
        own._registry[2 * slot] = os.getpid()
        own._registry[2 * slot + 1] = resources.start_time(os.getpid()) or 0.0
    with pytest.raises(RuntimeError, match="more than 1024 processes"):
        lock.acquire()


# Passing them on.


def make_all(context: object = None) -> dict[str, Any]:
    arguments: dict[str, tuple[Any, ...]] = {"BoundedSemaphore": (2,), "Barrier": (2,)}
    return {name: getattr(synchronize, name)(*arguments.get(name, ()), ctx=context) for name in _NAMES}


def use_all(kit: dict[str, Any], connection: Any) -> None:
    for name in _NAMES[:5]:
        with kit[name]:
            connection.send(repr(kit[name]))
            connection.recv()
    with kit["Condition"]:
        connection.send("waits")
        assert kit["Condition"].wait(_LONG)
    kit["Event"].set()
    assert kit["Barrier"].wait(_LONG) in (0, 1)


def pass_on(method: str, kit: dict[str, Any], connection: Any) -> None:
    with running(multiprocessing.get_context(method), use_all, kit, connection):
        pass


@pytest.mark.parametrize("generations", [1, 2])
def test_they_are_arguments_of_processes(start_method: str, generations: int) -> None:
    context: Any = multiprocessing.get_context(start_method)
    kit = make_all(context)
    ours, theirs = context.Pipe()
    process = (
        context.Process(target=use_all, args=(kit, theirs))
        if generations == 1
        else context.Process(target=pass_on, args=(start_method, kit, theirs))
    )
    process.start()
    try:
        for name in _NAMES[:5]:
            assert ours.poll(_LONG)
            seen = ours.recv()
            assert name in seen
            if name not in ("Semaphore", "BoundedSemaphore"):
                assert "Process-" in seen
                assert "SomeOtherProcess" in repr(kit[name])
                assert kit[name].acquire(False) is False
            ours.send(None)
        assert ours.recv() == "waits"
        with kit["Condition"]:
            kit["Condition"].notify()
        assert kit["Event"].wait(_LONG)
        assert kit["Barrier"].wait(_LONG) in (0, 1)
        process.join(_LONG)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("name", _NAMES)
def test_they_are_pickled_only_for_a_new_process(name: str) -> None:
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        pickle.dumps(make_all()[name])


# Semaphores.


def test_a_semaphore_counts(kit: Any) -> None:
    semaphore = kit.Semaphore(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire()
    with semaphore:
        assert semaphore.get_value() == 0
        assert semaphore.acquire(False) is False
        assert semaphore.acquire(True, 0.01) is False
        assert semaphore.acquire(timeout=-3) is False
        with thread(lambda: semaphore.acquire(timeout=_LONG)):
            semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 2
    assert repr(semaphore) == "<Semaphore(value=2)>"


def test_a_bounded_semaphore_is_bounded(kit: Any) -> None:
    semaphore = kit.BoundedSemaphore(1)
    with semaphore:
        assert repr(semaphore) == "<BoundedSemaphore(value=0, maxvalue=1)>"
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 1


# Conditions.


def wait_in_threads(condition: Any, woken: list[int], count: int) -> contextlib.ExitStack:
    """Threads that wait; they are numbered in the order in which they came."""
    stack = contextlib.ExitStack()
    for number in range(count):
        holding = threading.Event()

        def wait(number: int = number, holding: threading.Event = holding) -> None:
            with condition:
                holding.set()
                assert condition.wait(_LONG)
                woken.append(number)

        stack.enter_context(thread(wait))
        assert holding.wait(_LONG)
        with condition:
            pass  # so it sleeps by now
    return stack


def until_woken(woken: list[int], count: int) -> None:
    eventually(lambda: len(woken) == count)


def test_who_waits_is_notified(kit: Any) -> None:
    condition, woken = kit.Condition(), []  # type: ignore[var-annotated]
    with wait_in_threads(condition, woken, 5):
        assert repr(condition) == "<Condition(<RLock(None, 0)>, 5)>"
        for count, expected in (1, 1), (2, 3), (0, 3):
            with condition:
                condition.notify(count)
            until_woken(woken, expected)
        with condition:
            condition.notify_all()
        until_woken(woken, 5)
    with condition:
        condition.notify(3)
        assert condition.wait(0.01) is False
        assert condition.wait(-1) is False


def test_who_came_first_is_notified_first() -> None:
    condition, woken = Condition(Lock()), list[int]()
    with wait_in_threads(condition, woken, 4):
        for count in range(1, 5):
            with condition:
                condition.notify()
            until_woken(woken, count)
    assert woken == [0, 1, 2, 3]


def test_a_condition_needs_its_lock(kit: Any) -> None:
    condition = kit.Condition()
    for call in condition.wait, condition.notify, condition.notify_all:
        with pytest.raises(AssertionError):
            call()


def test_a_condition_releases_a_recursive_lock_as_a_whole(kit: Any) -> None:
    lock = kit.RLock()
    condition = kit.Condition(lock)

    def notify() -> None:
        assert lock.acquire(timeout=_LONG)
        condition.notify()
        lock.release()

    with condition, lock:
        with thread(notify):
            assert condition.wait(_LONG)
        assert repr(lock) == "<RLock(MainProcess, 2)>"


def test_waiting_for_a_predicate(kit: Any) -> None:
    condition, values = kit.Condition(), [0]

    def count() -> None:
        for _ in range(3):
            with condition:
                values[0] += 1
                condition.notify()

    with condition:
        assert condition.wait_for(lambda: "at once", 0) == "at once"
        assert condition.wait_for(lambda: values[0] > 5, 0.02) is False
        with thread(count):
            assert condition.wait_for(lambda: values[0] == 3, _LONG) is True


def test_a_condition_on_the_lock_of_multiprocessing() -> None:
    condition, woken = Condition(_FORK.RLock()), list[int]()
    with wait_in_threads(condition, woken, 1), condition:
        condition.notify()
    assert woken == [0]


def test_an_interrupted_wait_hands_its_notification_on() -> None:
    condition, woken = Condition(), list[bool]()

    def wait() -> None:
        with condition:
            woken.append(condition.wait(_LONG))

    def interrupt(*_: object) -> None:
        condition._sleepers._woken[0] = 1  # as a notification does that comes just now
        raise KeyboardInterrupt

    def interrupt_when_both_sleep() -> None:
        eventually(lambda: condition._sleepers.count() == 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with contextlib.ExitStack() as threads, condition:
            threads.enter_context(thread(wait))
            threads.enter_context(thread(interrupt_when_both_sleep))
            with pytest.raises(KeyboardInterrupt):
                condition.wait(_LONG)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert woken == [True]


def test_too_many_wait() -> None:
    table = sleepers.Sleepers(2)
    places = [table.enter(), table.enter()]
    with pytest.raises(RuntimeError, match="more than 2 threads and processes wait at once"):
        table.enter()
    table.leave(places[0])
    assert table.enter() == places[0]


# Events.


def test_an_event_is_set_and_cleared(kit: Any) -> None:
    event = kit.Event()
    assert not event.is_set()
    assert event.wait(0) is False
    assert event.wait(0.02) is False
    woken: list[bool] = []
    with thread(lambda: woken.append(event.wait(_LONG))), thread(lambda: woken.append(event.wait())):
        time.sleep(0.01)
        assert not woken
        event.set()
    assert woken == [True, True]
    assert event.is_set()
    assert event.wait() is True
    event.clear()
    assert event.wait(0) is False


def test_what_an_event_looks_like() -> None:
    event = Event()
    assert repr(event) == f"<Event at {id(event):#x} unset>"
    event.set()
    assert repr(event) == f"<Event at {id(event):#x} set>"


def test_a_flag_that_is_cleared_at_once_has_been_set() -> None:
    event, woken = Event(), list[bool]()
    with thread(lambda: woken.append(event.wait(_LONG))):
        eventually(lambda: event._sleepers.count())
        event.set()
        event.clear()
    assert woken == [True]


# Barriers.


def test_a_barrier_is_passed_in_step(kit: Any) -> None:
    passed: list[int] = []
    barrier = kit.Barrier(3, action=lambda: passed.append(-1), timeout=_LONG)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    assert isinstance(barrier, threading.Barrier)

    def work() -> None:
        for _ in range(30):
            index = barrier.wait()
            passed.append(index)

    with thread(work), thread(work):
        work()
    rounds = [passed[i : i + 4] for i in range(0, 120, 4)]
    assert sorted(passed) == [-1] * 30 + [0] * 30 + [1] * 30 + [2] * 30
    assert rounds[0][0] == -1
    assert barrier.n_waiting == 0


def test_a_barrier_breaks_at_its_timeout(kit: Any) -> None:
    barrier = kit.Barrier(2, timeout=0.01)
    for call in barrier.wait, barrier.wait, lambda: barrier.wait(_LONG):
        with pytest.raises(threading.BrokenBarrierError):
            call()
    assert barrier.broken
    assert barrier.n_waiting == 0
    barrier.reset()
    assert not barrier.broken
    with thread(lambda: barrier.wait(_LONG)):
        barrier.wait(_LONG)


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_a_barrier_is_ended_by_hand(kit: Any, how: str) -> None:
    barrier = kit.Barrier(3)

    def wait() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(_LONG)

    with thread(wait), thread(wait):
        eventually(lambda: barrier.n_waiting == 2)
        getattr(barrier, how)()
    assert barrier.broken == (how == "abort")
    barrier.reset()
    with thread(lambda: barrier.wait(_LONG)), thread(lambda: barrier.wait(_LONG)):
        barrier.wait(_LONG)


def test_an_action_that_fails_breaks_the_barrier(kit: Any) -> None:
    barrier = kit.Barrier(1, action=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    assert barrier.broken


def test_what_a_barrier_looks_like() -> None:
    barrier = Barrier(2)
    place = f"<parallelkit.synchronize.barriers.Barrier at {id(barrier):#x}: "
    assert repr(barrier) == place + "waiters=0/2>"
    barrier.abort()
    assert repr(barrier) == place + "broken>"


def meet(barrier: Any, times: int) -> None:
    for _ in range(times):
        barrier.wait(_LONG)


def test_processes_meet_at_a_barrier() -> None:
    barrier = Barrier(3)
    with running(_FORK, meet, barrier, 50), running(_FORK, meet, barrier, 50):
        meet(barrier, 50)
