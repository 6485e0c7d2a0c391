"""scipy: `workers=` wants a function like `map`: the bound method of a pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from clienttasks import Sphere, Task, Witness, sphere

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor

BOUNDS = [(-5.0, 5.0), (-4.0, 6.0)]


def evolve(function: Any, workers: Any = 1) -> Any:
    return scipy.optimize.differential_evolution(
        function, BOUNDS, workers=workers, updating="deferred", seed=7, popsize=5, maxiter=15, polish=False
    )


def test_differential_evolution(start_method: str, witness: Witness) -> None:
    with Pool(2, start_method=start_method) as pool:
        found = evolve(Sphere(witness), pool.map)
    alone = evolve(sphere)
    assert np.array_equal(found.x, alone.x)
    assert (found.fun, found.nfev) == (alone.fun, alone.nfev)


def test_differential_evolution_with_an_executor(witness: Witness) -> None:
    with ProcessPoolExecutor(2) as executor:
        found = evolve(Sphere(witness), executor.map)
    assert np.array_equal(found.x, evolve(sphere).x)


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B"])
def test_minimize(method: str, witness: Witness) -> None:
    """The gradient's differences are worked out in the workers, the function's value at home."""
    witness.parent_works_too = True
    start = np.array([3.0, -2.0, 1.0, 4.0])
    with Pool(2) as pool:
        found = scipy.optimize.minimize(Sphere(witness), start, method=method, options={"workers": pool.map})
    alone = scipy.optimize.minimize(sphere, start, method=method)
    assert np.array_equal(found.x, alone.x)
    assert found.x == pytest.approx(np.zeros(4), abs=1e-4)


class Wave(Task):
    def __call__(self, x: float) -> Any:
        self.begin()
        return np.array([np.sin(x), np.cos(x)])


def test_quad_vec(witness: Witness) -> None:
    witness.parent_works_too = True  # the first look at the function is
    with Pool(2) as pool:
        value, _ = scipy.integrate.quad_vec(Wave(witness), 0, np.pi, workers=pool.map)
    assert value == pytest.approx([2, 0], abs=1e-9)


def test_brute(witness: Witness) -> None:
    with Pool(2) as pool:
        found = scipy.optimize.brute(Sphere(witness), ((-4, 4), (-4, 4)), Ns=9, finish=None, workers=pool.map)
    assert found.tolist() == [0, 0]


def test_the_death_of_a_worker_is_told(witness: Witness) -> None:
    with Pool(2) as pool, pytest.raises(parallelkit.WorkerDiedError):
        evolve(Sphere(witness, "kill"), pool.map)


def test_a_function_that_is_stuck_once_is_run_again(witness: Witness) -> None:
    with Pool(2, task_timeout=3, retries=1) as pool:
        found = evolve(Sphere(witness, "stuck"), pool.map)
        assert pool.stats().retried >= 1
    assert np.array_equal(found.x, evolve(sphere).x)
