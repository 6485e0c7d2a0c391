"""Our private state under the private names of CPython's, where its tests look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import parallelkit
import parallelkit.executor
from parallelkit.driver import Driver


class _Count:
    """Has the one method of a semaphore that the tests call."""

    def __init__(self, get_value: Callable[[], int]) -> None:
        self.get_value = get_value


class Condition(parallelkit.Condition):
    """CPython's tests of `Condition` end with a look at its three semaphores: nobody may be left in it."""

    @property
    def _sleeping_count(self) -> _Count:
        """How many wait, woken or not."""
        sleepers: Any = self._sleepers
        return _Count(lambda: sum(1 for ticket in sleepers._tickets[: sleepers._header[1]] if ticket))

    @property
    def _woken_count(self) -> _Count:
        """How many of them have been woken."""
        sleepers: Any = self._sleepers
        return _Count(lambda: self._sleeping_count.get_value() - int(sleepers.count()))

    @property
    def _wait_semaphore(self) -> _Count:
        """Wake-ups that nobody has taken."""
        return self._woken_count


class _Joinable:
    """Has the methods by which the tests wait for the threads of an executor to end."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def join(self) -> None:
        """Wait until the work is done and the workers and threads have ended."""
        self._driver.shut_down()

    join_thread = join


class ProcessPoolExecutor(parallelkit.executor.ProcessPoolExecutor):
    """CPython's tests of the end of an executor wait for its manager thread and the thread of its queue."""

    if not TYPE_CHECKING:  # the base class has their types

        @property
        def _executor_manager_thread(self) -> _Joinable:
            return _Joinable(self._driver)

        _call_queue = _executor_manager_thread
