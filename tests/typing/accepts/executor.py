"""`ProcessPoolExecutor` and its futures."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterator, Mapping
from typing import Any

from typing_extensions import assert_type

from parallelkit import PoolStats, ProcessPoolExecutor


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str = "") -> bytes:
    return f"{number}{text}".encode()


def nothing() -> None: ...


def four(a: int, b: str, c: bytes, d: float) -> str:
    return f"{a}{b}{c!r}{d}"


def making() -> None:
    with ProcessPoolExecutor() as executor:
        assert_type(executor, ProcessPoolExecutor)
        _of_the_standard_library: concurrent.futures.ProcessPoolExecutor = executor
    ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), label, (1, "a"), max_tasks_per_child=10)
    ProcessPoolExecutor(initializer=label, initargs=(1,))
    ProcessPoolExecutor(initializer=nothing)
    ProcessPoolExecutor(threads_per_worker=1)
    ProcessPoolExecutor(task_timeout=1, retries=2, retry_on=OSError, memory_limit="1GB", engine="serial")
    given: dict[str, Any] = {"max_workers": 2, "start_method": "fork"}
    ProcessPoolExecutor(**given)
    standard: concurrent.futures.Executor = ProcessPoolExecutor(2)
    standard.submit(half, 1)


def calls(executor: ProcessPoolExecutor) -> None:
    assert_type(executor.submit(half, 1), concurrent.futures.Future[float])
    assert_type(executor.submit(half, 1).result(timeout=1), float)
    assert_type(executor.submit(label, 1, text="a").result(), bytes)
    assert_type(executor.submit(nothing), concurrent.futures.Future[None])
    assert_type(executor.with_options(task_timeout=1, retries=1).submit(half, 1).result(), float)
    concurrent.futures.wait([executor.submit(half, 1)])


def many_calls(executor: ProcessPoolExecutor) -> None:
    assert_type(executor.map(half, [1, 2]), Iterator[float])
    assert_type(executor.map(half, [1, 2], progress=True), Iterator[float])
    assert_type(executor.map(label, range(3), "abc", chunksize=2), Iterator[bytes])
    assert_type(executor.map(four, [1], "a", [b""], [1.0], timeout=1, buffersize=3), Iterator[str])
    for result in executor.map(lambda x, y, z: x + y + z, [1], [2], [3]):
        assert_type(result, int)


def the_end(executor: ProcessPoolExecutor) -> None:
    executor.shutdown(False, cancel_futures=True)
    executor.terminate_workers()
    executor.kill_workers()
    assert_type(executor.stats(), PoolStats)
    assert_type(executor.stats().table(), str)
    assert_type(executor.stats().outstanding, int)
    assert_type(executor.stats().peak_rss_by_pid, Mapping[int, int])
