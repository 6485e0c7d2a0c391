"""What `Pool` and `AsyncResult` refuse."""

from __future__ import annotations

from parallelkit import Pool


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str) -> bytes:
    return f"{number}{text}".encode()


def takes_text(text: str) -> None: ...


Pool("2")  # error
Pool(max_workers=2)  # error
Pool(2, initializer=label, initargs=("a", 1))  # error
Pool(2, label, (1,))  # error
Pool(errors="return")  # error
Pool(context="spawn")  # error
Pool(threads_per_worker="all")  # error

pool = Pool(2)

# arguments
pool.apply(label, ("a", 1))  # error
pool.apply(label, (1,))  # error
pool.apply(half, 1)  # error
pool.apply_async(label, (1, "a", 2))  # error
pool.apply_async(half, (1,), {"x"})  # error
pool.submit(label, "a", 1)  # error
pool.submit(half, (1,))  # error
pool.map(half, ["a"])  # error
pool.map(half, [None], errors="return")  # error
pool.starmap(label, [("a", 1)])  # error
pool.map_async(half, ["a"])  # error
pool.starmap_async(label, [(1,)])  # error
pool.imap(half, "a")  # error
pool.imap_unordered(half, "a")  # error

# options
pool.map(half, [1], errors="ignore")  # error
pool.map(half, [1], max_workers=2)  # error
pool.apply(half, (1,), errors="return")  # error
pool.apply_async(half, (1,), task_timeout="1")  # error
pool.imap(half, [1], buffer_size=3)  # error
pool.map_async(half, [1], callback=3)  # error
pool.apply_async(half, (1,), callback=takes_text)  # error
pool.map_async(half, [1], callback=takes_text)  # error

# results
number: int = pool.apply(half, (1,))  # error
bare: float = pool.apply_async(half, (1,))  # error
later: int = pool.apply_async(half, (1,)).get()  # error
several: list[int] = pool.map(half, [1])  # error
unseen: list[float] = pool.map(half, [1], errors="return")  # error
