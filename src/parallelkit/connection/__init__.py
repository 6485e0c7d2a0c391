"""Pipes between processes, drop-in for those of `multiprocessing`.

    from parallelkit import Pipe
    mine, theirs = Pipe[Request, Reply]()

What is different:

- `recv` takes a `timeout`. What has arrived of a message by then is kept, and the next `recv` goes on.
- `send` takes one, too. A message of which nothing was sent by then is withdrawn; of one that was sent in
  part the rest goes ahead of the next. So it is where the exception of a signal handler ends a call.
- A `send` that cannot pickle sends nothing.
- The death of the other side is noticed also where this process still has a copy of the other end; see
  `peers` for how, and for where it is not: while other children, forked when that end was open, have it, too.
- Large buffers (arrays) and large bytes are sent from where they are, and received where they will be.

A message on the socket is what it is for multiprocessing's connections, so that one of ours can speak with
one of theirs, but for large buffers; see `stream`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import Buffer, TypeVar

from ..encoding import PICKLE, Message, decode, encode
from ..errors import CallTimeoutError
from ..sharing import remaining
from . import peers
from .stream import MessageStream, TooLong

__all__ = ["Connection", "Pipe", "wait"]

S_contra = TypeVar("S_contra", contravariant=True, default=Any)
R_co = TypeVar("R_co", covariant=True, default=Any)
A = TypeVar("A", default=Any)
B = TypeVar("B", default=A)


_opening = threading.Lock()


def _renew_lock() -> None:
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Connection(Generic[S_contra, R_co]):
    """One end of a pipe, to `send` S and to `recv` R. See `multiprocessing.connection.Connection`.

    handle: the descriptor of a connected stream socket, which the connection owns from then on.

    It can be passed to a process that is started, and be sent over another connection. A connection is for
    one thread at a time in each direction.
    """

    def __init__(
        self,
        handle: int,
        readable: bool = True,
        writable: bool = True,
        _pair: peers.Pair | None = None,
        _end: int = 0,
    ) -> None:
        self._handle: int | None = None
        handle = handle.__index__()
        if handle < 0:
            raise ValueError("invalid handle")
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        self._handle = handle
        self._readable = readable
        self._writable = writable
        self._pair = _pair
        self._end = _end
        self._opened: MessageStream | None = None
        self._noted = 0  # the process that is noted as a user of this end

    # What it is

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle is None

    @property
    def readable(self) -> bool:
        """Whether this end can receive."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether this end can send."""
        return self._writable

    def fileno(self) -> int:
        """The descriptor. OSError where the connection is closed."""
        self._check_closed()
        assert self._handle is not None
        return self._handle

    def close(self) -> None:
        """Close this end in this process."""
        if self._pair is not None:
            self._pair.leave(self._end)
        self.__del__()

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            opened, self._opened = self._opened, None
            self._pair = None
            if opened is not None:
                opened.detach()
            _close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_closed(self) -> None:
        if self._handle is None:
            raise OSError("handle is closed")

    def _check_readable(self) -> None:
        self._check_closed()
        if not self._readable:
            raise OSError("connection is write-only")

    def _check_writable(self) -> None:
        self._check_closed()
        if not self._writable:
            raise OSError("connection is read-only")

    def _stream(self) -> MessageStream:
        if self._noted != os.getpid():
            if self._pair is not None:
                self._pair.use(self._end)
            self._noted = os.getpid()
        if self._opened is None:
            with _opening:  # of two sockets for one descriptor, the one that is dropped would close it
                if self._opened is None:
                    made = socket.socket(fileno=self.fileno())
                    made.settimeout(None)  # in spite of socket.setdefaulttimeout
                    self._opened = MessageStream(made, self._pair, self._end)
        return self._opened

    # Out

    def send(self, obj: S_contra, *, timeout: float | None = None) -> None:
        """Send an object; while the other side does not read and the socket is full, wait.

        timeout: for how many seconds at most; None: for ever. `CallTimeoutError` (a `TimeoutError`) where
        that was not enough. Nothing of the object was sent then, but of a large one a part may have been: the
        error's `begun` says so, and the rest goes ahead of the next message: do not send it again.
        `SerializationError` where it cannot be pickled: then nothing was sent.
        `BrokenPipeError` where the other side is gone.

        >>> mine, theirs = Pipe()
        >>> mine.send("now", timeout=1.0)
        >>> theirs.recv()
        'now'
        """
        self._check_writable()
        self._transmit(self._stream().send, encode(obj), timeout)

    def send_bytes(
        self, buf: Buffer, offset: int = 0, size: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Send `size` bytes of a buffer from `offset` on, as one message. Times out as `send` does."""
        self._check_writable()
        view = memoryview(buf).cast("B")
        if offset < 0:
            raise ValueError("offset is negative")
        if len(view) < offset:
            raise ValueError("buffer length < offset")
        if size is None:
            size = len(view) - offset
        elif size < 0:
            raise ValueError("size is negative")
        elif offset + size > len(view):
            raise ValueError("buffer length < offset + size")
        self._transmit(self._stream().send_bytes, view[offset : offset + size], timeout)

    @property
    def unsent(self) -> int:
        """How many bytes are still to be sent of a message that was begun.

        0, but after a `send` that timed out midway or that an exception of a signal handler ended. They go
        ahead of the next message, or by `flush`.
        """
        return 0 if self._opened is None else self._opened.unsent

    def flush(self, *, timeout: float | None = None) -> None:
        """Send what is `unsent`, within `timeout` seconds; raises what `send` raises."""
        self._check_writable()
        self._transmit(lambda _, deadline: self._stream().flush(deadline), None, timeout)

    def _transmit(
        self, send: Callable[[Any, float | None], None], message: Any, timeout: float | None
    ) -> None:
        if timeout is None:
            send(message, None)
            return
        try:
            send(message, time.monotonic() + max(0.0, timeout))
        except TimeoutError:
            raise CallTimeoutError(timeout=timeout, begun=self._stream().begun) from None

    # In

    def recv(self, timeout: float | None = None) -> R_co:
        """Receive an object, waiting `timeout` seconds at most, None: for ever.

        `EOFError` where nothing is left and the other side is gone, `CallTimeoutError` (a `TimeoutError`)
        where no whole message came in time, and what unpickling the object raises.
        """
        self._check_readable()
        kind, body, buffers = self._receive(timeout, None)
        obj: R_co = decode((kind, body, buffers))
        return obj

    def recv_bytes(self, maxlength: int | None = None, *, timeout: float | None = None) -> bytes:
        """Receive the bytes of a message.

        OSError where there are more than `maxlength`; then nothing can be received any more. EOFError and
        CallTimeoutError as in `recv`.
        """
        self._check_readable()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message = self._receive(timeout, maxlength)
        if message[0] != PICKLE:
            return pickle.dumps(decode(message))  # it was sent by `send`
        return bytes(message[1])

    def recv_bytes_into(self, buf: Buffer, offset: int = 0, *, timeout: float | None = None) -> int:
        """Receive the bytes of a message into a buffer at `offset`, and return how many they are.

        `BufferTooShort`, with the message as its argument, where there is no room for them.
        Raises EOFError and CallTimeoutError as `recv` does.
        """
        with memoryview(buf) as given, given.cast("B") as view:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(view):
                raise ValueError("offset too large")
            data = self.recv_bytes(timeout=timeout)
            if len(view) < offset + len(data):
                raise multiprocessing.BufferTooShort(data)
            view[offset : offset + len(data)] = data
            return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, or the end, within `timeout` seconds (None: for ever)."""
        self._check_readable()
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        try:
            self._stream().wait(select.POLLIN, deadline)
        except TimeoutError:
            return False
        return True

    def _receive(self, timeout: float | None, most: int | None) -> Message:
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        try:
            return self._stream().receive(deadline, most)
        except TimeoutError:
            raise CallTimeoutError(timeout=timeout or 0.0) from None
        except TooLong:
            if self._writable:
                self._readable = False
            else:
                self.close()
            raise OSError("bad message length") from None

    # To another process

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opened is not None and self._opened.is_midway:
            raise ValueError("a connection cannot be handed on in the middle of a message")
        pair = self._pair
        if pair is not None and get_spawning_popen() is None:
            # On its way it is in nobody's hands, which must not look like the end.
            pair.use(self._end)
        duplicate = reduction.DupFd(self.fileno())
        return _rebuild, (type(self), duplicate, self._readable, self._writable, pair, self._end)


def _rebuild(
    cls: type[Connection[Any, Any]],
    duplicate: Any,
    readable: bool,
    writable: bool,
    pair: peers.Pair | None,
    end: int,
) -> Connection[Any, Any]:
    made = cls(duplicate.detach(), readable, writable, pair, end)
    made._stream()
    return made


class Pipe(tuple["Connection[A, B]", "Connection[B, A]"], Generic[A, B]):
    """A pair of connected ends: the first sends A and receives B, the second the other way round.

    duplex: if false, the first end can only receive, and the second only send.

    `Pipe[int, str]()` says what travels; `Pipe[int]()` is `Pipe[int, int]()`, with `Pipe()` it is anything.

    >>> mine, theirs = Pipe[int, str]()
    >>> mine.send(1)
    >>> theirs.recv()
    1
    >>> mine.poll(timeout=0.01)
    False
    """

    __slots__ = ()

    def __new__(cls, duplex: bool = True) -> Self:
        """Make the pair."""
        first, second = (sock.detach() for sock in socket.socketpair())
        pair = peers.make_pair(first, second)
        if not duplex:
            for descriptor, way in ((first, socket.SHUT_WR), (second, socket.SHUT_RD)):
                with socket.socket(fileno=os.dup(descriptor)) as sock:
                    sock.shutdown(way)
        ends = Connection(first, True, duplex, pair, 0), Connection(second, duplex, True, pair, 1)
        return super().__new__(cls, ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """The objects of a list that can be received from, once there is one, or after `timeout` seconds.

    In the list can be connections of this library and of multiprocessing, queues, sockets, and the sentinels
    of processes. A connection at its end is ready.

    >>> mine, theirs = Pipe()
    >>> theirs.send(None)
    >>> wait([mine, theirs]) == [mine]
    True
    """
    objects = list(object_list)
    deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
    left = remaining(deadline)
    short = peers.SHORT_WAIT if left is None else min(left, peers.SHORT_WAIT)
    ready: list[Any] = multiprocessing.connection.wait(objects, short)
    watches = [(thing, thing._stream().watch()) for thing in objects if isinstance(thing, Connection)]
    with contextlib.ExitStack() as stack:
        for _, watch in watches:
            stack.callback(watch.close)
        while not ready and (left := remaining(deadline)) != 0:
            gone = [thing for thing, watch in watches if watch.look()]
            exits = [descriptor for _, watch in watches for descriptor in watch.descriptors]
            for _, watch in watches:
                left = watch.at_most(left)
            ready = multiprocessing.connection.wait([*objects, *exits], 0 if gone else left)
            ready = [thing for thing in ready if thing not in exits or thing in objects]
            ready += [thing for thing in gone if thing not in ready]
    return ready
