"""The memory behind a queue: messages that any process appends and any process takes, once each.

::

    put ──► tail lock ──► record at the end of file 0 or 1 ──► count it, which is the commit
    get ──► head lock ──► record at the place of the oldest ──► count it, which is the commit

    words    appended │ two places │ first record of file 0, of file 1 │ shutdown │ bell │ grown
             taken    │ two places │ bell
    files    the bytes up to WINDOW are mapped, what lies behind is read and written by system calls
    record   length of the body << 2 | kind │ body
             a body with buffers: how many parts │ their lengths │ the pickle │ the buffers

Theory of operation:

1. What a process does to the log becomes true by one store of one word, under a lock that the kernel takes
   from a dead holder. A process killed before that store has done nothing, one killed after it has
   done all. Nothing has to be repaired, and nothing is kept in the memory of one process alone.
2. The place of record n is in the slot `n & 1` beside the count, so that the store of the count switches
   to a place that was written before. Appending and taking have a lock each and do not wait for one another.
3. An appender that finds the log empty begins anew at the start of its file. One that finds WINDOW bytes
   used goes over to the other file, once all in there was taken. So memory is bounded by the backlog.
4. The `items` bell is set before the commit that makes the log not empty, and cleared only under the tail
   lock while it is empty: there is no moment at which a message is there and the bell is not set.
   `room` is its mirror image: set before a message is taken, cleared under the head lock while full.
5. Of those who wait for a message without a timeout one waits for the bell, and the others, in a third
   lock, for their turn; else each message would wake all of them.

Measured before it was chosen, in one process on a machine with two cores: a sequenced-packet socket takes
2.1 µs for a send and a receive, but has room for 278 messages only; what does not fit needs a thread that
feeds it, is lost when its process is killed, and leaves wrong counts behind. A lock of `flock` taken and let
go is 0.75 µs (of `fcntl` 1.15), a record written to mapped memory or read from it 0.1 µs; 1 MB written into
memory that was used before 60 µs, and read 50 µs.

What came of it, one writer and one reader, µs per item (benchmarks/test_queue_throughput.py), in brackets
multiprocessing.Queue: small tuples 2.6 (3.0), dicts 3.4 (3.3), bytes of 1 MB 264 (939), arrays of 1 MB 272
(1314).
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..encoding import BYTEARRAY, PICKLE, PICKLE_AND_BUFFERS, Message, Part, advance
from ..serialization import LARGE
from ..sharing import Bell, SharedFile, map_shared, memory_file, remaining, wait_readable

if sys.version_info >= (3, 13):
    from queue import Empty, Full, ShutDown
else:
    from queue import Empty, Full

    class ShutDown(Exception):
        """Raised when put/get with shut-down queue."""


__all__ = ["Empty", "Full", "MessageLog", "ShutDown"]

_APPENDED, _APPENDED_AT, _FIRST, _SHUT, _ITEMS_SET, _GROWN = 0, 1, 3, 5, 6, 7
_TAKEN, _TAKEN_AT, _ROOM_SET = 16, 17, 19
#: Records begin behind the words.
_BEGIN = 256
#: An appender goes over to the other file from this place on, and this much is kept of both, as writing to
#: memory that is there already is twice as fast. A queue that saw no large backlog has used less.
WINDOW = 1 << 24

_DRAINING, _DISCARDED = 1, 2

_HEADER = struct.Struct("<Q")
_KIND_BITS = 2
_KIND_MASK = 3
_pack, _unpack_from = _HEADER.pack, _HEADER.unpack_from
_IOV_MOST = 1024
#: A reader that finds nothing lets others run so many times before it sleeps, which costs more.
_YIELDS = range(3)
#: An attempt that is not to block still waits so long for a lock, in seconds: it is held for microseconds.
_PATIENCE = 0.02
#: And one to append, as it is held as long as another process writes a large item, and most callers do not
#: expect a queue without a limit to be full.
_PATIENCE_TO_APPEND = 1.0


class MessageLog:
    """Messages in memory that processes share, the oldest first; `maxsize` of them at most, 0 is no limit."""

    #: Whether `_note_taking` is to be called.
    _counts_takers = False

    def __init__(self, maxsize: int) -> None:
        files = [SharedFile(memory_file("parallelkit-queue", size)) for size in (WINDOW, WINDOW, 0)]
        self._attach(maxsize, files, Bell(), Bell() if maxsize else None)
        self._words[_FIRST] = 1

    def _attach(self, maxsize: int, files: list[SharedFile], items: Bell, room: Bell | None) -> None:
        self.maxsize = maxsize
        self.items = items
        self._room = room
        self._files = files
        self._tail, self._head, self._turn = files
        self._maps = [map_shared(file.descriptor, WINDOW) for file in files[:2]]
        self._view = memoryview(self._maps[0])
        self._words = self._view[:_BEGIN].cast("Q")
        self._last = -1, 0, 0  # what this process appended: how many there were then, the file, the end

    def __reduce__(self) -> tuple[Any, ...]:
        """Only while a process is being started: the memory is the same on the other side."""
        return _inherit, (type(self), self.maxsize, self._files, self.items, self._room)

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_words") and not _is_finalizing():
            self._words.release()
            self._view.release()
            for shared in self._maps:
                shared.close()

    # What is in it

    def __len__(self) -> int:
        taken = self._words[_TAKEN]
        return max(0, self._words[_APPENDED] - taken)

    # In

    def append(self, message: Message, block: bool = True, timeout: float | None = None) -> None:
        """Append a message. Full where there is no room in time, ShutDown after `shutdown`."""
        words = self._words
        deadline = lock_deadline = None
        if not (block and timeout is None):
            now = time.monotonic()
            deadline = now + (max(0.0, timeout or 0.0) if block else 0.0)
            lock_deadline = max(deadline, now + _PATIENCE_TO_APPEND)
        tail = self._tail
        kind, body, buffers = message
        record = None
        if not buffers and len(body) < LARGE:
            record = _pack(len(body) << _KIND_BITS | kind) + body
        while True:
            if lock_deadline is None:
                with tail.threads:
                    try:
                        tail.take()
                        if self._append(words, message, record):
                            return
                    finally:
                        tail.leave()
            else:
                if not tail.acquire(lock_deadline):
                    raise Full
                try:
                    if self._append(words, message, record):
                        return
                finally:
                    tail.release()
                if deadline is not None and time.monotonic() >= deadline:
                    raise Full
            self._await_room(deadline)

    def _append(self, words: memoryview, message: Message, record: bytes | None) -> bool:
        """Append a message, under the tail lock; whether there was room. `record`: a small one, as bytes."""
        if words[_SHUT]:
            raise ShutDown
        count, taken = words[_APPENDED], words[_TAKEN]
        if self.maxsize and count - taken >= self.maxsize:
            return False
        last, file, at = self._last
        # While the last one is still ours and is there, the next goes behind it.
        if count != last or count == taken or at >= WINDOW:
            file, at = self._next_place(words, count)
        if record is not None and (end := at + len(record)) <= WINDOW:
            self._maps[file][at:end] = record
        else:
            end = self._write(file, at, _parts(message) if record is None else [record])
        count += 1
        words[_APPENDED_AT + (count & 1)] = end
        words[_APPENDED] = count
        self._last = count, file, end
        return True

    def _next_place(self, words: memoryview, count: int) -> tuple[int, int]:
        """Where message `count` goes: which file, and where in it."""
        first, second = words[_FIRST], words[_FIRST + 1]
        file, first = (1, second) if second > first else (0, first)
        if count == words[_TAKEN]:
            words[_FIRST + file] = count + 1
            if not words[_ITEMS_SET]:
                self.items.set()
                words[_ITEMS_SET] = 1
            return file, _BEGIN
        if first == count + 1:
            return file, _BEGIN
        at = words[_APPENDED_AT + (count & 1)]
        if at >= WINDOW and words[_TAKEN] >= first - 1:
            file = 1 - file
            self._trim(file)
            words[_FIRST + file] = count + 1
            at = _BEGIN
        return file, at

    def _write(self, file: int, at: int, parts: Sequence[Part]) -> int:
        descriptor = self._files[file].descriptor
        left = [view for part in parts if len(view := memoryview(part).cast("B"))]
        if at + sum(map(len, left)) > WINDOW:
            self._words[_GROWN] = 1
        while left:
            written = os.pwritev(descriptor, left[:_IOV_MOST], at)
            at += written
            left = advance(left, written)
        return at

    def _trim(self, file: int) -> None:
        """Give back the memory of a file from which all was taken, but for what is mapped of it."""
        os.ftruncate(self._files[file].descriptor, WINDOW)

    def _await_room(self, deadline: float | None) -> None:
        assert self._room is not None
        words = self._words
        if not self._head.acquire(deadline):
            return
        try:
            if words[_SHUT] or words[_APPENDED] - words[_TAKEN] < self.maxsize:
                return
            words[_ROOM_SET] = 0
            self._room.clear()
        finally:
            self._head.release()
        wait_readable(self._room.fileno(), remaining(deadline))

    # Out

    def take(self, block: bool = True, timeout: float | None = None) -> Message:
        """The oldest message: Empty where there is none in time, ShutDown where none can come any more."""
        words = self._words
        message = self._take_in_time(words, block, timeout)
        if words[_GROWN] and words[_TAKEN] == words[_APPENDED]:
            with contextlib.suppress(OSError):  # the message is ours, whatever becomes of the memory
                self.settle()
        return message

    def _take_in_time(self, words: memoryview, block: bool, timeout: float | None) -> Message:
        head = self._head
        deadline = None
        if not block:
            deadline = time.monotonic() + _PATIENCE
        elif timeout is not None:
            deadline = time.monotonic() + max(0.0, timeout)
        while True:
            # In this order: what is appended before the shutdown is seen.
            shut = words[_SHUT]
            if words[_TAKEN] != words[_APPENDED] and shut != _DISCARDED:
                if deadline is not None:
                    if not head.acquire(deadline):
                        raise Empty
                    try:
                        if (message := self._take(words)) is not None:
                            return message
                    finally:
                        head.release()
                    continue
                with head.threads:
                    try:
                        head.take()
                        if (message := self._take(words)) is not None:
                            return message
                    finally:
                        head.leave()
                continue
            if shut:
                raise ShutDown
            if block and _linger(words):
                continue
            if deadline is None:
                if (message := self._wait_for_turn(words)) is not None:
                    return message
                continue
            if not block or time.monotonic() >= deadline:
                self.settle(deadline)
                raise Empty
            self._await_item(words, deadline)

    def _await_item(self, words: memoryview, deadline: float | None) -> None:
        self.settle(deadline)
        rang = wait_readable(self.items.fileno(), remaining(deadline))
        if rang and words[_TAKEN] == words[_APPENDED]:
            # Somebody was killed between clearing the word and the bell, or after setting only the bell.
            self.settle(deadline, rang)

    def _wait_for_turn(self, words: memoryview) -> Message | None:
        with self._turn:
            if words[_TAKEN] == words[_APPENDED] and not words[_SHUT]:
                self._await_item(words, None)
            if words[_TAKEN] == words[_APPENDED]:
                return None
            with self._head:
                return self._take(words)

    def _take(self, words: memoryview) -> Message | None:
        count = words[_TAKEN]
        if count == words[_APPENDED] or words[_SHUT] == _DISCARDED:
            return None
        after = count + 1
        first, second = words[_FIRST], words[_FIRST + 1]
        file = 0
        if second <= after and (second > first or first > after):
            file, first = 1, second
        at = _BEGIN if first == after else words[_TAKEN_AT + (count & 1)]
        message: Message
        begin = at + 8
        if begin <= WINDOW:
            shared = self._maps[file]
            (word,) = _unpack_from(shared, at)
            end = begin + (word >> _KIND_BITS)
            if end <= WINDOW and not word & _KIND_MASK:
                message = PICKLE, shared[begin:end], ()
            else:
                message = self._read(file, begin, end, word & _KIND_MASK)
        else:
            (word,) = _HEADER.unpack(self._pread(file, at, 8))
            end = begin + (word >> _KIND_BITS)
            message = self._read(file, begin, end, word & _KIND_MASK)
        words[_TAKEN_AT + (after & 1)] = end
        if self._room is not None and not words[_ROOM_SET]:
            self._room.set()
            words[_ROOM_SET] = 1
        words[_TAKEN] = after
        if self._counts_takers:
            self._note_taking()
        return message

    def _note_taking(self) -> None:
        """Under the head lock, once a message was taken."""

    def _read(self, file: int, begin: int, end: int, kind: int) -> Message:
        """What is not a pickle in mapped memory."""
        if kind == PICKLE_AND_BUFFERS:
            return self._read_buffers(file, begin)
        if kind == BYTEARRAY:
            body = bytearray(end - begin)
            self._fill(file, begin, [memoryview(body)])
            return kind, body, ()
        return kind, self._pread(file, begin, end - begin), ()

    def _pread(self, file: int, at: int, size: int) -> bytes:
        data = os.pread(self._files[file].descriptor, size, at)
        if len(data) == size:
            return data
        rest = bytearray(size)  # the system reads 2 GB at once at most
        self._fill(file, at, [memoryview(rest)])
        return bytes(rest)

    def _read_buffers(self, file: int, at: int) -> Message:
        (number,) = _HEADER.unpack(self._pread(file, at, 8))
        sizes = struct.unpack(f"<{number}Q", self._pread(file, at + 8, 8 * number))
        parts = [bytearray(size) for size in sizes]
        self._fill(file, at + 8 + 8 * number, [memoryview(part) for part in parts])
        return PICKLE_AND_BUFFERS, parts[0], parts[1:]

    def _fill(self, file: int, at: int, left: list[memoryview]) -> None:
        left = [view for view in left if len(view)]
        while left:
            count = os.preadv(self._files[file].descriptor, left[:_IOV_MOST], at)
            if not count:
                raise OSError("the memory of this queue was cut off")
            at += count
            left = advance(left, count)

    def settle(self, deadline: float | None = None, rang: bool = False) -> None:
        """See to it that the bell is not set, nor memory kept, for messages that were taken.

        rang: the bell is set, whatever the word beside it says.
        """
        words = self._words
        if not (rang or words[_ITEMS_SET] or words[_GROWN]) or words[_TAKEN] != words[_APPENDED]:
            return
        soon = time.monotonic() + _PATIENCE
        if not self._tail.acquire(soon if deadline is None else min(deadline, soon)):
            return  # somebody is appending
        try:
            if words[_TAKEN] != words[_APPENDED]:
                return
            if not words[_SHUT]:
                words[_ITEMS_SET] = 0
                self.items.clear()
            if words[_GROWN]:
                current = words[_FIRST + 1] > words[_FIRST]
                words[_FIRST + current] = words[_APPENDED] + 1
                words[_GROWN] = 0
                self._trim(0)
                self._trim(1)
        finally:
            self._tail.release()

    # The end

    def shutdown(self, immediate: bool) -> None:
        """Nothing may be appended any more; with `immediate` what is in it is discarded."""
        words = self._words
        with self._tail, self._head:
            if immediate:
                words[_SHUT] = _DISCARDED
                current = words[_FIRST + 1] > words[_FIRST]
                words[_FIRST + current] = words[_APPENDED] + 1
                words[_TAKEN] = words[_APPENDED]
                self._trim(0)
                self._trim(1)
            elif not words[_SHUT]:
                words[_SHUT] = _DRAINING
            self.items.set()
            if self._room is not None:
                self._room.set()


def _parts(message: Message) -> list[Part]:
    kind, body, buffers = message
    if not buffers:
        return [_HEADER.pack(len(body) << _KIND_BITS | kind), body]
    parts = [body, *buffers]
    sizes = [memoryview(part).nbytes for part in parts]
    size = 8 + 8 * len(sizes) + sum(sizes)
    header = _HEADER.pack(size << _KIND_BITS | kind)
    return [header + struct.pack(f"<{1 + len(sizes)}Q", len(sizes), *sizes), *parts]


def _linger(words: memoryview) -> bool:
    """Wait for a message for some microseconds."""
    for _ in _YIELDS:
        os.sched_yield()
        if words[_TAKEN] != words[_APPENDED]:
            return True
    return False


def _inherit(
    cls: type[MessageLog], maxsize: int, files: list[SharedFile], items: Bell, room: Bell | None
) -> MessageLog:
    log = cls.__new__(cls)
    log._attach(maxsize, files, items, room)
    return log
