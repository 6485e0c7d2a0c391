"""Who is struck: a worker at each moment of its life, one of several or all of them, what it has started,
the service thread, and the parent.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import tasks
from conftest import Counting

import parallelkit
from faults import who_tasks
from faults.checks import alive, appears, check_failed, check_one_failed, fields, gone, until
from parallelkit import Success, WorkerDiedError, WorkerInitError, guardian, launching
from parallelkit.engines.processes import crew, starting, transport

KILLED = {"exitcode": -9, "signal": 9, "started": True}
SQUARES = [Success(x, x * x) for x in range(4)]


def _check_killed(errors: list[BaseException], indices: tuple[int, ...], counting: Counting) -> None:
    for index, error in zip(indices, errors, strict=True):
        assert type(error) is WorkerDiedError
        assert fields(error, "index", "exitcode", "signal", "started") == {"index": index, **KILLED}
        assert error.pid == who_tasks.pid_of(str(counting.folder), index)


# Workers


def test_a_busy_worker_is_killed(once: Any, counting: Counting) -> None:
    _check_busy_workers(once, (0,), counting)


def test_all_workers_are_killed_at_once(served: Any, counting: Counting) -> None:
    _check_busy_workers(served, (0, 1), counting)


def _check_busy_workers(serve: Any, victims: tuple[int, ...], counting: Counting) -> None:
    work = functools.partial(who_tasks.strike, str(counting.folder), victims, 1)
    with serve(max_workers=2) as outcomes:
        errors = check_failed(outcomes(work, range(5), chunksize=1), victims, counting)
        _check_killed(errors, victims, counting)
        assert outcomes(tasks.square, range(4)) == SQUARES


def test_the_last_worker_is_killed(start_method: str, counting: Counting) -> None:
    work = functools.partial(who_tasks.strike, str(counting.folder), (1,), 1)
    with parallelkit.Pool(1, start_method=start_method) as pool:
        error = check_one_failed(pool.map(work, range(5), errors="return"), 1, counting)
        _check_killed([error], (1,), counting)
        assert pool.map(tasks.square, range(4), errors="return") == SQUARES
        assert (pool.stats().started, pool.stats().lost) == (2, 1)


def test_idle_workers_are_killed(once: Any, counting: Counting) -> None:
    """Nobody holds an item, so none is lost: not where the parent does not know of the deaths yet, either."""
    with once(max_workers=2) as outcomes:
        for first, noticed in ((0, True), (8, False)):
            pids = {outcome.unwrap() for outcome in outcomes(tasks.pid, range(4))}
            for pid in filter(alive, pids):
                os.kill(pid, signal.SIGKILL)
            if noticed:
                gone(pids)
            work = functools.partial(who_tasks.count_from, str(counting.folder), first)
            check_failed(outcomes(work, range(8)), [])
    assert counting.runs() == {str(x): 1 for x in range(16)}


@pytest.fixture
def stillborn(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """`stillborn(n)`: the next n workers are killed before they come up. Returns all that are started."""
    launch = starting.launch
    left = 0
    started: list[int] = []

    def launch_and_kill(context: Any, target: Any, *args: Any) -> Any:
        nonlocal left
        kill = left > 0
        left -= kill
        # From here it could not be struck for certain before it comes up, nor from there while it is a bare
        # interpreter.
        process = launch(context, who_tasks.be_stillborn if kill else target, *args)
        assert process.pid
        started.append(process.pid)
        if kill:
            os.kill(process.pid, signal.SIGKILL)
        return process

    def kill_next(count: int) -> list[int]:
        nonlocal left
        left = count
        return started

    monkeypatch.setattr(starting, "launch", launch_and_kill)
    return kill_next


def test_workers_that_are_being_started_are_killed(once: Any, stillborn: Any, counting: Counting) -> None:
    """All of the first ones, and one of those that are to replace them."""
    started = stillborn(4)
    work = functools.partial(who_tasks.count_from, str(counting.folder), 0)
    with once(max_workers=3) as outcomes:
        check_failed(outcomes(work, range(6)), [], counting)
    assert len(started) >= 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_workers_that_cannot_be_watched_leave_nothing(
    start_method: str, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for the notice of their end, and their initializer has started something already."""
    left: list[set[int]] = []

    def watch(self: crew.ProcessCrew, member: Any) -> None:
        guardian.watch(member.pid, member.mark)
        appears(counting.folder / "family-x")
        left.append(who_tasks.family(counting.folder, "x"))
        (counting.folder / "family-x").unlink()
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(crew.ProcessCrew, "_watch", watch)
    leave_family = functools.partial(who_tasks.leave_family, str(counting.folder), "x")
    with parallelkit.Pool(1, initializer=leave_family, start_method=start_method) as pool:
        with pytest.raises(WorkerInitError) as caught:
            pool.map(tasks.square, range(4))
        assert isinstance(caught.value.__cause__, OSError)
        assert len(left) == 3
        assert [len(family) for family in left] == [4, 4, 4]
        gone(set.union(*left))


def test_a_fork_server_that_ends_at_each_start_breaks_no_pool(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: object) -> Any:
        raise EOFError("unexpected EOF")

    with monkeypatch.context() as patched:
        patched.setattr(starting, "launch", launch)
        pool = parallelkit.Pool(2, start_method=start_method)
        with pytest.raises(WorkerInitError) as caught:
            pool.map(tasks.square, range(4))
    assert isinstance(caught.value.__cause__, EOFError)
    with pool:
        assert pool.map(tasks.square, range(4), errors="return") == SQUARES


class _Unstartable:
    """As a process object whose start fails for want of the other end."""

    _closed, _popen = False, None

    def __init__(self) -> None:
        self._parent_pid = os.getpid()

    def _Popen(self, process: object) -> Any:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def _notes_of_a_failed_start() -> list[str]:
    with pytest.raises(BrokenPipeError) as caught:
        launching.start(_Unstartable())
    return getattr(caught.value, "__notes__", [])


def test_a_failed_start_names_the_fork_server_where_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_SERVER_SECONDS", 0.01)
    server = types.SimpleNamespace(_forkserver_pid=None)
    module = types.SimpleNamespace(_forkserver=server)
    monkeypatch.setitem(sys.modules, "multiprocessing.forkserver", module)
    assert _notes_of_a_failed_start() == []
    with subprocess.Popen(["sleep", "3600"]) as process:
        server._forkserver_pid = process.pid
        assert _notes_of_a_failed_start() == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        (note,) = _notes_of_a_failed_start()
    assert "the fork server has ended" in note


def test_each_worker_is_killed_when_it_is_started(start_method: str, stillborn: Any) -> None:
    started = stillborn(1000)
    with pytest.raises(WorkerInitError) as caught:
        parallelkit.pool_map(tasks.square, range(5), start_method=start_method, max_workers=2)
    cause = caught.value.__cause__
    assert isinstance(cause, WorkerDiedError)
    assert fields(cause, "exitcode", "signal", "started") == {"exitcode": -9, "signal": 9, "started": False}
    assert cause.pid in started
    assert len(started) <= 3 * 2


def test_workers_are_killed_in_their_initializer(start_method: str, counting: Counting) -> None:
    initializer: Any = {"initializer": who_tasks.die_at_first, "initargs": (str(counting.folder), 2)}
    work = functools.partial(who_tasks.count_from, str(counting.folder), 0)
    with parallelkit.Pool(2, start_method=start_method, **initializer) as pool:
        check_failed(pool.map(work, range(6), errors="return"), [], counting)
    assert (counting.folder / "began-1").exists()


# A large write

LARGE = 100_000_000


@pytest.mark.parametrize("out_of_band", [True, False])
def test_a_worker_is_killed_while_its_large_result_is_read(
    out_of_band: bool, once: Any, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Receiver(transport.Receiver):
        """Kills the sender once it has begun to send a large frame, and reads on when it is dead."""

        def _read_on(self, frame: Any) -> Any:
            seen.append(sum(view.nbytes for view in self._filling))
            if len(seen) == 1:
                sender = who_tasks.pid_of(str(counting.folder), 1)
                os.kill(sender, signal.SIGKILL)
                gone({sender})
            return super()._read_on(frame)

    monkeypatch.setattr(crew, "Receiver", Receiver)
    work = functools.partial(who_tasks.large_result, str(counting.folder), LARGE, 1, out_of_band)
    with once(max_workers=2) as outcomes:
        error = check_one_failed(outcomes(work, range(5), chunksize=1), 1, counting)
        _check_killed([error], (1,), counting)
        assert LARGE // 2 < seen[0] < LARGE  # much was still to come
        assert outcomes(tasks.square, range(4)) == SQUARES


def test_a_worker_is_killed_while_nobody_reads_its_large_result(
    start_method: str, counting: Counting
) -> None:
    """The only thread that could is in the caller's own code; so the worker is stuck in its send."""
    folder = counting.folder
    made: list[crew.ProcessCrew] = []

    class Progress:
        def update(self, n: int) -> None:
            if not (folder / "told").exists():
                (folder / "told").touch()
                victim = who_tasks.pid_of(str(folder), 0)
                (channel,) = (m.socket for m in made[0]._members.values() if m.pid == victim)
                until(lambda: _unread(channel.fileno()) > 50_000, "no result is being written")
                os.kill(victim, signal.SIGKILL)
                gone([victim])

        def close(self) -> None:
            pass

    work = functools.partial(who_tasks.large_result_when_told, str(folder), LARGE, 0)
    options: Any = {"engine": _Engine(made), "start_method": start_method, "progress": Progress()}
    outcomes = parallelkit.pool_map(work, range(5), errors="return", max_workers=2, chunksize=1, **options)
    _check_killed([check_one_failed(outcomes, 0, counting)], (0,), counting)


class _Engine:
    """The processes engine, which shows the crews that it makes."""

    name = "processes"
    most_workers = None

    def __init__(self, made: list[crew.ProcessCrew]) -> None:
        self._made = made

    def open(self, setup: Any) -> crew.ProcessCrew:
        self._made.append(crew.ProcessCrew(setup))
        return self._made[-1]


def _unread(descriptor: int) -> int:
    """How many bytes wait there to be read."""
    count: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    return count


# What a worker has started


def test_a_program_of_a_task_is_killed(start_method: str, counting: Counting) -> None:
    work = functools.partial(who_tasks.with_child, str(counting.folder))
    outcomes = parallelkit.pool_map(
        work, range(4), errors="return", start_method=start_method, max_workers=2, chunksize=1
    )
    check_failed(outcomes, [], counting, value=lambda x: x or -signal.SIGKILL)


def test_a_worker_of_a_pool_in_a_worker_is_killed(start_method: str, counting: Counting) -> None:
    work = functools.partial(who_tasks.with_pool, start_method, str(counting.folder))
    outcomes = parallelkit.pool_map(work, range(3), errors="return", start_method=start_method, max_workers=1)
    check_failed(outcomes, [], counting, value=lambda x: [x or 1])


@pytest.mark.parametrize("what", ["kill", "exit 0", "nothing"])
def test_a_grandchild_holds_all_descriptors_of_its_worker(
    what: str, start_method: str, counting: Counting
) -> None:
    """No end of file comes, neither on the worker's channel nor on what multiprocessing waits for."""
    work = functools.partial(who_tasks.hold_descriptors, str(counting.folder), what, 1)
    with parallelkit.Pool(2, start_method=start_method) as pool:
        outcomes = pool.map(work, range(5), 1, errors="return")
        holder = int((counting.folder / "holder").read_text())
        if what == "nothing":
            check_failed(outcomes, [], counting)
            assert alive(holder)
        else:
            error = check_one_failed(outcomes, 1, counting)
            assert isinstance(error, WorkerDiedError)
            expected = (-9, 9) if what == "kill" else (0, None)
            assert (error.index, error.exitcode, error.signal, error.started) == (1, *expected, True)
            gone([holder])
        assert pool.map(tasks.square, range(4), errors="return") == SQUARES
    gone([holder])


@pytest.mark.parametrize(("by", "what"), [("fork", "kill"), ("exec", "exit 0"), ("exec", "stuck")])
def test_what_left_the_session_ends_with_its_worker(
    by: str, what: str, start_method: str, tmp_path: Path
) -> None:
    work = functools.partial(tasks.start_orphan, str(tmp_path), by)
    with parallelkit.Pool(1, start_method=start_method) as pool:
        with pytest.raises((WorkerDiedError, parallelkit.TaskTimeoutError)):
            pool.apply(work, (what,), task_timeout=20.0 if what != "stuck" else 0.5)
        gone([int((tmp_path / "pid").read_text())])
        assert pool.apply(abs, (-1,)) == 1


# The service thread


def _raise(error: BaseException) -> Callable[[object], None]:
    def callback(_: object) -> None:
        raise error

    return callback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_callback_raises_what_ends_threads(error: BaseException) -> None:
    with parallelkit.Pool(1, start_method="fork") as pool:
        failed = pool.apply_async(tasks.square, (2,), callback=_raise(error))
        _check_served(pool)
        with pytest.raises(type(error)):
            failed.get()
        failed = pool.apply_async(tasks.fail_on_three, (3,), error_callback=_raise(error))
        _check_served(pool)
        with pytest.raises(type(error)):
            failed.get()


def _set(event: threading.Event, _: object) -> None:
    event.set()


def _check_served(pool: parallelkit.Pool) -> None:
    """Calls go on although nobody waits for them, and so do inputs."""
    called = threading.Event()
    pool.apply_async(tasks.square, (2,), callback=lambda _: called.set())
    assert called.wait(20)
    drawn = threading.Event()
    results = pool.imap(tasks.square, iter([1, 2]))
    pool.map_async(tasks.square, [3], callback=lambda _: drawn.set())
    assert drawn.wait(20)
    assert list(results) == [1, 4]


SEEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@SEEN
@pytest.mark.parametrize("moment", ["driving", "at rest"])
def test_an_exception_is_injected_into_the_service_thread(moment: str, start_method: str) -> None:
    """Such as debuggers and libraries for stopping threads do. Another thread takes over."""
    with parallelkit.Pool(1, start_method=start_method) as pool:
        _check_served(pool)
        driver = pool._driver
        service = driver._service
        assert service is not None
        called = threading.Event()
        result: Any = None
        if moment == "driving":
            result = pool.apply_async(tasks.sleep, (1.0,), callback=lambda _: called.set())
            until(lambda: driver._driving == service.ident, "the service thread does not drive")
        else:
            until(lambda: driver._service_sleeps, "the service thread does not go to sleep")
        with driver._lock:  # so that it does not hold that
            _inject(service, SystemExit)
        if result is None:
            result = pool.apply_async(tasks.square, (3,), callback=lambda _: called.set())
        assert called.wait(20)
        assert result.get() in (1.0, 9)
        service.join(20)
        assert not service.is_alive()
        _check_served(pool)


@SEEN
def test_an_exception_is_injected_into_the_thread_that_draws_an_input() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield from range(100)
        begun.set()
        go_on.wait(20)
        yield 100

    with parallelkit.Pool(1, start_method="fork") as pool:
        results = pool.imap(tasks.square, items(), buffersize=10)
        feeder = pool._driver._feeders[0]
        first = [next(results) for _ in range(3)]
        call: Any = results._call
        # While it draws, it would be an exception of the input.
        until(lambda: call.waiting and not call.wanted, "the input is not drawn")
        with pool._driver._lock:
            _inject(feeder, SystemExit)
        assert first + [next(results) for _ in range(90)] == [x * x for x in range(93)]
        feeder.join(20)
        assert not feeder.is_alive()
        go_on.set()
        assert list(results) == [x * x for x in range(93, 101)]


def _inject(thread: threading.Thread, kind: type[BaseException]) -> None:
    count = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind)
    )
    assert count == 1


def test_a_signal_handler_raises_while_the_service_thread_drives() -> None:
    class Struck(Exception):
        pass

    def handler(signum: int, frame: FrameType | None) -> None:
        raise Struck

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with parallelkit.Pool(1, start_method="fork") as pool:
            _check_served(pool)
            service = pool._driver._service
            assert service is not None
            for _ in range(20):
                called = threading.Event()
                result = pool.apply_async(tasks.sleep, (0.01,), callback=functools.partial(_set, called))
                # The kernel may give it to any thread, also to this one, which runs the handler.
                with pytest.raises(Struck):
                    os.kill(os.getpid(), signal.SIGUSR1)
                    threading.Event().wait(20)
                assert called.wait(20)
                assert result.get() == 0.01
            assert service.is_alive()
    finally:
        signal.signal(signal.SIGUSR1, before)


# The parent


ENDS = {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGUSR1: 7}  # the last one calls os._exit(7)


@pytest.mark.parametrize("how", ENDS, ids=["SIGKILL", "SIGTERM", "os._exit"])
def test_nothing_outlives_the_parent(how: signal.Signals, start_method: str, own: Any) -> None:
    """Busy behind each face at once, and idle; with what the tasks have started."""
    owner = own("busy", start_method)
    left = owner.families("map", "imap", "apply", "pool_imap", "submit", "pool_map") | owner.tree()
    assert len(left) >= 6 * 4 + 1
    owner.process.send_signal(how)
    assert owner.process.wait(20) == ENDS[how]
    gone(left)
    assert owner.rest() == ("", "")


@pytest.mark.parametrize("times", ["once", "twice"])
def test_ctrl_c(times: str, start_method: str, own: Any) -> None:
    """In each face; as the terminal does it, to the whole process group."""
    owner = own(times, start_method)
    for face in ("pool_map", "pool_imap", "map", "imap", "apply", "submit"):
        assert owner.line() == face
        family = owner.families(face)
        os.killpg(owner.process.pid, signal.SIGINT)
        if times == "once":
            assert owner.line() == "interrupted"
        else:
            assert owner.line() == "caught"
            # Not before the first has its effect, or Python makes one of two.
            until(functools.partial(owner.is_ending, face), "the work is not being ended")
            os.killpg(owner.process.pid, signal.SIGINT)
            assert {owner.line(), owner.line()} == {"caught", "interrupted"}
        gone(family)
    assert owner.process.wait(20) == 0
    assert owner.rest() == ("", "")
