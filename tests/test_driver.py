"""The driver: who waits, drives, and is woken when another thread has brought what it waits for."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import tasks
from waits import until

import parallelkit
from parallelkit.driver import Call, Driver
from parallelkit.engines.processes.crew import ProcessCrew
from parallelkit.iteration import Stream
from parallelkit.options import call_settings, worker_settings
from parallelkit.scheduler import Deliver, Event, Revoked
from parallelkit.scheduler.machine import STEAL_SECONDS

Options = dict[str, Any]


class InputError(Exception):
    pass


@pytest.mark.parametrize("ending", ["raise", "stop"])
def test_an_input_that_ends_while_the_caller_drives(engine: Options, ending: str) -> None:
    settings = call_settings()
    driver = Driver(worker_settings(max_workers=1, **engine))
    stream = Stream(settings, None)
    main = threading.get_ident()

    def late_end() -> Iterator[int]:
        yield 3
        until(lambda: not stream.results and driver._driving == main)
        if ending == "raise":
            raise InputError("disk")

    spec = settings.stream(None, ordered=True, buffersize=None)
    call = driver.submit(tasks.square, 0, late_end(), spec, stream)  # type: ignore[arg-type]
    feeder = threading.Thread(target=driver.feed, args=(call,))
    feeder.start()
    while not stream.over:
        assert driver.wait(call, 30, stream.has_news)
        if stream.results:
            assert stream.results.popleft() == [9]
            driver.consumed(call, 1)
    feeder.join()
    assert isinstance(stream.exception, InputError if ending == "raise" else type(None))
    driver.terminate()


def test_a_shutdown_while_another_thread_drives(engine: Options) -> None:
    settings = call_settings()
    driver = Driver(worker_settings(max_workers=1, **engine))
    stream = Stream(settings, None)
    finish = threading.Event()

    def item() -> Iterator[int]:
        yield 4
        finish.wait(30)

    spec = settings.stream(None, ordered=True, buffersize=None)
    call: Call = driver.submit(tasks.square, 0, item(), spec, stream)  # type: ignore[arg-type]
    threads = [
        threading.Thread(target=driver.feed, args=(call,)),
        threading.Thread(target=driver.wait, args=(call,)),
    ]
    for thread in threads:
        thread.start()
    until(lambda: driver._driving == threads[1].ident and stream.results)
    ender = threading.Thread(target=driver.shut_down)
    ender.start()
    until(lambda: driver._enders == 1 or not ender.is_alive())
    finish.set()
    for thread in (*threads, ender):
        thread.join(30)
        assert not thread.is_alive()
    assert driver.closed
    assert list(stream.results) == [[16]]


def test_an_item_is_worked_on_while_the_next_is_awaited(engine: Options) -> None:
    """An input that makes its next item of the last result must not be drawn ahead of it."""
    results: list[int] = []

    def feedback() -> Iterator[int]:
        number = 0
        while number < 6:
            yield number
            until(lambda: len(results) > number)  # noqa: B023 - called here and now
            number += 1

    for result in parallelkit.pool_imap(tasks.square, feedback(), **engine):
        results.append(result)
    assert results == [0, 1, 4, 9, 16, 25]


def wait_for(path: str) -> str:
    until(lambda: os.path.exists(path))
    return path


def test_who_has_taken_a_result_is_not_one_to_whom_the_driving_is_passed(tmp_path: Path) -> None:
    """The stream's feeder sleeps where its caller slept, and does not drive."""

    def late() -> Iterator[int]:  # so that the caller sleeps first, and is the first to wake up
        for number in itertools.count():
            until(lambda: driver._waiting or over)
            yield number

    over: list[bool] = []
    with parallelkit.Pool(2, start_method="fork") as pool:
        driver = pool._driver
        other = threading.Thread(target=pool.apply, args=(wait_for, (str(tmp_path / "over"),)))
        other.start()
        until(lambda: driver._driving == other.ident)
        with pool.imap(tasks.square, late(), buffersize=1) as stream:
            for number in range(200):
                assert next(stream) == number * number
                assert stream._call not in driver._waiting
            over.append(True)
        (tmp_path / "over").touch()
        other.join(30)
        assert not other.is_alive()


def test_what_tears_a_pool_ends_its_calls(start_method: str) -> None:
    """Also those that nobody waits for: a callback and a future are told."""
    told: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    pool = parallelkit.Pool(1, start_method=start_method)
    executor = parallelkit.ProcessPoolExecutor(1, start_method=start_method)
    result = pool.apply_async(tasks.sleep, (3600,), error_callback=told.put)
    future = executor.submit(tasks.sleep, 3600)
    for driver in (pool._driver, executor._driver):
        with pytest.raises(ZeroDivisionError), driver._lock:
            raise ZeroDivisionError  # not out of a block that is open: a fault of ours, or a full disk
    assert concurrent.futures.wait([future], timeout=30).not_done == set()
    for error in (told.get(timeout=30), future.exception()):
        assert isinstance(error, parallelkit.ClosedError)
        assert isinstance(error.__cause__, ZeroDivisionError)
    with pytest.raises(parallelkit.ClosedError):
        result.get(timeout=30)
    with pytest.raises(parallelkit.ClosedError):
        pool.apply(abs, (1,))
    pool.terminate()
    executor.shutdown()


@pytest.mark.parametrize("end", ["torn", "abandoned"])
def test_who_drives_is_woken_though_there_is_no_worker_to_be_waited_for(end: str) -> None:
    """What wakes it, and the close of what it sleeps on, are one moment then."""
    for _ in range(5):
        pool = parallelkit.Pool(1, start_method="fork")
        result = pool.apply_async(tasks.sleep, (3600,))
        driver, crew = pool._driver, cast(ProcessCrew, pool._driver._crew)
        service = driver._service
        assert service is not None
        ident = service.ident
        until(lambda: driver._driving == ident)  # noqa: B023 - called here and now
        members, crew._members = crew._members, {}
        if end == "torn":
            with pytest.raises(ZeroDivisionError), driver._lock:
                raise ZeroDivisionError
        else:
            driver.abandon()
        service.join(20)
        assert not service.is_alive()
        crew._members = members
        crew.close()
        with pytest.raises(parallelkit.ClosedError):
            result.get(20)
        pool.terminate()


@pytest.mark.parametrize("held", [False, True])
def test_the_service_ends_with_a_pool_that_is_abandoned_while_it_sleeps(held: bool) -> None:
    """A second Ctrl-C in the midst of `terminate`; what ends the pool behind it must not wait for ever."""
    pool = parallelkit.Pool(1, start_method="fork")
    assert pool.map_async(abs, [-1]).get(30) == [1]
    driver = pool._driver
    service = driver._service
    assert service is not None
    until(lambda: driver._service_sleeps)
    if held:  # then it is told when the pool is ended
        taken, over = threading.Event(), threading.Event()

        def hold() -> None:
            with driver._lock:
                taken.set()
                over.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        assert taken.wait(30)
        driver.abandon()
        over.set()
        holder.join()
        assert service.is_alive()
        pool.terminate()
    else:
        driver.abandon()
    service.join(30)
    assert not service.is_alive()
    pool.terminate()


def test_who_waits_while_the_outcome_is_handed_out_is_told_of_it_and_not_of_a_closed_pool() -> None:
    handing, go_on = threading.Event(), threading.Event()
    ended: list[BaseException | None] = []

    class LateSink:
        def deliver(self, outcomes: Deliver) -> None:
            raise AssertionError(outcomes)

        def finish(self, exception: BaseException | None) -> None:
            handing.set()
            assert go_on.wait(60)
            ended.append(exception)

    driver = Driver(worker_settings(max_workers=1, start_method="fork"))
    spec = call_settings().stream(None, ordered=True, buffersize=None)
    # Nobody draws its input: no worker has anything of it. Nobody drives: who cancels hands out the end.
    call = driver.submit(tasks.square, 0, iter([1]), spec, LateSink())  # type: ignore[arg-type]
    canceller = threading.Thread(target=driver.cancel, args=(call, LookupError()))
    canceller.start()
    assert handing.wait(60)
    driver.terminate()
    assert driver.closed
    assert not driver.wait(call, 0)  # the outcome is on its way
    go_on.set()
    assert driver.wait(call, 60)
    canceller.join(60)
    assert [type(error) for error in ended] == [LookupError]


def test_taking_work_back_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def revoke(crew: ProcessCrew, worker: int) -> Event:
        time.sleep(2 * STEAL_SECONDS)
        return Revoked(worker, None)

    monkeypatch.setattr(ProcessCrew, "revoke", revoke)
    with parallelkit.Pool(2, start_method="fork") as pool:
        assert pool.map(tasks.sleep, [0.05] * 4, chunksize=4) == [0.05] * 4
