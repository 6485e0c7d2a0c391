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
from typing import Any

from ... import marking, serialization, shielding, termination, tracebacks
from ..base import Style, Work, caller, tamed
from . import protocol as p
from .page import (
    FAILED,
    LOADING_MARK,
    LOG_BYTES,
    LOG_ENTRIES,
    LOGGED,
    PLACE,
    POSITION_BITS,
    REVOKED,
    StatusPage,
)
from .starting import restore_filters
from .transport import Frame, Part, Receiver, pack, send_all

#: Types whose pickle has no large buffer and cannot fail.
_PLAIN = frozenset({int, float, bool, str, bytes, complex})
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
    send them itself.
    """

    say_ready: bool
    mask: set[int] | None = None
    pickled: bytes | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    works: Mapping[int, Work] = field(default_factory=dict)
    mark: str = ""


def main(sock: socket.socket, page: StatusPage, boot: Boot, filters: list[Any] | None = None) -> None:
    """The life of a worker process; `filters` are the warning filters of a parent that forked it."""
    if filters is not None:
        restore_filters(filters)
    _set_up_signals(boot.mask)
    marking.wear(boot.mark)
    channel = Channel(sock, page)
    if boot.say_ready and not _initialize(boot, channel):
        return
    page.words[PLACE] = LOADING_MARK  # of no chunk: who dies without it has never come up
    loop = Loop(channel, page, boot.works)
    try:
        loop.run()
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
    if frame is not None and frame.f_globals.get("__name__") == __name__:
        return
    while frame is not None:
        if frame.f_code is Loop.run_items.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


def _initialize(boot: Boot, channel: Channel) -> bool:
    try:
        initializer, initargs = boot.initializer, boot.initargs
        if boot.pickled is not None:
            initializer, initargs = serialization.loads(boot.pickled)
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
        self._receiver = Receiver(sock)
        self._page = page
        self._pieces: list[p.ResultPiece] = []
        self._buffers: list[Part] = []
        self._chunk = 0
        self._first = 0
        self._end = 0  # of the last entry in the log
        self._since = 0.0

    def frames(self) -> Iterator[Frame]:
        """What the parent sends, until it is gone (EOFError)."""
        while True:
            yield from self._receiver.read()

    def send(self, parts: list[Part]) -> None:
        send_all(self._socket, parts)

    def begin(self, chunk: int, now: float) -> None:
        """The results from now on are those of `chunk`, from its beginning."""
        self._chunk = chunk
        self._first = 0
        self._since = now
        self._page.words[LOGGED] = chunk << POSITION_BITS

    def add_none(self) -> None:
        """The next result is None: the log shows that by an end of 0, which is there already."""
        if len(self._pieces) >= LOG_ENTRIES:
            self.flush(time.monotonic())
        self._pieces.append(None)

    def add(self, data: bytes) -> None:
        """The pickle of the next result."""
        if len(data) > _LARGE:
            self.add_large(data, ())
            return
        self._log(data, 0)
        self._pieces.append(data)

    def add_failure(self, data: bytes) -> None:
        """The exception that the next item ended in."""
        if len(data) > _LARGE:
            self._pieces.append((data,))
            self.flush(time.monotonic())
            return
        self._log(data, FAILED)
        self._pieces.append((data,))

    def add_large(self, data: bytes, buffers: Sequence[Part]) -> None:
        """A result that does not fit into the log: it goes off before the next item starts."""
        self._pieces.append(1 + len(buffers))
        self._buffers += (data, *buffers)
        self.flush(time.monotonic())

    def _log(self, data: bytes, flag: int) -> None:
        if self._end + len(data) > LOG_BYTES or len(self._pieces) >= LOG_ENTRIES:
            self.flush(time.monotonic())
        end = self._end + len(data)
        page = self._page
        page.log[self._end : end] = data
        page.ends[len(self._pieces)] = end | flag
        self._end = end

    def flush(self, now: float) -> None:
        """Send the results that have come up since the last time."""
        pieces = self._pieces
        if not pieces:
            return
        body = pickle.dumps((pieces, now - self._since), 5)
        self.send(pack(p.RESULTS, self._chunk, self._first, body, self._buffers))
        self._first += len(pieces)
        page = self._page
        if self._end:
            page.ends[: len(pieces)] = _NO_ENDS[: len(pieces)]
        page.words[LOGGED] = (self._chunk << POSITION_BITS) | self._first
        self._end = 0
        self._since = now
        self._pieces = []
        self._buffers = []


_NO_ENDS = memoryview(bytes(4 * LOG_ENTRIES)).cast("I")


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
        for frame in self._channel.frames():
            kind = frame.kind & ~p.EAGER
            if kind in (p.RANGE, p.BATCH, p.PIECES):
                self._run_chunk(kind, frame)
            elif kind == p.DEFINE:
                self._definitions[frame.a] = frame
            elif kind == p.FORGET:
                self._definitions.pop(frame.a, None)
                self._callers.pop(frame.a, None)
            else:
                return

    def _run_chunk(self, kind: int, frame: Frame) -> None:
        chunk, job = frame.a, frame.b
        page = self._page
        page.clock[1] = time.monotonic()
        page.words[PLACE] = (chunk << POSITION_BITS) | LOADING_MARK
        if page.words[REVOKED] >= chunk:
            page.words[PLACE] = chunk << POSITION_BITS
            self._channel.send(pack(p.SHORT, chunk, 0))
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
        channel = self._channel
        pause = 0.0 if eager else FLUSH_SECONDS
        word = chunk << POSITION_BITS
        now = flush_at = monotonic()
        channel.begin(chunk, now)
        for word, item in enumerate(items, word):  # noqa: B020 - goes on where it began
            if now >= flush_at:
                channel.flush(now)
                now = monotonic()
                flush_at = now + pause
            clock[1] = now
            words[0] = word
            if words[2] >= chunk:
                channel.flush(now)
                channel.send(pack(p.SHORT, chunk, word & LOADING_MARK))
                return
            try:
                value = call(item)
            except BaseException as error:
                channel.add_failure(tracebacks.dumps(_own_frames_off(error)))
            else:
                if value is None:
                    channel.add_none()
                elif type(value) in _PLAIN:
                    channel.add(pickle.dumps(value, 5))
                else:
                    self._add_result(value)
                value = None
            now = monotonic()
        words[0] = word + 1
        channel.flush(now)

    def _add_result(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = serialization.dumps(value, buffers)
            views = [buffer.raw() for buffer in buffers]
        except BaseException as error:
            failure = serialization.error("result", value, error)
            self._channel.add_failure(tracebacks.dumps(failure))
            return
        if views:
            self._channel.add_large(data, views)
        else:
            self._channel.add(data)


def _reading(call: Callable[[Any], Any], buffers: Sequence[bytearray | None]) -> Callable[[Any], Any]:
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
