"""What a workload is, and how a round of it is timed."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .contestants import WORKERS, Contestant
from .peers import Runner

R = TypeVar("R")


@dataclass(frozen=True)
class Figure:
    """What one round has come to: seconds, and what else was measured beside."""

    seconds: float
    extras: dict[str, float] = field(default_factory=dict)


class Instead(Exception):
    """Something else happened than what was to be measured; the message says what, for the table."""


Round = Callable[[], Figure]


@dataclass(frozen=True)
class Seat:
    """The place of one contestant at one workload."""

    contestant: Contestant

    def size(self, count: int) -> int:
        """The number of items: fewer for who gets a smaller problem."""
        return max(1, count // self.contestant.scaled)

    def open(self, workers: int = WORKERS) -> contextlib.AbstractContextManager[Runner]:
        """The contestant, as it is when it has just been opened."""
        return self.contestant.open(workers, self.contestant.method)

    @contextlib.contextmanager
    def warm(self, workers: int = WORKERS) -> Iterator[Runner]:
        """The contestant, with its workers up where it keeps them."""
        with self.open(workers) as runner:
            if self.contestant.keeps_workers:
                # Long enough that each worker gets some.
                runner.map(abs, range(20 * workers), 1)
            yield runner

    def timed(self, call: Callable[[], R], check: Callable[[R], bool]) -> Figure:
        """How long it takes; what it returns must be right."""
        gc.collect()
        begin = time.perf_counter()
        value = call()
        seconds = time.perf_counter() - begin
        if not check(value):
            raise Instead("a wrong result")
        return Figure(seconds * self.contestant.scaled)


Session = Callable[[Seat], contextlib.AbstractContextManager[Round]]


@dataclass(frozen=True)
class Workload:
    """The same work for some contestants.

    title: for the reader. note: what he has to know to judge it. rounds, quick_rounds: for each contestant,
    and before these `warmups` that do not count. ideal: seconds below which it cannot be done, or
    `ideal_share` of what `serial` takes. items, bytes: for a column with the time per item, or the bytes a
    second. compared: whether its times say something. quick: whether a quick run has it, too. bound: seconds
    for a round, then it is said to hang.
    """

    group: str
    name: str
    title: str
    contestants: Sequence[Contestant]
    session: Session
    note: str = ""
    rounds: int = 5
    quick_rounds: int = 3
    warmups: int = 1
    ideal: float | None = None
    ideal_share: float | None = None
    items: int | None = None
    bytes: int | None = None
    compared: bool = True
    quick: bool = True
    bound: float = 90.0

    @property
    def id(self) -> str:
        """What it is called on the command line."""
        return f"{self.group}-{self.name}"

    def rounds_of(self, contestant: Contestant, *, quick: bool) -> int:
        """How many this one has."""
        rounds = self.quick_rounds if quick else self.rounds
        return min(rounds, contestant.most_rounds or rounds)

    def described(self, contestant: Contestant) -> dict[str, Any]:
        """All that the report has to know besides the times."""
        return {
            "group": self.group,
            "workload": self.name,
            "title": self.title,
            "note": self.note,
            "contestant": contestant.name,
            "method": contestant.method,
            "kind": contestant.kind,
            "scaled": contestant.scaled,
            "ideal": self.ideal,
            "ideal_share": self.ideal_share,
            "items": self.items,
            "bytes": self.bytes,
            "warmups": self.warmups,
            "compared": self.compared,
        }


def mapping(
    fn: Callable[[Any], Any],
    make: Callable[[Seat], Sequence[Any]],
    check: Callable[[Sequence[Any], list[Any]], bool],
    *,
    chunksize: int | None = None,
    workers: int = WORKERS,
    fresh: bool = False,
) -> Session:
    """A map over what `make` gives, which is not timed; on a pool of its own in each round where `fresh`."""

    @contextlib.contextmanager
    def session(seat: Seat) -> Iterator[Round]:
        def map_with(runner: Runner, items: Sequence[Any]) -> list[Any]:
            return runner.map(fn, items, chunksize)

        def whole_life(items: Sequence[Any]) -> list[Any]:
            with seat.open(workers) as runner:
                return map_with(runner, items)

        with contextlib.nullcontext() if fresh else seat.warm(workers) as warm:

            def work(items: Sequence[Any]) -> list[Any]:
                return whole_life(items) if warm is None else map_with(warm, items)

            def once() -> Figure:
                items = make(seat)
                return seat.timed(lambda: work(items), lambda values: check(items, values))

            yield once

    return session
