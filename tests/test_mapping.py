from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tasks

import parallelkit
from parallelkit import Failure, Success
from parallelkit.iteration import NOTHING, Reader, Stream
from parallelkit.options import call_settings

Options = dict[str, Any]


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_results_are_in_the_order_of_the_items(engine: Options, count: int) -> None:
    expected = [x * x for x in range(count)]
    assert parallelkit.pool_map(tasks.square, range(count), max_workers=2, **engine) == expected
    assert parallelkit.pool_map(tasks.square, iter(range(count)), max_workers=2, **engine) == expected
    assert parallelkit.pool_map(tasks.square, list(range(count)), chunksize=3, **engine) == expected


def test_an_empty_input_gives_an_empty_list(engine: Options) -> None:
    assert parallelkit.pool_map(tasks.square, [], **engine) == []
    assert parallelkit.pool_starmap(tasks.add, (), **engine) == []
    assert list(parallelkit.pool_imap(tasks.square, [], **engine)) == []
    assert parallelkit.pool_map(tasks.square, iter([]), **engine) == []


def test_kinds_of_inputs(engine: Options) -> None:
    assert parallelkit.pool_map(tasks.echo, {"a": 1, "b": 2}, **engine) == ["a", "b"]
    assert parallelkit.pool_map(tasks.echo, "abc", **engine) == ["a", "b", "c"]
    assert sorted(parallelkit.pool_map(tasks.echo, {3, 1, 2}, **engine)) == [1, 2, 3]
    assert parallelkit.pool_map(tasks.echo, map(str, range(3)), **engine) == ["0", "1", "2"]


def test_starmap(engine: Options) -> None:
    tuples: list[Any] = [(1,), (2, 3), [4, 5]]
    assert parallelkit.pool_starmap(tasks.add, tuples, **engine) == [11, 5, 9]


def test_raise_ends_the_call_and_names_the_item(engine: Options) -> None:
    with pytest.raises(ValueError, match="three") as caught:
        parallelkit.pool_map(tasks.fail_on_three, range(6), **engine)
    assert caught.value.args == ("three", 3)
    assert caught.value.__notes__ == ["parallelkit: item 3: 3"]


def test_group_runs_all_and_raises_all(engine: Options) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        parallelkit.pool_map(tasks.fail_on_odd, range(6), errors="group", **engine)
    assert [error.args for error in caught.value.exceptions] == [(1,), (3,), (5,)]


def test_return_gives_outcomes(engine: Options) -> None:
    outcomes = parallelkit.pool_map(tasks.fail_on_three, range(5), errors="return", **engine)
    assert outcomes[:3] == [Success(0, 0), Success(1, 1), Success(2, 2)]
    assert isinstance(outcomes[3], Failure)
    assert isinstance(outcomes[3].exception, ValueError)
    assert outcomes[4].unwrap() == 4


@pytest.mark.parametrize("ordered", [True, False])
def test_imap(engine: Options, ordered: bool) -> None:
    results = list(parallelkit.pool_imap(tasks.square, iter(range(500)), ordered=ordered, **engine))
    assert (results if ordered else sorted(results)) == [x * x for x in range(500)]


@pytest.mark.parametrize("buffersize", [1, 5, 50])
def test_an_endless_input_stays_bounded(engine: Options, buffersize: int) -> None:
    drawn = 0

    def endless() -> Iterator[int]:
        nonlocal drawn
        for x in itertools.count():
            drawn += 1
            yield x

    with parallelkit.pool_imap(tasks.square, endless(), buffersize=buffersize, **engine) as results:
        for x, result in enumerate(itertools.islice(results, 120)):
            assert result == x * x
            assert drawn <= x + 1 + buffersize
    with pytest.raises(StopIteration):
        next(results)


def test_close_forgets_what_was_at_hand(engine: Options) -> None:
    results = parallelkit.pool_imap(tasks.square, range(1000), **engine)
    assert list(itertools.islice(results, 500)) == [x * x for x in range(500)]
    results.close()
    assert list(results) == []


def test_several_threads_share_the_results(engine: Options) -> None:
    taken: list[list[int]] = [[] for _ in range(4)]
    with parallelkit.pool_imap(tasks.square, range(5000), **engine) as results:

        def take(mine: list[int]) -> None:
            mine.extend(results)

        threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(itertools.chain(*taken)) == [x * x for x in range(5000)]
    for mine in taken:
        assert mine == sorted(mine)


def test_failures_that_are_raised_together_take_no_room(engine: Options) -> None:
    taken: list[int] = []
    with (
        pytest.raises(ExceptionGroup) as caught,
        parallelkit.pool_imap(
            tasks.fail_on_odd, iter(range(40)), errors="group", buffersize=4, **engine
        ) as results,
    ):
        taken.extend(results)
    assert taken == list(range(0, 40, 2))
    assert len(caught.value.exceptions) == 20


class _Struck(list[Any]):
    strikes = 1

    def pop(self, *_: Any) -> Any:
        if self.strikes:
            self.strikes -= 1
            raise KeyboardInterrupt
        return super().pop()


def test_what_strikes_while_a_result_is_taken_costs_none() -> None:
    stream = Stream(call_settings(), None)
    stream.results.extend([_Struck([1, 0]), _Struck([2]), [3]])
    reader = Reader(stream)
    taken: list[int] = []
    strikes = 0
    while len(taken) < 4:
        try:
            taken.append(reader.take())
        except KeyboardInterrupt:
            strikes += 1
    assert strikes == 2
    assert taken == [0, 1, 2, 3]
    assert reader.take() is NOTHING
    assert reader.untold == 4
    reader.told(4)
    assert reader.untold == 0


def test_dropping_the_iterator_ends_the_work(engine: Options) -> None:
    for result in parallelkit.pool_imap(tasks.square, itertools.count(), **engine):
        if result > 100:
            break
    # That nothing is left is for the fixture to say.


def test_imap_delivers_what_came_before_a_failure(engine: Options) -> None:
    seen = []
    with pytest.raises(ValueError, match="three"):
        for result in parallelkit.pool_imap(tasks.fail_on_three, range(10), **engine):
            seen.append(result)
    assert seen == [0, 1, 2]


def test_imap_with_outcomes_and_groups(engine: Options) -> None:
    outcomes = list(parallelkit.pool_imap(tasks.fail_on_odd, range(4), errors="return", **engine))
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False]
    seen = []
    with pytest.raises(ExceptionGroup) as caught:
        for result in parallelkit.pool_imap(tasks.fail_on_odd, range(4), errors="group", **engine):
            seen.append(result)
    assert (seen, len(caught.value.exceptions)) == ([0, 2], 2)


def test_initializer(engine: Options) -> None:
    tasks._state.clear()
    options: Options = {"initializer": tasks.set_state, "initargs": (5,), "max_workers": 1}
    assert parallelkit.pool_map(tasks.get_state, [0], **options, **engine) == [[5]]
    tasks._state.clear()


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn"])
def test_timeout_bounds_the_call(kind: str) -> None:
    chosen: Options = {"engine": kind} if kind == "threads" else {"start_method": kind}
    nap = 4.0 if kind == "threads" else 60.0  # a thread cannot be ended
    limit = 8.0 if kind == "spawn" else 2.0  # fresh interpreters take their time
    begin = time.monotonic()
    with pytest.raises(parallelkit.CallTimeoutError) as caught:
        parallelkit.pool_map(tasks.sleep, [0.0, nap, nap], timeout=limit, max_workers=2, **chosen)
    assert caught.value.completed == 1
    assert time.monotonic() - begin < 30
    assert isinstance(caught.value, TimeoutError)


def test_a_timeout_holds_while_the_input_blocks() -> None:
    def slow_input() -> Iterator[int]:
        yield 1
        time.sleep(1.0)
        yield 2

    with pytest.raises(parallelkit.CallTimeoutError):
        parallelkit.pool_map(tasks.square, slow_input(), timeout=0.3)


class Progress:
    def __init__(self) -> None:
        self.count = 0
        self.closed = 0

    def update(self, n: int) -> None:
        self.count += n

    def close(self) -> None:
        self.closed += 1


def test_progress(engine: Options) -> None:
    progress = Progress()
    parallelkit.pool_map(tasks.fail_on_odd, range(50), errors="return", progress=progress, **engine)
    assert (progress.count, progress.closed) == (50, 1)
    progress = Progress()
    list(parallelkit.pool_imap(tasks.square, range(50), progress=progress, **engine))
    assert (progress.count, progress.closed) == (50, 1)


def test_max_tasks_per_child(start_method: str) -> None:
    pids = parallelkit.pool_map(
        tasks.pid, range(9), max_workers=2, max_tasks_per_child=2, start_method=start_method
    )
    assert len(set(pids)) >= 5
    assert max(map(pids.count, pids)) <= 2


def test_a_partial_and_a_bound_method(engine: Options) -> None:
    assert parallelkit.pool_map(functools.partial(tasks.add, 1), [1, 2], **engine) == [2, 3]
    assert parallelkit.pool_map("a-b".split, ["-"], **engine) == [["a", "b"]]


def test_lambdas_run_under_every_start_method(engine: Options) -> None:
    pytest.importorskip("cloudpickle")
    offset = 5
    assert parallelkit.pool_map(lambda x: x + offset, [1, 2], **engine) == [6, 7]


def test_a_forked_worker_inherits_what_cannot_be_pickled() -> None:
    items = [threading.Lock(), threading.Lock()]
    assert parallelkit.pool_map(lambda lock: lock.locked(), items, start_method="fork") == [False, False]


def test_work_runs_in_other_processes(start_method: str) -> None:
    assert os.getpid() not in parallelkit.pool_map(tasks.pid, range(4), start_method=start_method)


def test_large_buffers_go_there_and_back(start_method: str) -> None:
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(300_000, x, dtype="int64") for x in range(4)]
    back = parallelkit.pool_map(tasks.echo, iter(arrays), start_method=start_method)
    assert all((a == b).all() for a, b in zip(arrays, back, strict=True))
    assert all(array.flags.writeable for array in back)


def test_the_default_engine() -> None:
    with parallelkit.using("serial"):
        assert parallelkit.pool_map(tasks.pid, [0]) == [os.getpid()]
        with parallelkit.using("processes"):
            assert parallelkit.pool_map(tasks.pid, [0]) != [os.getpid()]
        assert parallelkit.pool_map(tasks.pid, [0]) == [os.getpid()]


def test_the_default_engine_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLELKIT_ENGINE", "serial")
    assert parallelkit.pool_map(tasks.pid, [0]) == [os.getpid()]
    monkeypatch.setenv("PARALLELKIT_ENGINE", "cluster")
    with pytest.raises(ValueError, match="PARALLELKIT_ENGINE must be 'processes', 'threads', 'serial'"):
        parallelkit.pool_map(tasks.pid, [0])


def test_a_million_items_do_not_fill_the_memory(tmp_path: Any) -> None:
    import subprocess

    script = tmp_path / "million.py"
    script.write_text(
        "import collections, os, parallelkit\n"
        "from parallelkit.resources import resident_set\n"
        "if __name__ == '__main__':\n"
        "    list(parallelkit.pool_imap(abs, range(1000)))\n"
        "    before, most, total = resident_set(os.getpid()), 0, 0\n"
        "    for n, result in enumerate(parallelkit.pool_imap(abs, iter(range(1_000_000)))):\n"
        "        total += result\n"
        "        if n % 10_000 == 0:\n"
        "            most = max(most, resident_set(os.getpid()))\n"
        "    assert total == 999_999 * 500_000, total\n"
        "    print((most - before) / 1e6)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=55, check=True)
    assert float(done.stdout) < 30


class TestBadInput:
    """Refused at the call, before any process starts."""

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"max_workers": 0}, ValueError, "max_workers must be at least 1, not 0"),
            ({"max_workers": 1.5}, TypeError, "max_workers must be a whole number, not 1.5"),
            ({"chunksize": -1}, ValueError, "chunksize must be at least 1, not -1"),
            ({"timeout": -1}, ValueError, "timeout must be not negative"),
            ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
            ({"task_timeout": 0}, ValueError, "task_timeout must be more than 0"),
            ({"task_timeout": float("nan")}, ValueError, "task_timeout must be more than 0"),
            ({"errors": "ignore"}, ValueError, "errors must be 'raise', 'group' or 'return', not 'ignore'"),
            ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
            ({"retry_on": "ValueError"}, TypeError, "retry_on must be an exception type"),
            ({"memory_limit": "lots"}, ValueError, "memory_limit must be a number of bytes or text"),
            ({"memory_limit": -5}, ValueError, "memory_limit must be more than 0"),
            ({"start_method": "vfork"}, ValueError, "start_method must be 'fork', 'forkserver' or 'spawn'"),
            ({"engine": "cluster"}, ValueError, "engine must be 'processes', 'threads', 'serial'"),
            ({"engine": 7}, TypeError, "engine must be a name or an Engine, not 7"),
            ({"initializer": 3}, TypeError, "initializer must be callable, not 3"),
            ({"initargs": 3}, TypeError, "initargs must be a tuple"),
            ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be at least 1"),
            ({"progress": object()}, TypeError, "progress must be True, False, .rich., a rich"),
            ({"nonsense": 1}, TypeError, "nonsense"),
        ],
    )
    @pytest.mark.parametrize("face", ["map", "starmap", "imap"])
    def test_options(self, face: str, options: Options, error: type[Exception], message: str) -> None:
        call: Any = getattr(parallelkit, f"pool_{face}")
        with pytest.raises(error, match=message):
            call(tasks.square, [1], **options)

    @pytest.mark.parametrize("face", ["map", "starmap", "imap"])
    def test_function_and_items(self, face: str) -> None:
        call: Any = getattr(parallelkit, f"pool_{face}")
        with pytest.raises(TypeError, match="the function must be callable, not 5"):
            call(5, [1])
        with pytest.raises(TypeError, match="items must be iterable, not 5"):
            call(tasks.square, 5)

    def test_buffersize(self) -> None:
        with pytest.raises(ValueError, match="buffersize must be at least 1, not 0"):
            parallelkit.pool_imap(tasks.square, [1], buffersize=0)


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn", "threads"])
def test_a_result_does_not_wait_for_the_rest_of_its_chunk(kind: str) -> None:
    chosen: Options = {"engine": kind} if kind == "threads" else {"start_method": kind}
    nap = 4.0 if kind == "threads" else 3600.0  # a thread cannot be ended
    items = [0.0, 0.0, nap]
    with parallelkit.pool_imap(tasks.sleep, items, chunksize=3, max_workers=1, **chosen) as results:
        assert [next(results), next(results)] == [0.0, 0.0]


class Unspeakable:
    def __repr__(self) -> str:
        raise SystemExit("repr")

    def __call__(self, _: object) -> None:
        raise ValueError("the user's")


def test_an_item_whose_repr_does_not_return(engine: Options) -> None:
    with pytest.raises(ValueError, match="the user's") as caught:
        parallelkit.pool_map(Unspeakable(), [Unspeakable()], **engine)
    assert caught.value.__notes__ == ["parallelkit: item 0: (its repr raised SystemExit)"]


_constant = ValueError("always the same")


def _raise_constant(_: object) -> None:
    raise _constant


def _map_inside(_: object) -> None:
    parallelkit.pool_map(tasks.fail_on_three, range(5), engine="serial")


@pytest.mark.parametrize("kind", ["threads", "serial"])
def test_one_object_that_many_items_raise_has_one_note(kind: str) -> None:
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as caught:
            parallelkit.pool_map(_raise_constant, range(3), engine=kind, errors="group")
        assert len(caught.value.exceptions[0].__notes__) == 1


def test_a_call_in_a_call_keeps_both_notes(engine: Options) -> None:
    with pytest.raises(ValueError, match="three") as caught:
        parallelkit.pool_map(_map_inside, ["a"], **engine)
    assert caught.value.__notes__ == ["parallelkit: item 3: 3", "parallelkit: item 0: 'a'"]


@pytest.mark.parametrize("face", [parallelkit.pool_map, parallelkit.pool_imap])
def test_a_list_that_shrinks_meanwhile(engine: Options, face: Any) -> None:
    items = list(range(200))

    class Shrink(Progress):
        def update(self, n: int) -> None:
            del items[50:]

    results = list(face(tasks.square, items, progress=Shrink(), chunksize=3, max_workers=2, **engine))
    assert results == [x * x for x in range(200)]


def stop_on_three(x: int) -> int:
    if x == 3:
        raise StopIteration("three")
    return x


def test_a_stop_iteration_of_an_item_is_not_the_end(engine: Options) -> None:
    seen = []
    with pytest.raises(RuntimeError, match="item 3 raised StopIteration") as caught:
        for result in parallelkit.pool_imap(stop_on_three, range(10), **engine):
            seen.append(result)
    assert seen == [0, 1, 2]
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__cause__.args == ("three",)
    with pytest.raises(StopIteration, match="three"):
        parallelkit.pool_map(stop_on_three, range(10), **engine)
    outcome = parallelkit.pool_map(stop_on_three, [3], errors="return", **engine)[0]
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.exception, StopIteration)


def test_a_timeout_ends_the_call_though_the_input_goes_on_blocking(engine: Options) -> None:
    move_on = threading.Event()

    def blocking() -> Iterator[int]:
        yield 1
        move_on.wait(50)

    for face in (parallelkit.pool_map, parallelkit.pool_imap):
        begin = time.monotonic()
        try:
            with pytest.raises(parallelkit.CallTimeoutError):
                list(face(tasks.square, blocking(), timeout=0.3, **engine))
            assert time.monotonic() - begin < 30
        finally:
            move_on.set()
        move_on.clear()


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn"])
def test_close_ends_the_next_of_another_thread(kind: str) -> None:
    chosen: Options = {"engine": kind} if kind == "threads" else {"start_method": kind}
    nap = 2.0 if kind == "threads" else 3600.0  # a thread cannot be ended
    results = parallelkit.pool_imap(tasks.sleep, [0.0, nap, nap], **chosen)
    assert next(results) == 0.0
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(list(results)))
    thread.start()
    with pytest.raises(parallelkit.CallTimeoutError):  # beside the other thread, which waits without limit
        results.next(timeout=0.05)
    while not results._driver._driving:  # type: ignore[union-attr]
        time.sleep(0.001)
    results.close()
    thread.join(30)
    assert answers == [[]]
