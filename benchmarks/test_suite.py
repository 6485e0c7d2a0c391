"""The suite; README.md in this folder says how to read the tables."""

from __future__ import annotations

from typing import Any

import pytest
from contestants import FUTURES, PARALLEL, SERIAL, WORKERS, Contestant, Runner
from pytest_benchmark.fixture import BenchmarkFixture
from workloads import ARRAY_LENGTH, ARRAYS, SKEWED, make_array, noop, size_of, sleep

# Pytest's own watchdog is a thread, and from Python 3.12 on each fork beside one warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def measure(benchmark: BenchmarkFixture, *args: Any, **rounds: int) -> Any:
    """`benchmark.pedantic`, which has no types; returns what the last round returned."""
    pedantic: Any = benchmark.pedantic
    return pedantic(*args, **rounds)


def among(*contestants: Contestant) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("contestant", contestants, ids=lambda contestant: contestant.name)


@pytest.mark.benchmark(group="start, map 2 items, stop")
@among(*PARALLEL)
def test_start(benchmark: BenchmarkFixture, contestant: Contestant) -> None:
    def whole_life() -> list[object]:
        with contestant.open() as runner:
            return runner.map(abs, [-1, -2])

    assert measure(benchmark, whole_life, rounds=30, warmup_rounds=2) == [1, 2]


@pytest.mark.benchmark(group="dispatch: map 100,000 no-ops, own chunking")
@among(SERIAL, *PARALLEL)
def test_dispatch(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    count = 100_000
    rounds = 1 if contestant is FUTURES else 10  # which takes about 20 s for one
    values = measure(benchmark, runner.map, (noop, range(count)), rounds=rounds)
    assert values == [None] * count


@pytest.mark.benchmark(group="dispatch: map 20,000 no-ops, chunksize 1")
@among(SERIAL, *PARALLEL)
def test_dispatch_one_by_one(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    count = 20_000
    rounds = 2 if contestant is FUTURES else 5
    values = measure(benchmark, runner.map, (noop, range(count), 1), rounds=rounds)
    assert values == [None] * count


@pytest.mark.benchmark(group="round trip: one call on warm workers")
@among(*(contestant for contestant in PARALLEL if contestant.keeps_workers))
def test_round_trip(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    assert measure(benchmark, runner.call, (abs, -1), rounds=50, iterations=40, warmup_rounds=3) == 1


@pytest.mark.benchmark(group="payload: 16 arrays of 8 MB in")
@among(*PARALLEL)
def test_payload_in(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    arrays = [make_array(number) for number in range(ARRAYS)]
    values = measure(benchmark, runner.map, (size_of, arrays), rounds=4, warmup_rounds=1)
    assert values == [8 * ARRAY_LENGTH] * ARRAYS


@pytest.mark.benchmark(group="payload: 16 arrays of 8 MB out")
@among(*PARALLEL)
def test_payload_out(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    values = measure(benchmark, runner.map, (make_array, range(ARRAYS)), rounds=4, warmup_rounds=1)
    assert [value[-1] for value in values] == list(range(ARRAYS))


@pytest.mark.benchmark(group="skew: 190 tasks of 1 ms, then 10 of 30 ms")
@among(SERIAL, *PARALLEL)
def test_skew(benchmark: BenchmarkFixture, contestant: Contestant, runner: Runner) -> None:
    assert measure(benchmark, runner.map, (sleep, SKEWED), rounds=4) == SKEWED
    workers = 1 if contestant is SERIAL else WORKERS
    benchmark.extra_info["seconds at best"] = max(max(SKEWED), sum(SKEWED) / workers)
