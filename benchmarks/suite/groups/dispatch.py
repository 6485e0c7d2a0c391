"""Items that do nothing: what is left is the way there and back."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .. import tasks
from ..contestants import (
    FUTURES,
    JOBLIB,
    LOKY,
    MPIRE,
    OUR_EXECUTOR,
    OUR_POOL,
    OURS,
    PEBBLE,
    PEERS,
    POOL_IMAP,
    POOL_MAP,
    SERIAL,
    TIMED,
    WORKERS,
    Contestant,
    each,
    slow,
)  # fmt: skip
from ..workloads import Round, Seat, Session, Workload, mapping

_MANY = 100_000
_FEWER = 20_000
#: The rule of multiprocessing.Pool: four chunks a worker.
_CHUNK = _MANY // (4 * WORKERS)
#: What their manuals advise for long streams, and what they do not choose themselves.
_STREAM_CHUNK = 1000
#: These have a chunk size of 1 where nothing else is said, and cost some hundred microseconds a chunk.
_UNCHUNKED = (FUTURES.name, LOKY.name, PEBBLE.name)
#: Of those that have goals of a few percent.
_ROUNDS = 9
_ALL = each((SERIAL, *PEERS, *OURS, *TIMED))


def range_of(count: int) -> Callable[[Seat], Sequence[int]]:
    """So many numbers; fewer for who gets a smaller problem."""
    return lambda seat: range(seat.size(count))


def nones(items: Sequence[Any], values: list[Any]) -> bool:
    """Whether these are the results of no-ops."""
    return values == [None] * len(items)


def _pairs(items: Sequence[int], values: list[Any]) -> bool:
    return len(values) == len(items) and values[-1] == (items[-1], items[-1] + 1)


def stream_chunk(contestant: Contestant) -> int | None:
    """What is told to those that choose no size for a stream themselves."""
    chooses = contestant.kind != "peer" or contestant.name == JOBLIB.name
    return None if chooses else _STREAM_CHUNK


def _streaming(
    how: str, make: Callable[[int], Iterable[int]], fn: Callable[[int], object], count: int,
    chunksize: int | None,
) -> Session:  # fmt: skip
    @contextlib.contextmanager
    def session(seat: Seat) -> Iterator[Round]:
        size = seat.size(count)
        own = stream_chunk(seat.contestant)
        with seat.warm() as runner:

            def draw() -> tuple[int, object]:
                results = getattr(runner, how)(fn, make(size), chunksize or own)
                (last,) = deque(enumerate(results, 1), maxlen=1)
                return last

            def check(last: tuple[int, object]) -> bool:
                return last == (size, fn(size - 1)) or (how == "unordered" and last[0] == size)

            yield lambda: seat.timed(draw, check)

    return session


def _generated(count: int) -> Iterator[int]:
    yield from range(count)


_STREAMERS = (SERIAL, *PEERS, POOL_IMAP, OUR_POOL)
#: These have `as_completed` for results as they come, and no chunks there.
_AS_COMPLETED = (*_UNCHUNKED, OUR_EXECUTOR.name)
_STREAM_NOTE = (
    "parallelkit and joblib choose their chunks themselves; the others, which choose none for a stream, "
    f"are told a chunk size of {_STREAM_CHUNK:,}."
)
_LEAST_NOTE = (
    "parallelkit takes the chunk size for the least: a worker is handed several short items at a time, and "
    "what none has begun is taken back."
)
_UNORDERED_NOTE = "Of an executor and of Pebble it is `as_completed`, which knows no chunks."


def _streamed(
    what: str, told: str, fn: Callable[[int], object], count: int, chunksize: int | None
) -> Iterator[Workload]:
    """The same work one by one: in order, as the results come, and from a generator."""
    for how, way, make in (
        ("imap", "in order", range), ("unordered", "as they come", range),
        ("generator", "from a generator", _generated),
    ):  # fmt: skip
        contestants = each((*_STREAMERS, OUR_EXECUTOR) if chunksize is None else _STREAMERS)
        note = _STREAM_NOTE if chunksize is None else _LEAST_NOTE
        if how == "unordered":
            contestants = slow(contestants, count // 2000, *_AS_COMPLETED)
            note = f"{note} {_UNORDERED_NOTE}".strip()
        elif chunksize is not None:
            contestants = slow(contestants, 10, *_UNCHUNKED)
        if chunksize is not None:
            contestants = slow(slow(contestants, 10, JOBLIB.name), 4, MPIRE.name)
        method = "unordered" if how == "unordered" else "imap"
        yield Workload(
            "dispatch", f"{how}{what}", f"{count:,} {told}, one by one, {way}", contestants,
            _streaming(method, make, fn, count, chunksize), items=count, note=note, rounds=3,
            quick=(how, what) == ("imap", ""),
        )  # fmt: skip


def _one_by_one() -> tuple[Contestant, ...]:
    """A chunk size of 1 is for parallelkit's executor what it is for others not to choose one."""
    entries = each((SERIAL, *PEERS, POOL_MAP, OUR_POOL, POOL_IMAP, *TIMED))
    return slow(slow(entries, 10, *_UNCHUNKED, JOBLIB.name), 4, MPIRE.name)


WORKLOADS = (
    Workload(
        "dispatch", "no-ops", f"{_MANY:,} no-ops, own chunking", slow(_ALL, 20, *_UNCHUNKED),
        mapping(tasks.noop, range_of(_MANY), nones), items=_MANY, rounds=_ROUNDS,
    ),
    Workload(
        "dispatch", "tuples", f"{_MANY:,} tuples as results, own chunking", slow(_ALL, 20, *_UNCHUNKED),
        mapping(tasks.pair, range_of(_MANY), _pairs), items=_MANY, rounds=_ROUNDS,
    ),
    Workload(
        "dispatch", "large chunks", f"{_MANY:,} no-ops, everybody told a chunk size of {_CHUNK:,}", _ALL,
        mapping(tasks.noop, range_of(_MANY), nones, chunksize=_CHUNK), items=_MANY,
    ),
    Workload(
        "dispatch", "chunksize 1", f"{_FEWER:,} no-ops, chunk size 1", _one_by_one(),
        mapping(tasks.noop, range_of(_FEWER), nones, chunksize=1), items=_FEWER, rounds=_ROUNDS,
        note=f"{_LEAST_NOTE} Its executor takes a chunk size of 1 for no wish at all, and has no place here.",
    ),
    *_streamed("", "no-ops", tasks.noop, _MANY, None),
    *_streamed(" tuples", "tuples as results", tasks.pair, _MANY, None),
    *_streamed(" chunksize 1", "no-ops, chunk size 1", tasks.noop, _FEWER, 1),
)  # fmt: skip
