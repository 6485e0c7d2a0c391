from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

# Where byte code is not kept, each worker of spawn would compile the library anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import parallelkit.guardian  # noqa: E402

# A shell that starts the tests in the background has them ignore a Ctrl-C, and what they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("parallelkit", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("parallelkit")

#: Has no tests of its own, and classes that do not let themselves be looked at.
collect_ignore = ["tasks.py"]


def pytest_collection_finish() -> None:
    # What is there now stays: no collection need look through it, here and in forks.
    gc.collect()
    gc.freeze()


START_METHODS = multiprocessing.get_all_start_methods()
#: What multiprocessing starts once for a whole program.
_LASTING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
#: What is being ended may take so long until it is gone, in seconds.
_PATIENCE = 5.0
#: What is left so long may be garbage that nobody has collected yet, in seconds.
_GARBAGE_PATIENCE = 0.02


def _processes() -> set[int]:
    found = set()
    for pid, above in _descendants(os.getpid()):
        if pid == parallelkit.guardian.pid():
            continue  # lasts as long as the program, and its start would be half the cost of a short test
        command = _command(pid)
        # A fork server's own children have its command line, too, but not its parent.
        lasting = any(name in command for name in _LASTING)
        if command and not (lasting and not any(name in _command(above) for name in _LASTING)):
            found.add(pid)
    return found


def _descendants(pid: int) -> Iterator[tuple[int, int]]:
    """The processes below one, each with its parent. (psutil looks at all of the machine for that.)"""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        children = " ".join(Path(f"/proc/{pid}/task/{thread}/children").read_text() for thread in threads)
    except OSError:
        return
    for child in map(int, children.split()):
        yield child, pid
        yield from _descendants(child)


def _command(pid: int) -> str:
    """Its command line; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _state() -> dict[str, set[Any]]:
    guardian = parallelkit.guardian._guardian
    guardians = None if guardian is None else str(guardian.socket.fileno())
    descriptors = {
        f"{name} -> {target}"
        for name in os.listdir("/proc/self/fd")
        if name != guardians and (target := _target(f"/proc/self/fd/{name}"))
    }
    return {
        "processes": _processes(),
        "watched": set(parallelkit.guardian._watched),
        "threads": {t.name for t in threading.enumerate() if not t.name.startswith("ThreadPool")},
        "descriptors": descriptors,
        "shared memory": {entry.name for entry in os.scandir("/dev/shm") if entry.is_file()}
        if os.path.isdir("/dev/shm")
        else set(),
    }


def _others_shared_memory() -> set[str]:
    """What other programs on this machine have in use there."""
    me = psutil.Process()
    ours = {me.pid, *(child.pid for child in me.children(recursive=True))}
    found: set[str] = set()
    for pid in set(psutil.pids()) - ours:
        try:
            with open(f"/proc/{pid}/maps") as maps:
                found.update(re.findall(r" /dev/shm/(\S+)", maps.read()))
        except OSError:
            continue
    return found


def _target(path: str) -> str:
    try:
        target = os.readlink(path)
    except OSError:
        return ""
    return "" if target.startswith("/proc") else target


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test ends with the processes, threads, descriptors and segments that it began with."""
    # The fork server and the resource tracker are started once, and not by the test that is looked at.
    _start_lasting()
    before = _state()
    yield
    deadline, garbage_at = time.monotonic() + _PATIENCE, time.monotonic() + _GARBAGE_PATIENCE
    still = {kind: entries - before[kind] for kind, entries in _state().items()}
    while any(still.values()):
        # What is left was there at each look: others on this machine make and drop semaphores, too.
        after = _state()
        still = {kind: entries & after[kind] for kind, entries in still.items()}
        left = {kind: entries for kind, entries in still.items() if entries}
        if not left:
            return
        if time.monotonic() > garbage_at:
            gc.collect()  # each time: what is collected may hold more
        if time.monotonic() > deadline:
            still["shared memory"] -= _others_shared_memory()
            if any(still.values()):
                pytest.fail(f"left behind: {left}")
        time.sleep(0.005)


_lasting_started = False


def _start_lasting() -> None:
    global _lasting_started
    if not _lasting_started:
        _lasting_started = True
        for method in ("forkserver", "spawn"):
            parallelkit.pool_map(abs, [1], start_method=method)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*START_METHODS, "threads", "serial"])
def engine(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options that choose an engine: the processes engine with each start method, and the others."""
    if request.param in START_METHODS:
        return {"engine": "processes", "start_method": request.param}
    return {"engine": request.param}


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    """Tasks that count their runs in files, so that what ran twice is seen from outside."""
    return Counting(tmp_path)


class Counting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, item: object) -> None:
        with open(self.folder / f"ran-{item}", "a") as file:
            file.write("x")

    def runs(self) -> dict[str, int]:
        sizes = {path.name.removeprefix("ran-"): path.stat().st_size for path in self.folder.glob("ran-*")}
        return {name: size for name, size in sizes.items() if size}  # others are just being written
