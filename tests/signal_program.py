"""A pool whose owner is interrupted again and again: what is left of it has to be right.

Run as a program by test_signals.py: `python signal_program.py METHOD ROUNDS SEED`.
"""

from __future__ import annotations

import faulthandler
import functools
import random
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import tasks

import parallelkit


class Interrupted(Exception):
    pass


armed = False


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if armed:
        raise Interrupted


def _interrupted(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns; None where the signal struck before."""
    global armed
    armed = True
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = work()
        armed = False
    except Interrupted:
        armed = False
        return None
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answer


def _map(pool: parallelkit.Pool, size: int) -> Any:
    return pool.map(tasks.square, range(size))


def _apply(pool: parallelkit.Pool, size: int) -> Any:
    return [pool.apply(tasks.square, (x,)) for x in range(size)]


def _imap(pool: parallelkit.Pool, size: int) -> Any:
    return list(pool.imap(tasks.square, iter(range(size))))


def _imap_list(pool: parallelkit.Pool, size: int) -> Any:
    return list(pool.imap_unordered(tasks.echo, [x * x for x in range(size)], chunksize=size))


def main(method: str, rounds: int, seed: int) -> None:
    rnd = random.Random(seed)
    signal.signal(signal.SIGALRM, _interrupt)
    struck = 0
    with parallelkit.Pool(2, start_method=method) as pool:
        assert pool.map(tasks.square, range(100)) == [x * x for x in range(100)]
        for number in range(rounds):
            size = rnd.choice([5, 50, 5000])
            expected = [x * x for x in range(size)]
            way = rnd.choice([_map, _apply, _imap, _imap_list, None])
            result = pool.map_async(tasks.square, range(size)) if way is None else None
            size = min(size, 50) if way is _apply else size
            seconds = rnd.random() * rnd.choice([0.0005, 0.005, 0.02]) + 1e-5
            work: Callable[[], Any] = functools.partial(way, pool, size) if way is not None else result.get  # type: ignore[union-attr]
            answer = _interrupted(work, seconds)
            struck += answer is None
            assert answer is None or sorted(answer) == expected[:size], (number, way)
            if result is not None:
                assert result.get(20) == expected, number
            assert pool.map_async(tasks.square, range(20)).get(20) == [x * x for x in range(20)], number
    print(struck)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
