"""More workers, and more items."""

from __future__ import annotations

from typing import Any

from .. import tasks
from ..contestants import (
    FORK,
    FUTURES,
    JOBLIB,
    LOKY,
    MPIRE,
    OUR_EXECUTOR,
    OUR_POOL,
    OURS_WARM,
    PEBBLE,
    PEERS,
    POOL_MAP,
    SERIAL,
    each,
    slow,
)  # fmt: skip
from ..workloads import Workload, mapping
from .dispatch import nones, range_of

_TASK_SECONDS = 0.01
_TASKS_A_WORKER = 20


def _sleepers(workers: int, **options: Any) -> Workload:
    items = [_TASK_SECONDS] * (_TASKS_A_WORKER * workers)
    return Workload(
        "scale", f"{workers} workers", f"{_TASKS_A_WORKER} tasks of 10 ms for each of {workers} workers",
        (*each(PEERS), *each(OURS_WARM)),
        mapping(tasks.sleep, lambda _: items, lambda items, values: values == items, workers=workers),
        ideal=_TASK_SECONDS * _TASKS_A_WORKER, rounds=4, quick_rounds=3, bound=180, **options,
    )  # fmt: skip


def _items(count: int, **options: Any) -> Workload:
    contestants = each((SERIAL, *PEERS, POOL_MAP, OUR_POOL, OUR_EXECUTOR), FORK)
    unchunked = (FUTURES.name, LOKY.name, PEBBLE.name)
    if count >= 100_000:
        contestants = slow(contestants, count // 5000, *unchunked, rounds=1)
    if count >= 1_000_000:
        contestants = slow(contestants, count // 1_000_000, JOBLIB.name, MPIRE.name, rounds=1)
    return Workload(
        "scale", f"{count} items", f"{count:,} no-ops on two workers", contestants,
        mapping(tasks.noop, range_of(count), nones, workers=2), items=count, **options,
    )  # fmt: skip


WORKLOADS = (
    _sleepers(1, quick=False),
    _sleepers(4, quick=False),
    _sleepers(16, quick=False),
    _sleepers(64),
    _items(10),
    _items(1000, quick=False),
    _items(100_000, quick=False),
    _items(10_000_000, rounds=1, warmups=0, quick=False, bound=240),
)
