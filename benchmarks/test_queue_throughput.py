"""Queues and pipes beside multiprocessing's: one process writes and one reads, in the same run.

    make bench ARGS=benchmarks/test_queue_throughput.py

A round starts a writer and reads all that it has put; the figures are per round, and `per item` in the
extra columns is the least of them over the number of items, in microseconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parallelkit.connection import Pipe
from parallelkit.queues import Queue

CONTEXT = multiprocessing.get_context("fork")
QUEUES: dict[str, Callable[[], Any]] = {"multiprocessing": CONTEXT.Queue, "parallelkit": Queue}
PIPES: dict[str, Callable[[], Any]] = {"multiprocessing": CONTEXT.Pipe, "parallelkit": Pipe}
ITEMS: dict[str, tuple[object, int]] = {
    "small tuples": ((1, "abc", 2.0), 40_000),
    "dicts": ({"number": 1, "name": "abc", "values": [1.0, 2.0]}, 20_000),
    "bytes of 1 MB": (bytes(1 << 20), 300),
    "arrays of 1 MB": (np.zeros(1 << 17), 300),
}


def _put(queue: Any, item: object, number: int) -> None:
    for _ in range(number):
        queue.put(item)


def _read_all(make: Callable[[], Any], item: object, number: int) -> None:
    queue = make()
    writer = CONTEXT.Process(target=_put, args=(queue, item, number))
    writer.start()
    for _ in range(number):
        queue.get()
    writer.join()
    writer.close()


@pytest.mark.parametrize("library", QUEUES)
@pytest.mark.parametrize("what", ITEMS)
def test_queue(benchmark: Any, library: str, what: str) -> None:
    benchmark.group = f"queue, {what}"
    item, number = ITEMS[what]
    benchmark.pedantic(_read_all, args=(QUEUES[library], item, number), rounds=5, warmup_rounds=1)
    benchmark.extra_info["per item"] = benchmark.stats.stats.min / number * 1e6


def _echo(connection: Any) -> None:
    while (item := connection.recv()) is not None:
        connection.send(item)


def _exchange(connection: Any, item: object, number: int) -> None:
    for _ in range(number):
        connection.send(item)
        connection.recv()


@pytest.mark.parametrize("library", PIPES)
@pytest.mark.parametrize(("what", "number"), [("small tuples", 3000), ("arrays of 1 MB", 100)])
def test_pipe_round_trip(benchmark: Any, library: str, what: str, number: int) -> None:
    benchmark.group = f"pipe there and back, {what}"
    mine, theirs = PIPES[library]()
    with mine, theirs:
        other = CONTEXT.Process(target=_echo, args=(theirs,))
        other.start()
        benchmark.pedantic(_exchange, args=(mine, ITEMS[what][0], number), rounds=5, warmup_rounds=1)
        mine.send(None)
        other.join()
        other.close()
    benchmark.extra_info["per item"] = benchmark.stats.stats.min / number * 1e6
