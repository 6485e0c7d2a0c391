"""Stops: by a timeout, a cancel, the end of a pool or of the program.

What runs ends, with all that it has started.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import tasks
from conftest import START_METHODS, Counting

import parallelkit
from faults import stop_tasks, who_tasks
from faults.checks import alive, appears, check_failed, fields, gone, until
from faults.conftest import ONCE
from faults.owners import Owner
from parallelkit import CallTimeoutError, ClosedError, Success, TaskTimeoutError
from parallelkit.engines.processes import crew

SQUARES = [Success(x, x * x) for x in range(4)]


# task_timeout

#: SIGTERM ends these at once.
SOFT = ("sleeps", "is in C with the GIL held", "swallows every exception", "waits for a program")
#: These take the grace, which is a second.
HARD = ("blocks all signals", "ignores SIGTERM", "turns SIGTERM into an exception")


def _check_timed_out(outcomes: Any, count: int, timeout: float, counting: Counting) -> None:
    errors = check_failed(outcomes, range(count), counting)
    for index, error in enumerate(errors):
        assert type(error) is TaskTimeoutError
        pid = who_tasks.pid_of(str(counting.folder), index)
        assert fields(error, "index", "timeout", "pid") == {"index": index, "timeout": timeout, "pid": pid}


def test_task_timeout(once: Any, counting: Counting) -> None:
    work = functools.partial(stop_tasks.be, str(counting.folder), SOFT)
    with once(max_workers=4) as outcomes:
        got = outcomes(work, range(8), chunksize=1, task_timeout=0.8)
        _check_timed_out(got, len(SOFT), 0.8, counting)
        gone([int((counting.folder / "program").read_text())])
        assert outcomes(tasks.square, range(4)) == SQUARES


def test_task_timeout_of_what_only_sigkill_ends(start_method: str, counting: Counting) -> None:
    """Meanwhile others go on: those behind them are done before the first of these is dead."""
    kinds = ("is stopped", "computes in C", *HARD)
    work = functools.partial(stop_tasks.be, str(counting.folder), kinds)
    with parallelkit.Pool(len(kinds) + 1, start_method=start_method) as pool:
        got = pool.map(work, range(12), 1, errors="return", task_timeout=0.8)
        _check_timed_out(got, len(kinds), 0.8, counting)
        assert pool.map(tasks.square, range(4), errors="return") == SQUARES


def test_a_grace_delays_nobody(counting: Counting) -> None:
    work = functools.partial(stop_tasks.be, str(counting.folder), HARD[:1])
    with parallelkit.Pool(1, start_method=START_METHODS[0]) as pool:
        stuck = pool.apply_async(work, (0,), task_timeout=0.2)
        pid = who_tasks.pid_of(str(counting.folder), 0)
        # It has the only place; so this runs beside it, in the worker that is to follow it, within the grace.
        assert pool.apply(tasks.square, (3,)) == 9
        assert alive(pid)
        assert not stuck.ready()
        with pytest.raises(TaskTimeoutError):
            stuck.get(20)
        gone([pid])


@pytest.mark.parametrize("whose", ["multiprocessing", "parallelkit"])
def test_task_timeout_of_who_holds_a_lock(whose: str, start_method: str, counting: Counting) -> None:
    """multiprocessing's is lost with its holder, and each who wants it runs out of time, too."""
    if whose == "multiprocessing":
        lock: Any = multiprocessing.get_context(start_method).Lock()
    else:
        lock = parallelkit.Lock()
    work = functools.partial(stop_tasks.hold_or_take, str(counting.folder))
    options: Any = {"initializer": stop_tasks.keep_lock, "initargs": (lock,)}
    limit = 0.8 if whose == "multiprocessing" else None
    with parallelkit.Pool(3, start_method=start_method, **options) as pool:
        holder = pool.apply_async(work, (0,), task_timeout=0.5)
        takers = pool.map_async(work, [1, 2], 1, errors="return", task_timeout=limit)
        with pytest.raises(TaskTimeoutError):
            holder.get(20)
        got = takers.get(20)
        if limit is None:
            assert got == [Success(0, 1), Success(1, 2)]
        else:
            assert [type(outcome.exception) for outcome in got] == [TaskTimeoutError] * 2  # type: ignore[union-attr]
        assert counting.runs() == {"0": 1, "1": 1, "2": 1}
        assert pool.map(tasks.square, range(4), errors="return") == SQUARES


# The timeout of a call


# A Future has none: `result(timeout)` stops waiting, and no more.
@pytest.mark.parametrize(
    "once", [case for case in ONCE if case[0] != "ProcessPoolExecutor.submit"], indirect=True
)
def test_timeout_of_a_call(once: Any, counting: Counting) -> None:
    folder = str(counting.folder)
    work = functools.partial(stop_tasks.be, folder, ("waits for a program",))
    with once(max_workers=2) as outcomes:
        error = _call_timeout(outcomes, work)
        assert fields(error, "timeout", "completed") == {"timeout": 0.5, "completed": 0}
        # It may not have come so far, where the machine is slow.
        files = [*counting.folder.glob("pid-0"), *counting.folder.glob("program")]
        gone([int(file.read_text()) for file in files])
        assert outcomes(tasks.square, range(4)) == SQUARES


def _call_timeout(outcomes: Any, work: Any) -> BaseException:
    """What a call ends in: raised, or where each item is a call of its own, the outcome of the only one."""
    try:
        (failure,) = outcomes(work, [0], timeout=0.5)
    except CallTimeoutError as error:
        return error
    assert isinstance(failure.exception, CallTimeoutError)
    return failure.exception


# cancel


def test_cancel(start_method: str, counting: Counting) -> None:
    folder = str(counting.folder)
    program = functools.partial(stop_tasks.be, folder, ("waits for a program",))
    forever = functools.partial(stop_tasks.wait_in, folder)
    with parallelkit.Pool(1, start_method=start_method) as pool:
        running = pool.apply_async(program, (0,))
        begun = {who_tasks.pid_of(folder, 0), int(appears(counting.folder / "program").read_text())}
        queued = [pool.apply_async(forever, (1,)), pool.map_async(forever, [2, 3])]
        kept = pool.apply_async(tasks.square, (5,))
        for result in queued:
            result.cancel()
            with pytest.raises(ClosedError, match="cancelled"):
                result.get(20)
        assert all(alive(pid) for pid in begun)
        running.cancel()
        with pytest.raises(ClosedError, match="cancelled"):
            running.get(20)
        gone(begun)
        assert kept.get(20) == 25
        kept.cancel()  # too late, and no harm
        assert kept.get() == 25
        several = pool.map_async(forever, [4, 5])
        begun = {who_tasks.pid_of(folder, 4)}
        several.cancel()
        with pytest.raises(ClosedError, match="cancelled"):
            several.get(20)
        gone(begun)
        assert pool.apply(tasks.square, (2,)) == 4
    assert counting.runs() == {"0": 1, "4": 1}


@pytest.mark.parametrize("by", ["close", "del"])
def test_the_end_of_an_iterator_ends_its_work(by: str, start_method: str, counting: Counting) -> None:
    folder = str(counting.folder)
    forever = functools.partial(stop_tasks.wait_in, folder)
    with parallelkit.Pool(2, start_method=start_method) as pool:
        of_pool = pool.imap(forever, [0])
        own = parallelkit.pool_imap(forever, iter([1]), start_method=start_method, max_workers=1)
        own.start()
        begun = {who_tasks.pid_of(folder, 0), who_tasks.pid_of(folder, 1)}
        with pytest.raises(CallTimeoutError):
            of_pool.next(0.01)
        if by == "close":
            of_pool.close()
            own.close()
        del of_pool, own
        gc.collect()
        gone(begun)
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_break_out_of_an_iterator_with_large_results_in_flight(start_method: str) -> None:
    for _ in parallelkit.pool_imap(stop_tasks.large, range(20), start_method=start_method, max_workers=2):
        break
    with parallelkit.Pool(2, start_method=start_method) as pool:
        results = pool.imap_unordered(stop_tasks.large, range(8))
        for _ in results:
            break
        results.close()
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]


# terminate()


def _busy(folder: str, start_method: str, **options: Any) -> tuple[parallelkit.Pool, Any, set[int]]:
    """A pool, a call that runs in both of its workers, and their processes."""
    pool = parallelkit.Pool(2, start_method=start_method, **options)
    result = pool.map_async(functools.partial(stop_tasks.wait_in, folder), [0, 1], 1)
    return pool, result, {who_tasks.pid_of(folder, x) for x in (0, 1)}


def _check_terminated(pool: parallelkit.Pool, result: Any, begun: set[int]) -> None:
    with pytest.raises(ClosedError):
        result.get(20)
    gone(begun)
    with pytest.raises(ClosedError):
        pool.apply(tasks.square, (2,))
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("who", ["a child", "an orphan in the group", "an orphan of its own session"])
def test_what_dies_slowly_is_gone_when_a_pool_is(
    who: str, start_method: str, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives much memory back before a process that got SIGKILL is gone."""
    monkeypatch.setattr(crew, "_REAP_SECONDS", 20.0)  # a machine may be slow
    pool = parallelkit.Pool(1, start_method=start_method)
    pool.apply_async(stop_tasks.start_what_dies_slowly, (str(counting.folder), who))
    pid = int(appears(counting.folder / "slow").read_text())
    pool.terminate()
    assert not alive(pid)
    pool.join()


def test_terminate_from_other_threads_at_once(start_method: str, counting: Counting) -> None:
    pool, result, begun = _busy(str(counting.folder), start_method)
    threads = [threading.Thread(target=pool.terminate) for _ in range(3)]
    for thread in threads:
        thread.start()
    _check_terminated(pool, result, begun)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_terminate_during_another_terminate(counting: Counting) -> None:
    """The first one waits for the grace, as the worker has SIGTERM blocked."""
    folder = str(counting.folder)
    pool = parallelkit.Pool(1, start_method=START_METHODS[0])
    result = pool.apply_async(functools.partial(stop_tasks.be, folder, HARD[:1]), (0,))
    begun = {who_tasks.pid_of(folder, 0)}
    first = threading.Thread(target=pool.terminate)
    first.start()
    until(lambda: not pool._driver._scheduler.jobs or pool._driver.closed, "it does not begin to end")
    pool.terminate()
    gone(begun)
    first.join(20)
    assert not first.is_alive()
    _check_terminated(pool, result, begun)


def test_terminate_from_a_callback(start_method: str, counting: Counting) -> None:
    pool = parallelkit.Pool(2, start_method=start_method)
    ended = threading.Event()

    def end(_: object) -> None:
        pool.terminate()
        ended.set()

    result = pool.apply_async(functools.partial(stop_tasks.wait_in, str(counting.folder)), (0,))
    begun = {who_tasks.pid_of(str(counting.folder), 0)}
    done = pool.apply_async(tasks.square, (3,), callback=end)
    assert ended.wait(20)
    assert done.get(20) == 9
    _check_terminated(pool, result, begun)


@pytest.mark.parametrize("moment", ["at once", "in the initializer"])
def test_terminate_during_start(moment: str, start_method: str, counting: Counting) -> None:
    options: Any = {"initializer": stop_tasks.slow_start, "initargs": (str(counting.folder),)}
    pool = parallelkit.Pool(2, start_method=start_method, **options)
    pids = {process.pid for process in pool._pool}
    result = pool.apply_async(tasks.square, (3,))
    if moment == "in the initializer":
        for pid in pids:
            who_tasks.pid_of(str(counting.folder), pid or 0)
    pool.terminate()
    _check_terminated(pool, result, {pid for pid in pids if pid is not None})


# The end of the program, and of a pool that was forgotten


@pytest.mark.parametrize(("how", "code"), [(signal.SIGUSR2, 3), (None, 0)], ids=["sys.exit", "at its end"])
def test_the_interpreter_exits_with_busy_pools(
    how: signal.Signals | None, code: int, start_method: str, own: Callable[..., Owner]
) -> None:
    owner = own("pools", start_method)
    left = owner.families("map", "imap", "apply", "pool_imap", "pool_map") | owner.tree()
    if how is not None:
        owner.process.send_signal(how)
        owner.process.wait(20)
    # Its input is closed here, which ends it, too.
    assert owner.rest() == ("interrupted\n" if how is None else "", "")
    assert owner.process.returncode == code
    gone(left)


@pytest.mark.parametrize("busy", [False, True])
def test_a_pool_that_was_never_closed_is_collected(busy: bool, start_method: str, counting: Counting) -> None:
    if busy:
        pool, result, begun = _busy(str(counting.folder), start_method)
        del result
    else:
        pool = parallelkit.Pool(2, start_method=start_method)
        begun = set(pool.map(tasks.pid, range(3)))
    with pytest.warns(ResourceWarning, match="never closed"):
        del pool
        gc.collect()
    gone(begun)
