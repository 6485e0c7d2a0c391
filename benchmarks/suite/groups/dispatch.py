"""Items that do nothing: what is left is the way there and back."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .. import tasks
from ..contestants import (
    FUTURES,
    JOBLIB,
    LOKY,
    MPIRE,
    OUR_POOL,
    OURS,
    PEBBLE,
    PEERS,
    POOL,
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
_ALL = each((SERIAL, *PEERS, *OURS, *TIMED))


def range_of(count: int) -> Callable[[Seat], Sequence[int]]:
    """So many numbers; fewer for who gets a smaller problem."""
    return lambda seat: range(seat.size(count))


def nones(items: Sequence[Any], values: list[Any]) -> bool:
    """Whether these are the results of no-ops."""
    return values == [None] * len(items)


def _pairs(items: Sequence[int], values: list[Any]) -> bool:
    return len(values) == len(items) and values[-1] == (items[-1], items[-1] + 1)


def _streaming(how: str, make: Callable[[int], Iterable[int]]) -> Session:
    @contextlib.contextmanager
    def session(seat: Seat) -> Iterator[Round]:
        chunksize = _STREAM_CHUNK if seat.contestant.kind == "peer" else None
        with seat.warm() as runner:

            def draw() -> int:
                count = 0
                last = deque(enumerate(getattr(runner, how)(tasks.noop, make(_MANY), chunksize), 1), maxlen=1)
                if last:
                    count = last[0][0]
                return count

            yield lambda: seat.timed(draw, lambda count: count == _MANY)

    return session


def _generated(count: int) -> Iterator[int]:
    yield from range(count)


_STREAMERS = (POOL, FUTURES, JOBLIB, LOKY, MPIRE, PEBBLE, POOL_IMAP, OUR_POOL)
_UNORDERED = (POOL, JOBLIB, MPIRE, POOL_IMAP, OUR_POOL)
_STREAM_NOTE = (
    "parallelkit and joblib choose their chunks themselves; the others, which choose none for a stream, "
    f"are told a chunk size of {_STREAM_CHUNK:,}."
)


def _one_by_one() -> tuple[Contestant, ...]:
    """A chunk size of 1 is for parallelkit's executor what it is for others not to choose one."""
    entries = each((SERIAL, *PEERS, POOL_MAP, OUR_POOL, POOL_IMAP, *TIMED))
    return slow(slow(entries, 10, *_UNCHUNKED, JOBLIB.name), 4, MPIRE.name)


_few = functools.partial(replace, rounds=3)
WORKLOADS = (
    Workload(
        "dispatch", "no-ops", f"{_MANY:,} no-ops, own chunking", slow(_ALL, 20, *_UNCHUNKED),
        mapping(tasks.noop, range_of(_MANY), nones), items=_MANY,
    ),
    Workload(
        "dispatch", "tuples", f"{_MANY:,} tuples as results, own chunking", slow(_ALL, 20, *_UNCHUNKED),
        mapping(tasks.pair, range_of(_MANY), _pairs), items=_MANY,
    ),
    Workload(
        "dispatch", "large chunks", f"{_MANY:,} no-ops, everybody told a chunk size of {_CHUNK:,}", _ALL,
        mapping(tasks.noop, range_of(_MANY), nones, chunksize=_CHUNK), items=_MANY,
    ),
    Workload(
        "dispatch", "chunksize 1", f"{_FEWER:,} no-ops, chunk size 1", _one_by_one(),
        mapping(tasks.noop, range_of(_FEWER), nones, chunksize=1), items=_FEWER,
        note="parallelkit's executor takes a chunk size of 1 for no wish at all, and has no place here. Its "
        "maps take it for the least: a worker is handed several short items at a time, and what none has "
        "begun is taken back. `pool_imap` hands out chunks as they are asked for.",
    ),
    _few(Workload(
        "dispatch", "imap", f"{_MANY:,} no-ops, one by one, in order", each(_STREAMERS),
        _streaming("imap", range), items=_MANY, note=_STREAM_NOTE,
    )),
    _few(Workload(
        "dispatch", "unordered", f"{_MANY:,} no-ops, one by one, as they come", each(_UNORDERED),
        _streaming("unordered", range), items=_MANY, note=_STREAM_NOTE, quick=False,
    )),
    _few(Workload(
        "dispatch", "generator", f"{_MANY:,} no-ops, one by one, from a generator", each(_STREAMERS),
        _streaming("imap", _generated), items=_MANY, note=_STREAM_NOTE, quick=False,
    )),
)  # fmt: skip
