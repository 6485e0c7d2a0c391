"""`Outcome`, told apart in each of the ways there are."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_never, assert_type

from parallelkit import Failure, Outcome, Success


def matched(outcome: Outcome[int]) -> str:
    match outcome:
        case Success(index, value):
            assert_type(index, int)
            assert_type(value, int)
            return str(value)
        case Failure(index, exception):
            assert_type(index, int)
            assert_type(exception, BaseException)
            return str(exception)
        case _:
            assert_never(outcome)


def matched_without_a_rest(outcome: Outcome[int]) -> int:
    match outcome:
        case Success(value=value):
            return value
        case Failure(exception=KeyError()):
            return 0
        case Failure():
            return 1


def by_class(outcome: Outcome[str]) -> None:
    if isinstance(outcome, Success):
        assert_type(outcome, Success[str])
        assert_type(outcome.value, str)
    else:
        assert_type(outcome, Failure)
        assert_type(outcome.exception, BaseException)


def by_ok(outcome: Outcome[str]) -> None:
    # Plain `if outcome.ok:` tells them apart for mypy; pyright asks for `is True`.
    if outcome.ok is True:
        assert_type(outcome.value, str)
    else:
        assert_type(outcome.exception, BaseException)
    assert_type(outcome.ok, bool)


def of_all(outcomes: list[Outcome[int]]) -> None:
    assert_type([o.unwrap() for o in outcomes], list[int])
    assert_type([o.value for o in outcomes if isinstance(o, Success)], list[int])
    assert_type([o.index for o in outcomes], list[int])


def made() -> None:
    assert_type(Success(0, "a"), Success[str])
    covariant: Outcome[object] = Success(0, "a")
    loose: Outcome = Failure(1, KeyError("a"))
    anything: Outcome[Any] = loose
    print(covariant, anything)
