"""Finds what a process has started also where no parent leads there any more.

A process whose parent ended is handed to process 1, and `/proc` does not say where it came from. A process
group would tell, but a process of its own group does not get the terminal's Ctrl-C. So each `Process`
wears a mark, which what it starts inherits in one of two ways:

    a program that it starts       by an environment variable, which a new session does not shed
    a copy of it, made by fork     by an open descriptor, whose name is the mark

Where there is no `/proc`, nothing is found, and the descendants are all that is known.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys

from ._guardian_main import snapshot
from .resources import Pid

#: The marks of a process and of those above it, outermost first.
VARIABLE = "PARALLELKIT_MARKS"
_NAME = "parallelkit-mark-"
#: They end by themselves: the one cleans up shared memory after the dead, the other kills what they left.
_SPARED = (b"multiprocessing.resource_tracker", b"_guardian_main.py")


def new() -> str:
    """A mark that no other process wears.

    >>> new() == new()
    False
    """
    return secrets.token_hex(8)


def wear(mark: str) -> None:
    """From now on, what this process starts can be found by `mark`."""
    outer = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = f"{outer}:{mark}" if outer else mark
    # Without one, what is forked and loses its parent is not found.
    with contextlib.suppress(AttributeError, OSError):
        os.memfd_create(_NAME + mark, os.MFD_CLOEXEC)  # which stays open for good


def find(mark: str, since: float) -> list[Pid]:
    """Who wears `mark`, this process left out. None of them is older than `since`, a start time."""
    if not sys.platform.startswith("linux"):
        return []
    found = []
    for pid, (_, _, _, state, started) in snapshot().items():
        if started < since or state in "ZX" or pid == os.getpid():
            continue
        if (_in_environment(pid, mark) or _in_descriptors(pid, mark)) and not _is_spared(pid):
            found.append(Pid(pid, started))
    return found


def _in_environment(pid: int, mark: str) -> bool:
    return mark.encode() in _read(f"/proc/{pid}/environ")


def _in_descriptors(pid: int, mark: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if _NAME + mark in os.readlink(f"{folder}/{name}"):
                    return True
    return False


def _is_spared(pid: int) -> bool:
    command = _read(f"/proc/{pid}/cmdline")
    return any(name in command for name in _SPARED)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
