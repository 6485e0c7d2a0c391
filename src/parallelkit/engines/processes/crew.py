"""The parent's side: channels, exit notices, and what is to be read out of them.

Nothing here decides; see the scheduler for what is sent to whom, and README.md in this folder for the
rules that the two sides keep.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from ... import (
    guardian,
    interactive,
    marking,
    resources,
    serialization,
    shielding,
    termination,
    threadlimits,
    tracebacks,
)
from ...errors import ClosedError, SerializationError, WorkerDiedError
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
from ..usage import Usage, Use
from . import protocol as p
from . import starting
from .entries import Entries
from .packing import Definition, pack_items, pack_single
from .page import PEAK, UP, WORKED, StatusPage
from .transport import Frame, HasDescriptor, Outbox, Part, Receiver, pack, size_of
from .worker import Boot, main

if TYPE_CHECKING:
    from ...logs import Forwarding  # not in each worker

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
        self.dumps: serialization.Dumps = serialization.dumps
        self.forked = False
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
        self.use = Use()
        self.init_error: BaseException | None = None
        self.process: BaseProcess
        self.pid = 0
        self.exit_notice = -1  # a pidfd, or multiprocessing's sentinel
        self.owns_notice = False
        self.is_reaped = False  # by a close, which was struck behind that and is done again


class ProcessCrew:
    """Workers that are processes."""

    def __init__(self, setup: Setup, *, import_main: bool = True) -> None:
        self._setup = setup
        self._import_main = import_main
        self._context: BaseContext = starting.choose(setup.start_method, setup.function)
        self._forks = self._context.get_start_method() == "fork"
        self._insisted = setup.start_method is not None
        #: Where workers do not have `__main__` from a file: pickles for those that are started from now on.
        imported = import_main and interactive.can_be_run_again()
        self._mirror = None if imported else interactive.Mirror()
        self._pickled: starting.Pickled | None = None
        if not self._forks and setup.initializer is not None:
            self._pickled = starting.pickled_settings(self._dumps(), setup.initializer, setup.initargs)
        starting.prepare(self._context, import_main=import_main)
        self._hears = False
        self._closed = False
        self._owner = os.getpid()
        self._members: dict[int, _Member] = {}
        self._works: dict[int, Work] = {}
        self._definitions: dict[int, dict[serialization.Dumps, Definition]] = {}
        self._events: list[Event] = []
        #: The dead for whose orphans nobody could look yet: their marks, and when they began.
        self._unswept: dict[str, float] = {}
        #: What the dead have started and got SIGKILL: the kernel may take a moment to end it.
        self._ending: list[int] = []
        self._gone = Usage()
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
        if woken is not None and (woken.fileno() >= 0 or self._members):
            self.close()
            self.release()

    def _dumps(self) -> serialization.Dumps:
        """What pickles for the workers that are started now."""
        return serialization.dumps if self._mirror is None else self._mirror.dumps

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
        self._definitions.pop(job, None)
        for member in self._members.values():
            if job in member.defined:
                member.defined.remove(job)
                self._send(member, pack(p.FORGET, job))

    # Beginning and end of workers

    def start(self, worker: int) -> None:
        if self._closed:
            return
        with starting.lock:
            try:
                self._sweep()
                self._choose_again()
                self._start(worker)
            except BaseException as error:
                if not isinstance(error, Exception):
                    raise
                # EOFError: a fork server ends where it has no room for one more.
                no_room = isinstance(error, (OSError, MemoryError, EOFError))
                self._events.append(StartFailed(worker, error, no_room=no_room))

    def _choose_again(self) -> None:
        """No more forks, where nobody insisted on them and the program has started threads meanwhile."""
        if self._insisted or not self._forks or not starting.foreign_threads():
            return
        setup = self._setup
        if not all(interactive.can_be_sent(work.function) for work in self._works.values()):
            return
        mirror = None if self._mirror is None else interactive.Mirror()
        if setup.initializer is not None:
            dumps = serialization.dumps if mirror is None else mirror.dumps
            try:
                self._pickled = starting.pickled_settings(dumps, setup.initializer, setup.initargs)
            except SerializationError:
                return
            if self._pickled is None:  # a lock of the fork context cannot be sent
                return
        self._mirror = mirror
        self._context = multiprocessing.get_context("forkserver")
        self._forks = False
        with shielding.unshielded():
            starting.prepare(self._context, import_main=self._import_main)

    def _start(self, worker: int) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(self._sweep)  # the last, when there are descriptors again
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
            if self._setup.logs is not None:
                boot.logs = self._setup.logs.sender(forks=self._forks)
                self._hear(self._setup.logs)
            if self._pickled is None:
                boot.initializer, boot.initargs = self._setup.initializer, self._setup.initargs
            if self._forks and self._mirror is not None:
                self._mirror.inherit()
            member.dumps, member.forked = self._dumps(), self._forks
            if self._forks:
                boot.works = {k: w for k, w in self._works.items() if w.sequence is not None}
                member.inherited = frozenset(boot.works)
                if boot.threads is not None:
                    threadlimits.look()
            name = f"{self._setup.name}-{next(_names)}"
            if not self._forks:
                name = starting.FirstOrders(name, boot.threads, import_main=self._import_main)
            member.since = marking.now()
            member.process = starting.launch(self._context, main, (theirs, page, boot), name)
            member.pid = member.use.pid = member.process.pid or 0
            undo.callback(self._give_up, member)
            if self._forks:
                with contextlib.suppress(OSError):
                    os.setpgid(member.pid, member.pid)  # whoever is first, parent or child
                member.baseline = resources.resident_set(os.getpid())
            mine.setblocking(False)
            self._watch(member)
            self._members[worker] = member
            if self._closed:  # meanwhile, by another thread: it has not seen this one, perhaps
                self._members.pop(worker, None)
                raise ClosedError("the pool was ended while a worker was being started")
            undo.pop_all()
        theirs.close()
        page.close_file()

    def _hear(self, logs: Forwarding) -> None:
        """Have `wait` tell of the first record."""
        if not self._hears and (descriptor := logs.fileno()) >= 0:
            self._selector.register(descriptor, _READ, logs)
            self._hears = True

    def _give_up(self, member: _Member) -> None:
        """End a worker that has been started and cannot be watched."""
        for descriptor in (member.exit_notice, member.socket):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        termination.signal_tree(member.pid, signal.SIGKILL)
        member.process.join(_REAP_SECONDS)
        guardian.release(member.pid)
        self._close_notice(member)
        self._unswept[member.mark] = member.since

    @staticmethod
    def _close_notice(member: _Member) -> None:
        """Once, also where two threads come here: the number may be another file's by then."""
        owns, member.owns_notice = member.owns_notice, False
        if owns:
            os.close(member.exit_notice)

    def _watch(self, member: _Member) -> None:
        guardian.watch(member.pid, member.mark)
        member.since = resources.start_time(member.pid) or member.since
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
        with contextlib.suppress(OSError):  # no descriptor is left to look with
            member.descendants = resources.descendants(member.pid)
        self._send(member, pack(p.STOP))

    def kill(self, worker: int, *, force: bool) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        signum = signal.SIGKILL if force else signal.SIGTERM
        self._see_peak(member)
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
        elif work.style is not Style.APPLY or not (parts := pack_single(member.dumps, chunk, work)):
            if chunk.job not in member.defined:
                try:
                    parts += self._define(member, chunk.job, work)
                except Exception as error:
                    self._events.append(JobFailed(chunk.job, error))
                    self._events.append(StoppedShort(worker, chunk.id, 0))
                    return
                member.defined.add(chunk.job)
            items = work.items(chunk.start, chunk.stop)
            parts += pack_items(member.dumps, chunk, items, eager, work.style)
            size = size_of(parts)
            if size > _NOTEWORTHY:
                self._events.append(Sent(chunk.job, len(chunk), size))
            elif len(parts) > 1:
                parts = [b"".join(parts)]
        self._send(member, parts)

    def _define(self, member: _Member, job: int, work: Work) -> list[Part]:
        """What is to be sent before the first chunk of a call."""
        definitions = self._definitions.setdefault(job, {})
        known = definitions.get(member.dumps)
        if known is None:
            known = definitions[member.dumps] = Definition(member.dumps, work)
            if known.shared is not None:
                self._gone.sent += sum(known.shared.sizes)  # once, for all workers
        if known.shared is not None:
            self._send(member, known.parts(job), known.shared)
            return []
        return known.parts(job)

    def _send(self, member: _Member, parts: list[Part], carried: HasDescriptor | None = None) -> None:
        try:
            member.outbox.send(parts, carried)
        except OSError as error:
            member.outbox.clear()
            if not isinstance(error, ConnectionError):  # else it is dead, which its exit notice tells
                self.kill(member.number, force=True)  # it would wait for the rest for ever
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
        try:
            size = resources.tree_resident_set(member.pid) - member.baseline
        except OSError:  # no descriptor is left to look with
            size = 0
        return Measured(worker, size)

    def usage(self) -> Usage:
        for member in self._members.values():
            self._see_peak(member)
            self._see(member)
        return self._gone.with_living(member.use for member in self._members.values())

    @staticmethod
    def _see(member: _Member) -> None:
        use, page = member.use, member.page
        use.see(page.clock[UP], page.clock[WORKED], time.monotonic())
        use.sent, use.received = member.outbox.sent, member.receiver.received
        use.peak = max(use.peak, page.words[PEAK])

    @staticmethod
    def _see_peak(member: _Member) -> None:
        with contextlib.suppress(OSError):  # no descriptor is left to look with
            peak = resources.peak_resident_set(member.pid)
            # Looked at afterwards: then that number was still this worker's.
            if resources.start_time(member.pid) == member.since:
                member.use.peak = max(member.use.peak, peak)

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
            logs = self._setup.logs
            if logs is not None and key.data is logs:
                with contextlib.suppress(KeyError, ValueError):  # a nested turn has seen it, too
                    self._selector.unregister(key.fileobj)
                logs.listen()
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
            self._unswept.update((member.mark, member.since) for member in dead)
            for member in dead:
                if self._bury(member):
                    guardian.release_marks([member.mark])
                    self._unswept.pop(member.mark, None)
            self._expect_end_of(dead)
            self._sweep()
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
            self._ending += termination.signal_tree(pid, signal.SIGKILL)
        self._let_go(member)
        if member.init_error is not None:
            self._events.append(StartFailed(member.number, member.init_error))
            return False
        if place is None and code is not None and code > 0 and not member.forked:
            self._events.append(StartFailed(member.number, _stillborn(member.pid, code)))
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

    def _sweep(self) -> None:
        """End what the dead have started and no parent leads to any more, by a look at all processes."""
        marks = list(self._unswept)
        if marks and (killed := marking.kill(marks, min(self._unswept.values()))) is not None:
            # Else the guardian does in the end, if nobody before.
            self._ending += killed
            guardian.release_marks(marks)
            for mark in marks:
                self._unswept.pop(mark, None)

    def _expect_end_of(self, dead: list[_Member]) -> None:
        """Remember what is left of their groups, and forget who is gone meanwhile."""
        with contextlib.suppress(OSError):  # no descriptor is left to look with
            self._ending += termination.group_members(member.pid for member in dead)
        self._ending = [pid for pid in dict.fromkeys(self._ending) if resources.seems_alive(pid)]

    def _let_go(self, member: _Member) -> None:
        with contextlib.suppress(ValueError):  # the page is closed: this was interrupted, and is done again
            self._see(member)
            self._gone.bury(member.use)
        guardian.release(member.pid)
        for descriptor in (member.exit_notice, member.socket):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        self._close_notice(member)
        member.socket.close()
        member.page.close()
        # The process itself is not closed: who has it from `_pool` or `_processes` may join it.
        popen: Any = getattr(member.process, "_popen", None)
        if popen is not None and popen.returncode is not None:
            popen.close()
        self._members.pop(member.number, None)

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        if os.getpid() != self._owner:
            return  # a forked child inherits the object, not the workers
        self._closed = True  # before the workers are looked at: see `_start`
        left = list(self._members.values())
        self._unswept.update((member.mark, member.since) for member in left)
        for member in left:
            if not member.is_reaped:  # else its number may be another's by now
                self._see_peak(member)
                self._ending += termination.signal_tree(member.pid, signal.SIGKILL, member.descendants)
                self._reap(member)
                termination.kill_group(member.pid)
                member.is_reaped = True
            self._let_go(member)
        self._expect_end_of(left)
        self._sweep()
        self._setup, self._pickled = Setup(), None  # what the initializer was given can go
        termination.wait_for_all(self._ending, time.monotonic() + _REAP_SECONDS)

    def release(self) -> None:
        if os.getpid() == self._owner:
            self._selector.close()
            self._waker.close()
            self._woken.close()


def _stillborn(pid: int, code: int) -> WorkerDiedError:
    """Why a worker in a fresh interpreter ended before it could take work."""
    error = WorkerDiedError(index=None, pid=pid, exitcode=code, signal=None, started=False)
    error.add_note(
        "parallelkit: it could not begin, and its traceback is on stderr. A fresh interpreter imports the "
        "program's main module first: what starts processes there has to be under "
        '`if __name__ == "__main__":`'
    )
    return error
