"""What interrupts the owner of a pool, at whatever moment, costs no result and no pool."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import psutil
import pytest
import tasks
from waits import Struck, ended

import parallelkit
from parallelkit import futures, shielding, termination
from parallelkit.driver import Driver
from parallelkit.engines import Style
from parallelkit.engines.processes import starting
from parallelkit.errands import Courier
from parallelkit.gathering import Gathering
from parallelkit.iteration import Stream
from parallelkit.logs import THREAD
from parallelkit.options import CallOptions
from parallelkit.scheduler import Deliver, Event
from parallelkit.scheduler.messages import Results
from parallelkit.shielding import Shield, unshielded

HERE = Path(__file__).parent


def _python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_pool_that_is_interrupted_again_and_again(start_method: str, seed: int, tmp_path: Path) -> None:
    done = _python(HERE / "signal_program.py", start_method, "120", str(seed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


class Interrupting:
    """A progress object that is interrupted once, in the midst of a call."""

    def __init__(self) -> None:
        self.left = 1
        self.count = 0

    def update(self, n: int) -> None:
        self.count += n
        if self.count > 50 and self.left:
            self.left -= 1
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


def test_an_interrupted_get_loses_no_result(start_method: str) -> None:
    with parallelkit.Pool(2, start_method=start_method) as pool:
        # As in `Pool.map`: without a service thread, so that this one drives, and is interrupted.
        options: CallOptions = {"progress": Interrupting()}
        result = pool._submit(
            *pool._many(tasks.square, Style.CALL, range(200), None, None, None, None, options)
        )
        with pytest.raises(KeyboardInterrupt):
            result.get(20)
        assert result.get(20) == [x * x for x in range(200)]


def test_an_interrupt_in_another_thread_is_an_error_like_others() -> None:
    with parallelkit.Pool(2) as pool:
        result = pool.map_async(tasks.square, range(200), progress=Interrupting())
        ready = threading.Event()
        while not result.ready():
            ready.wait(0.001)  # this thread does not drive
        with pytest.raises(KeyboardInterrupt):
            result.get(20)
        assert pool.map_async(tasks.square, [3]).get(20) == [9]


# It may strike in the interpreter's own code, too, which then drops what it had just made. That nothing stays
# is for the fixture to see.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moment", [0.0, 0.001, 0.003, 0.01, 0.03, 0.1])
def test_a_ctrl_c_during_start(moment: float, start_method: str) -> None:
    main = threading.get_ident()
    timer = threading.Timer(moment, signal.pthread_kill, (main, signal.SIGINT))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        parallelkit.pool_map(tasks.sleep, [60, 60], start_method=start_method)
    timer.join()
    assert time.monotonic() - begin < 8


PROGRAM = """
import parallelkit, signal, sys, time
from parallelkit import guardian
import tasks

watch = guardian.watch
def interrupted_watch(*args):
    signal.raise_signal(signal.SIGINT)
    watch(*args)
guardian.watch = interrupted_watch

if __name__ == "__main__":
    pool = parallelkit.Pool(2, start_method=sys.argv[1])
    pool.map(tasks.square, range(5))
"""


def test_a_program_that_is_interrupted_during_start_ends(start_method: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = _python(script, start_method, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_signal_handler_may_use_the_pool(method: str) -> None:
    begin = time.monotonic()
    pool = parallelkit.Pool(2, start_method=method)

    def handler(signum: int, frame: FrameType | None) -> None:
        answers.append(pool.apply(tasks.square, (7,)))
        pool.terminate()

    answers: list[int] = []
    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        result = pool.apply_async(tasks.square, (2,))
        timer.start()
        with pytest.raises(parallelkit.ClosedError):
            pool.map(tasks.sleep, [60])
        assert result.get() == 4
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert answers == [49]
    assert time.monotonic() - begin < 20
    pool.join()


def test_workers_have_the_mask_of_their_parent(start_method: str) -> None:
    blocked = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}
    assert set(parallelkit.pool_map(blocked_signals, [0], start_method=start_method)[0]) == blocked
    with parallelkit.Pool(1, start_method=start_method) as pool:
        callback_masks: list[set[int]] = []
        pool.apply_async(abs, (1,), callback=lambda _: callback_masks.append(set(blocked_signals(0)))).wait()
    assert callback_masks == [blocked]
    assert {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])} == blocked


def blocked_signals(_: object) -> list[int]:
    return [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]


# The shield itself


def _torn(seen: list[BaseException]) -> Shield:
    return Shield(seen.append, expected=(KeyError,))


def _raise(error: BaseException) -> None:
    raise error


def test_a_shield_tells_of_what_may_have_torn_the_state() -> None:
    seen: list[BaseException] = []
    shield = _torn(seen)
    error = ValueError("in the midst")
    with pytest.raises(ValueError, match="midst"), shield:
        _raise(error)
    assert seen == [error]
    with pytest.raises(KeyError), shield:
        _raise(KeyError("expected"))
    with pytest.raises(ValueError, match="at rest"), shield, shield.opened():
        _raise(ValueError("at rest"))
    assert seen == [error]
    assert not shield.mine


def test_a_signal_waits_until_the_shield_is_given_back() -> None:
    order: list[str] = []
    shield = _torn([])
    before = signal.signal(signal.SIGUSR1, lambda *_: order.append("signal"))
    try:
        with shield:
            os.kill(os.getpid(), signal.SIGUSR1)
            order.append("locked")
            with shield.lent():
                order.append("lent")
                with unshielded():
                    order.append("unshielded")
                os.kill(os.getpid(), signal.SIGUSR1)
            order.append("back")
            with shield.opened():
                order.append("opened")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert order == ["locked", "lent", "signal", "unshielded", "back", "signal", "opened"]
    assert shielding.usual_mask() is None


def test_what_has_changed_nothing_does_not_tear() -> None:
    seen: list[BaseException] = []
    shield = _torn(seen)
    with pytest.raises(ValueError, match="too early"), shield, shield.unchanged():
        _raise(ValueError("too early"))
    assert seen == []
    error = ValueError("after it")
    with pytest.raises(ValueError, match="after it"), shield:
        with shield.unchanged():
            pass
        _raise(error)
    assert seen == [error]


def _strike_once(monkeypatch: pytest.MonkeyPatch, name: str, when: str) -> list[threading.Thread]:
    """Whoever starts a thread of this name is struck; who it was is in the list."""
    start = threading.Thread.start
    struck: list[threading.Thread] = []

    def strike(thread: threading.Thread) -> None:
        if thread.name != name or struck:
            return start(thread)
        struck.append(thread)
        if when != "before":
            start(thread)
        raise Struck

    monkeypatch.setattr(threading.Thread, "start", strike)
    return struck


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("name", ["parallelkit-service", "parallelkit-feeder"])
def test_a_thread_whose_start_is_struck_costs_no_pool(
    name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a handler's exception while it waits for the thread, or as there can be no more threads."""
    with parallelkit.Pool(2) as pool:
        struck = _strike_once(monkeypatch, name, when)
        with pytest.raises(Struck):
            pool.imap(tasks.square, iter(range(5000)))
        assert ended(struck[0])
        assert struck[0] not in pool._driver._feeders
        assert list(pool.imap(tasks.square, iter(range(50)))) == [x * x for x in range(50)]
        assert pool.map_async(tasks.square, range(50)).get(20) == [x * x for x in range(50)]


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("function", ["apply_async", "map_async", "starmap_async"])
def test_a_call_that_is_struck_does_not_run(
    function: str, when: str, monkeypatch: pytest.MonkeyPatch, counting: Any
) -> None:
    """Nobody has it: who calls again would have the work done twice."""
    items = (1,) if function == "apply_async" else [1] if function == "map_async" else [(1,)]
    with parallelkit.Pool(2) as pool:
        struck = _strike_once(monkeypatch, "parallelkit-service", when)
        with pytest.raises(Struck):
            getattr(pool, function)(counting.run, items)
        assert ended(struck[0])
        assert pool._driver.calls == []
        getattr(pool, function)(counting.run, items).get(20)
    assert counting.runs() == {"1": 1}


def test_a_block_that_is_struck_at_its_end_leaves_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    with pytest.raises(Struck), parallelkit.Pool(2, start_method="fork") as pool:
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
        pids += [process.pid or 0 for process in pool._pool]
        _strike_once(monkeypatch, "parallelkit-service", "before")
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


class _Sink:
    """Where the outcomes of a call go; its last word raises `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.values: list[Any] = []
        self._error = error

    def deliver(self, outcomes: Deliver) -> None:
        self.values += outcomes.values

    def finish(self, exception: BaseException | None) -> None:
        if self._error is not None:
            raise self._error


def test_outcomes_of_others_come_though_who_hands_them_out_is_struck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls end in one turn, and the first is struck: for the second nothing will happen any more."""
    with parallelkit.Pool(2, start_method="fork") as pool:
        driver = pool._driver
        sinks = [_Sink(Struck()), _Sink()]
        spec = pool._usual_single
        calls = [driver.submit(tasks.square, Style.CALL, [x], spec, sink) for x, sink in enumerate(sinks, 2)]
        crew = driver._crew
        collect = crew.collect

        held: list[Results] = []

        def collect_both(happened: Any) -> list[Event]:
            events = collect(happened)
            held.extend(event for event in events if isinstance(event, Results))
            told = [event for event in events if event not in held]
            if len(held) == 2:
                held.sort(key=lambda results: results.values)  # the first call's first
                told += held
                held.clear()
            return told

        with monkeypatch.context() as patched:
            patched.setattr(crew, "collect", collect_both)
            with pytest.raises(Struck):
                driver.wait(calls[0], 20)
        assert [call.done for call in calls] == [True, False]
        assert driver.wait(calls[1], 20)
        assert [sink.values for sink in sinks] == [[4], [9]]


class _Interrupting:
    """A progress object that gets a Ctrl-C at its end."""

    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [Gathering, Stream])
def test_a_ctrl_c_at_the_end_of_the_progress_costs_no_outcome(kind: type[Gathering] | type[Stream]) -> None:
    with parallelkit.Pool(2, start_method="fork") as pool:
        settings = pool._settings("raise", None, {"progress": _Interrupting()})
        sink = kind(settings, 3)
        call = pool._driver.submit(tasks.square, Style.CALL, range(3), settings.job(3, at_hand=True), sink)
        with pytest.raises(KeyboardInterrupt):
            pool._driver.wait(call, 20)
        assert pool._driver.wait(call, 20)
        if isinstance(sink, Stream):
            assert sink.over
        else:
            assert sink.result() == [0, 1, 4]


@pytest.mark.parametrize("end", ["_end", "_cut"])
def test_a_future_whose_callbacks_are_struck_is_at_its_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = futures.Callbacks()
    future: futures.Future[int] = futures.Future()
    future._callbacks = callbacks
    future._call = cast(Any, "what the task was made of")
    future.add_done_callback(lambda _: None)
    struck = _strike_once(monkeypatch, "parallelkit-callbacks", "before")
    with pytest.raises(Struck):
        future._cut() if end == "_cut" else future._end(1, None)
    assert struck
    assert future._call is None
    assert concurrent.futures.wait([future], 20).done == {future}
    callbacks.close()


def test_callbacks_come_where_there_is_no_room_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "parallelkit-callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    called: list[int] = []
    with parallelkit.ProcessPoolExecutor(2, start_method="fork") as executor:
        monkeypatch.setattr(threading.Thread, "start", fail)
        for x in range(3):
            executor.submit(tasks.square, x).add_done_callback(lambda future: called.append(future.result()))
        assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]
    assert sorted(called) == [0, 1, 4]


def test_a_block_that_is_interrupted_waits_for_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what was waited for, perhaps. The thread ends by itself when all have been called."""
    called: list[int] = []
    goes_on = threading.Event()

    def call(number: int, _: object) -> None:
        assert goes_on.wait(20)
        called.append(number)

    executor = parallelkit.ProcessPoolExecutor(1, start_method="fork")
    with pytest.raises(KeyboardInterrupt), executor:
        future = executor.submit(tasks.square, 3)
        assert future.result() == 9
        future.add_done_callback(lambda _: called.append(1))
        executor.submit(tasks.wait_for_ever).add_done_callback(functools.partial(call, 2))

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(executor, "shutdown", interrupt)
    thread = executor._callbacks._thread
    goes_on.set()
    assert thread is None or ended(thread)
    assert called == [1, 2]


def _service_sleeps(pool: parallelkit.Pool) -> threading.Thread:
    """Wait until its service thread sleeps until it is called."""
    service = pool._driver._service
    assert service is not None
    while not pool._driver._service_sleeps:
        time.sleep(0.001)
    return service


@pytest.mark.parametrize("leaves", ["before", "behind"])
def test_a_signal_handler_has_its_call_done_while_its_thread_waits_for_others(leaves: str) -> None:
    """Another thread drives, and leaves before the call or behind it: who waits cannot hear."""
    with parallelkit.Pool(1) as pool:
        result = pool.apply_async(tasks.square, (3,))
        result.get(20)
        _service_sleeps(pool)
        waiting, driver = result._call, pool._driver
        with driver._lock:
            driver._waiting[waiting] = 1
            driver._main_waits.append(waiting)
            driver._driving = None if leaves == "before" else -1
        called = threading.Event()
        pool.apply_async(tasks.square, (4,), callback=lambda _: called.set())

        def leave() -> None:
            with driver._lock:
                driver._driving = None
                driver._pass_on()

        if leaves == "behind":
            thread = threading.Thread(target=leave)
            thread.start()
            thread.join(20)
        assert called.wait(20)
        with driver._lock:
            driver._waiting.clear()
            driver._main_waits.clear()


def test_what_comes_while_a_signal_handler_waits_is_not_waited_for_behind_it(tmp_path: Path) -> None:
    """The handler drives within the turn that it has interrupted, and takes in what that one sleeps for."""
    main = threading.get_ident()
    with parallelkit.Pool(2, start_method="fork") as pool:
        driver = pool._driver
        slow, quick = (
            pool._submit(*pool._single(tasks.wait_for_file, (str(tmp_path / name),), {}, None, None, {}))
            for name in ("never", "now")
        )

        def handle(*_: object) -> None:
            (tmp_path / "now").touch()
            while not quick.ready():
                slow.wait(0.05)
            slow.wait(0.05)  # which empties what had woken the turn below

        def ring() -> None:
            while driver._driving != main:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGUSR1)

        usual = signal.signal(signal.SIGUSR1, handle)
        ringer = threading.Thread(target=ring)
        try:
            ringer.start()
            quick.get()
        finally:
            ringer.join()
            signal.signal(signal.SIGUSR1, usual)
        pool.terminate()


def test_a_worker_that_is_started_while_its_pool_is_abandoned_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """`abandon` does not wait for who is starting it, and does not see it."""
    launch = starting.launch
    pids: list[int] = []
    executor = parallelkit.ProcessPoolExecutor(1, start_method="fork")

    def launch_late(*arguments: Any) -> Any:
        process = launch(*arguments)
        pids.append(process.pid or 0)
        executor._driver.abandon()
        return process

    monkeypatch.setattr(starting, "launch", launch_late)
    with pytest.raises(parallelkit.ClosedError):
        executor.submit(tasks.square, 3)
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0])
    executor.shutdown()


def test_an_end_that_is_struck_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_: object) -> None:
        raise Struck

    pool = parallelkit.Pool(1)
    pool.apply_async(tasks.square, (3,)).get(20)
    service = _service_sleeps(pool)
    with monkeypatch.context() as patched:
        patched.setattr(termination, "wait_for_all", strike)
        with pytest.raises(Struck):
            pool.terminate()
    assert ended(service)


@pytest.mark.parametrize("when", ["before", "behind"])
def test_callbacks_come_though_the_start_of_their_thread_is_struck(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    callbacks = futures.Callbacks()
    struck = _strike_once(monkeypatch, "parallelkit-callbacks", when)
    future: Any = types.SimpleNamespace(_call_back=lambda: called.append(1))
    with pytest.raises(Struck):
        callbacks.post(future)
    assert ended(struck[0])
    callbacks.close()
    assert called == [1]


def test_a_callback_may_come_while_the_thread_for_them_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same thread: the garbage collector ends a call, and that another future."""
    called: list[int] = []
    callbacks = futures.Callbacks()
    first, second, third = (
        cast(Any, types.SimpleNamespace(_call_back=functools.partial(called.append, number)))
        for number in range(3)
    )
    start = threading.Thread.start
    nested = [third, second]

    def collect(thread: threading.Thread) -> None:
        if nested:
            callbacks.post(nested.pop())
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", collect)
    callbacks.post(first)
    callbacks.close()
    assert called == [0, 1, 2]
    assert all(ended(each) for each in threading.enumerate() if each.name == "parallelkit-callbacks")


def test_no_thread_is_started_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    struck = _strike_once(monkeypatch, "parallelkit-callbacks", "before")
    callbacks = futures.Callbacks()
    callbacks.close()
    callbacks.close()
    assert struck == []


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_courier_whose_start_is_struck(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[threading.Thread] = []
    courier = Courier()
    struck = _strike_once(monkeypatch, "parallelkit-courier", when)
    with pytest.raises(Struck):
        courier.post(lambda: by.append(threading.current_thread()))
    for _ in range(5):
        courier.post(lambda: by.append(threading.current_thread()))
    courier.close(wait=True)
    assert len(by) == 5
    assert struck[0] not in by  # or two would be at it
    assert ended(struck[0])


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_listener_for_logs_whose_start_is_struck(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    struck = _strike_once(monkeypatch, THREAD, when)
    with parallelkit.ProcessPoolExecutor(1, start_method="spawn") as executor:
        with pytest.raises(Struck):
            executor.submit(tasks.square, 2)
        assert ended(struck[0])
        assert executor.submit(tasks.square, 3).result(20) == 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_thread_that_cannot_be_replaced_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    with parallelkit.Pool(1) as pool:
        assert pool.map_async(tasks.square, [3]).get(20) == [9]
        driver = pool._driver
        service = driver._service
        assert service is not None
        assert service.ident is not None
        struck = _strike_once(monkeypatch, service.name, "before")
        with driver._lock:  # so that it does not hold that
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(service.ident), ctypes.py_object(SystemExit)
            )
            driver._service_news.notify_all()
        assert ended(service)
        assert len(struck) == 1
        with pytest.raises(parallelkit.ClosedError):
            pool.map(tasks.square, [3])


def test_a_feeder_leaves_a_torn_pool_without_a_word() -> None:
    """What is printed about a thread that ends by an exception would be an error of these tests."""
    going, gone = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        going.set()
        gone.wait(20)
        yield from range(5000)

    with parallelkit.Pool(1) as pool:
        results = pool.imap(tasks.square, numbers())
        assert going.wait(20)
        (feeder,) = pool._driver._feeders
        with pytest.raises(Struck), pool._driver._lock:
            raise Struck
        gone.set()
        feeder.join(20)
        assert not feeder.is_alive()
        with pytest.raises(parallelkit.ClosedError):
            list(results)


def test_a_handler_cannot_enter_where_its_thread_is() -> None:
    shield = _torn([])
    with shield, pytest.raises(RuntimeError, match="signal handler"):
        shield.acquire()
    assert not shield.mine


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_thread_that_ends_before_it_begins_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is injected from outside, which means this one thread."""
    ask = Driver._has_this_thread
    struck: list[threading.Thread] = []

    def strike(driver: Driver) -> bool:
        if not struck:
            struck.append(threading.current_thread())
            raise SystemExit
        return ask(driver)

    monkeypatch.setattr(Driver, "_has_this_thread", strike)
    with parallelkit.Pool(1) as pool:
        called = threading.Event()
        pool.apply_async(tasks.square, (3,), callback=lambda _: called.set())
        assert called.wait(20)
        assert pool._driver._service not in struck
        assert len(struck) == 1
