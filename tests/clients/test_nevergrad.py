"""nevergrad: `optimizer.minimize(..., executor=...)` submits to an executor and asks its futures."""

from __future__ import annotations

from typing import Any

import nevergrad
import pytest
from clienttasks import Sphere, Witness, sphere

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor


def optimizer(budget: int = 150) -> Any:
    found = nevergrad.optimizers.OnePlusOne(parametrization=2, budget=budget, num_workers=2)
    found.parametrization.random_state.seed(12)
    return found


@pytest.mark.parametrize("batch_mode", [True, False])
def test_minimize(batch_mode: bool, start_method: str, witness: Witness) -> None:
    with ProcessPoolExecutor(2, start_method=start_method) as executor:
        found = optimizer().minimize(Sphere(witness), executor=executor, batch_mode=batch_mode)
    assert sphere(found.value) < 0.1


def test_a_pool_submits_too(witness: Witness) -> None:
    with Pool(2) as pool:
        found = optimizer().minimize(Sphere(witness), executor=pool, batch_mode=True)
    assert sphere(found.value) < 0.1


def test_the_optimization_goes_on_behind_a_death(witness: Witness) -> None:
    """With concurrent.futures the executor is broken then, and all that it has."""
    cost, best = Sphere(witness, "kill"), optimizer()
    with ProcessPoolExecutor(2) as executor:
        with pytest.raises(parallelkit.WorkerDiedError):
            best.minimize(cost, executor=executor)
        # As nevergrad's documentation has it, what is left of the budget is used by the next call; the job
        # that failed is in its hands.
        best._finished_jobs.clear()
        found = best.minimize(cost, executor=executor)
    assert sphere(found.value) < 0.1


def test_a_death_is_made_good_by_a_retry(witness: Witness) -> None:
    with ProcessPoolExecutor(2, retries=1) as executor:
        found = optimizer().minimize(Sphere(witness, "kill"), executor=executor)
    assert sphere(found.value) < 0.1
