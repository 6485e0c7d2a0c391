"""Messages on a stream socket, sent and received so that an interruption leaves nothing broken.

A message is what it is in `multiprocessing.connection`: its length (a signed 32-bit number in network order,
or -1 and 64 bits), and its bytes. One with buffers beside it, or whose bytes are not a pickle, is:

    -2 i32 │ kind u8 │ parts u32 │ their lengths, u64 each │ parts

Nothing is read ahead of a message, so the socket can be handed on to another process between two messages.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Sequence

from ..encoding import BYTES, PICKLE, Message, Part, advance
from ..sharing import milliseconds, remaining
from . import peers

__all__ = ["MessageStream", "TooLong"]

_SHORT = struct.Struct("!i")
_LONG = struct.Struct("!Q")
_PARTS = struct.Struct("!BI")
_IS_LONG, _HAS_PARTS = -1, -2
_SHORT_MOST = 0x7FFFFFFF
#: A part up to this size is received by one call into bytes, and sent joined with its header.
_SMALL = 1 << 14
_IOV_MOST = 1024
_NOW = socket.MSG_DONTWAIT
_SHORT_WAIT = 1000 * peers.SHORT_WAIT


class TooLong(Exception):
    """The next message is longer than it may be."""


class MessageStream:
    """Sends and receives whole messages, and remembers where in a message it was interrupted.

    pair, end: the notes on who uses which end of the pair, and which of them this is.
    """

    __slots__ = ("_arrived", "_end", "_filling", "_pair", "_polls", "_socket", "_unsent", "begun")

    def __init__(self, sock: socket.socket, pair: peers.Pair | None, end: int) -> None:
        self._socket = sock
        self._pair = pair
        self._end = end
        self._arrived: list[Part] = []  # parts of a message under way
        self._filling: tuple[bytearray, int] | None = None  # the one behind them, and how much of it is there
        self._unsent: list[memoryview] = []
        #: Whether a part was sent of the last message that an exception kept from its end.
        self.begun: bool = False
        self._polls: dict[int, select.poll] = {}

    def detach(self) -> None:
        """Let go of the socket's descriptor without closing it."""
        self._socket.detach()

    @property
    def is_midway(self) -> bool:
        """Whether a part of a message was sent or received, and not the rest."""
        return bool(self._arrived or self._filling or self._unsent)

    @property
    def unsent(self) -> int:
        """How many bytes of a message that was begun are still to be sent."""
        return sum(map(len, self._unsent))

    # Out

    def send(self, message: Message, deadline: float | None) -> None:
        """Send a message.

        BrokenPipeError where nobody can read it any more, TimeoutError at the deadline (`time.monotonic`).
        What an exception ends is withdrawn, or where a part of it was sent, the rest goes before the next.
        """
        kind, body, buffers = message
        if kind == PICKLE:
            self.send_bytes(body, deadline)
            return
        parts = [body, *buffers]
        sizes = [memoryview(part).nbytes for part in parts]
        table = struct.pack(f"!{len(sizes)}Q", *sizes)
        self._send([_SHORT.pack(_HAS_PARTS) + _PARTS.pack(kind, len(parts)) + table, *parts], deadline)

    def send_bytes(self, data: Part, deadline: float | None) -> None:
        """Send bytes as a message, as `send` does."""
        size = len(data)
        if size <= _SMALL:
            self._send([_SHORT.pack(size) + data], deadline)
        elif size <= _SHORT_MOST:
            self._send([_SHORT.pack(size), data], deadline)
        else:
            self._send([_SHORT.pack(_IS_LONG) + _LONG.pack(size), data], deadline)

    def _send(self, parts: Sequence[Part], deadline: float | None) -> None:
        if len(parts) == 1 and not self._unsent:
            try:
                sent = self._socket.send(parts[0], _NOW)
            except BlockingIOError:
                sent = 0
            except ConnectionError:
                raise _broken() from None
            if sent == len(parts[0]):
                return
            self._unsent = [memoryview(parts[0])[sent:]]
        else:
            self._unsent += [view for part in parts if len(view := memoryview(part).cast("B"))]
        try:
            self._send_unsent(deadline)
        except BaseException:
            earlier = self.unsent - sum(memoryview(part).nbytes for part in parts)
            self.begun = earlier < 0
            if not self.begun:
                self._unsent = _first(self._unsent, earlier)
            self._keep_unsent()
            raise

    def flush(self, deadline: float | None) -> None:
        """Send what is left of a message that was begun, as `send` does."""
        self.begun = True
        try:
            self._send_unsent(deadline)
        finally:
            self._keep_unsent()

    def _send_unsent(self, deadline: float | None) -> None:
        try:
            while self._unsent:
                try:
                    sent = self._socket.sendmsg(self._unsent[:_IOV_MOST], (), _NOW)
                except BlockingIOError:
                    sent = 0
                if sent:
                    self._unsent = advance(self._unsent, sent)
                # Behind the except clause, as in the others: what interrupts the wait has no cause to show.
                elif not self.wait(select.POLLOUT, deadline):
                    raise BrokenPipeError
        except ConnectionError:
            self._unsent = []
            raise _broken() from None

    def _keep_unsent(self) -> None:
        """Copy what is left of a message of which a part is in the socket: its memory is the caller's."""
        self._unsent = [memoryview(bytes(view)) for view in self._unsent]

    # In

    def receive(self, deadline: float | None, most: int | None = None) -> Message:
        """Receive a message.

        TimeoutError at the deadline (`time.monotonic`), EOFError where nothing is left and the other side is
        gone, TooLong where the message has more than `most` bytes.
        """
        at = 0

        def part(size: int) -> Part:
            nonlocal at
            at += 1
            return self._arrived[at - 1] if at <= len(self._arrived) else self._part(size, deadline)

        (size,) = _SHORT.unpack(part(4))
        if size == _HAS_PARTS:
            kind, number = _PARTS.unpack(part(_PARTS.size))
            sizes = struct.unpack(f"!{number}Q", part(8 * number))
        else:
            if size == _IS_LONG:
                (size,) = _LONG.unpack(part(8))
            kind, sizes = PICKLE, (size,)
        if most is not None and sum(sizes) > most:
            raise TooLong
        body, *buffers = map(part, sizes)
        self._arrived.clear()
        return kind, bytes(body) if kind == BYTES else body, buffers

    def _part(self, size: int, deadline: float | None) -> Part:
        """The next `size` bytes; what has come of them by an exception is kept for the next time."""
        part, have = self._filling or (b"", 0)
        if not have and size <= _SMALL:
            data = self._recv(size, deadline)
            if len(data) == size:
                self._arrived.append(data)
                return data
            part, have = bytearray(data).ljust(size), len(data)
        if not have:
            part = bytearray(size)
        assert isinstance(part, bytearray)
        view = memoryview(part)
        while have < size:
            self._filling = part, have
            try:
                count = self._socket.recv_into(view[have:], 0, _NOW)
            except BlockingIOError:
                count = -1
            except ConnectionError:
                count = 0
            if count < 0:
                self._await_more(deadline)
                continue
            if not count:
                raise EOFError("the other end is closed")
            have += count
        self._filling = None
        self._arrived.append(part)
        return part

    def _recv(self, size: int, deadline: float | None) -> bytes:
        while size:
            try:
                data = self._socket.recv(size, _NOW)
            except BlockingIOError:
                data = None
            except ConnectionError:
                data = b""
            if data:
                return data
            if data is not None:
                raise EOFError("the other end is closed")
            self._await_more(deadline)
        return b""

    # Waiting

    def _await_more(self, deadline: float | None) -> None:
        if not self.wait(select.POLLIN, deadline):
            raise EOFError("the other side is gone")

    def wait(self, event: int, deadline: float | None) -> bool:
        """Wait for a poll event; false where the other side is gone, TimeoutError at the deadline."""
        poll = self._polls.get(event)
        if poll is None:
            poll = self._polls[event] = select.poll()
            poll.register(self._socket, event)
        left = remaining(deadline)
        try:
            if poll.poll(_SHORT_WAIT if left is None else min(1000 * left, _SHORT_WAIT)):
                return True
        except RuntimeError:
            pass  # another thread waits with this object
        return self._wait_long(event, deadline)

    def _wait_long(self, event: int, deadline: float | None) -> bool:
        handle = self._socket.fileno()
        poll = select.poll()
        poll.register(handle, event)
        with contextlib.closing(self.watch()) as watch:
            while (left := remaining(deadline)) != 0:
                if watch.look():
                    return bool(poll.poll(0))  # what was sent before the end
                for descriptor in watch.descriptors:
                    poll.register(descriptor, select.POLLIN)
                timeout = watch.at_most(left)
                ready = poll.poll(milliseconds(timeout))
                if any(descriptor == handle for descriptor, _ in ready):
                    return True
                for descriptor in watch.descriptors:
                    poll.unregister(descriptor)
        raise TimeoutError

    def watch(self) -> peers.Watch:
        """What tells that the other side is gone."""
        return peers.Watch(self._pair, 1 - self._end)


def _first(views: list[memoryview], count: int) -> list[memoryview]:
    """The first `count` bytes of some buffers."""
    found = []
    for view in views:
        if count:
            found.append(view[:count])
            count -= len(found[-1])
    return found


def _broken() -> BrokenPipeError:
    return BrokenPipeError(errno.EPIPE, "the other end of the pipe is closed or gone")
