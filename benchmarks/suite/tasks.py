"""What the workers are given: at the top level of an importable module, as each start method needs it."""

from __future__ import annotations

import os
import time
from typing import Any

#: A page of memory holds so many float64.
_FLOATS_A_PAGE = 512


def noop(item: object) -> None:
    """Nothing."""


def pair(number: int) -> tuple[int, int]:
    """A small tuple."""
    return number, number + 1


def sleep(seconds: float) -> float:
    """Wait, and tell how long."""
    time.sleep(seconds)
    return seconds


def pid(seconds: float) -> int:
    """Wait, and tell in which process."""
    time.sleep(seconds)
    return os.getpid()


def spin(units: int) -> int:
    """Work for `units` times about 10 ms."""
    total = 0
    for number in range(units * 150_000):
        total += number & 1
    return total


def upper(text: str) -> str:
    """Another string of the same length."""
    return text.upper()


def touch(array: Any) -> float:
    """Read an array, once a page, so that it is really there."""
    return float(array[::_FLOATS_A_PAGE].sum())


def filled(number: int) -> Any:
    """An array of 8 MB."""
    import numpy as np

    return np.full(1_000_000, float(number))


def negated(array: Any) -> Any:
    """Another array of the same size."""
    return -array


def same(item: Any) -> Any:
    """What came in."""
    return item


def scaled(frame: Any) -> Any:
    """Another frame of the same size."""
    return frame.assign(a=frame["a"] * 2)


def weigh(array: Any, number: int) -> float:
    """Read the large array that comes with the function, each page of it."""
    touch(array)
    return float(array[number]) + number


def hold(array: Any, number: int) -> tuple[int, int]:
    """Read all of the array; in which process, and how many bytes that has as its share then."""
    touch(array)
    time.sleep(0.002)  # so that no worker does it all alone
    return os.getpid(), proportional_set()


def proportional_set() -> int:
    """This process's memory in bytes, where a page that n processes share counts for 1/n."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))


_given: Any = None


def keep(array: Any) -> None:
    """As an initializer: keep the array for `weigh_kept`."""
    global _given
    _given = array


def weigh_kept(number: int) -> float:
    """`weigh`, with the array that the initializer has kept."""
    return weigh(_given, number)
