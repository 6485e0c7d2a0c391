"""Which tasks of a queue are unfinished, counted so that a consumer that dies does not keep `join` waiting.

Each process that takes has a slot, which it alone writes, and never gives back: a process that is given the
slot of a dead one counts on from where that stood.

::

    words    slots in use │ somebody waits
    slots    process id, its start time, taken, done, lost, each a column

A taking counts first in the log and then here. An item whose taker dies in between is in neither: it is lost
with its taker, and nobody waits for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from .. import resources
from ..sharing import Bell, SharedFile, map_shared, memory_file, remaining, wait_readable
from .messagelog import MessageLog, _inherit

__all__ = ["JoinableLog"]

_USED, _WAITING = 0, 1
_SLOTS = 4096
_PID, _START, _TAKEN, _DONE, _LOST = (8 + column * _SLOTS for column in range(5))
_SIZE = 8 * (8 + 5 * _SLOTS)
#: A `join` looks for consumers that died so often, in seconds.
_LOOK_SECONDS = 0.1
#: A `join` that is not to wait still waits so long for a lock, in seconds.
_PATIENCE = 0.1


class JoinableLog(MessageLog):
    """A message log that knows what was done with what was taken from it."""

    _counts_takers = True

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._attach_counts(SharedFile(memory_file("parallelkit-tasks", _SIZE)), Bell())

    def _attach_counts(self, file: SharedFile, finished: Bell) -> None:
        self._counts_file = file
        self._finished = finished
        self._counts_map = map_shared(file.descriptor, _SIZE)
        self._counts = memoryview(self._counts_map).cast("Q")
        self._starts = memoryview(self._counts_map).cast("d")
        self._slot = -1
        self._slot_of = 0  # the process whose slot that is: a forked child needs one of its own

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit_joinable, (super().__reduce__()[1], self._counts_file, self._finished)

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_counts") and not _is_finalizing():
            self._counts.release()
            self._starts.release()
            self._counts_map.close()
        super().__del__()

    # Whose is what

    def _own_slot(self) -> int:
        """The slot of this process, for who holds the head lock and the lock of the counts."""
        if self._slot_of != os.getpid():
            self._slot = self._find_slot()
            self._slot_of = os.getpid()
        return self._slot

    def _find_slot(self) -> int:
        counts = self._counts
        me = resources.identity(os.getpid())
        assert me is not None
        self._write_off()
        used = counts[_USED]
        for slot in range(used):
            if not counts[_PID + slot]:
                break
        else:
            if used == _SLOTS:
                raise RuntimeError(f"more than {_SLOTS} living processes take from one JoinableQueue")
            slot = used
            counts[_USED] = used + 1
        self._starts[_START + slot] = me.started
        counts[_PID + slot] = me
        return slot

    def _write_off(self) -> None:
        """What the dead had taken and not done is lost; their slots are free."""
        counts, starts = self._counts, self._starts
        for slot in range(counts[_USED]):
            pid = counts[_PID + slot]
            if pid and not resources.is_alive(resources.Pid(pid, starts[_START + slot])):
                held = counts[_TAKEN + slot] - counts[_DONE + slot]
                counts[_LOST + slot] = max(0, held)
                counts[_PID + slot] = 0

    def _note_taking(self) -> None:
        if self._slot_of != os.getpid():
            with self._counts_file:
                self._own_slot()
        self._counts[_TAKEN + self._slot] += 1

    # What is left to do

    def _column(self, begin: int) -> list[int]:
        return self._counts[begin : begin + self._counts[_USED]].tolist()

    def _held(self) -> int:
        """What was taken and neither done nor lost."""
        taken, done = self._column(_TAKEN), self._column(_DONE)
        # One process may have done what another had taken, who then died: that is not to count twice.
        surplus = sum(max(0, d - t) for t, d in zip(taken, done, strict=False))
        lost = max(0, sum(self._column(_LOST)) - surplus)
        return max(0, sum(taken) - sum(done) - lost)

    def task_done(self) -> None:
        """Count one as done. ValueError where all are."""
        with self._head, self._counts_file:
            if sum(self._column(_TAKEN)) + len(self) <= sum(self._column(_DONE)):
                raise ValueError("task_done() called too many times")
            self._counts[_DONE + self._own_slot()] += 1
            if self._counts[_WAITING] and not len(self) and not self._held():
                self._finished.set()

    def join(self, timeout: float | None) -> bool:
        """Wait until all is done; whether that came about within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._is_finished(deadline):
                return True
            left = remaining(deadline)
            if left == 0:
                return False
            wait_readable(
                self._finished.fileno(), _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
            )

    def _is_finished(self, deadline: float | None) -> bool:
        """Whether all is done. False, too, where a lock was not free in time."""
        lock_deadline = None if deadline is None else max(deadline, time.monotonic() + _PATIENCE)
        if not self._head.acquire(lock_deadline):
            return False
        try:
            if not self._counts_file.acquire(lock_deadline):
                return False
            try:
                self._write_off()
                if not len(self) and not self._held():
                    self._finished.set()  # for the others that wait
                    return True
                self._counts[_WAITING] = 1
                self._finished.clear()
            finally:
                self._counts_file.release()
        finally:
            self._head.release()
        return False

    def shutdown(self, immediate: bool) -> None:
        """Shut down the log, and wake who waits in `join`."""
        super().shutdown(immediate)
        self._finished.set()


def _inherit_joinable(args: tuple[Any, ...], file: SharedFile, finished: Bell) -> MessageLog:
    log = _inherit(*args)
    assert isinstance(log, JoinableLog)
    log._attach_counts(file, finished)
    return log
