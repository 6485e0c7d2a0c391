from __future__ import annotations

import concurrent.futures
import functools
import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import threading
import time
import weakref
from typing import Any

import pytest
import tasks

import parallelkit
import parallelkit.results
from parallelkit import Pool

Options = dict[str, Any]


@pytest.fixture
def pool(engine: Options) -> Any:
    with Pool(2, **engine) as pool:
        yield pool


def test_the_methods_of_multiprocessing(pool: Pool) -> None:
    assert pool.apply(tasks.add, (1,), {"y": 2}) == 3
    assert pool.apply_async(tasks.add, (1, 2)).get(timeout=20) == 3
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
    assert pool.map_async(tasks.square, iter(range(3)), 2).get() == [0, 1, 4]
    assert pool.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.starmap_async(tasks.add, [(1, 2)]).get() == [3]
    assert list(pool.imap(tasks.square, range(5))) == [0, 1, 4, 9, 16]
    assert sorted(pool.imap_unordered(tasks.square, iter(range(5)), 2)) == [0, 1, 4, 9, 16]
    assert pool.map(tasks.square, []) == []
    assert pool._processes in (1, 2)


def test_async_result(pool: Pool) -> None:
    result = pool.apply_async(tasks.square, (3,))
    result.wait(20)
    assert result.ready()
    assert result.successful()
    failed = pool.map_async(tasks.fail_on_three, range(5))
    failed.wait()
    assert not failed.successful()
    for _ in range(2):
        with pytest.raises(ValueError, match="three") as caught:
            failed.get()
        frames = [entry.name for entry in caught.traceback]
        assert frames.count("get") == 1
        assert frames[-1] == "fail_on_three"


def test_get_with_timeout_only_stops_waiting() -> None:
    with Pool(1) as pool:
        result = pool.apply_async(tasks.sleep, (0.5,))
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout=0.05)
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        assert result.get() == 0.5


def test_callbacks(pool: Pool) -> None:
    got: list[Any] = []
    pool.apply_async(tasks.square, (3,), callback=got.append).wait()
    pool.map_async(tasks.square, [1, 2], callback=got.append).wait()
    pool.apply_async(tasks.fail_on_three, (3,), error_callback=lambda e: got.append(e.args)).wait()
    assert got == [9, [1, 4], ("three", 3)]


def test_a_callback_is_called_though_nobody_waits(pool: Pool) -> None:
    called = threading.Event()
    pool.apply_async(tasks.square, (3,), callback=lambda _: called.set())
    if pool._driver._crew.__class__.__name__ != "_SerialCrew":
        assert called.wait(20)


def test_a_callback_may_submit(pool: Pool) -> None:
    results: list[Any] = []
    first = pool.apply_async(
        tasks.square, (3,), callback=lambda x: results.append(pool.apply_async(tasks.square, (x,)))
    )
    first.wait()
    assert results[0].get() == 81


def test_an_iterator_need_have_no_more_than_next(pool: Pool) -> None:
    class Once:
        left = 3

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return self.left

    class Source:
        def __iter__(self) -> Any:
            return Once()

    assert pool.map(tasks.square, Source()) == [4, 1, 0]


def test_imap_goes_on_behind_a_failure(pool: Pool) -> None:
    results = pool.imap(tasks.fail_on_odd, range(4))
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)
    assert next(results) == 2
    with pytest.raises(KeyError):
        results.next(timeout=20)
    with pytest.raises(StopIteration):
        next(results)


def test_imap_of_an_endless_input(pool: Pool) -> None:
    for result in pool.imap(tasks.square, itertools.count()):
        if result > 50:
            break
    assert pool.map(tasks.square, [2]) == [4]


def test_results_can_be_taken_after_the_end(engine: Options) -> None:
    with Pool(2, **engine) as pool:
        results = pool.imap(tasks.square, iter(range(300)))
        dropped = pool.imap_unordered(tasks.square, range(10))
        del dropped
    assert list(results) == [x * x for x in range(300)]


def test_close_and_join_finish_the_work(engine: Options) -> None:
    pool = Pool(2, **engine)
    results = [pool.apply_async(tasks.square, (x,)) for x in range(20)]
    with pytest.raises(ValueError, match="close"):
        pool.join()
    pool.close()
    pool.join()
    assert [result.get() for result in results] == [x * x for x in range(20)]
    with pytest.raises(ValueError, match="closed"):
        pool.map(tasks.square, [1])


def test_an_exception_in_the_block_terminates() -> None:
    begin = time.monotonic()
    pool = Pool(2)
    result = pool.apply_async(tasks.sleep, (60,))
    with pytest.raises(ZeroDivisionError), pool:
        raise ZeroDivisionError
    assert time.monotonic() - begin < 20
    with pytest.raises(parallelkit.ClosedError):
        result.get()


def test_failures_that_nobody_retrieved(engine: Options) -> None:
    with pytest.raises(ExceptionGroup) as caught, Pool(2, **engine) as pool:
        pool.apply_async(tasks.fail_on_three, (3,))
        pool.map_async(tasks.fail_on_odd, range(4))
        pool.apply_async(tasks.fail_on_three, (3,), error_callback=lambda e: None)
        seen = pool.apply_async(tasks.fail_on_three, (3,))
        with pytest.raises(ValueError, match="three"):
            seen.get()
    assert sorted(type(e).__name__ for e in caught.value.exceptions) == ["KeyError", "ValueError"]


def test_a_fault_leaves_the_pool_usable(start_method: str) -> None:
    with Pool(2, start_method=start_method) as pool:
        for what in ("kill", "exit 0", "segfault"):
            with pytest.raises(parallelkit.WorkerDiedError) as caught:
                pool.apply(tasks.happen, (what,))
            assert caught.value.index is None
            assert pool.map(tasks.square, range(20)) == [x * x for x in range(20)]
        stats = pool.stats()
    assert (stats.lost, stats.failed, stats.done) == (3, 3, 60)


def test_options_of_the_pool_and_of_a_call() -> None:
    with Pool(2, task_timeout=0.3, retries=1) as pool:
        with pytest.raises(parallelkit.TaskTimeoutError):
            pool.apply(tasks.sleep, (60,))
        assert pool.stats().retried == 1
        assert pool.apply(tasks.sleep, (0.5,), task_timeout=20) == 0.5
        outcomes = pool.map(tasks.fail_on_odd, range(2), errors="return")
        assert [outcome.ok for outcome in outcomes] == [True, False]


def test_errors_is_an_option_of_each_call_for_many_items(engine: Options) -> None:
    with Pool(2, **engine) as pool:
        results = [
            pool.map_async(tasks.fail_on_odd, range(2), errors="return").get(),
            pool.starmap_async(tasks.fail_on_odd, [(0,), (1,)], errors="return").get(),
            list(pool.imap(tasks.fail_on_odd, range(2), errors="return")),
            sorted(pool.imap_unordered(tasks.fail_on_odd, range(2), errors="return"), key=lambda o: o.index),
        ]
        for outcomes in results:
            assert [outcome.ok for outcome in outcomes] == [True, False]
        with pytest.raises(ExceptionGroup, match="2 of 4 items failed"):
            pool.map_async(tasks.fail_on_odd, range(4), errors="group").get()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_context(method: str) -> None:
    with Pool(1, context=multiprocessing.get_context(method)) as pool:
        assert pool._driver._crew.start_method == method  # type: ignore[attr-defined]
        assert pool.map(tasks.square, [3]) == [9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes must be at least 1"),
        ({"maxtasksperchild": 0}, "maxtasksperchild must be at least 1"),
        ({"task_timeout": -1}, "task_timeout must be more than 0"),
        ({"errors": "ignore"}, "errors must be"),
    ],
)
def test_bad_options(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pool(**options)


def _keep_lock(lock: Any, queue: Any) -> None:
    tasks._state.append(1)
    with lock:
        queue.put(os.getpid())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_locks_and_queues_of_multiprocessing_as_initargs(method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    with Pool(2, _keep_lock, (context.Lock(), queue), context=context) as pool:
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
    assert queue.get()
    queue.close()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pool: pool.apply_async(abs, (1,), callback=3), "callback must be callable or None, not 3"),
        (lambda pool: pool.map_async(abs, [1], error_callback="x"), "error_callback must be callable"),
        (lambda pool: pool.apply_async(abs, (1,)).get("soon"), "timeout must be a number of seconds"),
    ],
)
def test_bad_arguments_of_a_pools_calls(call: Any, message: str) -> None:
    with Pool(1, engine="serial") as pool, pytest.raises(TypeError, match=message):
        call(pool)


@pytest.mark.parametrize("context", ["fork", object()])
def test_what_is_no_context(context: Any) -> None:
    with pytest.raises(TypeError, match=r"context must be one of multiprocessing.get_context\(\)"):
        Pool(1, context=context)


def test_a_negative_timeout_is_none_at_all() -> None:
    with Pool(1) as pool:
        result = pool.apply_async(tasks.sleep, (0.2,))
        with pytest.raises(parallelkit.CallTimeoutError):
            result.get(-1)


def test_what_programs_look_at_behind_the_public_face(start_method: str) -> None:
    with Pool(2, start_method=start_method) as pool:
        assert str(pool._state) == multiprocessing.pool.RUN
        first = {process.pid for process in pool._pool}
        assert len(first) == 2
        assert None not in first
        with pytest.raises(parallelkit.WorkerDiedError) as died:
            pool.apply(os._exit, (1,))
        pool._repopulate_pool()
        assert len(pool._pool) == 2
        assert died.value.pid not in {process.pid for process in pool._pool}
        assert all(process.is_alive() for process in pool._pool)
    assert str(pool._state) == multiprocessing.pool.CLOSE
    pool._repopulate_pool()
    assert pool._pool == []


def test_a_bad_lifetime_is_refused_as_multiprocessing_refuses_it() -> None:
    for value in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild"):
            Pool(1, maxtasksperchild=value)  # type: ignore[arg-type]


MaybeEncodingError: type[BaseException] = vars(multiprocessing.pool)["MaybeEncodingError"]


def locked(_: object) -> Any:
    return threading.Lock()


def test_a_result_that_cannot_be_sent_is_caught_as_multiprocessings_error(start_method: str) -> None:
    with Pool(1, start_method=start_method) as pool:
        for _ in range(3):
            with pytest.raises(MaybeEncodingError) as caught:
                pool.apply(locked, (0,))
            error = caught.value
            assert isinstance(error, parallelkit.ResultError)
            assert error.what == "result"
            assert error.exc.startswith("TypeError")
            assert "lock" in error.value
            assert "lock" in str(error)


class Unspeakable:
    def __repr__(self) -> str:
        raise SystemExit("repr")

    def __call__(self, _: object) -> None:
        raise ValueError("the user's")


def test_a_repr_that_raises_keeps_no_call_from_its_end(engine: Options) -> None:
    with Pool(1, **engine) as pool:
        ended = threading.Event()
        results: list[Any] = [
            pool.map_async(Unspeakable(), [Unspeakable()]),
            pool.apply_async(Unspeakable(), (1,)),
            pool.apply_async(Unspeakable(), (1,), error_callback=lambda _: ended.set()),
        ]
        if engine["engine"] != "serial":  # the service thread names the item; here nobody waits
            assert ended.wait(30)
        errors = []
        for result in results:
            with pytest.raises(ValueError, match="the user's") as caught:
                result.get(20)
            errors.append(caught.value)
    assert errors[-1].__notes__ == ["parallelkit: in the call of an instance of Unspeakable"]


def test_the_note_of_a_call_is_short() -> None:
    add: Any = tasks.add
    function: Any = functools.partial(add, "x" * 10_000, "y")
    with Pool(1, engine="serial") as pool, pytest.raises(TypeError) as caught:
        pool.apply(function, (1,))
    (note,) = caught.value.__notes__
    assert "functools.partial" in note
    assert len(note) < 300


@pytest.mark.parametrize(
    ("args", "kwds", "path"),
    [((1, [threading.Lock()]), {}, "args[1][0]"), ((), {"x": threading.Lock()}, "kwds['x']")],
)
def test_arguments_that_cannot_be_sent(start_method: str, args: Any, kwds: Any, path: str) -> None:
    with Pool(1, start_method=start_method) as pool:
        with pytest.raises(parallelkit.SerializationError) as caught:
            pool.apply(tasks.add, args, kwds)
        assert (caught.value.what, caught.value.path, caught.value.index) == ("call", path, None)
        assert f"the call cannot be sent between processes at {path}: " in str(caught.value)
        assert pool.apply(tasks.add, (1, 2)) == 3


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_no_time_at_all(timeout: float) -> None:
    with Pool(1) as pool:
        result = pool.apply_async(tasks.sleep, (0.3,))
        result.wait(timeout)
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout)
        assert result.get() == 0.3
        assert result.get(timeout) == 0.3


def test_a_list_that_shrinks_during_imap(engine: Options) -> None:
    items = list(range(200))
    with Pool(2, **engine) as pool:
        results = pool.imap(tasks.square, items)
        assert next(results) == 0
        del items[10:]
        assert list(results) == [x * x for x in range(1, 200)]


def test_imap_goes_on_behind_a_stop_iteration(engine: Options) -> None:
    with Pool(2, **engine) as pool:
        results = pool.imap(next, [iter([0]), iter([]), iter([2])], chunksize=2)
        assert next(results) == 0
        with pytest.raises(RuntimeError, match="item 1 raised StopIteration"):
            next(results)
        assert list(results) == [2]


def test_close_ends_the_next_of_another_thread_and_not_the_pool(start_method: str) -> None:
    with Pool(1, start_method=start_method) as pool:
        results = pool.imap(tasks.sleep, [0.0, 3600.0])
        assert next(results) == 0.0
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(list(results)))
        thread.start()
        while not pool._driver._driving:
            time.sleep(0.001)
        results.close()
        thread.join(30)
        assert answers == [[]]
        assert pool.apply(tasks.square, (2,)) == 4


@pytest.mark.parametrize("buffersize", [None, 3])
@pytest.mark.parametrize("close_and_join", [True, False])
def test_the_end_gives_up_an_input_that_may_be_endless(
    engine: Options, buffersize: int | None, close_and_join: bool
) -> None:
    pool = Pool(2, **engine)
    results = pool.imap(tasks.square, itertools.count(), buffersize=buffersize)
    assert [next(results), next(results)] == [0, 1]
    if close_and_join:
        pool.close()
        pool.join()
    else:
        with pool:
            pass
    rest = []
    with pytest.raises(parallelkit.ClosedError, match="before the input of this call was at its end"):
        for result in results:
            rest.append(result)
    assert rest == [x * x for x in range(2, 2 + len(rest))]
    assert rest
    with pytest.raises(StopIteration):
        next(results)


def test_the_end_finishes_a_short_generator(engine: Options) -> None:
    with Pool(2, **engine) as pool:
        results = pool.imap(tasks.fail_on_three, (x for x in (0, 1, 2)))
        failing = pool.imap(tasks.fail_on_three, (x for x in (3,)), errors="return")
    assert list(results) == [0, 1, 2]
    assert [outcome.ok for outcome in failing] == [False]


def test_results_are_taken_between_close_and_join(engine: Options) -> None:
    pool = Pool(2, **engine)
    results = pool.imap(tasks.square, (x for x in range(300)), buffersize=4)
    pool.close()
    assert list(results) == [x * x for x in range(300)]
    pool.join()


def test_unretrieved_failures_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallelkit.results.Unretrieved, "KEPT", 3)
    with pytest.raises(ExceptionGroup) as caught, Pool(1, engine="threads") as pool:
        results = [pool.apply_async(tasks.fail_on_three, (3,)) for _ in range(10)]
        for result in results:
            result.wait()
        for result in (results[0], results[9]):
            for _ in range(2):
                with pytest.raises(ValueError, match="three"):
                    result.get()
        dropped = weakref.ref(results[5])
        del results, result
        gc.collect()
        assert dropped() is None
    assert caught.value.message == "8 failures that nobody retrieved, of which these 2 were kept"
    assert len(caught.value.exceptions) == 2


def test_submit_gives_a_future_of_the_standard_library(pool: Pool) -> None:
    """What dask's scheduler asks of an executor, it finds in a pool, too."""
    future = pool.submit(tasks.add, 1, y=2)
    assert isinstance(future, concurrent.futures.Future)
    assert not future.cancel()
    assert future.result(timeout=20) == 3
    failed = pool.submit(tasks.fail_on_three, 3)
    called = threading.Event()
    failed.add_done_callback(lambda _: called.set())
    assert called.wait(20)
    with pytest.raises(ValueError, match="three"):
        failed.result()
    with pytest.raises(TypeError, match="callable"):
        pool.submit(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert pool.size == pool._max_workers == pool._processes


def test_a_death_fails_the_future_of_one_call(start_method: str) -> None:
    with Pool(2, start_method=start_method) as pool:
        futures = [pool.submit(tasks.happen, "kill"), pool.submit(tasks.happen, "nothing")]
        errors = [future.exception(timeout=50) for future in futures]
    assert isinstance(errors[0], parallelkit.WorkerDiedError)
    assert errors[1] is None


def test_submit_to_a_closed_pool() -> None:
    with Pool(1) as pool:
        pass
    with pytest.raises(parallelkit.ClosedError):
        pool.submit(abs, 1)
