"""Where a fault strikes: on the way to a task and from it, and in what the caller lends to the library."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tasks
from conftest import START_METHODS, Counting

import parallelkit
from faults import where_tasks
from faults.checks import check_failed, gone
from faults.where_tasks import Dump, Load
from parallelkit import (
    Pool,
    RemoteError,
    ResultError,
    SerializationError,
    Success,
    WorkerDiedError,
    WorkerInitError,
)

Options = dict[str, Any]


def _check_serves(outcomes: Any) -> None:
    assert outcomes(tasks.square, range(3)) == [Success(i, i * i) for i in range(3)]


def _error_of(call: Callable[[], Any]) -> BaseException:
    """What a call as a whole ends in; a face of single calls tells it of each."""
    try:
        got = call()
    except BaseException as error:  # noqa: BLE001, RUF100 - whatever it is
        return error
    errors: list[BaseException] = [outcome.exception for outcome in got]
    assert {type(error) for error in errors} == {type(errors[0])}
    return errors[0]


# The argument


def test_an_argument(served: Any, counting: Counting) -> None:
    """Drawn from an iterator, so that no worker inherits it."""
    bad = {
        1: {"deep": [threading.Lock()]},
        3: Dump("raises"),
        5: Dump("exits"),
        7: where_tasks.nested(),
        9: Load("raises"),
        11: Load("exits"),
        13: Load("interrupts"),
    }
    items = [bad.get(index, index) for index in range(15)]
    work = functools.partial(where_tasks.count, str(counting.folder))
    with served(max_workers=1) as outcomes:
        _check_serves(outcomes)
        errors = dict(zip(bad, check_failed(outcomes(work, iter(items), chunksize=100), bad), strict=True))
        _check_serves(outcomes)
    assert counting.runs() == {str(index): 1 for index in range(0, 15, 2)}
    for index, error in errors.items():
        assert isinstance(error, SerializationError), index
        assert error.index == index
        assert error.what in ("item", "call")
    first: Any = errors[1]
    assert first.path in ("item['deep'][0]", "args[0]['deep'][0]")
    assert "on the way" in str(errors[9])


def test_an_argument_that_ends_who_loads_it(served: Any, start_method: str, counting: Counting) -> None:
    work = functools.partial(where_tasks.count, str(counting.folder))
    with served(max_workers=1) as outcomes:
        _check_serves(outcomes)
        got = outcomes(work, iter([0, 1, Load("ends"), 3]), chunksize=100)
        _check_serves(outcomes)
    if start_method == "fork" and got[2] == Success(2, "Load"):
        # The worker that was forked when the first was dead has inherited it, and loads nothing.
        assert [outcome.unwrap() for outcome in got] == [0, 1, "Load", 3]
        assert counting.runs() == {"0": 1, "1": 1, "Load": 1, "3": 1}
        return
    (died,) = check_failed(got, [2])
    assert counting.runs() == {"0": 1, "1": 1, "3": 1}
    assert isinstance(died, WorkerDiedError)
    assert (died.index, died.started, died.exitcode, died.signal) == (2, False, 4, None)


# The function


def test_a_function(served: Any) -> None:
    with served(max_workers=1) as outcomes:
        for bad in (Dump("raises"), Dump("exits"), Load("raises"), Load("exits")):
            _check_serves(outcomes)
            error = _error_of(functools.partial(outcomes, bad, iter(range(3))))
            assert isinstance(error, SerializationError)
            assert (error.what, error.path) == ("function", "function")
            assert "on the way" in str(error)
        _check_serves(outcomes)


def test_a_function_that_ends_who_loads_it(served: Any, start_method: str) -> None:
    with served(max_workers=1) as outcomes:
        _check_serves(outcomes)
        got = outcomes(Load("ends"), iter(range(2)))
        # A worker that is forked when the first is dead may have inherited the function, and load nothing.
        inherited = start_method == "fork" and got[1] == Success(1, 1)
        for error in check_failed(got, [0] if inherited else [0, 1]):
            assert isinstance(error, WorkerDiedError)
            assert (error.started, error.exitcode) == (False, 4)
        _check_serves(outcomes)


# The result and the exception


def test_a_result(served: Any, counting: Counting) -> None:
    faults = {2 * at + 1: name for at, name in enumerate(where_tasks.RESULTS)}
    work = functools.partial(where_tasks.give, str(counting.folder), faults)
    with served(max_workers=2) as outcomes:
        got = outcomes(work, range(2 * len(faults) + 1), chunksize=100)
        for index, error in zip(faults, check_failed(got, faults, counting), strict=True):
            if faults[index] == "dump exits" and isinstance(error, SystemExit):
                continue  # what an Executor does, as the standard library's tests want it
            assert isinstance(error, ResultError), faults[index]
            # A single call has no number, and a note that names its function.
            assert error.index in (index, None)
        assert got[1].exception.path == "result['deep']"
        _check_serves(outcomes)


def test_an_exception(served: Any, counting: Counting) -> None:
    faults = {2 * at + 1: name for at, name in enumerate(where_tasks.EXCEPTIONS)}
    work = functools.partial(where_tasks.fail, str(counting.folder), faults)
    with served(max_workers=2) as outcomes:
        got = outcomes(work, range(2 * len(faults) + 1), chunksize=100)
        errors: Any = dict(zip(faults.values(), check_failed(got, faults, counting), strict=True))
        _check_serves(outcomes)
    locked, two = errors["with a lock"], errors["two arguments"]
    assert (type(locked), locked.args, locked.code) == (where_tasks.WithLock, ("locked",), 5)
    assert any("attribute lock was left behind" in note for note in locked.__notes__)
    assert (type(two), two.first, two.second, str(two)) == (where_tasks.TwoArguments, 1, 2, "1 and 2")
    assert (type(errors["made once"]), errors["made once"].args) == (where_tasks.MadeOnce, ("once",))
    for name in ("dump raises", "dump exits", "load raises", "load exits"):
        assert type(errors[name]) is where_tasks.Reducing, name
        assert errors[name].args == ("reduced",)
    for name, type_name in (
        ("unknown", "nowhere.Unknown"),
        ("made here only", "faults.where_tasks.MadeHereOnly"),
    ):
        assert isinstance(errors[name], RemoteError)
        assert errors[name].type_name == type_name
        assert "text" in str(errors[name])


# The initializer


def test_an_initializer(served: Any) -> None:
    def use() -> Any:
        with served(max_workers=2, initializer=where_tasks.happen, initargs=("raises",)) as outcomes:
            first = _error_of(lambda: outcomes(tasks.square, range(3)))
            assert isinstance(first, WorkerInitError)
            return outcomes(tasks.square, range(3))

    error = _error_of(use)
    assert isinstance(error, WorkerInitError)
    assert isinstance(error.__cause__, LookupError)
    assert 3 <= error.starts <= 5


#: The cause of the error, and the exit code of one that died.
ENDINGS: dict[str, tuple[type[BaseException], int | None]] = {
    "ends": (WorkerDiedError, 4),
    "is killed": (WorkerDiedError, -9),
    "exits": (SystemExit, None),
    "interrupts": (KeyboardInterrupt, None),
}


def test_an_initializer_that_ends_its_worker(start_method: str) -> None:
    for name, (kind, exitcode) in ENDINGS.items():
        options: Options = {"initializer": where_tasks.happen, "initargs": (name,)}
        with pytest.raises(WorkerInitError) as caught:
            parallelkit.pool_map(abs, [1, 2], max_workers=1, start_method=start_method, **options)
        cause = caught.value.__cause__
        assert type(cause) is kind
        if isinstance(cause, WorkerDiedError):
            assert (cause.index, cause.exitcode, cause.started) == (None, exitcode, False)


@pytest.mark.parametrize("engine", ["threads", "serial"])
@pytest.mark.parametrize("name", ["raises", "exits"])
def test_an_initializer_in_this_process(name: str, engine: str) -> None:
    with pytest.raises(WorkerInitError) as caught:
        parallelkit.pool_map(abs, [1], initializer=where_tasks.happen, initargs=(name,), engine=engine)
    assert "on the way" in str(caught.value.__cause__)


@pytest.mark.parametrize("method", [method for method in START_METHODS if method != "fork"])
@pytest.mark.parametrize("bad", [Dump("raises"), Load("raises")], ids=["dumped", "loaded"])
def test_an_initializer_that_cannot_be_sent(bad: Any, method: str) -> None:
    with pytest.raises((SerializationError, WorkerInitError)) as caught:
        parallelkit.pool_map(abs, [1], initializer=bad, initargs=(1,), start_method=method)
    error: Any = caught.value
    if isinstance(bad, Dump):
        assert (type(error), error.what) == (SerializationError, "initializer")
    else:
        assert isinstance(error.__cause__, LookupError)


def test_an_initializer_that_hangs(start_method: str) -> None:
    """As with a task that hangs, it is the caller's time-out that ends it."""
    with pytest.raises(parallelkit.CallTimeoutError):
        parallelkit.pool_map(
            abs,
            [1, 2],
            initializer=where_tasks.happen,
            initargs=("hangs",),
            start_method=start_method,
            timeout=0.3,
        )


# What the caller lends: callbacks, the input, the progress object


def _raise(error: BaseException) -> Callable[..., Any]:
    def raising(*_: object) -> Any:
        raise error

    return raising


@pytest.mark.parametrize("error", [LookupError("callback"), SystemExit("callback")], ids=repr)
def test_a_callback(engine: Options, error: BaseException) -> None:
    with pytest.raises(BaseExceptionGroup) as caught, Pool(2, **engine) as pool:
        results: list[Any] = [
            pool.apply_async(tasks.square, (3,), callback=_raise(error)),
            pool.map_async(tasks.square, range(3), callback=_raise(error)),
            pool.apply_async(tasks.fail_on_three, (3,), error_callback=_raise(error)),
        ]
        for result in results:
            with pytest.raises(type(error)) as told:
                result.get()
            assert told.value is error
        sound = pool.apply_async(tasks.square, (3,))
        assert sound.get() == 9
        pool.apply_async(tasks.square, (3,), callback=_raise(error)).wait()
        _check_serves(functools.partial(pool.map, errors="return"))
    assert caught.value.exceptions == (error,)  # the one that nobody has retrieved


def _failing_input(error: BaseException) -> Iterator[int]:
    yield from range(3)
    raise error


class Uncountable:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Any:
        raise self.error

    def __length_hint__(self) -> int:
        raise ValueError("uncountable")


@pytest.mark.parametrize(
    "error", [LookupError("disk"), SystemExit("input"), GeneratorExit(), KeyboardInterrupt()], ids=repr
)
def test_an_input(engine: Options, error: BaseException) -> None:
    """Who takes results one by one gets those before the fault, and then the fault itself."""
    kind = type(error)
    with pytest.raises(kind):
        parallelkit.pool_map(tasks.square, _failing_input(error), **engine)
    with Pool(2, **engine) as pool:
        with pytest.raises(kind):
            pool.map(tasks.square, _failing_input(error))
        for lazy in (functools.partial(parallelkit.pool_imap, **engine), pool.imap, pool.imap_unordered):
            seen = []
            with pytest.raises(kind) as caught:
                for value in lazy(tasks.square, _failing_input(error)):
                    seen.append(value)
            assert caught.value is error
            assert sorted(seen) == [0, 1, 4]
        _check_serves(functools.partial(pool.map, errors="return"))


def test_an_input_that_cannot_be_begun(engine: Options) -> None:
    with Pool(1, **engine) as pool:
        faces: list[Any] = [parallelkit.pool_map, parallelkit.pool_imap, pool.map, pool.imap]
        for face in faces:
            options = engine if face in faces[:2] else {}
            with pytest.raises((LookupError, ValueError), match=r"disk|uncountable"):
                list(face(tasks.square, Uncountable(LookupError("disk")), **options))
        assert pool.map(tasks.square, [2]) == [4]


class Counter:
    def __init__(self) -> None:
        self.closed = 0

    def update(self, n: int, /) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("error", [OSError("no such terminal"), SystemExit("progress")], ids=repr)
def test_a_progress_object(error: BaseException, engine: Options) -> None:
    """Its error becomes the call's, and is told when the results are safe."""
    squares = [x * x for x in range(10)]
    with Pool(2, **engine) as pool:
        faces: dict[Any, Options] = {parallelkit.pool_map: engine, parallelkit.pool_imap: engine}
        for face, where in itertools.product((*faces, pool.map, pool.imap), ("update", "close")):
            counter = Counter()
            setattr(counter, where, _raise(error))
            taken: list[int] = []
            with pytest.raises(type(error)) as caught:
                for value in face(tasks.square, range(10), progress=counter, **faces.get(face, {})):
                    taken.append(value)
            assert caught.value is error
            assert taken == (squares if face in (parallelkit.pool_imap, pool.imap) else [])
            assert counter.closed == (where == "update")
        _check_serves(functools.partial(pool.map, errors="return"))


# The end of objects, and of workers


def test_a_del_in_a_worker(served: Any, counting: Counting) -> None:
    faults = {1: "raises", 3: "exits", 5: "interrupts", 7: "is killed"}
    work = functools.partial(where_tasks.collect, str(counting.folder), faults)
    with served(max_workers=2) as outcomes:
        (died,) = check_failed(outcomes(work, range(9), chunksize=100), [7], counting)
        assert isinstance(died, WorkerDiedError)
        assert (died.index, died.started, died.signal) == (7, True, 9)
        # One that strikes when the result is in safety already: it is lost with its worker, or it is there.
        doomed = functools.partial(where_tasks.give_doomed, os.getpid())
        got = outcomes(doomed, range(4), chunksize=100)
        assert [outcome.value for outcome in (*got[:1], *got[2:])] == [0, 2, 3]
        assert isinstance(got[1], Success) or isinstance(got[1].exception, WorkerDiedError)
        _check_serves(outcomes)


_pool: Pool | None = None
_heard: list[object] = []


class UsesThePool:
    """Where it is collected, it calls the pool, whatever that is doing."""

    def __del__(self) -> None:
        if _pool is None:
            return
        try:
            _heard.append(_pool.apply(abs, (-1,)))
        except RuntimeError as error:
            _heard.append(error)


def test_a_del_in_the_parent(engine: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    global _pool
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: unraisable.append(hook.exc_type))
    bad = [functools.partial(where_tasks.Collected, name) for name in ("raises", "exits", "interrupts")]
    _heard.clear()
    try:
        with Pool(1, **engine) as _pool:
            makes: list[Callable[[], object]] = [*bad, UsesThePool]
            for make in makes:
                value: Any = _pool.apply(where_tasks.give_dropping, (make,))
                if engine["engine"] == "processes":
                    assert value == 7
                else:  # where nothing is loaded
                    assert value.make is make
                    make()
            _check_serves(functools.partial(_pool.map, errors="return"))
    finally:
        _pool = None
    assert unraisable == [LookupError, SystemExit, KeyboardInterrupt]
    assert len(_heard) == 1


def test_an_atexit_handler_in_a_worker(start_method: str) -> None:
    names = ["hangs", "raises", "exits", "ends", "is killed"]
    with Pool(1, start_method=start_method, maxtasksperchild=1) as pool:
        # Another worker takes over, though the first may take its time for its end.
        pids = {pool.apply(where_tasks.happen_at_exit, (name,)) for name in names}
        assert pool.apply(tasks.square, (2,)) == 4
    assert len(pids) == len(names)
    gone(pids)
