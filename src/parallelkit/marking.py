"""Finds what a process has started also where no parent leads there any more.

A process whose parent ended is handed to process 1, and `/proc` does not say where it came from. A process
group would tell, but a process of its own group does not get the terminal's Ctrl-C, and who begins a session
leaves the group. So each `Process` and each worker of a pool wears a mark, which what it starts inherits in
one of two ways:

    a program that it starts       by an environment variable, which a new session does not shed
    a copy of it, made by fork     by an open descriptor, whose name is the mark

Where there is no `/proc`, nothing is found, and the descendants are all that is known. Nor is a program
found that was started with an environment of its own making, and lost its parent.

There is a moment at which neither is to be seen: a copy has closed its descriptors and has not become the
program yet. Who could be at that (it is new, and was handed to a process above this one) is looked at again.

A look at all processes takes 1 ms or more for 100 of them. So it is done after a death, and not where a
worker ends as it was told to.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Collection
from multiprocessing import process
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from . import termination
from ._guardian_main import MARK_NAME, snapshot, wearing
from .resources import Pid

if TYPE_CHECKING:
    from ._guardian_main import Table

#: The marks of a process and of those above it, outermost first.
VARIABLE = "PARALLELKIT_MARKS"
#: Who starts others faster than they are found is given up after so many looks.
_ROUNDS = 10
#: Who is older, and wears no mark, is none of ours; in seconds.
_UNSURE_SECONDS = 0.1
_PAUSE_SECONDS = 0.002


def new() -> str:
    """A mark that no other process wears: 62 bits, in hexadecimal.

    >>> new() == new()
    False
    """
    return f"{int.from_bytes(os.urandom(8), 'big') >> 2:016x}"


def wear(mark: str) -> None:
    """From now on, what this process starts can be found by `mark`."""
    outer = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = f"{outer}:{mark}" if outer else mark
    # Without one, what is forked and loses its parent is not found.
    with contextlib.suppress(AttributeError, OSError):
        os.memfd_create(MARK_NAME + mark, os.MFD_CLOEXEC)  # which stays open for good


def now() -> float:
    """The present as a start time, for `since`; 0.0 where nothing is found anyway."""
    if not sys.platform.startswith("linux"):
        return 0.0
    return math.floor(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def find(marks: Collection[str], since: float) -> list[Pid]:
    """Who wears one of `marks` and has lost the parent by which it could be found.

    None of them is older than `since`, a start time. OSError where no descriptor is left to look with.
    """
    return _look(marks, since)[0]


def kill(marks: Collection[str], since: float) -> set[int] | None:
    """SIGKILL to who is found, with all descendants, until nobody new is; waits for none.

    Returns who got it. None where nobody could be looked for, as this process has no descriptor left for it.
    """
    seen: set[int] = set()
    rounds, deadline = 0, time.monotonic() + _UNSURE_SECONDS
    while rounds < _ROUNDS:
        try:
            found, unsure = _look(marks, since)
            new = [pid for pid in found if pid not in seen]
            if new:
                seen.update(termination.signal_seen(new[0], signal.SIGKILL, new[1:]), new)
        except OSError:
            return None
        if new:
            rounds += 1
        elif unsure and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        else:
            break
    return seen


def _look(marks: Collection[str], since: float) -> tuple[list[Pid], bool]:
    """Who wears one of `marks`, and whether there is somebody of whom that cannot be told yet."""
    if not sys.platform.startswith("linux"):
        return [], False
    table = snapshot()
    if os.getpid() not in table:
        return [], False  # there is no /proc, or that of another pid namespace
    # Whoever has one of these for its parent may have lost another. All others are found by their parents,
    # but for those below one that hides its mark. So a look costs little beside hundreds of processes.
    above = _above(table)
    children: set[BaseProcess] = process._children  # type: ignore[attr-defined]
    known = {os.getpid(), *(child.pid for child in list(children))}
    below: dict[int, list[int]] = {}
    for pid, entry in table.items():
        below.setdefault(entry[0], []).append(pid)
    parents = {*above, os.getpid()}
    orphans = [pid for parent in parents for pid in below.get(parent, ()) if pid not in known]
    young = [pid for pid in orphans if table[pid][4] >= since]
    for pid in young:  # which grows meanwhile
        young += below.get(pid, ())
    found = wearing({pid: table[pid] for pid in young}, marks, since)
    youngest = max(since, now() - _UNSURE_SECONDS * os.sysconf("SC_CLK_TCK"))
    unsure = any(
        entry[0] in above and entry[4] >= youngest and entry[3] not in "ZX" and pid not in found
        for pid, entry in ((pid, table[pid]) for pid in orphans)
    )
    return [Pid(pid, entry[4]) for pid, entry in found.items()], unsure


def _above(table: Table) -> set[int]:
    """The parent of this process, that one's parent and so on: who gets a process without a parent."""
    above = {1}  # also of a process that was put into a container from outside, and has no parent there
    pid = os.getppid()
    while pid in table and pid not in above:
        above.add(pid)
        pid = table[pid][0]
    return above
