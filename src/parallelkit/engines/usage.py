"""What workers have used: seconds, bytes, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

#: Of so many workers that are gone each one's peak is kept, the last ones.
KEPT = 1000


@dataclass(slots=True)
class Use:
    """What one worker has used, as far as that was seen: none of it ever becomes less.

    busy: seconds spent on chunks. waiting: the other seconds since it came up. sent, received: bytes to
    it and from it. peak: the most bytes that were resident; 0: not known.
    """

    pid: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    sent: int = 0
    received: int = 0
    peak: int = 0

    def see(self, up: float, worked: float, now: float) -> None:
        """Take in a look at the worker's clock at `now`; see `processes.page` for `up` and `worked`.

        The worker goes on between the look at the time and the look at its clock, or was stopped between
        its own: so one look may tell less than the one before, by a little.

        >>> use = Use()
        >>> use.see(up=10.0, worked=1.0, now=14.0)
        >>> use.see(up=10.0, worked=1.0 - 14.0, now=16.0)  # at a chunk since 14.0
        >>> use.busy, use.waiting
        (3.0, 3.0)
        """
        if up:
            self.busy = max(self.busy, worked if worked >= 0 else worked + now)
            self.waiting = max(self.waiting, now - up - self.busy)


@dataclass(slots=True)
class Usage:
    """What the workers of a crew have used; `peaks` by process id, `peak` the highest that there was."""

    busy: float = 0.0
    waiting: float = 0.0
    sent: int = 0
    received: int = 0
    peak: int = 0
    peaks: dict[int, int] = field(default_factory=dict)

    def add(self, use: Use) -> None:
        """Take in one more worker."""
        self.busy += use.busy
        self.waiting += use.waiting
        self.sent += use.sent
        self.received += use.received
        if use.peak:
            self.peak = max(self.peak, use.peak)
            self.peaks.pop(use.pid, None)  # of an earlier worker that had the same number
            self.peaks[use.pid] = use.peak

    def bury(self, use: Use) -> None:
        """Take in a worker that is gone."""
        self.add(use)
        if len(self.peaks) > KEPT:
            del self.peaks[next(iter(self.peaks))]

    def with_living(self, uses: Iterable[Use]) -> Usage:
        """This of those that are gone, together with those that are there."""
        total = replace(self, peaks=dict(self.peaks))
        for use in uses:
            total.add(use)
        return total
