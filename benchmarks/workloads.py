"""What the workers are given to do."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

#: Eight megabytes of float64.
ARRAY_LENGTH = 1 << 20
ARRAYS = 16

#: Short tasks, and a few long ones at the end, in seconds: fixed chunks give all long ones to one worker.
SKEWED = [0.001] * 190 + [0.03] * 10


def noop(item: object) -> None:
    pass


def size_of(array: Any) -> int:
    return int(array.nbytes)


def make_array(number: int) -> Any:
    return np.full(ARRAY_LENGTH, float(number))


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
