"""Large things, in and out, beside one copy of them in memory."""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .. import tasks
from ..contestants import (
    FUTURES,
    LOKY,
    MPIRE,
    OUR_EXECUTOR,
    OUR_POOL,
    PEBBLE,
    PEERS,
    POOL,
    POOL_MAP,
    SERIAL,
    WORKERS,
    Contestant,
    each,
    limit,
    slow,
)  # fmt: skip
from ..workloads import Figure, Round, Seat, Session, Workload, mapping

_ARRAYS = 16
_ARRAY_BYTES = 8_000_000
_ALL_BYTES = _ARRAYS * _ARRAY_BYTES
_BIG_BYTES = 1_000_000_000
_STRINGS = 100_000
_PARTIAL_BYTES = 40_000_000
_PARTIAL_ITEMS = 64
_OURS = (POOL_MAP, OUR_POOL, OUR_EXECUTOR)
_COPY = limit("one memcpy")


# Arrays, each made anew for each round: nobody has seen them before


def _arrays(_: Seat) -> Sequence[Any]:
    return [tasks.filled(number) for number in range(_ARRAYS)]


def _numbers(_: Seat) -> Sequence[int]:
    return range(_ARRAYS)


def _touched(arrays: Sequence[Any], sums: list[float]) -> bool:
    return sums == [tasks.touch(array) for array in arrays]


def _filled(numbers: Sequence[int], arrays: list[Any]) -> bool:
    return [array[-1] for array in arrays] == list(numbers)


def _negated(given: Sequence[Any], arrays: list[Any]) -> bool:
    return [array[-1] for array in arrays] == [-array[-1] for array in given]


def _beside_copy(size: int, count: int, session: Session) -> Session:
    """The limit copies the same bytes once, from memory to memory; all others do the work."""

    @contextlib.contextmanager
    def copying(seat: Seat) -> Iterator[Round]:
        if seat.contestant.kind != "limit":
            with session(seat) as once:
                yield once
            return
        import numpy as np

        sources = [np.ones(size // 8) for _ in range(count)]
        targets = [np.ones(size // 8) for _ in range(count)]  # memory that is there, as a warm pool's

        def copy() -> None:
            for source, target in zip(sources, targets, strict=True):
                np.copyto(target, source)

        yield lambda: seat.timed(copy, lambda _: True)

    return copying


def _large(
    name: str, title: str, fn: Callable[[Any], Any], make: Callable[[Seat], Sequence[Any]],
    check: Callable[[Sequence[Any], list[Any]], bool], **options: Any,
) -> Workload:  # fmt: skip
    filled_in = {
        "contestants": (*each((SERIAL, *PEERS, *_OURS)), _COPY),
        "bytes": _ALL_BYTES,
        "rounds": 4,
        **options,
    }
    count = (filled_in["bytes"] or 0) // _ARRAY_BYTES
    session = _beside_copy(_ARRAY_BYTES, count, mapping(fn, make, check))
    return Workload("payload", name, title, session=session, **filled_in)


def _big(_: Seat) -> Sequence[Any]:
    import numpy as np

    return [np.ones(_BIG_BYTES // 8)]


# Others


def _texts(seat: Seat) -> Sequence[str]:
    return [f"{number:050d}x" for number in range(seat.size(_STRINGS))]


def _upper(texts: Sequence[str], values: list[str]) -> bool:
    return len(values) == len(texts) and values[-1] == texts[-1].upper()


def _frames(_: Seat) -> Sequence[Any]:
    import numpy as np
    import pandas as pd

    rows = 50_000
    numbers = {letter: np.arange(rows, dtype=float) for letter in "abcdefghij"}
    return [
        pd.DataFrame({**numbers, "name": [f"row {row % 1000}" for row in range(rows)]})
        for _ in range(_ARRAYS)
    ]


def _scaled(frames: Sequence[Any], values: list[Any]) -> bool:
    return len(values) == len(frames) and bool(values[-1]["a"].iloc[-1] == 2 * frames[-1]["a"].iloc[-1])


def _blocks(kind: type) -> Callable[[Seat], Sequence[Any]]:
    return lambda _: [kind(bytes([number]) * _ARRAY_BYTES) for number in range(_ARRAYS)]


def _equal(items: Sequence[Any], values: list[Any]) -> bool:
    return list(items) == values


# A function that carries an array

_BY_INITIALIZER = ", initializer"
_BY_SHARING = ", shared_objects"
_IN_LARGE_CHUNKS = f", chunks of {_PARTIAL_ITEMS // WORKERS}"
# A peer sends the function once a chunk: with the chunks that it chooses, and with the largest.
_PARTIAL_CONTESTANTS = slow(
    each((
        SERIAL, *PEERS, *_OURS,
        *(replace(peer, name=peer.name + _IN_LARGE_CHUNKS) for peer in PEERS),
    )),
    1, FUTURES.name, LOKY.name, PEBBLE.name, rounds=1,
)  # fmt: skip
#: What their manuals advise for a large argument that all items have in common.
_ADVISED = each((
    *(replace(peer, name=peer.name + _BY_INITIALIZER) for peer in (POOL, FUTURES, LOKY, PEBBLE)),
    replace(MPIRE, name=MPIRE.name + _BY_SHARING),
))  # fmt: skip


def _array() -> Any:
    import numpy as np

    return np.arange(_PARTIAL_BYTES / 8)


def _weighed(values: list[float]) -> bool:
    return values == [2.0 * number for number in range(_PARTIAL_ITEMS)]


@contextlib.contextmanager
def _open(contestant: Contestant, array: Any) -> Iterator[Callable[[], list[float]]]:
    """Call it for the results."""
    open_: Any = contestant.open
    fn: Callable[[int], float] = functools.partial(tasks.weigh, array)
    if contestant.name.endswith(_BY_INITIALIZER):
        fn, opened = tasks.weigh_kept, open_(WORKERS, contestant.method, tasks.keep, (array,))
    elif contestant.name.endswith(_BY_SHARING):
        # It gives the shared object to the function as the first argument.
        sharing: Any = tasks.weigh
        fn, opened = sharing, open_(WORKERS, contestant.method, array)
    else:
        opened = open_(WORKERS, contestant.method)
    with opened as runner:
        yield lambda: runner.map(fn, range(_PARTIAL_ITEMS), _chunksize(contestant))


def _chunksize(contestant: Contestant) -> int | None:
    return _PARTIAL_ITEMS // WORKERS if contestant.name.endswith(_IN_LARGE_CHUNKS) else None


@contextlib.contextmanager
def _partial_fresh(seat: Seat) -> Iterator[Round]:
    def once() -> Figure:
        array = _array()

        def life() -> list[float]:
            with _open(seat.contestant, array) as run:
                return run()

        return seat.timed(life, _weighed)

    yield once


@contextlib.contextmanager
def _partial_warm(seat: Seat) -> Iterator[Round]:
    with seat.warm() as runner:

        def once() -> Figure:
            fn = functools.partial(tasks.weigh, _array())
            return seat.timed(
                lambda: runner.map(fn, range(_PARTIAL_ITEMS), _chunksize(seat.contestant)), _weighed
            )

        yield once


@contextlib.contextmanager
def _copies(seat: Seat) -> Iterator[Round]:
    """How much of the array the workers have for themselves while they work with it."""
    import numpy as np

    with seat.warm() as runner:

        def held(array: Any) -> float:
            # The median, as who maps first has all of the pages for himself until the other one has come.
            shares: dict[int, list[int]] = defaultdict(list)
            for pid, share in runner.map(functools.partial(tasks.hold, array), range(_PARTIAL_ITEMS)):
                shares[pid].append(share)
            return statistics.fmean(statistics.median(seen) for seen in shares.values()) * WORKERS

        def once() -> Figure:
            small = held(np.zeros(_PARTIAL_ITEMS))
            array = _array()
            figure = seat.timed(lambda: held(array), lambda _: True)
            large = held(array)
            return replace(figure, extras={"copies in the workers": (large - small) / _PARTIAL_BYTES})

        yield once


_PARTIAL = f"a partial with a 40 MB array over {_PARTIAL_ITEMS} items"
WORKLOADS = (
    _large("arrays in", "16 arrays of 8 MB in", tasks.touch, _arrays, _touched),
    _large("arrays out", "16 arrays of 8 MB out", tasks.filled, _numbers, _filled),
    _large(
        "arrays both", "16 arrays of 8 MB in, 16 out", tasks.negated, _arrays, _negated,
        bytes=2 * _ALL_BYTES, rounds=3, quick=False,
    ),
    Workload(
        "payload", "one array", "one array of 1 GB in",
        (SERIAL, *each(PEERS), *each(_OURS), _COPY),
        _beside_copy(_BIG_BYTES, 1, mapping(tasks.touch, _big, _touched)),
        bytes=_BIG_BYTES, rounds=3, warmups=0, quick=False,
    ),
    Workload(
        "payload", "strings", f"{_STRINGS:,} strings of 51 characters in, as many out",
        slow(each((SERIAL, *PEERS, *_OURS)), 20, FUTURES.name, LOKY.name, PEBBLE.name),
        mapping(tasks.upper, _texts, _upper), items=_STRINGS, rounds=3,
    ),
    Workload(
        "payload", "partial, fresh", f"{_PARTIAL}, fresh pool",
        (*_PARTIAL_CONTESTANTS, *_ADVISED), _partial_fresh, rounds=3, quick_rounds=2, warmups=0,
        note="Where a manual advises another way for an argument that all items share, that is here, too; "
        "and each peer with the largest chunks, as it sends the function with each.",
    ),
    Workload(
        "payload", "partial, warm", f"{_PARTIAL}, warm pool",
        _PARTIAL_CONTESTANTS, _partial_warm, rounds=3, quick_rounds=2, quick=False,
        note="The array is a new one in each round. Each peer is here with the largest chunks, too.",
    ),
    Workload(
        "payload", "partial, copies", f"{_PARTIAL}: what the workers hold of it",
        each((POOL, MPIRE, *_OURS)), _copies, rounds=3, warmups=0, quick=False, compared=False,
        note="The workers' memory while they run, pages that n processes share counted as 1/n, less what it "
        "is with a small array; in units of 40 MB.",
    ),
    _large(
        "frames", "16 pandas frames of 50,000 rows, ten columns of numbers and one of text, in and out",
        tasks.scaled, _frames, _scaled, rounds=2, bytes=None, quick=False,
        contestants=each((SERIAL, *PEERS, *_OURS)),
    ),
    *(
        _large(
            f"{kind.__name__} objects", f"16 {kind.__name__} objects of 8 MB in and out", tasks.same,
            _blocks(kind), _equal, rounds=2, bytes=2 * _ALL_BYTES, quick=False,
        )
        for kind in (bytes, bytearray)
    ),
)  # fmt: skip
