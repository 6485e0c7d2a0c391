"""emcee: `EnsembleSampler(pool=...)` wants an object with `map`."""

from __future__ import annotations

from typing import Any

import emcee
import numpy as np
import pytest
from clienttasks import Gauss, Witness

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor

WALKERS, DIMENSIONS = 8, 2


def sample(density: Any, pool: Any = None, steps: int = 60) -> Any:
    random = np.random.RandomState(42)
    sampler = emcee.EnsembleSampler(WALKERS, DIMENSIONS, density, pool=pool)
    sampler.random_state = random.get_state()
    sampler.run_mcmc(random.normal(size=(WALKERS, DIMENSIONS)), steps)
    return sampler


def serial(x: Any) -> float:
    return -0.5 * float(np.sum(np.square(x)))


def test_the_chain_is_that_of_one_process(start_method: str, witness: Witness) -> None:
    with Pool(2, start_method=start_method) as pool:
        chain = sample(Gauss(witness), pool).get_chain()
    assert np.array_equal(chain, sample(serial).get_chain())


def test_an_executor_has_a_map_too(witness: Witness) -> None:
    with ProcessPoolExecutor(2) as executor:
        chain = sample(Gauss(witness), executor).get_chain()
    assert np.array_equal(chain, sample(serial).get_chain())


def test_a_sampler_that_is_part_of_what_is_pickled(witness: Witness) -> None:
    """A method as the density: the sampler goes along, without its pool, which cannot.

    emcee 3.1 takes the pool out of the sampler at home, too, and goes on without it.
    """
    witness.parent_works_too = True
    with Pool(2) as pool:
        model = Model(witness, pool)
        chain = model.sampler.run_mcmc(np.random.RandomState(1).normal(size=(WALKERS, DIMENSIONS)), 5)
    assert chain.coords.shape == (WALKERS, DIMENSIONS)


class Model:
    def __init__(self, witness: Witness, pool: Pool) -> None:
        self.density = Gauss(witness)
        self.sampler = emcee.EnsembleSampler(WALKERS, DIMENSIONS, self.log_probability, pool=pool)

    def log_probability(self, x: Any) -> float:
        return self.density(x)


def test_the_death_of_a_worker_is_told_and_the_pool_goes_on(witness: Witness) -> None:
    """With multiprocessing.Pool the run waits for ever."""
    density = Gauss(witness, "kill")
    with Pool(2) as pool:
        with pytest.raises(parallelkit.WorkerDiedError) as caught:
            sample(density, pool)
        assert caught.value.started
        assert np.array_equal(sample(density, pool).get_chain(), sample(serial).get_chain())


def test_a_death_in_the_middle_of_a_run_is_made_good_by_a_retry(witness: Witness) -> None:
    with Pool(2, retries=1) as pool:
        chain = sample(Gauss(witness, "kill"), pool).get_chain()
        assert pool.stats().retried == 1
    assert np.array_equal(chain, sample(serial).get_chain())


def test_a_density_that_is_stuck_is_ended(witness: Witness) -> None:
    with Pool(2, task_timeout=0.5) as pool, pytest.raises(parallelkit.TaskTimeoutError):
        sample(Gauss(witness, "stuck"), pool)
