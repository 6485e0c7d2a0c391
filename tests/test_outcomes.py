"""Success and Failure, and that both travel."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback

import pytest

from parallelkit.outcomes import Failure, Outcome, Success


def _failing() -> None:
    raise KeyError("k")


def _failure() -> Failure:
    try:
        _failing()
    except KeyError as error:
        return Failure(3, error)
    raise AssertionError


def test_both_can_be_matched() -> None:
    def tell(outcome: Outcome[int]) -> str:
        match outcome:
            case Success(index, value):
                return f"{index}: {value}"
            case Failure(index, exception):
                return f"{index}! {exception!r}"

    assert tell(Success(1, 5)) == "1: 5"
    assert tell(Failure(2, KeyError("k"))) == "2! KeyError('k')"


def test_a_success_gives_its_value() -> None:
    assert Success(0, "v").unwrap() == "v"
    assert Success(0, "v").ok
    assert Success(0, "v") == Success(0, "v") != Success(1, "v")


def test_a_failure_raises_its_own_exception_each_time() -> None:
    failure = _failure()
    assert not failure.ok
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            failure.unwrap()
        assert caught.value is failure.exception
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "_failing"


@pytest.mark.parametrize("outcome", [Success(0, [1]), Failure(1, KeyError("k"))])
def test_neither_can_be_changed(outcome: Success[list[int]] | Failure) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.index = 5  # type: ignore[misc]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_success_is_pickled(protocol: int) -> None:
    success = Success(4, {"a": [1]})
    assert pickle.loads(pickle.dumps(success, protocol)) == success


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_failure_is_pickled_with_its_traceback_and_cause(protocol: int) -> None:
    failure = _failure()
    failure.exception.__cause__ = OSError(2, "gone")
    for there in (pickle.loads(pickle.dumps(failure, protocol)), copy.deepcopy(failure)):
        assert there.index == 3
        assert repr(there.exception) == "KeyError('k')"
        assert repr(there.exception.__cause__) == "FileNotFoundError(2, 'gone')"
        names = [frame.name for frame in traceback.extract_tb(there.exception.__traceback__)]
        assert names == ["_failure", "_failing"]


def test_a_failure_is_pickled_whatever_its_exception_is() -> None:
    class Local(Exception):
        def __reduce__(self) -> str:
            raise ValueError("no pickle of me")

    there = pickle.loads(pickle.dumps(Failure(0, Local("text"))))
    assert "text" in str(there.exception)
