"""Functions for workers: at the top level of a module, so that each start method can send them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import subprocess
import threading
import time
from typing import Any

#: How fast `grow` grows, in bytes a second, and in which steps, in bytes.
GROWTH = 200_000_000
_STEP = 2_000_000
#: Longer than anything here is waited for, in seconds.
FOR_EVER = 3600


def note(path: str, value: float | None = None) -> None:
    """Tell the program that measures a number; by default the time, on the clock that all processes share."""
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, struct.pack("<d", time.monotonic() if value is None else value))
    os.close(descriptor)


def pid(seconds: float = 0) -> int:
    time.sleep(seconds)
    return os.getpid()


def square(x: int) -> int:
    return x * x


def neighbour(path: str, seconds: float) -> str:
    note(path)
    time.sleep(seconds)
    return "kept"


def nap(path: str) -> None:
    note(path)
    time.sleep(FOR_EVER)


def sleep_noted(path: str, stubborn: bool) -> None:
    """Sleep for ever; stubbornly: whatever is raised, and without minding SIGTERM."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(path)
    while True:
        try:
            time.sleep(FOR_EVER)
        except BaseException:
            if not stubborn:
                raise


def die(path: str, how: str) -> None:
    note(path)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


def keep_child(path: str, busy: bool) -> None:
    """Start a process; note who this one and that one are. Then return, or go on for ever."""
    child = subprocess.Popen(["sleep", str(FOR_EVER)])
    note(path, os.getpid())
    note(path, child.pid)
    # The other worker is to get the other one of these tasks.
    time.sleep(FOR_EVER if busy else 0.5)


def grow(path: str, most: int) -> None:
    """Grow by GROWTH bytes a second up to `most`, and note what this process holds, in bytes."""
    descriptor = os.open(path, os.O_RDWR)
    hoard: list[bytes] = []
    begin = time.monotonic()
    while len(hoard) * _STEP < most:
        hoard.append(b"x" * _STEP)
        os.pwrite(descriptor, struct.pack("<d", resident_set()), 0)
        time.sleep(max(0.0, begin + len(hoard) * _STEP / GROWTH - time.monotonic()))


def resident_set() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# The catalogue of faults


def ignore(argument: object) -> None:
    return None


class Unreadable:
    """Pickles well and cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_burst, ())


def _burst() -> None:
    raise RuntimeError("cannot be read")


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (1,))


class TwoArguments(Exception):
    """What pickle writes of it has one argument, so it cannot be read."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class WithLock(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("with a lock")
        self.lock = threading.Lock()


class Unusual(BaseException):
    """No Exception."""


class _Trigger:
    """Kills its process a moment after somebody has begun to pickle it."""

    def __reduce__(self) -> tuple[Any, ...]:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return (int, ())


def return_lock() -> object:
    return threading.Lock()


def return_unreadable() -> object:
    return Unreadable()


def return_deep() -> object:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def die_sending() -> object:
    return [_Trigger(), *(bytes([n]) * 50_000_000 for n in range(8))]


def raise_two_arguments() -> None:
    raise TwoArguments(1, 2)


def raise_with_lock() -> None:
    raise WithLock


def raise_unusual() -> None:
    raise Unusual("a BaseException")


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def raise_exit() -> None:
    raise SystemExit(3)


def exit_at_once() -> None:
    os._exit(0)


def exit_by_c() -> None:
    ctypes.CDLL(None).exit(3)


def kill_itself(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(FOR_EVER)


def die_with_heir() -> None:
    """Die and leave a child that has all descriptors open."""
    if not os.fork():
        time.sleep(FOR_EVER)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def close_descriptors() -> None:
    os.closerange(3, 1000)


def swallow_everything() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(FOR_EVER)


def hold_the_gil() -> None:
    ctypes.PyDLL(None).sleep(FOR_EVER)
