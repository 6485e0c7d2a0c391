"""The worker's side: read a chunk, run it item by item, send what came out."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from ... import marking, resources, serialization, shielding, termination, threadlimits, tracebacks
from ...launching import dumps_for_child
from ..base import Style, Work, caller, tamed
from . import protocol as p
from .entries import BOOL, FAILED, FLOAT, INT, LOG_ENTRIES, PLAIN, Entries, plain
from .page import (
    BETWEEN,
    LOADING_MARK,
    LOGGED,
    PEAK,
    PLACE,
    POSITION_BITS,
    REVOKED,
    SINCE,
    UP,
    WORKED,
    StatusPage,
)
from .shared import map_buffers, unpack_body
from .starting import Pickled, restore_filters
from .transport import DescriptorReceiver, Frame, Part, pack, send_all

if TYPE_CHECKING:
    from ...logs import Sender  # which a worker imports that has one

#: Results are sent when so much time has passed since the last ones, in seconds.
FLUSH_SECONDS = 0.005
#: A result whose pickle is larger travels at once and as a buffer of its own.
_LARGE = 1 << 15


@dataclass
class Boot:
    """What a worker is started with.

    `mask` are the signals that its parent has blocked in earnest: it is started with more of them blocked.

    `mark` is what it is to wear, see `marking`.
    `pickled` holds initializer and initargs for a fresh interpreter; a forked one has them and the
    `works` of the calls under way by inheritance. They are as they are, too, where multiprocessing has to
    send them itself. `logs` is where its records go.
    `threads` is for numerical libraries; `preloaded` says that they may have been loaded without it.
    """

    say_ready: bool
    mask: set[int] | None = None
    pickled: Pickled | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    works: Mapping[int, Work] = field(default_factory=dict)
    mark: str = ""
    logs: Sender | None = None
    threads: threadlimits.ThreadLimits | None = None
    preloaded: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # In a fresh interpreter they are to be read where an error can be told to the parent.
        if self.initializer is None:
            return vars(self)
        data = dumps_for_child((self.initializer, self.initargs), "initializer")
        return {**vars(self), "pickled": (data, []), "initializer": None, "initargs": ()}


def main(sock: socket.socket, page: StatusPage, boot: Boot, filters: list[Any] | None = None) -> None:
    """The life of a worker process; `filters` are the warning filters of a parent that forked it."""
    if filters is not None:
        restore_filters(filters)
    _set_up_signals(boot.mask)
    marking.wear(boot.mark)
    if boot.threads is not None:
        threadlimits.enforce(boot.threads, loaded=boot.preloaded)
    if boot.logs is not None:
        boot.logs.install()
    channel = Channel(sock, page)
    try:
        if boot.say_ready and not _initialize(boot, channel):
            return
        page.clock[UP] = time.monotonic()
        page.words[PLACE] = LOADING_MARK  # of no chunk: who dies without it has never come up
        loop = Loop(channel, page, boot.works)
        loop.run()
        page.words[PEAK] = resources.peak_resident_set(os.getpid())
    except (EOFError, ConnectionError):
        # The parent is gone, and with it everybody who could want a result.
        termination.kill_own_tree()


def _set_up_signals(mask: set[int] | None) -> None:
    # Its own group: a Ctrl-C of the terminal goes to the parent alone, which ends its workers itself,
    # and what a worker started can be ended with it.
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, _interrupt)
    shielding.set_mask(mask)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt in a task, and nowhere else: half a frame on the channel helps nobody."""
    called = None
    while frame is not None:
        if frame.f_code is Loop.run_items.__code__:
            if called is not None and called not in _BETWEEN_TASKS:
                raise KeyboardInterrupt
            return
        called = frame.f_code
        frame = frame.f_back


def _initialize(boot: Boot, channel: Channel) -> bool:
    try:
        initializer, initargs = boot.initializer, boot.initargs
        if boot.pickled is not None:
            initializer, initargs = serialization.loads(*boot.pickled)
        if initializer is not None:
            initializer(*initargs)
    except BaseException as error:
        channel.send(pack(p.INIT_ERROR, body=tracebacks.dumps(_own_frames_off(error))))
        return False
    channel.send(pack(p.READY))
    return True


def _own_frames_off(error: BaseException) -> BaseException:
    """Leave the frames of this file out of the traceback: the reader looks for his own."""
    error = tamed(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return BaseException.with_traceback(error, trace) if trace is not None else error


_OWN_FILES = frozenset({__file__, caller.__code__.co_filename, serialization.__file__})


class Channel:
    """Frames from the parent, and results to it; what was not sent yet is also in the page's log."""

    def __init__(self, sock: socket.socket, page: StatusPage) -> None:
        self._socket = sock
        self._receiver = DescriptorReceiver(sock)
        self._page = page
        self._append = page.append
        self._dumps = serialization.Picklers().dumps
        self._first = 0  # the place of the first entry in the log
        self._since = 0.0

    def frames(self) -> Iterator[Frame]:
        """What the parent sends, until it is gone (EOFError)."""
        while True:
            yield from self._receiver.read()

    def take_descriptor(self) -> int | None:
        """The descriptor that came with a frame; None where there was no room for it."""
        return self._receiver.descriptors.popleft()

    def send(self, parts: list[Part]) -> None:
        send_all(self._socket, parts)

    def begin(self, word: int, now: float) -> None:
        """The results from now on are those of a chunk, from its beginning, whose place is `word`."""
        self._since = now
        self._first = self._page.words[LOGGED] = word
        self._page.clear(0)

    def flush(self, word: int, now: float) -> int:
        """Send the results of what is before `word`; that is where the log begins then."""
        first = self._first
        if first != word:
            count = word - first
            self._send_results(first, self._page.entries(count), now, ())
            self._first = self._page.words[LOGGED] = word
            self._page.clear(count)
        return word

    def add(self, word: int, value: object) -> int:
        """The result at `word`; where the log begins then."""
        data = plain(value)
        if data is not None and len(data) <= _LARGE:
            return self._log(word, data, PLAIN)
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = self._dumps(value, buffers)
            large = [buffer.raw() for buffer in buffers] if buffers else ()
        except BaseException as error:
            return self.add_failure(word, serialization.error("result", value, error))
        if large or len(data) > _LARGE:
            return self._send_large(word, data, 0, large)
        return self._log(word, data, 0)

    def add_failure(self, word: int, error: BaseException) -> int:
        """What the item at `word` ended in; where the log begins then."""
        data = tracebacks.dumps(error)
        if len(data) > _LARGE:
            return self._send_large(word, data, FAILED, ())
        return self._log(word, data, FAILED)

    def _log(self, word: int, data: bytes, flag: int) -> int:
        try:
            self._append(word - self._first, data, flag)
        except ValueError:  # the log is full
            self.flush(word, time.monotonic())
            self._append(0, data, flag)
        return self._first

    def _send_large(self, word: int, data: bytes, flag: int, buffers: Sequence[Part]) -> int:
        """Send what does not fit into the log, before the next item starts."""
        now = time.monotonic()
        self.flush(word, now)
        self._send_results(word, Entries.large(1 + len(buffers), flag), now, (data, *buffers))
        self._first = self._page.words[LOGGED] = word + 1
        return word + 1

    def _send_results(self, word: int, entries: Entries, now: float, buffers: Sequence[Part]) -> None:
        chunk, first = word >> POSITION_BITS, word & LOADING_MARK
        self.send(pack(p.RESULTS, chunk, first, entries.pack(now - self._since), buffers))
        self._since = now


#: What `run_items` calls beside its tasks.
_BETWEEN_TASKS = frozenset(
    function.__code__
    for function in (
        Channel.begin,
        Channel.flush,
        Channel.add,
        Channel.add_failure,
        Channel.send,
        pack,
        _own_frames_off,
    )
)


class Loop:
    """Runs what the parent sends."""

    def __init__(self, channel: Channel, page: StatusPage, works: Mapping[int, Work]) -> None:
        self._channel = channel
        self._page = page
        self._works = works
        self._definitions: dict[int, Frame] = {}
        self._callers: dict[int, Callable[[Any], Any]] = {}

    def run(self) -> None:
        """Serve until told to stop; EOFError where the parent is gone."""
        clock = self._page.clock
        for frame in self._channel.frames():
            kind = frame.kind & ~p.EAGER
            if p.RANGE <= kind <= p.SINGLE:
                self._run_chunk(kind, frame)
                clock[WORKED] += time.monotonic()
            elif kind == p.DEFINE:
                self._definitions[frame.a] = frame
            elif kind == p.SHARED:
                self._definitions[frame.a] = self._map(frame)
            elif kind == p.FORGET:
                self._definitions.pop(frame.a, None)
                self._callers.pop(frame.a, None)
            else:
                return

    def _map(self, frame: Frame) -> Frame:
        sizes, data = unpack_body(frame.body)
        return frame._replace(body=data, buffers=map_buffers(self._channel.take_descriptor(), sizes))

    def _run_chunk(self, kind: int, frame: Frame) -> None:
        chunk, job = frame.a, frame.b
        page = self._page
        page.clock[SINCE] = now = time.monotonic()
        page.clock[WORKED] -= now
        page.words[PLACE] = (chunk << POSITION_BITS) | LOADING_MARK
        if page.words[REVOKED] >= chunk:
            page.words[PLACE] = chunk << POSITION_BITS
            self._channel.send(pack(p.SHORT, chunk, 0))
            return
        if kind == p.SINGLE:
            try:
                function, item = serialization.loads(frame.body, frame.buffers)
            except BaseException:
                self._channel.send(pack(p.UNREADABLE, chunk))
                return
            self.run_items(chunk, caller(function, Style.APPLY), (item,), eager=False)
            return
        try:
            call = self._caller(job)
        except BaseException as error:
            cause = serialization.error("function", None, error)
            self._channel.send(pack(p.NO_FUNCTION, job, body=tracebacks.dumps(cause)))
            self._channel.send(pack(p.SHORT, chunk, 0))
            return
        try:
            items = self._items(kind, frame)
        except BaseException:
            self._channel.send(pack(p.UNREADABLE, chunk))
            return
        if kind == p.PIECES:
            call = _reading(call, frame.buffers)
        self.run_items(chunk, call, items, eager=bool(frame.kind & p.EAGER))

    def _caller(self, job: int) -> Callable[[Any], Any]:
        call = self._callers.get(job)
        if call is None:
            definition = self._definitions.pop(job, None)
            if definition is None:
                work = self._works[job]
                call = caller(work.function, work.style)
            else:
                function = serialization.loads(definition.body, definition.buffers)
                call = caller(function, Style(definition.b))
            self._callers[job] = call
        return call

    def _items(self, kind: int, frame: Frame) -> Sequence[Any]:
        if kind == p.RANGE:
            start, stop = struct.unpack("<QQ", frame.body)
            return self._works[frame.b].items(start, stop)
        buffers = frame.buffers if kind == p.BATCH else ()
        items: Sequence[Any] = serialization.loads(frame.body, buffers)
        return items

    def run_items(self, chunk: int, call: Callable[[Any], Any], items: Iterable[Any], *, eager: bool) -> None:
        """Run the items of one chunk. See `page` for the order in which its words are written."""
        monotonic = time.monotonic
        words, clock = self._page.words, self._page.clock
        ends, ints, floats = self._page.ends, self._page.ints, self._page.floats
        channel = self._channel
        pause = 0.0 if eager else FLUSH_SECONDS
        word = first = chunk << POSITION_BITS
        full = first + LOG_ENTRIES
        now = flush_at = monotonic()
        channel.begin(first, now)
        for word, item in enumerate(items, word):  # noqa: B020 - goes on where it began
            if now >= flush_at or word >= full:
                if word > first:
                    words[0] = word | BETWEEN
                    first = channel.flush(word, now)
                full = first + LOG_ENTRIES
                now = monotonic()
                flush_at = now + pause
            clock[1] = now
            words[0] = word
            if words[2] >= chunk:
                channel.flush(word, now)
                channel.send(pack(p.SHORT, chunk, word & LOADING_MARK))
                return
            try:
                value = call(item)
            except BaseException as error:
                first = channel.add_failure(word, _own_frames_off(error))
            else:
                if value is not None:  # the log shows None by an end of 0, which is there already
                    kind = type(value)
                    if kind is int and -_INT_MOST <= value <= _INT_MOST:
                        ints[word - first] = value
                        ends[word - first] = INT
                    elif kind is float:
                        floats[word - first] = value
                        ends[word - first] = FLOAT
                    elif kind is bool:
                        ints[word - first] = value
                        ends[word - first] = BOOL
                    else:
                        first = channel.add(word, value)
                    value = None
            now = monotonic()
        words[0] = word + 1
        channel.flush(word + 1, now)


#: Integers beyond that have more than 64 bits.
_INT_MOST = (1 << 63) - 1


def _reading(call: Callable[[Any], Any], buffers: Sequence[Part | None]) -> Callable[[Any], Any]:
    """A caller whose items are pieces, which are read one by one as they are run."""
    following = iter(buffers)

    def read_and_call(piece: p.ItemPiece) -> Any:
        if piece[0] is None:
            raise tracebacks.loads(piece[1])
        data, count = piece
        mine = [next(following) for _ in range(count)]
        try:
            item = serialization.loads(data, mine)
        except BaseException as error:
            raise serialization.error("item", None, error) from error
        return call(item)

    return read_and_call
