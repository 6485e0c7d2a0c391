from __future__ import annotations

import ast
import inspect
import multiprocessing
import multiprocessing.pool
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

import pytest
import tasks
from process_tasks import wait_until_gone

import parallelkit
from parallelkit import connection, context, queues, synchronize
from parallelkit.process import ForkProcess, ForkServerProcess, Process, SpawnProcess

CLASSES: dict[str, type[Process[Any]]] = {
    "fork": ForkProcess,
    "forkserver": ForkServerProcess,
    "spawn": SpawnProcess,
}


#: The first shared value opens the heap of multiprocessing, which has a file open from then on.
_HEAP = context.RawValue("i")


def test_a_context_has_what_multiprocessings_has(start_method: str) -> None:
    ours: context.Context = context.get_context(start_method)
    theirs = multiprocessing.get_context(start_method)
    assert isinstance(ours, BaseContext)
    assert {name for name in dir(theirs) if not name.startswith("_")} <= set(dir(ours))
    assert ours.Process is CLASSES[start_method]
    assert ours.get_start_method() == start_method
    assert ours.get_context() is ours
    assert ours.get_context("spawn") is context.get_context("spawn")
    assert ours.TimeoutError is multiprocessing.TimeoutError
    with pytest.raises(ValueError, match="cannot set start method"):
        ours.set_start_method("spawn")
    with pytest.raises(ValueError, match="cannot find context"):
        context.get_context("no such")


def test_the_signatures_are_those_of_multiprocessing() -> None:
    ours: Any = context.get_context("spawn")
    theirs: Any = multiprocessing.get_context("spawn")
    for name in ["Pool", "Pipe", "Queue", "JoinableQueue", "SimpleQueue", *synchronize.__all__]:
        if not hasattr(theirs, name):
            continue
        mine, other = (inspect.signature(getattr(c, name)).parameters for c in (ours, theirs))
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in other.values()]


def test_the_module_has_what_multiprocessing_has() -> None:
    elsewhere = {
        "Process": Process,
        "Pool": parallelkit.Pool,
        "Pipe": connection.Pipe,
        **{name: getattr(queues, name) for name in ("Queue", "SimpleQueue", "JoinableQueue")},
        **{name: getattr(synchronize, name) for name in synchronize.__all__},
    }
    assert set(multiprocessing.__all__) <= {*context.__all__, *elsewhere}
    for name in context.__all__:
        assert getattr(context, name) is not None
    assert context.cpu_count() == multiprocessing.cpu_count()
    assert context.current_process() is multiprocessing.current_process()
    assert context.parent_process() is None
    assert context.get_all_start_methods() == multiprocessing.get_all_start_methods()


def test_everything_works_together(start_method: str) -> None:
    ctx: Any = context.get_context(start_method)
    given = {
        "lock": ctx.Lock(),
        "rlock": ctx.RLock(),
        "semaphore": ctx.Semaphore(2),
        "bounded": ctx.BoundedSemaphore(1),
        "event": ctx.Event(),
        "condition": ctx.Condition(),
        "barrier": ctx.Barrier(2),
        "queue": ctx.Queue(3),
        "joinable": ctx.JoinableQueue(),
        "simple": ctx.SimpleQueue(),
        "value": ctx.Value("i", 5),
        "array": ctx.Array("d", 2),
    }
    assert isinstance(given["lock"], synchronize.Lock)
    assert isinstance(given["queue"], queues.Queue)
    assert isinstance(given["joinable"], queues.JoinableQueue)
    assert isinstance(given["value"].get_lock(), synchronize.RLock)
    mine, theirs = ctx.Pipe()
    with ctx.Process(target=use_all, args=(given, theirs)) as process:
        assert isinstance(process, Process)
        given["barrier"].wait(30)
        assert mine.recv() == "by pipe"
        assert given["queue"].get(timeout=30) == "by queue"
        assert given["joinable"].get(timeout=30) == "to be done"
        given["joinable"].task_done()
        assert given["simple"].get() == "simple"
    assert given["event"].is_set()
    assert (given["value"].value, given["array"][:]) == (6, [0.0, 2.5])
    assert process.result() == start_method
    for end in (mine, theirs, given["queue"], given["joinable"], given["simple"]):
        end.close()


def use_all(given: dict[str, Any], pipe: Any) -> str:
    with given["lock"], given["rlock"], given["semaphore"], given["bounded"], given["condition"]:
        given["event"].set()
    given["barrier"].wait(30)
    pipe.send("by pipe")
    given["queue"].put("by queue")
    given["joinable"].put("to be done")
    given["joinable"].join()
    given["simple"].put("simple")
    with given["value"].get_lock():
        given["value"].value += 1
    given["array"][1] = 2.5
    return method_here()


def test_the_pools_of_the_standard_library_take_it(start_method: str) -> None:
    ctx = context.get_context(start_method)
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert list(executor.map(tasks.square, [1, 2, 3])) == [1, 4, 9]
        assert set(map(type, multiprocessing.active_children())) == {CLASSES[start_method]}
    with multiprocessing.pool.Pool(2, context=ctx) as pool:
        assert pool.map(tasks.square, [1, 2, 3]) == [1, 4, 9]
    pool.join()


def test_its_own_pool_starts_workers_as_it_says(start_method: str) -> None:
    with context.get_context(start_method).Pool(1, tasks.set_state, (7,)) as pool:
        assert isinstance(pool, parallelkit.Pool)
        assert pool.apply(method_here) == start_method
        assert 7 in pool.apply(tasks.get_state, (None,))


def method_here() -> str:
    return str(multiprocessing.get_start_method())


@pytest.fixture
def undecided() -> Iterator[None]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("undecided")
def test_the_default_context_follows_the_start_method() -> None:
    assert context.get_start_method(allow_none=True) is None
    default = multiprocessing.get_all_start_methods()[0]
    ours: Any = context.get_context()
    assert ours.Process is CLASSES[default]
    assert context.get_start_method() == default  # which is decided by that
    with pytest.raises(RuntimeError, match="already been set"):
        context.set_start_method("spawn")
    context.set_start_method("spawn", force=True)
    ours = context.get_context()
    assert ours.Process is SpawnProcess
    assert multiprocessing.get_start_method() == "spawn"
    ours = context.DefaultContext()
    assert ours.Process is Process


def test_a_manager_ends_with_its_parent() -> None:
    # multiprocessing's own goes on for ever where the parent is killed.
    program = (
        "import os, parallelkit.context as c\n"
        "if __name__ == '__main__':\n"
        "    manager = c.get_context('fork').Manager()\n"
        "    shared = manager.dict(a=1)\n"
        "    print(dict(shared), manager._process.pid, flush=True)\n"
        "    import time; time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        shared, _, pid = parent.stdout.readline().rpartition(" ")
        assert ast.literal_eval(shared) == {"a": 1}
        os.kill(parent.pid, signal.SIGKILL)
        wait_until_gone(int(pid))


def test_a_manager_is_shut_down_as_in_multiprocessing() -> None:
    with context.Manager() as manager:
        shared = manager.list([1])
        with Process(target=append_to, args=(shared,)):
            pass
        assert list(shared) == [1, 2]


def append_to(shared: Any) -> None:
    shared.append(2)


def test_the_default_values_are_shared() -> None:
    value: Any = context.Value("i", 1)
    array: Any = context.RawArray("i", 2)
    with Process(target=set_both, args=(value, array)):
        pass
    assert (value.value, array[1]) == (4, 5)
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(value)


def set_both(value: Any, array: Any) -> None:
    value.value = 4
    array[1] = 5
