"""What is to be reached, and what is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .results import Result, Run

Value = Callable[[Run, Result], float | None]

POOL_MAP, POOL, STREAM = "parallelkit.pool_map", "parallelkit.Pool", "parallelkit.pool_imap"
EXECUTOR = "parallelkit.ProcessPoolExecutor"
#: In the names of those that have a deadline for each item, and of what is imported and not used.
TIMED, UNUSED = ", task_timeout", ", unused"
#: Of the start methods these are what the goals are for; "" is for what has none.
_METHODS = ("fork", "forkserver", "")


@dataclass(frozen=True)
class Goal:
    """One row of the goals, for some of parallelkit's faces."""

    row: str
    group: str
    workload: str
    faces: tuple[str, ...]
    value: Value
    goal: float
    unit: str
    against: str = ""
    at_least: bool = False

    @property
    def wanted(self) -> str:
        """The goal in words."""
        return f"{'at least' if self.at_least else 'at most'} {show(self.goal, self.unit)}{self.against}"


@dataclass(frozen=True)
class Reached:
    """What one face has come to with one start method.

    value: None where it was not measured, or where it failed: then `instead` says how. against: the peer
    that the value comes from.
    """

    goal: Goal
    face: str
    method: str
    value: float | None = None
    against: str = ""
    instead: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is what was wanted."""
        if self.value is None:
            return None
        return self.value >= self.goal.goal if self.goal.at_least else self.value <= self.goal.goal

    @property
    def shown(self) -> str:
        """The value with its unit, with so many digits that it does not look like the goal that it misses."""
        assert self.value is not None
        told = show(self.value, self.goal.unit)
        return told if told != show(self.goal.goal, self.goal.unit) else show(self.value, self.goal.unit, 2)


def show(value: float, unit: str, more_digits: int = 0) -> str:
    """A value with its unit."""
    if unit == "x":
        return f"{value:.{2 + more_digits}f}x"
    return f"{value:.{1 + more_digits}f} {unit}"


# What is compared


def _with_peer(name: str) -> Value:
    def value(run: Run, result: Result) -> float | None:
        methods = (result.method, "")
        found = (run.find(result.group, result.workload, name, method) for method in methods)
        peer = next((peer for peer in found if peer is not None), None)
        return None if peer is None else result.over(peer)

    return value


def nearest(run: Run, result: Result) -> Result | None:
    """The peer that comes off best beside this one, round by round.

    That need not be the one with the least median, and who is to be faster than all has to be faster than it.
    """
    return max(run.peers(result), key=result.over, default=None)


def _with_best(run: Run, result: Result) -> float | None:
    peer = nearest(run, result)
    return None if peer is None else result.over(peer)


def _with_limit(run: Run, result: Result) -> float | None:
    limit = run.limit(result)
    return None if limit is None else result.over(limit)


def _with_ideal(run: Run, result: Result) -> float | None:
    return run.over_ideal(result)


def _efficiency(run: Run, result: Result) -> float | None:
    over = run.over_ideal(result)
    return None if over is None else 100 / over


def _rate(_: Run, result: Result) -> float | None:
    return None if result.bytes is None else result.bytes / result.median / 1e9


def _extra(name: str) -> Value:
    def value(_: Run, result: Result) -> float | None:
        return statistics.median(result.extras[name]) if name in result.extras else None

    return value


def _with_timeout(run: Run, result: Result) -> float | None:
    timed = run.find(result.group, result.workload, result.contestant + TIMED, result.method)
    return None if timed is None else timed.over(result)


_BEST = " of the best peer"
_WARM = (POOL, EXECUTOR)


def _faster(row: str, group: str, workload: str, *faces: str) -> Goal:
    return Goal(row, group, workload, faces, _with_best, 1.0, "x", _BEST)


GOALS = (
    Goal(
        "start, two items, stop", "start", "two items, {method}", (POOL_MAP, POOL, EXECUTOR),
        _with_peer("multiprocessing.Pool"), 0.6, "x", " of multiprocessing.Pool",
    ),
    _faster("100,000 no-ops, own chunking", "dispatch", "no-ops", POOL_MAP, POOL, EXECUTOR),
    _faster("100,000 tuples, own chunking", "dispatch", "tuples", POOL_MAP, POOL, EXECUTOR),
    _faster("20,000 with chunk size 1 (as the least)", "dispatch", "chunksize 1", POOL_MAP, POOL),
    Goal("round trip", "round trip", "call", _WARM, _with_best, 0.3, "x", _BEST),
    Goal("round trip", "round trip", "call", _WARM, _with_limit, 4.0, "x", " of the raw ping-pong"),
    _faster("16 x 8 MB in", "payload", "arrays in", POOL_MAP, POOL, EXECUTOR),
    _faster("16 x 8 MB out", "payload", "arrays out", POOL_MAP, POOL, EXECUTOR),
    Goal("16 x 8 MB in, warm pool", "payload", "arrays in", (POOL,), _rate, 2.0, "GB/s", at_least=True),
    _faster("partial with 40 MB, fresh pool", "payload", "partial, fresh", POOL_MAP, POOL, EXECUTOR),
    _faster("partial with 40 MB, warm pool", "payload", "partial, warm", POOL, EXECUTOR),
    Goal(
        "partial with 40 MB", "payload", "partial, copies", (POOL_MAP, POOL, EXECUTOR),
        _extra("copies in the workers"), 1.1, "copies",
    ),
    *(
        Goal(f"skew, heavy {order}", "balance", f"{order}, own chunking", (POOL_MAP, POOL, EXECUTOR),
             _with_ideal, 1.08, "x", " of the lower bound")
        for order in ("first", "last", "scattered")
    ),
    Goal("stream of 10 million", "stream", "long", (STREAM, POOL), _extra("parent's growth, MB"), 30, "MB"),
    Goal(
        "import", "start", "import", ("parallelkit, unused", "parallelkit, used"),
        _with_peer("multiprocessing and futures"), 1.3, "x", " of multiprocessing's",
    ),
    *(
        Goal(f"task_timeout: {what}", "dispatch", workload, (POOL_MAP, POOL),
             _with_timeout, 1.1, "x", " of without")
        for what, workload in {
            "100,000 no-ops": "no-ops", "100,000 tuples": "tuples", "chunk size 1": "chunksize 1",
        }.items()
    ),
    Goal(
        "64 sleeping workers", "scale", "64 workers", _WARM,
        _efficiency, 95, "%", " efficiency", at_least=True,
    ),
)  # fmt: skip


def judge(run: Run) -> Iterator[Reached]:
    """What each face has reached with each start method, in the order of the goals."""
    for goal in GOALS:
        for face in goal.faces:
            found = [one for method in _METHODS if (one := _reached(run, goal, face, method)) is not None]
            yield from found or [Reached(goal, face, "")]
            # With one start method but not with the other, where the workload is for both.
            if [one.method for one in found] == ["fork"] and "{method}" not in goal.workload:
                yield Reached(goal, face, "forkserver")


def _reached(run: Run, goal: Goal, face: str, method: str) -> Reached | None:
    """None where it was not asked to."""
    workload = goal.workload.format(method=method)
    result = run.find(goal.group, workload, face, method)
    if result is None:
        failed = run.failed(goal.group, workload, face, method)
        return None if failed is None else Reached(goal, face, method, instead=failed)
    value = goal.value(run, result)
    if value is None and goal.value is _with_timeout:
        failed = run.failed(goal.group, workload, face + TIMED, method)
        return Reached(goal, face, method, instead=failed or "")
    peer = nearest(run, result) if goal.against == _BEST else None
    return Reached(goal, face, method, value, peer.contestant if peer else "")
