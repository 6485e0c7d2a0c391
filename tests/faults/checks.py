"""What each case of the catalogue looks at, whichever fault struck."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from parallelkit import Failure, Outcome

if TYPE_CHECKING:
    from conftest import Counting

#: A process that is to end, or a file that is to come up, may take so long, in seconds.
PATIENCE = 20.0


def same(index: int) -> int:
    """The value of an item whose task gives it back."""
    return index


def check_failed(
    outcomes: list[Outcome[Any]],
    bad: Collection[int],
    counting: Counting | None = None,
    value: Callable[[int], Any] = same,
) -> list[BaseException]:
    """The exceptions of the items `bad`. All others have their values, and each item ran once.

    counting: what the tasks counted themselves with, by their index; None where they did not.
    value: what an index gives.
    """
    assert [outcome.index for outcome in outcomes] == list(range(len(outcomes)))
    failures = {o.index: o.exception for o in outcomes if isinstance(o, Failure)}
    assert sorted(failures) == sorted(bad), failures
    for outcome in outcomes:
        if outcome.index not in failures:
            assert outcome.unwrap() == value(outcome.index)
    if counting is not None:
        assert counting.runs() == {str(index): 1 for index in range(len(outcomes))}
    return [failures[index] for index in bad]


def check_one_failed(
    outcomes: list[Outcome[Any]],
    bad: int,
    counting: Counting | None = None,
    value: Callable[[int], Any] = same,
) -> BaseException:
    """The exception of the item `bad`, the only one that failed; see `check_failed`."""
    return check_failed(outcomes, [bad], counting, value)[0]


def fields(error: object, *names: str) -> dict[str, Any]:
    """Attributes of an error, by their names."""
    return {name: getattr(error, name) for name in names}


def gone(pids: Iterable[int], patience: float = PATIENCE) -> None:
    """Wait until none of these processes is there any more; zombies do not count."""
    until(lambda: not [pid for pid in pids if alive(pid)], f"one of {pids} is still there", patience)


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def until(true: Callable[[], object], or_else: str, patience: float = PATIENCE) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, or_else
        time.sleep(0.002)


def appears(path: Path, patience: float = PATIENCE) -> Path:
    """Wait until a file is there; it is to be moved there, so that it is whole."""
    until(path.exists, f"{path} did not come up", patience)
    return path
