"""What an `Outcome` refuses before it is known which of the two it is."""

from __future__ import annotations

from typing_extensions import assert_never

import parallelkit
from parallelkit import Failure, Outcome, Success


def half(x: int) -> float:
    return x / 2


def both(outcome: Outcome[int]) -> None:
    print(outcome.value)  # error
    print(outcome.exception)  # error
    if isinstance(outcome, Success):
        print(outcome.exception)  # error
    else:
        print(outcome.value)  # error


def half_matched(outcome: Outcome[int]) -> int:
    match outcome:
        case Success(_, value):
            return value
        case _:
            assert_never(outcome)  # error


for each in parallelkit.pool_map(half, [1], errors="return"):
    print(each + 1)  # error
    print(each.unwrap().upper())  # error

success = Success(0, "a")
success.value = "b"  # error
Success("0", "a")  # error
Failure(0, "broken")  # error
Failure(0, KeyError()).value  # error
wrong: Outcome[int] = Success(0, "a")  # error
