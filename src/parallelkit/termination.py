"""Ending processes together with everything that they have started."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NoReturn, Protocol

from . import resources
from ._guardian_main import family, snapshot
from .resources import Pid, is_alive, seems_alive

if TYPE_CHECKING:
    from ._guardian_main import Entry, Table

#: Who survives SIGKILL for so long, in seconds, is blocked in the kernel.
_KILL_SECONDS = 10.0


class ProcessLike(Protocol):
    """`multiprocessing.Process`, `subprocess.Popen`, `psutil.Process`: whatever has a process id."""

    @property
    def pid(self) -> int | None:
        """The process id; None where it was not started yet."""


def terminate_tree(process_or_pid: int | ProcessLike, *, grace: float = 1.0) -> None:
    """End a process and everything that it has started, and return when all of it is gone.

    SIGTERM first, and SIGKILL after `grace` seconds to what is left. "Everything" is the process, its
    descendants, and who is in a process group or a session that one of these leads: that is how
    processes are found whose parent has ended. This process itself is left out.

    A process that has ended already is no error. The exit code of one given as an object is fetched,
    so that no zombie stays; one given by its id stays a zombie until its parent waits for it.

    Raises TypeError for what is no process; ValueError for this process itself, for process 1 and for
    a process not started yet; PermissionError where a process belongs to another user; TimeoutError
    where one is so blocked in the kernel that it is there 10 seconds after SIGKILL; another OSError
    where there is no descriptor left to look for processes with.

    >>> import subprocess
    >>> shell = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"])
    >>> terminate_tree(shell)
    >>> shell.returncode
    -15
    """
    if isinstance(grace, bool) or not hasattr(grace, "__float__"):
        raise TypeError(f"grace must be a number of seconds, not {grace!r}")
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace must be a number of seconds, 0 or above, not {grace!r}")
    pid = _pid_of(process_or_pid)
    tree = _Tree(pid, reaped=_is_reaped(process_or_pid))
    tree.terminate(grace)
    tree.kill()
    _reap(process_or_pid)


def _pid_of(process: int | ProcessLike) -> int:
    pid = process if isinstance(process, int) else getattr(process, "pid", False)
    if pid is None:
        raise ValueError(f"{process!r} has not been started")
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(
            f"a process or a process id is needed, such as a multiprocessing.Process, a "
            f"subprocess.Popen or an int, not {process!r}"
        )
    _check(pid)
    return pid


def _check(pid: int) -> None:
    if pid <= 1:
        raise ValueError(f"process {pid} is not to be ended: a process id above 1 is needed")
    if pid == os.getpid():
        raise ValueError("a process cannot end its own tree: os._exit and kill_own_tree end it")


def _is_reaped(process: object) -> bool:
    """Whether it is known that the process is gone, so that its id may be that of another one."""
    running = getattr(process, "is_running", None)  # psutil's
    if callable(running):
        return not running()
    popen = getattr(process, "_popen", process)  # multiprocessing keeps the code one level down
    return getattr(popen, "returncode", None) is not None


def _reap(process: object) -> None:
    """Fetch the exit code through the object that is in charge of it."""
    poll = getattr(process, "poll", None)
    join = getattr(process, "join", None)
    if callable(poll):
        poll()
    elif callable(join):
        with contextlib.suppress(AssertionError):  # another process is its parent
            join(1.0)  # a fork server passes the code on, which takes a moment


class _Tree:
    """A process and what belongs to it, as far as it has been seen."""

    def __init__(self, pid: int, *, reaped: bool) -> None:
        table = _table()
        entry = table.get(pid)
        if entry is None:
            # What it left in its group is found by the id, which is not given away while there is any.
            self._known: dict[int, float] = {pid: -1.0}
        else:
            self._known = {} if reaped else {pid: entry[4]}
        self._out_of_reach: dict[int, float] = {}
        # In our own group and session are others than those that this tree has started.
        self._spared = {os.getpgrp(), os.getsid(0)}

    def _look(self) -> dict[int, Entry]:
        """Who is alive."""
        found = family(_table(), self._known, self._spared) if self._known else {}
        found.pop(os.getpid(), None)
        self._known.update((pid, entry[4]) for pid, entry in found.items())
        return found

    def _send(self, pids: Iterable[int], signum: int) -> None:
        for pid in pids:
            try:
                _send(Pid(pid, self._known[pid]), signum)
            except PermissionError:
                self._out_of_reach[pid] = self._known[pid]

    def terminate(self, grace: float) -> None:
        """SIGTERM to all, and wait until they are gone or the time is up."""
        found = self._look()
        deadline = time.monotonic() + grace
        self._send(found, signal.SIGTERM)
        # A stopped process does not get its signals until it goes on.
        self._send((pid for pid, entry in found.items() if entry[3] == "T"), signal.SIGCONT)
        self._wait(found, deadline)

    def kill(self) -> None:
        """SIGKILL to all, also to those that they start meanwhile, until they are gone."""
        deadline = time.monotonic() + _KILL_SECONDS
        while True:
            left = [pid for pid in self._look() if pid not in self._out_of_reach]
            if not left:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"processes {left} are there {_KILL_SECONDS:g} s after SIGKILL: they are blocked "
                    "in the kernel, and end when they are not any more"
                )
            self._send(left, signal.SIGKILL)
            self._wait(left, min(deadline, time.monotonic() + 1.0))
        blocked = [pid for pid, t in self._out_of_reach.items() if is_alive(Pid(pid, t))]
        if blocked:
            raise PermissionError(f"processes {blocked} belong to another user and cannot be ended")

    def _wait(self, pids: Collection[int], deadline: float) -> None:
        for pid in pids:
            if pid not in self._out_of_reach:
                _wait(Pid(pid, self._known[pid]), deadline)


def _table() -> Table:
    return snapshot() if sys.platform.startswith("linux") else _table_by_psutil()


def _table_by_psutil() -> Table:
    import psutil

    table: Table = {}
    states = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():
            pid = process.pid
            state = states.get(process.status(), "S")
            group, session = os.getpgid(pid), os.getsid(pid)
            table[pid] = process.ppid(), group, session, state, process.create_time()
    return table


def _wait(pid: int, deadline: float) -> None:
    """Wait until the process is dead or the time is up, without taking its exit status."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # there is no pidfd here, or no room for one
        while seems_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        return
    try:
        if seems_alive(pid):  # looked at after the opening, so the descriptor is that process's
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(descriptor)


def wait_for_all(pids: Iterable[int], deadline: float) -> None:
    """Wait until these are dead or the time is up: who is blocked in the kernel may need longer."""
    for pid in pids:
        _wait(pid, deadline)


def _send(pid: int, signum: int) -> bool:
    """Send a signal to a process if it is alive. PermissionError where it is another user's."""
    try:
        return _send_by_descriptor(pid, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise
    except (AttributeError, OSError):  # there is no pidfd here, or no room for it and a look
        if not is_alive(pid):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        return True


def _send_by_descriptor(pid: int, signum: int) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        # Looked at after the opening, so that it is that process and no later one that gets it.
        if not is_alive(pid):
            return False
        signal.pidfd_send_signal(descriptor, signum)
        return True
    finally:
        os.close(descriptor)


def signal_tree(pid: int, signum: int, known: Iterable[int] = ()) -> list[int]:
    """Send a signal to a process, its process group if it leads one, and its descendants; wait for none.

    `known` are more processes, with their descendants, such as this function has returned before: by the
    second signal, some may have lost the parent by which they could be found. A `Pid` is not mistaken
    for a later process with the same id. SIGKILL is sent until no new descendant shows up, and SIGTERM
    with SIGCONT to who is stopped. Returns who got the signal, as `Pid`s; processes of other users are
    passed over. Where this process has no descriptor left to look with, the signal goes to the group alone.
    """
    try:
        return signal_seen(pid, signum, known)
    except OSError:
        signal_unseen(pid, signum)
        return []


def signal_seen(pid: int, signum: int, known: Iterable[int] = ()) -> list[int]:
    """As `signal_tree`, but OSError where this process has no descriptor left to look with.

    Then some or none of them have got the signal.
    """
    _check(pid)
    seen: set[int] = set()
    told: list[int] = []
    found = _trees([pid, *known])
    grouped = _leads_group(pid)
    while found:
        # The group first: a signal to it misses nobody who is just being forked.
        if grouped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signum)
        for each in found:
            seen.add(each)
            # Once is enough: a handler may take a second signal for something else.
            once = grouped and signum != signal.SIGKILL and _group_of(each) == pid
            with contextlib.suppress(PermissionError):
                if not once:
                    _send(each, signum)
                told.append(each)
        if signum == signal.SIGTERM:
            _wake(told)
        if signum != signal.SIGKILL:
            break
        found = [new for new in _trees(seen) if new not in seen]
    return told


def signal_unseen(pid: int, signum: int) -> None:
    """Send a signal to a child that was not waited for, with its process group if it leads one.

    Needs no descriptor. Nothing happens for a `Pid`: by now its number may be another process's.
    """
    if isinstance(pid, Pid):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _leads_group(pid):
            os.killpg(pid, signum)
        else:
            os.kill(pid, signum)


def _wake(pids: Iterable[int]) -> None:
    """Let stopped processes go on: until then they do not get their signals."""
    for pid in pids:
        if resources.is_stopped(pid):
            with contextlib.suppress(PermissionError):
                _send(pid, signal.SIGCONT)


def _trees(pids: Iterable[int]) -> list[int]:
    """These processes, as far as they are alive, and their descendants; parents come first."""
    found: dict[int, int] = {}
    for pid in pids:
        root = resources.identity(pid)
        if root is None:
            continue
        for each in (root, *resources.descendants(root)):
            if is_alive(each):
                found.setdefault(each, each)
    found.pop(os.getpid(), None)
    return list(found.values())


def _leads_group(pid: int) -> bool:
    return _group_of(pid) == pid != os.getpgrp()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def group_members(groups: Iterable[int]) -> list[int]:
    """Who is alive in these process groups and may be signalled, as `Pid`s.

    All processes are looked at only where a group has members, which may be zombies.
    """
    left = [pgid for pgid in groups if _may_signal(os.killpg, pgid)]
    if not left:
        return []
    return [
        Pid(pid, entry[4])
        for pid, entry in _table().items()
        if entry[1] in left and entry[3] not in "ZX" and _may_signal(os.kill, pid)
    ]


def _may_signal(kill: Callable[[int, int], None], number: int) -> bool:
    try:
        kill(number, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_group(pgid: int) -> None:
    """SIGKILL to a process group, if there is such a group; never to this process's own."""
    if pgid > 1 and pgid != os.getpgrp():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, signal.SIGKILL)


def kill_own_tree() -> NoReturn:
    """End everything that this process has started, its process group if it leads one, and itself.

    For a worker whose owner is gone. No cleanup runs, as with any SIGKILL.
    """
    me = os.getpid()
    seen: set[int] = set()
    with contextlib.suppress(OSError):  # no descriptor is left to look with
        while found := [pid for pid in resources.descendants(me) if pid not in seen]:
            for pid in found:
                with contextlib.suppress(PermissionError):
                    _send(pid, signal.SIGKILL)
            seen.update(found)
    if os.getpgrp() == me:
        os.killpg(me, signal.SIGKILL)
    os.kill(me, signal.SIGKILL)
    os._exit(1)  # not reached; for the type checker
