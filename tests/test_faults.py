"""One fault costs one item, in each start method; nothing hangs, nothing runs twice, nothing stays."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import tasks
from conftest import Counting

import parallelkit
from parallelkit import Failure, WorkerDiedError
from parallelkit.engines.processes.transport import Outbox


def _check_neighbours(outcomes: list[Any], bad: int, counting: Counting) -> BaseException:
    assert [outcome.index for outcome in outcomes] == list(range(len(outcomes)))
    for index, outcome in enumerate(outcomes):
        if index != bad:
            assert outcome.unwrap() == index
    assert counting.runs() == {str(index): 1 for index in range(len(outcomes))}
    failed = outcomes[bad]
    assert isinstance(failed, Failure)
    return failed.exception


@pytest.mark.parametrize("what", ["stuck", "stubborn"])
def test_task_timeout_costs_one_item(what: str, start_method: str, counting: Counting) -> None:
    work = functools.partial(tasks.count_and, str(counting.folder), what, 4)
    outcomes = parallelkit.pool_map(
        work,
        range(20),
        errors="return",
        start_method=start_method,
        max_workers=2,
        task_timeout=1.0,
        chunksize=10,
    )
    error = _check_neighbours(outcomes, 4, counting)
    assert isinstance(error, parallelkit.TaskTimeoutError)
    assert (error.index, error.timeout) == (4, 1.0)


def test_memory_limit_costs_one_item(start_method: str) -> None:
    outcomes = parallelkit.pool_map(
        tasks.grow, range(6), errors="return", start_method=start_method, memory_limit="200MB"
    )
    assert [outcome.ok for outcome in outcomes] == [True, True, False, True, True, True]
    error = outcomes[2].exception  # type: ignore[union-attr]
    assert isinstance(error, parallelkit.MemoryLimitError)
    assert (error.index, error.limit) == (2, 200_000_000)
    assert error.used > error.limit


def test_a_chunk_for_which_the_system_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = False
    send = Outbox.send

    def refuse(self: Outbox, parts: Any, carried: Any = None) -> None:
        nonlocal refused
        if not refused:
            refused = True
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        send(self, parts, carried)

    with parallelkit.Pool(1, start_method="fork") as pool:
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
        monkeypatch.setattr(Outbox, "send", refuse)
        assert pool.apply(tasks.square, (3,)) == 9  # the worker never had the chunk, so another one gets it
    assert refused


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_program_that_is_just_being_started_ends_with_its_worker(start_method: str, tmp_path: Path) -> None:
    with parallelkit.Pool(1, start_method=start_method) as pool:
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.start_slowly, (str(tmp_path),))
        _gone({int((tmp_path / "pid").read_text())})


def _gone(pids: set[int], patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while left := {pid for pid in pids if _alive(pid)}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


THREADED = """
import parallelkit, threading, time

lock = threading.Lock()

def task(x):
    with lock:
        return x

def hold(taken, over):
    with lock:
        taken.set()
        over.wait()

if __name__ == "__main__":
    with parallelkit.Pool(2, maxtasksperchild=1) as pool:
        taken, over = threading.Event(), threading.Event()
        thread = threading.Thread(target=hold, args=(taken, over))
        thread.start()
        taken.wait()
        print(pool.map_async(task, range(8)).get(30))
        over.set()
        thread.join()
"""


def test_workers_are_not_forked_beside_threads_that_came_later(tmp_path: Path) -> None:
    """A lock that a thread holds at a fork stays locked in the child for ever."""
    script = tmp_path / "threaded.py"
    script.write_text(THREADED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == (f"{list(range(8))}\n", "")


#: Without a parent, in a session of its own, and without an environment to be seen, as who sets its title.
_HIDING = """
import ctypes, os, subprocess, sys, time
if os.fork():
    os._exit(0)
os.setsid()
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
environment = dict(os.environ)
ctypes.memset(int(fields[47]), 0, int(fields[48]) - int(fields[47]))
child = subprocess.Popen(["sleep", "1000"], env=environment)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)
"""


def _start_who_hides(path: str) -> None:
    subprocess.run([sys.executable, "-c", _HIDING, path], check=True, stdout=subprocess.DEVNULL)
    while not os.path.exists(path):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_who_is_below_one_that_hides_its_mark_ends(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with pytest.raises(WorkerDiedError):
        parallelkit.pool_map(_start_who_hides, [str(path)], start_method="fork")
    hidden, child = map(int, path.read_text().split())
    try:
        _ended(child)
    finally:
        os.kill(hidden, signal.SIGKILL)


def _ended(pid: int, patience: float = 10.0) -> None:
    """Wait until a process has ended, though its parent may not have waited for it."""
    deadline = time.monotonic() + patience
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.005)
