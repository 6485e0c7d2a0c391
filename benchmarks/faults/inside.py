"""Figures that the pool's own program takes. Each probe gives an answer a repetition.

An answer has `value` (seconds, or what the probe says), or `instead`: what happened in place of that.
"""

from __future__ import annotations

import os
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from . import tasks
from .contestants import METHODS, Contestant, Handle, Served, warm
from .probing import BOUND, Hangs, Notes, answer, noting

#: In seconds.
TASK_TIMEOUT = 0.3
#: In bytes.
MEMORY_LIMIT = 300_000_000
_ROUND_TRIP_PAUSE = 0.005

#: How a pool of so many workers is opened, and where its tasks leave their notes.
Measure = Callable[[Callable[[int], Served], Notes], Any]


class _Otherwise(Exception):
    """Something else happened than what was to be measured."""


def _error(handle: Handle, seconds: float = BOUND) -> tuple[BaseException, float]:
    """What a task ends in, and when that is known."""
    if not handle.settled(seconds):
        raise Hangs
    now = time.monotonic()
    try:
        value = handle.result()
    except BaseException as error:
        return error, now
    raise _Otherwise(f"returns {value!r}")


def _death(how: str) -> Measure:
    def measure(open_pool: Callable[[int], Served], notes: Notes) -> float:
        handle = open_pool(2).submit(tasks.die, notes.path, how)
        _, at = _error(handle)
        return at - notes.next()

    return measure


def _replacement(open_pool: Callable[[int], Served], notes: Notes) -> float:
    """From a death to the result of a task that is handed in then, where there is no other worker."""
    pool = open_pool(1)
    pool.submit(tasks.die, notes.path, "SIGKILL")
    died = notes.next()
    return _serving(pool, died + BOUND) - died


def _serving(pool: Served, deadline: float) -> float:
    """When a task has a result again."""
    error: BaseException = Hangs()
    while (left := deadline - time.monotonic()) > 0:
        try:
            handle = pool.submit(tasks.pid)
            if not handle.settled(left):
                raise Hangs
            handle.result()
            return time.monotonic()
        except Hangs:
            raise
        except BaseException as raised:
            error = raised
            time.sleep(0.001)
    raise _Otherwise(f"refuses ({type(error).__name__})")


def _timeout(open_pool: Callable[[int], Served], notes: Notes) -> float:
    handle = open_pool(2).submit(tasks.sleep_noted, notes.path, False, task_timeout=TASK_TIMEOUT)
    begin = notes.next()
    _, at = _error(handle, TASK_TIMEOUT + BOUND)
    return at - (begin + TASK_TIMEOUT)


def _stubborn(open_pool: Callable[[int], Served], notes: Notes) -> dict[str, float]:
    """Deadline to error where SIGTERM is ignored; and the slowest of the others' round trips meanwhile."""
    pool = open_pool(2)
    handle = pool.submit(tasks.sleep_noted, notes.path, True, task_timeout=TASK_TIMEOUT)
    deadline = notes.next() + TASK_TIMEOUT
    ended: list[float] = []
    watch = threading.Thread(target=lambda: ended.append(_error(handle, 3 * BOUND)[1]), daemon=True)
    watch.start()
    slowest = 0.0
    while watch.is_alive():
        begin = time.monotonic()
        slowest = max(slowest, _serving(pool, begin + BOUND) - begin)
        watch.join(_ROUND_TRIP_PAUSE)
    if not ended:
        raise Hangs
    return {"seconds": ended[0] - deadline, "slowest": slowest}


def _memory(method: str) -> Measure:
    """How far past the limit a task has grown when it is ended, in percent of the limit."""

    def measure(_: object, notes: Notes) -> float:
        import parallelkit

        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(8))
            file.flush()
            # What a forked worker shares with its parent is not counted.
            shared = tasks.resident_set() if method == "fork" else 0
            with parallelkit.Pool(1, start_method=method, memory_limit=MEMORY_LIMIT) as pool:
                handle = pool.apply_async(tasks.grow, (file.name, 3 * MEMORY_LIMIT))
                try:
                    handle.get()
                    raise _Otherwise("is not ended")
                except parallelkit.MemoryLimitError:
                    pass
            with open(file.name, "rb") as held:
                (grown,) = struct.unpack("<d", held.read())
            return 100 * (float(grown) - shared - MEMORY_LIMIT) / MEMORY_LIMIT

    return measure


_MEASURES: dict[str, Measure] = {
    "SIGKILL": _death("SIGKILL"),
    "os._exit": _death("os._exit"),
    "replacement": _replacement,
    "timeout": _timeout,
    "stubborn": _stubborn,
    **{f"memory {method}": _memory(method) for method in METHODS},
}


def run(figure: str, contestant: Contestant, method: str, repeat: int) -> None:
    """Measure one of `_MEASURES`, `repeat` times, each on a pool of its own."""
    for _ in range(repeat):
        pools: list[Served] = []

        def open_pool(workers: int, pools: list[Served] = pools) -> Served:
            pools.append(warm(contestant, workers, method))
            return pools[-1]

        with noting() as notes:
            try:
                answer(value=_MEASURES[figure](open_pool, notes))
            except Hangs:
                answer(instead=f"hangs (> {BOUND:g} s)")
                break
            except _Otherwise as other:
                answer(instead=str(other))
                break
        # Where that hangs, this program is ended, and another one goes on with the rest.
        signal.setitimer(signal.ITIMER_REAL, BOUND)
        for pool in pools:
            pool.end()
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)  # what hangs does so at its end, too
