"""Records logged in workers, handled in the parent.

::

    worker                                             parent
    logger.info(...)
      below the level: no more than that
      Logger.callHandlers, which is ours there
        Sender.send: message and traceback as text
          put ────────► a Queue in shared memory ────► the listener, a thread from the first record on
                        (full: put waits)                getLogger(record.name)
                                                           below the level, or filtered: dropped
                                                           handled by the handlers of that logger

1. `put` returns when the record is in memory that the parent has, too: what a worker logged before it was
   killed, or called `os._exit`, is handled.
2. The listener ends when the workers have: the queue is shut down then, and what is left in it is handled
   before the pool says that it is over. The queue bounds memory: a flood makes workers wait.
3. A worker's loggers begin with the levels that the parent's have at that moment. Filters and handlers are
   applied in the parent, once.
4. Loggers are made to send at `callHandlers` and not by a handler, because a program looks for those:
   `basicConfig` does nothing where the root logger has one, `dictConfig` removes it, and a library that sees
   none adds its own. There it is also known of each record whether a handler of the worker takes it.
5. No process is forked while the listener is within a handler, whose locks would stay locked in the child.
   So it does not count among the threads beside which it is not safe to fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import threading
import time
import weakref
from collections import deque
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, TypeAlias

from .shielding import start_shielded

if TYPE_CHECKING:
    from .queues import Queue

#: The name of the thread, by which others know it.
THREAD = "parallelkit-logs"
#: Records that have been logged and not handled, at most. A worker that logs one more waits.
BACKLOG = 512
#: A fork waits so long for a handler to come to its end, in seconds; the handler may be waiting for the fork.
_REST_SECONDS = 1.0

#: A record's attributes: those of plain types, and the pickles of the others.
Message: TypeAlias = tuple[dict[str, Any], dict[str, bytes]]
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
_formatter = logging.Formatter()


#: Up to which level logging is disabled; the level of each logger that has one, and whether it is disabled.
Levels: TypeAlias = tuple[int, dict[str, tuple[int, bool]]]


def _levels() -> Levels:
    own = [logging.root, *(each for each in _loggers() if each.level or each.disabled)]
    return logging.root.manager.disable, {each.name: (each.level, each.disabled) for each in own}


def _set_levels(levels: Levels) -> None:
    disable, loggers = levels
    logging.disable(disable)
    for name, (level, disabled) in loggers.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.disabled = disabled


def _loggers() -> list[logging.Logger]:
    return [
        each for each in list(logging.root.manager.loggerDict.values()) if isinstance(each, logging.Logger)
    ]


# The parent


class Forwarding:
    """The logging of one pool: whether its workers send their records, and who takes them.

    wanted: None: unless they are forked, as they have the parent's handlers then. The queue is made for the
    first worker that sends, and the thread for the first record: to start a thread is to wait for it, which
    took a tenth of a `pool_map` by fork server.
    """

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._queue: Queue[Message] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        self._starting = threading.RLock()
        #: Held while a record is handled.
        self._handling = threading.RLock()

    def sender(self, *, forks: bool) -> Sender | None:
        """What a worker that is about to be started, by fork or otherwise, is to be given."""
        if self._wanted is False or (self._wanted is None and forks):
            return None
        if self._queue is None:
            from .queues import Queue

            self._queue = Queue(BACKLOG)
        return Sender(self._queue, None if forks else _levels(), self._wanted is None)

    def fileno(self) -> int:
        """A descriptor that is readable when there is a record: -1 where none can come."""
        return -1 if self._queue is None else self._queue.fileno()

    def listen(self) -> None:
        """Take what is sent, in a thread. To be called when there is a record, or nobody to notice it."""
        with self._starting:
            if self._queue is not None and self._thread is None:
                _listening.add(self)
                self._thread = start_shielded(self._listen, (self._queue,), THREAD)

    def _listen(self, queue: Queue[Message]) -> None:
        from .queues import ShutDown

        with self._starting:
            if self._thread is not threading.current_thread():
                return  # who started it was struck
        # The signals stay blocked while handlers run, though those are the user's: with them unblocked the
        # kernel would choose this thread, and the main one be interrupted where it has them blocked.
        try:
            while True:
                if self._ended:  # by the garbage collector, perhaps, in this very thread
                    queue.shutdown()
                try:
                    message = queue.get()
                except ShutDown:
                    return
                with self._handling:
                    _handle(message)
        finally:
            queue.shutdown(immediate=True)  # nobody is to wait for a reader

    def end(self) -> None:
        """No record will come any more, as all workers have ended: let the listener end, too."""
        self._ended = True
        if self._queue is None or self._thread is threading.current_thread():
            return
        self._queue.shutdown()
        if not self._queue.empty():
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end, and starts no thread
                self.listen()

    def join(self, timeout: float | None) -> None:
        """Wait until all records were handled; after `timeout` seconds those that are left are dropped."""
        queue, thread = self._queue, self._thread
        if thread is threading.current_thread():
            return
        if queue is not None and thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                queue.shutdown(immediate=True)
        self._queue = self._thread = None


def _handle(message: Message) -> None:
    attributes, pickles = message
    for name, data in pickles.items():
        try:
            attributes[name] = pickle.loads(data)
        except BaseException as error:
            attributes[name] = f"<cannot be unpickled: {error!r}>"
    level = attributes["levelno"]
    if attributes["levelname"] == f"Level {level}":  # one that only the parent has a name for
        attributes["levelname"] = logging.getLevelName(level)
    try:
        logger = logging.getLogger(attributes["name"])
        if logger.isEnabledFor(level):
            logger.handle(logging.makeLogRecord(attributes))
    except BaseException:  # of a filter or a record factory: to the errors of `emit` handlers see themselves
        place = (attributes["pathname"], attributes["lineno"])
        failed = logging.LogRecord(attributes["name"], level, *place, attributes["msg"], None, None)
        logging.NullHandler().handleError(failed)


_listening: weakref.WeakSet[Forwarding] = weakref.WeakSet()
#: Of the threads that fork: whom they made rest.
_resting: dict[int, list[Forwarding]] = {}


def _rest() -> None:
    deadline = time.monotonic() + _REST_SECONDS
    rested: list[Forwarding] = []
    _resting[threading.get_ident()] = rested
    rested.extend(
        each
        for each in list(_listening)
        if each._handling.acquire(timeout=max(0.0, deadline - time.monotonic()))
    )


def _go_on() -> None:
    for each in _resting.pop(threading.get_ident(), ()):
        each._handling.release()


def _after_fork_in_child() -> None:
    _resting.clear()
    _listening.clear()
    if _sender is not None:
        _sender.renew()


if hasattr(os, "register_at_fork"):
    # Before logging's own, which takes a lock that a handler may want: the last one registered comes first.
    os.register_at_fork(before=_rest, after_in_parent=_go_on, after_in_child=_after_fork_in_child)


# The worker


class Sender:
    """Sends the records of a worker to its parent.

    levels: what its loggers begin with; None: they have them by fork. alone: only records that no handler of
    the worker takes; otherwise all of them, and the handlers that it has at its beginning are taken off.
    """

    def __init__(self, queue: Queue[Message] | bytes, levels: Levels | None, alone: bool) -> None:
        self._queue = queue
        self._loading = threading.Lock()
        self._levels = levels
        self._alone = alone
        #: Of the threads that are putting: what they log meanwhile, in a signal handler or a finalizer.
        self._sending: dict[int, deque[logging.LogRecord]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Only while a process is being started. Its queue stays a pickle there until something is logged."""
        return Sender, (bytes(ForkingPickler.dumps(self._queue)), self._levels, self._alone)

    def install(self) -> None:
        """Have all loggers of this process send, from now on."""
        global _sender, _call_own_handlers, _basic_config
        if not self._alone:
            _take_off_handlers()
        if self._levels is not None and not _has_handlers(logging.root):
            _set_levels(self._levels)
        _sender = self
        if _call_own_handlers is None:
            _call_own_handlers = logging.Logger.callHandlers
            logging.Logger.callHandlers = _call_handlers  # type: ignore[assignment, method-assign]
            _basic_config = logging.basicConfig
            logging.basicConfig = _configure
        logging.lastResort = logging.NullHandler()

    def takes(self, logger: logging.Logger) -> bool:
        """Whether what this logger logs is to be sent."""
        return not (self._alone and _has_handlers(logger))

    def send(self, record: logging.LogRecord) -> None:
        """Send a record; wait while the parent has too many of them. Does not raise."""
        me = threading.get_ident()
        waiting = self._sending.get(me)
        if waiting is not None:
            waiting.append(record)
            return
        self._sending[me] = waiting = deque([record])
        try:
            while waiting:
                self._put(waiting.popleft())
        finally:
            del self._sending[me]

    def _put(self, record: logging.LogRecord) -> None:
        from .queues import ShutDown

        try:
            self._loaded().put(_message(record))
        except ShutDown:  # this is not a worker, but what one has forked, and the pool has ended
            pass
        except Exception:
            logging.NullHandler().handleError(record)

    def _loaded(self) -> Queue[Message]:
        with self._loading:
            queue: Any = self._queue
            if isinstance(queue, bytes):
                queue = self._queue = pickle.loads(queue)
            loaded: Queue[Message] = queue
            return loaded

    def renew(self) -> None:
        """In a forked child, where the threads are gone that had something under way."""
        self._sending.clear()
        self._loading = threading.Lock()


def _message(record: logging.LogRecord) -> Message:
    """The record in types that any process can read: as of `logging.handlers.QueueHandler.prepare`.

    >>> record = logging.makeLogRecord({"msg": "%d items", "args": (2,), "owner": print})
    >>> attributes, pickles = _message(record)
    >>> attributes["msg"], attributes["args"], list(pickles)
    ('2 items', None, ['owner'])
    """
    attributes = dict(vars(record), msg=record.getMessage(), args=None, exc_info=None)
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = _formatter.formatException(record.exc_info)
    pickles: dict[str, bytes] = {}
    for name, value in attributes.items():
        if type(value) not in _PLAIN:
            try:
                pickles[name] = pickle.dumps(value)
            except Exception:
                attributes[name] = _described(value)
    for name in pickles:
        del attributes[name]
    return attributes, pickles


def _described(value: object) -> str:
    with contextlib.suppress(Exception):
        return str(repr(value))
    return f"<{type(value).__qualname__}, whose repr raises>"


_sender: Sender | None = None
_call_own_handlers: Any = None
_basic_config: Any = None
#: What was taken off. It is not to be collected: a handler may write then what it holds back, a second time.
_taken_off: list[object] = []


def _call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    if _sender is not None and _sender.takes(logger):
        _sender.send(record)
    _call_own_handlers(logger, record)


def _configure(**kwargs: Any) -> None:
    # `logging.info` and its kin call it where the root logger has no handler; here it needs none.
    if sys._getframe(1).f_globals is not vars(logging):
        _basic_config(**kwargs)


def _has_handlers(logger: logging.Logger) -> bool:
    """Whether a handler would be given what `logger` logs; one that drops everything does not count."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _take_off_handlers() -> None:
    """Leave handlers and filters to the parent, where they are applied to what arrives there."""
    for logger in (logging.root, *_loggers()):
        _taken_off.extend((logger.handlers, logger.filters))
        logger.handlers, logger.filters = [], []
