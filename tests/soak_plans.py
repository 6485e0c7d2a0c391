"""The plans of `soak.py`: what workers do with each, and what may come out.

Each task notes that it runs, and then does what its plan says.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tasks

from parallelkit import Success, TaskTimeoutError, WorkerDiedError
from parallelkit.errors import ResultError

TASK_TIMEOUT = 1.0
#: A note of a run: the number of the plan, the process, and `time.monotonic` at its beginning.
NOTE = struct.Struct("<IId")
_descriptors: dict[str, int] = {}


class Plan(NamedTuple):
    """One item: what is to happen; `size`: bytes of its result, or seconds that it takes."""

    folder: str
    number: int
    what: str
    size: float = 0
    payload: bytes = b""


class Odd(BaseException):
    """What `except Exception` lets through."""


def work(plan: Plan) -> Any:
    """Run one item."""
    descriptor = _descriptors.get(plan.folder)
    if descriptor is None:
        path = os.path.join(plan.folder, "notes")
        descriptor = _descriptors[plan.folder] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, NOTE.pack(plan.number, os.getpid(), time.monotonic()))
    return _HAPPEN.get(plan.what, _other)(plan)


def work_on(plan: Plan, offset: int) -> Any:
    """The same with two arguments."""
    return work(plan._replace(number=plan.number + offset))


def value(plan: Plan) -> Any:
    """What comes out where nothing happens."""
    return plan.number * plan.number + len(plan.payload)


def array(plan: Plan) -> Any:
    import numpy

    return numpy.full(int(plan.size), plan.number & 255, dtype="u1")


def _bytes(plan: Plan) -> bytes:
    return bytes([plan.number & 255]) * int(plan.size)


def _slow(plan: Plan) -> Any:
    time.sleep(plan.size)
    return value(plan)


def _raise(plan: Plan) -> None:
    raise ValueError("raised", plan.number)


def _odd(plan: Plan) -> None:
    raise Odd(plan.number)


def _flaky(plan: Plan) -> Any:
    """Die at the first time only."""
    try:
        os.close(os.open(os.path.join(plan.folder, f"flaky-{plan.number}"), os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    return value(plan)


def _orphan(plan: Plan) -> None:
    """Start a process that leaves the session, and die."""
    code = "import time; time.sleep(3600)"
    subprocess.Popen([sys.executable, "-S", "-c", code, plan.folder], start_new_session=True)
    os._exit(7)


def _masked(plan: Plan) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    tasks.wait_for_ever()


def _other(plan: Plan) -> Any:
    tasks.happen(plan.what)
    return value(plan)


_HAPPEN: dict[str, Callable[[Plan], Any]] = {
    "array": array,
    "bytes": _bytes,
    "slow": _slow,
    "raise": _raise,
    "odd": _odd,
    "flaky": _flaky,
    "orphan": _orphan,
    "masked": _masked,
    "term": lambda plan: os.kill(os.getpid(), signal.SIGTERM),
    "spin": lambda plan: sum(range(1 << 60)),
    "lock": lambda plan: threading.Lock(),
    "poison": lambda plan: tasks.Poison(),
}


#: What a death of its own leaves of an item: exit code and signal.
DEATHS = {
    "kill": (-9, 9), "segfault": (-11, 11), "term": (-15, 15), "exit 0": (0, None), "exit 7": (7, None),
    "orphan": (7, None), "flaky": (-9, 9),
}  # fmt: skip
RAISED = {
    "raise": ValueError, "odd": Odd, "sys.exit": SystemExit, "interrupt": KeyboardInterrupt,
    "unpicklable": tasks.Unpicklable, "lock": ResultError, "poison": ResultError,
}  # fmt: skip
NUMBERED = (WorkerDiedError, TaskTimeoutError)
STUCK = ("stuck", "stubborn", "masked", "stopped", "spin")
_FINE = ("value", "slow", "bytes", "array")


def judge(plan: Plan, outcome: Any, runs: int, retries: int, struck: bool) -> str:
    """What is wrong with an outcome; an empty string where nothing is."""
    what, most = plan.what, 1 + retries
    if runs > most:
        return f"ran {runs} times"
    if isinstance(outcome, Success):
        if what == "flaky" and not 2 <= runs <= most:
            return f"came through with {runs} runs"
        if what not in (*_FINE, "flaky", "stopped"):  # whose worker may be continued from outside
            return "came through"
        if not 1 <= runs <= most:
            return f"came through with {runs} runs"
        return "" if _is_right(plan, outcome.value) else "has a wrong value"
    error = outcome.exception
    if isinstance(error, WorkerDiedError):
        if not error.started and runs == most:
            return "ran, and was said not to have started"
        own = what in DEATHS and (error.exitcode, error.signal) == DEATHS[what]
        if own and error.started and (struck or runs == most or what == "orphan"):
            return "" if runs == most or struck else f"died and ran {runs} times"
        return "" if struck else "died of something else"
    if isinstance(error, TaskTimeoutError):
        return "" if error.timeout == TASK_TIMEOUT and error.pid else "has wrong fields"
    if what in RAISED:
        return "" if type(error) is RAISED[what] and runs >= 1 else "failed in another way"
    return "failed"


def _is_right(plan: Plan, result: Any) -> bool:
    if plan.what == "array":
        return bool((result == array(plan)).all())
    if plan.what == "bytes":
        return bool(result == bytes([plan.number & 255]) * int(plan.size))
    return bool(result == value(plan))


class Notes:
    """The notes, as they are read: when each plan was begun, and whether one was begun after its end."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder, "notes")
        self._path.touch()
        self._file = self._path.open("rb")
        self._lock = threading.Lock()
        self._begun: dict[int, list[float]] = {}
        self._ended: dict[int, float] = {}
        self._up: dict[int, float] = {}

    def begun(self, number: int) -> list[float]:
        """When a plan was begun until now, in seconds."""
        with self._lock:
            self._read()
            return self._begun.get(number, [])

    def is_up(self, pid: int) -> bool:
        """Whether a worker has begun something."""
        with self._lock:
            self._read()
            return pid in self._up

    def has_one_come_up(self, since: float) -> bool:
        """Whether a worker has begun its first item since then."""
        with self._lock:
            self._read()
            return any(when > since for when in self._up.values())

    def end(self, number: int, grace: float = 0.0) -> None:
        """A plan has come to its end: it must not begin later than `grace` seconds from now."""
        self._ended[number] = time.monotonic() + grace

    def take_late(self) -> list[int]:
        """The plans that were begun after their end. All plans have come to theirs, and are forgotten."""
        with self._lock:
            self._read()
            late = [n for n, when in self._ended.items() if any(t > when for t in self._begun.get(n, ()))]
            late += self._begun.keys() - self._ended.keys()
            self._begun.clear()
            self._ended.clear()
            return late

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        data = self._file.read()
        whole = len(data) - len(data) % NOTE.size
        self._file.seek(whole - len(data), os.SEEK_CUR)
        for number, pid, when in NOTE.iter_unpack(data[:whole]):
            self._begun.setdefault(number, []).append(when)
            self._up.setdefault(pid, when)
