"""Queues between processes, drop-in for those of `multiprocessing`.

    from parallelkit import Queue
    queue: Queue[int] = Queue()

What is different, and why it can be:

- An item is in memory that all processes share as soon as `put` returns. So nothing is lost where a
  process calls `os._exit` or is killed right after it, a process can be joined before its items were read,
  and no thread feeds a pipe: `close`, `join_thread` and `cancel_join_thread` have nothing to wait for.
- What cannot be pickled raises in `put`, as `SerializationError`, which is a `pickle.PicklingError`.
- A process that is killed, whatever it is doing with the queue, leaves it as if that call had not begun, or
  as if it had ended. An item that it had taken is gone with it. Nobody else waits longer for that.
- Large buffers (arrays) and large bytes are written from where they are and read to where they will be.

The items live in memory until they are read, or until no process has the queue any more. See `messagelog`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing.context import assert_spawning
from typing import Any, Generic, Self

from typing_extensions import TypeVar

from ..encoding import decode, encode
from ..errors import SerializationError
from ..sharing import wait_readable
from .messagelog import Empty, Full, MessageLog, ShutDown
from .taskcount import JoinableLog

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "ShutDown", "SimpleQueue"]

T = TypeVar("T", default=Any)


class _End:
    """What the standard library looks for in `queue._reader` and `queue._writer`.

    That is `multiprocessing.connection.wait`, and the pools of multiprocessing and concurrent.futures, where
    a context of this library was passed to them.
    """

    def __init__(self, queue: _LogQueue[Any]) -> None:
        self._queue = queue

    @property
    def closed(self) -> bool:
        return self._queue._log is None

    def fileno(self) -> int:
        return self._queue.fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        return not self._queue.empty() or wait_readable(self.fileno(), timeout)

    def send(self, obj: object) -> None:
        self._queue._open_log().append(encode(obj))

    def recv(self) -> Any:
        return decode(self._queue._open_log().take(True, None))

    def close(self) -> None:
        """Nothing: the two directions share what there is to close."""


class _LogQueue(Generic[T]):
    """What all queues have: a message log, or None once they are closed."""

    _log: MessageLog | None

    def _open_log(self) -> MessageLog:
        if self._log is None:
            raise OSError(f"handle is closed: {self!r} was closed in this process")
        return self._log

    def empty(self) -> bool:
        """Whether no item is there now. OSError where the queue is closed."""
        return not len(self._open_log())

    def fileno(self) -> int:
        """A descriptor that is readable while an item is there, and after `shutdown`: for `wait`.

        Where several processes read, an item can be gone by the time `get` is called.
        """
        log = self._open_log()
        descriptor = log.items.fileno()
        log.settle(rang=wait_readable(descriptor, 0))
        return descriptor

    def shutdown(self, immediate: bool = False) -> None:
        """End the queue for all processes: `put` raises `ShutDown`, and `get` does once no item is left.

        With `immediate` the items that are left are discarded. Who waits in `put` or `get` is woken.

        >>> queue = Queue[int]()
        >>> queue.put(1)
        >>> queue.shutdown()
        >>> list(queue)
        [1]
        """
        self._open_log().shutdown(immediate)

    def __iter__(self) -> Iterator[T]:
        """The items as they come, until the queue is shut down and empty."""
        log = self._open_log()
        while True:
            try:
                message = log.take()
            except ShutDown:
                return
            yield decode(message)

    def __getstate__(self) -> Any:
        assert_spawning(self)
        return self._log

    def __setstate__(self, log: Any) -> None:
        self._log = log

    @property
    def _reader(self) -> _End:
        return _End(self)

    _writer = _reader


class Queue(_LogQueue[T]):
    """A queue that any number of processes and threads put into and get from. See `multiprocessing.Queue`.

    maxsize: `put` waits while so many items are in the queue; 0 or less is no limit, and then it never waits.
    ctx: taken for compatibility, and not used.

    A queue reaches another process by inheritance: as an argument of a process that is started, or by fork.

    >>> queue = Queue[str](maxsize=2)
    >>> queue.put("a")
    >>> queue.get()
    'a'
    """

    _log_type: type[MessageLog] = MessageLog

    def __init__(self, maxsize: int = 0, *, ctx: object = None) -> None:
        if isinstance(maxsize, bool) or not hasattr(maxsize, "__index__"):
            raise TypeError(f"maxsize must be a whole number, not {maxsize!r}")
        self._log = self._log_type(max(0, maxsize))
        self._closed = False
        self._used = False

    def __setstate__(self, log: Any) -> None:
        super().__setstate__(log)
        self._closed = False
        self._used = False

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item into the queue.

        While the queue is full, wait: for `timeout` seconds at most, and not at all where `block` is false.
        Raises `Full` where no room came up, `ShutDown` after `shutdown`, `SerializationError` where the item
        cannot be pickled, `ValueError` where the queue is closed.
        """
        log = self._log
        if log is None or self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        try:
            message = encode(obj)
        except SerializationError as error:
            # multiprocessing's hook for subclasses that see to such errors themselves.
            hook = getattr(self, "_on_queue_feeder_error", None)
            if hook is None:
                raise
            hook(error.__cause__, obj)
            return
        log.append(message, block, timeout)
        self._used = True

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item.

        While the queue is empty, wait: for `timeout` seconds at most, and not at all where `block` is false.
        Raises `Empty` where no item came, `ShutDown` where none can come any more, `ValueError` where the
        queue is closed, and what unpickling the item raises.
        """
        log = self._log
        if log is None or self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        item: T = decode(log.take(block, timeout))
        return item

    def put_nowait(self, obj: T) -> None:
        """Do `put(obj, block=False)`."""
        self.put(obj, False)

    def get_nowait(self) -> T:
        """Do `get(block=False)`."""
        return self.get(False)

    def qsize(self) -> int:
        """How many items are in the queue: exact, and out of date as soon as others put or get."""
        return len(self._open_log())

    def full(self) -> bool:
        """Whether `maxsize` items are in the queue."""
        log = self._open_log()
        return 0 < log.maxsize <= len(log)

    def close(self) -> None:
        """Say that this process neither puts nor gets any more. Others are not concerned."""
        self._closed = True
        if self._used:
            self._log = None

    def join_thread(self) -> None:
        """Do nothing: what was put is in the queue already. The queue must be closed before."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: no process waits for its queues when it ends."""


class JoinableQueue(Queue[T]):
    """A `Queue` whose items can be waited for until they are done. See `multiprocessing.JoinableQueue`.

    An item that a process took and that ended without `task_done` counts as done, as nobody will say so any
    more: `join` does not wait for the dead.

    >>> queue = JoinableQueue[int]()
    >>> queue.put(1)
    >>> queue.get()
    1
    >>> queue.task_done()
    >>> queue.join()
    True
    """

    _log_type = JoinableLog

    def _joinable_log(self) -> JoinableLog:
        log = self._open_log()
        assert isinstance(log, JoinableLog)
        return log

    def task_done(self) -> None:
        """Say that an item that was taken is done. ValueError where this was said for all."""
        self._joinable_log().task_done()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all items were taken and are done; whether they were within `timeout` seconds."""
        return self._joinable_log().join(timeout)


class SimpleQueue(_LogQueue[T]):
    """A queue without a limit and without counts. See `multiprocessing.SimpleQueue`.

    >>> queue = SimpleQueue[int]()
    >>> queue.put(1)
    >>> queue.get()
    1
    """

    def __init__(self, *, ctx: object = None) -> None:
        self._log = MessageLog(0)

    @property
    def _rlock(self) -> threading.Lock:
        # multiprocessing.Pool acquires it to keep its workers from reading; they need not be kept.
        return threading.Lock()

    def put(self, obj: T) -> None:
        """Put an item into the queue; never waits. `SerializationError` where it cannot be pickled."""
        self._open_log().append(encode(obj))

    def get(self, *, timeout: float | None = None) -> T:
        """Take the oldest item. `Empty` where none came within `timeout` seconds (None: wait for ever)."""
        item: T = decode(self._open_log().take(True, timeout))
        return item

    def close(self) -> None:
        """Say that this process neither puts nor gets any more. Calls raise OSError from then on."""
        self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
