"""One call: which of its items are where, how many go into a chunk, in which order they come out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .messages import Chunk, Deliver, JobSpec

#: Seconds of work that a chunk aims at: long against a hand-over (about 50 µs), short against what a
#: person or a skewed end of a call notices.
CHUNK_SECONDS = 0.004
#: Behind a chunk that takes less than this another one waits at its worker, which goes on with it at once; in
#: seconds. Where many workers share few CPUs, a hand-over takes milliseconds. What waits delays another
#: call by as much, and is taken back for a worker that is idle.
AHEAD_SECONDS = 0.02
#: The last chunks of a call need not be shorter than this, in seconds: nobody waits longer for the others.
TAIL_SECONDS = 0.0005
#: A chunk is at most so many times the one before: one lucky first item must not decide on 50,000.
CHUNK_GROWTH = 16
CHUNK_MOST = 65_536
#: What a caller who sets the size himself gets at most: positions have to fit into 24 bits.
CHUNK_LIMIT = 1 << 23
#: Where the items are drawn one after the other, they and their results wait in memory.
CHUNK_MOST_STREAM = 1_024
CHUNK_BYTES = 4 << 20


@dataclass(slots=True)
class Span:
    """Items that came back and wait for a worker. `alone`: each in a chunk of its own."""

    start: int
    stop: int
    piecewise: bool = False
    alone: bool = False


class Job:
    """The bookkeeping of one call."""

    __slots__ = (
        "_chunk_last",
        "_parked",
        "announced",
        "attempts",
        "bytes_each",
        "closing",
        "consumed",
        "delivered",
        "drawing",
        "drawn",
        "ended",
        "exhausted",
        "finished",
        "fresh",
        "hastened",
        "held",
        "id",
        "input_error",
        "result",
        "returned",
        "seconds_each",
        "spec",
        "stopping",
        "unbounded",
        "unread",
    )

    def __init__(self, id: int, spec: JobSpec) -> None:
        self.id: int = id
        self.spec: JobSpec = spec
        self.drawn: int = spec.size or 0 if spec.at_hand else 0
        self.exhausted: bool = spec.at_hand
        self.drawing: bool = False  # a Draw is under way
        self.hastened: bool = False  # that Draw hands over each item at once
        self.fresh: int = 0  # the first item that no worker has been given yet
        self.returned: deque[Span] = deque()
        self.held: int = 0  # chunks on workers
        self.finished: int = 0  # items with an outcome
        self.delivered: int = 0  # in order: the next item to hand out
        self.consumed: int = 0
        self.attempts: dict[int, int] = {}
        self.unread: dict[int, int] = {}  # deaths before a chunk was read, by its first item
        self.seconds_each: float | None = None
        self.bytes_each: float = 0.0
        self.input_error: BaseException | None = None
        self.ended: bool = False  # nothing more is started or delivered
        self.stopping: bool = False  # ended, and what runs of it has to be ended too
        self.announced: bool = False
        self.unbounded: bool = False  # whatever is drawn may wait here
        self.closing: bool = False  # the input ends where there is no more room for it
        self.result: BaseException | None = None
        self._parked: dict[int, Deliver] = {}
        self._chunk_last = 1

    @property
    def done(self) -> bool:
        """All items have an outcome, and there will be no more."""
        return self.exhausted and self.finished == self.drawn

    @property
    def waiting(self) -> int:
        """How many items could be given to a worker now."""
        return self.drawn - self.fresh + sum(span.stop - span.start for span in self.returned)

    # Input

    def may_draw(self, workers: int) -> int:
        """How many more items to draw now: enough for the workers, within the buffer."""
        if self.exhausted or self.drawing or self.ended:
            return 0
        wanted = 2 * workers * self._chunk_wanted() - (self.drawn - self.fresh)
        return max(0, min(self._room(workers), wanted))

    def _room(self, workers: int) -> int:
        if self.unbounded:
            return 1 << 62
        most = self.spec.buffersize or 4 * workers * self._chunk_wanted()
        taken = self.consumed if self.spec.streaming else self.finished
        return most - (self.drawn - taken)

    def lift_bound(self) -> None:
        """Nobody may come to take results; an input of unknown length may be endless and stays bounded."""
        self.unbounded = self.spec.size is not None or not self.spec.streaming
        self.closing = not self.unbounded

    def is_cut_off(self, workers: int) -> bool:
        """Whether the rest of the input is given up: all that there is room for has been worked on."""
        return self.closing and not self.drawing and self.finished == self.drawn and self._room(workers) <= 0

    # Chunks

    def take(self, id: int, most: int, workers: int) -> Chunk | None:
        """The next chunk of at most `most` items for one of `workers` workers."""
        if self.ended:
            return None
        if self.returned:
            return self._take_returned(id, most, workers)
        fresh = self.drawn - self.fresh
        if fresh <= 0:
            return None
        # Guided: the rest is to be shared out among all, in pieces that shrink to what is worth a hand-over.
        left = max(fresh, (self.spec.size or 0) - self.fresh)
        share = max(math.ceil(left / (2 * workers)), int(TAIL_SECONDS / max(self.seconds_each or 1.0, 1e-8)))
        size = max(self._chunk_least(), min(self._chunk_wanted(), share))
        size = min(size, most, fresh)
        self._chunk_last = max(self._chunk_last, size)
        start = self.fresh
        self.fresh = start + size
        self.held += 1
        return Chunk(id, self.id, start, start + size, eager=self._eager(size))

    def _take_returned(self, id: int, most: int, workers: int) -> Chunk:
        span = self.returned[0]
        length = span.stop - span.start
        size = min(self._chunk_wanted(), most, math.ceil(length / workers))
        if span.alone:
            size = 1
        start = span.start
        if size >= length:
            self.returned.popleft()
        else:
            span.start += size
        self.held += 1
        return Chunk(id, self.id, start, start + size, span.piecewise, self._eager(size))

    def _chunk_least(self) -> int:
        return 1 if self.spec.chunksize is None else min(self.spec.chunksize, CHUNK_LIMIT)

    def _chunk_wanted(self) -> int:
        """How many items a chunk should have.

        A size that the caller chose is what one of his chunks has. Where they are short, a worker is handed
        several at once: what waits behind a long one is taken back as soon as another worker is idle.
        """
        least = self._chunk_least()
        if self.seconds_each is None:
            return least
        size = CHUNK_SECONDS / max(self.seconds_each, 1e-8)
        if self.bytes_each:
            size = min(size, CHUNK_BYTES / self.bytes_each)
        most = CHUNK_MOST if self.spec.at_hand else CHUNK_MOST_STREAM
        if self.spec.buffersize is not None:
            most = min(most, max(1, self.spec.buffersize // 4))
        return max(least, min(int(size), self._chunk_last * CHUNK_GROWTH, most))

    def _eager(self, size: int) -> bool:
        return self.seconds_each is not None and self.seconds_each * 8 > CHUNK_SECONDS and size > 1

    def is_quick(self, items: int) -> bool:
        """Whether so many items are likely to be done soon, so that a second chunk may wait behind."""
        return self.seconds_each is not None and self.seconds_each * items < AHEAD_SECONDS

    def learn(self, items: int, seconds: float) -> None:
        """Take in how long `items` items took."""
        each = seconds / items
        before = self.seconds_each
        self.seconds_each = each if before is None else before + (each - before) / 2

    def learn_bytes(self, items: int, size: int) -> None:
        """Take in how many bytes `items` items took on their way to a worker."""
        self.bytes_each = size / items if size > 1 << 16 else 0.0

    def give_back(self, start: int, stop: int, *, piecewise: bool = False, alone: bool = False) -> None:
        """Items that no worker has started, or that are to be tried again, come next."""
        if start < stop:
            self.returned.append(Span(start, stop, piecewise, alone))

    # Outcomes

    def accept(
        self, start: int, values: list[Any], failures: Mapping[int, BaseException] | None
    ) -> list[Deliver]:
        """Take final outcomes in; return what can be handed out with them."""
        self.finished += len(values)
        delivery = Deliver(self.id, start, values, failures)
        if not self.spec.ordered:
            return [delivery]
        if start != self.delivered:
            self._parked[start] = delivery
            return []
        ready = [delivery]
        self.delivered = start + len(values)
        while self._parked and (following := self._parked.pop(self.delivered, None)) is not None:
            ready.append(following)
            self.delivered += len(following.values)
        return ready

    def drop_all(self) -> None:
        """Forget what was not started and not delivered."""
        self.ended = True
        self.returned.clear()
        self._parked.clear()
        self.fresh = self.drawn
