# pyright does not know that `pytest.raises` reaches what follows only behind the block.
# pyright: reportPossiblyUnboundVariable=false
from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tasks

import parallelkit
from parallelkit import (
    CallTimeoutError,
    ClosedError,
    MemoryLimitError,
    SerializationError,
    Task,
    TaskGroup,
    TaskTimeoutError,
    WorkerDiedError,
)
from parallelkit.groups import TaskSettings

CancelledError = concurrent.futures.CancelledError


def until(ready: Callable[[], object]) -> None:
    while not ready():  # bounded by pytest-timeout
        time.sleep(0.01)


def failures(group: BaseExceptionGroup[Any]) -> list[type[BaseException]]:
    return [type(error) for error in group.exceptions]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def meet(folder: str, name: str, number: int) -> int:
    """Return when `number` of these run at one time."""
    Path(folder, name).touch()
    while len(os.listdir(folder)) < number:
        time.sleep(0.01)
    return os.getpid()


def fail_when(path: str) -> None:
    tasks.wait_for_file(path)
    raise ValueError("the first")


# Answers


def test_different_functions_run_side_by_side(engine: dict[str, Any]) -> None:
    with TaskGroup(**engine) as group:
        number = group.create_task(tasks.add, 1, y=2)
        name = group.create_task(str, b"abc", "ascii")
        with_options = group.with_options(name="nine", task_timeout=60).create_task(tasks.square, 3)
        assert number.result() == 3
    assert (name.result(), with_options.result()) == ("abc", 9)
    assert [task.name for task in (number, name, with_options)] == ["add", "str", "nine"]
    assert all(isinstance(task, Task) and task.done() and not task.cancelled() for task in (number, name))
    assert "'nine'" in repr(with_options)
    assert "ended" in repr(group)


def test_each_task_has_a_process_at_once(start_method: str, tmp_path: Path) -> None:
    with TaskGroup(start_method=start_method) as group:
        several = [group.create_task(meet, str(tmp_path), str(n), 3) for n in range(3)]
    assert len({task.result() for task in several}) == 3


def test_max_workers_bounds_what_runs_at_a_time() -> None:
    with TaskGroup(1, start_method="fork") as group:
        begun = [group.create_task(time.monotonic) for _ in range(3)]
    assert sorted(begun, key=lambda task: task.result()) == begun
    with TaskGroup(1, start_method="fork") as group:
        stuck = group.create_task(tasks.happen, "stuck")
        waiting = group.create_task(tasks.square, 3)
        until(stuck.running)
        assert not waiting.running()
        stuck.cancel()
    assert waiting.result() == 9


def test_a_forked_task_inherits_its_function_and_arguments(recwarn: pytest.WarningsRecorder) -> None:
    lock = threading.Lock()
    with TaskGroup(start_method="fork") as group:
        several = [group.create_task(lambda n: (n, lock.locked()), n) for n in range(3)]
        for task in several:
            task.result()
        late = group.create_task(lambda: "late")
    assert [task.result() for task in several] == [(n, False) for n in range(3)]
    assert late.result() == "late"
    assert not recwarn.list


def test_handles_are_futures() -> None:
    called: list[object] = []
    with TaskGroup(start_method="fork") as group:
        several = [group.create_task(tasks.square, n) for n in range(4)]
        several[0].add_done_callback(called.append)
        results = {future.result() for future in concurrent.futures.as_completed(several)}
    assert results == {0, 1, 4, 9}
    assert called == [several[0]]


def test_an_empty_group() -> None:
    with TaskGroup(timeout=0):
        pass


# Failures


def test_the_first_failure_ends_the_others_with_what_they_started(start_method: str, tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method=start_method) as group:
        parent = group.create_task(tasks.start_child, str(tmp_path))
        stuck = group.create_task(tasks.happen, "stuck")
        done = group.create_task(tasks.square, 3)
        assert done.result() == 9
        failed = group.with_options(name="waits").create_task(fail_when, str(tmp_path / "pid"))
    (error,) = caught.value.exceptions
    assert type(error) is ValueError
    assert failed.exception() is error
    assert error.__notes__ == ["parallelkit: in the call of fail_when", "parallelkit: task 'waits'"]
    traceback = error.__traceback__
    assert traceback is not None
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fail_when"
    assert parent.cancelled()
    assert stuck.cancelled()
    with pytest.raises(CancelledError):
        parent.result()
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert done.result() == 9


def test_all_failures_are_raised_together(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="fork", task_timeout=20) as group:
        group.with_options(task_timeout=None).create_task(meet, str(tmp_path), "a", 9)
        group.create_task(tasks.happen, "stuck")
        raise LookupError("of the block")
    assert failures(caught.value) == [LookupError]
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="fork") as group:
        both = [group.create_task(fail_when, str(tmp_path / "go")) for _ in range(2)]
        (tmp_path / "go").touch()
        concurrent.futures.wait(both)
        raise LookupError("of the block")
    kinds = failures(caught.value)
    assert kinds[-1] is LookupError
    assert set(kinds[:-1]) == {ValueError}
    assert len(kinds) == 1 + sum(not task.cancelled() for task in both)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("kill", WorkerDiedError),
        ("exit 0", WorkerDiedError),
        ("stuck", TaskTimeoutError),
        ("sys.exit", SystemExit),
    ],
)
def test_what_a_task_may_come_to(what: str, kind: type[BaseException]) -> None:
    with pytest.raises(BaseExceptionGroup) as caught, TaskGroup(start_method="fork") as group:
        sibling = group.create_task(tasks.happen, "stuck")
        group.with_options(task_timeout=0.3).create_task(tasks.happen, what)
    assert failures(caught.value) == [kind]
    assert sibling.cancelled()


def test_memory_limit_and_retries(tmp_path: Path) -> None:
    with (
        pytest.raises(ExceptionGroup) as caught,
        TaskGroup(memory_limit="150MB", start_method="fork") as group,
    ):
        group.create_task(tasks.grow, 2)
    assert failures(caught.value) == [MemoryLimitError]
    with TaskGroup(retries=1, retry_on=LookupError, start_method="fork") as group:
        again = group.create_task(tasks.fail_first, str(tmp_path))
    assert again.result() is None


def test_what_cannot_be_sent_fails_its_task() -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="spawn") as group:
        group.create_task(tasks.echo, threading.Lock())
    assert failures(caught.value) == [SerializationError]


def test_timeout_ends_all_tasks() -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(timeout=3.0, start_method="fork") as group:
        done = group.create_task(tasks.square, 3)
        done.result()
        several = [group.create_task(tasks.happen, "stuck") for _ in range(3)]
    (error,) = caught.value.exceptions
    assert isinstance(error, CallTimeoutError)
    assert (error.timeout, error.completed) == (3.0, 1)
    assert all(isinstance(task.exception(), CallTimeoutError) for task in several)


# The block


def test_a_failure_in_the_block_ends_the_tasks() -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="fork") as group:
        task = group.create_task(tasks.happen, "stuck")
        until(task.running)
        raise KeyError("block")
    assert failures(caught.value) == [KeyError]
    assert task.cancelled()


def test_the_error_of_a_task_that_leaves_the_block_is_told_once() -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="fork") as group:
        group.create_task(tasks.fail_on_three, 3).result()
    assert failures(caught.value) == [ValueError]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), TaskGroup(start_method="fork") as group:
        task = group.create_task(tasks.happen, "stuck")
        failed = group.create_task(tasks.fail_on_three, 3)
        concurrent.futures.wait([failed])
        raise kind
    assert task.cancelled()
    assert isinstance(failed.exception(), ValueError)


def test_the_block_is_told_of_a_failure_where_it_asks() -> None:
    with pytest.raises(ExceptionGroup) as caught, TaskGroup(start_method="fork") as group:
        stuck = group.create_task(tasks.happen, "stuck")
        group.create_task(tasks.fail_on_three, 3)
        with pytest.raises(CancelledError):
            stuck.result()
        for _ in itertools.count():
            group.create_task(tasks.square, 3)  # raises CancelledError
    assert failures(caught.value) == [ValueError]


def test_cancel_ends_one_task() -> None:
    with TaskGroup(start_method="fork") as group:
        stuck = group.create_task(tasks.happen, "stuck")
        until(stuck.running)
        assert stuck.cancel()
        other = group.create_task(tasks.square, 3)
    assert stuck.cancelled()
    assert other.result() == 9
    with pytest.raises(CancelledError), TaskGroup(start_method="fork") as group:
        stuck = group.create_task(tasks.happen, "stuck")
        stuck.cancel()
        stuck.result()


def test_tasks_are_created_within_the_block() -> None:
    group = TaskGroup()
    for when in ("has not begun", "has ended"):
        with pytest.raises(RuntimeError, match=when) as caught:
            group.create_task(tasks.square, 3)
        assert isinstance(caught.value, ClosedError)
        if when == "has not begun":
            with group:
                pass
    with pytest.raises(ClosedError, match="once"), group:
        pass
    with pytest.raises(NotImplementedError, match="another process"):
        group.__reduce__()


def test_bad_arguments_are_refused_at_the_call() -> None:
    refused: list[dict[str, Any]] = [
        {"max_workers": 0},
        {"timeout": -1},
        {"task_timeout": 0},
        {"start_method": "vfork"},
    ]
    for options in refused:
        with pytest.raises(ValueError, match=next(iter(options))):
            TaskGroup(**options)
    with pytest.raises(TypeError, match="no option 'chunksize'; the options are task_timeout, retries"):
        TaskGroup(chunksize=3)  # type: ignore[call-arg]
    with TaskGroup() as group:
        with pytest.raises(TypeError, match="no option 'nme'"):
            group.with_options(nme="a")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="name must be a string"):
            group.with_options(name=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="callable"):
            group.create_task(3)  # type: ignore[arg-type]
    assert set(TaskSettings.__annotations__) == {"name", "task_timeout", "retries", "retry_on"}


def test_many_tasks() -> None:
    with TaskGroup(4, start_method="fork") as group:
        several = [group.create_task(tasks.square, n) for n in range(16)]
    assert [task.result() for task in several] == [n * n for n in range(16)]


def test_a_forked_child_leaves_the_block_and_the_tasks_alone() -> None:
    with TaskGroup(start_method="fork") as group:
        task = group.create_task(tasks.sleep, 0.3)
        pid = os.fork()
        if not pid:
            try:
                group.__exit__(None, None, None)
                with pytest.raises(ClosedError):
                    group.create_task(tasks.square, 3)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    assert task.result() == 0.3


def test_ctrl_c_ends_the_tasks(tmp_path: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import tasks
        from parallelkit import TaskGroup

        with TaskGroup() as group:
            group.create_task(tasks.happen, "stubborn")
            group.create_task(tasks.start_child, {str(tmp_path)!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until((tmp_path / "pid").exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=50)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_other_engines() -> None:
    with parallelkit.using("serial"), TaskGroup() as group:
        several = [group.create_task(os.getpid) for _ in range(2)]
    assert {task.result() for task in several} == {os.getpid()}
