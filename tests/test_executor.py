from __future__ import annotations

import asyncio
import concurrent.futures as standard
import contextlib
import functools
import gc
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import psutil
import pytest
import tasks

import parallelkit
from parallelkit import (
    CallTimeoutError,
    ClosedError,
    ProcessPoolExecutor,
    SerializationError,
    TaskTimeoutError,
    UnreadableError,
    WorkerDiedError,
    WorkerInitError,
)

ENDLESS = 3600.0


@pytest.fixture
def executor(start_method: str) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context(start_method)) as executor:
        yield executor


@pytest.fixture
def forked() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, start_method="fork") as executor:
        yield executor


def until_running(*futures: standard.Future[Any]) -> None:
    deadline = time.monotonic() + 30
    while not all(future.running() for future in futures):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_methods_of_concurrent_futures(executor: ProcessPoolExecutor) -> None:
    assert isinstance(executor, standard.Executor)
    future = executor.submit(tasks.add, 1, y=2)
    assert isinstance(future, standard.Future)
    assert future.result() == 3
    assert future.exception() is None
    assert future.done()
    futures = [executor.submit(tasks.square, x) for x in range(10)]
    assert standard.wait(futures).not_done == set()
    assert sorted(f.result() for f in standard.as_completed(futures)) == [x * x for x in range(10)]
    assert list(executor.map(tasks.add, range(5), range(5))) == [0, 2, 4, 6, 8]
    failed = executor.submit(tasks.fail_on_three, 3)
    with pytest.raises(ValueError, match="three") as caught:
        failed.result()
    assert caught.traceback[-1].name == "fail_on_three"
    assert len(executor._processes) in (1, 2)


def test_a_death_fails_one_future(executor: ProcessPoolExecutor, counting: Any) -> None:
    task = tasks.count_and
    folder = str(counting.folder)
    futures = [executor.submit(task, folder, "kill", 3, x) for x in range(8)]
    error = futures.pop(3).exception()
    assert isinstance(error, WorkerDiedError)
    assert isinstance(error, BrokenProcessPool)
    assert (error.signal, error.started, error.index) == (signal.SIGKILL, True, None)
    assert [future.result() for future in futures] == [0, 1, 2, 4, 5, 6, 7]
    assert counting.runs() == {str(x): 1 for x in range(8)}
    assert executor.submit(tasks.square, 3).result() == 9


def test_what_cannot_be_sent_or_read_fails_its_task(executor: ProcessPoolExecutor) -> None:
    unsent = executor.submit(tasks.echo, threading.Lock())
    unread = executor.submit(tasks.echo, tasks.Poison())
    back = executor.submit(tasks.return_poison, 1)
    lock = executor.submit(tasks.return_lock, 1)
    assert executor.submit(tasks.square, 3).result() == 9
    for future, kind, what in (
        (unsent, SerializationError, "call"),
        (unread, UnreadableError, "call"),
        (back, UnreadableError, "result"),
        (lock, SerializationError, "result"),
    ):
        error = future.exception()
        assert isinstance(error, kind)
        assert error.what == what
        assert isinstance(error, BrokenProcessPool) is (kind is UnreadableError)
        assert isinstance(error, pickle.PicklingError)


# Cancelling


def test_cancel_ends_a_task_that_runs(executor: ProcessPoolExecutor, counting: Any) -> None:
    folder = str(counting.folder)
    running = [executor.submit(tasks.count_and, folder, "stuck", x, x) for x in range(2)]
    waiting = executor.submit(tasks.count_and, folder, "never", 2, 2)
    while set(counting.runs()) != {"0", "1"}:
        time.sleep(0.001)
    assert "state=running" in repr(running[0])
    assert not waiting.running()
    struck = set(executor._processes)
    called: list[object] = []
    waiting.add_done_callback(called.append)
    assert waiting.cancel()
    assert running[0].cancel()
    assert running[0].cancelled()
    assert running[0].cancel()
    assert called == [waiting]
    with pytest.raises(standard.CancelledError):
        running[0].result()
    assert standard.wait([running[0], waiting], timeout=30).not_done == set()
    assert running[1].running()
    assert running[1].cancel()
    assert standard.wait(running, timeout=30).not_done == set()
    assert executor.submit(tasks.square, 3).result() == 9
    assert not any(psutil.pid_exists(pid) for pid in struck)
    assert counting.runs() == {"0": 1, "1": 1}
    done = executor.submit(tasks.square, 3)
    done.result()
    assert not done.cancel()


def test_cancel_wakes_who_waits_for_the_result(forked: ProcessPoolExecutor) -> None:
    future = forked.submit(tasks.happen, "stubborn")
    until_running(future)
    got: list[BaseException] = []

    def wait() -> None:
        try:
            future.result()
        except BaseException as error:
            got.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    future.cancel()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in got] == [standard.CancelledError] * 3


def test_asyncio(executor: ProcessPoolExecutor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(executor, tasks.square, x) for x in range(5))
        assert await asyncio.gather(*calls) == [0, 1, 4, 9, 16]
        with pytest.raises(ValueError, match="three"):
            await asyncio.wrap_future(executor.submit(tasks.fail_on_three, 3))
        future = executor.submit(tasks.sleep, ENDLESS)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.2)
        while not future.cancelled():  # asyncio passes it on in its loop
            await asyncio.sleep(0.001)
        assert standard.wait([future], 30).done

    asyncio.run(main())


# Waiting


def test_a_timeout_only_stops_the_wait(forked: ProcessPoolExecutor) -> None:
    future = forked.submit(tasks.sleep, 0.3)
    for ask in (future.result, future.exception):
        with pytest.raises(standard.TimeoutError) as caught:
            ask(timeout=0.01)
        assert isinstance(caught.value, CallTimeoutError)
        with pytest.raises(multiprocessing.TimeoutError):
            ask(0)
    assert future.result() == 0.3
    assert future.result(timeout=-1) == 0.3


def test_each_result_raises_with_its_own_frames(forked: ProcessPoolExecutor) -> None:
    future = forked.submit(tasks.fail_on_three, 3)
    for _ in range(3):
        with pytest.raises(ValueError, match="three") as caught:
            future.result()
        names = [entry.name for entry in caught.traceback]
        assert names.count("test_each_result_raises_with_its_own_frames") == 1
        assert names.count("result") == 2
        assert names[-1] == "fail_on_three"


def test_many_threads_submit(forked: ProcessPoolExecutor) -> None:
    sums: list[int] = []

    def use() -> None:
        futures = [forked.submit(tasks.square, x) for x in range(20)]
        sums.append(sum(future.result() for future in futures) + sum(forked.map(abs, range(10))))

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [2470 + 45] * 16


def test_what_a_task_was_made_of_goes_with_its_end(forked: ProcessPoolExecutor) -> None:
    class Load:
        def __reduce__(self) -> Any:
            return int, ()

    load = Load()
    gone = weakref.ref(load)
    future = forked.submit(tasks.echo, load)
    del load
    assert future.result() == 0
    gc.collect()
    assert gone() is None


# Callbacks


def test_callbacks(forked: ProcessPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    later: list[standard.Future[int]] = []
    called = threading.Event()

    def bad(_: object) -> None:
        raise LookupError("callback")

    def submit(future: standard.Future[int]) -> None:
        later.append(forked.submit(tasks.square, future.result()))
        called.set()

    future = forked.submit(tasks.square, 3)
    future.add_done_callback(bad)
    future.add_done_callback(submit)
    assert called.wait(30)
    assert later[0].result() == 81
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] in ([LookupError], [])


def test_a_callback_may_want_what_the_waiting_thread_holds(
    forked: ProcessPoolExecutor, tmp_path: Path
) -> None:
    lock = threading.Lock()
    called = threading.Event()

    def callback(_: object) -> None:
        with lock:
            called.set()

    with lock:
        future = forked.submit(tasks.wait_for_file, str(tmp_path / "go"))
        future.add_done_callback(callback)
        (tmp_path / "go").touch()
        assert future.result() is None
        assert forked.submit(tasks.square, 3).result() == 9
        assert not called.is_set()
    assert called.wait(30)


def test_a_callback_may_wait_for_another_future(forked: ProcessPoolExecutor) -> None:
    results: list[object] = []
    other = forked.submit(tasks.sleep, 0.1)
    first = forked.submit(tasks.square, 3)
    first.add_done_callback(lambda _: results.append(standard.wait([other], 30).not_done))
    forked.shutdown()  # which waits for the callbacks, too
    assert results == [set()]


def test_a_callback_that_raises_a_base_exception_keeps_no_other_from_being_called(
    forked: ProcessPoolExecutor, tmp_path: Path
) -> None:
    called = threading.Event()

    def leave(_: object) -> None:
        raise SystemExit

    for callback in (leave, lambda _: called.set()):
        forked.submit(tasks.wait_for_file, str(tmp_path / "go")).add_done_callback(callback)
    (tmp_path / "go").touch()
    assert called.wait(30)


# map


def test_map_is_bounded_by_its_buffer(executor: ProcessPoolExecutor) -> None:
    drawn = itertools.count()
    results = executor.map(tasks.add, drawn, itertools.repeat(1), buffersize=8)
    assert list(itertools.islice(results, 20)) == list(range(1, 21))
    assert next(drawn) <= 20 + 8 + 1
    results.close()  # type: ignore[attr-defined]
    assert list(executor.map(tasks.square, range(100), chunksize=7)) == [x * x for x in range(100)]
    assert list(executor.map(tasks.square, [])) == []
    assert list(executor.map(tasks.square)) == []  # type: ignore[call-overload]  # as the standard library has it


def test_map_begins_at_once_and_reads_all_without_a_buffer(
    forked: ProcessPoolExecutor, counting: Any
) -> None:
    items = iter(range(20))
    forked.map(counting.run, items)
    assert list(items) == []
    forked.shutdown()
    assert counting.runs() == {str(x): 1 for x in range(20)}


def test_the_first_failure_ends_a_map(forked: ProcessPoolExecutor) -> None:
    results = forked.map(tasks.fail_on_odd, range(4))
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)
    assert list(results) == []


def test_a_timeout_of_map_ends_its_work(forked: ProcessPoolExecutor) -> None:
    results = forked.map(tasks.sleep, [0, 0, ENDLESS, 0], timeout=3.0)
    assert [next(results), next(results)] == [0, 0]
    with pytest.raises(TimeoutError) as caught:
        next(results)
    assert isinstance(caught.value, CallTimeoutError)
    assert caught.value.timeout == 3.0
    assert forked.submit(tasks.square, 3).result() == 9


def test_an_iterator_that_is_dropped_ends_its_work(forked: ProcessPoolExecutor) -> None:
    results = forked.map(tasks.sleep, [0, *[ENDLESS] * 5])
    next(results)
    del results
    gc.collect()
    assert forked.submit(tasks.square, 3).result() == 9


def test_results_of_map_do_not_keep_the_executor(forked: ProcessPoolExecutor) -> None:
    executor = ProcessPoolExecutor(2, start_method="fork")
    results = executor.map(tasks.square, range(50))
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert list(results) == [x * x for x in range(50)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize"),
        ({"chunksize": "1"}, TypeError, "chunksize"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
        ({"timeout": "1"}, TypeError, "timeout"),
    ],
)
def test_map_refuses(
    forked: ProcessPoolExecutor, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        forked.map(abs, [1], **options)


# Options


def test_options_of_tasks(executor: ProcessPoolExecutor, tmp_path: Any) -> None:
    hurried = executor.with_options(task_timeout=0.3)
    slow = hurried.submit(tasks.sleep, ENDLESS)
    assert isinstance(slow.exception(), TaskTimeoutError)
    assert hurried.submit(tasks.square, 3).result() == 9
    stuck = hurried.map(tasks.sleep, [0, ENDLESS])
    assert next(stuck) == 0
    with pytest.raises(TaskTimeoutError, match="item 1"):
        next(stuck)
    patient = executor.with_options(retries=1, retry_on=LookupError)
    assert patient.submit(tasks.fail_first, str(tmp_path)).result() is None
    with pytest.raises(TypeError, match="no option 'timeout'"):
        executor.with_options(timeout=1)  # type: ignore[call-arg]
    assert executor.with_options().submit(tasks.square, 3).result() == 9


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "max_workers"),
        ({"mp_context": "fork"}, TypeError, "mp_context"),
        ({"initializer": 3}, TypeError, "initializer must be callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child"),
        ({"task_timeout": -1}, ValueError, "task_timeout"),
        ({"start_method": "vfork"}, ValueError, "start_method"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ProcessPoolExecutor(**options)


def test_submit_refuses_what_cannot_be_called(forked: ProcessPoolExecutor) -> None:
    with pytest.raises(TypeError, match="must be callable"):
        forked.submit(3)  # type: ignore[arg-type]


def test_max_tasks_per_child() -> None:
    with ProcessPoolExecutor(1, max_tasks_per_child=2, start_method="fork") as executor:
        pids = [executor.submit(tasks.pid).result() for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        assert executor._driver.start_method == "spawn"


def test_an_initializer(start_method: str) -> None:
    context = parallelkit.get_context(start_method)
    with ProcessPoolExecutor(2, context, tasks.set_state, (7,)) as executor:
        assert executor.submit(tasks.get_state, None).result() == [7]


def test_an_initializer_that_fails_breaks_the_executor(start_method: str) -> None:
    with ProcessPoolExecutor(1, initializer=tasks.broken_initializer, start_method=start_method) as executor:
        futures = [executor.submit(tasks.square, 3)]
        with contextlib.suppress(BrokenProcessPool):
            futures += [executor.submit(tasks.square, x) for x in range(3)]
        for future in futures:
            error = future.exception()
            assert isinstance(error, WorkerInitError)
            assert isinstance(error.__cause__, LookupError)
        assert executor._broken
        for call in (executor.submit, executor.map):
            with pytest.raises(BrokenProcessPool) as caught:
                call(tasks.echo, [1])
            assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("engine", ["threads", "serial"])
def test_other_engines(engine: str) -> None:
    with ProcessPoolExecutor(2, engine=engine) as executor:
        assert executor.submit(tasks.pid).result() == os.getpid()
        assert standard.wait([executor.submit(tasks.square, 3)], 30).not_done == set()
        assert list(executor.map(tasks.add, [1], [2])) == [3]
        assert executor._processes == {}


# The end


def test_after_shutdown(forked: ProcessPoolExecutor) -> None:
    futures = [forked.submit(tasks.sleep, 0.05) for _ in range(6)]
    forked.shutdown(wait=False)
    for call in (forked.submit, forked.map):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown") as caught:
            call(tasks.echo, [1])
        assert isinstance(caught.value, ClosedError)
    forked.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0.05] * 6
    assert "shut down" in repr(forked)
    forked.shutdown()


def test_shutdown_cancels_what_has_not_begun(forked: ProcessPoolExecutor) -> None:
    running = [forked.submit(tasks.sleep, 0.3) for _ in range(2)]
    waiting = [forked.submit(tasks.square, x) for x in range(10)]
    results = forked.map(tasks.square, range(10))
    until_running(*running)
    forked.shutdown(cancel_futures=True)
    assert [future.result() for future in running] == [0.3, 0.3]
    assert all(future.cancelled() for future in waiting)
    assert standard.wait(waiting, timeout=30).not_done == set()
    with pytest.raises(standard.CancelledError):
        next(results)


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_ending_by_force(end: str, caplog: pytest.LogCaptureFixture) -> None:
    executor = ProcessPoolExecutor(2, start_method="fork")
    running = [executor.submit(tasks.sleep, ENDLESS) for _ in range(2)]
    waiting = executor.submit(tasks.square, 3)
    until_running(*running)
    pids = set(executor._processes)
    getattr(executor, end)()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert waiting.cancelled()
    del running[0]  # who ends the tasks knows of it: nothing is logged
    error = running[0].exception()
    assert isinstance(error, WorkerDiedError)
    assert error.signal == (signal.SIGTERM if end == "terminate_workers" else signal.SIGKILL)
    assert "ended by this program" in str(error)
    assert "memory" not in str(error)
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    gc.collect()
    assert caplog.records == []
    ProcessPoolExecutor(2).terminate_workers()


def test_an_interrupt_that_leaves_the_block_ends_the_work() -> None:
    futures = []
    with pytest.raises(KeyboardInterrupt), ProcessPoolExecutor(2, start_method="fork") as executor:
        futures.append(executor.submit(tasks.sleep, ENDLESS))
        until_running(*futures)
        raise KeyboardInterrupt
    assert isinstance(futures[0].exception(), WorkerDiedError)


def test_an_ordinary_exception_that_leaves_the_block_lets_the_work_be_finished() -> None:
    futures = []
    with pytest.raises(LookupError), ProcessPoolExecutor(2, start_method="fork") as executor:
        futures.append(executor.submit(tasks.sleep, 0.1))
        raise LookupError
    assert futures[0].result(0) == 0.1


def test_the_work_of_a_dropped_executor_is_finished(start_method: str) -> None:
    executor = ProcessPoolExecutor(2, start_method=start_method)
    futures = [executor.submit(tasks.sleep, 0.05) for _ in range(4)]
    del executor
    gc.collect()
    assert standard.wait(futures, timeout=30).not_done == set()
    assert [future.result() for future in futures] == [0.05] * 4


def test_a_forked_child_cannot_use_it(forked: ProcessPoolExecutor) -> None:
    assert forked.submit(tasks.square, 3).result() == 9
    pid = os.fork()
    if not pid:
        code = 1
        try:
            forked.shutdown()
            forked.terminate_workers()
            forked.submit(tasks.square, 3)
        except RuntimeError as error:
            code = 0 if "forked child" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert forked.submit(tasks.square, 3).result() == 9


def test_it_cannot_be_sent(forked: ProcessPoolExecutor) -> None:
    with pytest.raises(NotImplementedError, match="cannot be sent"):
        pickle.dumps(forked)


def test_a_failure_that_nobody_asked_for_is_logged(
    forked: ProcessPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    asked, unasked = (forked.submit(tasks.fail_on_three, 3) for _ in range(2))
    standard.wait([asked, unasked])
    assert isinstance(asked.exception(), ValueError)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        del asked
        gc.collect()
        assert caplog.records == []
        del unasked
        gc.collect()
    (record,) = caplog.records
    assert "nobody asked" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


# The interpreter's end


def run(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    head = """
        import atexit, os, sys, threading, time
        from parallelkit import ProcessPoolExecutor
    """
    source = textwrap.dedent(head) + textwrap.dedent(program)
    command = [sys.executable, "-W", "error", "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, **options)


def test_pending_work_is_finished_at_the_end() -> None:
    done = run("""
        executor = ProcessPoolExecutor(1, start_method="fork")
        executor.submit(time.sleep, 0.2)
        executor.submit(os.write, 1, b"last").add_done_callback(lambda _: print(" called"))

        @atexit.register
        def late():
            try:
                executor.submit(abs, 1)
            except RuntimeError as error:
                print(error)
    """)
    assert done.stdout == "last called\ncannot schedule new futures after interpreter shutdown\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_pending_work_is_ended_where_a_ctrl_c_ends_the_program() -> None:
    done = run("""
        executor = ProcessPoolExecutor(1, start_method="fork")
        future = executor.submit(time.sleep, 3600)
        while not future.running():
            time.sleep(0.001)
        print(os.getpid(), *executor._processes, flush=True)
        raise KeyboardInterrupt
    """)
    assert done.returncode == -signal.SIGINT
    assert not any(psutil.pid_exists(int(pid)) for pid in done.stdout.split())


@pytest.mark.parametrize(
    "end",
    [
        "executor.shutdown(wait=False)",
        "executor.__exit__(None, None, None)",
        "executor._driver._join_threads = interrupt; executor.__exit__(None, None, None)",
    ],
)
def test_a_callback_under_way_is_waited_for_at_the_end(end: str) -> None:
    """Also where the workers have ended, and the block was left by a Ctrl-C."""
    done = run(f"""
        def late(future):
            future.exception()  # asked for, whatever became of it
            while not (executor._driver.closed and sys.modules["parallelkit.executor"]._ended):
                time.sleep(0.001)
            time.sleep(0.2)
            print("called")

        def interrupt(wait):
            raise KeyboardInterrupt

        executor = ProcessPoolExecutor(1, start_method="fork")
        ear, mouth = os.pipe()  # so that it is not done before it has its callback
        executor.submit(os.read, ear, 1).add_done_callback(late)
        os.write(mouth, b"x")
        if {end!r}.startswith("executor.__exit__"):
            executor.shutdown = interrupt
        try:
            {end}
        except KeyboardInterrupt:
            pass
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("called\n", "", 0)


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("end", ["executor.shutdown()", "executor.__exit__(None, None, None)"])
def test_a_callback_that_was_given_up_does_not_keep_the_program(end: str, kind: str) -> None:
    done = run(f"""
        def interrupt(thread, timeout=None):
            if thread.name == "parallelkit-callbacks":
                raise {kind}  # while the callback is waited for
            join(thread, timeout)

        executor = ProcessPoolExecutor(1, start_method="fork")
        ear, mouth = os.pipe()  # so that it is not done before it has its callback
        executor.submit(os.read, ear, 1).add_done_callback(lambda _: threading.Event().wait())
        os.write(mouth, b"x")
        join, threading.Thread.join = threading.Thread.join, interrupt
        try:
            {end}
        except {kind}:
            print("given up")
        threading.Thread.join = join
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("given up\n", "", 0)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_was_handed_in_is_finished_where_the_block_is_left(kind: type[BaseException]) -> None:
    futures: list[standard.Future[int]] = []
    with pytest.raises(kind), parallelkit.ProcessPoolExecutor(1, start_method="fork") as executor:
        futures += [executor.submit(tasks.square, number) for number in range(3)]
        raise kind
    assert [future.result() for future in futures] == [0, 1, 4]


def test_it_is_an_executor_of_the_standard_librarys_class() -> None:
    """adaptive asks for that class before it looks at `_max_workers`."""

    @functools.singledispatch
    def kind(_: object) -> str:
        return "other"

    kind.register(standard.ProcessPoolExecutor, lambda _: "standard")
    kind.register(ProcessPoolExecutor, lambda _: "ours")
    with ProcessPoolExecutor(1) as executor, Named(1) as named:
        for one in (executor, executor.with_options(retries=1), named):
            assert isinstance(one, standard.ProcessPoolExecutor)
            assert one.__class__ is type(one)
            assert kind(one) == "ours"
            assert {"with_options", "stats", "_max_workers"} < set(dir(one))
        assert create_autospec(executor).stats
    with pytest.raises(NotImplementedError, match="an executor cannot be sent"):
        pickle.dumps(executor)


class Named(ProcessPoolExecutor):
    pass


def test_nothing_that_is_public_is_left_to_the_standard_librarys_class() -> None:
    """Its methods would look for queues that are not there; a later Python may have more of them."""
    public = {name for name in vars(standard.ProcessPoolExecutor) if not name.startswith("_")}
    assert public <= set(vars(ProcessPoolExecutor))
