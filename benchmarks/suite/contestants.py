"""Who is measured."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import parallelkit

from . import ours, peers
from .peers import Runner

#: All get as many, and at least two: with one worker there is nothing to distribute.
WORKERS = max(2, parallelkit.available_cpus())

#: With the number of workers and the start method; some take more.
Open = Callable[..., contextlib.AbstractContextManager[Runner]]

FORK, FORKSERVER, SPAWN = "fork", "forkserver", "spawn"
_BOTH = (FORK, FORKSERVER)
_ALL_METHODS = (FORK, FORKSERVER, SPAWN)


@dataclass(frozen=True)
class Contestant:
    """One of those who are measured, with one start method.

    kind: "ours", "peer", "serial" (one after the other in one process), or "limit": what the machine
    itself needs, below which nobody can get. method: the start method, or what it has in place of one;
    "" where there is none. keeps_workers: from one call to the next. scaled: this one gets a problem that
    is so many times smaller, and what it took is multiplied. most_rounds: it gets no more than so many.
    """

    name: str
    kind: str
    open: Open
    methods: tuple[str, ...] = _ALL_METHODS
    keeps_workers: bool = True
    method: str = ""
    scaled: int = 1
    most_rounds: int | None = None

    @property
    def id(self) -> str:
        """The name with the start method."""
        return f"{self.name} ({self.method})" if self.method else self.name


SERIAL = Contestant("serial", "serial", peers.serial, ("",), keeps_workers=False)
POOL = Contestant("multiprocessing.Pool", "peer", peers.multiprocessing_pool)
FUTURES = Contestant("futures.ProcessPoolExecutor", "peer", peers.futures)
JOBLIB = Contestant("joblib", "peer", peers.joblib, ("loky",))
LOKY = Contestant("loky", "peer", peers.loky, ("loky",))
MPIRE = Contestant("mpire", "peer", peers.mpire)
PEBBLE = Contestant("Pebble", "peer", peers.pebble)
PEERS = (POOL, FUTURES, JOBLIB, LOKY, MPIRE, PEBBLE)

POOL_MAP = Contestant("parallelkit.pool_map", "ours", ours.pool_map, keeps_workers=False)
POOL_IMAP = Contestant("parallelkit.pool_imap", "ours", ours.pool_imap, keeps_workers=False)
OUR_POOL = Contestant("parallelkit.Pool", "ours", ours.pool)
OUR_EXECUTOR = Contestant("parallelkit.ProcessPoolExecutor", "ours", ours.executor)
OURS = (POOL_MAP, OUR_POOL, POOL_IMAP, OUR_EXECUTOR)
#: Those who have their workers from one call to the next.
OURS_WARM = (OUR_POOL, OUR_EXECUTOR)

#: The same with a deadline for each item.
TIMED = tuple(
    replace(
        contestant,
        name=f"{contestant.name}, task_timeout",
        open=functools.partial(contestant.open, task_timeout=ours.TASK_TIMEOUT),
    )
    for contestant in (POOL_MAP, OUR_POOL)
)


def _nobody(workers: int, method: str) -> contextlib.AbstractContextManager[Runner]:
    raise NotImplementedError("a limit has no pool")


def limit(name: str) -> Contestant:
    """What the machine itself needs."""
    return Contestant(f"limit: {name}", "limit", _nobody, ("",), keeps_workers=False)


def each(contestants: Iterable[Contestant], *methods: str) -> tuple[Contestant, ...]:
    """The contestants with each of the start methods that they have; with its own, who has but that."""
    found = []
    for contestant in contestants:
        wanted = methods or _BOTH
        has = [method for method in wanted if method in contestant.methods]
        if not set(contestant.methods) & set(_ALL_METHODS):
            has = list(contestant.methods)
        found += [replace(contestant, method=method) for method in has]
    return tuple(found)


def slow(
    contestants: Iterable[Contestant], scaled: int, *names: str, rounds: int = 2
) -> tuple[Contestant, ...]:
    """The same, where those of these names get a smaller problem and few rounds."""
    return tuple(
        replace(contestant, scaled=scaled, most_rounds=rounds) if contestant.name in names else contestant
        for contestant in contestants
    )
