"""The calls for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from typing_extensions import assert_type

import parallelkit
from parallelkit import Outcome, ProcessPoolExecutor, aio
from parallelkit.options import MapOptions


def half(x: int) -> float:
    return x / 2


def label(number: int, text: str = "") -> bytes:
    return f"{number}{text}".encode()


async def numbers() -> AsyncIterator[int]:
    yield 1


async def pairs() -> AsyncIterator[tuple[int, str]]:
    yield 1, "a"


async def run(executor: ProcessPoolExecutor) -> None:
    assert_type(await aio.run(half, 1), float)
    assert_type(await aio.run(label, 1), bytes)
    assert_type(await aio.run(label, 1, "a", task_timeout=1, retries=1, retry_on=OSError), bytes)
    assert_type(await parallelkit.aio.run(half, 1, executor=executor), float)
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(aio.run(half, 1)).result(), float)


async def maps() -> None:
    given: MapOptions = {"max_workers": 2, "timeout": 3}
    assert_type(await aio.pool_map(half, [1, 2], **given), list[float])
    assert_type(await aio.pool_map(half, numbers(), errors="group"), list[float])
    assert_type(await aio.pool_map(half, [1], errors="return"), list[Outcome[float]])
    assert_type(await aio.pool_starmap(label, [(1, "a")]), list[bytes])
    assert_type(await aio.pool_starmap(label, pairs()), list[bytes])
    assert_type(await aio.pool_starmap(label, pairs(), errors="return"), list[Outcome[bytes]])
    untyped: dict[str, Any] = {"max_workers": 2}
    assert_type(await aio.pool_map(half, [1], errors="raise", **untyped), list[float])


async def imap() -> None:
    results = aio.pool_imap(half, numbers(), ordered=False, buffersize=3, start_method="spawn")
    assert_type(results, aio.AsyncResultIterator[float])
    assert_type(await anext(results), float)
    async for result in results:
        assert_type(result, float)
    async with aio.pool_imap(half, [1], errors="return") as outcomes:
        assert_type([outcome async for outcome in outcomes], list[Outcome[float]])
    await outcomes.aclose()
