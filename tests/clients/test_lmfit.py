"""lmfit: `Minimizer.emcee(workers=pool)`, and `workers=` of its methods that are scipy's."""

from __future__ import annotations

from typing import Any

import lmfit
import numpy as np
import pytest
from clienttasks import Task, Witness

import parallelkit
from parallelkit import Pool

TIMES = np.linspace(0, 4, 30)
DATA = 3 * np.exp(-TIMES / 1.5) + 0.05 * np.random.RandomState(3).normal(size=TIMES.size)


class Residual(Task):
    def __call__(self, params: Any) -> Any:
        self.begin()
        return residual(params)


def residual(params: Any) -> Any:
    values = params.valuesdict()
    return (values["height"] * np.exp(-TIMES / values["decay"]) - DATA) / 0.05


def minimizer(function: Any) -> Any:
    params = lmfit.Parameters()
    params.add("height", 2.5, min=1, max=6)
    params.add("decay", 1.2, min=0.5, max=4)
    return lmfit.Minimizer(function, params)


def walk(function: Any, workers: Any = 1) -> Any:
    return minimizer(function).emcee(
        steps=40, nwalkers=10, burn=10, seed=4, workers=workers, progress=False, is_weighted=True
    )


def test_emcee(start_method: str, witness: Witness) -> None:
    witness.parent_works_too = True  # see test_emcee: the sampler is a part of the minimizer
    with Pool(2, start_method=start_method) as pool:
        found = walk(Residual(witness), pool)
    assert np.array_equal(found.chain, walk(residual).chain)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "differential_evolution", "seed": 3, "updating": "deferred", "popsize": 5, "tol": 0.5},
        {"method": "brute", "Ns": 8},
    ],
)
def test_a_method_of_scipy(options: dict[str, Any], witness: Witness) -> None:
    """The function must be one that can be pickled, as lmfit keeps it: the method of no pool is."""
    witness.parent_works_too = True
    found = minimizer(Residual(witness)).minimize(workers=parallelkit.pool_map, **options)
    alone = minimizer(residual).minimize(**options)
    assert found.params.valuesdict() == alone.params.valuesdict()
    assert found.params["decay"].value == pytest.approx(1.5, abs=0.4)


def test_the_method_of_a_pool_is_refused_and_the_error_says_why() -> None:
    with Pool(2) as pool, pytest.raises(parallelkit.SerializationError, match="a pool cannot be sent"):
        minimizer(residual).minimize(method="brute", Ns=8, workers=pool.map)


def test_the_death_of_a_worker_is_told(witness: Witness) -> None:
    witness.parent_works_too = True
    with Pool(2) as pool, pytest.raises(parallelkit.WorkerDiedError):
        walk(Residual(witness, "kill"), pool)
