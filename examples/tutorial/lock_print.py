"""A lock that four processes share: one line at a time."""

from __future__ import annotations

import time

from parallelkit import Lock, Process


class MyProcess(Process[None]):
    """Prints `loop` lines, each with the lock in hand."""

    def __init__(self, loop: int, lock: Lock) -> None:
        Process.__init__(self)
        self.loop = loop
        self.lock = lock

    def run(self) -> None:
        """Print."""
        for count in range(self.loop):
            time.sleep(0.1)
            self.lock.acquire()
            print("Pid: " + str(self.pid) + " LoopCount: " + str(count))
            self.lock.release()


if __name__ == "__main__":
    lock = Lock()
    for i in range(1, 5):
        p = MyProcess(i, lock)
        p.start()
