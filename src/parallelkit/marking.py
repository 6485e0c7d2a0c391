"""Finds what a process has started also where no parent leads there any more.

A process whose parent ended is handed to process 1, and `/proc` does not say where it came from. A process
group would tell, but a process of its own group does not get the terminal's Ctrl-C, and who begins a session
leaves the group. So each `Process` and each worker of a pool wears a mark, which what it starts inherits in
one of two ways:

    a program that it starts       by an environment variable, which a new session does not shed
    a copy of it, made by fork     by an open descriptor, whose name is the mark

Where there is no `/proc`, nothing is found, and the descendants are all that is known. Nor is a program
found that was started with an environment of its own making, and lost its parent.

A look at all processes takes 1 ms or more for 100 of them. So it is done after a death, and not where a
worker ends as it was told to.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Collection

from . import termination
from ._guardian_main import MARK_NAME, snapshot, wearing
from .resources import Pid

#: The marks of a process and of those above it, outermost first.
VARIABLE = "PARALLELKIT_MARKS"
#: Who starts others faster than they are found is given up after so many looks.
_ROUNDS = 10


def new() -> str:
    """A mark that no other process wears: 62 bits, in hexadecimal.

    >>> new() == new()
    False
    """
    return f"{secrets.randbits(62):016x}"


def wear(mark: str) -> None:
    """From now on, what this process starts can be found by `mark`."""
    outer = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = f"{outer}:{mark}" if outer else mark
    # Without one, what is forked and loses its parent is not found.
    with contextlib.suppress(AttributeError, OSError):
        os.memfd_create(MARK_NAME + mark, os.MFD_CLOEXEC)  # which stays open for good


def find(marks: Collection[str], since: float, spared: Collection[int] = ()) -> list[Pid]:
    """Who wears one of `marks`, this process and those in `spared` left out.

    None of them is older than `since`, a start time.
    """
    if not sys.platform.startswith("linux"):
        return []
    table = snapshot()
    for pid in spared:
        table.pop(pid, None)
    return [Pid(pid, entry[4]) for pid, entry in wearing(table, marks, since).items()]


def kill(marks: Collection[str], since: float, spared: Collection[int] = ()) -> None:
    """SIGKILL to who is found, with all descendants, until nobody new is; waits for none."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        found = [pid for pid in find(marks, since, spared) if pid not in seen]
        if not found:
            return
        seen.update(termination.signal_tree(found[0], signal.SIGKILL, found[1:]), found)
