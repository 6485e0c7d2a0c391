"""A process without a target: it does what its `run` is, here a function that was assigned to it."""

from __future__ import annotations

import time

from parallelkit import Process


def fun1() -> None:
    """Say when it begins and when it ends, two seconds later."""
    print("this is fun1", time.ctime())
    time.sleep(2)
    print("fun1 finish", time.ctime())


if __name__ == "__main__":
    a = time.time()
    p: Process[None] = Process()
    p.run = fun1  # type: ignore[method-assign]
    p.start()
    p.join()
    b = time.time()
    print("finish", b - a)
