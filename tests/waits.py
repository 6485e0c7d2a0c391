"""What strikes in the tests of interruptions, and how they wait for what is to come of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Struck(Exception):
    """What a signal handler raises, wherever it strikes."""


def until(reached: Callable[[], object]) -> None:
    """Return when that is so; pytest-timeout bounds it."""
    while not reached():
        time.sleep(0.0005)


def ended(thread: threading.Thread) -> bool:
    """Whether a thread comes to its end, or has never begun."""
    if thread.ident is not None:
        thread.join(20)
    return not thread.is_alive()
