"""The owner of pools, to be struck; run as a program by test_who.py and test_stops.py.

    python -m faults.owner_program MODE METHOD FOLDER

busy: keep every face busy, the main thread in `pool_map`. SIGUSR1 calls os._exit(7), SIGUSR2 sys.exit(3), and
the end of its input ends it as any program ends. pools: the same without an executor, whose work the end of
the program waits for, as in the standard library. once: to be interrupted once in each face, in turn.
twice: twice, with workers that SIGTERM does not end.
"""

from __future__ import annotations

import faulthandler
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import tasks

import parallelkit
from faults import who_tasks


def busy(method: str, folder: str, *, executor: bool) -> None:
    work = functools.partial(who_tasks.leave_family, folder)
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(3))
    pool = parallelkit.Pool(3, start_method=method)
    held: list[Any] = [
        pool.map_async(work, ["map"]),
        pool.imap_unordered(work, ["imap"]),
        pool.apply_async(work, ("apply",)),
        parallelkit.pool_imap(work, ["pool_imap"], start_method=method),
    ]
    held[-1].start()
    if executor:
        held.append(parallelkit.ProcessPoolExecutor(1, multiprocessing.get_context(method)))
        held.append(held[-1].submit(work, "submit"))
    idle = parallelkit.Pool(1, start_method=method)
    idle.apply(tasks.square, (2,))
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        parallelkit.pool_map(work, ["pool_map"], start_method=method)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


def _end_with_input() -> None:
    os.read(0, 1)  # not by `sys.stdin`, whose lock a fork would inherit as taken
    os.kill(os.getpid(), signal.SIGINT)


def _with_pool(method: str, call: Callable[[parallelkit.Pool], object]) -> None:
    with parallelkit.Pool(2, start_method=method) as pool:
        call(pool)


def _with_executor(method: str, work: Any, items: list[str]) -> None:
    with parallelkit.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as executor:
        executor.submit(work, *items).result()


def interrupted(method: str, folder: str, *, times: int) -> None:
    caught = 0

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught += 1
        print("caught", flush=True)
        raise KeyboardInterrupt

    if times > 1:
        signal.signal(signal.SIGINT, interrupt)
    work = functools.partial(who_tasks.leave_family, folder, stubborn=times > 1)
    faces: dict[str, Callable[[list[str]], object]] = {
        "pool_map": lambda items: parallelkit.pool_map(work, items, start_method=method),
        "pool_imap": lambda items: list(parallelkit.pool_imap(work, items, start_method=method)),
        "map": lambda items: _with_pool(method, lambda pool: pool.map(work, items)),
        "imap": lambda items: _with_pool(method, lambda pool: list(pool.imap_unordered(work, items))),
        "apply": lambda items: _with_pool(method, lambda pool: pool.apply_async(work, items).get()),
        "submit": lambda items: _with_executor(method, work, items),
    }
    for name, face in faces.items():
        caught = 0
        print(name, flush=True)
        try:
            try:
                face([name])
                print("not interrupted", flush=True)
            except KeyboardInterrupt:
                pass
            while times > 1 and caught < times:  # the second comes after the end of the call, perhaps
                time.sleep(0.01)
        except KeyboardInterrupt:  # here, or in the clause above
            pass
        print("interrupted", flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    what, *rest = sys.argv[1:]
    if what in ("busy", "pools"):
        busy(*rest, executor=what == "busy")
    else:
        interrupted(*rest, times=1 if what == "once" else 2)
