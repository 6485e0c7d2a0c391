"""Frames on a stream socket: a header of 32 bytes, a body, and large buffers behind it.

::

    kind  u8 │ pad │ buffers u32 │ a u64 │ b u64 │ body length u64
    buffer lengths, u64 each
    body
    buffers, raw

Large buffers (pickle protocol 5, out of band) go from the sender's memory into the socket and from there
into the bytearray that the receiver's object will live in; no copy of them is made in Python. Those that
several workers are to have travel as a descriptor of their memory instead, see `shared`.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

Part: TypeAlias = "bytes | bytearray | memoryview"

_HEADER = struct.Struct("<B3xIQQQ")
#: One recv takes so much: several small frames, and less than what malloc maps anew each time.
READ_SIZE = 1 << 16
#: Parts up to so many bytes in all are joined, which is cheaper than a gathering send.
JOIN_SIZE = 1 << 15
_IOV_MOST = 512
#: No more descriptors than one come with a recv: the kernel ends it behind the message that carries one.
_DESCRIPTOR_ROOM = socket.CMSG_SPACE(4)
_DESCRIPTOR = struct.Struct("i")


class HasDescriptor(Protocol):
    """What is open, and stays so as long as somebody has this object."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class Frame(NamedTuple):
    """One message; what `a` and `b` mean depends on `kind`.

    Instead of a buffer there is None where no memory was to be had for it.
    """

    kind: int
    a: int
    b: int
    body: Part
    buffers: Sequence[Part | None]


def pack(kind: int, a: int = 0, b: int = 0, body: Part = b"", buffers: Sequence[Part] = ()) -> list[Part]:
    """The parts of a frame, to be sent one after the other.

    >>> parts = pack(1, 2, 3, b"body", [b"large"])
    >>> sum(map(len, parts))
    49
    """
    header = _HEADER.pack(kind, len(buffers), a, b, len(body))
    if not buffers:
        return [header + body] if len(body) < JOIN_SIZE else [header, body]
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    return [header + struct.pack(f"<{len(sizes)}Q", *sizes), body, *buffers]


def size_of(parts: Iterable[Part]) -> int:
    """Bytes in all."""
    return sum(memoryview(part).nbytes for part in parts)


class Receiver:
    """Puts together the frames that arrive on a socket.

    `read` makes one system call, so it blocks just where the socket does.
    """

    __slots__ = ("_filling", "_frame", "_rest", "_socket", "received")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.received: int = 0  # bytes
        self._rest = b""  # the beginning of a frame that is small or whose size is not known yet
        self._frame: Frame | None = None  # a large frame under way, and what of it is still to come
        self._filling: deque[memoryview] = deque()

    def read(self) -> list[Frame]:
        """The frames that one more recv completes; EOFError at the end of the stream."""
        if self._frame is not None:
            return self._read_on(self._frame)
        data = self._receive()
        if not data:
            raise EOFError
        self.received += len(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        frames: list[Frame] = []
        at = 0
        while len(data) - at >= _HEADER.size:
            kind, count, a, b, length = _HEADER.unpack_from(data, at)
            begin = at + _HEADER.size + 8 * count
            if len(data) < begin:
                break
            sizes = struct.unpack_from(f"<{count}Q", data, begin - 8 * count) if count else ()
            end = begin + length + sum(sizes)
            if len(data) < end:
                if end - at > READ_SIZE:
                    self._begin_large(kind, a, b, length, sizes, memoryview(data)[begin:])
                    return frames
                break
            body = data[begin : begin + length]
            frames.append(Frame(kind, a, b, body, _cut(data, begin + length, sizes) if count else ()))
            at = end
        self._rest = data[at:]
        return frames

    def _receive(self) -> bytes:
        return self._socket.recv(READ_SIZE)

    def _begin_large(
        self, kind: int, a: int, b: int, length: int, sizes: Sequence[int], have: memoryview
    ) -> None:
        body = bytearray(length)
        buffers = [_room(size) for size in sizes]
        self._frame = Frame(kind, a, b, body, buffers)
        for part, size in zip((body, *buffers), (length, *sizes), strict=True):
            taken = min(size, len(have))
            if part is None:
                self._drop(size - taken)
            else:
                view = memoryview(part)
                view[:taken] = have[:taken]
                if taken < size:
                    self._filling.append(view[taken:])
            have = have[taken:]

    def _drop(self, size: int) -> None:
        """Read so many bytes into a place from which nobody takes them."""
        place = memoryview(bytearray(READ_SIZE))
        for left in range(size, 0, -READ_SIZE):
            self._filling.append(place[:left])

    def _read_on(self, frame: Frame) -> list[Frame]:
        count = self._socket.recv_into(self._filling[0])
        if not count:
            raise EOFError
        self.received += count
        view = self._filling.popleft()
        if count < len(view):
            self._filling.appendleft(view[count:])
        if self._filling:
            return []
        self._frame = None
        return [frame]


class DescriptorReceiver(Receiver):
    """One that takes descriptors, too: they are in `descriptors` before their frames are read.

    Instead of one for which this process had no room there is None.
    """

    __slots__ = ("descriptors",)

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.descriptors: deque[int | None] = deque()

    def _receive(self) -> bytes:
        data, ancillary, flags, _ = self._socket.recvmsg(READ_SIZE, _DESCRIPTOR_ROOM)
        if ancillary:
            self.descriptors.append(_DESCRIPTOR.unpack_from(ancillary[0][2])[0])
        elif flags & socket.MSG_CTRUNC:
            self.descriptors.append(None)
        return data


def _room(size: int) -> bytearray | None:
    try:
        return bytearray(size)
    except MemoryError:
        return None


def _cut(data: bytes, at: int, sizes: Sequence[int]) -> list[bytearray]:
    buffers: list[bytearray] = []
    for size in sizes:
        buffers.append(bytearray(data[at : at + size]))
        at += size
    return buffers


class Outbox:
    """What could not be sent at once on a socket that does not block."""

    __slots__ = ("_carriers", "_parts", "_socket", "sent")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.sent: int = 0  # bytes
        self._parts: deque[memoryview] = deque()
        self._carriers: deque[tuple[memoryview, HasDescriptor]] = deque()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def send(self, parts: list[Part], carried: HasDescriptor | None = None) -> None:
        """Send as much as goes at once, and keep the rest. OSError where the other end is gone.

        With the first of the parts goes the descriptor of `carried`.
        """
        if carried is None and not self._parts and len(parts) == 1 and len(parts[0]) <= JOIN_SIZE:
            try:
                sent = self._socket.send(parts[0])
            except BlockingIOError:
                sent = 0
            self.sent += sent
            if sent < len(parts[0]):
                self._parts.append(memoryview(parts[0])[sent:])
            return
        views = [view for part in parts if len(view := memoryview(part).cast("B"))]
        if carried is not None:
            self._carriers.append((views[0], carried))
        self._parts += views
        self.flush()

    def flush(self) -> None:
        """Send as much of what is left as goes at once."""
        parts = self._parts
        while parts:
            try:
                sent = self._send_some()
            except BlockingIOError:
                return
            self.sent += sent
            _advance(parts, sent)

    def _send_some(self) -> int:
        parts, carriers = self._parts, self._carriers
        if not carriers:
            return self._socket.sendmsg([parts[i] for i in range(min(len(parts), _IOV_MOST))])
        carrier, carried = carriers[0]
        if parts[0] is not carrier:
            before = itertools.takewhile(lambda part: part is not carrier, parts)
            return self._socket.sendmsg(list(itertools.islice(before, _IOV_MOST)))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(carried.fileno()))
        sent = self._socket.sendmsg([carrier], [rights])
        carriers.popleft()
        return sent

    def clear(self) -> None:
        """Forget what is left: nobody will read it."""
        self._parts.clear()
        self._carriers.clear()


def send_all(sock: socket.socket, parts: list[Part]) -> None:
    """Send a frame on a socket that blocks."""
    if len(parts) == 1:
        sock.sendall(parts[0])
        return
    left = deque(view for part in parts if len(view := memoryview(part).cast("B")))
    while left:
        _advance(left, sock.sendmsg([left[i] for i in range(min(len(left), _IOV_MOST))]))


def _advance(parts: deque[memoryview], sent: int) -> None:
    """Drop the first `sent` bytes."""
    while sent:
        first = parts[0]
        if sent < len(first):
            parts[0] = first[sent:]
            return
        sent -= len(first)
        parts.popleft()
