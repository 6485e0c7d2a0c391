"""What the map functions refuse. A checker must complain of each marked line, and of no other."""

from __future__ import annotations

import parallelkit
from parallelkit.options import MapOptions


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str) -> bytes:
    return f"{number}{text}".encode()


# items that the function does not take
parallelkit.pool_map(half, ["a"])  # error
parallelkit.pool_map(half, "abc")  # error
parallelkit.pool_map(half, 3)  # error
parallelkit.pool_map(half, [1, None], errors="return")  # error
parallelkit.pool_imap(half, iter("abc"))  # error
parallelkit.pool_map(label, [(1, "a")])  # error
parallelkit.pool_starmap(label, [("a", 1)])  # error
parallelkit.pool_starmap(label, [(1,)])  # error
parallelkit.pool_starmap(label, [(1, "a", 2)])  # error
parallelkit.pool_starmap(label, [(1,)], errors="return")  # error
parallelkit.pool_starmap(label, zip([1], [2]))  # error
parallelkit.pool_starmap(half, [1])  # error

# what is no function
parallelkit.pool_map(3, [1])  # error
parallelkit.pool_map(half)  # error

# options
parallelkit.pool_map(half, [1], errors="ignore")  # error
parallelkit.pool_map(half, [1], max_worker=2)  # error
parallelkit.pool_map(half, [1], max_workers="two")  # error
parallelkit.pool_map(half, [1], chunksize=2.5)  # error
parallelkit.pool_map(half, [1], timeout="1s")  # error
parallelkit.pool_map(half, [1], retries=None)  # error
parallelkit.pool_map(half, [1], retry_on=[OSError])  # error
parallelkit.pool_map(half, [1], retry_on=OSError("full"))  # error
parallelkit.pool_map(half, [1], progress=print)  # error
parallelkit.pool_map(half, [1], progress="tqdm")  # error
parallelkit.pool_map(half, [1], forward_logs="INFO")  # error
parallelkit.pool_map(half, [1], initializer="label")  # error
parallelkit.pool_map(half, [1], memory_limit=2.5)  # error
parallelkit.pool_map(half, [1], threads_per_worker="all")  # error
parallelkit.pool_map(half, [1], engine=object())  # error
parallelkit.pool_map(half, [1], ordered=False)  # error
parallelkit.pool_map(half, [1], buffersize=5)  # error
parallelkit.pool_imap(half, [1], buffersize="5")  # error
parallelkit.pool_map(half, [1], {"max_workers": 2})  # error
parallelkit.pool_map(fn=half, items=[1])  # error
misspelled: MapOptions = {"max_worker": 2}  # error
parallelkit.pool_map(half, [1], **{"max_workers": "two"})  # error

# results
ints: list[int] = parallelkit.pool_map(half, [1])  # error
floats: list[float] = parallelkit.pool_map(half, [1], errors="return")  # error
texts: list[str] = parallelkit.pool_starmap(label, [(1, "a")])  # error
at_once: list[float] = parallelkit.pool_imap(half, [1])  # error
number: int = next(parallelkit.pool_imap(half, [1]))  # error
