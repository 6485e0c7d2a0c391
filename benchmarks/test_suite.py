"""Each contestant at each workload; README.md in this folder says how to read what comes out."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Races
from suite.contestants import Contestant
from suite.groups import WORKLOADS
from suite.replay import recorded_time, replay
from suite.workloads import Workload

_PAIRS = [(workload, contestant) for workload in WORKLOADS for contestant in workload.contestants]


# The first test of a workload runs the rounds of all its contestants.
@pytest.mark.timeout(1800)
@pytest.mark.benchmark(timer=recorded_time)
@pytest.mark.parametrize(
    ("workload", "contestant"),
    _PAIRS,
    ids=[f"{workload.id}-{contestant.id}" for workload, contestant in _PAIRS],
)
def test_suite(
    benchmark: Any,
    races: Races,
    failures: list[dict[str, Any]],
    workload: Workload,
    contestant: Contestant,
) -> None:
    course = races.course(workload, contestant)
    about = workload.described(contestant)
    if course.instead is not None:
        benchmark.skipped = True
        failures.append({**about, "instead": course.instead})
        if contestant.kind == "ours":
            pytest.fail(f"{contestant.id}: {course.instead}")
        pytest.xfail(f"{contestant.id}: {course.instead}")
    benchmark.group = f"{workload.group}: {workload.title}"
    benchmark.extra_info.update(about, extras=course.extras)
    replay(benchmark, course.seconds)
