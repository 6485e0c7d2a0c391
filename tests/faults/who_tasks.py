"""Tasks by which one process of a pool strikes another."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tasks

import parallelkit
from parallelkit import Failure, WorkerDiedError


def appears(path: Path) -> Path:
    """Wait until a file is there. As in `checks`, which takes a fresh interpreter long to import."""
    while not path.exists():
        time.sleep(0.002)
    return path


def announce(folder: str, x: int) -> None:
    """Note that item `x` runs, in which process, and how often it did."""
    with open(Path(folder, f"ran-{x}"), "a") as file:
        file.write("x")
    whole = Path(folder, f"pid-{x}")
    whole.with_suffix(".new").write_text(str(os.getpid()))
    whole.with_suffix(".new").rename(whole)


def pid_of(folder: str, x: int) -> int:
    """The process that item `x` runs in, once it does."""
    return int(appears(Path(folder, f"pid-{x}")).read_text())


def strike(folder: str, victims: tuple[int, ...], striker: int, x: int) -> int:
    """Item `striker` kills the processes in which the items `victims` run, its own last."""
    announce(folder, x)
    if x == striker:
        # Known of all before the first is struck: by another's death nobody is started anew in between.
        pids = [pid_of(folder, victim) for victim in victims]
        for pid in sorted(pids, key=os.getpid().__eq__):
            os.kill(pid, signal.SIGKILL)
    elif x in victims:
        tasks.wait_for_ever()
    return x


def count_from(folder: str, first: int, x: int) -> int:
    announce(folder, first + x)
    return x


def large_result(folder: str, size: int, large: int, out_of_band: bool, x: int) -> Any:
    announce(folder, x)
    if x != large:
        return x
    return pickle.PickleBuffer(bytearray(size)) if out_of_band else bytes(size)


def large_result_when_told(folder: str, size: int, large: int, x: int) -> Any:
    announce(folder, x)
    if x != large:
        return x
    appears(Path(folder, "told"))
    return bytes(size)


def be_stillborn(*_: object, **__: object) -> None:
    """In the place of a worker's main function."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_first(folder: str, times: int) -> None:
    """An initializer that is killed where it runs for the first `times` times."""
    for number in range(times):
        with contextlib.suppress(FileExistsError):
            Path(folder, f"began-{number}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


def hold_descriptors(folder: str, what: str, bad: int, x: int) -> int:
    """At item `bad` leave a child that has all descriptors of its worker, out of its group and session."""
    announce(folder, x)
    if x == bad:
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(tell, b"x")
            tasks.wait_for_ever()
        os.read(ready, 1)
        os.close(ready)
        os.close(tell)
        Path(folder, "holder.new").write_text(str(child))
        Path(folder, "holder.new").rename(Path(folder, "holder"))
        tasks.happen(what)
    return x


def with_child(folder: str, x: int) -> int:
    """Item 0 starts a program and returns its exit code; item 1 kills that program."""
    announce(folder, x)
    if x == 0:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as child:
            Path(folder, "child.new").write_text(str(child.pid))
            Path(folder, "child.new").rename(Path(folder, "child"))
            return child.wait()
    if x == 1:
        os.kill(int(appears(Path(folder, "child")).read_text()), signal.SIGKILL)
    return x


def with_pool(method: str, folder: str, x: int) -> list[int]:
    """Item 0 has a pool of its own, a worker of which is killed: which of its items were lost."""
    announce(folder, x)
    if x != 0:
        return [x]
    inside = parallelkit.pool_map(
        tasks.happen, ["", "kill", ""], errors="return", start_method=method, max_workers=2
    )
    assert all(type(o.exception) is WorkerDiedError for o in inside if isinstance(o, Failure))
    return [outcome.index for outcome in inside if isinstance(outcome, Failure)]


def leave_family(folder: str, x: str, *, stubborn: bool = False) -> None:
    """Start a program in the same group, a copy in a session of its own, and an orphan; then never return.

    All ignore what can be ignored, and so does the worker where it is `stubborn`. Their ids, and first
    the worker's own, come up in the file `family-x`.
    """
    ignore = "trap '' TERM INT HUP"
    program = subprocess.Popen(["sh", "-c", f"{ignore}; exec sleep 3600"])
    shell = ["sh", "-c", f"{ignore}; setsid sleep 3600 > /dev/null 2>&1 & echo $!"]
    orphan = subprocess.check_output(shell, text=True).strip()
    copy = os.fork()
    if not copy:
        os.setsid()
    if stubborn or not copy:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    if copy:
        family = Path(folder, f"family-{x}")
        family.with_suffix(".new").write_text(f"{os.getpid()} {program.pid} {copy} {orphan}")
        family.with_suffix(".new").rename(family)
    tasks.wait_for_ever()


def family(folder: str | Path, x: str) -> set[int]:
    """The processes of `leave_family`, once they are all there."""
    return {int(pid) for pid in appears(Path(folder, f"family-{x}")).read_text().split()}
