"""Memory that processes share for their locks, and who those processes are.

    memfd:  [ directory | registry of processes | block | block | ... ]

Rules:
1. A block belongs to one lock, condition, semaphore ... for as long as the arena lives; none is used twice,
   as nobody counts the processes that have it yet. (README.md says what that costs.) Only the process that
   created an arena allocates from it.
2. A process that uses the claims of an arena has a slot in its registry: its id and its start time, as
   ids are reused. Slots are given out under `exclusive`, which the kernel takes back from the dead.
3. A process of another pid namespace than the creator's counts as alive to all, and all are alive to it:
   their ids tell nothing there. So nothing is taken away from it, and what it holds is lost with it.
4. The slot of a dead process is reused only when there is no fresh one, and its claims are wiped first.

One memfd carries some hundred locks, because a descriptor for each would run a program with thousands of
locks into its limit. There is no name that could be left behind, hence no resource tracker. The semaphores
lie in the memory itself: `_multiprocessing.SemLock` takes the address of a semaphore as readily as its name.
"""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found,unused-ignore]
import ctypes
import errno
import fcntl
import mmap
import os
import select
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import assert_spawning
from multiprocessing.reduction import DupFd
from typing import Any, Protocol

from .. import resources

#: Bytes of a memfd. Only the pages that are touched cost memory.
_ARENA_BYTES = 1 << 20
#: Processes that can use the locks of an arena at the same time.
SLOTS = 1024
_LINE = 64
#: How many blocks have claims, then where they are.
_DIRECTORY_BYTES = 4096
#: The pid namespace of the creator, in the directory's last words.
_NAMESPACE = slice(_DIRECTORY_BYTES - 8, _DIRECTORY_BYTES)
_REGISTRY = _DIRECTORY_BYTES
_FIRST_BLOCK = _REGISTRY + SLOTS * 16
#: `sem_t` has 32 bytes or fewer on every Linux; a cache line each keeps them apart.
SEMAPHORE_BYTES = _LINE
#: The word that a process writes its claim to.
CLAIM_BYTES = SLOTS * 2
#: Stands for the id of a process of another namespace.
_ABROAD = -1
#: The kinds of `SemLock`, and its highest value.
RECURSIVE, COUNTING = 0, 1
MAX_VALUE: int = _multiprocessing.SemLock.SEM_VALUE_MAX

_lock = threading.Lock()
_current: weakref.ref[Arena] | None = None
_known: weakref.WeakValueDictionary[tuple[int, int], Arena] = weakref.WeakValueDictionary()
#: What has to forget, in a forked child, what it knew of its process.
_forked: weakref.WeakSet[Any] = weakref.WeakSet()


class NativeSemaphore(Protocol):
    """`_multiprocessing.SemLock`, as far as it is used here."""

    maxvalue: int

    def acquire(self, block: bool = True, timeout: float | None = None, /) -> bool:
        """As of `multiprocessing.Lock`."""
        ...

    def release(self) -> None:
        """As of `multiprocessing.Lock`."""
        ...

    def _is_mine(self) -> bool: ...
    def _count(self) -> int: ...
    def _get_value(self) -> int: ...
    def _is_zero(self) -> bool: ...
    def _after_fork(self) -> None: ...


def allocate(size: int, *, claims_at: int | None = None) -> Block:
    """A block of `size` zeroed bytes; where claims are kept in it, from which offset on.

    OSError where the system has no memory files, ValueError where the block is larger than an arena.
    """
    global _current
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "locks between processes need os.memfd_create, which is Linux's")
    if size > _ARENA_BYTES - _FIRST_BLOCK:
        raise ValueError(f"{size} bytes are more than fit into an arena")
    with _lock:
        arena = _current() if _current is not None else None
        offset = arena.allocate(size, claims_at) if arena is not None else None
        if arena is None or offset is None:
            arena = Arena(os.memfd_create("parallelkit-locks"))
            _current = weakref.ref(arena)
            offset = arena.allocate(size, claims_at)
            assert offset is not None
    return Block(arena, offset, size)


def forget_in_child(thing: Any) -> None:
    """Call `thing.after_fork()` in each child that this process forks from now on."""
    _forked.add(thing)


class Arena:
    """One mapped memfd. In each process there is one object for it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor).atexit = False
        os.ftruncate(descriptor, _ARENA_BYTES)
        self.memory: mmap.mmap = mmap.mmap(descriptor, _ARENA_BYTES)
        self.address: int = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        view = memoryview(self.memory)
        self._directory = view[: _NAMESPACE.start].cast("I")
        self._namespace = view[_NAMESPACE].cast("Q")
        self._namespace[0] = self._namespace[0] or _pid_namespace()
        self._is_abroad = self._namespace[0] != _pid_namespace()
        self._registry = view[_REGISTRY:_FIRST_BLOCK].cast("d")
        self._end = _FIRST_BLOCK
        self._guard = threading.Lock()
        self._slot: int | None = None
        _known[_key(descriptor)] = self
        forget_in_child(self)

    def after_fork(self) -> None:
        """Begin anew, in a forked child."""
        self._guard = threading.Lock()
        self._slot = None
        self._is_abroad = self._namespace[0] != _pid_namespace()

    def allocate(self, size: int, claims_at: int | None) -> int | None:
        """Where a new block begins; None where there is no room."""
        offset = self._end
        count = self._directory[0]
        if offset + size > _ARENA_BYTES or count + 2 > len(self._directory):
            return None
        if claims_at is not None:
            self._directory[count + 1] = offset + claims_at
            self._directory[0] = count + 1
        self._end = offset + -(-size // _LINE) * _LINE
        return offset

    # Rule 2.
    def slot(self) -> int:
        """The slot of this process. RuntimeError where too many processes use this arena."""
        if self._slot is None:
            with self.exclusive():
                if self._slot is None:
                    self._slot = self._register()
        return self._slot

    def _register(self) -> int:
        slot = next((i for i in range(SLOTS) if not self._registry[2 * i]), None)
        if slot is None:
            slot = next((i for i in range(SLOTS) if self.is_dead(i)), None)
        if slot is None:
            raise RuntimeError(f"more than {SLOTS} processes use the same locks")
        for index in range(1, self._directory[0] + 1):
            claim = self._directory[index] + 2 * slot
            self.memory[claim : claim + 2] = b"\0\0"
        # Never without an id: `registered` looks for the first slot that has none. An old id with a new start
        # time is a dead process.
        pid = _ABROAD if self._is_abroad else os.getpid()
        self._registry[2 * slot + 1] = resources.start_time(pid) or 0.0
        self._registry[2 * slot] = pid
        return slot

    def registered(self) -> range:
        """The slots that have been given out."""
        low, high = 0, SLOTS
        while low < high:
            middle = (low + high) // 2
            if self._registry[2 * middle]:
                low = middle + 1
            else:
                high = middle
        return range(low)

    def is_dead(self, slot: int) -> bool:
        """Whether the process of a slot is gone for certain."""
        if slot == self._slot or self._is_abroad or self._registry[2 * slot] == _ABROAD:
            return False
        return _is_dead(int(self._registry[2 * slot]), self._registry[2 * slot + 1])

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Of all threads of all processes that share this arena, one is in here."""
        while not self.enter():
            time.sleep(0.001)
        try:
            yield
        finally:
            self.leave()

    # POSIX locks and not `flock`: those of a parent are not its child's, so nothing needs to be opened anew.
    # They are dropped when the process closes any descriptor of the file, so that is done under the guard.
    def enter(self) -> bool:
        """Begin to be alone, if that is possible at once."""
        if not self._guard.acquire(blocking=False):
            return False
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except BaseException as error:
            self.leave()
            if isinstance(error, (BlockingIOError, PermissionError)):
                return False
            raise
        return True

    def leave(self) -> None:
        """The end of what `enter` began."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, 0)
        finally:
            self._guard.release()

    def close_copy(self, descriptor: int) -> None:
        """Close another descriptor of this arena."""
        with self._guard:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return _attach, (DupFd(self.descriptor),)


def _attach(copy: Any) -> Arena:
    descriptor = copy.detach()
    os.set_inheritable(descriptor, False)
    with _lock:
        known = _known.get(_key(descriptor))
        if known is None:
            return Arena(descriptor)
    if known.descriptor != descriptor:
        known.close_copy(descriptor)
    return known


def _key(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class Block:
    """A part of an arena, pickled only while a process is being spawned."""

    def __init__(self, arena: Arena, offset: int, size: int) -> None:
        self.arena = arena
        self.offset = offset
        self.size = size

    def view(self, start: int, stop: int, form: str = "B") -> memoryview:
        """Bytes `start` to `stop` of the block as items of a `struct` format."""
        return memoryview(self.arena.memory)[self.offset + start : self.offset + stop].cast(form)  # type: ignore[call-overload, no-any-return]

    def init_semaphore(self, at: int, value: int) -> None:
        """Make a semaphore at an offset that nobody uses."""
        if _libc().sem_init(ctypes.c_void_p(self.arena.address + self.offset + at), 1, value):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def semaphore(self, at: int, kind: int, maxvalue: int) -> NativeSemaphore:
        """The semaphore at an offset, as this process sees it; it must not outlive the arena."""
        semaphore: NativeSemaphore = _multiprocessing.SemLock._rebuild(
            self.arena.address + self.offset + at, kind, maxvalue, None
        )
        if not _closes_unknown_semaphores():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(semaphore))
        return semaphore


_loaded: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _loaded
    if _loaded is None:
        _loaded = ctypes.CDLL(None, use_errno=True)
    return _loaded


def _closes_unknown_semaphores() -> bool:
    # SemLock's end is sem_close. For a semaphore that was not opened by name glibc's does nothing, and
    # musl's corrupts memory: there the object has to live for ever.
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (ValueError, OSError):
        return False


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 1


def _is_dead(pid: int, started: float) -> bool:
    if not pid:
        return True
    if resources.is_alive(resources.Pid(pid, started)):
        return False
    # That can err: /proc may hide the processes of others, and a main thread may be a zombie while other
    # threads of its process have not yet ended. The kernel's word counts, where it can be had.
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if poll.poll(0):
            return True
    finally:
        os.close(descriptor)
    now = resources.start_time(pid)
    return now is not None and now != started


def _after_fork_in_child() -> None:
    global _lock, _current
    _lock = threading.Lock()
    _current = None
    for thing in list(_forked):
        thing.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
