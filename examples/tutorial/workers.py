"""The five functions that the programs of the tutorial run in other processes."""

from __future__ import annotations

import time


def worker_0(interval: float) -> None:
    """Sleep for `interval` seconds, then fail."""
    print("错误的工作")
    time.sleep(interval)
    _ = 0 / 0
    print("end工作失误")


def worker_1(interval: float) -> None:
    """Sleep for `interval` seconds, as do the next three."""
    print("工作1")
    time.sleep(interval)
    print("end工作1")


def worker_2(interval: float) -> None:
    """See `worker_1`."""
    print("工作212")
    time.sleep(interval)
    print("end工作212")


def worker_3(interval: float) -> None:
    """See `worker_1`."""
    print("工作three")
    time.sleep(interval)
    print("end工作three")


def worker_4(interval: float) -> None:
    """See `worker_1`."""
    print("工作four")
    time.sleep(interval)
    print("end工作four")
