"""Figures that are taken from outside: what happens to a program and to its terminal, and what it leaves.

Each has a part that runs in that program, a probe, and a part that starts it and measures.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

import psutil

from . import tasks
from .contestants import Contestant, warm
from .probing import BOUND, Hangs, answer, left_of, noting, program

#: How long to look at an idle pool, and how long to leave it alone before that, in seconds.
IDLE_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
IDLE_WORKERS = 8
#: What is still to be written to a terminal is written by then, in seconds.
_LAST_WORDS_SECONDS = 0.3


# Ctrl-C


def interrupted_program(contestant: Contestant, method: str, path: str) -> None:
    """Be in a map call when Ctrl-C comes; note when that is over, and when all is as a negative number."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This process stands for the shell, with which the terminal would go: the program is its child.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        tasks.note(path, -time.monotonic())
        time.sleep(tasks.FOR_EVER)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        contestant.map(tasks.nap, [path, path], method)
    except KeyboardInterrupt:
        tasks.note(path)


def interrupt(contestant: Contestant, method: str) -> dict[str, Any]:
    """Seconds from Ctrl-C to the KeyboardInterrupt and to the program's end; lines on the terminal.

    And `left`: how many processes are still there when the program has ended and its last words are said.
    """
    ours, theirs = os.openpty()
    with noting() as notes:
        try:
            options = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            with program("interrupt", contestant.name, method, notes.path, **options) as process:
                os.close(theirs)
                for _ in range(2):
                    notes.next()
                begin = time.monotonic()
                os.write(ours, b"\x03")
                times: dict[str, Any] = {}
                with contextlib.suppress(Hangs):
                    while "ended" not in times:
                        at = notes.next(begin + BOUND - time.monotonic())
                        times["value" if at > 0 else "ended"] = abs(at) - begin
                output = _read_terminal(ours)
                left = left_of(process)
        finally:
            os.close(ours)
    if "value" not in times and "ended" in times:
        return {"instead": "ends without KeyboardInterrupt"}
    return {**times, "lines": output.count(b"\n"), "left": left}


def _read_terminal(terminal: int) -> bytes:
    """What was written there, and is for a moment more."""
    output = b""
    while select.select([terminal], [], [], _LAST_WORDS_SECONDS)[0]:
        output += os.read(terminal, 1 << 16)
    return output


# The parent is killed


def orphaned_program(contestant: Contestant, method: str, path: str, busy: bool) -> None:
    """Have two workers that have a child each, busy or idle."""
    pool = warm(contestant, 2, method)
    handles = [pool.submit(tasks.keep_child, path, busy) for _ in range(2)]
    for handle in handles:
        handle.settled(tasks.FOR_EVER if busy else 30)
    tasks.note(path, 0)
    time.sleep(tasks.FOR_EVER)


def orphans(contestant: Contestant, method: str, *, busy: bool) -> dict[str, Any]:
    """Seconds from the parent's SIGKILL until its workers and their children are gone."""
    with (
        noting() as notes,
        program("orphans", contestant.name, method, notes.path, int(busy)) as process,
        contextlib.ExitStack() as opened,
    ):
        pids = {int(notes.next()) for _ in range(4)}
        if not busy:
            notes.next()
        left = {os.pidfd_open(pid) for pid in pids}
        for descriptor in left:
            opened.callback(os.close, descriptor)
        begin = time.monotonic()
        process.send_signal(signal.SIGKILL)
        while left and (remaining := begin + BOUND - time.monotonic()) > 0:
            left.difference_update(select.select(left, [], [], remaining)[0])
        seconds = time.monotonic() - begin
    if left:
        return {"instead": f"{len(left)} of {len(pids)} live on"}
    return {"value": seconds}


# An idle pool


def idle_program(contestant: Contestant, method: str) -> None:
    """Have a pool that has worked and has nothing to do."""
    pool = warm(contestant, IDLE_WORKERS, method)
    answer(ready=True)
    sys.stdin.read()
    pool.end()


def wakeups(contestant: Contestant, method: str, count: int) -> list[int]:
    """How often each of `count` idle pools wakes up: parent, workers and helpers, all threads."""
    with contextlib.ExitStack() as running:
        programs = []
        for _ in range(count):
            options = {"stdin": -1, "stdout": -1, "stderr": -3}
            process = running.enter_context(program("idle", contestant.name, method, **options))
            assert process.stdout is not None
            process.stdout.readline()
            programs.append(process)
        time.sleep(_SETTLE_SECONDS)
        before = [_switches(process.pid) for process in programs]
        time.sleep(IDLE_SECONDS)
        return [
            sum(after - was.get(thread, 0) for thread, after in _switches(process.pid).items())
            for process, was in zip(programs, before, strict=True)
        ]


def _switches(pid: int) -> dict[str, int]:
    """The voluntary context switches of each thread of a process and its descendants, so far."""
    processes = [psutil.Process(pid)]
    processes += processes[0].children(recursive=True)
    found = {}
    for process in processes:
        for path in Path(f"/proc/{process.pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                for line in path.read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches:"):
                        found[str(path)] = int(line.split()[1])
    return found
