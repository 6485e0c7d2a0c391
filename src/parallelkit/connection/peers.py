"""Who is at the other end of a pair of sockets, so that its death is noticed where copies of that end remain.

The kernel reports the end of a stream once no process has the other end open any more. The process that
waits often has it open itself: a forked child inherits both ends, and a parent forgets to close the child's.

Each process that uses an end notes itself in a file in memory that belongs to the pair, and notes there, too,
that it ends or closes the end by itself. The other side is gone when

1. at least one other process has used that end, and all of those are dead, and
2. the one that was last to begin has not noted an end: it was killed, or ended by an exception, and
3. this process has not used that end, and
4. no other living process has that end open (/proc tells).

The second rule is for a process that gives one end to others in turn: as long as it has that end open, it may
give it to the next one. Its price: an end that nobody will use any more, but that this process forgot to
close, is noticed where its last user died, and not where that ended by itself.

The fourth rule keeps what several processes share, and what a later process was given, from being taken for
gone. Its price: where other children were forked while that end was open, and have not closed it, the
death is not noticed until they end, too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import struct
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any

from .. import resources
from ..sharing import Inherited, memory_file

__all__ = ["SHORT_WAIT", "Pair", "Watch", "make_pair"]

_NOTE = struct.Struct("<Iid")
#: A note is of an end, 0 or 1, that a process uses, or of such an end and this much, once it does no more.
_LEFT = 2
#: While no other process is known to have used the other end, the notes are read so often, in seconds.
_LOOK_SECONDS = 0.5
#: To wait so long costs nothing but the wait; only then it is looked up who is there, in seconds.
SHORT_WAIT = 0.01


class Pair:
    """The notes on two ends: who used which. One object for both ends that a process has."""

    __slots__ = ("__weakref__", "_descriptor", "_inodes", "_used")

    def __init__(self, descriptor: int, inodes: tuple[int, int]) -> None:
        self._descriptor = descriptor
        self._inodes = inodes
        self._used: set[tuple[int, int]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return _pair, (Inherited(self._descriptor), self._inodes)

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        _close(self._descriptor)

    def use(self, end: int) -> None:
        """Note that this process uses an end, 0 or 1."""
        pid = os.getpid()
        if (end, pid) in self._used:
            return
        self._note(end)
        self._used.add((end, pid))
        _farewells.await_end(self)

    def leave(self, end: int) -> None:
        """Note that this process used an end, and does so no more, by its own decision."""
        used = end, os.getpid()
        if used in self._used:
            self._used.remove(used)
            self._note(end + _LEFT)

    def leave_all(self) -> None:
        """Do `leave` for both ends."""
        self.leave(0)
        self.leave(1)

    def _note(self, what: int) -> None:
        me = resources.identity(os.getpid())
        if me is not None:
            note = _NOTE.pack(what, me, me.started)
            os.pwritev(self._descriptor, [note], 0, os.RWF_APPEND)

    def users(self, end: int) -> tuple[bool, list[resources.Pid]]:
        """Whether this process has used an end, and the others that have.

        The others are none where the last of all to begin noted that it left, and so nobody is missed.
        """
        notes = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        me = os.getpid()
        mine = left = False
        others: list[resources.Pid] = []
        for noted, pid, started in _NOTE.iter_unpack(notes):
            user = resources.Pid(pid, started)
            if noted == end:
                mine = mine or pid == me
                left = False
                if pid != me:
                    others.append(user)
            elif noted == end + _LEFT and others and others[-1] == user and others[-1].started == started:
                left = True
        return mine, [] if left else others

    def holders(self, end: int) -> list[int]:
        """The other living processes that have an end open."""
        link = f"socket:[{self._inodes[end]}]"
        return [pid for pid in _processes() if link in _links(pid)]


class _Farewells:
    """Notes at the end of a process that `multiprocessing` or this library started that it ends by itself."""

    def __init__(self) -> None:
        self._pairs: weakref.WeakSet[Pair] = weakref.WeakSet()
        self._pid = 0
        self._failed = False
        # Where a process is forked, multiprocessing forgets what was to be done at the end.
        util.register_after_fork(self, _Farewells._begin)

    def await_end(self, pair: Pair) -> None:
        """See to it that the pair is told of the end of this process."""
        self._pairs.add(pair)
        if self._pid != os.getpid():
            self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._failed = False
        util.Finalize(None, self._end, exitpriority=-100)
        if multiprocessing.parent_process() is not None:
            self._watch_run(multiprocessing.current_process())

    def _watch_run(self, process: BaseProcess) -> None:
        """Note how the process ends: its finalizers, from Python 3.13 on, cannot see that any more."""
        run = process.run

        def watched() -> None:
            try:
                run()
            except SystemExit as error:
                self._failed = bool(error.code)
                raise
            except BaseException:
                self._failed = True
                raise

        process.run = watched  # type: ignore[method-assign]

    def _end(self) -> None:
        # A spawned process is not known yet when its ends are read. Until Python 3.12 its exception is on its
        # way while the finalizers run; later, nothing tells that there was one.
        error = sys.exc_info()[1]
        self._failed |= error is not None and not (isinstance(error, SystemExit) and not error.code)
        if multiprocessing.parent_process() is not None and not self._failed:
            for pair in list(self._pairs):
                pair.leave_all()


_farewells = _Farewells()


def _pair(inherited: Inherited, inodes: tuple[int, int]) -> Pair:
    return Pair(inherited.detach(), inodes)


def make_pair(first: int, second: int) -> Pair | None:
    """The notes for two connected sockets; None where this system cannot tell who has what open."""
    if not (hasattr(os, "pidfd_open") and hasattr(os, "RWF_APPEND") and os.path.isdir("/proc/self/fd")):
        return None
    inodes = os.fstat(first).st_ino, os.fstat(second).st_ino
    return Pair(memory_file("parallelkit-pair", 0), inodes)


def _processes() -> Iterator[int]:
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            yield int(name)


def _links(pid: int) -> Iterable[str]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # gone, or of another user
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                yield os.readlink(f"{folder}/{name}")


class Watch:
    """Waits for the death of those who can still use an end. To be closed after the wait."""

    def __init__(self, pair: Pair | None, end: int) -> None:
        self._pair = pair
        self._end = end
        self._exits: list[int] = []

    def look(self) -> bool:
        """Whether the other side is gone. If not, `descriptors` are readable when to look again."""
        self.close()
        if self._pair is None:
            return False
        mine, users = self._pair.users(self._end)
        if mine or not users:
            return False
        if self._open(pid for pid in users if resources.is_alive(pid)):
            return False
        return not self._open(self._pair.holders(self._end))

    def _open(self, pids: Iterable[int]) -> bool:
        for pid in pids:
            with contextlib.suppress(OSError):
                self._exits.append(os.pidfd_open(pid))
        return bool(self._exits)

    @property
    def descriptors(self) -> list[int]:
        """What to wait on."""
        return self._exits

    def at_most(self, timeout: float | None) -> float | None:
        """How long to wait before `look` must be called again, in seconds."""
        if self._exits or self._pair is None:
            return timeout
        return _LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS)

    def close(self) -> None:
        """Give back the descriptors."""
        for descriptor in self._exits:
            os.close(descriptor)
        self._exits.clear()
