"""Locks and their kin between processes: multiprocessing's, which a process that dies does not block.

    arena       the shared memory, and which processes use it
    mutex       the token and the claims of a lock: the hard part, with its rules and its proof
    locks       Lock, RLock
    semaphores  Semaphore, BoundedSemaphore
    sleepers    who waits to be woken
    conditions  Condition, Event
    barriers    Barrier

All are inherited by a fork, and can be arguments of a process with every start method, that of a plain
`multiprocessing.Process` too. They need Linux: OSError elsewhere.
"""

from .barriers import Barrier
from .conditions import Condition, Event
from .locks import Lock, RLock
from .semaphores import BoundedSemaphore, Semaphore

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]
