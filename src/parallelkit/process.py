"""`Process`, a superset of `multiprocessing.Process` that is generic in its result.

What it adds, and where it decides otherwise than multiprocessing:

- The target's value or exception reaches the parent: `result`, `exception`, or the end of a `with` block.
  The child prints an uncaught exception to stderr all the same, because nobody may ever ask.
- `terminate` and `kill` reach all that the process has started, too. `terminate()` returns at once, as
  multiprocessing's does; `terminate(grace=...)` returns when all of it is gone.
- A daemonic process may have children.
- When the parent is gone, however it ended, its processes are gone, daemonic or not, with all that they
  have started. (At its normal end it waits for those that are not daemonic, as with multiprocessing. It
  ends the daemonic ones, by SIGKILL where they ignore SIGTERM.)
- What a process has left behind goes on where the process ended by itself, as with multiprocessing, and is
  ended where a signal killed it.
- A process is of its parent's process group, as with multiprocessing, so a Ctrl-C in the terminal reaches
  it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import process, util
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, overload

from typing_extensions import TypeVar, TypeVarTuple

from .errors import CallTimeoutError, ClosedError, WorkerDiedError
from .launching import Popen, popen_class, start
from .resultfile import RAISED

__all__ = ["ForkProcess", "ForkServerProcess", "Process", "ProcessDiedError", "SpawnProcess"]

if TYPE_CHECKING:

    class StandardProcess:
        """`multiprocessing.Process` for type checkers, but for `run`.

        There it returns None, which each override in a subclass of ours would be held against.
        """

        name: str
        daemon: bool
        authkey: bytes
        _closed: bool
        _parent_pid: int
        _popen: Popen | None
        _target: Callable[..., Any] | None
        _args: tuple[Any, ...]
        _kwargs: dict[str, Any]

        def __init__(
            self,
            group: None,
            target: Callable[..., Any] | None,
            name: str | None,
            args: Iterable[Any],
            kwargs: Mapping[str, Any],
            *,
            daemon: bool | None,
        ) -> None:
            """As that of `Process`."""

        def join(self, timeout: float | None = None) -> None:
            """Wait until the process has ended, for at most `timeout` seconds."""

        def is_alive(self) -> bool:
            """Whether the process is running."""
            ...

        def close(self) -> None:
            """Let go of what the object holds. ValueError while the process is running."""

        @property
        def exitcode(self) -> int | None:
            """The exit code, negative for a signal; None where the process has not ended."""

        @property
        def ident(self) -> int | None:
            """The process id; None where the process was not started."""

        @property
        def pid(self) -> int | None:
            """The same as `ident`."""

        @property
        def sentinel(self) -> int:
            """A descriptor that gets ready when the process ends, for `connection.wait`."""
            ...

else:
    from multiprocessing.context import Process as StandardProcess


R_co = TypeVar("R_co", covariant=True, default=Any)
Ts = TypeVarTuple("Ts")

#: How long the process has when an exception leaves its `with` block, in seconds.
_WITH_GRACE = 1.0
_NO_RESULT = (
    "It left no result: it ended early, as by os._exit; or it could not send one, because the target had "
    "closed the result's descriptor, or memory or a limit did not suffice."
)


class ProcessDiedError(WorkerDiedError):
    """A `Process` ended before its target returned or raised: by a signal, `os._exit` or `sys.exit`.

    name: the process's name. pid, exitcode, signal: as of `WorkerDiedError`. asked: whether this program
    ended it, by `terminate` or `kill`. Where it was `sys.exit`, the `SystemExit` is the `__cause__`.

    >>> print(ProcessDiedError(name="Process-1", pid=41, exitcode=-11, signal=11))
    Process-1 (pid 41) was killed by SIGSEGV before its target returned
    """

    def __init__(
        self, *, name: str, pid: int | None, exitcode: int | None, signal: int | None, asked: bool = False
    ) -> None:
        self.name = name
        self.asked = asked
        super().__init__(index=None, pid=pid, exitcode=exitcode, signal=signal, started=True)

    def _message(self) -> str:
        end, _, guess = self._end().partition(", ")
        text = f"{self.name} (pid {self.pid}) {end} before its target returned"
        if self.asked:
            return f"{text}, as this program asked"
        return f"{text}, {guess}" if guess else text


class Process(StandardProcess, Generic[R_co]):
    """A function that runs in a process of its own: `multiprocessing.Process`, and its result.

    group: None. target: the function, called with `args` and `kwargs`; or override `run`. name: for
    humans. daemon: whether the process ends with its parent; None: as the process that makes it. It is
    started by the start method of `multiprocessing.set_start_method`, or the interpreter's default.

    `with` starts it and waits for it. The block's end raises the exception of the target, or
    `ProcessDiedError`; not so where the process ended by `sys.exit(0)` or was ended by `terminate` or
    `kill`. Where an exception leaves the block, the process is ended with all that it has started.

    >>> with Process(target=divmod, args=(7, 3)) as process:
    ...     pass
    >>> process.result()
    (2, 1)
    """

    @overload
    def __init__(
        self, group: None = None, target: None = None, name: str | None = None,
        args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, *, daemon: bool | None = None,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(
        self, group: None = None, target: Callable[[*Ts], R_co] = ..., name: str | None = None,
        args: tuple[*Ts] = ..., kwargs: None = None, *, daemon: bool | None = None,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(
        self, group: None = None, target: Callable[..., R_co] = ..., name: str | None = None,
        args: list[Any] = ..., kwargs: None = None, *, daemon: bool | None = None,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(
        self, group: None = None, target: Callable[..., R_co] = ..., name: str | None = None,
        args: Iterable[Any] = (), *, kwargs: Mapping[str, Any], daemon: bool | None = None,
    ) -> None: ...  # fmt: skip

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        if target is not None and not callable(target):
            raise TypeError(f"target must be a function or another callable, not {target!r}")
        super().__init__(group, target, name, args, kwargs or {}, daemon=daemon)

    def run(self) -> R_co:
        """What the process does: calls the target. Can be overridden; what it returns is the result."""
        if not self._target:
            return None  # type: ignore[return-value]
        value: R_co = self._target(*self._args, **self._kwargs)
        return value

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802, RUF100
        return popen_class(multiprocessing.get_start_method())(process_obj)

    def start(self) -> None:
        """Start the process. AssertionError where it was started before, or belongs to another process."""
        start(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most `timeout` seconds."""
        if self.daemon and util.is_exiting() and self._popen is not None and timeout is None:
            # The interpreter has sent SIGTERM and would wait for ever for who ignores that.
            self._popen.end_at_exit()
        super().join(timeout)

    def terminate(self, *, grace: float | None = None) -> None:
        """SIGTERM to the process and to all that it has started.

        grace: None returns at once, whatever they do about it. A number of seconds waits for so long, sends
        SIGKILL to what is left, and returns when all of it is gone. (What a process started by this library
        is killed as soon as that process is dead, though.)

        ClosedError where the process was not started. ValueError for a negative `grace`. TimeoutError
        where a process is there 10 seconds after SIGKILL: another user's, or blocked in the kernel.

        >>> import time
        >>> process = Process(target=time.sleep, args=(60,))
        >>> process.start()
        >>> process.terminate(grace=1.0)
        >>> process.exitcode
        -15
        """
        if grace is not None and not 0 <= grace < math.inf:
            raise ValueError(f"grace must be a number of seconds, 0 or above, not {grace!r}")
        popen = self._started_popen("ended")
        if grace is None:
            popen.terminate()
        else:
            popen.end(grace)
            self.join()

    def kill(self) -> None:
        """SIGKILL to the process and to all that it has started; returns at once.

        ClosedError where the process was not started.
        """
        self._started_popen("killed").kill()

    def result(self, timeout: float | None = None) -> R_co:
        """Wait until the process has ended; return what its target or its `run` returned.

        Raises what the target raised, with its traceback; `ProcessDiedError` where the process ended
        without an outcome; `SerializationError` where the outcome cannot be sent, or the target or an
        argument cannot be loaded in the process; `CallTimeoutError` where the process is running after
        `timeout` seconds, and goes on then; `ClosedError` where it was not started or the object was
        closed.

        As with `join`, who reads from the same process by a pipe or a bounded queue does that first.

        >>> process = Process(target=pow, args=(2, 5))
        >>> process.start()
        >>> process.result()
        32
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        result = self._started_popen("asked").result
        assert result is not None
        value: R_co = result.value()
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does; return the exception that it would raise, or None.

        `CallTimeoutError` and `ClosedError` are raised, as they tell nothing of the process's end.
        """
        popen = self._started_popen("asked")
        if self._parent_pid != os.getpid():
            raise ClosedError(f"{self.name} is not a child of this process, so its result is not here")
        self.join(timeout)
        code = popen.poll()
        if code is None:
            raise CallTimeoutError(timeout=timeout or 0.0)
        error = None if popen.result is None else popen.result.error()
        if popen.result is not None and not isinstance(error, SystemExit):
            return error
        signum = -code if code < 0 else None
        died = ProcessDiedError(
            name=self.name, pid=popen.pid, exitcode=code, signal=signum, asked=signum in popen.sent
        )
        died.__cause__ = error
        if error is None and code in (0, 1):
            died.add_note(_NO_RESULT)
        return died

    def _started_popen(self, what: str) -> Popen:
        if self._closed:
            raise ClosedError(f"{self.name} was closed and cannot be {what} any more")
        if self._popen is None:
            raise ClosedError(f"{self.name} cannot be {what}: it has not been started, call start() first")
        return self._popen

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        if self._closed:
            return False
        if exc_type is not None:
            self.terminate(grace=_WITH_GRACE)
            return False
        try:
            self.join()
        except BaseException:
            self.terminate(grace=_WITH_GRACE)
            raise
        error = self._own_error()
        if error is not None:
            raise error
        return False

    def _own_error(self) -> BaseException | None:
        """What the process is to be blamed for: not that nobody can read what nobody asked for."""
        result = self._started_popen("asked").result
        if result is not None and result.kind != RAISED:
            return None
        error = self.exception()
        if isinstance(error, ProcessDiedError):
            by_wish = error.asked or (error.exitcode == 0 and error.__cause__ is not None)
            return None if by_wish else error
        return error


class ForkProcess(Process[R_co]):
    """A `Process` that is always started by fork."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802, RUF100
        return popen_class("fork")(process_obj)

    _after_fork = staticmethod(process.BaseProcess._after_fork)  # type: ignore[attr-defined]


class ForkServerProcess(Process[R_co]):
    """A `Process` that is always started by the fork server."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802, RUF100
        return popen_class("forkserver")(process_obj)

    _after_fork = staticmethod(process.BaseProcess._after_fork)  # type: ignore[attr-defined]


class SpawnProcess(Process[R_co]):
    """A `Process` that is always started in a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802, RUF100
        return popen_class("spawn")(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """Nothing was inherited."""
