"""The workloads, a module a group, in the order of the page."""

from __future__ import annotations

from ..workloads import Workload
from . import balance, dispatch, document, faults, payload, round_trip, scale, start, stream

WORKLOADS: tuple[Workload, ...] = tuple(
    workload
    for group in (document, dispatch, round_trip, start, payload, balance, stream, faults, scale)
    for workload in group.WORKLOADS
)


def named(identifier: str) -> Workload:
    """The workload with this id."""
    return next(workload for workload in WORKLOADS if workload.id == identifier)
