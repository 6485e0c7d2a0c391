"""Two processes side by side: both are started before either is waited for."""

from __future__ import annotations

import time

from workers import worker_1, worker_2

from parallelkit import Process

if __name__ == "__main__":
    a = time.time()
    p1 = Process(target=worker_1, args=(4,))
    p2 = Process(target=worker_2, args=(6,))
    p1.start()
    p2.start()
    p1.join()
    p2.join()
    b = time.time()
    print("finish", b - a)
