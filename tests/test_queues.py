from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import functools
import math
import multiprocessing
import os
import pickle
import queue as standard_queues
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import resource_sharer
from multiprocessing.context import BaseContext
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import queue_tasks
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parallelkit import encoding, sharing
from parallelkit.connection import wait
from parallelkit.errors import SerializationError
from parallelkit.queues import Empty, Full, JoinableQueue, Queue, ShutDown, SimpleQueue, messagelog

LONG = 20.0


@pytest.fixture
def context(start_method: str) -> BaseContext:
    return multiprocessing.get_context(start_method)


@pytest.fixture
def forked() -> BaseContext:
    """For tests to which it is all the same how a process was started."""
    return multiprocessing.get_context("fork")


@contextlib.contextmanager
def running(context: BaseContext, target: Any, *args: Any) -> Iterator[Any]:
    process = context.Process(target=target, args=args)  # type: ignore[attr-defined]
    process.start()
    try:
        yield process
        process.join(LONG)
        assert process.exitcode is not None, "the process hangs"
    finally:
        process.kill()
        process.join()
        process.close()


def kinds() -> list[Any]:
    return [Queue, JoinableQueue, SimpleQueue]


# Between processes


def test_items_go_to_a_process_and_back(context: BaseContext) -> None:
    pairs = [(kind(), kind()) for kind in kinds()]
    items: list[Any] = [
        1,
        "two",
        None,
        3.0,
        b"x" * 100_000,
        bytearray(b"y" * 50_000),
        {"a": [1]},
        (),
        np.arange(20_000),
    ]
    with running(context, queue_tasks.take_and_return, pairs, len(items)):
        for there, back in pairs:
            for item in items:
                there.put(item)
            for item in items:
                came = back.get(timeout=LONG)
                assert type(came) is type(item)
                assert np.array_equal(came, item)


@pytest.mark.parametrize("end", [queue_tasks.put_all, queue_tasks.put_and_vanish, queue_tasks.put_and_die])
def test_what_was_put_is_there_however_the_process_ends(end: Any, context: BaseContext) -> None:
    queue = Queue[Any]()
    items: list[Any] = [*range(2000), b"z" * 3_000_000]
    # Joined before anything is read: that it ends at all is half of the test.
    with running(context, end, queue, items):
        pass
    assert [queue.get(timeout=LONG) for _ in items] == items
    assert queue.empty()


def test_several_readers_share_the_items(forked: BaseContext) -> None:
    queue, answers = Queue[int](), Queue[list[int]]()
    with (
        running(forked, queue_tasks.collect, queue, answers),
        running(forked, queue_tasks.collect, queue, answers),
    ):
        for i in range(500):
            queue.put(i)
        queue.shutdown()
        parts = [answers.get(timeout=LONG) for _ in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(500))
    assert all(part == sorted(part) for part in parts)


@pytest.mark.parametrize("kind", kinds())
def test_a_queue_is_passed_by_inheritance_only(kind: Any) -> None:
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(kind())


# Limits, sizes and times


def test_maxsize() -> None:
    queue = Queue[int](maxsize=2)
    queue.put(1)
    assert not queue.full()
    queue.put(2, True, 5)
    assert queue.full()
    assert queue.qsize() == 2
    calls: list[Callable[[], object]] = [
        lambda: queue.put(3, False),
        lambda: queue.put_nowait(3),
        lambda: queue.put(3, True, 0.01),
        lambda: queue.put(3, True, -1),
    ]
    for call in calls:
        with pytest.raises(standard_queues.Full):
            call()
    assert queue.get() == 1
    queue.put(3, True, LONG)
    assert [queue.get(), queue.get()] == [2, 3]


def test_empty() -> None:
    queue = Queue[int]()
    calls: list[Callable[[], object]] = [
        lambda: queue.get(False),
        queue.get_nowait,
        lambda: queue.get(True, 0.01),
        lambda: queue.get(timeout=-1),
    ]
    for call in calls:
        with pytest.raises(standard_queues.Empty):
            call()
    assert queue.empty()


def test_a_full_queue_lets_a_writer_wait_until_there_is_room() -> None:
    queue = Queue[int](maxsize=1)
    writer = threading.Thread(target=queue_tasks.put_all, args=(queue, list(range(200))))
    writer.start()
    assert [queue.get(timeout=LONG) for _ in range(200)] == list(range(200))
    writer.join()


@pytest.mark.parametrize("wrong", ["1", 1.5, None, True])
def test_a_maxsize_that_is_no_whole_number_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="maxsize"):
        Queue(wrong)


@contextlib.contextmanager
def stopped_in_the_middle(lock: sharing.SharedFile, bell: sharing.Bell | None = None) -> Iterator[None]:
    """A process is stopped, by a debugger say, that holds a lock and has not committed anything."""
    pid = os.fork()
    if not pid:
        lock.__enter__()
        if bell is not None:
            bell.set()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        began = time.monotonic()
        yield
        assert time.monotonic() - began < 15
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_get_keeps_its_time_while_a_writer_is_stopped_in_the_middle_of_a_put() -> None:
    queue = Queue[int]()
    log: Any = queue._log
    with stopped_in_the_middle(log._tail, log.items), pytest.raises(Empty):
        queue.get(timeout=0.1)
    queue.put(1)
    assert queue.get(timeout=LONG) == 1


@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_put_keeps_its_time_while_a_writer_is_stopped_in_the_middle_of_a_put(maxsize: int) -> None:
    queue = Queue[int](maxsize)
    log: Any = queue._log
    puts: list[Callable[[], object]] = [lambda: queue.put(1, timeout=0.1), lambda: queue.put_nowait(1)]
    with stopped_in_the_middle(log._tail):
        for put in puts:
            with pytest.raises(Full):
                put()
    queue.put(2, timeout=LONG)
    assert queue.get(timeout=LONG) == 2
    assert queue.empty()


def test_a_get_keeps_its_time_while_a_reader_is_stopped_in_the_middle_of_a_get() -> None:
    queue = JoinableQueue[int]()
    queue.put(1)
    log: Any = queue._log
    with stopped_in_the_middle(log._head):
        gets: list[Callable[[], int]] = [lambda: queue.get(timeout=0.1), queue.get_nowait]
        for get in gets:
            with pytest.raises(Empty):
                get()
        assert not queue.join(timeout=0.1)
        assert not queue.join(timeout=0)
    with stopped_in_the_middle(log._counts_file):
        assert not queue.join(timeout=0.1)
    assert queue.get(timeout=LONG) == 1
    queue.task_done()
    assert queue.join(timeout=0)


# What cannot be pickled


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not today")


class Unloadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ZeroDivisionError("not here")


@pytest.mark.parametrize("kind", kinds())
def test_what_cannot_be_pickled_raises_in_put_and_leaves_no_trace(kind: Any) -> None:
    queue = kind() if kind is SimpleQueue else kind(1)
    with pytest.raises(SerializationError, match="not today") as caught:
        queue.put({"a": [Unpicklable()]})
    assert caught.value.path == "item['a'][0]"
    assert isinstance(caught.value, pickle.PicklingError)
    assert queue.empty()
    queue.put(1)
    assert queue.get() == 1


def test_what_cannot_be_loaded_raises_in_get_and_costs_one_item() -> None:
    queue = Queue[Any]()
    queue.put(Unloadable())
    queue.put(2)
    with pytest.raises(ZeroDivisionError, match="not here"):
        queue.get()
    assert queue.get() == 2


def test_reducers_of_multiprocessing_count() -> None:
    queue = Queue[Any]()
    mine, theirs = socket.socketpair()
    with mine, theirs:
        queue.put(theirs)
        with queue.get() as copy:
            mine.sendall(b"hello")
            assert copy.recv(5) == b"hello"
    resource_sharer.stop(timeout=LONG)


# Large ones


def test_arrays_travel_out_of_band_and_can_be_written_to() -> None:
    queue = Queue[Any]()
    sent = [np.arange(100_000, dtype="i8"), np.ones((300, 300), order="F")]
    queue.put(sent)
    message = encoding.encode(sent)
    assert len(message[1]) < 1000
    assert [memoryview(part).nbytes for part in message[2]] == [800_000, 720_000]
    sent[0][0] = 7  # what was put is put
    came = queue.get()
    assert came[0][0] == 0
    assert np.array_equal(came[1], sent[1])
    came[0][0] = 9


def test_more_buffers_than_one_system_call_takes() -> None:
    queue = Queue[Any]()
    sent = [np.full(5000, i) for i in range(1500)]
    queue.put(sent)
    assert all(np.array_equal(a, b) for a, b in zip(queue.get(), sent, strict=True))


@pytest.mark.parametrize("shut", [False, True])
@pytest.mark.parametrize("get", [Queue.get, Queue.get_nowait, lambda queue: queue.get(timeout=LONG)])
def test_memory_is_given_back_with_the_last_item(get: Any, shut: bool) -> None:
    queue = Queue[bytes]()
    log: Any = queue._log

    def held() -> int:
        return sum(os.fstat(file.descriptor).st_blocks * 512 for file in log._files)

    for _ in range(60):
        queue.put(bytes(10**6))
    assert held() > 55 * 10**6
    if shut:
        queue.shutdown()
    for _ in range(60):
        get(queue)
    assert held() <= 2 * messagelog.WINDOW + (1 << 16)


def test_memory_is_given_back_by_a_process_that_waited_for_a_large_item(forked: BaseContext) -> None:
    queue, answers = Queue[bytes](), Queue[bytes]()
    with running(forked, queue_tasks.take_and_return, [(queue, answers)], 1):
        queue.put(bytes(3 * messagelog.WINDOW))
        answers.get(timeout=LONG)
    for log in (queue._log, answers._log):
        assert log is not None
        held = sum(os.fstat(file.descriptor).st_blocks * 512 for file in log._files)
        assert held <= 2 * messagelog.WINDOW + (1 << 16)


def test_memory_is_bounded_by_the_backlog_while_a_queue_is_never_empty() -> None:
    queue = Queue[bytes]()
    log: Any = queue._log
    for _ in range(3):
        queue.put(bytes(10**6))
    for _ in range(150):
        queue.put(bytes(10**6))
        assert len(queue.get()) == 10**6
        held = sum(os.fstat(file.descriptor).st_blocks * 512 for file in log._files)
        assert held <= 2 * messagelog.WINDOW + 10**7


# Ends


@pytest.mark.parametrize("kind", kinds())
def test_shutdown_lets_what_is_there_be_read(kind: Any, forked: BaseContext) -> None:
    queue, answers = kind(), Queue[Any]()
    queue.put(1)
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.put(2)
    with running(forked, queue_tasks.collect, queue, answers):
        assert answers.get(timeout=LONG) == [1]
    with pytest.raises(ShutDown):
        queue.get()
    queue.shutdown()


def test_shutdown_is_that_of_the_standard_library_where_it_has_one() -> None:
    if sys.version_info >= (3, 13):
        assert ShutDown is standard_queues.ShutDown
    assert Empty is standard_queues.Empty
    assert Full is standard_queues.Full


def test_an_immediate_shutdown_discards() -> None:
    queue = JoinableQueue[int]()
    for i in range(3):
        queue.put(i)
    queue.get()
    queue.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        queue.get()
    assert queue.qsize() == 0
    assert list(queue) == []
    assert not queue.join(timeout=0)  # the one that was taken
    queue.task_done()
    assert queue.join()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize(("call", "maxsize"), [("get", 0), ("put", 1)])
def test_shutdown_wakes_who_waits(call: str, maxsize: int, immediate: bool, forked: BaseContext) -> None:
    queue, answers = Queue[str](maxsize), Queue[str]()
    if call == "put":
        queue.put("full")
    with running(forked, queue_tasks.report_end, call, queue, answers):
        assert answers.get(timeout=LONG) == "ready"
        queue.shutdown(immediate)
        assert answers.get(timeout=LONG) == "ShutDown"


def test_a_closed_queue() -> None:
    queue = Queue[int]()
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()
    assert queue.empty()  # as in multiprocessing, where it was not used
    for call in (lambda: queue.put(1), queue.get):
        with pytest.raises(ValueError, match="is closed"):
            call()
    used = Queue[int]()
    used.put(1)
    used.close()
    used.close()
    with pytest.raises(OSError, match="is closed"):
        used.empty()
    with pytest.raises(AssertionError, match="not closed"):
        Queue[int]().join_thread()


def test_a_closed_simple_queue() -> None:
    with SimpleQueue[int]() as queue:
        queue.put(1)
        assert not queue._reader.closed
    for call in (lambda: queue.put(1), queue.get, queue.empty):
        with pytest.raises(OSError, match="is closed"):
            call()
    assert queue._reader.closed
    assert queue._writer.closed


def test_a_simple_queue_waits_as_long_as_told() -> None:
    with pytest.raises(Empty):
        SimpleQueue[int]().get(timeout=0.01)


def test_closing_here_concerns_nobody_else(forked: BaseContext) -> None:
    queue, answers = Queue[int](), Queue[int]()
    with running(forked, queue_tasks.take_and_return, [(queue, answers)], 2):
        queue.put(1)
        queue.put(2)
        queue.close()
        assert [answers.get(timeout=LONG) for _ in range(2)] == [1, 2]


# Waiting for a queue


def test_wait_for_queues() -> None:
    first, second = Queue[int](), SimpleQueue[int]()
    assert wait([first, second], 0) == []
    second.put(1)
    assert wait([first, second], LONG) == [second]
    assert second._reader.poll(0)
    second.get()
    assert wait([first, second], 0) == []
    assert not second._reader.poll(0)
    first.shutdown()
    assert wait([first, second], LONG) == [first]


# Tasks


def test_join_waits_for_all_to_be_done(forked: BaseContext) -> None:
    queue = JoinableQueue[int]()
    for i in range(50):
        queue.put(i)
    assert not queue.join(timeout=0)
    with (
        running(forked, queue_tasks.take_and_do, queue, 20),
        running(forked, queue_tasks.take_and_do, queue, 30),
    ):
        assert queue.join(LONG)
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


def test_several_can_join() -> None:
    queue = JoinableQueue[int]()
    queue.put(1)
    joined: list[bool] = []
    threads = [threading.Thread(target=lambda: joined.append(queue.join(LONG))) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.get()
    queue.task_done()
    for thread in threads:
        thread.join()
    assert joined == [True] * 3


def test_join_does_not_wait_for_the_dead(context: BaseContext) -> None:
    queue, answers = JoinableQueue[int](), Queue[str]()
    for i in range(5):
        queue.put(i)
    with running(context, queue_tasks.take_and_hold, queue, answers, 2) as process:
        assert answers.get(timeout=LONG) == "taken"
        for _ in range(3):
            queue.get()
            queue.task_done()
        assert not queue.join(timeout=0.2)
        process.kill()
        assert queue.join(LONG)
    # The dead one's slot goes to another, who counts on.
    for i in range(4):
        queue.put(i)
    with running(context, queue_tasks.take_and_do, queue, 3):
        pass
    assert not queue.join(timeout=0.2)
    queue.get()
    assert not queue.join(timeout=0)
    queue.task_done()
    assert queue.join(LONG)


def test_one_process_may_do_what_another_has_taken(forked: BaseContext) -> None:
    queue = JoinableQueue[int]()
    for i in range(3):
        queue.put(i)
        queue.get()
    with running(forked, queue_tasks.do_without_taking, queue, 3):
        pass
    assert queue.join(LONG)
    queue.put(9)
    assert not queue.join(timeout=0)


# The log, against a model


class LogMachine(RuleBasedStateMachine):
    """A log with a small window, so that it goes over from one file to the other all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._window, messagelog.WINDOW = messagelog.WINDOW, 4096
        self.log = messagelog.MessageLog(8)
        self.model: deque[bytes] = deque()
        self.number = 0

    def teardown(self) -> None:
        messagelog.WINDOW = self._window

    @precondition(lambda self: len(self.model) < 8)
    @rule(size=st.integers(0, 3000), kind=st.sampled_from(["plain", "bytes", "bytearray", "buffers"]))
    def append(self, size: int, kind: str) -> None:
        self.number += 1
        data = (self.number.to_bytes(4, "little") * (size // 4 + 1))[:size]
        message: encoding.Message = encoding.PICKLE, data, ()
        if kind == "bytes":
            message = encoding.BYTES, data, ()
        elif kind == "bytearray":
            message = encoding.BYTEARRAY, bytearray(data), ()
        elif kind == "buffers":
            message = encoding.PICKLE_AND_BUFFERS, data[: size // 3], [memoryview(data)[size // 3 :]]
        self.log.append(message, False)
        self.model.append(data)

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        _, body, buffers = self.log.take(False)
        assert b"".join([bytes(body), *map(bytes, buffers)]) == self.model.popleft()

    @precondition(lambda self: not self.model)
    @rule()
    def take_of_nothing(self) -> None:
        with pytest.raises(Empty):
            self.log.take(False)

    @precondition(lambda self: len(self.model) == 8)
    @rule()
    def append_to_full(self) -> None:
        with pytest.raises(Full):
            self.log.append((0, b"", ()), False)

    @invariant()
    def counts(self) -> None:
        assert len(self.log) == len(self.model)
        if self.model:
            assert sharing.wait_readable(self.log.items.fileno(), 0)


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)


# Systems that have less


def test_without_proc_eventfd_and_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.delattr(os, "eventfd")
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    queue = Queue[int](maxsize=3)
    log: Any = queue._log
    assert not log._tail._reopens
    context = multiprocessing.get_context("fork")
    with running(context, queue_tasks.put_all, queue, list(range(100))):
        assert [queue.get(timeout=LONG) for _ in range(100)] == list(range(100))
    with pytest.raises(Empty):
        queue.get(timeout=0.01)


def test_a_false_deadlock_of_record_locks_is_sat_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([OSError(35, "Resource deadlock avoided"), None])

    def lockf(*args: Any) -> None:
        if (error := next(calls)) is not None:
            raise error

    monkeypatch.setattr(fcntl, "lockf", lockf)
    sharing._take_record_lock(0)
    assert next(calls, "all used") == "all used"


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize(
    "call",
    [
        Queue.get,
        lambda queue: queue.get(timeout=0.2),
        Queue.get_nowait,
        lambda queue: queue.put(1),
        lambda queue: queue.put(1, timeout=0.2),
    ],
)
def test_a_child_that_cannot_open_the_lock_says_so_and_leaves_that_of_its_parent(call: Any) -> None:
    queue = Queue[int](5)
    queue.put(0)
    assert queue._log is not None
    tail, head = queue._log._tail, queue._log._head
    pid = os.fork()
    if not pid:
        with tail, head:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            grandchild = os.fork()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if not grandchild:
                os._exit(_errno_of(lambda: call(queue)))
            _, status = os.waitpid(grandchild, 0)
            held = [not sharing.SharedFile(os.dup(lock.descriptor)).acquire(0) for lock in (tail, head)]
            os._exit(os.waitstatus_to_exitcode(status) if all(held) else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == errno.EMFILE
    assert queue.get(timeout=LONG) == 0
    assert queue.empty()


def test_a_timeout_may_be_for_ever() -> None:
    queue = Queue[int](1)
    queue.put(1, timeout=math.inf)
    threading.Timer(0.1, queue.get).start()
    queue.put(2, timeout=math.inf)
    assert queue.get(timeout=math.inf) == 2
    threading.Timer(0.1, queue.put, [3]).start()
    assert queue.get(timeout=math.inf) == 3


def test_a_fork_while_another_thread_holds_the_locks() -> None:
    queue = Queue[int]()
    log: Any = queue._log
    with log._tail, log._head:
        pid = os.fork()
        if not pid:
            signal.alarm(10)  # the child waits for the parent's locks, and not for its own copies of them
            queue.put(1)
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert queue.get() == 1


# At the interpreter's end


def test_an_interpreter_ends_in_silence_with_queues_open() -> None:
    code = (
        "from parallelkit.queues import *; from parallelkit.connection import *\n"
        "q, j, s, p = Queue(1), JoinableQueue(), SimpleQueue(), Pipe()\n"
        "[x.put(1) for x in (q, j, s)]; p[0].send(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_random_use_by_threads() -> None:
    queue = Queue[tuple[int, int]](maxsize=5)
    got: list[list[tuple[int, int]]] = [[], []]

    def write(writer: int) -> None:
        chance = random.Random(writer)
        for i in range(300):
            while True:
                with contextlib.suppress(Full):
                    queue.put((writer, i), timeout=chance.choice([0, 0.001, 1]))
                    break

    def read(reader: int) -> None:
        got[reader].extend(queue)

    writers = [threading.Thread(target=functools.partial(write, i)) for i in range(2)]
    readers = [threading.Thread(target=functools.partial(read, i)) for i in range(2)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    queue.shutdown()
    for thread in readers:
        thread.join()
    assert sorted(got[0] + got[1]) == [(w, i) for w in range(2) for i in range(300)]


def test_a_plain_array_travels() -> None:
    queue = Queue[Any]()
    queue.put(array.array("d", [1.5]) * 20_000)
    assert queue.get() == array.array("d", [1.5]) * 20_000


def test_a_finalizer_at_the_interpreters_end_can_put() -> None:
    code = (
        "from parallelkit.queues import *\n"
        "class Late:\n"
        "    def __init__(self, queue): self.me, self.queue = self, queue\n"
        "    def __del__(self): self.queue.put(1); print('put')\n"
        "late = [Late(Queue()), Late(JoinableQueue(3)), Late(SimpleQueue())]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["put"] * 3, "")
