"""`TaskGroup`, and the handles of its tasks."""

from __future__ import annotations

import concurrent.futures

from typing_extensions import assert_type

from parallelkit import Task, TaskGroup


def half(x: int) -> float:
    return x / 2


def label(number: int, *, text: str = "") -> bytes:
    return f"{number}{text}".encode()


def tasks() -> None:
    with TaskGroup() as group:
        assert_type(group, TaskGroup)
        first = group.create_task(half, 1)
        second = group.create_task(label, 1, text="a")
        third = group.with_options(name="third", task_timeout=1, retries=2, retry_on=OSError).create_task(len, "a")
        assert_type(first, Task[float])
        concurrent.futures.wait([first])
    assert_type(first.result(), float)
    assert_type(second.result(timeout=1), bytes)
    assert_type(third.result(), int)
    assert_type(first.exception(), BaseException | None)
    assert_type(first.name, str)
    future: concurrent.futures.Future[float] = first
    future.cancel()


def options() -> None:
    TaskGroup(2, timeout=1, task_timeout=0.5, retries=1, memory_limit="1GB", start_method="fork", engine="serial")
