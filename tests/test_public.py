"""What is public: the names that a program can import from the top."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

import parallelkit
from parallelkit import errors, synchronize


def test_the_names_exist_once_and_in_order() -> None:
    names = parallelkit.__all__
    assert names == sorted(set(names))
    assert all(hasattr(parallelkit, name) for name in names)


def test_each_name_has_a_home_and_none_is_entered_before_it_is_needed() -> None:
    assert {*parallelkit._HOME, "aio", "tracebacks", "__version__"} == set(parallelkit.__all__)
    assert set(parallelkit.__all__) <= set(dir(parallelkit))
    program = (
        "import sys, parallelkit; print([name for name in sys.modules if name.startswith('parallelkit.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="has no attribute 'pool_reduce'"):
        parallelkit.pool_reduce  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [multiprocessing, errors, synchronize], ids=lambda module: module.__name__)
def test_nothing_is_forgotten(module: object) -> None:
    assert set(module.__all__) <= set(parallelkit.__all__)  # type: ignore[attr-defined]


def test_what_has_a_class_here_is_not_multiprocessings() -> None:
    ours = (
        "Barrier BoundedSemaphore Condition Event JoinableQueue Lock Pipe Pool Process Queue RLock Semaphore "
        "SimpleQueue get_context"
    )
    for name in ours.split():
        assert getattr(parallelkit, name).__module__.startswith("parallelkit."), name


def test_a_program_changes_over_by_its_import_line() -> None:
    program = """
import parallelkit as multiprocessing

def work(queue, value, lock):
    with lock, value.get_lock():
        value.value += 1
    queue.put(multiprocessing.current_process().name)

if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    queue, value, lock = multiprocessing.Queue(), multiprocessing.Value("i", 0), multiprocessing.Lock()
    args = queue, value, lock
    processes = [multiprocessing.Process(target=work, args=args, name=str(n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(value.value, sorted(queue.get() for _ in processes), multiprocessing.active_children())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("3 ['0', '1', '2'] []\n", "")


@pytest.mark.parametrize("name", ["pool_map", "Queue", "ParallelKitError", "ProcessPoolExecutor", "Process"])
def test_a_thread_that_outlives_the_main_one_finds_each_name(name: str) -> None:
    """concurrent.futures lets nobody import it by then."""
    program = f"""
import parallelkit, threading

def late():
    threading.main_thread().join()
    print(parallelkit.{name}.__name__)

threading.Thread(target=late).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == (f"{name}\n", "")
