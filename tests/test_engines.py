"""What holds for the engines in this process, where nothing can be killed and all is in one thread or few."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import tasks

import parallelkit
import parallelkit.driver
from parallelkit import Failure
from parallelkit.driver import Driver
from parallelkit.engines.processes import worker
from parallelkit.engines.processes.page import StatusPage


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)  # the handler ends it


def test_serial_runs_nothing_twice_after_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where this thread is slow to come, the service thread would run the items, and see no interrupt.
    monkeypatch.setattr(parallelkit.driver, "PATIENCE", 60.0)
    ran: list[int] = []

    def work(x: int) -> int:
        ran.append(x)
        if x == 3:
            _interrupt()
        return x

    with parallelkit.Pool(1, engine="serial") as pool:
        result = pool.map_async(work, range(6), chunksize=6, errors="return")
        with pytest.raises(KeyboardInterrupt):
            result.get()
        assert pool.map(work, [10]) == [10]
        outcomes = result.get()
    assert sorted(ran) == [0, 1, 2, 3, 4, 5, 10]
    assert [outcome.ok for outcome in outcomes] == [True, True, True, False, True, True]
    assert isinstance(outcomes[3].exception, KeyboardInterrupt)  # type: ignore[union-attr]


def test_serial_survives_interrupts_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the service thread runs items, and arms while the main thread is outside the `try`.
    monkeypatch.setattr(parallelkit.driver, "PATIENCE", 60.0)
    # The signals come from another thread, so they strike between any two steps, in the engine too.
    ran: list[int] = []
    done = threading.Event()

    def annoy() -> None:
        while not done.wait(0.0007):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    class Struck(KeyboardInterrupt):
        pass

    armed = False

    def strike(signum: int, frame: Any) -> None:
        # Only in the engine's own steps and in the task: the driver's are another test's.
        if armed and frame.f_code.co_filename in (parallelkit.engines.serial.__file__, __file__):
            raise Struck

    def work(x: int) -> int:
        nonlocal armed
        armed = True
        ran.append(x)
        return x

    before = signal.signal(signal.SIGUSR1, strike)
    annoyer = threading.Thread(target=annoy)
    annoyer.start()
    struck = 0
    try:
        with parallelkit.Pool(1, engine="serial") as pool:
            result = pool.map_async(work, range(100_000), errors="return")
            while not result.ready():
                try:
                    result.wait()
                except Struck:
                    struck += 1
                finally:
                    armed = False
            done.set()
            outcomes = result.get()
    finally:
        done.set()
        annoyer.join()
        signal.signal(signal.SIGUSR1, before)
    assert struck
    assert len(ran) == len(set(ran))
    for index, outcome in enumerate(outcomes):
        assert outcome.index == index
        assert isinstance(outcome, Failure) or outcome.value == index


@pytest.mark.parametrize("wait", ["map", "apply_async", "imap", "join"])
def test_a_serial_task_cannot_wait_for_its_own_pool(wait: str) -> None:
    def close_and_join() -> None:
        pool.close()
        pool.join()

    waits: dict[str, Callable[[], object]] = {
        "map": lambda: pool.map(abs, [-1]),
        "apply_async": lambda: pool.apply_async(abs, (-1,)).get(),
        "imap": lambda: list(pool.imap(abs, [-1])),
        "join": close_and_join,
    }
    pool = parallelkit.Pool(engine="serial")
    try:
        with pytest.raises(RuntimeError, match="waits for its own pool"):
            pool.apply(waits[wait])
        if wait != "join":
            assert pool.map(abs, [-2]) == [2]
    finally:
        pool.terminate()
        pool.join()


def test_a_serial_task_may_hand_in_work_and_end_its_pool() -> None:
    with parallelkit.Pool(engine="serial") as pool:
        inner = pool.apply(lambda: [pool.apply_async(abs, (-1,))])
        assert inner[0].get() == 1
    pool = parallelkit.Pool(engine="serial")
    with pytest.raises(parallelkit.ClosedError):
        pool.map(lambda x: pool.terminate(), range(3))
    pool.join()


def test_an_initializer_that_fails_once(engine: dict[str, Any], counting: Any) -> None:
    options: dict[str, Any] = {"initializer": tasks.fail_first, "initargs": (str(counting.folder),)}
    assert parallelkit.pool_map(abs, [-1, -2], max_workers=1, **options, **engine) == [1, 2]


def test_a_serial_initializer_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "serve", lambda *_: None)  # this thread drives, however late it comes
    struck: list[int] = []

    def initializer() -> None:
        struck.append(1)
        if len(struck) == 1:
            _interrupt()

    with parallelkit.Pool(engine="serial", initializer=initializer) as pool:
        result = pool.map_async(abs, [-1, -2])
        with pytest.raises(KeyboardInterrupt):
            result.get()
        assert result.get() == [1, 2]
    assert len(struck) == 2


def test_a_serial_call_is_cancelled_from_another_thread() -> None:
    ran: list[int] = []

    def work(x: int) -> int:
        ran.append(x)
        if x == 2:
            canceller = threading.Thread(target=result.cancel)
            canceller.start()
            canceller.join()
        return x

    with parallelkit.Pool(engine="serial") as pool:
        result = pool.map_async(work, range(10), chunksize=10)
        with pytest.raises(parallelkit.ClosedError):
            result.get()
        assert pool.map(work, [20]) == [20]
    assert ran == [0, 1, 2, 20]


def test_what_an_exception_does_costs_its_item_alone(engine: dict[str, Any]) -> None:
    most = len(tasks.LIARS)
    outcomes = parallelkit.pool_map(
        tasks.raise_liar, range(most + 2), errors="return", max_workers=1, chunksize=3, **engine
    )
    assert [outcome.ok for outcome in outcomes] == [False] * most + [True] * 2
    for outcome, liar in zip(outcomes, tasks.LIARS, strict=False):
        assert isinstance(outcome, Failure)
        error = outcome.exception
        assert type(error) in (liar, parallelkit.RemoteError)
        assert not isinstance(error, parallelkit.WorkerDiedError)


FORKING = """
import os, sys, time
import parallelkit

if __name__ == "__main__":
    pool = parallelkit.Pool(2, start_method=sys.argv[1])
    result = pool.apply_async(time.sleep, (0.5,))
    if not (child := os.fork()):
        for step in (pool.close, pool.join, pool.stats, lambda: pool.apply(abs, (1,))):
            try:
                step()
            except parallelkit.ClosedError:
                print("closed", flush=True)
        pool.terminate()
        pool.__exit__(None, None, None)
        sys.exit(0)
    print(os.waitpid(child, 0)[1], result.get(), pool.map(abs, [-4]), flush=True)
    pool.close()
    pool.join()
"""


def test_a_forked_child_leaves_the_pool_alone(start_method: str, tmp_path: Any) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    command = [sys.executable, "-W", "ignore", script, start_method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "closed\nclosed\nclosed\nclosed\n0 None [4]\n", done.stderr
    assert done.stderr == ""


def test_a_worker_whose_owner_went_before_it_was_up_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    mine, theirs = socket.socketpair()
    page = StatusPage()
    mine.close()
    process = multiprocessing.get_context("fork").Process(
        target=worker.main, args=(theirs, page, worker.Boot(say_ready=True))
    )
    process.start()
    process.join()
    theirs.close()
    page.close_file()
    page.close()
    assert process.exitcode == -signal.SIGKILL
    assert capfd.readouterr().err == ""
