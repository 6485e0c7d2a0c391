"""Skewed tasks: who gets what, and when."""

from __future__ import annotations

from typing import Any

from .. import tasks
from ..contestants import OURS, PEERS, SERIAL, WORKERS, each
from ..workloads import Workload, mapping

_LIGHT, _HEAVY = 0.001, 0.03
_LIGHTS, _HEAVIES = 190, 10


def _scattered() -> list[float]:
    every = (_LIGHTS + _HEAVIES) // _HEAVIES
    return [_HEAVY if number % every == every // 2 else _LIGHT for number in range(_LIGHTS + _HEAVIES)]


_LAST = [_LIGHT] * _LIGHTS + [_HEAVY] * _HEAVIES
_ORDERS = {"first": _LAST[::-1], "last": _LAST, "scattered": _scattered()}


def _workload(order: str, chunksize: int | None, **options: Any) -> Workload:
    items = _ORDERS[order]
    told = "own chunking" if chunksize is None else f"chunk size {chunksize}"
    return Workload(
        "balance", f"{order}, {told}",
        f"{_LIGHTS} tasks of 1 ms and {_HEAVIES} of 30 ms, heavy {order}, {told}",
        each((SERIAL, *PEERS, *OURS)),
        mapping(tasks.sleep, lambda _: items, lambda items, values: values == items, chunksize=chunksize),
        ideal=max(*items, sum(items) / WORKERS), rounds=4, quick_rounds=2, warmups=0, **options,
    )  # fmt: skip


WORKLOADS = (
    _workload("first", None),
    _workload("last", None),
    _workload("scattered", None, quick=False),
    _workload("last", 1, quick=False),
)
