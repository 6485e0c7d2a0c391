"""The parent's side: channels, exit notices, and what is to be read out of them.

Nothing here decides; see the scheduler for what is sent to whom, and README.md in this folder for the
rules that the two sides keep.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import select
import selectors
import signal
import socket
import struct
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from ... import (
    guardian,
    marking,
    resources,
    serialization,
    shielding,
    termination,
    threadlimits,
    tracebacks,
)
from ...errors import SerializationError
from ...scheduler import (
    Chunk,
    Death,
    Event,
    JobFailed,
    Measured,
    Observed,
    Results,
    Revoked,
    Sent,
    StartFailed,
    StoppedShort,
    Unreadable,
    WorkerDied,
    WorkerReady,
)
from ..base import Setup, Style, Work
from . import protocol as p
from . import starting
from .entries import Entries
from .page import StatusPage
from .transport import Frame, Outbox, Part, Receiver, pack, size_of
from .worker import Boot, main

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_names = itertools.count(1)
#: How long to wait for the exit code of a worker that is known to be dead, in seconds.
_REAP_SECONDS = 1.0
#: The system's calls that wait take no more than some weeks; in seconds.
_WAIT_MOST = 86_400.0
#: What a chunk's items take is told to the scheduler from this size on, in bytes.
_NOTEWORTHY = 1 << 16


class _Member:
    """One worker as its parent sees it."""

    def __init__(self, number: int, sock: socket.socket, page: StatusPage) -> None:
        self.number = number
        self.socket = sock
        self.page = page
        self.receiver = Receiver(sock)
        self.outbox = Outbox(sock)
        self.defined: set[int] = set()
        self.inherited: frozenset[int] = frozenset()
        self.last_chunk = 0
        self.baseline = 0  # bytes that a forked worker shares with its parent
        self.descendants: Sequence[int] = ()  # as seen when it was told to end
        self.told_to_stop = False
        self.mark = marking.new()
        self.since = 0.0  # nothing that it started is older
        self.writing = False
        self.init_error: BaseException | None = None
        self.process: BaseProcess
        self.pid = 0
        self.exit_notice = -1  # a pidfd, or multiprocessing's sentinel
        self.owns_notice = False


class ProcessCrew:
    """Workers that are processes."""

    def __init__(self, setup: Setup, *, import_main: bool = True) -> None:
        self._setup = setup
        self._import_main = import_main
        self._context: BaseContext = starting.choose(setup.start_method, setup.function)
        self._forks = self._context.get_start_method() == "fork"
        self._insisted = setup.start_method is not None
        self._pickled: bytes | None = None
        if not self._forks and setup.initializer is not None:
            self._pickled = starting.pickled_settings(setup.initializer, setup.initargs)
        starting.prepare(self._context)
        self._owner = os.getpid()
        self._members: dict[int, _Member] = {}
        self._works: dict[int, Work] = {}
        self._pickles: dict[int, tuple[bytes, list[pickle.PickleBuffer]]] = {}
        self._events: list[Event] = []
        with shielding.shielded(), starting.lock:
            self._selector = selectors.DefaultSelector()
            self._waker, self._woken = socket.socketpair()
            starting.remember(self._waker)
            starting.remember(self._woken)
            starting.remember(self._selector)
            self._waker.setblocking(False)
            self._woken.setblocking(False)
            self._selector.register(self._woken, _READ, None)

    def __del__(self) -> None:
        # A Ctrl-C may strike before anybody has this crew, who would close it.
        woken = getattr(self, "_woken", None)
        if woken is not None and woken.fileno() >= 0:
            self.close()

    @property
    def start_method(self) -> str:
        """The start method in use."""
        return self._context.get_start_method()

    @property
    def processes(self) -> list[BaseProcess]:
        """The processes that there are now."""
        return [member.process for member in self._members.values()]

    # Calls

    def register(self, job: int, work: Work) -> None:
        self._works[job] = work

    def forget(self, job: int) -> None:
        self._works.pop(job, None)
        self._pickles.pop(job, None)
        for member in self._members.values():
            if job in member.defined:
                member.defined.remove(job)
                self._send(member, pack(p.FORGET, job))

    # Beginning and end of workers

    def start(self, worker: int) -> None:
        with starting.lock:
            try:
                self._choose_again()
                self._start(worker)
            except BaseException as error:
                if not isinstance(error, Exception):
                    raise
                self._events.append(
                    StartFailed(worker, error, no_room=isinstance(error, (OSError, MemoryError)))
                )

    def _choose_again(self) -> None:
        """No more forks, where nobody insisted on them and the program has started threads meanwhile."""
        if self._insisted or not self._forks or not starting.foreign_threads():
            return
        setup = self._setup
        if not all(serialization.can_be_sent(work.function) for work in self._works.values()):
            return
        if setup.initializer is not None:
            try:
                self._pickled = starting.pickled_settings(setup.initializer, setup.initargs)
            except SerializationError:
                return
            if self._pickled is None:  # a lock of the fork context cannot be sent
                return
        self._context = multiprocessing.get_context("forkserver")
        self._forks = False
        with shielding.unshielded():
            starting.prepare(self._context)

    def _start(self, worker: int) -> None:
        with contextlib.ExitStack() as undo:
            mine, theirs = socket.socketpair()
            undo.callback(theirs.close)
            undo.callback(mine.close)
            page = StatusPage()
            undo.callback(page.close)
            starting.remember(mine)
            member = _Member(worker, mine, page)
            say_ready = not self._forks or self._setup.initializer is not None
            boot = Boot(say_ready, shielding.usual_mask(), self._pickled)
            boot.mark = member.mark
            boot.threads, boot.preloaded = self._setup.threads, self.start_method != "spawn"
            if self._pickled is None:
                boot.initializer, boot.initargs = self._setup.initializer, self._setup.initargs
            if self._forks:
                boot.works = {k: w for k, w in self._works.items() if w.sequence is not None}
                member.inherited = frozenset(boot.works)
                if boot.threads is not None:
                    threadlimits.look()
            name = f"{self._setup.name}-{next(_names)}"
            if not self._forks:
                name = starting.FirstOrders(name, boot.threads, import_main=self._import_main)
            member.process = starting.launch(self._context, main, (theirs, page, boot), name)
            member.pid = member.process.pid or 0
            undo.callback(self._give_up, member)
            if self._forks:
                with contextlib.suppress(OSError):
                    os.setpgid(member.pid, member.pid)  # whoever is first, parent or child
                member.baseline = resources.resident_set(os.getpid())
            mine.setblocking(False)
            self._watch(member)
            self._members[worker] = member
            undo.pop_all()
        theirs.close()
        page.close_file()

    def _give_up(self, member: _Member) -> None:
        """End a worker that has been started and cannot be watched."""
        for descriptor in (member.exit_notice, member.socket):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        termination.signal_tree(member.pid, signal.SIGKILL)
        member.process.join(_REAP_SECONDS)
        guardian.release(member.pid, member.mark)
        if member.owns_notice:
            os.close(member.exit_notice)

    def _watch(self, member: _Member) -> None:
        guardian.watch(member.pid, member.mark)
        member.since = resources.start_time(member.pid) or 0.0
        try:
            member.exit_notice = os.pidfd_open(member.pid)
            member.owns_notice = True
        except (AttributeError, OSError):
            # No pidfd here, or a worker that is dead and reaped already: then this is readable, too.
            member.exit_notice = member.process.sentinel
        self._selector.register(member.exit_notice, _READ, (member, True))
        self._selector.register(member.socket, _READ, (member, False))

    def stop(self, worker: int) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        member.told_to_stop = True
        member.descendants = resources.descendants(member.pid)
        self._send(member, pack(p.STOP))

    def kill(self, worker: int, *, force: bool) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        signum = signal.SIGKILL if force else signal.SIGTERM
        seen = termination.signal_tree(member.pid, signum, member.descendants)
        member.descendants = sorted({*member.descendants, *seen})

    # Chunks

    def run(self, worker: int, chunk: Chunk) -> None:
        member = self._members.get(worker)
        work = self._works.get(chunk.job)
        if member is None or work is None:
            return
        member.last_chunk = chunk.id
        parts: list[Part] = []
        eager = p.EAGER if chunk.eager else 0
        if chunk.job in member.inherited:
            span = struct.pack("<QQ", chunk.start, chunk.stop)
            parts = pack(p.RANGE | eager, chunk.id, chunk.job, span)
        elif work.style is not Style.APPLY or not (parts := _pack_single(chunk, work)):
            if chunk.job not in member.defined:
                try:
                    parts += self._definition(chunk.job, work)
                except Exception as error:
                    self._events.append(JobFailed(chunk.job, error))
                    self._events.append(StoppedShort(worker, chunk.id, 0))
                    return
                member.defined.add(chunk.job)
            items = work.items(chunk.start, chunk.stop)
            parts += _pack_items(chunk, items, eager, work.style)
            size = size_of(parts)
            if size > _NOTEWORTHY:
                self._events.append(Sent(chunk.job, len(chunk), size))
            elif len(parts) > 1:
                parts = [b"".join(parts)]
        self._send(member, parts)

    def _definition(self, job: int, work: Work) -> list[Part]:
        known = self._pickles.get(job)
        if known is None:
            buffers: list[pickle.PickleBuffer] = []
            try:
                data = serialization.dumps(work.function, buffers)
            except BaseException as error:
                raise serialization.error("function", work.function, error) from error
            known = self._pickles[job] = data, buffers
        data, buffers = known
        return pack(p.DEFINE, job, work.style, data, [buffer.raw() for buffer in buffers])

    def _send(self, member: _Member, parts: list[Part]) -> None:
        try:
            member.outbox.send(parts)
        except OSError:
            member.outbox.clear()  # it is dead, which its exit notice tells
        self._want_to_write(member)

    def _want_to_write(self, member: _Member) -> None:
        writing = bool(member.outbox)
        if writing != member.writing:
            member.writing = writing
            flags = _READ | _WRITE if writing else _READ
            self._selector.modify(member.socket, flags, (member, False))

    # Questions

    def observe(self, worker: int) -> Event:
        member = self._members.get(worker)
        return Observed(worker, member.page.place() if member else None)

    def peek(self, worker: int) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        unsent = member.page.unsent()
        # What is crossed out in the log meanwhile has been sent before: with the channel read now, it is
        # known, and the scheduler drops what it knows.
        while self._read(member):
            pass
        self._take_entries(member, *unsent)

    def revoke(self, worker: int) -> Event:
        member = self._members.get(worker)
        return Revoked(worker, member.page.revoke(member.last_chunk) if member else None)

    def measure(self, worker: int) -> Event:
        member = self._members.get(worker)
        if member is None:
            return Measured(worker, 0)
        return Measured(worker, resources.tree_resident_set(member.pid) - member.baseline)

    # What happens

    def wait(self, timeout: float | None) -> Any:
        if self._events:
            timeout = 0
        elif timeout is not None:
            timeout = min(max(0.0, timeout), _WAIT_MOST)
        return self._selector.select(timeout)

    def collect(self, happened: Any) -> list[Event]:
        dead: list[_Member] = []
        for key, mask in happened:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while self._woken.recv(4096):
                        pass
                continue
            member: _Member
            member, is_exit = key.data
            if self._members.get(member.number) is not member:
                continue
            if is_exit:
                dead.append(member)
                continue
            if mask & _WRITE:
                self._send(member, [])
            if mask & _READ:
                self._read(member)
        if dead:
            self._sweep([member for member in dead if not self._bury(member)])
        events, self._events = self._events, []
        return events

    def _read(self, member: _Member) -> bool:
        """Take in what one recv brings; False where there is no more for now."""
        try:
            frames = member.receiver.read()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            # The worker closed its end; its exit notice follows.
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(member.socket)
            return False
        for frame in frames:
            self._take_frame(member, frame)
        return True

    def _take_frame(self, member: _Member, frame: Frame) -> None:
        worker, kind = member.number, frame.kind
        if kind == p.RESULTS:
            seconds, entries = Entries.unpack(bytes(frame.body))
            values, failures = entries.values(frame.buffers)
            self._events.append(Results(worker, frame.a, frame.b, values, failures, seconds))
        elif kind == p.SHORT:
            self._events.append(StoppedShort(worker, frame.a, frame.b))
        elif kind == p.UNREADABLE:
            self._events.append(Unreadable(worker, frame.a))
        elif kind == p.READY:
            self._events.append(WorkerReady(worker))
        elif kind == p.INIT_ERROR:
            member.init_error = tracebacks.loads(bytes(frame.body))
        elif kind == p.NO_FUNCTION:
            self._events.append(JobFailed(frame.a, tracebacks.loads(bytes(frame.body))))

    def _take_entries(self, member: _Member, chunk: int, first: int, entries: Entries) -> None:
        if entries.size:
            values, failures = entries.values(())
            self._events.append(Results(member.number, chunk, first, values, failures, None))

    def _bury(self, member: _Member) -> bool:
        """A worker is dead: take in what it left, end what it started, tell how it ended.

        True where it has ended as it was told to.
        """
        while self._read(member):
            pass
        self._take_entries(member, *member.page.unsent())
        place = member.page.place()
        termination.kill_group(member.pid)  # before its id can be given to another process
        code = self._reap(member)
        for pid in member.descendants:
            termination.signal_tree(pid, signal.SIGKILL)
        self._let_go(member)
        if member.init_error is not None:
            self._events.append(StartFailed(member.number, member.init_error))
            return False
        signum = -code if code is not None and code < 0 else None
        if place is not None:  # one that says nothing at its beginning came up all the same
            self._events.append(WorkerReady(member.number))
        death = Death(member.pid, code, signum, place)
        self._events.append(WorkerDied(member.number, death))
        return member.told_to_stop and code == 0

    @staticmethod
    def _reap(member: _Member) -> int | None:
        """The exit code of a worker that is dead, or will be in a moment."""
        if member.owns_notice:
            # Not by `join`, which waits for multiprocessing's sentinel: what it started may hold that open.
            poller = select.poll()
            poller.register(member.exit_notice, select.POLLIN)
            poller.poll(_REAP_SECONDS * 1000)
        code = member.process.exitcode
        member.process.join(_REAP_SECONDS)  # no wait where it is known; a fork server tells it a moment later
        return member.process.exitcode if code is None else code

    def _sweep(self, dead: list[_Member]) -> None:
        """End what these have started and no parent leads to any more: found by a look at all processes."""
        if dead:
            siblings = [member.pid for member in self._members.values()]
            since = min(member.since for member in dead)
            marking.kill([member.mark for member in dead], since, siblings)

    def _let_go(self, member: _Member) -> None:
        guardian.release(member.pid, member.mark)
        for descriptor in (member.exit_notice, member.socket):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        if member.owns_notice:
            os.close(member.exit_notice)
        member.socket.close()
        member.page.close()
        # The process itself is not closed: who has it from `_pool` or `_processes` may join it.
        popen: Any = getattr(member.process, "_popen", None)
        if popen is not None and popen.returncode is not None:
            popen.close()
        del self._members[member.number]

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        if os.getpid() != self._owner:
            return  # a forked child inherits the object, not the workers
        left = list(self._members.values())
        for member in left:
            termination.signal_tree(member.pid, signal.SIGKILL, member.descendants)
            self._reap(member)
            termination.kill_group(member.pid)
            self._let_go(member)
        self._sweep(left)
        self._selector.close()
        self._waker.close()
        self._woken.close()
        self._setup, self._pickled = Setup(), None  # what the initializer was given can go


def _pack_single(chunk: Chunk, work: Work) -> list[Part]:
    """A call of its own, with its function: nothing to define, nothing to forget.

    Empty where it cannot be pickled so, or could not be read: in parts it is seen which is to blame.
    """
    if chunk.piecewise:
        return []
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = serialization.dumps((work.function, work.item(chunk.start)), buffers)
        raw = [buffer.raw() for buffer in buffers]
    except KeyboardInterrupt:
        raise
    except BaseException:
        return []
    return pack(p.SINGLE, chunk.id, chunk.job, data, raw)


def _pack_items(chunk: Chunk, items: list[Any], eager: int, style: Style) -> list[Part]:
    if not chunk.piecewise:
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = serialization.dumps(items, buffers)
            raw = [buffer.raw() for buffer in buffers]
        except KeyboardInterrupt:
            raise
        except BaseException:
            pass  # one of them cannot be pickled: the others can, one by one
        else:
            return pack(p.BATCH | eager, chunk.id, chunk.job, data, raw)
    pieces: list[p.ItemPiece] = []
    large: list[memoryview] = []
    for index, item in enumerate(items, chunk.start):
        piece, views = _item_piece(None if style is Style.APPLY else index, item)
        pieces.append(piece)
        large += views
    return pack(p.PIECES | eager, chunk.id, chunk.job, pickle.dumps(pieces, 5), large)


def _item_piece(index: int | None, item: object) -> tuple[p.ItemPiece, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = serialization.dumps(item, buffers)
        return (data, len(buffers)), [buffer.raw() for buffer in buffers]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "call" if index is None else "item"
        failure = serialization.error(what, item, error, index=index)
        return (None, tracebacks.dumps(failure)), []
