"""The times that the tutorial gives, and those of this machine.

`--faster N` divides each sleep by N, and so the times that are to be expected.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import time
from collections.abc import Callable

from workers import worker_0, worker_1, worker_2, worker_3, worker_4

from parallelkit import Pool, Process

WORKERS = (worker_1, worker_2, worker_3, worker_4, worker_0)


def together(unit: float) -> None:
    """Two processes that sleep for 4 and 6 units: see process_together.py."""
    p1 = Process(target=worker_1, args=(4 * unit,))
    p2 = Process(target=worker_2, args=(6 * unit,))
    p1.start()
    p2.start()
    p1.join()
    p2.join()


def in_turn(unit: float) -> None:
    """The same, one after the other: see process_in_turn.py."""
    for worker, units in ((worker_1, 4), (worker_2, 6)):
        p = Process(target=worker, args=(units * unit,))
        p.start()
        p.join()


def daemon(unit: float) -> None:
    """Only the first of the two is waited for: see process_daemon.py."""
    p1 = Process(target=worker_1, args=(4 * unit,), daemon=True)
    p2 = Process(target=worker_2, args=(6 * unit,), daemon=True)
    p1.start()
    p2.start()
    p1.join()
    p2.terminate()


def assigned_run(unit: float) -> None:
    """A process whose `run` sleeps for 2 units: see process_run.py."""
    p: Process[None] = Process()
    p.run = functools.partial(time.sleep, 2 * unit)  # type: ignore[method-assign]
    p.start()
    p.join()


def pool(unit: float) -> None:
    """Five calls on four workers: see pool_apply_async.py."""
    workers = Pool(4)
    results = [workers.apply_async(func, (unit,)) for func in WORKERS]
    workers.close()
    for result in results:
        with contextlib.suppress(ZeroDivisionError):
            result.get()
    workers.join()


def no_pool(unit: float) -> None:
    """The same five calls without any other process."""
    for func in WORKERS:
        with contextlib.suppress(ZeroDivisionError):
            func(unit)


ROWS: tuple[tuple[str, str, Callable[[float], None]], ...] = (
    ("two processes together", "6.03 s", together),
    ("two processes in turn", "10.04 s", in_turn),
    ("two daemons, one joined", "4.02 s", daemon),
    ("an assigned run", "2.02 s", assigned_run),
    ("a pool of four workers", "2.14 s", pool),
    ("its five calls in turn", "-", no_pool),
)


def measure(function: Callable[[float], None], unit: float) -> float:
    """How long it takes, in seconds; what it and its processes print is dropped."""
    with open(os.devnull, "w") as nowhere:
        # The processes write to the descriptors and not to what `sys.stdout` is here.
        kept = os.dup(1), os.dup(2)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                start = time.monotonic()
                function(unit)
                return time.monotonic() - start
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faster", type=float, default=1.0, metavar="N", help="divide each sleep by N")
    unit = 1 / parser.parse_args().faster
    print(f"{'program':26}{'tutorial':>10}{'here':>10}")
    for name, tutorial, function in ROWS:
        took = f"{measure(function, unit):.2f} s"
        print(f"{name:26}{tutorial:>10}{took:>10}", flush=True)
