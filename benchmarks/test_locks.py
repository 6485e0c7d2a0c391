"""What a lock costs, beside `multiprocessing`'s: alone, and with four processes that want it."""

from __future__ import annotations

import mmap
import multiprocessing
import struct
from typing import Any

import pytest

from parallelkit import synchronize

_FORK: Any = multiprocessing.get_context("fork")
_PROCESSES = 4
_TIMES = 20_000


@pytest.fixture(params=["multiprocessing", "parallelkit"])
def kit(request: pytest.FixtureRequest) -> Any:
    return _FORK if request.param == "multiprocessing" else synchronize


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_acquire_and_release(benchmark: Any, kit: Any, kind: str) -> None:
    lock = getattr(kit, kind)()
    acquire, release = lock.acquire, lock.release

    def pairs() -> None:
        for _ in range(1000):
            acquire()
            release()

    benchmark.group = f"{kind}: 1000 acquire, release"
    benchmark(pairs)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_with(benchmark: Any, kit: Any, kind: str) -> None:
    lock = getattr(kit, kind)()

    def blocks() -> None:
        for _ in range(1000):
            with lock:
                pass

    benchmark.group = f"{kind}: 1000 with"
    benchmark(blocks)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_contended(benchmark: Any, kit: Any, kind: str) -> None:
    lock = getattr(kit, kind)()
    memory = mmap.mmap(-1, 8)

    def increment() -> None:
        for _ in range(_TIMES):
            with lock:
                struct.pack_into("q", memory, 0, struct.unpack_from("q", memory)[0] + 1)

    def together() -> None:
        struct.pack_into("q", memory, 0, 0)
        processes = [_FORK.Process(target=increment) for _ in range(_PROCESSES)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert struct.unpack_from("q", memory)[0] == _PROCESSES * _TIMES

    benchmark.group = f"{kind}: {_PROCESSES} processes, {_TIMES} increments each"
    benchmark.pedantic(together, rounds=5)


def test_create(benchmark: Any, kit: Any) -> None:
    benchmark.group = "create a Lock"
    benchmark(kit.Lock)
