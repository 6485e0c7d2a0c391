"""The faces themselves: without a fault, each gives each item's value."""

from __future__ import annotations

from typing import Any

import tasks

from parallelkit import Failure, Success


def test_each_face_gives_outcomes_in_order(served: Any) -> None:
    with served(max_workers=2) as outcomes:
        assert outcomes(tasks.square, range(5)) == [Success(i, i * i) for i in range(5)]
        got = outcomes(tasks.fail_on_three, range(5))
        assert [outcome.index for outcome in got] == list(range(5))
        assert isinstance(got[3], Failure)
        assert got[3].exception.args == ("three", 3)
