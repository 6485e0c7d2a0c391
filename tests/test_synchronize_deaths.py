from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from soak_locks import Soak

from parallelkit import resources
from parallelkit.errors import AbandonedError
from parallelkit.synchronize import Barrier, Condition, Event, Lock, RLock, Semaphore, arena, mutex
from parallelkit.synchronize.mutex import Mutex

#: An answer that does not come is a failure, in seconds.
_LONG = 20.0
_FORK: Any = multiprocessing.get_context("fork")
AnyLock = Lock | RLock


class Victim:
    """A process that runs `target(tell, *args)`, whatever it does then."""

    def __init__(self, target: Callable[..., object], *args: object, method: str = "fork") -> None:
        context: Any = multiprocessing.get_context(method)
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(theirs, target, args))
        self.process.start()
        theirs.close()

    def hear(self) -> object:
        assert self.ours.poll(_LONG)
        return self.ours.recv()

    def kill(self, by: int = signal.SIGKILL) -> None:
        os.kill(self.process.pid, by)
        if by == signal.SIGKILL:
            self.process.join()

    def end(self) -> int:
        self.process.join(_LONG)
        assert self.process.exitcode is not None
        return int(self.process.exitcode)


def run(connection: Any, target: Callable[..., object], args: tuple[object, ...]) -> None:
    target(connection.send, *args)


@pytest.fixture
def victims() -> Iterator[Callable[..., Victim]]:
    started: list[Victim] = []

    def start(*args: Any, **options: Any) -> Victim:
        started.append(Victim(*args, **options))
        return started[-1]

    yield start
    for victim in started:
        victim.process.kill()
        victim.process.join()
        victim.process.close()
        victim.ours.close()
    started.clear()


Start = Callable[..., Victim]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_blocked(victim: Victim) -> bool:
    """Whether a process of one thread sleeps in the kernel, as in a semaphore."""
    with open(f"/proc/{victim.process.pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"S"


def hold(tell: Callable[[object], None], lock: AnyLock, depth: int = 1) -> None:
    for _ in range(depth):
        lock.acquire()
    tell("holds")
    time.sleep(3600)


@pytest.fixture(params=[Lock, RLock])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


# Locks.


def test_the_next_gets_what_a_dead_process_held(
    kind: type[AnyLock], start_method: str, victims: Start
) -> None:
    lock = kind()
    victim = victims(hold, lock, method=start_method)
    victim.hear()
    assert lock.acquire(timeout=0.2) is False
    victim.kill()
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned
    assert "MainProcess" in repr(lock)
    assert lock.acquire(False) is isinstance(lock, RLock)
    if isinstance(lock, RLock):
        lock.release()
    lock.release()
    assert not lock.abandoned
    assert not lock.locked()
    with lock:
        assert not lock.abandoned


def test_who_waits_already_gets_it(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    victim = victims(hold, lock)
    victim.hear()
    waiters = [victims(pass_through, lock) for _ in range(3)]
    assert [waiter.hear() for waiter in waiters] == ["waits"] * 3
    eventually(lambda: all(map(is_blocked, waiters)))
    victim.kill()
    assert sorted(str(waiter.hear()) for waiter in waiters) == ["False", "False", "True"]


def pass_through(tell: Callable[[object], None], lock: AnyLock) -> None:
    tell("waits")
    with lock:
        abandoned = lock.abandoned
    tell(abandoned)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_that_only_tries_gets_it(depth: int, victims: Start) -> None:
    lock = RLock()
    victim = victims(hold, lock, depth)
    victim.hear()
    assert not lock.acquire(False)
    victim.kill()
    eventually(lambda: lock.acquire(False))
    assert lock.abandoned
    assert repr(lock) == "<RLock(MainProcess, 1)>"


def leave(tell: Callable[[object], None], lock: AnyLock, how: str) -> None:
    lock.acquire()
    tell("holds")
    if how == "_exit":
        os._exit(0)
    sys.exit(0)


def spin(tell: Callable[[object], None], lock: AnyLock) -> None:
    tell("spins")
    while not lock.acquire(False):
        pass
    tell(lock.abandoned)
    lock.release()


def test_those_that_spin_get_it_in_spite_of_each_other(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    victim = victims(hold, lock)
    victim.hear()
    spinning = [victims(spin, lock) for _ in range(3)]
    assert [spinner.hear() for spinner in spinning] == ["spins"] * 3
    victim.kill()
    assert sorted(str(spinner.hear()) for spinner in spinning) == ["False", "False", "True"]


@pytest.mark.parametrize("how", ["exit", "_exit"])
def test_a_process_that_ends_by_itself_does_not_keep_it(
    kind: type[AnyLock], how: str, victims: Start
) -> None:
    lock = kind()
    victim = victims(leave, lock, how)
    assert victim.end() == 0
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned


def test_a_zombie_counts_as_dead(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    victim = victims(hold, lock)
    victim.hear()
    os.kill(victim.process.pid, signal.SIGKILL)  # and not waited for
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned


def test_a_stopped_process_is_not_dead(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    victim = victims(hold, lock)
    victim.hear()
    victim.kill(signal.SIGSTOP)
    assert not lock.acquire(timeout=0.3)
    assert not lock.acquire(False)


def test_a_process_of_another_pid_namespace_is_not_taken_for_dead(
    kind: type[AnyLock], victims: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id means nothing here, and ours means nothing there."""
    lock = kind()
    with lock:
        pass
    with monkeypatch.context() as patch:
        patch.setattr(arena, "_pid_namespace", lambda: 7)
        victim = victims(hold, lock)
        victim.hear()
        stranger = victims(try_for_a_while, lock)
    victim.kill()
    assert lock.acquire(timeout=0.2) is False
    assert stranger.hear() is False


def try_for_a_while(tell: Callable[[object], None], lock: AnyLock) -> None:
    tell(lock.acquire(timeout=0.3))


def test_who_took_over_may_die_too(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    for _ in range(5):
        victim = victims(hold, lock)
        victim.hear()
        victim.kill()
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned


def test_who_dies_waiting_blocks_nobody(kind: type[AnyLock], victims: Start) -> None:
    lock = kind()
    with lock:
        waiters = [victims(pass_through, lock) for _ in range(3)]
        for waiter in waiters:
            waiter.hear()
        eventually(lambda: all(map(is_blocked, waiters)))
        waiters[0].kill()
    assert [waiter.hear() for waiter in waiters[1:]] == [False, False]
    assert lock.acquire(timeout=_LONG)
    assert not lock.abandoned


def test_an_abandoned_recursive_lock_belongs_to_a_thread(victims: Start) -> None:
    lock = RLock()
    victim = victims(hold, lock)
    victim.hear()
    victim.kill()
    assert lock.acquire(timeout=_LONG)
    refused: list[object] = []

    def other() -> None:
        try:
            lock.release()
        except AssertionError as error:
            refused.append(str(error))
        refused.append(lock.acquire(False))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert refused == ["attempt to release recursive lock not owned by thread", False]
    assert lock.acquire(timeout=0)
    lock.release()
    assert lock.locked()
    lock.release()
    assert not lock.locked()


def test_another_may_release_an_abandoned_lock(victims: Start) -> None:
    lock = Lock()
    ways: list[Callable[[AnyLock], None]] = [let_go_in_a_thread, let_go_in_a_process]
    for release in ways:
        victim = victims(hold, lock)
        victim.hear()
        victim.kill()
        assert lock.acquire(timeout=_LONG)
        assert lock.abandoned
        release(lock)
        assert lock.acquire(timeout=_LONG)
        assert not lock.abandoned
        lock.release()


def let_go_in_a_thread(lock: AnyLock) -> None:
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()


def let_go_in_a_process(lock: AnyLock) -> None:
    process = _FORK.Process(target=lock.release)
    process.start()
    process.join(_LONG)
    assert process.exitcode == 0


def test_what_was_released_by_another_is_not_the_first_ones_when_that_dies(victims: Start) -> None:
    lock = Lock()
    victim = victims(hold, lock)
    victim.hear()
    lock.release()
    assert lock.acquire(timeout=_LONG)
    victim.kill()
    process = _FORK.Process(target=refused, args=(lock,))
    process.start()
    process.join(_LONG)
    assert process.exitcode == 0


def refused(lock: AnyLock) -> None:
    assert not lock.acquire(timeout=0.2)


def test_who_holds_what_was_released_for_the_first_is_known(victims: Start) -> None:
    """The first lives on, and its old claim does not stand in the way."""
    lock = Lock()
    with lock:
        pass
    lock.acquire()
    let_go_in_a_process(lock)
    victim = victims(hold, lock)
    victim.hear()
    victim.kill()
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned


def pass_on(tell: Callable[[object], None], lock: Lock) -> None:
    """Release what another has acquired, acquire it, and live on."""
    lock.release()
    lock.acquire()
    tell("holds")
    time.sleep(3600)


@pytest.mark.parametrize("rounds", [1, 2])
def test_who_was_released_for_releases_for_another(rounds: int, victims: Start) -> None:
    """Acquired here, released and acquired there, released here: who lives there does not hold it."""
    lock = Lock()
    for _ in range(rounds):
        assert lock.acquire(timeout=_LONG)
        living = victims(pass_on, lock)
        assert living.hear() == "holds"
        lock.release()
        assert not lock.locked()
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    dying = victims(hold, lock)
    dying.hear()
    assert not lock.acquire(timeout=0.2)
    dying.kill()
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned
    lock.release()


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_an_abandoned_lock_can_raise(kind: type[AnyLock], victims: Start) -> None:
    lock = kind(on_abandoned="raise")
    with lock:
        pass
    victim = victims(hold, lock)
    victim.hear()
    victim.kill()
    for _ in range(2):
        with pytest.raises(AbandonedError, match="the process that held this lock died"), lock:
            raise NotImplementedError
        assert not lock.abandoned
    with pytest.raises(AbandonedError) as caught:
        lock.acquire()
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), AbandonedError)
    assert lock.abandoned
    if isinstance(lock, RLock):
        with lock:
            pass
    lock.release()
    with lock:
        assert not lock.abandoned


# What the soak can only meet by luck is made to happen: a death between any two steps.


def die_in(tell: Callable[[object], None], lock: AnyLock, step: str) -> None:
    """Acquire and release until `step`, a name of `Mutex` or of its token's methods, is called."""
    own: Any = lock._semlock

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Token:
        def __getattr__(self, name: str) -> Any:
            real = getattr(token, name)

            def call(*args: Any) -> Any:
                if step == f"before {name}":
                    die()
                got = real(*args)
                if step == f"after {name}":
                    die()
                return got

            return call

    token = own.token
    own.token = Token()
    if hasattr(own, step):
        setattr(own, step, die)
    own.acquire()
    tell("holds")
    own.release()


@pytest.mark.parametrize(
    ("step", "abandoned"),
    [
        ("before acquire", False),
        ("after acquire", True),
        ("before release", True),
        ("after release", False),
        ("_clear", False),
    ],
)
def test_a_death_between_two_steps(kind: type[AnyLock], step: str, abandoned: bool, victims: Start) -> None:
    lock = kind()
    victim = victims(die_in, lock, step)
    assert victim.end() == -signal.SIGKILL
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned == abandoned
    lock.release()
    assert lock.acquire(False)


@pytest.mark.parametrize("step", ["_is_lost", "_claimants"])
def test_a_death_while_taking_over(kind: type[AnyLock], step: str, victims: Start) -> None:
    lock = kind()
    victim = victims(hold, lock)
    victim.hear()
    victim.kill()
    assert victims(die_in, lock, step).end() == -signal.SIGKILL
    assert lock.acquire(timeout=_LONG)
    assert lock.abandoned


@pytest.mark.parametrize("path", ["fast", "slow"])
def test_who_has_the_token_has_a_claim(kind: type[AnyLock], path: str, victims: Start) -> None:
    """Rule 1: from before the try until after the token is back, and not after a try that failed."""
    lock = kind()
    with lock:
        pass
    own: Any = lock._semlock
    seen: list[int] = []
    token = own.token

    class Token:
        def __getattr__(self, name: str) -> Any:
            if name not in ("acquire", "release"):
                return getattr(token, name)

            def call(*args: Any) -> Any:
                seen.append(own.words[0] & mutex.CLAIM)
                got = getattr(token, name)(*args)
                seen.append(own.words[0] & mutex.CLAIM)
                return got

            return call

    own.token = Token()
    acquire, release = mutex.fast_path(own, own.acquire) if path == "fast" else (own.acquire, own.release)
    assert acquire(False)
    release()
    assert seen == [mutex.CLAIM] * 4
    assert own.words[0] == mutex.TRACE
    victims(hold, lock).hear()
    own.words[0] = 0
    assert not acquire(False)
    assert own.words[0] == 0
    assert own.state.cell_contents == mutex.FREE


def register_parent(own: Mutex) -> None:
    """Give the second slot to a process that lives."""
    parent = os.getppid()
    pair = struct.pack("dd", parent, resources.start_time(parent) or 0.0)
    own.block.arena._registry[2:4] = memoryview(pair).cast("d")


def test_a_lock_that_changes_hands_meanwhile_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two passes of rule 3: no claim is seen in either, and the token is 0 after both."""
    lock = Lock()
    with lock:
        pass
    own, pauses = lock._semlock, list[float]()
    register_parent(own)
    assert own._raw.acquire(False)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        own.words[1] = mutex.TRACE  # had it, gave it on to one that the first pass saw before

    clock = SimpleNamespace(sleep=pause, monotonic=time.monotonic)
    with monkeypatch.context() as patch:
        patch.setattr(mutex, "time", clock)
        assert not own._adopt()
    assert pauses
    assert lock.locked()
    assert not lock.abandoned
    assert own._adopt()
    assert lock.abandoned


def test_a_lock_that_is_taken_meanwhile_is_not_lost() -> None:
    """Held when the seeker begins, free when it wipes the traces, held again when it looks at the token."""
    lock = Lock()
    with lock:
        pass
    own: Any = lock._semlock
    register_parent(own)
    assert own._raw.acquire(False)
    token = own.token

    class Token:
        looks = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(token, name)

        def _is_zero(self) -> bool:
            self.looks += 1
            if self.looks == 1:
                own._raw.release()
                return True
            own.claims[1] = 1
            own._raw.acquire(False)
            return bool(token._is_zero())

    own.token = Token()
    assert not own._adopt()
    assert own.token.looks > 1
    assert not lock.abandoned


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition"])
def test_kills_at_random_moments(kind: str, threads: int) -> None:
    report = Soak(kind, threads=threads, seed=3).run(kills=20)
    assert not report.faults
    assert report.kills == 20
    assert report.passes > 20


def test_the_soak_sees_a_lock_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mutex, "_dead_claimants", lambda self: set())
    monkeypatch.setattr(Mutex, "_is_lost", lambda self, dead: True)
    assert Soak("Lock", threads=2, seed=3).run(kills=50).faults


# Semaphores.


def take(tell: Callable[[object], None], semaphore: Semaphore) -> None:
    tell("waits")
    semaphore.acquire()
    tell("got")


def test_a_wake_up_that_dies_with_its_waiter_goes_to_another(victims: Start) -> None:
    semaphore = Semaphore(0)
    first = victims(take, semaphore)
    first.hear()
    eventually(lambda: is_blocked(first))
    first.kill(signal.SIGSTOP)
    second = victims(take, semaphore)
    second.hear()
    eventually(lambda: is_blocked(second))
    semaphore.release()  # which wakes the first, and that cannot run
    first.kill()
    assert second.hear() == "got"


# Conditions.


def wait(tell: Callable[[object], None], condition: Condition, name: str) -> None:
    with condition:
        tell("holds")
        condition.wait()
        tell(name)


def waiting(victims: Start, condition: Condition, name: str) -> Victim:
    victim = victims(wait, condition, name)
    victim.hear()
    with condition:
        return victim


def test_a_dead_waiter_is_not_notified(victims: Start) -> None:
    condition = Condition()
    first, second = (waiting(victims, condition, name) for name in ("first", "second"))
    first.kill()
    with condition:
        condition.notify()
    assert second.hear() == "second"


def test_a_notification_that_a_dead_waiter_did_not_take_goes_to_another(victims: Start) -> None:
    condition = Condition()
    names = ["first", "second", "third"]
    first, second, third = (waiting(victims, condition, name) for name in names)
    with condition:
        condition.notify()
        first.kill()  # it had no chance to take it, as the lock is held
        condition.notify()
    assert [second.hear(), third.hear()] == ["second", "third"]


@pytest.mark.parametrize("depth", [1, 2])
def test_it_does_so_where_nobody_notifies_again(depth: int, victims: Start) -> None:
    condition = Condition()
    first = waiting(victims, condition, "first")
    others = [victims(wait_deeply, condition, depth) for _ in range(2)]
    assert [other.hear() for other in others] == ["holds"] * 2
    with condition:
        first.kill(signal.SIGSTOP)
        condition.notify()
    first.kill()
    eventually(lambda: any(other.ours.poll() for other in others))
    with condition:
        assert [other.ours.poll() for other in others].count(True) == 1
        assert condition._sleepers.count() == 1
        condition.notify()
    assert [other.hear() for other in others] == [(True, depth)] * 2


def wait_deeply(tell: Callable[[object], None], condition: Condition, depth: int) -> None:
    with ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(condition)
        tell("holds")
        got = condition.wait(_LONG)
        tell((got, condition._lock._semlock._count()))


def test_who_looks_for_the_notification_of_a_dead_one_keeps_its_timeout(victims: Start) -> None:
    condition = Condition()
    dead = waiting(victims, condition, "dead")
    with condition:
        dead.kill(signal.SIGSTOP)
        condition.notify()
    dead.kill()
    with condition:
        assert condition.wait(_LONG)  # that one's
        assert not condition.wait(0.25)
        assert condition._sleepers.count() == 0


@pytest.mark.parametrize("by", [signal.SIGSTOP, signal.SIGKILL])
def test_notifying_does_not_wait_for_who_cannot_run(by: signal.Signals, victims: Start) -> None:
    condition = Condition()
    first, second = waiting(victims, condition, "first"), waiting(victims, condition, "second")
    first.kill(by)
    with condition:
        condition.notify_all()
    assert second.hear() == "second"
    assert condition.acquire(timeout=_LONG)
    condition.release()


def wait_and_die(tell: Callable[[object], None], condition: Condition) -> None:
    with condition:
        tell("holds")
        condition.wait()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_waiter_that_dies_with_the_lock_gives_it_back(victims: Start) -> None:
    condition = Condition(Lock(on_abandoned="raise"))
    dying = victims(wait_and_die, condition)
    dying.hear()
    lasting = victims(wait_for_abandoned, condition)
    lasting.hear()
    with condition:
        condition.notify_all()
    assert lasting.hear() == "told"
    with condition:
        pass


def wait_for_abandoned(tell: Callable[[object], None], condition: Condition) -> None:
    try:
        with condition:
            tell("holds")
            while True:
                condition.wait(0.05)
    except AbandonedError:
        tell("told")


def test_the_places_of_the_dead_are_used_again(victims: Start) -> None:
    condition = Condition()
    condition._sleepers = type(condition._sleepers)(2)
    for _ in range(2):
        waiting(victims, condition, "dies").kill()
    assert condition._sleepers.count() == 2
    with condition:
        assert condition.wait(0.01) is False


# Events.


def wait_for_event(tell: Callable[[object], None], event: Event) -> None:
    tell("waits")
    tell(event.wait())


def test_an_event_with_a_dead_waiter(victims: Start) -> None:
    event = Event()
    first, second = (victims(wait_for_event, event) for _ in range(2))
    for victim in first, second:
        victim.hear()
    eventually(lambda: event._sleepers.count() == 2)
    first.kill()
    event.set()
    assert second.hear() is True
    assert event.wait(0)


def die_setting(tell: Callable[[object], None], event: Event) -> None:
    event._sleepers.wake = lambda count: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    event.set()


def test_an_event_whose_setter_dies_before_it_wakes_who_waits(victims: Start) -> None:
    event = Event()
    waiter = victims(wait_for_event, event)
    waiter.hear()
    eventually(lambda: event._sleepers.count() == 1)
    assert victims(die_setting, event).end() == -signal.SIGKILL
    assert waiter.hear() is True
    event.clear()
    assert event.wait(0) is False


# Barriers.


def meet(tell: Callable[[object], None], barrier: Barrier) -> None:
    tell("comes")
    try:
        barrier.wait()
        tell("passed")
    except threading.BrokenBarrierError:
        tell("broken")


def test_a_party_that_dies_waiting_breaks_the_barrier(victims: Start) -> None:
    barrier = Barrier(3)
    first, second = (victims(meet, barrier) for _ in range(2))
    for victim in first, second:
        victim.hear()
    eventually(lambda: barrier.n_waiting == 2)
    first.kill()
    assert second.hear() == "broken"
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    meeting = [victims(meet, barrier) for _ in range(2)]
    barrier.wait(_LONG)
    for victim in meeting:
        assert (victim.hear(), victim.hear()) == ("comes", "passed")


def test_one_that_never_comes_costs_the_timeout(victims: Start) -> None:
    barrier = Barrier(2, timeout=0.05)
    victim = victims(hold, Lock())
    victim.hear()
    victim.kill()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_action_in_which_the_process_dies_breaks_the_barrier(victims: Start) -> None:
    barrier = Barrier(2, action=die)
    first = victims(meet, barrier)
    first.hear()
    eventually(lambda: barrier.n_waiting == 1)
    second = victims(meet, barrier)
    second.hear()
    assert second.end() == -signal.SIGKILL
    assert first.hear() == "broken"


def die_leaving(tell: Callable[[object], None], barrier: Barrier, step: str) -> None:
    real = getattr(barrier, step)

    def call(*args: Any) -> None:
        if step == "_stay":
            real(*args)
        if barrier._shared[0] == 1:  # all were there
            die()
        if step != "_stay":
            real(*args)

    setattr(barrier, step, call)
    tell("comes")
    barrier.wait()


@pytest.mark.parametrize("step", ["_stay", "_settle"])
def test_a_party_that_dies_leaving_does_not_block_the_next_round(step: str, victims: Start) -> None:
    barrier = Barrier(2)
    victim = victims(die_leaving, barrier, step)
    victim.hear()
    eventually(lambda: barrier.n_waiting == 1)
    barrier.wait(_LONG)
    assert victim.end() == -signal.SIGKILL
    assert not barrier.broken
    other = victims(meet, barrier)
    barrier.wait(_LONG)
    assert (other.hear(), other.hear()) == ("comes", "passed")
