"""DEAP: `toolbox.register("map", pool.map)`."""

from __future__ import annotations

import random
from typing import Any

import pytest
from clienttasks import Task, Witness, sphere
from deap import algorithms, base, creator, tools

import parallelkit
from parallelkit import Pool, ProcessPoolExecutor

# At the top of the module, where a fresh worker finds them, too.
creator.create("Least", base.Fitness, weights=(-1.0,))
creator.create("Individual", list, fitness=creator.Least)


class Cost(Task):
    def __call__(self, individual: Any) -> tuple[float]:
        self.begin()
        return (sphere(individual),)


def evolve(cost: Any, mapping: Any = map) -> Any:
    random.seed(5)
    toolbox = base.Toolbox()
    toolbox.register("number", random.uniform, -5, 5)
    toolbox.register("individual", tools.initRepeat, creator.Individual, toolbox.number, n=3)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", cost)
    toolbox.register("mate", tools.cxBlend, alpha=0.5)
    toolbox.register("mutate", tools.mutGaussian, mu=0, sigma=1, indpb=0.2)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("map", mapping)
    best = tools.HallOfFame(1)
    algorithms.eaSimple(toolbox.population(n=30), toolbox, 0.5, 0.2, 15, halloffame=best, verbose=False)
    return best[0]


def alone(individual: Any) -> tuple[float]:
    return (sphere(individual),)


def test_the_evolution_is_that_of_one_process(start_method: str, witness: Witness) -> None:
    with Pool(2, start_method=start_method) as pool:
        best = evolve(Cost(witness), pool.map)
    assert list(best) == list(evolve(alone))
    assert best.fitness.values[0] < 0.5


def test_an_executor(witness: Witness) -> None:
    with ProcessPoolExecutor(2) as executor:
        assert list(evolve(Cost(witness), executor.map)) == list(evolve(alone))


def test_the_death_of_a_worker_is_told_and_the_pool_goes_on(witness: Witness) -> None:
    cost = Cost(witness, "kill")
    with Pool(2) as pool:
        with pytest.raises(parallelkit.WorkerDiedError, match="item"):
            evolve(cost, pool.map)
        assert list(evolve(cost, pool.map)) == list(evolve(alone))


def test_a_death_is_made_good_by_a_retry(witness: Witness) -> None:
    with Pool(2, retries=1) as pool:
        assert list(evolve(Cost(witness, "kill"), pool.map)) == list(evolve(alone))
