"""pymoo: `StarmapParallelization(pool.starmap)` runs the evaluations of a problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clienttasks import Task, Witness, sphere
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize
from pymoo.parallelization import StarmapParallelization

import parallelkit
from parallelkit import Pool


class SphereProblem(ElementwiseProblem):  # type: ignore[misc]
    def __init__(self, task: Task | None = None, **options: Any) -> None:
        super().__init__(n_var=3, n_obj=1, xl=-5.0, xu=5.0, **options)
        self.task = task

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if self.task is not None:
            self.task.begin()
        out["F"] = sphere(x)


def solve(problem: SphereProblem) -> Any:
    return minimize(problem, GA(pop_size=20), ("n_gen", 15), seed=1, verbose=False)


def parallel(pool: Pool, task: Task) -> Any:
    return solve(SphereProblem(task, elementwise_runner=StarmapParallelization(pool.starmap)))


def test_the_solution_is_that_of_one_process(start_method: str, witness: Witness) -> None:
    with Pool(2, start_method=start_method) as pool:
        found = parallel(pool, Task(witness))
    alone = solve(SphereProblem())
    assert np.array_equal(found.X, alone.X)
    assert found.F[0] == alone.F[0] < 0.5


def test_the_death_of_a_worker_is_told(witness: Witness) -> None:
    with Pool(2) as pool, pytest.raises(parallelkit.WorkerDiedError):
        parallel(pool, Task(witness, "kill"))


def test_a_death_is_made_good_by_a_retry(witness: Witness) -> None:
    with Pool(2, retries=1) as pool:
        found = parallel(pool, Task(witness, "kill"))
    assert np.array_equal(found.X, solve(SphereProblem()).X)
