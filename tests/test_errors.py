"""Each error of the library: its message, its fields, its kin, and that it travels."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import signal
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import pytest

import parallelkit.errors
from parallelkit import tracebacks
from parallelkit.errors import (
    AbandonedError,
    CallTimeoutError,
    ClosedError,
    MemoryLimitError,
    ParallelKitError,
    RemoteError,
    ResultError,
    SerializationError,
    TaskTimeoutError,
    UnreadableError,
    UnreadableResultError,
    WorkerDiedError,
    WorkerInitError,
)
from parallelkit.process import ProcessDiedError

DEATH: dict[str, Any] = {"index": 5, "pid": 77, "exitcode": -9, "signal": 9, "started": True}


def _examples() -> list[tuple[ParallelKitError, dict[str, Any]]]:
    made: list[tuple[type[Any], dict[str, Any]]] = [
        (TaskTimeoutError, {"index": 3, "timeout": 0.25, "pid": 41}),
        (CallTimeoutError, {"timeout": 2.0, "completed": 7}),
        (WorkerDiedError, DEATH),
        (MemoryLimitError, {**DEATH, "limit": 10**9, "used": 2 * 10**9}),
        (ProcessDiedError, {"name": "Process-1", "pid": 77, "exitcode": 3, "signal": None, "asked": False}),
        (WorkerInitError, {"starts": 3}),
        (SerializationError, {"what": "item", "path": "item[0]", "reason": "TypeError: no", "index": 2}),
        (ResultError, {"path": "result.lock", "reason": "TypeError: no", "exc": "E()", "value": "<R>"}),
        (UnreadableError, {"what": "call", "path": "call", "reason": "TypeError: no"}),
        (UnreadableResultError, {"path": "result", "reason": "TypeError: no", "exc": "E()", "value": "None"}),
        (RemoteError, {"type_name": "m.E", "text": "t", "traceback": "T"}),
    ]
    fields = [(cls(**given), {k: v for k, v in given.items() if k != "text"}) for cls, given in made]
    return [*fields, (AbandonedError(), {}), (ClosedError("this pool is closed"), {})]


@pytest.fixture(params=_examples(), ids=lambda example: type(example[0]).__name__)
def example(request: pytest.FixtureRequest) -> tuple[ParallelKitError, dict[str, Any]]:
    error, fields = request.param
    return copy.copy(error), fields


def test_every_error_is_tried_here() -> None:
    tried = {type(error) for error, _ in _examples()} | {ParallelKitError}
    assert tried == {getattr(parallelkit.errors, name) for name in parallelkit.errors.__all__} | {
        value
        for value in (getattr(parallelkit, name) for name in parallelkit.__all__)  # not all are loaded yet
        if isinstance(value, type) and issubclass(value, ParallelKitError)
    }


def test_has_the_fields_it_was_made_with(example: tuple[ParallelKitError, dict[str, Any]]) -> None:
    error, fields = example
    assert {name: getattr(error, name) for name in fields} == fields
    assert isinstance(error, ParallelKitError)
    assert str(error) == error.args[0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_is_pickled_with_fields_and_notes(
    example: tuple[ParallelKitError, dict[str, Any]], protocol: int
) -> None:
    error, fields = example
    error.add_note("seen here")
    for there in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(there) is type(error)
        assert there.args == error.args
        assert str(there) == str(error)
        assert there.__notes__ == ["seen here"]
        assert {name: getattr(there, name) for name in fields} == fields


def test_travels_with_its_cause_and_notes(example: tuple[ParallelKitError, dict[str, Any]]) -> None:
    error, fields = example
    error.__cause__ = LookupError("no licence")
    error.add_note("seen here")
    there = tracebacks.loads(tracebacks.dumps(error))
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert repr(there.__cause__) == "LookupError('no licence')"
    assert there.__notes__ == ["seen here"]
    assert {name: getattr(there, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("error", "caught_by"),
    [
        (TaskTimeoutError, (TimeoutError, multiprocessing.TimeoutError, OSError)),
        (CallTimeoutError, (TimeoutError, multiprocessing.TimeoutError, OSError)),
        (WorkerDiedError, (BrokenProcessPool, RuntimeError)),
        (MemoryLimitError, (WorkerDiedError, BrokenProcessPool)),
        (ProcessDiedError, (WorkerDiedError, BrokenProcessPool)),
        (WorkerInitError, (BrokenProcessPool,)),
        (SerializationError, (pickle.PicklingError, pickle.PickleError)),
        (ResultError, (SerializationError, MaybeEncodingError, pickle.PicklingError)),
        (UnreadableError, (SerializationError, BrokenProcessPool, pickle.PicklingError)),
        (UnreadableResultError, (ResultError, UnreadableError)),
        (RemoteError, (ParallelKitError,)),
        (ClosedError, (ValueError, RuntimeError)),
    ],
)
def test_is_caught_by_what_programs_have_today(
    error: type[Exception], caught_by: tuple[type[Exception], ...]
) -> None:
    assert all(issubclass(error, kin) for kin in (*caught_by, ParallelKitError))


def test_a_timeout_is_no_errno_to_anyone() -> None:
    error = TaskTimeoutError(index=None, timeout=1.0, pid=None)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)
    assert str(error) == "the call ran longer than its task_timeout of 1 s and was ended"


def test_a_call_timeout_counts_in_good_english() -> None:
    assert str(CallTimeoutError(timeout=1.5, completed=1)).endswith("of 1.5 s; by then 1 item was done")
    assert str(CallTimeoutError(timeout=1.5, completed=0)).endswith("by then 0 items were done")


def test_a_timeout_where_there_are_no_items_counts_none() -> None:
    error = CallTimeoutError(timeout=1.5)
    assert str(error) == "nothing came within the timeout of 1.5 s; only the wait is over"
    assert error.completed is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "item 5 was running when its worker (pid 77) was killed by SIGKILL, "
            "possibly by the out-of-memory killer: look at the kernel's log",
        ),
        (
            {"signal": 15, "exitcode": -15},
            "item 5 was running when its worker (pid 77) was killed by SIGTERM",
        ),
        (
            {"signal": 11, "exitcode": -11, "started": False},
            "item 5 had not started when its worker (pid 77) was killed by SIGSEGV",
        ),
        (
            {"signal": None, "exitcode": 0},
            "item 5 was running when its worker (pid 77) ended with exit code 0",
        ),
        (
            {"signal": None, "exitcode": None},
            "item 5 was running when its worker (pid 77) ended; its exit code was taken by another part of "
            "the program (a SIGCHLD handler or os.wait)",
        ),
        (
            {"signal": None, "exitcode": None, "pid": None, "index": None},
            "the call was running when its worker ended",
        ),
        (
            {"signal": signal.SIGRTMIN + 1, "exitcode": -35},
            f"item 5 was running when its worker (pid 77) was killed by signal {signal.SIGRTMIN + 1}",
        ),
    ],
)
def test_a_death_is_told_as_it_was(changes: dict[str, Any], message: str) -> None:
    assert str(WorkerDiedError(**{**DEATH, **changes})) == message


def test_who_was_killed_for_memory_here_is_not_told_of_the_kernel() -> None:
    error = MemoryLimitError(**DEATH, limit=10**9, used=1_234_000_000)
    assert str(error) == (
        "item 5 was ended, as its worker held 1,234 MB, more than the memory_limit of 1,000 MB"
    )


CANNOT = "TypeError: cannot pickle '_thread.lock' object"


@pytest.mark.parametrize(
    ("what", "path", "index", "reason", "message"),
    [
        (
            "item",
            "item['lock']",
            4,
            CANNOT,
            f"item 4 cannot be sent between processes at item['lock']: {CANNOT}. "
            "Send what it can be made from, and make it in the worker",
        ),
        (
            "result",
            "result",
            4,
            CANNOT,
            f"the result cannot be sent between processes: {CANNOT}. "
            "Return plain data, or only what is needed of it",
        ),
        (
            "function",
            "function",
            None,
            "AttributeError: Can't pickle local object 'f.<locals>.<lambda>'",
            "the function cannot be sent between processes: "
            "AttributeError: Can't pickle local object 'f.<locals>.<lambda>'. "
            "Define it at the top level of a module that can be imported",
        ),
        (
            "function",
            "function.args[0]",
            None,
            CANNOT,
            f"the function cannot be sent between processes at function.args[0]: {CANNOT}. "
            "Send what it can be made from, and make it in the worker",
        ),
        (
            # "local" is also in here, and no function would mend it.
            "initializer",
            "initargs[0]",
            None,
            "TypeError: cannot pickle '_thread._local' object",
            "the initializer cannot be sent between processes at initargs[0]: "
            "TypeError: cannot pickle '_thread._local' object. "
            "Send what it can be made from, and make it in the worker",
        ),
    ],
)
def test_says_what_cannot_be_sent_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, what: str, path: str, index: int | None, reason: str, message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # cloudpickle is installed
    assert str(SerializationError(what=what, path=path, reason=reason, index=index)) == message


def test_a_stand_in_without_text_is_named_by_its_type_alone() -> None:
    assert str(RemoteError(type_name="m.E", text="", traceback="T")) == "m.E"


@pytest.mark.parametrize("installed", [True, False])
def test_nobody_is_told_to_install_what_is_there(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    error = SerializationError(what="function", path="function", reason="no <lambda>")
    assert ("pip install 'parallelkit[cloudpickle]'" in str(error)) is not installed
    assert "at the top level" in str(error)
