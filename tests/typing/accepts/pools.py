"""`Pool` and `AsyncResult`."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from typing import Any

from typing_extensions import assert_type

from parallelkit import AsyncResult, Outcome, Pool, PoolStats, ResultIterator


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str = "") -> bytes:
    return f"{number}{text}".encode()


def nothing() -> None: ...


def making() -> None:
    with Pool() as pool:
        assert_type(pool, Pool)
        assert_type(pool.stats(), PoolStats)
    Pool(2, label, (1, "a"), 10, multiprocessing.get_context("spawn"))
    Pool(initializer=label, initargs=(1,))
    Pool(initializer=label, initargs=[1, "a"])
    Pool(initializer=nothing)
    Pool(errors="group", task_timeout=1, retries=2, retry_on=OSError, memory_limit="1GB", engine="serial")
    Pool(threads_per_worker=2)
    Pool(threads_per_worker="inherit")
    given: dict[str, Any] = {"processes": 2, "start_method": "fork"}
    Pool(**given)


def one_call(pool: Pool) -> None:
    assert_type(pool.apply(label, (1, "a")), bytes)
    assert_type(pool.apply(label, (1,), task_timeout=2), bytes)
    assert_type(pool.apply(label, [1, "a"]), bytes)
    assert_type(pool.apply(label, (1,), {"text": "a"}), bytes)
    assert_type(pool.apply(label, kwds={"number": 1}), bytes)
    assert_type(pool.apply(nothing), None)
    result = pool.apply_async(label, (1, "a"))
    assert_type(result, AsyncResult[bytes])
    assert_type(result.get(), bytes)
    assert_type(result.get(timeout=1), bytes)
    assert_type(result.successful(), bool)
    assert_type(pool.apply_async(nothing), AsyncResult[None])
    assert_type(pool.apply_async(half, (1,), callback=print, error_callback=print), AsyncResult[float])
    assert_type(pool.apply_async(label, (1,), {"text": "a"}, print, print), AsyncResult[bytes])
    assert_type(pool.apply_async(label, kwds={"number": 1}, timeout=1), AsyncResult[bytes])
    assert_type(pool.submit(label, 1, text="a"), concurrent.futures.Future[bytes])
    assert_type(pool.submit(nothing).result(), None)
    assert_type(pool.size, int)
    covariant: AsyncResult[object] = result
    print(covariant)


def many_calls(pool: Pool) -> None:
    assert_type(pool.map(half, [1, 2]), list[float])
    assert_type(pool.map(half, range(3), 2, errors="group"), list[float])
    assert_type(pool.map(half, [1], errors=None, progress=True), list[float])
    assert_type(pool.map(half, [1], errors="return"), list[Outcome[float]])
    assert_type(pool.starmap(label, [(1, "a")]), list[bytes])
    assert_type(pool.starmap(label, enumerate("ab"), errors="return"), list[Outcome[bytes]])
    assert_type(pool.map_async(half, [1]), AsyncResult[list[float]])
    assert_type(pool.map_async(half, [1], errors="return"), AsyncResult[list[Outcome[float]]])
    assert_type(pool.map_async(half, [1], None, print, print).get(), list[float])
    assert_type(pool.starmap_async(label, [(1, "a")], callback=print), AsyncResult[list[bytes]])
    assert_type(pool.starmap_async(label, [(1,)], errors="return").get(), list[Outcome[bytes]])


def one_by_one(pool: Pool) -> None:
    assert_type(pool.imap(half, [1]), ResultIterator[float])
    assert_type(pool.imap(half, [1], 5, buffersize=9, errors="group"), ResultIterator[float])
    assert_type(pool.imap(half, [1], errors="return"), ResultIterator[Outcome[float]])
    assert_type(pool.imap_unordered(half, [1]).next(1), float)
    assert_type(next(pool.imap_unordered(half, [1], errors="return")), Outcome[float])


def callback(pool: Pool, sizes: list[int]) -> None:
    def add(result: list[float]) -> None:
        sizes.append(len(result))

    pool.map_async(half, [1], callback=add)
    pool.apply_async(half, (1,), callback=lambda result: sizes.append(int(result)))
