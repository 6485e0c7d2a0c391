"""One catalogue of faults, and three questions on each.

Does the task end in an error, is its neighbour's result kept, does the pool go on?

Each fault strikes a pool of two workers, one of which is in the midst of another task then. The neighbour
and the tasks that come later are ordinary ones.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import tasks
from .contestants import Contestant, Handle, Served, warm
from .probing import BOUND, answer, noting

#: A task that is to be ended by a timeout has so long, in seconds.
TASK_TIMEOUT = 0.5
#: The neighbour works longer than that.
_NEIGHBOUR_SECONDS = 1.0


@dataclass(frozen=True)
class Fault:
    """A task that goes wrong. What it is made of is made in the program that hands it in."""

    name: str
    task: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]] = tuple
    task_timeout: float | None = None
    cancelled: bool = False
    returns: bool = False  # the task itself ends well: its result is as good an end as an error


def _stuck(name: str, task: Callable[..., Any], *arguments: object) -> Fault:
    return Fault(f"{name}, with a task timeout", task, lambda: arguments, TASK_TIMEOUT)


FAULTS = (
    Fault("the argument cannot be pickled", tasks.ignore, lambda: (threading.Lock(),)),
    Fault("the argument cannot be unpickled", tasks.ignore, lambda: (tasks.Unreadable(),)),
    Fault("the argument kills the worker that unpickles it", tasks.ignore, lambda: (tasks.Deadly(),)),
    Fault("the function cannot be pickled", functools.partial(tasks.ignore, threading.Lock())),
    Fault("the result cannot be pickled", tasks.return_lock),
    Fault("the result cannot be unpickled", tasks.return_unreadable),
    Fault("the result is nested too deeply for pickle", tasks.return_deep),
    Fault("the exception cannot be pickled", tasks.raise_with_lock),
    Fault("the exception cannot be unpickled", tasks.raise_two_arguments),
    Fault("a BaseException", tasks.raise_unusual),
    Fault("KeyboardInterrupt in the worker", tasks.raise_interrupt),
    Fault("sys.exit", tasks.raise_exit),
    Fault("os._exit(0)", tasks.exit_at_once),
    Fault("exit of the C library", tasks.exit_by_c),
    Fault("SIGSEGV", tasks.kill_itself, lambda: (signal.SIGSEGV,)),
    Fault("SIGKILL", tasks.kill_itself, lambda: (signal.SIGKILL,)),
    Fault("SIGKILL while 400 MB are sent", tasks.die_sending),
    Fault("SIGKILL, and a child has all descriptors", tasks.die_with_heir),
    Fault("all descriptors from 3 up are closed", tasks.close_descriptors, returns=True),
    _stuck("sleep for ever", time.sleep, tasks.FOR_EVER),
    _stuck("SIGSTOP", tasks.kill_itself, signal.SIGSTOP),
    _stuck("SIGTERM is ignored and all exceptions are swallowed", tasks.swallow_everything),
    _stuck("the GIL is held in C for ever", tasks.hold_the_gil),
    Fault("a running task is cancelled", time.sleep, lambda: (tasks.FOR_EVER,), cancelled=True),
)

#: What is asked of each contestant, in this order.
QUESTIONS = ("ends", "neighbour", "serves")


def strike(contestant: Contestant, method: str, number: str) -> None:
    """Let one fault happen; an answer for each of QUESTIONS."""
    fault = FAULTS[int(number)]
    pool = warm(contestant, 2, method)
    with noting() as notes:
        neighbour = pool.submit(tasks.neighbour, notes.path, _NEIGHBOUR_SECONDS)
        notes.next()
        answer(ends=_ends(pool, contestant, fault))
        answer(neighbour=_gives(neighbour, "kept"))
        answer(serves=_serves(pool))
        os._exit(0)  # how the pool ends is not asked


def _ends(pool: Served, contestant: Contestant, fault: Fault) -> bool:
    timeout = fault.task_timeout if contestant.has_task_timeout else None
    try:
        handle = pool.submit(fault.task, *fault.arguments(), task_timeout=timeout)
        if fault.cancelled:
            time.sleep(0.2)  # it is running
            handle.cancel()
        if not handle.settled(BOUND):
            return False
        handle.result()
    except BaseException as error:
        return not isinstance(error, AttributeError)  # there is no such method
    return fault.returns


def _gives(handle: Handle, value: object) -> bool:
    try:
        return handle.settled(BOUND) and handle.result() == value
    except BaseException:
        return False


def _serves(pool: Served) -> bool:
    """Whether the pool does four tasks more."""
    try:
        return all(_gives(pool.submit(tasks.square, n), n * n) for n in range(4))
    except BaseException:
        return False
