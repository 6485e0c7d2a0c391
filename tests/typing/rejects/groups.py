"""What `TaskGroup` refuses."""

from __future__ import annotations

from parallelkit import TaskGroup


def half(x: int) -> float:
    return x / 2


TaskGroup("2")  # error
TaskGroup(2, 3)  # error
TaskGroup(chunksize=2)  # error
TaskGroup(task_timeout="1")  # error

with TaskGroup() as group:
    group.create_task(half)  # error
    group.create_task(half, "a")  # error
    group.create_task(half, 1, name="half")  # error
    group.create_task(half(1))  # error
    group.with_options(timeout=1)  # error
    group.with_options(name=1)  # error
    number: int = group.create_task(half, 1).result()  # error
    bare: float = group.create_task(half, 1)  # error

async def main() -> None:
    async with TaskGroup():  # error
        pass
