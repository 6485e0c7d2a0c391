"""adaptive: a runner takes an executor, waits for its futures and cancels what is left."""

from __future__ import annotations

import asyncio
from typing import Any

import adaptive
import numpy as np
import pytest
from clienttasks import Task, Witness

import parallelkit
from parallelkit import ProcessPoolExecutor


class Peak(Task):
    def __call__(self, x: float) -> float:
        self.begin()
        return peak(x)


def peak(x: float) -> float:
    return x + 0.01 / (0.01 + x * x)


def learner(function: Any) -> Any:
    return adaptive.Learner1D(function, bounds=(-1, 1))


def check(found: Any) -> None:
    assert len(found.data) >= 30
    assert all(value == peak(x) for x, value in found.data.items())
    # More points where there is more to see.
    points = np.array(sorted(found.data))
    assert np.sum(np.abs(points) < 0.5) > np.sum(np.abs(points) >= 0.5)


def test_blocking_runner(start_method: str, witness: Witness) -> None:
    with ProcessPoolExecutor(2, start_method=start_method) as executor:
        found = learner(Peak(witness))
        adaptive.BlockingRunner(found, npoints_goal=30, executor=executor)
    check(found)


def test_a_subclass_of_the_executor(witness: Witness) -> None:
    with Own(2) as executor:
        found = learner(Peak(witness))
        adaptive.BlockingRunner(found, npoints_goal=30, executor=executor)
    check(found)


class Own(ProcessPoolExecutor):
    pass


def test_runner_of_asyncio(witness: Witness) -> None:
    found = learner(Peak(witness))

    async def run() -> None:
        with ProcessPoolExecutor(2) as executor:
            await adaptive.Runner(found, npoints_goal=30, executor=executor).task

    asyncio.run(run())
    check(found)


def test_the_runner_may_shut_the_executor_down(witness: Witness) -> None:
    executor = ProcessPoolExecutor(2)
    found = learner(Peak(witness))
    adaptive.BlockingRunner(found, npoints_goal=30, executor=executor, shutdown_executor=True)
    check(found)
    with pytest.raises(RuntimeError):
        executor.submit(peak, 0.0)


def test_the_retries_of_adaptive_make_a_death_good(witness: Witness) -> None:
    """With concurrent.futures the executor is broken, and each retry fails as well."""
    found = learner(Peak(witness, "kill"))
    with ProcessPoolExecutor(2) as executor:
        runner = adaptive.BlockingRunner(found, npoints_goal=30, executor=executor, retries=1)
    check(found)
    assert not runner.failed


def test_a_point_where_the_function_is_stuck_is_tried_again(witness: Witness) -> None:
    found = learner(Peak(witness, "stuck"))
    with ProcessPoolExecutor(2, task_timeout=3) as executor:
        adaptive.BlockingRunner(found, npoints_goal=30, executor=executor, retries=1)
    check(found)


def test_the_death_of_a_worker_is_the_cause_of_the_runners_error(witness: Witness) -> None:
    found = learner(Peak(witness, "kill"))
    with ProcessPoolExecutor(2) as executor, pytest.raises(RuntimeError, match="An error occured") as caught:
        # So many that the other worker does not get there before the death is noticed.
        adaptive.BlockingRunner(found, npoints_goal=100_000, executor=executor)
    assert isinstance(caught.value.__cause__, parallelkit.WorkerDiedError)
