"""A queue: one process writes to it, another one reads from it."""

from __future__ import annotations

import random
import time

from parallelkit import Process, Queue


def write(q: Queue[str]) -> None:
    """Put three letters."""
    for value in ["A", "B", "C"]:
        print(f"Put {value} to queue...")
        q.put(value)
        time.sleep(random.random())


def read(q: Queue[str]) -> None:
    """Get what there is."""
    while True:
        if not q.empty():
            value = q.get(True)
            print(f"Get {value} from queue.")
            time.sleep(random.random())
        else:
            break


if __name__ == "__main__":
    q: Queue[str] = Queue()
    pw = Process(target=write, args=(q,))
    pr = Process(target=read, args=(q,))
    pw.start()
    pw.join()
    pr.start()
    pr.join()
    print("所有数据都写入并且读完")
