"""The token and the claims of one lock: how it is taken, handed on, and got back from the dead.

    block:  [ token | hint | flags | a claim for each process that is registered ]

The token is a semaphore: 1 is free, 0 is held. A semaphore does not know who took it, so each process
has a word of two bytes beside it, a claim and a trace. Only that process writes to it, but for rules 3 and 5:

    claim = 1               before it tries to take the token
    claim = 0               after it failed
    claim = 0, trace = 1    in one store, after it gave the token back

Nobody sleeps with a claim. Who fails waits for the hint, a second semaphore, and tries again.

Rules:
1. The claim is written before the try and wiped after the token is back. So whoever holds the token has a
   claim, and a process without one does not hold it.
2. In a process one thread at a time has the claim. The state says so; it is tested and set with the
   claim and the try in one line without a switch between threads: the interpreter switches at calls'
   ends and jumps back, tracing functions run between lines. Where there is no GIL the fast path is not used.
3. The token is lost when it is 0 and no live process has a claim. To see that of all processes at one
   moment, the seeker notes which claims are those of dead processes, wipes the trace of every word, reads the
   token, and then the words. The token 0, no claims but the dead ones, no traces: it is lost. For had a live
   process held it when the token was read, it had its claim then, and would have it yet or have left a trace.
   The other way round, words and then token, a process could come in between and be robbed.
4. The seeker that finds the token lost keeps it, without putting it back first: so nobody comes between, and
   the next holder is always the one who knows. The state is ADOPTED for as long as it holds it.
5. The seekers, and who releases a lock for another process, exclude each other by `Arena.exclusive`. Who
   releases for another wipes that one's claim. So who finds its own claim wiped when it releases, releases
   for another, too: or the holder's claim would stay, and look like a live holder's for ever.

The steps of rule 3 have to be steps to other processors too: `time.sleep` between them is a full barrier, as
it drops the GIL. A processor that is free to delay the store of a claim behind the try (ARM, not x86) is
given a pause, in which its buffer drains.

Measured (Python 3.11, 2 cores, ns for acquire and release as a pair, and for `with lock: pass`):

    multiprocessing.Lock, bound C methods                            30    138
    this                                                            165    275
    a Python function for each, with the claim and no rule else      90    190
    a robust pthread mutex through ctypes (two calls)               390
    fcntl.lockf; fcntl.flock                                  1140; 710

So a pair alone costs 135 ns more than in C, and `with` somewhat less than twice as much. Most of it are the
calls of two Python functions and two stores into shared memory. Four processes that increment a number
20,000 times each: 75 to 125 ms, multiprocessing.Lock 50 to 65.

A robust mutex would besides belong to a thread, where `Lock` may be released by any thread and process.
"""

from __future__ import annotations

import operator
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from .arena import (
    CLAIM_BYTES,
    COUNTING,
    MAX_VALUE,
    RECURSIVE,
    SEMAPHORE_BYTES,
    Block,
    NativeSemaphore,
    allocate,
    forget_in_child,
)

#: What is in a word: the claim is its first byte, the trace its second.
CLAIM, TRACE = int.from_bytes(b"\1\0", sys.byteorder), int.from_bytes(b"\0\1", sys.byteorder)
FREE, TRYING, HELD, NESTED, ADOPTED, UNBOUND = range(6)

_TOKEN, _HINT, _FLAGS, _CLAIMS = 0, SEMAPHORE_BYTES, 2 * SEMAPHORE_BYTES, 3 * SEMAPHORE_BYTES
_BYTES = _CLAIMS + CLAIM_BYTES
#: Seconds after which a sleeper looks whether the holder is dead: at first, and at last. A look costs 50 us.
_FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.004, 0.05
#: Seconds between two such looks of a process that only tries.
_LOOK_AGAIN_SECONDS = 0.01
#: For how long, at the most, the one with the token is sought among those who try for it.
_WIPE_SECONDS = 0.5
#: The pause of rule 3.
_PAUSE_SECONDS = 0.0 if platform.machine().lower() in ("x86_64", "amd64", "i686", "i386") else 0.001
_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

_mutexes: weakref.WeakValueDictionary[tuple[int, int], Mutex] = weakref.WeakValueDictionary()
_mutexes_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _mutexes_lock
    _mutexes_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def create(kind: int) -> Mutex:
    """A new lock; `kind` is RECURSIVE or COUNTING."""
    block = allocate(_BYTES, claims_at=_CLAIMS)
    block.init_semaphore(_TOKEN, 1)
    block.init_semaphore(_HINT, 0)
    return attach(block, kind)


def attach(block: Block, kind: int) -> Mutex:
    """The lock in a block. A process has one object for it, as rule 2 needs one state."""
    key = id(block.arena), block.offset
    with _mutexes_lock:
        mutex = _mutexes.get(key)
        if mutex is None:
            mutex = _mutexes[key] = Mutex(block, kind)
    return mutex


class Mutex:
    """What a process knows of one lock, and all but the fast path."""

    def __init__(self, block: Block, kind: int) -> None:
        self.block = block
        self.kind = kind
        #: Cells of the fast path's functions, so that these need no look-up: 20 ns of 165. The state, and
        #: the index of this process's word.
        self.state: CellType = CellType(UNBOUND)
        self.index: CellType = CellType(0)
        self.words: memoryview = block.view(_CLAIMS, _BYTES, "H")
        self.claims: memoryview = block.view(_CLAIMS, _BYTES)[::2]
        self.traces: memoryview = block.view(_CLAIMS, _BYTES)[1::2]
        self.flags: memoryview = block.view(_FLAGS, _CLAIMS)
        self.token: NativeSemaphore = block.semaphore(_TOKEN, kind, 1)
        self._raw: NativeSemaphore = block.semaphore(_TOKEN, COUNTING, 1)
        self._hint: NativeSemaphore = block.semaphore(_HINT, COUNTING, MAX_VALUE)
        self._guard = threading.Lock()
        self._looked = 0.0
        self._owner = self._depth = 0
        forget_in_child(self)

    def after_fork(self) -> None:
        """Begin anew, in a forked child: what the parent holds is not the child's."""
        self._guard = threading.Lock()
        self.state.cell_contents = UNBOUND
        self.token._after_fork()

    # What is known without taking anything. Named as SemLock's, for code that looks into locks.
    def _is_mine(self) -> bool:
        if self.state.cell_contents == ADOPTED:
            return self._owner == threading.get_ident()
        return self.token._is_mine()

    def _count(self) -> int:
        return self._depth if self.state.cell_contents == ADOPTED else self.token._count()

    def _get_value(self) -> int:
        return self.token._get_value()

    def _is_zero(self) -> bool:
        return self.token._is_zero()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """True when it is held, False when that was not possible in time."""
        if self.kind == RECURSIVE and self._is_mine():
            return self._again()
        if self.state.cell_contents == UNBOUND:
            self._bind()
        now = time.monotonic()
        deadline = None if timeout is None else now + timeout
        pause = _FIRST_LOOK_SECONDS
        look = now - self._looked > (LOOK_SECONDS if block else _LOOK_AGAIN_SECONDS)
        while True:
            if block:
                self.flags[0] = 1
            if self._try() or (look and self._adopt()):
                return True
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if not block or left <= 0:
                return False
            look = not self._hint.acquire(True, left)
            if look:
                pause = min(2 * pause, LOOK_SECONDS)

    def _bind(self) -> None:
        slot = self.block.arena.slot()
        with self._guard:
            if self.state.cell_contents == UNBOUND:
                self.index.cell_contents = slot
                self.state.cell_contents = FREE

    def _again(self) -> bool:
        if self.state.cell_contents == ADOPTED:
            self._depth += 1
        else:
            self.token.acquire(False)
            self.state.cell_contents = NESTED
        return True

    def _try(self) -> bool:
        state, mine, got = self.state, False, False
        try:
            with self._guard:
                if not state.cell_contents: state.cell_contents, mine = TRYING, True  # noqa: E701  # fmt: skip
                elif self._is_taken_away():
                    self.token._after_fork()
                    state.cell_contents, mine = TRYING, True
            if mine:
                self.claims[self.index.cell_contents] = 1
                got = self.token.acquire(False)
                if got: state.cell_contents = HELD  # noqa: E701  # fmt: skip
                else: self.claims[self.index.cell_contents] = 0; state.cell_contents = FREE  # noqa: E701, E702  # fmt: skip
        except BaseException:
            if mine and state.cell_contents == TRYING:
                self.give_up()
            raise
        return got

    def _is_taken_away(self) -> bool:
        # Another process has released it for this one, and wiped the claim if it could.
        if self.state.cell_contents not in (HELD, ADOPTED):
            return False
        if not self.words[self.index.cell_contents] & CLAIM:
            return True
        # Both of one moment, as no other thread runs within `list`: free, and yet not released here.
        return _HAS_GIL and list(map(operator.call, (self.token._is_zero, self.token._count))) == [False, 1]

    def give_up(self) -> None:
        """End a try that an exception ended; the token may have been taken or not."""
        if self.token._count():
            self.token.release()
        self._clear()

    def _clear(self) -> None:
        with self._guard:
            self.words[self.index.cell_contents] = TRACE; self.state.cell_contents = FREE  # noqa: E702  # fmt: skip

    # Rules 3 and 4.
    def _adopt(self) -> bool:
        """Take the token over where its holder is dead."""
        self._looked = time.monotonic()
        if not self.token._is_zero() or self._dead_claimants() is None:
            return False
        state, mine = self.state, False
        arena = self.block.arena
        try:
            with self._guard:
                if not state.cell_contents: state.cell_contents, mine = TRYING, True  # noqa: E701  # fmt: skip
            if not mine or not arena.enter():
                return False
            try:
                dead = self._dead_claimants()
                if dead is None or not self._is_lost(dead):
                    return False
                for slot in dead:
                    self.words[slot] = 0
                self._owner, self._depth = threading.get_ident(), 1
                self.claims[self.index.cell_contents] = 1
                state.cell_contents = ADOPTED
            finally:
                arena.leave()
        except BaseException:
            if mine and state.cell_contents == ADOPTED:
                self.abandon()
            raise
        finally:
            if mine and state.cell_contents == TRYING:
                state.cell_contents = FREE
        return True

    def _is_lost(self, dead: set[int]) -> bool:
        # More than once, as another that just tries makes it fail.
        looks = (self._second_look() for _ in range(5))
        return any(words is not None and words.keys() <= dead for words in looks)

    def _claimants(self) -> list[int]:
        words = self.words[: len(self.block.arena.registered())].tolist()
        return [slot for slot, word in enumerate(words) if word & CLAIM]

    def _dead_claimants(self) -> set[int] | None:
        """The dead processes that have claims; None where a live one has."""
        found = set()
        for slot in self._claimants():
            if not self.block.arena.is_dead(slot):
                return None
            found.add(slot)
        return found

    def _second_look(self) -> dict[int, int] | None:
        """Wipe the traces, and see what has a claim or a trace then; None where the token is not taken."""
        count = len(self.block.arena.registered())
        for slot in range(count):
            self.traces[slot] = 0
        time.sleep(0)
        if not self.token._is_zero():
            return None
        time.sleep(_PAUSE_SECONDS)
        return {slot: word for slot, word in enumerate(self.words[:count].tolist()) if word}

    def abandon(self) -> None:
        """Give an adopted lock back as abandoned: the next to acquire it adopts it."""
        self._clear()
        self.wake()

    def release(self) -> None:
        """AssertionError where a recursive lock is another thread's, ValueError where no one holds it."""
        state = self.state.cell_contents
        is_ours = state in (HELD, NESTED, ADOPTED) and not self._is_taken_away()
        if state == ADOPTED and is_ours:
            self._release_adopted()
        elif is_ours:
            try:
                self.token.release()
            except BaseException as error:
                self.interrupted(error)
                raise
            self.settle()
        elif self.kind == RECURSIVE:
            raise AssertionError("attempt to release recursive lock not owned by thread")
        else:
            self._release_for_another()

    def interrupted(self, error: BaseException) -> None:
        """Finish a release that an exception ended."""
        # Unless the token refused it: a signal's handler can raise the same types, but from its own frame.
        refused = isinstance(error, ValueError | AssertionError) and (
            error.__traceback__ is None or error.__traceback__.tb_next is None
        )
        if not refused:
            self.settle()

    def settle(self) -> None:
        """Bring the state in line with the token's count, after a release."""
        count = self.token._count()
        if not count:
            self._clear()
            if self.flags[0]:
                self.wake()
        elif count == 1 and self.state.cell_contents == NESTED:
            self.state.cell_contents = HELD

    def _release_adopted(self) -> None:
        if self.kind == RECURSIVE:
            if self._owner != threading.get_ident():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            self._depth -= 1
            if self._depth:
                return
        try:
            self._raw.release()
        finally:
            self._clear()
        self.wake()

    def _release_for_another(self) -> None:
        """Release what another process has acquired: rule 5."""
        deadline = time.monotonic() + _WIPE_SECONDS
        with self.block.arena.exclusive():
            while True:
                if not self.token._is_zero():
                    raise ValueError("semaphore or lock released too many times")
                claimants = self._claimants()
                dead = {slot for slot in claimants if self.block.arena.is_dead(slot)}
                # With a dead one among them nobody can tell who has the token, and who only tries for it.
                if dead or not claimants or time.monotonic() > deadline:
                    break
                if self._second_look() == {claimants[0]: CLAIM}:
                    self.words[claimants[0]] = TRACE
                    break
                time.sleep(_PAUSE_SECONDS)
            self._raw.release()
        self.wake()

    def wake(self) -> None:
        """Let one of those who wait try again."""
        self.flags[0] = 0
        if self._hint._is_zero():
            self._hint.release()


def fast_path(
    mutex: Mutex, slow_acquire: Callable[[bool, float | None], bool]
) -> tuple[Callable[..., bool], Callable[[], None]]:
    """`acquire` and `release` for the case that nobody is in the way; `slow_acquire` for the others."""
    if not _HAS_GIL:
        return slow_acquire, mutex.release
    state, index = UNBOUND, 0
    free, trying, held, trace = FREE, TRYING, HELD, TRACE
    claims, words, flags = mutex.claims, mutex.words, mutex.flags
    take, post = mutex.token.acquire, mutex.token.release
    wake, slow_release = mutex.wake, mutex.release

    # The long lines are those of rule 2.
    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        nonlocal state
        if state:
            return slow_acquire(block, timeout)
        try:
            state = trying; claims[index] = 1; got = take(False)  # noqa: E702  # fmt: skip
        except BaseException:
            mutex.give_up()
            raise
        if got:
            state = held
            return True
        claims[index] = 0; state = free  # noqa: E702  # fmt: skip
        return slow_acquire(block, timeout)

    def release() -> None:
        nonlocal state
        if state != held or not claims[index]:
            return slow_release()
        try:
            post()
        except BaseException as error:
            mutex.interrupted(error)
            raise
        words[index] = trace; state = free  # noqa: E702  # fmt: skip
        if flags[0]:
            wake()
        return None

    cells = {"state": mutex.state, "index": mutex.index}
    return _with_cells(acquire, cells), _with_cells(release, cells)


def _with_cells(function: Any, cells: dict[str, CellType]) -> Any:
    """The function, with these for its cells of these names."""
    code = function.__code__
    closure: tuple[Any, ...] = tuple(
        cells.get(name, own) for name, own in zip(code.co_freevars, function.__closure__ or (), strict=True)
    )
    return FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
