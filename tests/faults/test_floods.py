"""Too much of it: deaths, failures, threads, pools in pools, callbacks, bytes."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tasks

import parallelkit
from faults import flood_tasks
from faults.checks import check_failed, check_one_failed, fields, gone, until
from parallelkit import Outcome, Success, WorkerDiedError, WorkerInitError

#: What takes long in a fresh interpreter is done less often there.
DEATHS = {"fork": 1000, "forkserver": 100, "spawn": 24}
#: A pool of two gives up after three attempts in a row; of two that end together one may count.
STARTS = 3 * 2
HUGE = 3 << 30
#: The result, its pickle and what is made of it are there at the same time.
ROOM_FOR_HUGE: dict[Any, float] = {flood_tasks.ones: 2.5 * HUGE, flood_tasks.x_times: 4.5 * HUGE}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def pool(start_method: str) -> Iterator[parallelkit.Pool]:
    with parallelkit.Pool(2, start_method=start_method) as pool:
        yield pool


@pytest.mark.parametrize("what", ["exit 7", "kill"])
def test_deaths_in_a_row(what: str, start_method: str, pool: parallelkit.Pool, log: str) -> None:
    count = DEATHS[start_method] // 2
    work = functools.partial(flood_tasks.happen_below, log, what, count)
    outcomes = pool.map(work, range(count + 50), errors="return")
    errors = check_failed(outcomes, range(count))
    ended = {"exitcode": -9, "signal": 9} if what == "kill" else {"exitcode": 7, "signal": None}
    for index, error in enumerate(errors):
        assert type(error) is WorkerDiedError
        assert fields(error, "index", "started", *ended) == {"index": index, "started": True, **ended}
    assert len({error.pid for error in errors if isinstance(error, WorkerDiedError)}) == count
    assert flood_tasks.runs(log) == dict.fromkeys(range(count + 50), 1)
    assert pool.stats().lost == count
    assert pool.stats().started <= count + 2
    assert pool.map(tasks.square, [3]) == [9]


@pytest.mark.parametrize(("what", "cause"), [("raise", ValueError), ("exit 7", WorkerDiedError)])
def test_an_initializer_that_always_fails(
    what: str, cause: type[BaseException], served: Any, log: str
) -> None:
    options: dict[str, Any] = {"initializer": flood_tasks.start_and, "initargs": (log, what)}
    with served(max_workers=2, **options) as outcomes:
        for error in _errors(outcomes):
            assert type(error) is WorkerInitError
            assert type(error.__cause__) is cause
            assert 3 <= error.starts <= STARTS
            assert "3 attempts in a row" in str(error)
        assert 3 <= flood_tasks.runs(log)[0] <= STARTS


def test_a_pool_that_cannot_start_does_not_try_again(start_method: str, log: str) -> None:
    options: dict[str, Any] = {"initializer": flood_tasks.start_and, "initargs": (log, "raise")}
    with parallelkit.Pool(2, start_method=start_method, **options) as pool:
        seen = []
        for _ in range(3):
            with pytest.raises(WorkerInitError) as caught:
                pool.map(tasks.square, range(100))
            seen.append((caught.value, pool.stats().started))
        assert len(set(seen)) == 1
        assert seen[0][1] <= STARTS


def _errors(outcomes: Callable[..., list[Outcome[Any]]]) -> list[BaseException]:
    """What a call for several items ends in, or each of several calls."""
    try:
        return check_failed(outcomes(tasks.square, range(3)), range(3))
    except WorkerInitError as error:
        return [error]


def test_a_death_at_each_retry(served: Any, log: str) -> None:
    with served(max_workers=2) as outcomes:
        error = _retried(outcomes, log, "kill", 6, retries=5)
        assert type(error) is WorkerDiedError
        assert fields(error, "index", "signal", "started") == {"index": 2, "signal": 9, "started": True}
        assert outcomes(tasks.square, [7]) == [Success(0, 49)]


def test_an_exception_is_retried_where_that_was_asked_for(face: Any, tmp_path: Path) -> None:
    with face("fork", max_workers=2) as outcomes:
        assert type(_retried(outcomes, str(tmp_path / "1"), "raise", 1, retries=5)) is ValueError
        error = _retried(outcomes, str(tmp_path / "2"), "raise", 6, retries=5, retry_on=ValueError)
        assert type(error) is ValueError


def _retried(outcomes: Any, log: str, what: str, count: int, **options: Any) -> BaseException:
    """The exception of item 2, which has to run `count` times, and the others once."""
    got = outcomes(functools.partial(flood_tasks.happen_at, log, what, 2), range(6), **options)
    error = check_one_failed(got, 2)
    assert flood_tasks.runs(log) == {**dict.fromkeys(range(6), 1), 2: count}
    return error


def test_ten_thousand_failures(face: Any, log: str) -> None:
    with face("fork", max_workers=2) as outcomes:
        got = outcomes(functools.partial(flood_tasks.refuse, log), range(10_000))
        for index, error in enumerate(check_failed(got, range(10_000))):
            assert type(error) is flood_tasks.Refused
            assert error.args == ("no", index)
        assert outcomes(tasks.square, [7]) == [Success(0, 49)]
    assert flood_tasks.runs(log) == dict.fromkeys(range(10_000), 1)


def _ask(pool: parallelkit.Pool, log: str, number: int) -> list[Any]:
    """One thread's five items, asked for in one of three ways; every tenth thread's kill a worker."""
    first = 10 * number
    items = range(first, first + 5)
    work = functools.partial(flood_tasks.happen_at, log, "kill", first + 3 if number % 10 == 0 else -1)
    if number % 3 == 2:
        results = [pool.apply_async(work, (item,)) for item in items]
        return [_value(result.get) for result in results]
    many: Any = pool.map if number % 3 else pool.imap
    return [_value(outcome.unwrap) for outcome in many(work, items, errors="return")]


def _value(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except WorkerDiedError as error:
        return type(error)


def test_a_hundred_threads_use_one_pool(pool: parallelkit.Pool, log: str) -> None:
    got: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda number=number: got.update({number: _ask(pool, log, number)}))
        for number in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(100):
        expected: list[Any] = list(range(10 * number, 10 * number + 5))
        if number % 10 == 0:
            expected[3] = WorkerDiedError
        assert got[number] == expected
    noted = flood_tasks.runs(log)
    assert (len(noted), noted.total()) == (500, 500)
    assert pool.stats().lost == 10


def test_pools_in_pools_three_deep(start_method: str) -> None:
    with parallelkit.Pool(2, start_method=start_method) as pool:
        # 11 leads to 11, 12, 12 and 13, where the innermost worker dies.
        got = pool.map(flood_tasks.Nest(2), [3, 11, 5], errors="return")
        error: BaseException | None = check_one_failed(got, 1, value=lambda at: _nested(2, (3, 11, 5)[at]))
        for level in (2, 1):
            assert type(error) is flood_tasks.Fallen
            assert error.args == (level,)
            error = error.__cause__
        assert type(error) is WorkerDiedError
        assert fields(error, "index", "signal", "started") == {"index": 1, "signal": 9, "started": True}
        assert pool.map(flood_tasks.Nest(1), [4]) == [[16, 25]]


def _nested(levels: int, x: int) -> Any:
    return [_nested(levels - 1, x), _nested(levels - 1, x + 1)] if levels else x * x


def test_the_end_of_a_pool_ends_those_in_it(start_method: str, log: str) -> None:
    with parallelkit.Pool(1, start_method=start_method) as pool:
        call = pool.apply_async(flood_tasks.sleep_below, (log, 3))
        until(lambda: len(flood_tasks.runs(log)) == 4, "not all of the pools have started")
        call.cancel()
        with pytest.raises(parallelkit.ClosedError):
            call.get()
        gone(flood_tasks.runs(log))
        assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("waits", [False, True])
def test_callbacks_that_submit(waits: bool, start_method: str, pool: parallelkit.Pool) -> None:
    """Each callback hands in the next call, and may wait for it; failures have their turns, too."""
    most = 30 if waits else 500
    seen: list[object] = []
    over = threading.Event()

    def go_on(what: object) -> None:
        seen.append(what.args[0] if isinstance(what, KeyError) else what)
        if len(seen) == most:
            over.set()
            return
        call = pool.apply_async(tasks.fail_on_odd, (len(seen),), callback=go_on, error_callback=go_on)
        if waits:
            call.wait()

    go_on(0)
    assert over.wait(50)
    assert seen == list(range(most))


@pytest.mark.skipif("PARALLELKIT_HUGE" not in os.environ, reason="takes long: PARALLELKIT_HUGE=1 runs it")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [flood_tasks.ones, flood_tasks.x_times])
def test_a_huge_result(make: Callable[[int], Any], start_method: str) -> None:
    """An array travels out of band; bytes are pickled, and copied for that."""
    if psutil.virtual_memory().available < ROOM_FOR_HUGE[make]:
        pytest.skip("there is not enough memory")
    with parallelkit.Pool(1, start_method=start_method) as pool:
        result = pool.apply(make, (HUGE,))
        assert len(result) == HUGE
        assert {result[0], result[HUGE // 2], result[-1]} == {make(1)[0]}
        assert pool.apply(tasks.square, (3,)) == 9
