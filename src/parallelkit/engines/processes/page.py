"""The status page: memory that one worker writes and its parent reads, without a lock or a message.

::

    word 0   place     chunk << 24 | position: the item that is running (all ones: reading the items);
                       0: the worker has not come up yet; with the highest bit, it has not begun, and results
                       of what is before it are being sent
    word 1   since     when that began, `time.monotonic()`, a double
    word 2   revoked   the highest chunk number that was taken back: the only word the parent writes
    word 3   logged    chunk << 24 | position of the first entry in the log
    word 4   up        when the worker had come up, after its initializer, a double; 0: not yet
    word 5   worked    seconds that it has spent on chunks, a double; while it is at one, that less the time
                       when it began, which is below 0: so one word tells both
    word 6   peak      its peak resident set in bytes, written at the end of a worker that was told to stop
    entries            the results that were not sent yet, see `entries`

The worker finishes an entry before it moves `place` on, so after a death each item before `place` has its
result in the log or in the channel, and is not lost.

Revoking is an agreement on two words (Dekker's): the worker writes `place` and then reads `revoked`, at
the beginning of a chunk and before each item; the parent writes `revoked`, waits until that is visible,
and then reads `place`. Either the worker sees that it must stop, or the parent sees how far it had come.
Looking only after items that took long is not enough: a worker may lose its processor between its look
at the clock and its write of `place`, for as long as the kernel likes.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

from .entries import LOG_ENTRIES, Entries

if TYPE_CHECKING:
    from ...scheduler import Place

POSITION_BITS = 24
_POSITION_MASK = (1 << POSITION_BITS) - 1
LOADING_MARK = _POSITION_MASK
BETWEEN = 1 << 63

PLACE, SINCE, REVOKED, LOGGED, UP, WORKED, PEAK = range(7)
_WORDS = 64
LOG_BYTES = 1 << 16
_ENDS = _WORDS
_NUMBERS = _ENDS + 4 * LOG_ENTRIES
_LOG = _NUMBERS + 8 * LOG_ENTRIES
_SIZE = _LOG + LOG_BYTES
_NO_ENDS = memoryview(bytes(4 * LOG_ENTRIES)).cast("I")

#: How long a store may take to be seen by another processor: generous by some orders of magnitude.
_VISIBLE_SECONDS = 0.0001


class StatusPage:
    """One worker's page; the same class on both sides."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _new_file() if descriptor is None else descriptor
        self._map = mmap.mmap(self._descriptor, _SIZE)
        view = memoryview(self._map)
        self.words: memoryview[int] = view[:_WORDS].cast("Q")
        self.clock: memoryview[float] = view[:_WORDS].cast("d")
        self.ends: memoryview[int] = view[_ENDS:_NUMBERS].cast("I")
        self.ints: memoryview[int] = view[_NUMBERS:_LOG].cast("q")
        self.floats: memoryview[float] = view[_NUMBERS:_LOG].cast("d")
        self._view = view
        self._write, self._tell = self._map.write, self._map.tell

    def __reduce__(self) -> tuple[Any, ...]:
        """Only while a process is being started: the memory is the same on the other side."""
        return (_attach, (reduction.DupFd(self._descriptor),))

    def close_file(self) -> None:
        """The descriptor is not needed once both sides have the memory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Let go of the memory on this side."""
        self.close_file()
        for view in (self.words, self.clock, self.ends, self.ints, self.floats, self._view):
            view.release()
        self._map.close()

    # The parent's side

    def place(self) -> Place | None:
        """Where the worker is; None: it has not come up yet."""
        from ...scheduler import LOADING, Place  # which the worker does without

        word = self.words[PLACE]
        # Read after the place: it may be too young then, but never too old.
        since = self.clock[SINCE]
        if not word:
            return None
        if word & BETWEEN:
            word -= BETWEEN + 1  # the last that has begun
        position = word & _POSITION_MASK
        return Place(word >> POSITION_BITS, LOADING if position == LOADING_MARK else position, since)

    def revoke(self, chunk: int) -> Place:
        """Take back all chunks up to `chunk`; return the place behind which nothing starts any more."""
        self.words[REVOKED] = chunk
        time.sleep(_VISIBLE_SECONDS)
        from ...scheduler import Place

        return self.place() or Place(0, 0, 0.0)

    def unsent(self) -> tuple[int, int, Entries]:
        """The entries of the log: their chunk, the position of the first, and they themselves.

        They are whole: those that the worker has sent while they were copied are left out.
        """
        place, logged = self.words[PLACE] & ~BETWEEN, self.words[LOGGED]
        chunk, first = logged >> POSITION_BITS, logged & _POSITION_MASK
        position = place & _POSITION_MASK
        count = 0
        if place >> POSITION_BITS == chunk and position != LOADING_MARK:
            count = max(0, min(position - first, LOG_ENTRIES))
        parts = self._entries(count, _SIZE)
        if self.words[LOGGED] != logged:  # which is written before the log is used again
            return chunk, first, Entries(0, b"", b"", b"")
        return chunk, first, Entries(count, *parts)

    def _entries(self, count: int, end: int) -> tuple[bytes, bytes, bytes]:
        ends = bytes(self.ends[:count])
        if not ends.strip(b"\0"):
            return b"", b"", b""
        return ends, bytes(self.ints[:count]), bytes(self._view[_LOG:end])

    # The worker's side

    def append(self, entry: int, data: bytes, flag: int = 0) -> None:
        """An entry in the log; ValueError where there is no room for it."""
        self._write(data)
        self.ends[entry] = (self._tell() - _LOG) | flag

    def entries(self, count: int) -> Entries:
        """The first `count` entries, which are all that there are."""
        return Entries(count, *self._entries(count, self._map.tell()))

    def clear(self, count: int) -> None:
        """Begin the log anew, behind so many entries."""
        self.ends[:count] = _NO_ENDS[:count]
        self._map.seek(_LOG)


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("parallelkit-status", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="parallelkit-status-")
        os.unlink(path)
    os.ftruncate(descriptor, _SIZE)
    return descriptor


def _attach(duplicate: Any) -> StatusPage:
    page = StatusPage(duplicate.detach())
    page.close_file()
    return page
