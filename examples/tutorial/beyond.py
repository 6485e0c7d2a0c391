"""What the classes of the tutorial do here and not in multiprocessing, one function for each."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

from parallelkit import Connection, Lock, Pipe, Pool, Process, Queue, SerializationError, TaskTimeoutError


def divide(a: int, b: int) -> float:
    """A quotient, or an error."""
    return a / b


def results() -> None:
    """What the target returns is the process's result; what it raises is raised here."""
    with Process(target=divide, args=(1, 4)) as p:
        print("one quarter:", p.result())
    p = Process(target=divide, args=(1, 0))
    p.start()
    print("one by nothing:", repr(p.exception()))


def start_a_sleeper(conn: Connection[int, None]) -> None:
    """A process that starts another one, which sleeps for an hour."""
    sleeper = Process(target=time.sleep, args=(3600,))
    sleeper.start()
    conn.send(sleeper.pid or 0)
    sleeper.join()


def trees() -> None:
    """`terminate` ends what the process has started, too."""
    here, there = Pipe[None, int]()
    p = Process(target=start_a_sleeper, args=(there,))
    p.start()
    grandchild = here.recv(timeout=60)
    p.terminate(grace=1.0)
    print("the child ended with", p.exitcode)
    try:
        alive = psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        alive = False
    print("is the grandchild alive:", alive)


def die_with(lock: Lock) -> None:
    """Take the lock and be killed."""
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def locks() -> None:
    """A lock whose holder was killed can be taken, and says so."""
    lock = Lock()
    p = Process(target=die_with, args=(lock,))
    p.start()
    p.join()
    with lock:
        print("abandoned:", lock.abandoned)


def count(q: Queue[int]) -> None:
    """Put three numbers, and say that there are no more."""
    for number in range(3):
        q.put(number)
    q.shutdown()


def queues() -> None:
    """A queue can be iterated until it is shut down, and refuses at once what cannot be sent."""
    q: Queue[int] = Queue()
    with Process(target=count, args=(q,)):
        for number in q:
            print("got", number)
    try:
        Queue[object]().put(threading.Lock())
    except SerializationError as error:
        print(error)


def pipes() -> None:
    """A `recv` can be given a limit."""
    here, there = Pipe[str, str]()
    try:
        here.recv(timeout=0.1)
    except TimeoutError:
        print("nothing came")
    there.send("late")
    print(here.recv())


def pools() -> None:
    """A task can be given a limit, and one that is stuck costs the others nothing."""
    with Pool(2, task_timeout=0.5) as pool:
        tasks = [pool.apply_async(time.sleep, (seconds,)) for seconds in (0, 3600, 0)]
        for task in tasks:
            try:
                print("slept:", task.get())
            except TaskTimeoutError as error:
                print(error)


if __name__ == "__main__":
    for show in (results, trees, locks, queues, pipes, pools):
        show()
