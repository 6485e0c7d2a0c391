"""Tasks for `test_floods`. They note each run in one file, as there may be ten thousand of them."""

from __future__ import annotations

import collections
import os
import struct
import time
from pathlib import Path
from typing import Any

import tasks

import parallelkit


def note(path: str, number: int) -> None:
    """Note a run: short writes at the end of a file are not mixed up."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, struct.pack("i", number))
    os.close(descriptor)


def runs(path: str) -> collections.Counter[int]:
    """How often each number was noted."""
    data = Path(path).read_bytes() if os.path.exists(path) else b""
    return collections.Counter(number for (number,) in struct.iter_unpack("i", data))


def happen_below(path: str, what: str, limit: int, x: int) -> int:
    """Let `what` happen at each item below `limit`."""
    note(path, x)
    if x < limit:
        tasks.happen(what)
    return x


def happen_at(path: str, what: str, bad: int, x: int) -> int:
    note(path, x)
    if x == bad:
        tasks.happen(what)
    return x


class Refused(Exception):
    pass


def refuse(path: str, x: int) -> int:
    note(path, x)
    raise Refused("no", x)


def start_and(path: str, what: str) -> None:
    """An initializer that fails always."""
    note(path, 0)
    tasks.happen(what)


class Fallen(Exception):
    """Something has failed further down."""


class Nest:
    """A pool in a task of a pool ..., and at the bottom a square, or a death."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def __call__(self, x: int) -> Any:
        if self.levels:
            try:
                return parallelkit.pool_map(Nest(self.levels - 1), [x, x + 1], max_workers=2)
            except (parallelkit.ParallelKitError, Fallen) as error:
                raise Fallen(self.levels) from error
        if x == 13:
            tasks.happen("kill")
        return x * x


def sleep_below(path: str, levels: int) -> None:
    """Pools in pools, of which each notes its processes, and the last sleeps for an hour."""
    note(path, os.getpid())
    if not levels:
        time.sleep(3600)
    parallelkit.pool_starmap(sleep_below, [(path, levels - 1)], max_workers=1)


def x_times(count: int) -> bytes:
    return b"x" * count


def ones(count: int) -> Any:
    import numpy

    return numpy.ones(count, dtype="u1")
