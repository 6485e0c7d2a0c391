"""Names, and what becomes of a daemonic process: it ends with its parent, in the midst of its work."""

from __future__ import annotations

import time

from workers import worker_1, worker_2

from parallelkit import Process

if __name__ == "__main__":
    a = time.time()
    p1 = Process(target=worker_1, args=(4,))
    p2 = Process(target=worker_2, args=(6,))
    p1.daemon = True
    p2.daemon = True
    p1.start()
    p2.start()
    p1.join()
    print("进程1:", p1, "\n", "进程2:", p2)
    print("进程1:", p1.is_alive(), "\n", "进程2:", p2.is_alive())
    b = time.time()
    print("finish", b - a)
