"""`TaskGroup`: different functions side by side, that begin and end together."""

from __future__ import annotations

import concurrent.futures as standard
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from typing_extensions import Unpack

from . import options as checks
from . import tracebacks
from .driver import HURRY_SECONDS, Driver
from .engines import Engine, Style
from .errors import CallTimeoutError, ClosedError
from .executor import TaskOptions
from .futures import Callbacks, Future, Settlement
from .options import CallSettings, WorkerSettings
from .shielding import shielded

__all__ = ["Task", "TaskGroup", "TaskSettings"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskSettings(TaskOptions, total=False):
    """What `TaskGroup.with_options` takes: `TaskOptions`, and the name of the task."""

    name: str | None


class Task(Future[R]):
    """One task of a `TaskGroup`; made by `create_task`. A `concurrent.futures.Future`.

    `result` waits for what the task returns, or raises what it raised; `concurrent.futures.CancelledError`
    where the task was ended because another one failed. `cancel` ends the task alone, with all processes that
    it has started, and the group goes on.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        #: The name in the note that the group adds to an exception of the task.
        self.name: str = name
        self._late = False  # ended, as the time of the whole group was over

    def __repr__(self) -> str:
        return super().__repr__().replace("<Task ", f"<Task {self.name!r} ", 1)


class TaskGroup:
    """Different functions side by side, each in a process of its own: `asyncio.TaskGroup`, with processes.

    max_workers: how many tasks run at a time; None: all of them, each from its `create_task` on. timeout:
    seconds from the beginning of the block, then all tasks are ended. `task_timeout`, `retries` and
    `retry_on` are for each task; `memory_limit`, `start_method` and `engine` are as for `pool_map`.

    The end of the `with` block waits for all tasks. The first failure ends the others, with all processes
    that they have started (SIGTERM and, after a second, SIGKILL). All failures are raised together at the
    end, as an `ExceptionGroup`: what tasks raised, `WorkerDiedError`, `TaskTimeoutError` and their like, one
    `CallTimeoutError` after `timeout`, and an exception of the block, which ends the tasks, too. Those that
    were ended because of another are cancelled, and not in the group; nor is one that was cancelled by
    `Task.cancel`. What is no `Exception` in the block (KeyboardInterrupt, SystemExit) ends the tasks and
    passes as it is. The block itself is not interrupted: after a failure, `create_task` and the `result` of
    a task that was ended raise CancelledError, by which it may be left.

    Besides that it is as in `asyncio`: no task can be added behind the block, and a group is used once.

    >>> with TaskGroup() as group:
    ...     power = group.create_task(pow, 2, 10)
    ...     number = group.create_task(int, "ff", base=16)
    >>> power.result(), number.result()
    (1024, 255)
    >>> try:
    ...     with TaskGroup() as group:
    ...         _ = group.create_task(divmod, 1, 0)
    ... except* ZeroDivisionError as failures:
    ...     print(len(failures.exceptions))
    1
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        timeout: float | None = None,
        memory_limit: int | str | None = None,
        start_method: str | None = None,
        engine: str | Engine | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        checks.refuse_unknown(given, TaskOptions)
        self._state = _State(
            checks.worker_settings(
                max_workers=sys.maxsize if max_workers is None else max_workers,
                # A task's process is its own, as with `Process`; a forked one inherits the function.
                max_tasks_per_child=1,
                memory_limit=memory_limit,
                start_method=start_method,
                engine=engine,
            ),
            checks.seconds("timeout", timeout, zero=True),
        )
        self._options: dict[str, Any] = given
        self._settings = checks.call_settings(**given)
        self._name: str | None = None

    def with_options(self, **options: Unpack[TaskSettings]) -> TaskGroup:
        """This group with other options for its tasks; `create_task` gives all its keywords to the function.

        `name` is for the task's handle and for the note on its exception.

        >>> with TaskGroup(task_timeout=60) as group:
        ...     task = group.with_options(name="the sum", retries=2).create_task(sum, [1, 2])
        >>> task.name, task.result()
        ('the sum', 3)
        """
        given: dict[str, Any] = dict(options)
        checks.refuse_unknown(given, TaskSettings)
        name = given.pop("name", self._name)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {name!r}")
        other: TaskGroup = object.__new__(type(self))
        vars(other).update(vars(self), _name=name, _options={**self._options, **given})
        other._settings = checks.call_settings(**other._options)
        return other

    def create_task(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """Begin `fn(*args, **kwargs)` in a process; return at once, with the handle of the task.

        RuntimeError (`ClosedError`) outside of the `with` block; `concurrent.futures.CancelledError` where
        the group is about to end, as a task has failed. TypeError where `fn` is not callable.
        """
        checks.function(fn)
        return self._state.begin(fn, args, kwargs, self._settings, self._name)

    def __enter__(self) -> Self:
        self._state.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.close(error)

    def __reduce__(self) -> Any:
        raise NotImplementedError("a task group cannot be sent to another process")

    def __repr__(self) -> str:
        return f"<parallelkit.TaskGroup {self._state}>"


class _State:
    """What a group shares with the views of it that `with_options` makes."""

    def __init__(self, workers: WorkerSettings, timeout: float | None) -> None:
        self.timeout = timeout
        #: How many tasks have come to their end by themselves.
        self.completed: int = 0
        self._workers = workers
        self._deadline: float | None = None
        self._driver: Driver | None = None
        self._callbacks = Callbacks()
        self._lock = threading.Lock()
        self._running: set[Task[Any]] = set()
        self._failed: list[Task[Any]] = []  # in the order of their ends
        self._aborting = False
        self._closed = False

    def __str__(self) -> str:
        if self._driver is None:
            return "not entered"
        return "ended" if self._closed else f"open, {len(self._running)} tasks running"

    def open(self) -> None:
        """The block begins."""
        if self._driver is not None:
            raise ClosedError("a task group is used once: make another one")
        self._driver = Driver(self._workers)
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        self._driver.serve()

    def begin(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: CallSettings,
        name: str | None,
    ) -> Task[Any]:
        """Begin a task."""
        driver = self._driver
        if driver is None or self._closed:
            when = "has not begun" if driver is None else "has ended"
            raise ClosedError(f"the block of this task group {when}: tasks are created within it")
        task: Task[Any] = Task(name or str(getattr(fn, "__qualname__", type(fn).__qualname__)))
        task._callbacks = self._callbacks
        task.add_done_callback(self._on_end)
        spec = settings.job(1, at_hand=True, single=True)
        if self._deadline is not None:
            spec = replace(spec, timeout=max(0.0, self._deadline - time.monotonic()))
        with shielded(), self._lock:
            if self._aborting:
                raise standard.CancelledError("a task has failed, and its group is about to end")
            self._running.add(task)
        try:
            sink = _Settlement(task, self, named=name is not None)
            call = driver.submit(fn, Style.APPLY, [(args, kwargs)], spec, sink)
        except BaseException:
            with shielded(), self._lock:
                self._running.discard(task)
            raise
        task._begin(driver, call)
        if task.cancelled():  # before there was a call that could be
            driver.cancel(call)
        driver.hurry()
        return task

    def _on_end(self, task: standard.Future[Any]) -> None:
        # In the thread for callbacks: who drives may hold what is wanted here.
        assert isinstance(task, Task)
        failed = not task.cancelled() and standard.Future.exception(task) is not None
        with shielded(), self._lock:
            self._running.discard(task)
            self.completed += not task.cancelled()
            if failed:
                self._failed.append(task)
                self._aborting = True
        if failed and not task._late:  # of which time makes an end by itself, all at once
            self._abort()

    def _abort(self) -> None:
        with shielded(), self._lock:
            self._aborting = True
            running = list(self._running)
        for task in running:
            task.cancel()

    def close(self, error: BaseException | None) -> None:
        """The block has come to its end, by `error` perhaps."""
        driver = self._driver
        assert driver is not None
        if driver.inherited:  # a forked child leaves the block, and the tasks are its parent's
            return
        self._closed = True
        try:
            if isinstance(error, Exception):
                self._abort()
            elif error is not None:
                self._end_now(driver)
            driver.shut_down()
            standard.wait(list(self._running))  # nothing is left of them but their being handed out
        except BaseException:
            self._end_now(driver)
            raise
        finally:
            driver.hand_out()
            self._callbacks.close()
        if error is None or isinstance(error, Exception):
            self._raise(error)

    def _end_now(self, driver: Driver) -> None:
        driver.set_grace(HURRY_SECONDS)
        self._abort()  # first, so that the tasks are cancelled and have not failed
        driver.terminate()

    def _raise(self, error: BaseException | None) -> None:
        failures: list[BaseException] = []
        late = [task for task in self._failed if task._late]
        for task in self._failed:
            task._asked = True
            if task in late[1:]:  # one of them says it
                continue
            failure = standard.Future.exception(task)
            if failure is not None and all(failure is not known for known in failures):
                failures.append(failure)
        told = error is None or isinstance(error, standard.CancelledError)  # it says that a task has failed
        if error is not None and not told and all(error is not known for known in failures):
            failures.append(error)
        if failures:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", failures) from None


class _Settlement(Settlement):
    """Takes the outcome of a task to its handle."""

    __slots__ = ("_named", "_state")

    def __init__(self, task: Task[Any], state: _State, *, named: bool) -> None:
        super().__init__(task)
        self._state = state
        self._named = named

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        task, state = self.future, self._state
        assert isinstance(task, Task)
        if isinstance(exception, CallTimeoutError):  # not the task's own, which is delivered
            assert state.timeout is not None
            exception = CallTimeoutError(timeout=state.timeout, completed=state.completed)
            task._late = True
        error = self._error or exception
        if error is not None and self._named:
            tracebacks.add_note(error, f"parallelkit: task {task.name!r}")
        super().finish(exception)
