"""What a call needs that is awaited by an event loop, which may be blocked by nothing.

    the loop's thread               a courier's thread             whoever drives
    Errand()      ──begin──▶  Driver(...), driver.submit
    await done()                                               sink.deliver, sink.finish
    consumed(n)   ──────────▶ driver.consumed
    stop()        ──────────▶ driver.cancel or .terminate
                  ◀──call_soon_threadsafe─────────────────────── there is news; all is over

Rules:

1. The loop's thread never takes a driver's lock: under it objects are pickled and processes are started.
   It only hands functions to a courier.
2. A courier does one thing after the other. So what was begun is known when it is to be ended.
3. A loop may be closed while its work is under way. Nobody is told then, and the work ends all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import sys
import threading
import weakref
from collections.abc import AsyncIterable, Callable, Iterator
from typing import Any, Generic, TypeVar

from .driver import HURRY_SECONDS, Call, Driver, Sink
from .scheduler import Deliver
from .shielding import shielded, start_shielded, unshielded

T = TypeVar("T")

_log = logging.getLogger("parallelkit")

#: Who was cancelled waits so many seconds at most for the end of the work.
_LONGEST_END_SECONDS = 1.0
#: A courier that has nothing to do for so many seconds leaves: a thread's start would cost each call 0.1 ms.
_LINGER_SECONDS = 0.1


class Courier:
    """Does one after the other what may block, in a thread that is there while there is something to do.

    >>> courier = Courier()
    >>> courier.post(lambda: print("done by", threading.current_thread().name))
    >>> courier.close(wait=True)
    done by parallelkit-courier
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def post(self, job: Callable[[], object]) -> None:
        """Have `job` done. RuntimeError where no thread can be started."""
        if sys.is_finalizing():  # Python 3.11 would wait for it for ever
            raise RuntimeError("no thread can be started, as the interpreter is about to end")
        with shielded(), self._lock:
            if self._thread is None:
                self._thread = start_shielded(self._live, (), "parallelkit-courier")
            self._jobs.put(job)

    def close(self, *, wait: bool = False) -> None:
        """Leave when all that was posted is done."""
        with shielded(), self._lock:
            thread = self._thread
            if thread is not None:
                self._jobs.put(None)
        if wait and thread is not None:
            thread.join()

    def _live(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # who started it was struck
        while True:
            try:
                job = self._jobs.get(timeout=_LINGER_SECONDS)
            except queue.Empty:
                job = None
            if job is None:
                with self._lock:
                    if self._jobs.empty():
                        self._thread = None
                        return
                continue
            try:
                job()
            except BaseException:
                _log.exception("what a courier had to do failed")
            del job  # what it holds is not to wait for the next one


_couriers: weakref.WeakKeyDictionary[Driver, Courier] = weakref.WeakKeyDictionary()


def courier_of(driver: Driver) -> Courier:
    """The one for a driver that several calls share: they would wait for each other all the same."""
    return _couriers.setdefault(driver, Courier())


class Errand:
    """One call, as the loop sees it that awaits it. To be made in the loop's thread.

    `begin` is called by the courier, with the sink to hand in, and returns where the call is under way.
    `sink` takes the outcomes. With `owns_driver` the driver is ended behind the call.
    """

    def __init__(
        self,
        courier: Courier,
        begin: Callable[[Sink], tuple[Driver, Call]],
        sink: Sink,
        *,
        owns_driver: bool,
        feed: Feed[Any] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._courier = courier
        self._begin_call: Callable[[Sink], tuple[Driver, Call]] | None = begin
        self._sink = sink
        self._owns_driver = owns_driver
        self._feed = feed
        self._driver: Driver | None = None
        self._call: Call | None = None
        self._clean = False  # the call came to its end by itself, without an exception of its own
        self._stopped = False
        self._ended = False
        self._announced = False
        self._over = asyncio.Event()
        #: Set when there is news; for who takes results one by one.
        self.news: asyncio.Event = asyncio.Event()
        #: Why the call could not be begun or ended.
        self.error: BaseException | None = None
        courier.post(self._begin)

    # In the loop's thread

    @property
    def over(self) -> bool:
        """Whether nothing is left of the call."""
        return self._over.is_set()

    async def done(self) -> None:
        """Wait until all is over; a cancel ends the call, and is passed on when that has ended."""
        try:
            await self._over.wait()
            if self._feed is not None:
                await self._feed.ended()
        except asyncio.CancelledError:
            await self.end()
            raise
        except GeneratorExit:  # dropped, with a loop that was closed
            self.discard()
            raise
        if self.error is not None:
            raise self.error

    async def end(self) -> None:
        """End the call; return when it has ended, and after a second in any case."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_END_SECONDS):
                await self._over.wait()
                if self._feed is not None:
                    await self._feed.ended()

    def stop(self) -> None:
        """End the call; returns at once. Any thread may call this."""
        if not self._stopped and not self._over.is_set():
            self._stopped = True
            try:
                if self._feed is not None:
                    self._feed.close()
                self._post(self._stop)
            except BaseException:  # of a signal handler: who asks once more is heard
                self._stopped = False
                raise

    def discard(self) -> None:
        """End the call, as nobody has it any more: where the garbage collector asks, nothing may wait."""
        if not self._over.is_set() and not sys.is_finalizing():
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                threading.Thread(target=self.stop, name="parallelkit-discard", daemon=True).start()

    def consumed(self, count: int) -> None:
        """Results of a streaming call were taken."""
        self._post(lambda: self._consumed(count))

    # In the courier's thread

    def _begin(self) -> None:
        begin, self._begin_call = self._begin_call, None
        assert begin is not None
        if self._stopped:
            self._end()
            return
        try:
            with unshielded():
                self._driver, self._call = begin(_Ear(self))
            self._driver.hurry()
        except BaseException as error:
            self.error = error
            self._end()

    def _consumed(self, count: int) -> None:
        if self._driver is not None and self._call is not None and not self._ended:
            self._driver.consumed(self._call, count)

    def _stop(self) -> None:
        if self._owns_driver:
            self._end()
        elif self._driver is not None and self._call is not None:
            self._driver.cancel(self._call)  # `finish` comes when it has ended

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._feed is not None:
            self._feed.close()  # a thread that draws may wait for the next item
        driver = self._driver
        try:
            if driver is not None and self._owns_driver:
                if self._clean and not self._stopped:
                    driver.shut_down()
                else:
                    driver.terminate(grace=HURRY_SECONDS)
        except BaseException as error:
            self.error = self.error or error
        if self._owns_driver:
            self._courier.close()
        self._tell(self._set_over)

    # In whichever thread drives

    def deliver(self, outcomes: Deliver) -> None:
        """Take final outcomes."""
        self._sink.deliver(outcomes)
        if not self._announced:  # one word to the loop for all that comes until it hears it
            self._announced = True
            self._tell(self._announce)

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        self._clean = exception is None
        self._sink.finish(exception)
        if self._owns_driver:
            self._post(self._end)
        else:
            self._ended = True
            self._tell(self._set_over)

    # To the loop, and to the courier

    def _post(self, job: Callable[[], object]) -> None:
        try:
            self._courier.post(job)
        except RuntimeError as error:  # no thread can be started; at the interpreter's end, say
            self.error = self.error or error
            if self._driver is not None and self._owns_driver:
                self._driver.abandon()
            self._tell(self._set_over)

    def _tell(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(function)

    def _announce(self) -> None:
        self._announced = False  # first: what comes from now on is announced anew
        self.news.set()

    def _set_over(self) -> None:
        self._over.set()
        self.news.set()


class _Ear:
    """Hears the outcomes for an errand, and does not keep it, nor its loop, for the driver."""

    __slots__ = ("_errand",)

    def __init__(self, errand: Errand) -> None:
        self._errand = weakref.ref(errand)

    def deliver(self, outcomes: Deliver) -> None:
        """Take final outcomes."""
        errand = self._errand()
        if errand is not None:
            errand.deliver(outcomes)

    def finish(self, exception: BaseException | None) -> None:
        """There will be no more."""
        errand = self._errand()
        if errand is not None:
            errand.finish(exception)


class _Failed:
    """Stands in the line of items for what the iterable raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END: Any = object()


class Feed(Iterator[T], Generic[T]):
    """The items of an asynchronous iterable, for a thread to draw. To be made in the loop's thread.

    One task of the loop goes through the iterable, as it may hold an `asyncio.timeout` or a task group open
    from item to item. It takes an item when one is asked for, and not before.
    """

    def __init__(self, items: AsyncIterable[T]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __next__(self) -> T:
        self._loop.call_soon_threadsafe(self._ask, context=self._context)
        answer = self._answers.get()
        if answer is _END:
            raise StopIteration
        if type(answer) is _Failed:
            raise answer.error
        item: T = answer
        return item

    def close(self) -> None:
        """Bring no more; any thread may call this."""
        self._closed = True
        self._answers.put(_END)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._cancel)

    async def ended(self) -> None:
        """Wait until the iterable is left alone."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _ask(self) -> None:
        if self._closed:
            return
        if self._task is None:
            self._task = self._loop.create_task(self._bring(), name="parallelkit-feed")
        self._wanted.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _bring(self) -> None:
        try:
            async for item in self._items:
                self._wanted.clear()
                self._answers.put(item)
                await self._wanted.wait()
            self._answers.put(_END)
        except asyncio.CancelledError as error:
            if not self._closed:  # by the program: the input is at a fault, and not at its end
                self._answers.put(_Failed(error))
            raise
        except Exception as error:
            self._answers.put(_Failed(error))
        except BaseException as error:
            self._answers.put(_Failed(error))
            raise
