"""Recorded rounds, handed to pytest-benchmark.

pytest-benchmark runs the rounds of one test one after the other, and here those of all contestants are to
take turns. So they are all run when the first test of a workload asks for them (`race`), and each test lets
pytest-benchmark time a replay: its clock, the `timer` of its marker, shows 0 when a round begins and what the
recorded round took when it ends. What it stores, prints and compares are then the recorded rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_now = 0.0


def recorded_time() -> float:
    """The clock, for `pytest.mark.benchmark(timer=recorded_time)`."""
    return _now


def replay(benchmark: Any, seconds: Sequence[float]) -> None:
    """Let pytest-benchmark time the recorded rounds."""
    rounds: Iterator[float] = iter(seconds)

    def begin() -> None:
        global _now
        _now = 0.0

    def pass_time() -> None:
        global _now
        _now = next(rounds)

    benchmark.pedantic(pass_time, setup=begin, rounds=len(seconds))
