"""`Pool.stats` and `ProcessPoolExecutor.stats`: each number is at least what was done, and none falls."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import pickle
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tasks

import parallelkit
from parallelkit import Pool, PoolStats, ProcessPoolExecutor
from parallelkit.engines.usage import KEPT, Usage, Use

Options = dict[str, Any]

MEGABYTE = 1 << 20
_GAUGES = ("workers", "peak_rss_by_pid")


def _counters(stats: PoolStats) -> dict[str, float]:
    return {
        entry.name: getattr(stats, entry.name)
        for entry in dataclasses.fields(stats)
        if entry.name not in _GAUGES
    }


def _check_not_less(before: PoolStats, after: PoolStats) -> None:
    older, newer = _counters(before), _counters(after)
    assert not {name for name in older if newer[name] < older[name]}, (before, after)


def test_what_became_of_tasks_and_workers(engine: Options) -> None:
    began = time.monotonic()
    with Pool(2, **engine) as pool:
        before = pool.stats()
        pool.map(tasks.sleep, [0.1] * 3)
        with pytest.raises(ValueError, match="raised"):
            pool.apply(tasks.happen, ("raise",))
        pool.apply_async(tasks.square, (2,)).get()
        stats = pool.stats()
    after = pool.stats()
    elapsed = time.monotonic() - began
    assert (stats.handed_in, stats.done, stats.failed, stats.retried, stats.dropped) == (5, 4, 1, 0, 0)
    assert stats.outstanding == 0
    most = 1 if engine["engine"] == "serial" else 2
    assert (stats.workers, stats.started, stats.lost) == (most, most, 0)
    assert (after.workers, after.started, after.lost) == (0, most, 0)
    # Time is read on one clock in all processes; what is added up has the last digit of a float to lose.
    assert stats.busy_seconds >= 0.3 - 1e-6
    assert stats.busy_seconds + stats.waiting_seconds <= most * elapsed
    if engine["engine"] == "processes":
        assert min(stats.bytes_in, stats.bytes_out, stats.peak_rss) > 0
        assert len(stats.peak_rss_by_pid) == 2
        assert after.peak_rss_by_pid.keys() == stats.peak_rss_by_pid.keys()
    else:
        assert (stats.bytes_in, stats.bytes_out, stats.peak_rss, dict(stats.peak_rss_by_pid)) == (0, 0, 0, {})
    _check_not_less(before, stats)
    _check_not_less(stats, after)


def test_a_task_under_way_counts(engine: Options) -> None:
    with Pool(1, **engine) as pool:
        result = pool.apply_async(tasks.sleep, (0.2,))
        seen = [pool.stats()]
        while not seen[-1].busy_seconds:
            seen.append(pool.stats())
        while not result.ready():
            seen.append(pool.stats())
            time.sleep(0.01)
        assert result.get() == 0.2
        done = pool.stats()
    growing = {stats.busy_seconds for stats in seen if stats.outstanding}
    assert len(growing) > 2, "nothing of it was counted before its end"
    assert done.outstanding == 0
    assert done.busy_seconds >= 0.2 - 1e-6
    for before, after in itertools.pairwise(seen):
        _check_not_less(before, after)


@pytest.mark.parametrize("engine", ["processes", "threads"])
def test_a_worker_without_work_waits(engine: str) -> None:
    with Pool(1, engine=engine) as pool:
        while pool.stats().waiting_seconds < 0.05:
            time.sleep(0.01)
        assert pool.stats().busy_seconds == 0
        pool.apply(tasks.square, (1,))
        assert pool.stats().busy_seconds > 0


def test_a_death_and_another_try(start_method: str, tmp_path: Path) -> None:
    with Pool(1, start_method=start_method, retries=1) as pool:
        assert pool.apply(tasks.kill_first, (str(tmp_path),)) == "survived"
        stats = pool.stats()
    assert (stats.started, stats.lost, stats.retried, stats.done, stats.failed) == (2, 1, 1, 1, 0)


def test_bytes_are_at_least_those_of_the_payload(start_method: str) -> None:
    small, large = b"x" * 1000, bytearray(MEGABYTE)
    with Pool(1, start_method=start_method) as pool:
        pool.map(tasks.square, range(2))
        before = pool.stats()
        pool.apply(tasks.echo, (small,))
        between = pool.stats()
        pool.apply(tasks.echo, (pickle.PickleBuffer(large),))
        after = pool.stats()
    for older, newer, size in ((before, between, len(small)), (between, after, len(large))):
        assert size <= newer.bytes_in - older.bytes_in <= size + 1000
        assert size <= newer.bytes_out - older.bytes_out <= size + 1000


def test_the_peak_of_each_worker(start_method: str) -> None:
    size = 64 * MEGABYTE
    with Pool(1, start_method=start_method) as pool:
        small = pool.apply(tasks.pid)
        first = pool.stats()
        assert first.peak_rss_by_pid == {small: first.peak_rss}
        pool.apply(tasks.hold, (size,))
        stats = pool.stats()
        assert stats.peak_rss_by_pid == {small: stats.peak_rss}
        assert stats.peak_rss >= size
    after = pool.stats()
    assert after.peak_rss_by_pid == {small: after.peak_rss}
    assert after.peak_rss >= stats.peak_rss


def test_the_peak_of_workers_that_nobody_had_looked_at(start_method: str) -> None:
    size = 64 * MEGABYTE
    with Pool(1, maxtasksperchild=1, start_method=start_method) as pool:
        pool.apply(tasks.hold, (size,))
        with pytest.raises(parallelkit.TaskTimeoutError):
            pool.apply(tasks.sleep, (60,), task_timeout=0.3)
    stats = pool.stats()
    assert stats.peak_rss >= size
    assert stats.busy_seconds >= 0.3 - 1e-6, "the time of the task that was ended is missing"
    # One ended as its tasks were done, the next was killed; a third may have been started.
    assert len(stats.peak_rss_by_pid) == stats.started >= 2


def test_what_is_dropped() -> None:
    with Pool(1) as pool:
        with pytest.raises(parallelkit.CallTimeoutError):
            pool.map(tasks.sleep, [0, 60, 60], timeout=0.2)
        cut = pool.stats()
        assert cut.handed_in == 3 == cut.done + cut.dropped
        assert cut.dropped >= 2
        cancelled = pool.apply_async(tasks.sleep, (60,))
        cancelled.cancel()
        with pytest.raises(parallelkit.ClosedError):
            cancelled.get()
        ended = pool.apply_async(tasks.sleep, (60,))
        assert pool.stats().outstanding == 1
        pool.terminate()
        with pytest.raises(parallelkit.ClosedError):
            ended.get()
    stats = pool.stats()
    assert (stats.handed_in, stats.dropped, stats.outstanding) == (5, cut.dropped + 2, 0)
    assert (stats.workers, stats.lost) == (0, 0)


def test_from_any_thread_at_any_time() -> None:
    over = threading.Event()

    def watch(pool: Pool) -> list[PoolStats]:
        seen = [pool.stats()]
        while not over.is_set():
            seen.append(pool.stats())
        return [*seen, pool.stats()]

    with concurrent.futures.ThreadPoolExecutor(2) as threads, Pool(2, maxtasksperchild=100) as pool:
        watchers = [threads.submit(watch, pool) for _ in range(2)]
        try:
            for _ in range(2):
                pool.map(tasks.square, range(300))
                pool.map(tasks.sleep, [0.002] * 10)
            pool.terminate()
        finally:
            over.set()
        for watcher in watchers:
            seen = watcher.result()
            assert seen[-1].done == 620
            for before, after in itertools.pairwise(seen):
                _check_not_less(before, after)
                assert after.outstanding >= 0


def test_an_executor_and_what_with_options_makes_of_it_count_together() -> None:
    with ProcessPoolExecutor(1) as executor:
        executor.submit(tasks.square, 1).result()
        other = executor.with_options(retries=1)
        other.submit(tasks.square, 2).result()
        assert executor.stats().done == other.stats().done == 2
    assert executor.stats().workers == 0
    assert executor.stats().outstanding == 0


def test_without_a_descriptor_to_spare() -> None:
    with Pool(1) as pool:
        pool.apply(tasks.square, (1,))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            stats = pool.stats()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (stats.done, stats.peak_rss) == (1, 0)
        assert pool.apply(tasks.square, (2,)) == 4
    assert pool.stats().peak_rss > 0


def test_a_callback_may_ask() -> None:
    asked: list[PoolStats] = []
    with Pool(1) as pool:
        pool.apply_async(tasks.square, (1,), callback=lambda _: asked.append(pool.stats())).get()
    assert asked[0].done == 1


def test_they_are_values() -> None:
    with Pool(1) as pool:
        pool.map(tasks.square, range(3))
        stats = pool.stats()
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert hash(dataclasses.replace(stats)) == hash(stats)
    assert dataclasses.asdict(stats)["done"] == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.done = 4  # type: ignore[misc]
    lines = stats.table().splitlines()
    assert len({len(line) for line in lines}) == 1, "the columns are not aligned"
    assert lines[0].split() == ["tasks", "done", "3"]


def test_peaks_of_workers_that_are_gone_do_not_pile_up() -> None:
    gone = Usage()
    for pid in range(1, KEPT + 11):
        gone.bury(Use(pid=pid, busy=1.0, peak=2 * KEPT - pid))
    total = gone.with_living([Use(pid=5000, busy=0.5, peak=7)])
    assert total.busy == KEPT + 10.5
    assert total.peak == 2 * KEPT - 1, "the highest of all, though it is not kept"
    assert list(total.peaks) == [*range(11, KEPT + 11), 5000]
    assert 5000 not in gone.peaks


def test_a_number_that_is_given_again_is_the_later_worker() -> None:
    gone = Usage()
    gone.bury(Use(pid=7, peak=100))
    gone.bury(Use(pid=8, peak=50))
    gone.bury(Use(pid=7, peak=30))
    assert gone.peaks == {8: 50, 7: 30}
    assert gone.peak == 100
