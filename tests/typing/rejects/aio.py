"""What the calls for an event loop refuse."""

from __future__ import annotations

import concurrent.futures

from parallelkit import aio


def half(x: int) -> float:
    return x / 2


async def run() -> None:
    await aio.run(half)  # error
    await aio.run(half, "a")  # error
    await aio.run(half, 1, timeout=1)  # error
    await aio.run(half, 1, executor=concurrent.futures.ThreadPoolExecutor())  # error
    number: int = await aio.run(half, 1)  # error
    bare: float = aio.run(half, 1)  # error


async def maps() -> None:
    await aio.pool_map(half, 1)  # error
    await aio.pool_map(half, ["a"])  # error
    await aio.pool_map(half, [1], chunk_size=1)  # error
    await aio.pool_starmap(half, [("a",)])  # error
    for result in aio.pool_imap(half, [1]):  # error
        pass
    numbers: list[int] = await aio.pool_map(half, [1])  # error
