"""Engines, and what else is public."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import assert_type

import parallelkit
from parallelkit import Engine


def with_an_engine(engine: Engine) -> None:
    with parallelkit.using("serial") as chosen:
        assert_type(chosen, Engine)
        assert_type(chosen.name, str)
    with parallelkit.using(engine):
        assert_type(parallelkit.pool_map(abs, [1, -1], engine=engine), list[int])


@parallelkit.using("threads")
def under_threads(x: int) -> int:
    return x


same: Callable[[int], int] = under_threads


def errors(error: Exception) -> None:
    if isinstance(error, parallelkit.WorkerDiedError):
        assert_type(error.index, int | None)
        assert_type(error.exitcode, int | None)
    elif isinstance(error, parallelkit.CallTimeoutError):
        timeout: TimeoutError = error
        print(timeout)
    try:
        raise error
    except* parallelkit.TaskTimeoutError as group:
        assert_type(group, ExceptionGroup[parallelkit.TaskTimeoutError])


def ground() -> None:
    assert_type(parallelkit.available_cpus(), int)
    assert_type(parallelkit.tracebacks.dumps(ValueError()), bytes)
    assert_type(parallelkit.tracebacks.loads(b""), BaseException)
    assert_type(parallelkit.__version__, str)
