"""A program that runs short of something, `WHAT` by `START_METHOD`, and says "done" where all went well."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.forkserver
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import psutil
import tasks

import parallelkit
from faults import what_tasks
from faults.checks import check_failed, check_one_failed
from parallelkit import Pool, SerializationError, Success, WorkerDiedError, WorkerInitError

LARGE = 256 << 20


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """All that this process may have are in use."""
    most = max(map(int, os.listdir("/proc/self/fd"))) + 20
    held: list[int] = []
    with what_tasks.limit(resource.RLIMIT_NOFILE, most):
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        try:
            yield
        finally:
            for descriptor in held:
                os.close(descriptor)


def check_serves(pool: Pool) -> None:
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]


def descriptors(method: str) -> None:
    """A worker is lost, and no other can be had: those that are left do the work."""
    with Pool(2, start_method=method) as pool:
        check_serves(pool)
        with no_descriptors():
            got = pool.map(die_at_three, range(10), errors="return")
        error = check_one_failed(got, 3)
        assert isinstance(error, WorkerDiedError)
        assert error.started
        check_serves(pool)


def last_descriptors(method: str) -> None:
    """The only worker is lost: the call ends, and the pool goes on when there is room again."""
    with Pool(1, start_method=method) as pool:
        check_serves(pool)
        with no_descriptors():
            for _ in range(2):
                try:
                    pool.map(die_at_three, range(3, 10), errors="return")
                except WorkerInitError as error:
                    cause: Any = error.__cause__
                    assert cause.errno == errno.EMFILE, repr(cause)
                else:
                    raise AssertionError("there was a worker")
        check_serves(pool)


def new_pool(method: str) -> None:
    """There is no room for a pool at all: the call says so."""
    parallelkit.pool_map(abs, [1], start_method=method)
    with no_descriptors():
        try:
            Pool(1, start_method=method)
        except OSError as error:
            assert error.errno == errno.EMFILE, repr(error)  # noqa: PT017
        else:
            raise AssertionError("there was room")


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
    globals()[sys.argv[1]](sys.argv[2])
    print("done")
