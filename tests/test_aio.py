from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import tasks

import parallelkit
from parallelkit import (
    CallTimeoutError,
    ClosedError,
    Failure,
    ProcessPoolExecutor,
    SerializationError,
    Success,
    TaskTimeoutError,
    WorkerDiedError,
    aio,
)

T = TypeVar("T")

#: Where the start method does not matter, the cheapest one.
FORK: Any = {"start_method": "fork", "max_workers": 2}


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in debug mode, which refuses calls from the wrong thread."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a slow machine has slow steps
    return asyncio.run(main, debug=True)


async def until(ready: Callable[[], object]) -> None:
    while not ready():  # bounded by pytest-timeout
        await asyncio.sleep(0.005)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def count(numbers: Iterator[int], pause: float = 0.0) -> AsyncIterator[int]:
    for number in numbers:
        await asyncio.sleep(pause)
        yield number


@pytest.fixture
def forked() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, start_method="fork") as executor:
        executor.submit(tasks.square, 3).result()
        yield executor


# Answers


def test_all_functions(engine: dict[str, Any]) -> None:
    async def main() -> None:
        options: Any = {"max_workers": 2, **engine}
        assert await aio.pool_map(tasks.square, range(5), **options) == [0, 1, 4, 9, 16]
        assert await aio.pool_starmap(tasks.add, [(1, 1), (1, 2)], **options) == [2, 3]
        assert [x async for x in aio.pool_imap(tasks.square, iter(range(5)), **options)] == [0, 1, 4, 9, 16]
        with ProcessPoolExecutor(**options) as executor:
            calls = [aio.run(tasks.square, x, executor=executor, task_timeout=60) for x in range(5)]
            assert await asyncio.gather(*calls) == [0, 1, 4, 9, 16]

    run(main())


def test_run_shares_workers_that_end_with_the_loop() -> None:
    async def main() -> set[int]:
        assert await aio.run(functools.partial(tasks.add, y=2), 1) == 3
        assert len(await asyncio.gather(*(aio.run(tasks.square, x) for x in range(200)))) == 200
        return set(await asyncio.gather(*(aio.run(tasks.pid) for _ in range(10))))

    first, second = run(main()), run(main())  # one loop after the other
    assert os.getpid() not in first | second
    assert 1 <= len(first) <= parallelkit.available_cpus()
    assert not first & second
    assert all(is_gone(pid) for pid in first | second)


def test_run_heeds_using() -> None:
    async def main() -> None:
        with parallelkit.using("serial"):
            assert await aio.run(tasks.pid) == os.getpid()
        with parallelkit.using("threads"):
            assert await aio.run(lambda: os.getpid()) == os.getpid()

    run(main())


def test_errors_and_outcomes() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="three") as caught:
            await aio.pool_map(tasks.fail_on_three, range(5), **FORK)
        assert caught.traceback[-1].name == "fail_on_three"
        assert caught.value.__notes__ == ["parallelkit: item 3: 3"]
        with pytest.raises(ExceptionGroup) as group:
            await aio.pool_map(tasks.fail_on_odd, range(4), errors="group", **FORK)
        assert len(group.value.exceptions) == 2
        outcomes = await aio.pool_starmap(tasks.fail_on_odd, [(0,), (1,)], errors="return", **FORK)
        assert [type(outcome) for outcome in outcomes] == [Success, Failure]
        with pytest.raises(WorkerDiedError):
            await aio.pool_map(tasks.happen, ["kill"], **FORK)
        with pytest.raises(TaskTimeoutError):
            await aio.pool_map(tasks.happen, ["stuck"], task_timeout=0.1, **FORK)
        with pytest.raises(CallTimeoutError):
            await aio.pool_map(tasks.happen, ["stuck"], timeout=0.1, **FORK)
        assert await aio.pool_map(tasks.square, [], **FORK) == []

    run(main())


def test_errors_of_run(forked: ProcessPoolExecutor) -> None:
    async def main() -> None:
        call = functools.partial(aio.run, executor=forked)
        with pytest.raises(ValueError, match="three") as caught:
            await call(tasks.fail_on_three, 3)
        assert caught.traceback[-1].name == "fail_on_three"
        with pytest.raises(WorkerDiedError):
            await call(tasks.happen, "kill")
        with pytest.raises(TaskTimeoutError):
            await call(tasks.happen, "stuck", task_timeout=0.1)
        with pytest.raises(SerializationError):
            await call(tasks.echo, threading.Lock())
        with pytest.raises(RuntimeError) as stop:
            await call(next, iter(()))
        assert isinstance(stop.value.__cause__, StopIteration)
        assert await call(tasks.square, 3) == 9
        forked.shutdown()
        with pytest.raises(ClosedError):
            await call(tasks.square, 3)

    run(main())


def test_run_where_the_executor_cancels_what_has_not_begun(forked: ProcessPoolExecutor) -> None:
    async def main() -> None:
        running = [forked.submit(tasks.sleep, 3600.0) for _ in range(2)]
        while not all(future.running() for future in running):
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(aio.run(tasks.square, x, executor=forked)) for x in range(8)]
        while len(forked._driver.calls) < 10:
            await asyncio.sleep(0.001)
        forked.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(concurrent.futures.CancelledError):
            await waiting[-1]
        await asyncio.to_thread(forked.kill_workers)
        await asyncio.gather(*waiting, return_exceptions=True)

    run(main())


def test_bad_arguments_are_refused() -> None:
    async def main() -> None:
        for refused in (
            aio.run(3),  # type: ignore[arg-type]
            aio.run(abs, 1, timeout=3),  # type: ignore[call-arg]
            aio.run(abs, 1, executor=concurrent.futures.ThreadPoolExecutor()),  # type: ignore[arg-type]
            aio.pool_map(abs, 3),  # type: ignore[call-overload]
            aio.pool_map(abs, [1], chunk=3),  # type: ignore[call-overload]
        ):
            with pytest.raises(TypeError):
                await refused
        for bad in (aio.run(abs, 1, task_timeout=-1), aio.pool_map(abs, [1], max_workers=0)):
            with pytest.raises(ValueError, match="must be"):
                await bad
        with pytest.raises(TypeError, match="iterable"):
            aio.pool_imap(abs, 3)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="buffersize"):
            aio.pool_imap(abs, [1], buffersize=0)

    run(main())


# The loop goes on


def test_the_loop_is_not_blocked(start_method: str) -> None:
    """A ticker has its turns while workers start, receive large inputs, run and end."""

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        items = [(0.2, bytearray(1 << 24)) for _ in range(4)]
        options: Any = {"start_method": start_method, "max_workers": 2}
        assert await aio.pool_starmap(tasks.sleep_and_measure, items, **options) == [1 << 24] * 4
        assert ticks > 5  # of 400: a loop that waits for one of the steps has next to none
        ticker.cancel()

    run(main())


def test_results_that_are_there_leave_the_loop_its_turns() -> None:
    async def main() -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        async with aio.pool_imap(tasks.square, range(2000), chunksize=2000, **FORK) as results:
            assert await anext(results) == 0
            await until(lambda: sum(map(len, results._stream.results)) == 1999)
            loop.call_soon(turn)
            assert len([x async for x in results]) == 1999
            assert turns >= 1999 // 64

    run(main())


# Cancelling


def test_a_cancel_ends_a_map_and_what_it_started(start_method: str, tmp_path: Path) -> None:
    async def main() -> None:
        call = aio.pool_map(tasks.start_child, [str(tmp_path)], start_method=start_method)
        task = asyncio.create_task(call)
        await until((tmp_path / "pid").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone(int((tmp_path / "pid").read_text()))

    run(main())


@pytest.mark.parametrize("what", ["stuck", "stubborn"])
def test_asyncio_timeout_ends_the_work(what: str, forked: ProcessPoolExecutor) -> None:
    async def main() -> None:
        for call in (
            aio.pool_map(tasks.happen, [what], **FORK),
            anext(aio.pool_imap(tasks.happen, [what], **FORK)),
            aio.run(tasks.happen, what, executor=forked),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await call
        assert await aio.run(tasks.square, 3, executor=forked) == 9

    run(main())


def test_run_is_cancelled_in_each_state(forked: ProcessPoolExecutor, counting: Any) -> None:
    folder = str(counting.folder)

    async def main() -> None:
        def call(x: int) -> asyncio.Task[int]:
            return asyncio.create_task(aio.run(tasks.count_and, folder, "stuck", x, x, executor=forked))

        running = [call(x) for x in range(2)]
        await until(lambda: len(counting.runs()) == 2)
        queued = call(2)
        await until(lambda: len(forked._driver.calls) == 3)
        struck = set(forked._processes)
        unbegun = call(3)
        for task in (unbegun, queued, *running):
            task.cancel()
        await asyncio.wait([*running, queued, unbegun])
        assert all(task.cancelled() for task in [*running, queued, unbegun])
        assert all(is_gone(pid) for pid in struck)
        assert not forked._driver.calls
        assert await aio.run(tasks.square, 3, executor=forked) == 9

    run(main())
    assert counting.runs() == {"0": 1, "1": 1}


def test_a_failure_in_a_group_of_asyncios_ends_the_others() -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(aio.run(tasks.happen, "stuck"))
                group.create_task(aio.pool_map(tasks.happen, ["stuck"], **FORK))
                group.create_task(aio.run(tasks.fail_on_three, 3))
        assert [type(error) for error in caught.value.exceptions] == [ValueError]

    run(main())


def test_a_cancel_before_anything_has_begun() -> None:
    async def main() -> None:
        for call in (aio.pool_map(tasks.happen, ["stuck"], **FORK), aio.run(tasks.happen, "stuck")):
            task = asyncio.create_task(call)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_a_loop_that_ends_ends_the_work() -> None:
    async def main() -> list[asyncio.Task[Any]]:
        several = [
            asyncio.create_task(call)
            for call in (aio.run(tasks.happen, "stuck"), aio.pool_map(tasks.happen, ["stubborn"], **FORK))
        ]
        await aio.run(tasks.square, 3)
        return several

    assert all(task.cancelled() for task in run(main()))


def test_a_loop_that_is_closed_without_a_word() -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(aio.pool_map(tasks.happen, ["stuck"], **FORK))
    results = aio.pool_imap(tasks.square, itertools.count(), **FORK)
    other = loop.create_task(aio.run(tasks.square, 3))
    assert loop.run_until_complete(anext(results)) == 0
    assert loop.run_until_complete(other) == 9
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, results, other, loop
    gc.collect()  # the fixture sees what is left


def test_ctrl_c_ends_the_work(tmp_path: Path) -> None:
    program = f"""
        import asyncio, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import tasks
        from parallelkit import aio

        async def main():
            await asyncio.gather(
                aio.run(tasks.happen, "stubborn"), aio.pool_map(tasks.start_child, [{str(tmp_path)!r}])
            )

        if __name__ == "__main__":
            asyncio.run(main())
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=50)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_program_may_end_in_the_midst_of_it(tmp_path: Path) -> None:
    program = """
        import asyncio, sys, time
        from parallelkit import aio

        async def main():
            asyncio.create_task(aio.run(time.sleep, 3600))
            asyncio.create_task(aio.pool_map(time.sleep, [3600]))
            print(await aio.run(abs, -1))

        if __name__ == "__main__":
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n")


# Results one by one


def test_imap_draws_no_further_than_its_buffer() -> None:
    drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn

    async def main() -> None:
        async with aio.pool_imap(tasks.square, numbers(), buffersize=4, **FORK) as results:
            for taken in range(1, 20):
                assert await anext(results) == taken**2
                assert drawn <= taken + 4
                await asyncio.sleep(0)

    run(main())


def test_imap_unordered_and_failures_in_place() -> None:
    async def main() -> None:
        async with aio.pool_imap(tasks.sleep, [2.0, 0.0], ordered=False, **FORK) as results:
            assert [x async for x in results] == [0.0, 2.0]
        results = aio.pool_imap(tasks.fail_on_three, range(9), chunksize=1, **FORK)
        assert [await anext(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        outcomes = [x async for x in aio.pool_imap(tasks.fail_on_odd, range(3), errors="return", **FORK)]
        assert [outcome.ok for outcome in outcomes] == [True, False, True]
        with pytest.raises(CallTimeoutError):
            await anext(aio.pool_imap(tasks.happen, ["stuck"], timeout=0.1, **FORK))

    run(main())


def test_imap_ends_with_its_block_or_with_aclose() -> None:
    async def main() -> None:
        async with aio.pool_imap(tasks.square, itertools.count(), **FORK) as results:
            async for result in results:
                if result > 50:
                    break
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        stuck = aio.pool_imap(tasks.happen, ["stuck"], **FORK)
        waiting = [asyncio.create_task(anext(stuck)) for _ in range(2)]
        await asyncio.sleep(0.01)
        await stuck.aclose()
        await asyncio.wait(waiting)
        for task in waiting:
            with pytest.raises((StopAsyncIteration, RuntimeError)):
                task.result()
        await aio.pool_imap(tasks.square, [1]).aclose()

    run(main())


def test_imap_that_is_dropped_ends() -> None:
    async def main() -> None:
        async for result in aio.pool_imap(tasks.square, itertools.count(), **FORK):
            if result > 50:
                break
        gc.collect()

    run(main())  # the fixture sees what is left


def test_a_cancel_in_the_midst_of_a_stream(tmp_path: Path) -> None:
    async def consume(started: asyncio.Event) -> None:
        what: Any = itertools.chain(["", "", "stuck"], itertools.repeat(""))
        async for _ in aio.pool_imap(tasks.happen, what, **FORK):
            started.set()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(consume(started))
        await started.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


# Asynchronous input


def test_asynchronous_input(start_method: str) -> None:
    async def main() -> None:
        options: Any = {"start_method": start_method, "max_workers": 2}
        assert await aio.pool_map(tasks.square, count(iter(range(20))), **options) == [
            x * x for x in range(20)
        ]
        pairs = ((x, x) async for x in count(iter(range(3))))
        assert await aio.pool_starmap(tasks.add, pairs, **options) == [0, 2, 4]
        results = aio.pool_imap(tasks.square, count(iter(range(3)), pause=0.01), **options)
        assert [x async for x in results] == [0, 1, 4]

    run(main())


def test_asynchronous_input_is_drawn_as_it_is_worked_on() -> None:
    drawn = 0
    closed: list[asyncio.Task[Any] | None] = []
    variable = contextvars.ContextVar("variable", default=0)

    async def numbers() -> AsyncIterator[int]:
        nonlocal drawn
        begun = asyncio.current_task()
        try:
            async with asyncio.timeout(60):  # which one task has to enter and to leave
                while True:
                    assert asyncio.current_task() is begun
                    assert variable.get() == 7
                    await asyncio.sleep(0)
                    drawn += 1
                    yield drawn
        finally:
            closed.append(asyncio.current_task())

    async def main() -> None:
        variable.set(7)
        source = numbers()
        async with aio.pool_imap(tasks.square, source, buffersize=4, **FORK) as results:
            for taken in range(1, 12):
                assert await anext(results) == taken**2
                assert drawn <= taken + 4
        await source.aclose()  # type: ignore[attr-defined]
        assert len(closed) == 1

    run(main())


def test_asynchronous_input_that_fails_or_waits() -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise LookupError("input")

    async def waiting() -> AsyncIterator[int]:
        yield 3
        await asyncio.sleep(3600)

    async def main() -> None:
        with pytest.raises(LookupError, match="input"):
            await aio.pool_map(tasks.square, failing(), **FORK)
        results = aio.pool_imap(tasks.square, failing(), **FORK)
        assert await anext(results) == 1
        with pytest.raises(LookupError, match="input"):
            await anext(results)
        with pytest.raises(ValueError, match="three"):
            await aio.pool_map(tasks.fail_on_three, waiting(), **FORK)
        with pytest.raises(CallTimeoutError):
            await aio.pool_map(tasks.square, waiting(), timeout=0.2, **FORK)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await aio.pool_map(tasks.square, waiting(), **FORK)
        assert len(asyncio.all_tasks()) == 1

    run(main())
