"""The faces of the library behind one signature, so that one test body runs behind each of them.

    with face(start_method, max_workers=2) as outcomes:
        first = outcomes(fn, items, task_timeout=1.0)      # a Success or Failure an item, in order
        again = outcomes(fn, items)                        # the same pool, where the face has one

`faults/conftest.py` has the fixtures `face` (each of them) and `served` (each face with each start method).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import parallelkit
from parallelkit import Failure, Outcome, Success

#: Those that say which item they are about.
_NUMBERED = (parallelkit.WorkerDiedError, parallelkit.TaskTimeoutError, parallelkit.SerializationError)

Outcomes = Callable[..., list[Outcome[Any]]]


class Face(Protocol):
    def __call__(
        self, start_method: str, *, max_workers: int = 2, **options: Any
    ) -> contextlib.AbstractContextManager[Outcomes]: ...


@contextlib.contextmanager
def pool_map(start_method: str, **options: Any) -> Iterator[Outcomes]:
    def outcomes(fn: Any, items: Any, **of_call: Any) -> list[Outcome[Any]]:
        return parallelkit.pool_map(
            fn, items, errors="return", start_method=start_method, **options, **of_call
        )

    yield outcomes


@contextlib.contextmanager
def pool_imap(start_method: str, **options: Any) -> Iterator[Outcomes]:
    def outcomes(fn: Any, items: Any, **of_call: Any) -> list[Outcome[Any]]:
        results = parallelkit.pool_imap(
            fn, items, errors="return", start_method=start_method, **options, **of_call
        )
        with contextlib.closing(results):
            return list(results)

    yield outcomes


@contextlib.contextmanager
def pool(start_method: str, max_workers: int = 2, **options: Any) -> Iterator[parallelkit.Pool]:
    with parallelkit.Pool(max_workers, start_method=start_method, **options) as pool:
        yield pool


@contextlib.contextmanager
def map(start_method: str, **options: Any) -> Iterator[Outcomes]:
    with pool(start_method, **options) as made:
        yield lambda fn, items, **of_call: made.map(fn, items, errors="return", **of_call)


@contextlib.contextmanager
def imap_unordered(start_method: str, **options: Any) -> Iterator[Outcomes]:
    def outcomes(fn: Any, items: Any, **of_call: Any) -> list[Outcome[Any]]:
        results = made.imap_unordered(fn, items, errors="return", **of_call)
        return sorted(results, key=lambda outcome: outcome.index)

    with pool(start_method, **options) as made:
        yield outcomes


@contextlib.contextmanager
def apply_async(start_method: str, **options: Any) -> Iterator[Outcomes]:
    def outcomes(fn: Any, items: Any, **of_call: Any) -> list[Outcome[Any]]:
        of_call.pop("chunksize", None)
        results = [made.apply_async(fn, (item,), **of_call) for item in items]
        return [_outcome(index, result.get) for index, result in enumerate(results)]

    with pool(start_method, **options) as made:
        yield outcomes


def _outcome(index: int, get: Callable[[], Any]) -> Outcome[Any]:
    """What `get` gives or raises; the face has no numbers for its items, this gives them theirs."""
    try:
        return Success(index, get())
    except BaseException as error:  # noqa: BLE001, RUF100 - a task's SystemExit is an outcome, too
        if isinstance(error, _NUMBERED):
            if error.index is not None:
                raise AssertionError("a single call has no number") from error
            error.index = index
        return Failure(index, error)


@contextlib.contextmanager
def submit(start_method: str, max_workers: int = 2, **options: Any) -> Iterator[Outcomes]:
    def outcomes(fn: Any, items: Any, **of_call: Any) -> list[Outcome[Any]]:
        of_call.pop("chunksize", None)
        chosen = executor.with_options(**of_call)
        futures = [chosen.submit(fn, item) for item in items]
        return [_outcome(index, future.result) for index, future in enumerate(futures)]

    with parallelkit.ProcessPoolExecutor(max_workers, start_method=start_method, **options) as executor:
        yield outcomes


FACES: dict[str, Face] = {
    "pool_map": pool_map,
    "pool_imap": pool_imap,
    "Pool.map": map,
    "Pool.imap_unordered": imap_unordered,
    "Pool.apply_async": apply_async,
    "ProcessPoolExecutor.submit": submit,
}
