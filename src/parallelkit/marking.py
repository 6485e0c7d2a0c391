"""Finds what a process has started also where no parent leads there any more.

A process whose parent ended is handed to process 1, and `/proc` does not say where it came from. A process
group would tell, but a process of its own group does not get the terminal's Ctrl-C. So each `Process`
wears a mark, which what it starts inherits in one of two ways:

    a program that it starts       by an environment variable, which a new session does not shed
    a copy of it, made by fork     by an open descriptor, whose name is the mark

Where there is no `/proc`, nothing is found, and the descendants are all that is known. Nor is a program
found that was started with an environment of its own making, and lost its parent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys

from ._guardian_main import MARK_NAME, snapshot, wearing
from .resources import Pid

#: The marks of a process and of those above it, outermost first.
VARIABLE = "PARALLELKIT_MARKS"


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


def find(mark: str, since: float) -> list[Pid]:
    """Who wears `mark`, this process left out. None of them is older than `since`, a start time."""
    if not sys.platform.startswith("linux"):
        return []
    return [Pid(pid, entry[4]) for pid, entry in wearing(snapshot(), (mark,), since).items()]
