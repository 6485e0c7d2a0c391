"""Tasks that are hard to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import tasks

from faults import who_tasks

_locks: dict[str, Any] = {}


def keep_lock(lock: Any) -> None:
    """An initializer."""
    _locks["lock"] = lock


def hold_or_take(folder: str, x: int) -> int:
    """Item 0 takes the lock and never gives it back; the others want it once it is taken."""
    who_tasks.announce(folder, x)
    if x == 0:
        _locks["lock"].acquire()
        Path(folder, "held").touch()
        tasks.wait_for_ever()
    who_tasks.appears(Path(folder, "held"))
    with _locks["lock"]:
        return x


def be(folder: str, kinds: tuple[str, ...], x: int) -> int:
    """Item `x` is of that kind, or done at once where there is none."""
    who_tasks.announce(folder, x)
    if x < len(kinds):
        KINDS[kinds[x]](folder)
    return x


def start_what_dies_slowly(folder: str, who: str) -> None:
    """Start a process with much memory, and wait."""
    program = (
        "import os, sys, time\n"
        "if 'orphan' in sys.argv[2] and os.fork(): os._exit(0)\n"
        "memory = bytearray(os.urandom(1 << 20)) * 300\n"
        "open(sys.argv[1] + '.new', 'w').write(str(os.getpid()))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(3600)"
    )
    command = [sys.executable, "-c", program, str(Path(folder, "slow")), who]
    subprocess.run(command, start_new_session="session" in who, check=True)
    tasks.wait_for_ever()


def _spin(_: str) -> None:
    # Through PyDLL a C function is called with the GIL held: no other thread runs, and no Python handler.
    ctypes.PyDLL(None).sleep(3600)


def _compute(_: str) -> None:
    pow(3, 1 << 40)  # one instruction of the interpreter, for longer than anybody waits


def _block(_: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    tasks.wait_for_ever()


def _ignore(_: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tasks.wait_for_ever()


def _raise_on_sigterm(_: str) -> None:
    """Python turns the signal into an exception, which is swallowed."""

    def handler(*_: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, handler)
    tasks.wait_for_ever()


def _wait_for_program(folder: str) -> None:
    command = ["sh", "-c", "trap '' TERM; exec sleep 3600"]
    program = subprocess.Popen(command, start_new_session=True)
    Path(folder, "program.new").write_text(str(program.pid))
    Path(folder, "program.new").rename(Path(folder, "program"))
    while True:
        with contextlib.suppress(BaseException):
            program.wait()


KINDS: dict[str, Any] = {
    "sleeps": lambda _: tasks.sleep(3600),
    "is in C with the GIL held": _spin,
    "computes in C": _compute,
    "swallows every exception": lambda _: tasks.wait_for_ever(),
    "waits for a program": _wait_for_program,
    "is stopped": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "blocks all signals": _block,
    "ignores SIGTERM": _ignore,
    "turns SIGTERM into an exception": _raise_on_sigterm,
}


def large(x: int) -> bytearray:
    return bytearray(50_000_000)


def wait_in(folder: str, x: int) -> None:
    """Come up and never end."""
    who_tasks.announce(folder, x)
    tasks.wait_for_ever()


def slow_start(folder: str) -> None:
    """An initializer that never ends."""
    who_tasks.announce(folder, os.getpid())
    tasks.wait_for_ever()
