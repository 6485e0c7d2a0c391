"""The results of the map functions, as they follow from the function and `errors`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress
from tqdm import tqdm
from typing_extensions import assert_type

import parallelkit
from parallelkit import Failure, Outcome, ResultIterator, Success
from parallelkit.options import MapOptions


def half(x: int) -> float:
    return x / 2


def area(width: int, height: float = 1.0) -> float:
    return width * height


def label(number: int, text: str) -> bytes:
    return f"{number}{text}".encode()


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.place = x, y

    def moved(self, by: int) -> Point:
        return Point(self.place[0] + by, self.place[1])


def pool_map(paths: Iterator[Path], points: list[Point], anything: Any) -> None:
    assert_type(parallelkit.pool_map(half, [1, 2]), list[float])
    assert_type(parallelkit.pool_map(half, range(3), errors="raise"), list[float])
    assert_type(parallelkit.pool_map(half, {1, 2}, errors="group"), list[float])
    assert_type(parallelkit.pool_map(half, (True, 2), errors="return"), list[Outcome[float]])
    assert_type(parallelkit.pool_map(half, [1], errors="return"), list[Success[float] | Failure])
    assert_type(parallelkit.pool_map(Path.exists, paths), list[bool])
    assert_type(parallelkit.pool_map(str, anything), list[str])
    assert_type(parallelkit.pool_map(lambda point: point.place, points), list[tuple[int, int]])
    assert_type(parallelkit.pool_map(functools.partial(label, 1), "abc"), list[bytes])
    assert_type(parallelkit.pool_map(functools.partial(area, height=2.0), [1]), list[float])


def pool_starmap(pairs: Iterable[tuple[int, str]], loose: list[tuple[Any, ...]], rows: list[list[int]]) -> None:
    assert_type(parallelkit.pool_starmap(label, [(1, "a"), (2, "b")]), list[bytes])
    assert_type(parallelkit.pool_starmap(label, pairs, errors="group"), list[bytes])
    assert_type(parallelkit.pool_starmap(label, pairs, errors="return"), list[Outcome[bytes]])
    assert_type(parallelkit.pool_starmap(label, enumerate("ab"), max_workers=2), list[bytes])
    assert_type(parallelkit.pool_starmap(label, zip([1], ["a"])), list[bytes])
    assert_type(parallelkit.pool_starmap(label, itertools.product([1], "ab")), list[bytes])
    assert_type(parallelkit.pool_starmap(label, {1: "a"}.items()), list[bytes])
    assert_type(parallelkit.pool_starmap(label, ((i, str(i)) for i in range(3))), list[bytes])
    assert_type(parallelkit.pool_starmap(area, [(1,)]), list[float])
    assert_type(parallelkit.pool_starmap(area, [(1, 2.0)]), list[float])
    assert_type(parallelkit.pool_starmap(Point, [(1, 2)]), list[Point])
    assert_type(parallelkit.pool_starmap(Point.moved, [(Point(1, 2), 3)]), list[Point])
    assert_type(parallelkit.pool_starmap(lambda a, b: a + b, [(1, 2)]), list[int])
    assert_type(parallelkit.pool_starmap(functools.partial(label, 1), [("a",)]), list[bytes])
    # Where the arguments' types are not known one by one, they are not checked.
    assert_type(parallelkit.pool_starmap(label, loose), list[bytes])
    assert_type(parallelkit.pool_starmap(area, rows), list[float])
    assert_type(parallelkit.pool_starmap(label, [[1, "a"]]), list[bytes])


def pool_imap() -> None:
    results = parallelkit.pool_imap(half, itertools.count(), ordered=False, buffersize=10)
    assert_type(results, ResultIterator[float])
    assert_type(next(results), float)
    assert_type(results.next(timeout=1), float)
    assert_type([*parallelkit.pool_imap(half, [1], errors="group")], list[float])
    with parallelkit.pool_imap(half, [1], errors="return") as outcomes:
        assert_type(outcomes, ResultIterator[Outcome[float]])
        for outcome in outcomes:
            assert_type(outcome, Success[float] | Failure)


class Bar:
    def update(self, n: int) -> None: ...

    def close(self) -> None: ...


def options() -> None:
    """All of them; and from a dict, as a program's own options come."""
    parallelkit.pool_map(
        half,
        [1],
        errors="raise",
        max_workers=None,
        chunksize=2,
        timeout=1,
        task_timeout=0.5,
        retries=2,
        retry_on=(OSError, parallelkit.WorkerDiedError),
        progress=Bar(),
        initializer=label,
        initargs=(1, "a"),
        max_tasks_per_child=3,
        memory_limit="2GiB",
        threads_per_worker="inherit",
        start_method="spawn",
        engine="threads",
    )
    given: MapOptions = {"max_workers": 2, "timeout": 3}
    assert_type(parallelkit.pool_map(half, [1], **given), list[float])
    assert_type(parallelkit.pool_starmap(label, [(1, "a")], errors="return", **given), list[Outcome[bytes]])
    untyped: dict[str, Any] = {"max_workers": 2, "timeout": 3}
    parallelkit.pool_map(half, [1], **untyped)
    # Without a word on `errors`, which might be in the dict, the checkers leave the result open.
    assert_type(parallelkit.pool_map(half, [1], errors="raise", **untyped), list[float])
    assert_type(parallelkit.pool_map(half, [1], retry_on=OSError, progress=True), list[float])
    assert_type(parallelkit.pool_map(half, [1], progress="rich", forward_logs=True), list[float])
    assert_type(parallelkit.pool_map(half, [1], progress=Progress(), forward_logs=None), list[float])
    assert_type(parallelkit.pool_map(half, [1], progress=tqdm(total=1)), list[float])
