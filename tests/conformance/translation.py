"""Our private state under the private names of CPython's, where its tests look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import parallelkit


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
