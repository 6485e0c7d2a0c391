"""dynesty: `pool=` wants `map`, and the number of workers in `_processes` or `size`, or by `queue_size=`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dynesty
import numpy as np
import pytest
from clienttasks import Gauss, Witness, unit_to_box

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor

#: The logarithm of the integral of the density over the box of 10 by 10: of 2 pi / 100.
EVIDENCE = np.log(2 * np.pi / 100)


def nested(density: Any, pool: Any = None, kind: Any = dynesty.NestedSampler, **options: Any) -> Any:
    options = {"nlive": 40, "bound": "single", "sample": "unif", **options}
    return kind(density, unit_to_box, 2, pool=pool, rstate=np.random.default_rng(3), **options)


def run(sampler: Any, **options: Any) -> Any:
    sampler.run_nested(print_progress=False, **options)
    return sampler.results


def check(results: Any) -> None:
    assert results.logz[-1] == pytest.approx(EVIDENCE, abs=6 * results.logzerr[-1])


def test_the_evidence(start_method: str, witness: Witness) -> None:
    with Pool(2, start_method=start_method) as pool:
        sampler = nested(Gauss(witness), pool)
        results = run(sampler, dlogz=0.5)
    assert sampler.queue_size == 2  # found in the pool
    check(results)


def test_the_dynamic_sampler(witness: Witness) -> None:
    with Pool(2) as pool:
        results = run(nested(Gauss(witness), pool, dynesty.DynamicNestedSampler), maxbatch=1, dlogz_init=0.5)
    check(results)


def test_an_executor_with_a_queue_size(witness: Witness) -> None:
    with ProcessPoolExecutor(2) as executor:
        results = run(nested(Gauss(witness), executor, queue_size=8), dlogz=0.5)
    check(results)


def test_the_pool_stays_at_home_when_a_sampler_is_saved(witness: Witness, tmp_path: Path) -> None:
    file = str(tmp_path / "sampler.pickle")
    with Pool(2) as pool:
        sampler = nested(Gauss(witness), pool)
        with pytest.warns(UserWarning, match="stopped short"):
            run(sampler, maxiter=50, add_live=False)
        sampler.save(file)
        restored = dynesty.NestedSampler.restore(file, pool=pool)
        restored.run_nested(resume=True, print_progress=False, dlogz=0.5)
    check(restored.results)


def test_the_death_of_a_worker_is_told(witness: Witness) -> None:
    """With multiprocessing.Pool the run waits for ever."""
    with Pool(2) as pool, pytest.raises(parallelkit.WorkerDiedError):
        run(nested(Gauss(witness, "kill"), pool))


def test_a_death_is_made_good_by_a_retry(witness: Witness) -> None:
    with Pool(2, retries=1) as pool:
        results = run(nested(Gauss(witness, "kill"), pool), dlogz=0.5)
        assert pool.stats().retried == 1
    check(results)
