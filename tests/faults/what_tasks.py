"""What can strike a task, by name; at the top level of a module, so that each start method can send it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil


def work(folder: str, faults: Mapping[int, str], x: int) -> int:
    """Note that item `x` runs, let happen what strikes it, and give it back."""
    with open(Path(folder, f"ran-{x}"), "a") as file:
        file.write("x")
    if x in faults:
        STRIKES[faults[x]]()
    return x


class Beyond(BaseException):
    """No Exception, and no class of Python's own."""


def _raise(make: Callable[[], BaseException]) -> Callable[[], None]:
    def strike() -> None:
        raise make()

    return strike


def _recurse() -> None:
    _recurse()


@contextlib.contextmanager
def limit(kind: int, most: int) -> Iterator[None]:
    """A soft limit of this process, for as long as the block takes."""
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


def _exhaust_memory() -> None:
    with limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + (64 << 20)):
        bytearray(1 << 30)


def _fill_disk() -> None:
    with open("/dev/full", "w") as file:
        file.write("x")


def _exceed_file_size() -> None:
    name = f"/dev/shm/parallelkit-fault-{os.getpid()}"  # other suites may run beside this one
    with limit(resource.RLIMIT_FSIZE, 0), open(name, "w") as file:
        os.unlink(file.name)
        file.write("x")


def _exhaust_descriptors() -> None:
    with limit(resource.RLIMIT_NOFILE, 0):
        open("/dev/null").close()


def send_self(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def _abort() -> None:
    faulthandler.disable()  # pytest's would print all stacks
    os.abort()


def _read_nothing() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def _exit_by_libc() -> None:
    ctypes.CDLL(None).exit(3)


def _close_all() -> None:
    os.closerange(3, 256)


STRIKES: dict[str, Callable[[], Any]] = {
    "exception": _raise(lambda: ValueError("raised", 1)),
    "base exception": _raise(lambda: Beyond("beyond", 2)),
    "keyboard interrupt": _raise(KeyboardInterrupt),
    "generator exit": _raise(GeneratorExit),
    "sys.exit": lambda: sys.exit("bye"),
    "recursion": _recurse,
    "memory": _exhaust_memory,
    "full disk": _fill_disk,
    "file size": _exceed_file_size,
    "descriptors": _exhaust_descriptors,
    "SIGINT": send_self(signal.SIGINT),
    "os._exit 0": lambda: os._exit(0),
    "os._exit 7": lambda: os._exit(7),
    "libc exit": _exit_by_libc,
    "abort": _abort,
    "SIGSEGV": _read_nothing,
    "SIGKILL": send_self(signal.SIGKILL),
    "SIGTERM": send_self(signal.SIGTERM),
    "SIGSTOP": send_self(signal.SIGSTOP),
    "closed descriptors": _close_all,
}


def close_and_return(size: int) -> bytes:
    """A result behind the closing of all descriptors, the worker's channel among them."""
    if size:
        _close_all()
    return bytes(size)


def write_there(folder: str, x: int) -> int:
    """Write a file, which fails where the disk is full."""
    if x % 2:
        Path(folder, f"out-{x}").write_text("x" * 8192)
    return x
