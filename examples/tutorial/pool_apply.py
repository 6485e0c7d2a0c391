"""The same five calls, each waited for before the next one: the pool is of no use then."""

from __future__ import annotations

import time

from workers import worker_0, worker_1, worker_2, worker_3, worker_4

from parallelkit import Pool

if __name__ == "__main__":
    function_list = [worker_1, worker_2, worker_3, worker_4, worker_0]
    a = time.time()
    pool = Pool(4)
    try:
        for func in function_list:
            pool.apply(func, (1,))  # raises what the function raised
    finally:
        pool.close()
        pool.join()
        b = time.time()
        print("finsh:", b - a)
