"""A small process beside this one, which ends the workers when this one is dead, however it died.

A worker notices the death of its parent itself, but not while a task holds the GIL, is stopped, or has
left children of its own. So each process that has workers (the owner) starts one guardian, at its first
`watch`, and keeps it until its end:

    owner --- socket: +pid, -pid ---> guardian --- SIGKILL to the trees of all watched pids,
                      and marks                    and to who wears a mark (see `marking`)
          --- pidfd: owner is dead -->            once the owner is dead

1. The guardian learns of the owner's death by a pidfd, within milliseconds; where there is none, by the
   end of file on the socket, and by a look at its parent four times a second.
2. It leads a session of its own and has all signals blocked, so that neither a Ctrl-C in the
   terminal nor a `kill` to the owner's process group ends it.
3. A forked child has no part in its parent's guardian: it closes the socket, and starts a guardian of
   its own when it becomes an owner.
4. A guardian that was killed is replaced at the next `watch` or `release`.
5. Where none can be started (a frozen program, no more processes allowed), the rest works without.

The guardian is a child of the owner. `multiprocessing.active_children()` does not know it, but
`os.wait()` does: like multiprocessing's own resource tracker it is a child that never ends by itself, so
a loop over `os.wait()` until there are no children left calls `stop()` first, or waits by id.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import _guardian_main

#: A guardian that takes nothing in for so long is stopped or stuck, and is replaced; in seconds.
_SEND_SECONDS = 1.0
#: Descriptors below are the guardian's: none of ours may sit there while they are put in place.
_LOWEST_FD = 10
#: A program that lets SIGPIPE kill it, as command line tools do, must not die of a dead guardian.
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)

_lock = threading.RLock()
_watched: set[int] = set()
_guardian: _Guardian | None = None


def watch(pid: int, mark: str | None = None) -> None:
    """End process `pid`, with its process group and its descendants, when this process is dead.

    And who wears `mark`, one of `marking.new`. Starts the guardian where there is none, and does not wait
    until it is up.
    """
    if pid <= 1:
        raise ValueError(f"no process to watch: {pid}")
    with _lock:
        numbers = _numbers(pid, mark)
        _watched.update(numbers)
        _tell(numbers)


def release(pid: int, mark: str | None = None) -> None:
    """No longer watch process `pid`, nor `mark`. Nothing happens where nobody watches it."""
    with _lock:
        if pid in _watched:
            numbers = _numbers(pid, mark)
            _watched.difference_update(numbers)
            _tell([-number for number in numbers])


def release_marks(marks: Iterable[str]) -> None:
    """No longer watch these marks, whose processes may have been released before; nor mind unknown ones."""
    with _lock:
        numbers = _watched.intersection(map(_mark_number, marks))
        if numbers:
            _watched.difference_update(numbers)
            _tell([-number for number in numbers])


def _numbers(pid: int, mark: str | None) -> list[int]:
    return [pid] if mark is None else [pid, _mark_number(mark)]


def _mark_number(mark: str) -> int:
    return _guardian_main.MARK + int(mark, 16)


def pid() -> int | None:
    """The guardian's process id; None where there is none at present.

    >>> stop()
    >>> print(pid())
    None
    """
    with _lock:
        return _guardian.pid if _guardian is not None else None


def stop() -> None:
    """End the guardian, and forget what it watched; the next `watch` starts a new one."""
    with _lock:
        _watched.clear()
        _drop()


class _Guardian:
    """One guardian process and the way to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.pid = _spawn(theirs.fileno())
            except BaseException:
                ours.close()
                raise
        ours.settimeout(_SEND_SECONDS)
        self.socket = ours

    def tell(self, numbers: Iterable[int]) -> None:
        """OSError where it is dead, or does not listen."""
        size = _guardian_main.RECORD_BYTES
        data = b"".join(number.to_bytes(size, "little", signed=True) for number in numbers)
        self.socket.sendall(data, _FLAGS)

    def end(self) -> None:
        # Unless it is dead and waited for by somebody else, the id is that of our own child.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        # Last, as the end of file is to the guardian what the owner's death is.
        self.socket.close()


def _tell(numbers: Iterable[int]) -> None:
    global _guardian
    with contextlib.suppress(OSError):
        if _guardian is not None:
            _guardian.tell(numbers)
            return
    _drop()
    if not _watched or not _can_spawn():
        return
    with contextlib.suppress(OSError):
        _guardian = _Guardian()
        _guardian.tell(_watched)


def _drop() -> None:
    global _guardian
    guardian, _guardian = _guardian, None
    if guardian is not None:
        guardian.end()


def _can_spawn() -> bool:
    # The executable of a frozen program is that program.
    return bool(
        hasattr(os, "posix_spawn")
        and sys.executable
        and not getattr(sys, "frozen", False)
        and os.path.exists(_guardian_main.__file__)
    )


def _spawn(stdin: int) -> int:
    """Start the guardian's process with `stdin` for its standard input."""
    command = [sys.executable, "-I", "-S", "-E", _guardian_main.__file__, str(os.getpid())]
    with contextlib.ExitStack() as opened:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_DUP2, opened.enter_context(_out_of_the_way(stdin)), 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        with contextlib.suppress(AttributeError, OSError):
            # Opened here: by the time the guardian could do it, the id may be another process's.
            pidfd = os.pidfd_open(os.getpid())
            opened.callback(os.close, pidfd)
            pidfd = opened.enter_context(_out_of_the_way(pidfd))
            actions.append((os.POSIX_SPAWN_DUP2, pidfd, _guardian_main.OWNER_FD))
            command.append("pidfd")
        try:
            return _posix_spawn(command, os.environ, actions)
        except (TypeError, ValueError):
            # A program has put something there that no process can be given. The guardian needs none of it.
            return _posix_spawn(command, {}, actions)


def _posix_spawn(command: list[str], environment: Mapping[str, str], actions: Any) -> int:
    # Blocked from the first instruction on, and never unblocked.
    mask = signal.valid_signals()
    spawn = functools.partial(
        os.posix_spawn, command[0], command, environment, file_actions=actions, setsigmask=mask
    )
    try:
        return spawn(setsid=True)
    except NotImplementedError:
        return spawn(setpgroup=0)


@contextlib.contextmanager
def _out_of_the_way(descriptor: int) -> Iterator[int]:
    """A copy with a high number: a program may have closed its standard streams."""
    import fcntl

    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    try:
        yield copy
    finally:
        os.close(copy)


def _at_exit() -> None:
    # What is watched still is left to the guardian, which acts when this process is gone.
    with _lock:
        if not _watched:
            _drop()


# A fork waits until no other thread is in here, so that the child's copy of the state is whole.
def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock, _guardian
    _lock = threading.RLock()
    _watched.clear()
    if _guardian is not None:
        _guardian.socket.close()
        _guardian = None


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
