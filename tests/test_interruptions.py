"""What strikes the thread that drives or ends a pool costs no result, no worker, and nobody his news.

`Struck` is raised where a signal handler's exception could come up; what a handler does that uses the pool is
done at the same places.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import tasks
from waits import Struck, ended, until

import parallelkit
from parallelkit import driver as driving
from parallelkit import shielding, termination
from parallelkit.engines import Style
from parallelkit.engines.processes.crew import ProcessCrew
from parallelkit.gathering import Gathering
from parallelkit.logs import Forwarding

Options = dict[str, Any]


@pytest.mark.parametrize("handler", ["raises", "waits"])
def test_what_has_happened_is_seen_though_who_saw_it_first_is_struck(engine: Options, handler: str) -> None:
    """Between the end of its sleep and the lock."""
    with parallelkit.Pool(2, **engine) as pool:
        driver, settings = pool._driver, pool._settings("raise", None, {})
        sink = Gathering(settings, 60)
        spec = replace(settings.job(60, at_hand=True), chunksize=30)  # of which results come in several parts
        call = driver.submit(tasks.nap, Style.CALL, range(60), spec, sink)
        wait = driver._crew.wait
        wakes = nested = 0

        def wait_and_be_struck(timeout: float | None) -> Any:
            nonlocal wakes, nested
            happened = wait(timeout)
            wakes += 1
            if wakes % 3:
                if handler == "raises":
                    raise Struck
                if nested < 3:
                    nested += 1
                    driver.wait(call, 0.03)
                    nested -= 1
            return happened

        cast(Any, driver._crew).wait = wait_and_be_struck
        struck = 0
        while True:
            try:
                done = driver.wait(call, 20)
            except Struck:
                struck += 1
            else:
                break
        cast(Any, driver._crew).wait = wait
    assert done
    assert (struck > 0) == (handler == "raises")
    assert sink.result() == list(range(60))


def test_who_is_struck_in_a_shutdown_leaves_the_driving_to_another(engine: Options, tmp_path: Path) -> None:
    if engine["engine"] == "serial":
        pytest.skip("its task runs in the thread that is struck")
    answers: list[Any] = []
    pool = parallelkit.Pool(1, **engine)
    result = pool._submit(*pool._single(tasks.wait_for_file, (str(tmp_path / "go"),), {}, None, None, {}))
    driver = pool._driver
    with driver._lock:
        driver._driving = -1  # somebody else
    sleeper = threading.Thread(target=lambda: answers.append(result.get()))
    sleeper.start()
    until(lambda: driver._waiting)
    with driver._lock:
        driver._driving = None
    wait, main = driver._crew.wait, threading.get_ident()

    def strike(timeout: float | None) -> Any:
        if threading.get_ident() == main:
            raise Struck
        return wait(timeout)

    cast(Any, driver._crew).wait = strike
    with pytest.raises(Struck):
        driver.shut_down()
    cast(Any, driver._crew).wait = wait
    (tmp_path / "go").touch()
    assert ended(sleeper)
    assert answers == [None]
    pool.terminate()


@pytest.mark.parametrize("end", ["struck", "in vain"])
def test_an_end_is_the_end_of_each_call(end: str) -> None:
    """Also one that is struck, or whose workers do not go: nobody drives any more."""
    executor = parallelkit.ProcessPoolExecutor(1, start_method="fork")
    future = executor.submit(tasks.sleep, 3600)
    driver = executor._driver
    until(lambda: driver._service_sleeps or driver._driving)
    drive_until = driver._drive_until

    def strike(*arguments: Any) -> bool:
        with driver._lock.unchanged():
            if end == "struck":
                raise Struck
        return False

    cast(Any, driver)._drive_until = strike
    with pytest.raises(Struck) if end == "struck" else contextlib.nullcontext():
        driver.terminate()
    cast(Any, driver)._drive_until = drive_until
    assert concurrent.futures.wait([future], 20).not_done == set()
    error = future.exception()
    assert isinstance(error, parallelkit.ClosedError)
    assert isinstance(error.__cause__, Struck) == (end == "struck")
    executor.shutdown()


def test_who_sleeps_is_told_of_an_end_that_is_struck_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while the workers are ended, and its handler runs when that is done."""
    pool = parallelkit.Pool(1, start_method="fork")
    driver = pool._driver
    result = pool._submit(*pool._single(tasks.sleep, (3600,), {}, None, None, {}))
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            result.get()
        except parallelkit.ClosedError as error:
            errors.append(error)

    with driver._lock:
        driver._driving = -1  # somebody else
    sleeper = threading.Thread(target=wait)
    sleeper.start()
    until(lambda: driver._waiting)
    close = ProcessCrew.close

    def close_and_ring(crew: ProcessCrew) -> None:
        close(crew)
        signal.raise_signal(signal.SIGINT)

    with driver._lock:
        driver._driving = None
    with monkeypatch.context() as patched:
        patched.setattr(ProcessCrew, "close", close_and_ring)
        with pytest.raises(KeyboardInterrupt):
            driver.abandon()
    assert ended(sleeper)
    assert len(errors) == 1
    pool.terminate()


@pytest.mark.parametrize("end", ["abandoned", "torn"])
def test_an_end_that_is_struck_at_one_worker_ends_the_others(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = parallelkit.Pool(2, start_method="fork")
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    driver = pool._driver
    pids = [process.pid or 0 for process in pool._pool]
    reap = ProcessCrew._reap
    struck: list[int] = []

    def strike(member: Any) -> int | None:
        if not struck:
            struck.append(member.pid)
            raise Struck
        return reap(member)

    with monkeypatch.context() as patched:
        patched.setattr(ProcessCrew, "_reap", staticmethod(strike))
        if end == "torn":
            with pytest.raises(ZeroDivisionError), driver._lock:
                raise ZeroDivisionError
        else:
            with pytest.raises(Struck):
                driver.abandon()
    assert len(pids) == 2
    assert struck
    assert not any(map(psutil.pid_exists, pids))
    pool.terminate()


def test_who_has_been_reaped_is_not_killed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number may be another process's by then."""
    pool = parallelkit.Pool(2, start_method="fork")
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    pids = [process.pid or 0 for process in pool._pool]
    signal_tree, let_go = termination.signal_tree, ProcessCrew._let_go
    killed: list[int] = []
    strikes = [Struck()]

    def note_and_kill(pid: int, *arguments: Any) -> Any:
        killed.append(pid)
        return signal_tree(pid, *arguments)

    def strike(crew: ProcessCrew, member: Any) -> None:
        if strikes:
            raise strikes.pop()
        let_go(crew, member)

    with monkeypatch.context() as patched:
        patched.setattr(termination, "signal_tree", note_and_kill)
        patched.setattr(ProcessCrew, "_let_go", strike)
        with pytest.raises(Struck):
            pool._driver.abandon()
    assert sorted(killed) == sorted(pids)
    pool.terminate()


@pytest.mark.parametrize("order", [1, -1])
def test_a_pool_that_cannot_be_ended_keeps_no_other_from_its_end(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = [parallelkit.Pool(1, start_method="fork") for _ in range(2)]
    pids = [pool.apply(tasks.pid) for pool in pools]
    crew = pools[0]._driver._crew
    close = crew.close

    def strike() -> None:
        raise Struck

    cast(Any, crew).close = strike
    monkeypatch.setattr(driving, "_live", [pool._driver for pool in pools][::order])
    with pytest.raises(Struck):
        driving._abandon_all()
    assert [psutil.pid_exists(pid) for pid in pids] == [True, False]
    cast(Any, crew).close = close
    driving._abandon_all()
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False]
    for pool in pools:
        pool.terminate()


ENDS = """
import tasks
import parallelkit
from parallelkit.engines.processes.crew import ProcessCrew

reap, strikes = ProcessCrew._reap, [KeyboardInterrupt, KeyboardInterrupt]

def strike(member):
    if strikes:
        raise strikes.pop()
    return reap(member)

if __name__ == "__main__":
    pool = parallelkit.Pool(2, start_method="fork")
    pool.map(tasks.square, range(4))
    print(*[process.pid for process in pool._pool], flush=True)
    ProcessCrew._reap = staticmethod(strike)
    try:
        pool._driver.abandon()
    except KeyboardInterrupt:
        print("struck", len(strikes))
"""


def test_an_end_that_is_struck_twice_is_made_up_for_at_the_end_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENDS)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pids, word = done.stdout.splitlines()
    assert word == "struck 0"
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.split())


class _Handler:
    """A progress object, in whose `update` a signal handler runs."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    def update(self, n: int) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()

    def close(self) -> None:
        pass


def test_a_handler_may_shut_down_while_its_thread_hands_out_results() -> None:
    executor = parallelkit.ProcessPoolExecutor(2, start_method="fork")
    results = executor.map(abs, range(-40, 0), progress=_Handler(executor.shutdown))
    assert list(results) == list(range(40, 0, -1))
    assert executor._driver.closed


def test_a_handler_that_waits_for_what_its_thread_hands_out_is_refused() -> None:
    """It would wait for itself."""
    refused: list[str] = []
    results: list[Any] = []

    def wait() -> None:
        results[0].wait(0)
        results[0].wait(0.01)
        assert not results[0].ready()
        with pytest.raises(RuntimeError) as error:
            results[0].get()
        refused.append(str(error.value))

    with parallelkit.Pool(2, start_method="fork") as pool:
        options: Any = {"progress": _Handler(wait)}
        results.append(
            pool._submit(*pool._many(tasks.square, Style.CALL, range(99), None, None, None, None, options))
        )
        assert results[0].get(20) == [x * x for x in range(99)]
    assert len(refused) == 1
    assert "its own thread" in refused[0]


def test_a_callback_may_wait_for_its_own_call_for_some_time() -> None:
    known = threading.Event()
    answers: list[bool] = []
    with parallelkit.Pool(1, start_method="fork") as pool:

        def call(_: object) -> None:
            assert known.wait(20)
            result.wait(0.01)
            answers.append(result.ready())

        result = pool.apply_async(tasks.square, (3,), callback=call)
        known.set()
        assert result.get(20) == 9
    assert answers == [False]


def test_a_handler_that_waits_while_the_first_record_is_seen_tears_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A pool listens from its beginning, and could take the record before it is seen twice; others do not.
    monkeypatch.setattr(driving.Driver, "hear_logs", lambda _: None)
    with parallelkit.Pool(2, start_method="fork", forward_logs=True) as pool:
        driver = pool._driver
        never = pool._submit(*pool._single(tasks.sleep, (3600,), {}, None, None, {}))
        wait = driver._crew.wait
        nested = 0

        def wait_and_nest(timeout: float | None) -> Any:
            nonlocal nested
            happened = wait(timeout)
            if any(isinstance(key.data, Forwarding) for key, _ in happened):
                nested += 1
                if nested == 1:
                    driver.wait(never._call, 20, lambda: nested > 1)
            return happened

        cast(Any, driver._crew).wait = wait_and_nest
        assert pool.apply(tasks.warn, ("of what",)) is None
        assert driver.wait(never._call, 20, lambda: nested > 1)
        cast(Any, driver._crew).wait = wait
        assert pool.apply(tasks.square, (3,)) == 9
        pool.terminate()


@pytest.mark.parametrize("count", [0, 3])
def test_who_has_drawn_items_has_the_lock_again_whatever_strikes(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strike is the call's end, as an error of its input would be, and not the pool's."""
    leave = shielding._Opened.__exit__
    armed: list[bool] = []
    held: list[bool] = []

    def strike(opened: Any, *error: Any) -> None:
        if armed:
            armed.clear()
            raise Struck
        leave(opened, *error)

    def items() -> Any:
        yield from range(count)
        armed.append(True)

    with parallelkit.Pool(2, start_method="fork") as pool:
        driver = pool._driver
        take_in = driver._carry_out

        def look_and_take_in() -> None:
            held.append(driver._lock.mine)
            take_in()

        cast(Any, driver)._carry_out = look_and_take_in
        monkeypatch.setattr(shielding._Opened, "__exit__", strike)
        settings = pool._settings("raise", None, {})
        sink = Gathering(settings, None)
        call = driver.submit(tasks.square, Style.CALL, items(), settings.job(None, at_hand=False), sink)
        assert driver.wait(call, 20)
        monkeypatch.undo()
        with pytest.raises(Struck):
            sink.result()
        assert held
        assert all(held)
        assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]


def test_who_takes_in_what_happened_while_another_ends_all_is_told_of_the_end() -> None:
    pool = parallelkit.Pool(2, start_method="fork")
    driver = pool._driver
    collect = driver._crew.collect

    def collect_late(happened: Any) -> Any:
        if happened:
            other = threading.Thread(target=driver.abandon)
            other.start()
            other.join()
            raise ValueError("operation forbidden on released memoryview object")
        return collect(happened)

    cast(Any, driver._crew).collect = collect_late
    with pytest.raises(parallelkit.ClosedError):
        pool.map(tasks.square, range(4))
    pool.terminate()
