"""What the processes of the tests of queues and connections run."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import time
from multiprocessing import resource_sharer
from typing import Any

import numpy as np


def put_all(queue: Any, items: list[Any]) -> None:
    for item in items:
        queue.put(item)


def put_and_vanish(queue: Any, items: list[Any]) -> None:
    put_all(queue, items)
    os._exit(0)


def put_and_die(queue: Any, items: list[Any]) -> None:
    put_all(queue, items)
    os.kill(os.getpid(), signal.SIGKILL)


def take_and_return(pairs: list[tuple[Any, Any]], number: int) -> None:
    for there, back in pairs:
        for _ in range(number):
            back.put(there.get())


def collect(queue: Any, answers: Any) -> None:
    answers.put(list(queue))


def take_and_hold(queue: Any, answers: Any, number: int) -> None:
    """Take items, say so, and never say that they are done."""
    for _ in range(number):
        queue.get()
    answers.put("taken")
    time.sleep(600)


def take_and_do(queue: Any, number: int) -> None:
    for _ in range(number):
        queue.get()
        queue.task_done()


def do_without_taking(queue: Any, number: int) -> None:
    for _ in range(number):
        queue.task_done()


def report_end(call: str, queue: Any, answers: Any) -> None:
    """Wait in a call, and say what ended it."""
    answers.put("ready")
    try:
        getattr(queue, call)(*(("late",) if call == "put" else ()))
    except Exception as error:
        answers.put(type(error).__name__)


def echo(connection: Any) -> None:
    while (item := connection.recv()) is not None:
        connection.send(item)


def receive_one(connection: Any) -> None:
    connection.recv()
    time.sleep(600)


def send_and_exit(connection: Any, item: Any) -> None:
    connection.send(item)


def send_and_die(connection: Any, item: Any) -> None:
    connection.send(item)
    os.kill(os.getpid(), signal.SIGKILL)


def send_and_close(connection: Any, item: Any) -> None:
    """Close the connection oneself, and end without a word, which is no death then."""
    with connection:
        connection.send(item)
    os._exit(0)


def send_and_fail(connection: Any, item: Any) -> None:
    connection.send(item)
    sys.stderr = io.StringIO()
    raise ZeroDivisionError


def send_numbered(connection: Any) -> None:
    for number in itertools.count():
        connection.send((number, np.full(1 << 14, number)))


def send_over(carrier: Any) -> None:
    """Receive a connection over a connection, and use it."""
    carried = carrier.recv()
    carried.send("carried")
    carrier.recv()
    resource_sharer.stop(timeout=10)


def wait_for_end(connection: Any, answers: Any) -> None:
    """Say how waiting for a parent ends that will be killed."""
    connection.send("ready")
    try:
        connection.recv()
    except EOFError:
        answers.put("end")


def start_and_hang(process_class: Any, connection: Any, theirs: Any, answers: Any) -> None:
    """Start a child that waits for this process, and use the own end."""
    process_class(target=wait_for_end, args=(theirs, answers)).start()
    connection.recv()
    answers.put(os.getpid())
    time.sleep(600)
