"""Five calls on a pool of four workers, none of them waited for. One of the five divides by zero."""

from __future__ import annotations

import time

from workers import worker_0, worker_1, worker_2, worker_3, worker_4

from parallelkit import Pool

if __name__ == "__main__":
    function_list = [worker_1, worker_2, worker_3, worker_4, worker_0]
    a = time.time()
    pool = Pool(4)
    for func in function_list:
        pool.apply_async(func, (1,))
    pool.close()
    try:
        pool.join()  # raises what nobody asked for
    finally:
        b = time.time()
        print("finsh:", b - a)
