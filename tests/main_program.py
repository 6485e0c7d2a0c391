"""A program for test_main_functions, which runs it in all the ways in which there can be a `__main__`."""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
from collections.abc import Callable
from typing import Any

import parallelkit

factor = 3
base = 0


def helper(x: int) -> int:
    return x * factor


class TeaError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"no tea: {code}")
        self.code = code


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Base:
    value: int

    def tripled(self) -> int:
        return helper(self.value)


class Thing(Base):
    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, x: int) -> int:
        return self.value + x


def logged(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(x: int) -> int:
        return function(x)

    return wrapper


@logged
def decorated(x: int) -> int:
    return helper(x) + 1


@functools.lru_cache
def cached(x: int) -> int:
    return helper(x) + 2


def make(x: int) -> tuple[Point, Color, Thing]:
    return Point(x, helper(x)), Color(x), Thing(x)


def use(thing: Thing) -> int:
    return thing.tripled()


def fail(x: int) -> None:
    raise TeaError(x)


def initialize(value: int, lock: Any) -> None:
    global base
    with lock:
        base = value


def above_base(x: int) -> int:
    return base + x


def fails_with(kind: type[BaseException], call: Callable[[], object]) -> Any:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_pool(pool: parallelkit.Pool) -> None:
    assert pool.map(helper, [1, 2]) == [3, 6]
    assert pool.apply(decorated, (1,)) == 4
    assert pool.apply_async(cached, (1,)).get() == 5
    assert list(pool.imap(above_base, [1, 2])) == [11, 12]
    [(point, color, thing)] = pool.map(make, [2])
    assert (point, color) == (Point(2, 6), Color.BLUE)
    assert isinstance(thing, Thing)
    assert dataclasses.asdict(point) == {"x": 2, "y": 6}
    assert pool.map(use, [Thing(1), Thing(2)]) == [3, 6]
    assert pool.apply(thing.add, (5,)) == 7
    assert fails_with(TeaError, lambda: pool.map(fail, [7])).code == 7


def check_lambdas(pool: parallelkit.Pool) -> None:
    offset = 5
    assert pool.map(lambda x: helper(x) + offset, [1, 2]) == [8, 11]
    assert pool.apply_async(lambda x: x + offset, (1,)).get() == 6
    assert list(pool.imap(lambda x: x, [1, 2])) == [1, 2]
    [thing] = pool.map(lambda x: Thing(x), [1])
    assert isinstance(thing, Thing)
    assert fails_with(TeaError, lambda: pool.apply(lambda: fail(7))).code == 7
    # What has come back has not put copies into the place of the methods.
    assert Thing.add.__globals__ is globals()


def check_executor(method: str) -> None:
    offset = 5
    with parallelkit.ProcessPoolExecutor(1, parallelkit.get_context(method)) as executor:
        assert executor.submit(decorated, 1).result() == 4
        assert list(executor.map(helper, [1, 2])) == [3, 6]
        assert executor.submit(lambda x: x + offset, 1).result() == 6
        assert list(executor.map(lambda x: x + offset, [1])) == [6]
        assert isinstance(executor.submit(fail, 7).exception(), TeaError)


def check_process(method: str) -> None:
    context = parallelkit.get_context(method)
    lock, queue = context.Lock(), context.SimpleQueue()
    code = 1

    def hold(lock: Any, queue: Any) -> tuple[Point, Color, Thing]:
        lock.acquire()
        queue.put(code)
        return make(2)

    process = context.Process(target=lambda *arguments: hold(*arguments), args=(lock, queue))
    process.start()
    made = process.result()
    assert made[:2] == (Point(2, 6), Color.BLUE)
    assert isinstance(made[2], Thing)
    assert queue.get() == 1
    assert lock.acquire()
    assert lock.abandoned
    queue.close()


def check_calls(method: str) -> None:
    assert parallelkit.pool_map(decorated, [1, 2], max_workers=1, start_method=method) == [4, 7]
    offset = 5
    lambdas = parallelkit.pool_imap(lambda x: helper(x) + offset, [1], max_workers=1, start_method=method)
    assert list(lambdas) == [8]


def check_all(method: str) -> None:
    lock = parallelkit.get_context(method).Lock()
    with parallelkit.Pool(1, initialize, (10, lock), start_method=method) as pool:
        check_pool(pool)
        check_lambdas(pool)
        assert pool.map(above_base, [1]) == [11]
    check_executor(method)
    check_process(method)
    check_calls(method)
    print(method, "is right", flush=True)


if __name__ == "__main__":
    for each in sys.argv[1:] or ["fork", "spawn", "forkserver"]:
        check_all(each)
