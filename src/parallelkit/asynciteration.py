"""Results one by one, for `async for`, while others are still being worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, Self, TypeVar

from .errands import Errand
from .iteration import NOTHING, InPlace, Reader, Stream, raise_for

R_co = TypeVar("R_co", covariant=True)

#: So many results at most are taken from what is there before the loop has its turn.
_RESULTS_A_TURN = 64


class AsyncResultIterator(AsyncIterator[R_co], Generic[R_co]):
    """An asynchronous iterator over results; made by `pool_imap`.

    It is an asynchronous context manager, which ends the work, and may be used by several tasks.
    """

    def __init__(self, stream: Stream, start: Callable[[Stream], Errand]) -> None:
        self._stream = stream
        self._start = start
        self._errand: Errand | None = None
        self._closed = False
        self._reader = Reader(stream)
        self._turn = 0  # results taken since the loop had its turn

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R_co:
        """The next result.

        Raises the exception of a failed item in its place, and StopAsyncIteration at the end or after
        `aclose`. A cancel of the task that waits here ends the work.
        """
        try:
            if self._turn >= _RESULTS_A_TURN:
                self._turn = 0
                await asyncio.sleep(0)
            while self._closed or (entry := self._reader.take()) is NOTHING:
                await self._wait()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        self._turn += 1
        if self._reader.should_tell:
            self._tell()
        if type(entry) is InPlace:
            await self.aclose()
            raise_for(entry.exception, f"item {entry.index}")
        result: R_co = entry
        return result

    async def _wait(self) -> None:
        """Wait until there may be a result; raises at the end."""
        if self._closed:
            raise StopAsyncIteration
        if self._errand is None:
            self._errand = self._start(self._stream)
        errand = self._errand
        self._turn = 0
        errand.news.clear()
        if self._stream.results:
            return
        if not errand.over:
            self._tell()
            await errand.news.wait()
            return
        error = errand.error or self._stream.exception
        await self.aclose()
        if error is None:
            raise StopAsyncIteration
        raise_for(error, "the call")

    def _tell(self) -> None:
        if self._errand is not None and (count := self._reader.untold):
            self._errand.consumed(count)
            self._reader.told(count)

    async def aclose(self) -> None:
        """End what is still under way, and wait until it has ended; there are no more results then."""
        self._closed = True
        self._reader.clear()
        self._stream.results.clear()
        if self._errand is not None:
            self._errand.news.set()  # for others who wait
            await self._errand.end()
            self._reader.clear()
            self._stream.results.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        errand: Errand | None = getattr(self, "_errand", None)
        if errand is not None:
            errand.discard()
