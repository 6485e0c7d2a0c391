"""Bad input is refused at the call, before a process starts, with a message that says what would be right."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import psutil
import pytest
import tasks
from hypothesis import given
from hypothesis import strategies as st

import parallelkit
from parallelkit import engines
from parallelkit.options import call_settings, count, seconds, worker_settings

NAN = float("nan")


class NoClose:
    def update(self, n: int) -> None:
        pass


class NoUpdate:
    def close(self) -> None:
        pass


METHODS = multiprocessing.get_all_start_methods()

#: option, bad value, exception, what the message says
CALL_OPTIONS = [
    ("timeout", -1, ValueError, "timeout must be not negative (seconds), not -1"),
    ("timeout", -0.5, ValueError, "timeout must be not negative (seconds), not -0.5"),
    ("timeout", NAN, ValueError, "timeout must be not negative (seconds), not nan"),
    ("timeout", -float("inf"), ValueError, "timeout must be not negative (seconds), not -inf"),
    ("timeout", -(10**400), ValueError, "timeout must be not negative (seconds), not -1000"),
    ("timeout", "5", TypeError, "timeout must be a number of seconds or None, not '5'"),
    ("timeout", True, TypeError, "timeout must be a number of seconds or None, not True"),
    ("timeout", 1j, TypeError, "timeout must be a number of seconds or None, not 1j"),
    ("task_timeout", 0, ValueError, "task_timeout must be more than 0 (seconds), not 0"),
    ("task_timeout", -1, ValueError, "task_timeout must be more than 0 (seconds), not -1"),
    ("task_timeout", NAN, ValueError, "task_timeout must be more than 0 (seconds), not nan"),
    ("task_timeout", "1 s", TypeError, "task_timeout must be a number of seconds or None, not '1 s'"),
    ("retries", -1, ValueError, "retries must be at least 0, not -1"),
    ("retries", 1.5, TypeError, "retries must be a whole number, not 1.5"),
    ("retries", True, TypeError, "retries must be a whole number, not True"),
    ("retry_on", 3, TypeError, "retry_on must be an exception type or a tuple of them, not 3"),
    ("retry_on", "OSError", TypeError, "retry_on must be an exception type or a tuple of them, not 'OSE"),
    ("retry_on", (OSError, 3), TypeError, "retry_on must be an exception type or a tuple of them, not (<cl"),
    ("retry_on", [OSError], TypeError, "retry_on must be an exception type or a tuple of them, not [<cl"),
    ("retry_on", OSError(), TypeError, "retry_on must be an exception type or a tuple of them, not OSErr"),
    ("retry_on", int, TypeError, "retry_on must be an exception type or a tuple of them, not <class 'int'"),
    ("progress", NoUpdate(), TypeError, 'progress must be True, False, "rich", a rich.progress.Progress or'),
    ("progress", NoClose(), TypeError, "has no close()"),
    ("progress", "yes", TypeError, 'progress must be True, False, "rich", a rich.progress.Progress or'),
    ("progress", 1, TypeError, "an object with update(n) and close(); 1 has no update()"),
    ("progres", True, TypeError, "there is no option 'progres'; the options are"),
]  # fmt: skip

ERRORS = [
    ("errors", "ignore", ValueError, "errors must be 'raise', 'group' or 'return', not 'ignore'"),
    ("errors", "RAISE", ValueError, "errors must be 'raise', 'group' or 'return', not 'RAISE'"),
    ("errors", [], ValueError, "errors must be 'raise', 'group' or 'return', not []"),
    ("errors", True, ValueError, "errors must be 'raise', 'group' or 'return', not True"),
]

CHUNKSIZE = [
    ("chunksize", 0, ValueError, "chunksize must be at least 1, not 0"),
    ("chunksize", -3, ValueError, "chunksize must be at least 1, not -3"),
    ("chunksize", 2.0, TypeError, "chunksize must be a whole number, not 2.0"),
    ("chunksize", "3", TypeError, "chunksize must be a whole number, not '3'"),
    ("chunksize", True, TypeError, "chunksize must be a whole number, not True"),
]

BUFFERSIZE = [
    ("buffersize", 0, ValueError, "buffersize must be at least 1, not 0"),
    ("buffersize", -1, ValueError, "buffersize must be at least 1, not -1"),
    ("buffersize", 1.5, TypeError, "buffersize must be a whole number, not 1.5"),
]

#: What `pool_map` and its kin, and `Pool`, take in common.
WORKERS = [
    ("initializer", 3, TypeError, "initializer must be callable, not 3"),
    ("initargs", 3, TypeError, "initargs must be a tuple of arguments, not 3"),
    ("memory_limit", "lots", ValueError, "memory_limit must be a number of bytes or text such as '2GiB'"),
    ("memory_limit", 0, ValueError, "memory_limit must be more than 0 bytes, not 0"),
    ("memory_limit", -1, ValueError, "memory_limit must be more than 0 bytes, not -1"),
    ("memory_limit", 1e9, TypeError, "memory_limit must be a number of bytes or text such as '2GiB'"),
    ("start_method", "vfork", ValueError, "start_method must be 'fork', 'forkserver' or 'spawn'"),
    ("start_method", 3, TypeError, "start_method must be the name of a start method, not 3"),
    ("start_method", [], TypeError, "start_method must be the name of a start method, not []"),
    (
        "engine",
        "thread",
        ValueError,
        "engine must be 'processes', 'threads', 'serial' or an Engine, not 'thr",
    ),
    ("forward_logs", 1, TypeError, "forward_logs must be True, False or None, not 1"),
    ("forward_logs", "yes", TypeError, "forward_logs must be True, False or None, not 'yes'"),
    ("engine", "", ValueError, "engine must be 'processes', 'threads', 'serial' or an Engine, not ''"),
    ("engine", 3, TypeError, "engine must be a name or an Engine, not 3"),
    ("engine", object, TypeError, "engine must be a name or an Engine, not <class 'object'>"),
]

MAP_WORKERS = [
    ("max_workers", 0, ValueError, "max_workers must be at least 1, not 0"),
    ("max_workers", -2, ValueError, "max_workers must be at least 1, not -2"),
    ("max_workers", 1.0, TypeError, "max_workers must be a whole number, not 1.0"),
    ("max_workers", True, TypeError, "max_workers must be a whole number, not True"),
    ("max_tasks_per_child", 0, ValueError, "max_tasks_per_child must be at least 1, not 0"),
    ("max_tasks_per_child", "1", TypeError, "max_tasks_per_child must be a whole number, not '1'"),
    ("workers", 2, TypeError, "there is no option 'workers'; the options are"),
]

POOL = [
    ("processes", 0, ValueError, "processes must be at least 1, not 0"),
    ("processes", -1, ValueError, "processes must be at least 1, not -1"),
    ("processes", 1.5, TypeError, "processes must be a whole number, not 1.5"),
    ("processes", "2", TypeError, "processes must be a whole number, not '2'"),
    ("maxtasksperchild", 0, ValueError, "maxtasksperchild must be at least 1, not 0"),
    ("maxtasksperchild", 1.5, ValueError, "maxtasksperchild must be a whole number, not 1.5"),
    ("max_workers", 2, TypeError, "unexpected keyword argument 'max_workers'"),
]
#: Options of the calls that `Pool` takes as their defaults.
POOL_DEFAULTS = [row for row in CALL_OPTIONS if row[0] in ("task_timeout", "retries", "retry_on")]

Row = tuple[str, Any, type[Exception], str]


def _rows(*tables: Sequence[Row]) -> pytest.MarkDecorator:
    rows = [row for table in tables for row in table]
    names = [f"{name}={_id(value)}" for name, value, _, _ in rows]
    return pytest.mark.parametrize(("name", "value", "kind", "message"), rows, ids=names)


def _id(value: object) -> str:
    return str(value)[:20] if isinstance(value, (int, float, str)) else type(value).__name__


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process is started within, in any of the ways there are."""

    def refuse(*_: object, **__: object) -> Any:
        pytest.fail("a process was started")

    before = psutil.Process().children(recursive=True)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "posix_spawn", refuse)
    yield
    monkeypatch.undo()
    assert psutil.Process().children(recursive=True) == before


def _never(_: object) -> None:
    raise AssertionError("an item was drawn or run")


def _drawn() -> Iterator[int]:
    _never(None)
    yield 1


FACES: dict[str, Callable[..., Any]] = {
    "pool_map": parallelkit.pool_map,
    "pool_starmap": parallelkit.pool_starmap,
    "pool_imap": parallelkit.pool_imap,
}


@pytest.mark.parametrize("face", FACES)
@_rows(CALL_OPTIONS, ERRORS, CHUNKSIZE, WORKERS, MAP_WORKERS)
def test_the_map_functions_refuse(
    face: str, name: str, value: Any, kind: type[Exception], message: str, no_process: None
) -> None:
    for items in ([1, 2], [], _drawn()):
        with pytest.raises(kind, match=re.escape(message)) as caught:
            FACES[face](_never, items, **{name: value})
        assert type(caught.value) is kind


@_rows(BUFFERSIZE)
def test_pool_imap_refuses(
    name: str, value: Any, kind: type[Exception], message: str, no_process: None
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        parallelkit.pool_imap(_never, _drawn(), **{name: value})


NOT_CALLABLE = [None, 3, "abs", [abs]]
NOT_ITERABLE = [None, 3, abs, list, object(), 1.5]


@pytest.mark.parametrize("face", FACES)
def test_the_map_functions_refuse_what_is_no_function_and_no_items(face: str, no_process: None) -> None:
    for function in NOT_CALLABLE:
        with pytest.raises(
            TypeError, match=f"the function must be callable, not {re.escape(repr(function))}"
        ):
            FACES[face](function, [1])
    for items in NOT_ITERABLE:
        with pytest.raises(TypeError, match=f"items must be iterable, not {re.escape(repr(items))}"):
            FACES[face](abs, items)


@_rows(POOL, POOL_DEFAULTS, ERRORS, WORKERS)
def test_a_pool_refuses(name: str, value: Any, kind: type[Exception], message: str, no_process: None) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        parallelkit.Pool(**{name: value})
    assert type(caught.value) is kind


@pytest.fixture(scope="module")
def pool() -> Iterator[parallelkit.Pool]:
    # Its engine starts no process: what the checks let pass would run here, and fail in `_never`.
    with parallelkit.Pool(1, engine="serial") as pool:
        yield pool
        assert pool.stats().done == 0, "a refused call has run"


MAPS = ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]
SINGLES = ["apply", "apply_async"]


@pytest.mark.parametrize("method", MAPS)
@_rows(CALL_OPTIONS, ERRORS, [row for row in CHUNKSIZE if row[1] is not True])  # True is imap's default, 1
def test_the_methods_of_a_pool_refuse(
    method: str, name: str, value: Any, kind: type[Exception], message: str, pool: parallelkit.Pool
) -> None:
    for items in ([1, 2], []):
        with pytest.raises(kind, match=re.escape(message)) as caught:
            getattr(pool, method)(_never, items, **{name: value})
        assert type(caught.value) is kind


@pytest.mark.parametrize("method", SINGLES)
@_rows(CALL_OPTIONS)
def test_the_single_calls_of_a_pool_refuse(
    method: str, name: str, value: Any, kind: type[Exception], message: str, pool: parallelkit.Pool
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        getattr(pool, method)(_never, (1,), **{name: value})


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@_rows(BUFFERSIZE)
def test_the_iterating_methods_of_a_pool_refuse(
    method: str, name: str, value: Any, kind: type[Exception], message: str, pool: parallelkit.Pool
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        getattr(pool, method)(_never, _drawn(), **{name: value})


@pytest.mark.parametrize("method", MAPS + SINGLES)
def test_the_methods_of_a_pool_refuse_what_is_no_function_and_no_items(
    method: str, pool: parallelkit.Pool
) -> None:
    for function in NOT_CALLABLE:
        with pytest.raises(TypeError, match="the function must be callable, not "):
            getattr(pool, method)(function, [1])
    for items in NOT_ITERABLE:
        wrong = (
            "not iterable" if method in SINGLES else f"items must be iterable, not {re.escape(repr(items))}"
        )
        with pytest.raises(TypeError, match=wrong):
            getattr(pool, method)(abs, items)


@pytest.mark.parametrize("timeout", [-1, NAN, "1"])
def test_waiting_refuses_bad_timeouts(timeout: Any, pool: parallelkit.Pool) -> None:
    results = parallelkit.pool_imap(_never, [1])
    with pytest.raises((TypeError, ValueError), match=r"timeout must be (not negative|a number of seconds)"):
        results.next(timeout)
    results.close()


def test_a_pool_that_refused_takes_good_calls(start_method: str) -> None:
    with parallelkit.Pool(1, start_method=start_method) as pool:
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(tasks.square, [1], chunksize=0)
        with pytest.raises(TypeError, match="items must be iterable"):
            pool.imap(tasks.square, None)  # type: ignore[call-overload]
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
        assert pool.stats().done == 2


def test_the_environment_names_an_engine(monkeypatch: pytest.MonkeyPatch, no_process: None) -> None:
    monkeypatch.setenv("PARALLELKIT_ENGINE", "thread")
    with pytest.raises(ValueError, match="PARALLELKIT_ENGINE must be 'processes', 'threads', 'serial'"):
        parallelkit.pool_map(abs, [1])
    monkeypatch.setenv("PARALLELKIT_ENGINE", "serial")
    assert parallelkit.pool_map(tasks.pid, [1]) == [os.getpid()]
    assert worker_settings().engine is engines.resolve("serial")
    monkeypatch.setenv("PARALLELKIT_ENGINE", "")
    assert worker_settings().engine is engines.resolve("processes")


# What is taken


@given(st.integers(1, 10**20))
def test_counts(number: int) -> None:
    assert count("n", number) == number
    with pytest.raises(ValueError, match=f"n must be at least {number + 1}, not {number}"):
        count("n", number, least=number + 1)


def test_counts_of_other_types() -> None:
    assert count("n", None) is None
    taken = count("n", numpy.int64(3))  # type: ignore[arg-type]
    assert (taken, type(taken)) == (3, int)


@given(st.floats(allow_nan=False, min_value=0))
def test_spans(span: float) -> None:
    taken = seconds("t", span, zero=True)
    assert taken == span or (taken is None and span > 1e9)


@pytest.mark.parametrize("value", [None, float("inf"), 1e300, 10**400, Decimal("Infinity")])
def test_no_limit(value: Any) -> None:
    assert seconds("t", value) is None


@pytest.mark.parametrize(
    "value",
    [2, 2.0, Fraction(2), Decimal(2), numpy.float32(2), numpy.int8(2)],
    ids=lambda v: type(v).__name__,
)
def test_spans_of_other_types(value: Any) -> None:
    taken = seconds("t", value)
    assert (taken, type(taken)) == (2.0, float)


_IN_PROCESSES = [{"engine": "processes", "start_method": method} for method in METHODS]


@pytest.mark.parametrize("option", ["timeout", "task_timeout"])
@pytest.mark.parametrize(
    ("days", "engine"),
    [
        *((days, {"engine": name}) for days in (1, 30, 400) for name in ("threads", "serial")),
        *((30, engine) for engine in _IN_PROCESSES),
    ],
)
def test_long_timeouts(option: str, days: int, engine: dict[str, Any]) -> None:
    options: Any = {option: days * 86400.0, **engine}
    assert parallelkit.pool_map(tasks.square, [1, 2], max_workers=1, **options) == [1, 4]


def test_the_settings_are_complete() -> None:
    settings = worker_settings(
        max_workers=3,
        initializer=abs,
        initargs=iter([1]),
        max_tasks_per_child=4,
        memory_limit="2GiB",
        start_method=METHODS[0],
        engine="threads",
    )
    assert (settings.max_workers, settings.initargs, settings.memory_limit) == (3, (1,), 2 << 30)
    assert (settings.max_tasks_per_child, settings.start_method) == (4, METHODS[0])
    assert worker_settings().max_workers == parallelkit.available_cpus()
    assert worker_settings(max_workers=7, engine="serial").max_workers == 1
    call = call_settings(retry_on=OSError, retries=2, timeout=0)
    assert (call.retry_on, call.retries, call.timeout, call.has_deadlines) == ((OSError,), 2, 0.0, True)
    assert not call_settings().has_deadlines


def test_old_sequences_are_iterable() -> None:
    class Old:
        def __getitem__(self, index: int) -> int:
            if index < 3:
                return index
            raise IndexError

    items: Any = Old()
    assert parallelkit.pool_map(tasks.square, items, engine="serial") == [0, 1, 4]
