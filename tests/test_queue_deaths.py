"""Readers and writers of queues are killed, and nobody else is to notice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import soak_queues

from parallelkit.connection import wait
from parallelkit.queues import Empty, JoinableQueue, Queue, SimpleQueue
from parallelkit.queues.messagelog import MessageLog
from parallelkit.sharing import Bell, wait_readable

LONG = 20.0
KINDS: dict[str, Callable[[], Any]] = {
    "Queue": lambda: Queue(2),
    "JoinableQueue": lambda: JoinableQueue(2),
    "SimpleQueue": SimpleQueue,
}


def test_random_kills() -> None:
    figures = soak_queues.soak(kills=42, seed=20, each=6)
    assert figures.kills == 42
    assert figures.got > 42


def _child(call: Callable[[], object], die_at: int, code: object) -> int:
    """Run a call in a forked process that is killed before line `die_at` of those it executes in `code`."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    lines = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != code:
            return None
        if event == "line":
            lines += 1
            if lines == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    call()
    os._exit(0)


LOG_FILE = sys.modules[MessageLog.__module__].__file__


@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("maxsize", [0, 1])
def test_a_writer_killed_before_any_line_of_put(maxsize: int, size: int) -> None:
    died = 0
    for line in range(1, 200):
        queue = Queue[bytes](maxsize)
        code = _child(lambda queue=queue: queue.put(b"a" * size), line, LOG_FILE)  # type: ignore[misc]
        there = queue.qsize()
        assert there == (not queue.empty())
        if there:
            assert wait_readable(queue.fileno(), 0), "who waits is not woken"
            assert queue.get(timeout=LONG) == b"a" * size
        queue.put(b"next", timeout=LONG)
        assert queue.get(timeout=LONG) == b"next"
        if code == 0:
            assert there
            break
        died += 1
    else:
        pytest.fail("put has no end")
    assert died > 10


@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_killed_before_any_line_of_get(kind: str, size: int) -> None:
    died = 0
    for line in range(1, 200):
        queue: Any = KINDS[kind]()
        queue.put(b"a" * size)
        queue.put(b"b" * size)
        code = _child(queue.get, line, LOG_FILE)
        if queue._log._room is not None and queue._log.maxsize > len(queue._log):
            assert wait_readable(queue._log._room.fileno(), 0), "who waits is not woken"
        taken = [queue.get(timeout=LONG)]
        if not queue.empty():
            taken.append(queue.get(timeout=LONG))
        assert taken in ([b"a" * size, b"b" * size], [b"b" * size])
        queue.put(b"next")
        assert queue.get(timeout=LONG) == b"next"
        if kind == "JoinableQueue":
            for _ in range(1 + len(taken)):
                queue.task_done()
            assert queue.join(LONG), "join waits for the dead"
        if code == 0:
            assert len(taken) == 1
            break
        died += 1
    else:
        pytest.fail("get has no end")
    assert died > 10


@pytest.mark.parametrize("look", [lambda queue: queue.get(timeout=0.2), lambda queue: wait([queue], 0.05)])
def test_a_reader_killed_between_the_word_and_the_bell_leaves_nobody_spinning(look: Any) -> None:
    queue = Queue[int]()
    queue.put(1)

    def die(bell: Bell) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def get_two() -> None:
        Bell.clear = die  # type: ignore[method-assign, assignment]
        queue.get()
        queue.get()

    assert _child(get_two, 0, None) == -signal.SIGKILL
    assert queue._log is not None
    assert wait_readable(queue._log.items.fileno(), 0), "it was not killed where it should be"
    with contextlib.suppress(Empty):
        assert look(queue) == []
    assert not wait_readable(queue._log.items.fileno(), 0)
    queue.put(2)
    assert wait_readable(queue.fileno(), 0)
    assert queue.get(timeout=LONG) == 2


def test_a_reader_killed_while_it_waits_wakes_the_others() -> None:
    """An item goes to a survivor, however many wait and die."""
    queue, answers = Queue[int](), Queue[int]()
    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=_forward, args=(queue, answers)) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        # One of them waits for the bell and the others for their turn: each is killed while it does.
        for number, reader in enumerate(readers[:3]):
            reader.kill()
            reader.join()
            queue.put(number)
            assert answers.get(timeout=LONG) == number
        queue.shutdown()
        readers[3].join(LONG)
        assert readers[3].exitcode == 0
    finally:
        for reader in readers:
            reader.kill()
            reader.join()
            reader.close()


def _forward(queue: Queue[int], answers: Queue[int]) -> None:
    for item in queue:
        answers.put(item)
