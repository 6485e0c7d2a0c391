"""What the tests of `Process` run in processes: a module that a fresh interpreter imports quickly."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tasks

from parallelkit import CallTimeoutError, Pool, pool_map
from parallelkit.process import ForkProcess, ForkServerProcess, Process, SpawnProcess

CLASSES: dict[str, type[Process[Any]]] = {
    "fork": ForkProcess,
    "forkserver": ForkServerProcess,
    "spawn": SpawnProcess,
}


#: Never reached unless something hangs, in seconds.
LONG = 40.0


def wait_until_gone(pid: int) -> None:
    """Return when process `pid` is dead; fail where that takes too long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(LONG * 1000), f"process {pid} lives on"
    finally:
        os.close(descriptor)


def reader_of(connection: Connection[Any, Any]) -> Any:
    return connection.recv()


def end_with(code: int | None) -> None:
    if code is not None:
        os._exit(code)


def happen(what: str) -> None:
    if what == "trap":
        os.kill(os.getpid(), signal.SIGTRAP)
    tasks.happen(what)


def note_loading(folder: str) -> str:
    with open(Path(folder, "loaded"), "a") as file:
        file.write("x")
    return "rebuilt"


class Noted:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return note_loading, (self.folder,)


class Unloadable:
    """Raises while it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def fork_and_return() -> str:
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    return "parent"


class Late(Process[int]):
    def __init__(self, factor: int) -> None:
        self.factor = factor
        super().__init__(name="late")

    def run(self) -> int:
        return self.factor * 2


class ByHand(Process[str]):
    def __init__(self) -> None:
        self.word = "hand"
        Process.__init__(self)

    def run(self) -> str:
        return self.word


#: What nobody may write to but their owner; open until the process ends.
_files: list[Any] = []


def daemonize(folder: str, *, fails: bool) -> str:
    """Close all descriptors, as a daemon does, and open own files under their numbers."""
    os.closerange(3, 256)
    _files.extend(open(f"{folder}/{number}", "w+") for number in range(20))  # noqa: SIM115
    for file in _files:
        file.write("precious")
        file.flush()
    sys.stderr = sys.__stderr__  # pytest's is one of those that were closed
    if fails:
        raise ZeroDivisionError("as a daemon")
    return "done"


def stand_in() -> str:
    return "assigned"


def who() -> tuple[Any, ...]:
    me = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    assert parent is not None
    return me.name, type(me).__name__, me.pid, parent.pid, os.getpgrp(), bytes(me.authkey), me.daemon


def ask_from_outside(process: Process[Any]) -> tuple[str, str, int | None]:
    names = []
    for ask in (process.result, process.join):
        try:
            ask()
        except Exception as error:
            names.append(type(error).__name__)
    return names[0], names[1], process.exitcode


def outlive_fork_server() -> None:
    from multiprocessing import forkserver

    reader, writer = multiprocessing.Pipe(duplex=False)
    process = ForkServerProcess(target=reader_of, args=(reader,))
    process.start()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    wait_until_gone(server)
    try:
        process.result(0.01)
    except CallTimeoutError:
        pass
    else:
        raise AssertionError("it has not ended")
    assert process.is_alive()
    writer.send("still here")
    assert process.result(LONG) == "still here"
    assert process.exitcode == 0
    with ForkServerProcess(target=abs, args=(-2,)) as later:
        pass
    assert later.result() == 2


def sleeper(connection: Any, *, stubborn: bool = False) -> None:
    """Tell of this process, and sleep."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(os.getpid())
    while True:
        time.sleep(3600)


def program(connection: Any, *, session: bool) -> subprocess.Popen[bytes]:
    """Start a program that sleeps, and tell of it."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(3600)"], start_new_session=session
    )
    connection.send(child.pid)
    return child


def family(connection: Any, how: str) -> None:
    """Become the father of one who sleeps, in the way that `how` says; and wait."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if how == "process":
        Process(target=sleeper, args=(connection,)).start()
    elif how == "stubborn":
        Process(target=sleeper, args=(connection,), kwargs={"stubborn": True}, daemon=True).start()
    elif how == "program":
        program(connection, session=False)
    elif how == "orphaned program":
        middle = os.fork()
        if middle == 0:
            program(connection, session=True)
            os._exit(0)
        os.waitpid(middle, 0)
    elif how == "orphaned fork":
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                os.setsid()
                sleeper(connection)
            os._exit(0)
        os.waitpid(middle, 0)
    elif how == "killed middle":
        middle_process = Process(target=family, args=(connection, "program"))
        middle_process.start()
        connection.send(middle_process.pid)
    connection.send(0)  # after all others
    time.sleep(3600)


def multiply(connection: Any) -> None:
    """Fork all the time, also in the children, each of which lives on when its parent is dead."""
    for _ in range(200):
        connection.send(os.getpid())
        if os.fork() == 0:
            time.sleep(0.01)
            if os.fork() == 0:
                sleeper(connection)
            os._exit(0)
    sleeper(connection)


def leave_behind(connection: Any) -> str:
    if os.fork() == 0:
        sleeper(connection)
    return "left"


def have_child(depth: int) -> int:
    if depth == 0:
        return 11
    assert multiprocessing.current_process().daemon
    with Process(target=have_child, args=(depth - 1,)) as child:
        assert child.daemon  # as with multiprocessing, it takes after its parent
    return child.result() + 1


def have_pool() -> list[int]:
    assert multiprocessing.current_process().daemon
    with Pool(2) as pool:
        return [*pool_map(tasks.square, [1], max_workers=2), pool.apply(tasks.square, (2,))]


def start_slow_one(folder: str) -> None:
    """Start a program that cleans up when it gets SIGTERM, and takes its time."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    script = "trap 'sleep 0.3; echo > \"cleaned up\"; exit' TERM; echo > ready; while :; do sleep 0.02; done"
    subprocess.Popen(["sh", "-c", script], cwd=folder).wait()


def take_time() -> str:
    time.sleep(0.2)
    return "slow"


class Slow:
    def __reduce__(self) -> tuple[Any, ...]:
        return take_time, ()
