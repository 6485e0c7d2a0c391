from __future__ import annotations

import array
import errno
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import reduction, resource_sharer
from multiprocessing.context import BaseContext
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import queue_tasks
from test_queues import Unpicklable, running

from parallelkit.connection import Connection, Pipe, peers, wait
from parallelkit.errors import CallTimeoutError, SerializationError
from parallelkit.queues import Queue

LONG = 20.0


@pytest.fixture
def context(start_method: str) -> BaseContext:
    return multiprocessing.get_context(start_method)


@pytest.fixture
def forked() -> BaseContext:
    return multiprocessing.get_context("fork")


# What travels


def test_objects_go_to_a_process_and_back(context: BaseContext) -> None:
    mine, theirs = Pipe()
    items: list[Any] = [
        1,
        "two",
        None,
        b"x" * 100_000,
        bytearray(b"y" * 50_000),
        np.arange(300_000),
        [np.ones(9)] * 3,
        b"",
    ]
    with mine, theirs, running(context, queue_tasks.echo, theirs):
        for item in items:
            if item is None:
                continue
            mine.send(item)
            came = mine.recv(timeout=LONG)
            assert type(came) is type(item)
            assert np.array_equal(came, item)
        mine.send(None)


def test_one_way() -> None:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        writer.send(1)
        assert reader.recv() == 1
        assert (reader.readable, reader.writable) == (True, False)
        assert (writer.readable, writer.writable) == (False, True)
        with pytest.raises(OSError, match="read-only"):
            reader.send(1)
        for call in (writer.recv, writer.recv_bytes, writer.poll):
            with pytest.raises(OSError, match="write-only"):
                call()


def test_a_pipe_is_a_pair() -> None:
    pipe = Pipe[int, str]()
    mine, theirs = pipe
    with mine, theirs:
        assert isinstance(pipe, tuple)
        mine.send(1)
        theirs.send("a")
        assert (theirs.recv(), mine.recv()) == (1, "a")
        shorter, _ = Pipe[int]()
        shorter.close()


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [((), b"abcdef"), ((2,), b"cdef"), ((2, 3), b"cde"), ((6,), b""), ((6, 0), b""), ((0, 6), b"abcdef")],
)
def test_bytes(arguments: tuple[int, ...], sent: bytes) -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        mine.send_bytes(b"abcdef", *arguments)
        assert theirs.poll()
        assert theirs.recv_bytes() == sent
        assert not theirs.poll()


@pytest.mark.parametrize("arguments", [(7,), (3, 4), (6, 1), (-1,), (3, -1)])
def test_a_part_of_a_buffer_that_is_not_there_is_refused(arguments: tuple[int, ...]) -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        with pytest.raises(ValueError, match=r"offset|size"):
            mine.send_bytes(b"abcdef", *arguments)
        assert not theirs.poll()


def test_bytes_into_a_buffer() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        buffer = array.array("i", [0] * 4)
        mine.send_bytes(array.array("i", [1, 2]))
        assert theirs.recv_bytes_into(buffer, 4) == 8
        assert list(buffer) == [0, 1, 2, 0]
        mine.send_bytes(b"too long for it")
        with pytest.raises(multiprocessing.BufferTooShort) as caught:
            theirs.recv_bytes_into(bytearray(3))
        assert caught.value.args == (b"too long for it",)
        for offset in (-1, 17):
            with pytest.raises(ValueError, match="offset"):
                theirs.recv_bytes_into(buffer, offset)
        mine.send_bytes(b"next")
        assert theirs.recv_bytes() == b"next"


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_message_longer_than_allowed(size: int) -> None:
    mine, theirs = Pipe()
    reader, writer = Pipe(duplex=False)
    with mine, theirs, reader, writer:
        with pytest.raises(ValueError, match="negative"):
            mine.recv_bytes(-1)
        mine.send_bytes(bytes(5))
        assert theirs.recv_bytes(5) == bytes(5)
        sender = threading.Thread(target=mine.send, args=(np.zeros(size, "b"),))
        sender.start()
        with pytest.raises(OSError, match="bad message length"):
            theirs.recv_bytes(9)
        assert not theirs.readable
        theirs.close()
        sender.join()
        writer.send_bytes(bytes(10))
        with pytest.raises(OSError, match="bad message length"):
            reader.recv_bytes(9)
        assert reader.closed


@hypothesis.given(st.lists(st.one_of(st.integers(), st.binary(max_size=300), st.text()), max_size=20))
@hypothesis.settings(max_examples=30)
def test_it_speaks_with_a_connection_of_multiprocessing(items: list[Any]) -> None:
    mine, theirs = Pipe()
    other: Any = multiprocessing.connection.Connection(os.dup(theirs.fileno()))
    with mine, theirs, other:
        for item in items:
            mine.send(item)
            assert other.recv() == item
            other.send(item)
            assert mine.recv() == item
        mine.send(items)
        assert pickle.loads(theirs.recv_bytes()) == items
        mine.send_bytes(pickle.dumps(items))
        assert theirs.recv() == items


def test_the_bytes_of_what_travelled_out_of_band() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        mine.send(np.arange(10_000))
        assert np.array_equal(pickle.loads(theirs.recv_bytes()), np.arange(10_000))
        mine.send(b"r" * 70_000)
        assert pickle.loads(theirs.recv_bytes()) == b"r" * 70_000


def test_what_cannot_be_pickled_does_no_damage() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        with pytest.raises(SerializationError, match="not today"):
            mine.send([np.zeros(10_000), Unpicklable()])
        assert not theirs.poll()
        mine.send(1)
        assert theirs.recv() == 1


# Times and halves


def test_a_timeout() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        for call in (
            mine.recv,
            mine.recv_bytes,
            lambda timeout: mine.recv_bytes_into(bytearray(1), timeout=timeout),
        ):
            for timeout in (0, 0.02, -1):
                with pytest.raises(CallTimeoutError):
                    call(timeout=timeout)
        with pytest.raises(multiprocessing.TimeoutError):
            mine.recv(timeout=0)
        for timeout in (0, 0.02, -1):
            assert not mine.poll(timeout)
        theirs.send(1)
        assert mine.poll(None)
        assert mine.recv(timeout=0) == 1


def _raw(connection: Connection[Any, Any]) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def _on_the_wire(obj: object) -> bytes:
    mine, theirs = Pipe()

    def send() -> None:
        with mine:
            mine.send(obj)

    with theirs, _raw(theirs) as raw:
        sender = threading.Thread(target=send)
        sender.start()
        wire = b"".join(iter(lambda: raw.recv(1 << 20), b""))
        sender.join()
    return wire


@pytest.mark.parametrize(
    "obj", [[1, 2, 3], "x" * 50_000, [np.arange(5_000), np.ones(20_000)], b"z" * 100_000]
)
def test_a_recv_keeps_its_time_in_the_middle_of_a_message_and_goes_on(obj: Any) -> None:
    wire = _on_the_wire(obj)
    cuts = sorted({1, 3, 4, 6, 9, 11, 20, len(wire) // 2, len(wire) - 1} & set(range(len(wire))))
    mine, theirs = Pipe()
    with mine, theirs, _raw(mine) as raw:
        for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            with pytest.raises(CallTimeoutError):
                theirs.recv(timeout=0.001)
            raw.sendall(wire[begin:end])
        came = theirs.recv(timeout=LONG)
        if isinstance(obj, list):
            assert all(np.array_equal(a, b) for a, b in zip(came, obj, strict=True))
        else:
            assert came == obj
        mine.send("next")
        assert theirs.recv() == "next"


def test_a_connection_is_not_handed_on_in_the_middle_of_a_message() -> None:
    mine, theirs = Pipe()
    with mine, theirs, _raw(mine) as raw:
        raw.sendall(_on_the_wire("x" * 100)[:50])
        with pytest.raises(CallTimeoutError):
            theirs.recv(timeout=0)
        with pytest.raises(ValueError, match="in the middle of a message"):
            reduction.ForkingPickler.dumps(theirs)


class Interruption(Exception):
    pass


def _interrupt(*_: object) -> None:
    raise Interruption


def test_a_send_that_is_interrupted_midway_is_completed_by_the_next() -> None:
    mine, theirs = Pipe()
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        with mine, theirs:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interruption) as caught:
                mine.send(np.ones(1_000_000))
            assert caught.value.__context__ is None
            sender = threading.Thread(target=mine.send, args=("next",))
            sender.start()
            assert theirs.recv(timeout=LONG).sum() == 1_000_000
            assert theirs.recv(timeout=LONG) == "next"
            sender.join()
    finally:
        signal.signal(signal.SIGALRM, before)


def _fill(connection: Connection[Any, Any]) -> int:
    """Send small messages until there is no room for one; how many there was room for."""
    numbers = itertools.count()
    with pytest.raises(CallTimeoutError) as caught:
        while True:
            connection.send(next(numbers), timeout=0.0)
    assert (caught.value.timeout, caught.value.begun, connection.unsent) == (0.0, False, 0)
    return next(numbers) - 1


def test_a_send_that_times_out_before_it_began_is_withdrawn() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        number = _fill(mine)
        assert number > 10
        for _ in range(3):
            with pytest.raises(CallTimeoutError):
                mine.send(np.ones(100_000), timeout=0.01)
            with pytest.raises(CallTimeoutError):
                mine.send_bytes(bytes(100), timeout=0.0)
        assert mine.unsent == 0
        assert [theirs.recv(timeout=LONG) for _ in range(number)] == list(range(number))
        assert not theirs.poll()
        mine.send("next", timeout=0.0)
        assert theirs.recv(timeout=LONG) == "next"


@pytest.mark.parametrize("last", ["send", "flush"])
def test_a_send_that_times_out_midway_is_completed_and_what_waited_behind_it_is_not(last: str) -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        large = np.ones(1_000_000)
        with pytest.raises(CallTimeoutError, match="do not send it again") as caught:
            mine.send(large, timeout=0.01)
        assert caught.value.begun
        assert 0 < mine.unsent < large.nbytes
        left = mine.unsent
        large[:] = 2.0  # what is left was copied
        for message in ("small", np.ones(50_000)):
            with pytest.raises(CallTimeoutError) as caught:
                mine.send(message, timeout=0.01)
            assert (caught.value.begun, mine.unsent) == (False, left)
        with pytest.raises(CallTimeoutError):
            mine.flush(timeout=0.01)
        finish = functools.partial(mine.send, "next", timeout=LONG) if last == "send" else mine.flush
        sender = threading.Thread(target=finish)
        sender.start()
        assert (theirs.recv(timeout=LONG) == np.ones(1_000_000)).all()
        sender.join()
        assert mine.unsent == 0
        if last == "flush":
            mine.send("next")
        assert theirs.recv(timeout=LONG) == "next"


def test_a_send_with_time_left_waits_for_room() -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        number = _fill(mine)
        reader = threading.Thread(target=lambda: [theirs.recv(timeout=LONG) for _ in range(number)])
        reader.start()
        mine.send("late", timeout=LONG)
        reader.join()
        assert theirs.recv(timeout=LONG) == "late"


@pytest.mark.parametrize("arrived", [0, 2, 50])
def test_what_interrupts_a_recv_is_not_caused_by_the_wait(arrived: int) -> None:
    mine, theirs = Pipe()
    before = signal.signal(signal.SIGALRM, _interrupt)
    wire = _on_the_wire("x" * 30_000)
    try:
        with mine, theirs, _raw(mine) as raw:
            raw.sendall(wire[:arrived])
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interruption) as caught:
                theirs.recv()
            assert caught.value.__context__ is None
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_recv_that_is_interrupted_loses_nothing() -> None:
    mine, theirs = Pipe()
    before = signal.signal(signal.SIGALRM, _interrupt)
    wire = _on_the_wire([1] * 50)
    try:
        with mine, theirs, _raw(mine) as raw:
            raw.sendall(wire[:40])
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interruption):
                theirs.recv()
            raw.sendall(wire[40:])
            assert theirs.recv(timeout=LONG) == [1] * 50
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_returns_does_not_disturb(forked: BaseContext) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    mine, theirs = Pipe()
    try:
        with mine, theirs, running(forked, queue_tasks.echo, theirs) as process:
            mine.send(1)
            assert mine.recv() == 1
            for i in range(50):
                os.kill(process.pid, signal.SIGUSR1)
                mine.send(np.full(100_000, i))
                os.kill(os.getpid(), signal.SIGUSR1)
                assert mine.recv(timeout=LONG)[0] == i
            mine.send(None)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_default_timeout_of_sockets_does_not_count() -> None:
    socket.setdefaulttimeout(0.05)
    try:
        mine, theirs = Pipe()
        with mine, theirs:
            threading.Timer(0.2, mine.send, [1]).start()
            assert theirs.recv() == 1
            assert os.get_blocking(mine.fileno())
    finally:
        socket.setdefaulttimeout(None)


# Ends


@pytest.mark.parametrize("duplex", [True, False])
def test_the_other_end_is_closed(duplex: bool) -> None:
    reader, writer = Pipe(duplex)
    with reader:
        writer.send("last")
        writer.close()
        assert reader.poll()
        assert reader.recv() == "last"
        assert reader.poll()
        for call in (reader.recv, reader.recv_bytes):
            with pytest.raises(EOFError):
                call()
    reader, writer = Pipe(duplex)
    with writer:
        reader.close()
        with pytest.raises(BrokenPipeError):
            writer.send("nobody")


def test_what_the_other_side_did_not_read_is_no_error_of_recv() -> None:
    mine, theirs = Pipe()
    with mine:
        mine.send("unread")
        theirs.send("last")
        theirs.close()
        assert mine.recv() == "last"
        with pytest.raises(EOFError):
            mine.recv()
        with pytest.raises(BrokenPipeError) as caught:
            mine.send("nobody")
        assert caught.value.errno == errno.EPIPE


def test_the_end_in_the_middle_of_a_message() -> None:
    mine, theirs = Pipe()
    with theirs:
        with mine, _raw(mine) as raw:
            raw.sendall(_on_the_wire("x" * 100)[:50])
        for _ in range(2):
            with pytest.raises(EOFError):
                theirs.recv()


def test_a_closed_connection() -> None:
    mine, theirs = Pipe()
    theirs.close()
    mine.close()
    mine.close()
    assert mine.closed
    for call in (
        mine.recv,
        mine.recv_bytes,
        mine.poll,
        mine.fileno,
        lambda: mine.send(1),
        lambda: mine.send_bytes(b""),
    ):
        with pytest.raises(OSError, match="closed"):
            call()


@pytest.mark.parametrize(
    ("arguments", "error"), [((-1,), ValueError), ((0, False, False), ValueError), (("a",), AttributeError)]
)
def test_wrong_handles(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        Connection(*arguments)


def test_a_handle_that_is_not_there() -> None:
    connection = Connection[Any, Any](44_977_608)
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.poll()
    connection._handle = None


# The death of the other side


def _end_of(receive: Callable[[], object]) -> float:
    began = time.monotonic()
    with pytest.raises(EOFError):
        receive()
    return time.monotonic() - began


def test_a_death_is_noticed_although_this_process_has_the_other_end(context: BaseContext) -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        with running(context, queue_tasks.echo, theirs) as process:
            mine.send(1)
            assert mine.recv(timeout=LONG) == 1
            process.kill()
            _end_of(lambda: mine.recv(timeout=LONG))
            assert mine.poll(LONG)
            assert wait([mine], LONG) == [mine]
        # The end can be given to the next process, which is not taken for dead before it has begun.
        with running(context, queue_tasks.echo, theirs):
            mine.send(2)
            assert mine.recv(timeout=LONG) == 2
            mine.send(None)


def test_a_sender_killed_at_any_moment_leaves_whole_messages_and_an_end(forked: BaseContext) -> None:
    chance = random.Random(5)
    received = 0
    for _ in range(25):
        mine, theirs = Pipe()
        with mine, theirs, running(forked, queue_tasks.send_numbered, theirs) as process:
            assert mine.recv(timeout=LONG)[0] == 0
            timer = threading.Timer(chance.uniform(0, 0.004), process.kill)
            timer.start()
            expected = 1
            with pytest.raises(EOFError):
                while True:
                    number, array_ = mine.recv(timeout=LONG)
                    assert number == expected
                    assert (array_ == number).all()
                    expected += 1
            timer.join()
            received += expected
    assert received > 25


def test_what_was_sent_before_the_death_arrives(forked: BaseContext) -> None:
    mine, theirs = Pipe()
    with mine, theirs:
        with running(forked, queue_tasks.send_and_die, theirs, "last"):
            pass
        assert mine.recv(timeout=LONG) == "last"
        _end_of(lambda: mine.recv(timeout=LONG))


def test_a_send_to_a_dead_process_that_would_wait_for_ever(forked: BaseContext) -> None:
    mine, theirs = Pipe()
    with mine, theirs, running(forked, queue_tasks.receive_one, theirs) as process:
        mine.send(1)
        timer = threading.Timer(0.1, process.kill)
        timer.start()
        with pytest.raises(BrokenPipeError) as caught:
            mine.send(np.ones(2_000_000))
        assert caught.value.errno == errno.EPIPE
        timer.join()


def test_a_wait_ends_with_a_death(forked: BaseContext) -> None:
    pipes = [Pipe() for _ in range(2)]
    (first, first_theirs), (second, second_theirs) = pipes
    run = running(forked, queue_tasks.receive_one, first_theirs)
    with first, first_theirs, second, second_theirs, run as process:
        first.send(1)
        timer = threading.Timer(0.1, process.kill)
        timer.start()
        assert wait([first, second], LONG) == [first]
        timer.join()
        second_theirs.send(1)
        assert wait([second], LONG) == [second]


def test_another_process_that_has_the_end_is_not_taken_for_dead(forked: BaseContext) -> None:
    """Several processes share one end, the first of them ends: the others may still send."""
    reader, writer = Pipe(duplex=False)
    idle, idle_theirs = Pipe()
    run = running(forked, queue_tasks.receive_one, idle_theirs)  # which inherits the writer
    with reader, writer, idle, idle_theirs, run as other:
        with running(forked, queue_tasks.send_and_die, writer, 1):
            pass
        assert reader.recv(timeout=LONG) == 1
        with pytest.raises(CallTimeoutError):
            reader.recv(timeout=0.3)
        other.kill()
        other.join()
        _end_of(lambda: reader.recv(timeout=LONG))


def test_an_end_that_this_process_uses_is_not_taken_for_dead(forked: BaseContext) -> None:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        with running(forked, queue_tasks.send_and_die, writer, 1):
            pass
        assert reader.recv(timeout=LONG) == 1
        writer.send(2)
        assert reader.recv(timeout=LONG) == 2
        with pytest.raises(CallTimeoutError):
            reader.recv(timeout=0.1)


@pytest.mark.parametrize("task", [queue_tasks.send_and_exit, queue_tasks.send_and_close])
def test_an_end_goes_from_one_short_lived_process_to_the_next(task: Any, context: BaseContext) -> None:
    """Between two of them nobody has used the end that is alive, and it is not the end."""
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        for item in range(2):
            with running(context, task, writer, item):
                assert reader.recv(timeout=LONG) == item
            with pytest.raises(CallTimeoutError):
                reader.recv(timeout=0.1)
            assert wait([reader], 0.1) == []


def test_an_end_is_noticed_once_the_last_user_fails(context: BaseContext) -> None:
    unseen = context.get_start_method() == "spawn" and sys.version_info >= (3, 13)  # as docs/queues.md says
    last = queue_tasks.send_and_die if unseen else queue_tasks.send_and_fail
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        for task in (queue_tasks.send_and_exit, last):
            with running(context, task, writer, 1):
                assert reader.recv(timeout=LONG) == 1
        _end_of(lambda: reader.recv(timeout=LONG))
        # Whoever is given the end now can still be heard.
        with running(context, queue_tasks.send_and_exit, writer, 2):
            assert reader.recv(timeout=LONG) == 2


def test_a_child_notices_that_its_parent_was_killed(forked: BaseContext) -> None:
    mine, theirs = Pipe()
    answers = Queue[Any]()
    arguments = (forked.Process, mine, theirs, answers)  # type: ignore[attr-defined]
    with running(forked, queue_tasks.start_and_hang, *arguments):
        mine.close()
        theirs.close()
        os.kill(answers.get(timeout=LONG), signal.SIGKILL)
        assert answers.get(timeout=LONG) == "end"


def test_without_proc_the_kernel_still_tells(forked: BaseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "make_pair", lambda *_: None)
    mine, theirs = Pipe()
    with mine, running(forked, queue_tasks.echo, theirs) as process:
        theirs.close()
        mine.send(1)
        assert mine.recv(timeout=LONG) == 1
        with pytest.raises(CallTimeoutError):
            mine.recv(timeout=0.05)
        process.kill()
        _end_of(lambda: mine.recv(timeout=LONG))


# Connections over connections, and waiting for many things


def test_a_connection_goes_over_a_connection(context: BaseContext) -> None:
    mine, theirs = Pipe()
    with mine, theirs, running(context, queue_tasks.send_over, theirs):
        reader, writer = Pipe(duplex=False)
        with reader:
            mine.send(writer)
            writer.close()
            assert reader.recv(timeout=LONG) == "carried"
            mine.send(None)
    resource_sharer.stop(timeout=LONG)


def test_descriptors_go_over_a_connection(forked: BaseContext) -> None:
    mine, theirs = Pipe()
    with mine, theirs, open(os.devnull) as file:
        reduction.send_handle(mine, file.fileno(), os.getpid())
        os.close(reduction.recv_handle(theirs))


def test_wait_for_all_sorts(forked: BaseContext) -> None:
    mine, theirs = Pipe()
    other, other_theirs = multiprocessing.Pipe()
    first, second = socket.socketpair()
    with mine, theirs, other, other_theirs, first, second, running(forked, os.getpid) as process:
        everything: list[Any] = [mine, other, first]
        assert wait(everything, 0) == []
        assert wait(everything, -1) == []
        assert wait(everything, 0.03) == []
        assert wait([process.sentinel, *everything], LONG) == [process.sentinel]
        theirs.send(1)
        other_theirs.send(1)
        second.send(b"1")
        assert set(wait(everything, LONG)) == set(everything)
        threading.Timer(0.1, other.send, [2]).start()
        assert wait([other_theirs, theirs]) == [other_theirs]


def test_threads_poll_one_connection() -> None:
    """Also where each of them is the first to use it."""
    for _ in range(300):
        mine, theirs = Pipe()
        with mine, theirs:
            found: list[bool] = []
            threads = [threading.Thread(target=lambda: found.append(mine.poll(LONG))) for _ in range(3)]  # noqa: B023
            for thread in threads:
                thread.start()
            theirs.send(1)
            for thread in threads:
                thread.join()
            assert found == [True] * 3


def test_the_format_of_a_message() -> None:
    assert _on_the_wire(1) == struct.pack("!i", 5) + pickle.dumps(1, 5)
    sent = _on_the_wire(b"b" * 40_000)
    assert sent[:17] == struct.pack("!iBIQ", -2, 2, 1, 40_000)
