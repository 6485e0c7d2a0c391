"""A program that runs short of something, and says "done" where all went well: WHAT START_METHOD [ERROR].

ERROR names whose table of open files is full: this process's (EMFILE) or the system's (ENFILE).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing.forkserver
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import tasks

import parallelkit
from faults import what_tasks
from faults.checks import appears, check_failed, check_one_failed, gone
from faults.full_system import in_full_system
from parallelkit import (
    ClosedError,
    Pool,
    SerializationError,
    Success,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
)

LARGE = 256 << 20


T = TypeVar("T")


def in_full_process(call: Callable[[], T]) -> T:
    """The result of `call`, for which this process gets no descriptor, not even one given back (EMFILE)."""
    with what_tasks.limit(resource.RLIMIT_NOFILE, 3):
        return call()


WITHOUT_DESCRIPTORS = {"EMFILE": in_full_process, "ENFILE": in_full_system}


def check_serves(pool: Pool) -> None:
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]


def descriptors(method: str, error_name: str) -> None:
    """A worker is lost, and no other can be had: those that are left do the work."""
    without_descriptors = WITHOUT_DESCRIPTORS[error_name]
    with Pool(2, start_method=method) as pool:
        check_serves(pool)
        got = without_descriptors(lambda: pool.map(die_at_three, range(10), errors="return"))
        error = check_one_failed(got, 3)
        assert isinstance(error, WorkerDiedError)
        assert error.started
        check_serves(pool)


def last_descriptors(method: str, error_name: str) -> None:
    """All workers are lost: the call ends, and the pool goes on when there is room again."""

    def lose_all(pool: Pool, workers: int) -> None:
        for _ in range(2):
            try:
                pool.map(die_at_three, [*[3] * workers, *range(4, 10)], errors="return", chunksize=1)
            except WorkerInitError as error:
                cause: Any = error.__cause__
                assert cause.errno == getattr(errno, error_name), repr(cause)
            else:
                raise AssertionError("there was a worker")

    for workers in (1, 2):
        with Pool(workers, start_method=method) as pool:
            check_serves(pool)
            WITHOUT_DESCRIPTORS[error_name](functools.partial(lose_all, pool, workers))
            check_serves(pool)


def kills(method: str, error_name: str) -> None:
    """A task is ended, and this process has no descriptor to look at processes with."""
    started = os.path.join(tempfile.gettempdir(), "started")
    without_descriptors = WITHOUT_DESCRIPTORS[error_name]
    with Pool(2, start_method=method) as pool:
        check_serves(pool)
        stay = functools.partial(stay_at_three, started)
        got = without_descriptors(
            lambda: pool.map(stay, range(10), errors="return", task_timeout=2.0, chunksize=1)
        )
        error = check_one_failed(got, 3)
        assert isinstance(error, TaskTimeoutError)
        check_serves(pool)
    # Found when there were descriptors again: no group's signal reaches it.
    gone([int(Path(started).read_text())])


def ends(method: str, error_name: str) -> None:
    """Pools end, one by itself and one by force, without a descriptor to look at processes with."""
    started = os.path.join(tempfile.gettempdir(), "started")
    finished, cut_off = Pool(2, start_method=method), Pool(2, start_method=method)
    for pool in (finished, cut_off):
        check_serves(pool)
    workers = [process.pid or 0 for pool in (finished, cut_off) for process in pool._pool]
    endless = cut_off.apply_async(stay_at_three, (started, 3))
    appears(Path(started))

    def end_both() -> None:
        finished.close()
        finished.join()
        cut_off.terminate()
        cut_off.join()

    WITHOUT_DESCRIPTORS[error_name](end_both)
    with contextlib.suppress(ClosedError):
        raise AssertionError(endless.get())
    gone(workers)
    # What has left its worker's group may live on until this program ends.


def processes(method: str, error_name: str) -> None:
    """A Process is asked and ended without a descriptor to look at processes with."""
    started = os.path.join(tempfile.gettempdir(), "started")
    process = parallelkit.get_context(method).Process(target=stay_at_three, args=(started, 3))
    process.start()
    appears(Path(started))

    def end() -> None:
        assert process.is_alive()
        assert process.exitcode is None
        process.terminate()
        process.join()

    WITHOUT_DESCRIPTORS[error_name](end)
    assert process.exitcode == -signal.SIGTERM
    # What it has started may live on until this program ends.


def stubborn_processes(method: str, error_name: str) -> None:
    """A Process that ignores SIGTERM is given its grace and killed, without a descriptor to look with."""
    started = os.path.join(tempfile.gettempdir(), "stubborn")
    process = parallelkit.get_context(method).Process(target=ignore_sigterm, args=(started,))
    process.start()
    appears(Path(started))
    WITHOUT_DESCRIPTORS[error_name](lambda: process.terminate(grace=0.2))
    process.join()
    assert process.exitcode == -signal.SIGKILL


def ignore_sigterm(started: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started).touch()
    time.sleep(1000)


def stay_at_three(started: str, x: int) -> int:
    if x == 3:
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
        with open(f"{started}.new", "w") as file:
            file.write(str(child.pid))
        os.rename(f"{started}.new", started)
        time.sleep(1000)
    return x


def new_pool(method: str, error_name: str) -> None:
    """There is no room for a pool at all: the call says so."""

    def make() -> None:
        try:
            Pool(1, start_method=method)
        except OSError as error:
            assert error.errno == getattr(errno, error_name), repr(error)  # noqa: PT017
        else:
            raise AssertionError("there was room")

    parallelkit.pool_map(abs, [1], start_method=method)
    WITHOUT_DESCRIPTORS[error_name](make)


def server(method: str) -> None:
    """The fork server is lost: the next worker has a new one, which tells of deaths as the first did."""
    with Pool(1, start_method=method) as pool:
        check_serves(pool)
        pid: Any = vars(multiprocessing.forkserver)["_forkserver"]._forkserver_pid
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        error = check_one_failed(pool.map(die_at_three, range(10), errors="return"), 3)
        assert isinstance(error, WorkerDiedError)
        check_serves(pool)


def die_at_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), 9)
    return x


def large_at_one(x: int) -> Any:
    return bytearray(LARGE) if x == 1 else x


def result(method: str) -> None:
    """A result does not fit into this process."""
    with Pool(2, start_method=method) as pool:
        check_serves(pool)
        with what_tasks.limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + LARGE // 2):
            got = pool.map(large_at_one, range(4), errors="return")
        error = check_one_failed(got, 1)
        assert isinstance(error, SerializationError)
        assert (error.what, error.index) == ("result", 1)
        assert isinstance(error.__cause__, MemoryError)
        check_serves(pool)


def bound_memory() -> None:
    resource.setrlimit(
        resource.RLIMIT_AS, (psutil.Process().memory_info().vms + LARGE // 2, resource.RLIM_INFINITY)
    )


def item(method: str) -> None:
    """An item does not fit into a worker: workers die of receiving it, but not for ever."""
    with Pool(2, start_method=method, initializer=bound_memory) as pool:
        items = iter(
            [b"", bytearray(LARGE), b"", b""]
        )  # a list would be inherited by a fork that comes later
        got = list(pool.imap(len, items, errors="return"))
        error = check_one_failed(got, 1, value=lambda _: 0)
        assert isinstance(error, WorkerDiedError)
        assert (error.index, error.started, error.exitcode) == (1, False, 1)
        check_serves(pool)


def disk(method: str) -> None:
    """The folder for temporary files is full."""
    folder = tempfile.gettempdir()
    with contextlib.suppress(OSError), open(os.path.join(folder, "all"), "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with Pool(2, start_method=method) as pool:
        for _ in range(2):
            got = pool.starmap(what_tasks.write_there, [(folder, x) for x in range(6)], errors="return")
            for error in check_failed(got, [1, 3, 5]):
                assert isinstance(error, OSError)
                assert error.errno == errno.ENOSPC
        assert pool.map(tasks.square, [2], errors="return") == [Success(0, 4)]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
