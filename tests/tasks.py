"""Functions for workers: at the top level of a module, so that each start method can send them."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def square(x: int) -> int:
    return x * x


def add(x: int, y: int = 10) -> int:
    return x + y


def pid(_: object = None) -> int:
    return os.getpid()


def echo(x: Any) -> Any:
    return x


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError("three", x)
    return x


def fail_on_odd(x: int) -> int:
    if x % 2:
        raise KeyError(x)
    return x


def count_and(folder: str, what: str, bad: int, x: int) -> int:
    """Note that item `x` runs, and let something happen at item `bad`."""
    with open(Path(folder, f"ran-{x}"), "a") as file:
        file.write("x")
    if x == bad:
        happen(what)
    return x


def happen(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "segfault":
        faulthandler.disable()  # pytest's would print all stacks
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit 0":
        os._exit(0)
    elif what == "exit 7":
        os._exit(7)
    elif what == "sys.exit":
        sys.exit("bye")
    elif what == "raise":
        raise ValueError("raised")
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "stuck":
        wait_for_ever()
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_ever()
    elif what == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "unpicklable":
        raise Unpicklable(threading.Lock())


def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)


def wait_for_ever() -> None:
    while True:
        try:
            time.sleep(3600)
        except BaseException:  # noqa: BLE001, RUF100 - it swallows everything, on purpose
            continue


class Unpicklable(Exception):
    def __init__(self, lock: Any) -> None:
        super().__init__("with a lock")
        self.lock = lock


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


def raise_two(x: int) -> None:
    raise TwoArguments(x, x + 1)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def nap(x: Any) -> Any:
    time.sleep(0.002)
    return x


def warn(text: str) -> None:
    logging.getLogger("tasks").warning(text)


def sleep_and_measure(seconds: float, data: bytearray) -> int:
    time.sleep(seconds)
    return len(data)


def return_lock(x: int) -> Any:
    return threading.Lock() if x == 1 else x


class Poison:
    """Pickles well and cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_burst, ())


def _burst() -> None:
    raise RuntimeError("poison")


def return_poison(x: int) -> Any:
    return Poison() if x == 1 else x


_state: list[int] = []


def set_state(value: int) -> None:
    _state.append(value)


def get_state(_: object) -> list[int]:
    return _state


def broken_initializer() -> None:
    raise LookupError("no licence")


def start_child(folder: str) -> int:
    """Start a process that would live for an hour, and wait."""
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    Path(folder, "child").write_text(str(child.pid))
    Path(folder, "child").rename(Path(folder, "pid"))
    return child.wait()


def grow(x: int) -> int:
    if x == 2:
        hoard: list[bytearray] = []
        while len(hoard) < 400:
            hoard.append(bytearray(os.urandom(1 << 16) * 160))
            time.sleep(0.01)
    return x


def deep(n: int) -> int:
    return deep(n - 1) if n else 1 // 0


def chained(x: int) -> None:
    try:
        deep(3)
    except ZeroDivisionError as error:
        failure = TwoArguments(x, 2)
        failure.add_note("look here")
        raise failure from error


def grouped(x: int) -> None:
    raise ExceptionGroup("two", [TwoArguments(x, 2), OSError(2, "gone", "/nowhere")])


def fail_first(folder: str) -> None:
    """An initializer that fails where it runs for the first time."""
    mark = Path(folder, "failed")
    if not mark.exists():
        mark.touch()
        raise LookupError("not yet")


def start_orphan(folder: str, by: str, what: str) -> None:
    """Start a process that leaves the session and has no parent any more; then let something happen."""
    pid = os.fork()
    if not pid:
        os.setsid()
        if not os.fork():
            Path(folder, "child").write_text(str(os.getpid()))
            Path(folder, "child").rename(Path(folder, "pid"))
            if by == "exec":
                os.execl(sys.executable, sys.executable, "-c", "import time; time.sleep(3600)")
            time.sleep(3600)
        os._exit(0)
    os.waitpid(pid, 0)
    while not Path(folder, "pid").exists():
        time.sleep(0.001)
    happen(what)


def start_slowly(folder: str) -> None:
    """Start a program that has closed all and has not begun when its parent ends."""
    import subprocess

    command = [sys.executable, "-c", "import time; time.sleep(3600)"]

    def wait() -> None:
        os.closerange(3, 1024)  # also what `Popen` waits for
        time.sleep(0.03)

    child = subprocess.Popen(command, start_new_session=True, preexec_fn=wait)
    Path(folder, "pid").write_text(str(child.pid))
    os._exit(7)


class RaisingTraceback(Exception):
    __traceback__ = property(lambda self: 1 / 0)  # pyright: ignore[reportAssignmentType]


class RaisingClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")


class RaisingAccess(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no access")


class _RaisingMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise RuntimeError("no name")
        return type.__getattribute__(cls, name)


class RaisingName(Exception, metaclass=_RaisingMeta):
    pass


LIARS = (RaisingTraceback, RaisingClass, RaisingAccess, RaisingName)


def raise_liar(x: int) -> int:
    if x < len(LIARS):
        raise LIARS[x]("look")
    return x


def kill_first(folder: str) -> str:
    """Die where it runs for the first time."""
    mark = Path(folder, "killed")
    if not mark.exists():
        mark.touch()
        happen("kill")
    return "survived"


def hold(size: int) -> int:
    """Have so many bytes of memory resident for a moment."""
    return len(bytearray(b"x") * size)
