"""What goes wrong on the way to a task and from it; at the top level of a module, for each start method."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import util
from pathlib import Path
from typing import Any


class Load:
    """Pickles well; where it is loaded, something happens. It may be an item, a function or a result."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return happen, (self.name,)

    def __call__(self, item: object) -> object:
        return item


class Dump:
    """Something happens where it is pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        happen(self.name)
        raise AssertionError("nothing happened")

    def __call__(self, _: object) -> None:
        raise AssertionError("this is never sent")


def happen(name: str) -> Any:
    if name == "raises":
        raise LookupError("on the way")
    if name == "exits":
        sys.exit("on the way")
    if name == "interrupts":
        raise KeyboardInterrupt
    if name == "ends":
        os._exit(4)
    if name == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        time.sleep(3600)
    return None


def nested() -> list[Any]:
    """So deep that pickle gives up."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def count(folder: str, item: object) -> object:
    """Note that an item runs, and give it back; of one that is no number, its type's name."""
    name = item if isinstance(item, int) else type(item).__name__
    with open(Path(folder, f"ran-{name}"), "a") as file:
        file.write("x")
    return name


RESULTS: dict[str, Callable[[], Any]] = {
    "a lock": lambda: {"deep": threading.Lock()},
    "dump raises": lambda: Dump("raises"),
    "dump exits": lambda: Dump("exits"),
    "too deep": nested,
    "load raises": lambda: Load("raises"),
    "load exits": lambda: Load("exits"),
    "load interrupts": lambda: Load("interrupts"),
}


def give(folder: str, faults: dict[int, str], x: int) -> Any:
    count(folder, x)
    return RESULTS[faults[x]]() if x in faults else x


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = 5
        self.lock = threading.Lock()


class TwoArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


_made_in: int | None = None


class MadeOnce(Exception):
    """Its `__init__` raises where it is rebuilt."""

    def __init__(self, text: str) -> None:
        global _made_in
        if _made_in == os.getpid():
            _made_in = None
            raise RuntimeError("a second one")
        _made_in = os.getpid()
        super().__init__(text)


class MadeHereOnly(Exception):
    """Its `__init__` raises in the process that gets it."""

    home = 0

    def __init__(self, text: str) -> None:
        if os.getpid() != self.home:
            raise RuntimeError("not here")
        super().__init__(text)


class Reducing(Exception):
    """Its pickle is what it was made with."""

    def __init__(self, reduced: Any) -> None:
        super().__init__("reduced")
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced.__reduce__()


def unknown() -> BaseException:
    """Of a class that nobody finds, neither by its name nor by its parts."""
    cls: type[BaseException] = type(
        "Unknown", (Exception,), {"__module__": "nowhere", "lock": threading.Lock()}
    )
    return cls("text")


def made_here_only() -> BaseException:
    MadeHereOnly.home = os.getpid()
    return MadeHereOnly("its text")


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "with a lock": lambda: WithLock("locked"),
    "two arguments": lambda: TwoArguments(1, 2),
    "made once": lambda: MadeOnce("once"),
    "made here only": made_here_only,
    "dump raises": lambda: Reducing(Dump("raises")),
    "dump exits": lambda: Reducing(Dump("exits")),
    "load raises": lambda: Reducing(Load("raises")),
    "load exits": lambda: Reducing(Load("exits")),
    "unknown": unknown,
}


def fail(folder: str, faults: dict[int, str], x: int) -> int:
    count(folder, x)
    if x in faults:
        raise EXCEPTIONS[faults[x]]()
    return x


class Collected:
    """Something happens where it is collected, but for the process `spared`."""

    def __init__(self, name: str, spared: int = 0) -> None:
        self.name, self.spared = name, spared

    def __del__(self) -> None:
        if os.getpid() != self.spared:
            happen(self.name)


def collect(folder: str, faults: dict[int, str], x: int) -> int:
    """Leave a cycle that only the collector finds, and let it run."""
    count(folder, x)
    if x in faults:
        doomed: Any = Collected(faults[x])
        doomed.itself = doomed
        del doomed
        gc.collect()
    return x


def give_doomed(spared: int, x: int) -> Any:
    """A result that ends its worker as it is dropped there, once it is pickled."""
    return Collected("is killed", spared) if x == 1 else x


class Dropping:
    """Where it is loaded, something is made and dropped at once."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make

    def __reduce__(self) -> tuple[Any, ...]:
        return _drop, (self.make,)


def _drop(make: Callable[[], object]) -> int:
    make()
    return 7


def give_dropping(make: Callable[[], object]) -> Dropping:
    return Dropping(make)


def happen_at_exit(name: str) -> int:
    atexit.register(happen, name)
    util.Finalize(None, happen, (name,), exitpriority=1)  # where multiprocessing runs no atexit handlers
    return os.getpid()
