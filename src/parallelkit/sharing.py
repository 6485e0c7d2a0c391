"""What processes share, and no dead process can keep: files in memory, their locks, and bells.

- A *shared file* is memory, as long as a descriptor of it is open somewhere, and a lock of `flock`. The
  kernel lets go of that lock when its holder ends, however it ends.
- A *bell* is a descriptor that is readable while it is set. It is set and cleared only by who holds the
  lock that guards the state it tells of, so that it cannot miss a change, nor the dead take a ring with them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import select
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from types import TracebackType
from typing import Any

__all__ = [
    "Bell",
    "Inherited",
    "SharedFile",
    "close_unless_exiting",
    "map_shared",
    "memory_file",
    "milliseconds",
    "remaining",
    "wait_readable",
]

#: Between two attempts at a lock that somebody holds, at first and at most, in seconds.
_FIRST_PAUSE = 0.00005
_LAST_PAUSE = 0.002
_LONGEST = 1e6


def memory_file(name: str, size: int) -> int:
    """A descriptor of a new file of `size` zero bytes that is in no folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix=name)
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor


def map_shared(descriptor: int, size: int) -> mmap.mmap:
    """The first `size` bytes of a file, as memory that is the same in all processes that map it."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, trackfd=False)
    return mmap.mmap(descriptor, size)


def close_unless_exiting(
    descriptor: int,
    _close: Callable[[int], None] = os.close,
    _is_finalizing: Callable[[], bool] = sys.is_finalizing,
) -> None:
    """Close a descriptor of which nobody knows any more, or leave that to the end of the process.

    At the interpreter's end the order of finalizers is anybody's guess, and that of a user may put or send.
    """
    if not _is_finalizing():
        _close(descriptor)


def remaining(deadline: float | None) -> float | None:
    """Seconds until `deadline` (`time.monotonic`), none of them negative; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait_readable(descriptor: int, timeout: float | None) -> bool:
    """Wait until a descriptor is readable, `timeout` seconds at most, and some days at most."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(milliseconds(timeout)))


def milliseconds(timeout: float | None) -> float | None:
    """What `poll` is to be given for a timeout in seconds; days at most, as it takes no more."""
    return None if timeout is None else 1000 * min(timeout, _LONGEST)


class Inherited:
    """A descriptor on its way to a process that is being started: `Inherited(fd)`, then `detach()` there."""

    def __init__(self, descriptor: int) -> None:
        self._duplicate: Any = reduction.DupFd(descriptor)

    def detach(self) -> int:
        """The descriptor, as this process knows it."""
        descriptor: int = self._duplicate.detach()
        return descriptor


class SharedFile:
    """A file in memory that is also a lock, which at most one thread of one process holds.

    ::

        with file: ...           # or, where two calls more cost too much:
        with file.threads:
            try:
                file.take()
                ...
            finally:
                file.leave()

    The lock is one of `flock`, which costs two thirds of a record lock of `fcntl`, and is not lost when some
    other descriptor of the file is closed. It belongs to an open file description, which a forked child
    shares, so each process opens the file for itself. Where that cannot be (no /proc), it is a record lock.
    """

    __slots__ = ("__weakref__", "_reopens", "_try_take", "descriptor", "leave", "take", "threads")

    descriptor: int
    threads: threading.Lock
    take: Callable[[], object]
    leave: Callable[[], object]
    _try_take: Callable[[], object]

    def __init__(self, descriptor: int, _reopens: bool | None = None) -> None:
        """Take over `descriptor`, and close it."""
        self._reopens = os.path.isdir("/proc/self/fd") if _reopens is None else _reopens
        self.descriptor = descriptor
        self._open()
        _shared_files.add(self)

    def _open(self) -> None:
        self.threads = threading.Lock()
        if self._reopens:
            own = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)
            os.close(self.descriptor)
            self.descriptor = own
            self.take = functools.partial(fcntl.flock, own, fcntl.LOCK_EX)
            self._try_take = functools.partial(fcntl.flock, own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.leave = functools.partial(fcntl.flock, own, fcntl.LOCK_UN)
        else:
            self.take = functools.partial(_take_record_lock, self.descriptor)
            self._try_take = functools.partial(fcntl.lockf, self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.leave = functools.partial(fcntl.lockf, self.descriptor, fcntl.LOCK_UN)

    def renew(self) -> None:
        """In a forked child: the lock of the parent is not the child's."""
        try:
            self._open()
        except OSError as error:
            # Too many open files. The descriptor is the parent's lock still, which is not to be touched.
            self.take = self._try_take = functools.partial(_fail, error.errno, error.strerror)
            self.leave = _do_nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return _shared_file, (Inherited(self.descriptor), self._reopens)

    def __del__(self, _close: Callable[[int], None] = close_unless_exiting) -> None:
        if hasattr(self, "descriptor"):
            _close(self.descriptor)

    def __enter__(self) -> None:
        self.threads.acquire()
        try:
            self.take()
        except BaseException:
            self.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let go of the lock."""
        self.leave()
        self.threads.release()

    def acquire(self, deadline: float | None) -> bool:
        """Hold the lock by `deadline` (`time.monotonic`) at the latest; whether that succeeded."""
        if deadline is None:
            self.__enter__()
            return True
        if not self.threads.acquire(timeout=min(remaining(deadline) or 0, threading.TIMEOUT_MAX)):
            return False
        pause = _FIRST_PAUSE
        taken = False
        try:
            while not (taken := self._is_taken_now()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LAST_PAUSE)
            return True
        finally:
            if not taken:
                self.release()

    def _is_taken_now(self) -> bool:
        try:
            self._try_take()
        except (BlockingIOError, PermissionError):
            return False
        return True


_shared_files: weakref.WeakSet[SharedFile] = weakref.WeakSet()


def _renew_all() -> None:
    for file in list(_shared_files):
        file.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def _shared_file(inherited: Inherited, reopens: bool) -> SharedFile:
    return SharedFile(inherited.detach(), reopens)


def _fail(number: int | None, text: str | None) -> None:
    raise OSError(number, f"this process could not open a lock of its own when it was forked: {text}")


def _do_nothing() -> None:
    pass


def _take_record_lock(descriptor: int) -> None:
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            return
        except OSError as error:
            # Two processes whose *threads* wait for each other's locks look like a deadlock to the kernel.
            if error.errno != errno.EDEADLK:
                raise
            time.sleep(_LAST_PAUSE)


class Bell:
    """A descriptor that is readable while set; the same one in all processes that have it."""

    __slots__ = ("_read_end", "_write_end")

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        if ends is not None:
            self._read_end, self._write_end = ends
        elif hasattr(os, "eventfd"):
            self._read_end = self._write_end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_end, self._write_end = os.pipe()
            os.set_blocking(self._read_end, False)
            os.set_blocking(self._write_end, False)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._read_end == self._write_end:
            return _bell, (Inherited(self._read_end),)
        return _bell, (Inherited(self._read_end), Inherited(self._write_end))

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._read_end

    def set(self) -> None:
        """Make it readable."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\1\0\0\0\0\0\0\0" if self._write_end == self._read_end else b"\1")

    def clear(self) -> None:
        """Make it unreadable."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read_end, 4096)) == 4096:
                pass

    def __del__(self, _close: Callable[[int], None] = close_unless_exiting) -> None:
        if hasattr(self, "_write_end"):
            for end in {self._read_end, self._write_end}:
                _close(end)


def _bell(*ends: Inherited) -> Bell:
    descriptors = [end.detach() for end in ends]
    return Bell((descriptors[0], descriptors[-1]))
