"""Contexts: what multiprocessing's have, with this library's classes, bound to a start method.

As in multiprocessing, the functions of this module are the methods of a default context, which follows
`set_start_method`. So a program changes over by its import line, `import parallelkit as multiprocessing`.
What this library has no class for is multiprocessing's own: `Manager` and what it makes, `Value`, `Array`.
The server of a manager is a `Process` of this library and ends with its parent, though; and the lock of a
`Value` or an `Array` is this library's, which is not lost with its holder.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context as standard
from collections.abc import Callable
from multiprocessing import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    RawArray,
    RawValue,
    TimeoutError,
    allow_connection_pickling,
    cpu_count,
    current_process,
    freeze_support,
    get_all_start_methods,
    get_logger,
    get_start_method,
    log_to_stderr,
    parent_process,
    set_executable,
    set_forkserver_preload,
    set_start_method,
)
from multiprocessing import reduction as reducer
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Literal, overload

from .process import ForkProcess, ForkServerProcess, R_co, SpawnProcess
from .process import Process as _Process

if TYPE_CHECKING:
    from multiprocessing import Array, Manager, Value

    from . import connection, pool, queues, synchronize

__all__ = [
    "Array",
    "AuthenticationError",
    "BufferTooShort",
    "Context",
    "DefaultContext",
    "ForkContext",
    "ForkServerContext",
    "Manager",
    "ProcessError",
    "RawArray",
    "RawValue",
    "SpawnContext",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


# Each module is imported when one of its classes is asked for. Type checkers are told not to mind that
# these classes serve in the place of multiprocessing's without deriving from them.
class Context(standard.BaseContext):
    """What all contexts have; made by `get_context`.

    It is a `multiprocessing.context.BaseContext`, and can be passed wherever one is asked for.
    """

    if TYPE_CHECKING:

        class Process(_Process[R_co]):
            """The class of this context's processes: `ForkProcess`, and the like."""
    else:
        Process = _Process

    def Pool(  # type: ignore[override]
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] | list[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> pool.Pool:
        """A `parallelkit.Pool` whose workers are started as this context says."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())

    def Pipe(self, duplex: bool = True) -> connection.Pipe[Any, Any]:  # type: ignore[override]
        """Two connected ends: a `parallelkit.Pipe`."""
        from .connection import Pipe

        return Pipe(duplex)

    def Queue(self, maxsize: int = 0) -> queues.Queue[Any]:  # type: ignore[override]
        """A `parallelkit.Queue`."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> queues.JoinableQueue[Any]:  # type: ignore[override]
        """A `parallelkit.JoinableQueue`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> queues.SimpleQueue[Any]:  # type: ignore[override]
        """A `parallelkit.SimpleQueue`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Lock(self) -> synchronize.Lock:  # type: ignore[override]
        """A `parallelkit.Lock`."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> synchronize.RLock:  # type: ignore[override]
        """A `parallelkit.RLock`."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:  # type: ignore[override]
        """A `parallelkit.Semaphore`."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:  # type: ignore[override]
        """A `parallelkit.BoundedSemaphore`."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Condition(self, lock: Any = None) -> synchronize.Condition:  # type: ignore[override]
        """A `parallelkit.Condition`, on a `Lock` or `RLock` of this library or on a new `RLock`."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Event(self) -> synchronize.Event:  # type: ignore[override]
        """A `parallelkit.Event`."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(  # type: ignore[override]
        self, parties: int, action: Callable[..., object] | None = None, timeout: float | None = None
    ) -> synchronize.Barrier:
        """A `parallelkit.Barrier`."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def get_context(self, method: str | None = None) -> Any:
        """The context for a start method; None: this one. ValueError where there is no such method here."""
        if method is None:
            return self
        multiprocessing.get_context(method)  # which knows what is available
        return _contexts[method]


class ForkContext(Context):
    """The context whose processes are forked."""

    _name = "fork"
    if not TYPE_CHECKING:
        Process = ForkProcess


class ForkServerContext(Context):
    """The context whose processes are forked by a server process."""

    _name = "forkserver"
    if not TYPE_CHECKING:
        Process = ForkServerProcess


class SpawnContext(Context):
    """The context whose processes are fresh interpreters."""

    _name = "spawn"
    if not TYPE_CHECKING:
        Process = SpawnProcess


_contexts: dict[str, Context] = {
    "fork": ForkContext(),
    "forkserver": ForkServerContext(),
    "spawn": SpawnContext(),
}


class DefaultContext(Context):
    """The context that follows `multiprocessing.set_start_method`."""

    def get_context(self, method: str | None = None) -> Any:
        """The context for a start method; None: for the default, which is then decided for good."""
        return super().get_context(method or multiprocessing.get_start_method())

    def get_start_method(self, allow_none: bool = False) -> Any:
        """The name of the default start method; with `allow_none`, None where it is undecided."""
        return multiprocessing.get_start_method(allow_none)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Decide for a default start method, for multiprocessing as well. RuntimeError the second time."""
        multiprocessing.set_start_method(method, force)

    def get_all_start_methods(self) -> list[str]:
        """The start methods that there are here, the interpreter's default first."""
        return multiprocessing.get_all_start_methods()


@overload
def get_context(method: None = None) -> Context: ...
@overload
def get_context(method: Literal["fork"]) -> ForkContext: ...
@overload
def get_context(method: Literal["forkserver"]) -> ForkServerContext: ...
@overload
def get_context(method: Literal["spawn"]) -> SpawnContext: ...
@overload
def get_context(method: str) -> Context: ...


def get_context(method: str | None = None) -> Context:
    """The context for a start method; None: for the default, which is then decided for good.

    ValueError where there is no such method here.

    >>> context = get_context("spawn")
    >>> context.get_start_method()
    'spawn'
    >>> with context.Process(target=abs, args=(-1,)) as process:
    ...     pass
    >>> process.result()
    1
    """
    context: Context = _default.get_context(method)
    return context


def active_children() -> list[BaseProcess | _Process[Any]]:
    """The child processes that are running, of this library and of multiprocessing; fetches exit codes."""
    return [*multiprocessing.active_children()]


_default = DefaultContext()
if not TYPE_CHECKING:
    Manager = _default.Manager
    Value = _default.Value
    Array = _default.Array
