"""What `ProcessPoolExecutor` refuses."""

from __future__ import annotations

from parallelkit import ProcessPoolExecutor


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str) -> bytes:
    return f"{number}{text}".encode()


ProcessPoolExecutor("2")  # error
ProcessPoolExecutor(processes=2)  # error
ProcessPoolExecutor(2, initializer=label, initargs=("a", 1))  # error
ProcessPoolExecutor(2, "fork")  # error
ProcessPoolExecutor(2, None, None, (), 5)  # error

executor = ProcessPoolExecutor(2)

# arguments
executor.submit(label, "a", 1)  # error
executor.submit(label, 1)  # error
executor.submit(half, 1, task_timeout=1)  # error
executor.submit(half, (1,))  # error
executor.map(half, "a")  # error
executor.map(half, 1)  # error
executor.map(label, [1])  # error
executor.map(label, [1], [2])  # error

# options
executor.map(half, [1], buffersize="3")  # error
executor.map(half, [1], buffer_size=3)  # error
executor.with_options(timeout=1)  # error
executor.with_options(retries="1")  # error
executor.shutdown(True, True)  # error

# results
number: int = executor.submit(half, 1).result()  # error
bare: float = executor.submit(half, 1)  # error
several: list[float] = executor.map(half, [1])  # error
