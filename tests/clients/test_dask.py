"""dask: its local schedulers take an executor, or a pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import dask.array
import dask.bag
import numpy as np
import pytest
from clienttasks import Task, Witness

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor


class Double(Task):
    def __call__(self, x: int) -> int:
        self.begin()
        return 2 * x


@pytest.fixture(params=[Pool, ProcessPoolExecutor])
def workers(request: pytest.FixtureRequest) -> Any:
    """dask takes both."""
    return request.param


@pytest.fixture
def pool(workers: Any) -> Iterator[Any]:
    with workers(2) as pool, dask.config.set(pool=pool, scheduler="processes"):
        yield pool


def test_delayed(workers: Any, start_method: str, witness: Witness) -> None:
    double = dask.delayed(Double(witness))
    total = dask.delayed(sum)([double(x) for x in range(20)])
    with workers(2, start_method=start_method) as pool:
        assert total.compute(scheduler="processes", pool=pool, optimize_graph=False) == 380


def test_bag(pool: Any, witness: Witness) -> None:
    bag = dask.bag.from_sequence(range(100), npartitions=7)
    assert bag.map(Double(witness)).filter(_large).sum().compute() == sum(2 * x for x in range(100) if x > 50)


def test_array(pool: Any, witness: Witness) -> None:
    array = dask.array.arange(400, chunks=50)
    meta = np.array((), dtype=array.dtype)  # or dask would try the function on nothing here, to see its type
    noted = array.map_blocks(Double(witness), meta=meta)
    assert (noted + 1).sum().compute() == 400 * 399 + 400


def test_lambdas(pool: Any, witness: Witness) -> None:
    """dask pickles its tasks itself, with cloudpickle."""
    double = Double(witness)
    bag = dask.bag.from_sequence(range(10), npartitions=3).map(lambda x: double(x) + 1)
    assert bag.compute() == [2 * x + 1 for x in range(10)]


def test_an_executor_as_the_scheduler(witness: Witness) -> None:
    double = dask.delayed(Double(witness))
    with ProcessPoolExecutor(2) as executor:
        values = dask.compute([double(x) for x in range(20)], scheduler=executor)
    assert values == ([2 * x for x in range(20)],)


def test_a_pool_of_threads_is_taken_too() -> None:
    double = dask.delayed(abs)
    with Pool(2, engine="threads") as pool:
        values = dask.compute([double(-x) for x in range(20)], scheduler="threads", pool=pool)
    assert values == (list(range(20)),)


def test_the_exception_of_a_task(pool: Any, witness: Witness) -> None:
    broken = dask.delayed(Double(witness, "raise"))(3)
    with pytest.raises(ZeroDivisionError, match="no value here"):
        broken.compute()


def test_the_death_of_a_worker_costs_one_computation(pool: Any, witness: Witness) -> None:
    """With multiprocessing.Pool this waits for ever; with concurrent.futures the executor is lost."""
    double = dask.delayed(Double(witness, "kill"))
    values = [double(x) for x in range(20)]
    with pytest.raises(parallelkit.WorkerDiedError):
        dask.compute(values)
    assert dask.compute(values) == ([2 * x for x in range(20)],)


def test_a_death_is_made_good_by_a_retry(workers: Any, witness: Witness) -> None:
    double = dask.delayed(Double(witness, "kill"))
    with workers(2, retries=1) as pool:
        values = dask.compute([double(x) for x in range(20)], scheduler="processes", pool=pool)
    assert values == ([2 * x for x in range(20)],)


def _large(x: int) -> bool:
    return x > 100
