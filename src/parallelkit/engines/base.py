"""What an engine is: it starts workers, carries chunks to them and outcomes back, and kills.

An `Engine` is a description and holds nothing; `open` makes a `Crew`, the workers of one pool. The
driver calls a crew under its lock, but for `wait`, which it calls without, as that is where time passes.
A crew decides nothing: what it is told comes from the scheduler's commands, what it tells are the
scheduler's events.
"""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import RemoteError
from ..threadlimits import ThreadLimits
from .usage import Usage

if TYPE_CHECKING:
    from ..logs import Forwarding
    from ..scheduler import Chunk, Event


class Style(enum.IntEnum):
    """How a function is called with an item."""

    CALL = 0  # function(item)
    STAR = 1  # function(*item)
    APPLY = 2  # function(*item[0], **item[1])


def caller(function: Callable[..., Any], style: Style) -> Callable[[Any], Any]:
    """A callable of one item.

    >>> caller(pow, Style.STAR)((2, 3))
    8
    >>> caller(int, Style.APPLY)((("11",), {"base": 2}))
    3
    """
    if style is Style.STAR:
        return lambda item: function(*item)
    if style is Style.APPLY:
        return lambda item: function(*item[0], **item[1])
    return function


def tamed(error: BaseException) -> BaseException:
    """The exception; a RemoteError for one whose own methods raise where it is looked at.

    >>> tamed(KeyError("k"))
    KeyError('k')
    """
    cls = type(error)
    try:
        for name in ("__class__", "__traceback__", "__cause__", "__context__", "__suppress_context__"):
            getattr(error, name)
        f"{cls.__module__}.{cls.__qualname__}.{cls.__name__}"
        return error
    except BaseException:
        trace = vars(BaseException)["__traceback__"].__get__(error)
        return RemoteError(
            type_name=vars(type)["__qualname__"].__get__(cls),
            text="(it cannot be looked into: its own methods raise)",
            traceback="".join(traceback.format_tb(trace)),
        )


@dataclass(slots=True)
class Work:
    """The function of one call, and those of its items that are not done yet."""

    function: Callable[..., Any]
    style: Style
    sequence: Sequence[Any] | None = None
    drawn: dict[int, Any] = field(default_factory=dict)

    def items(self, start: int, stop: int) -> Sequence[Any]:
        """Items `start` to `stop` (exclusive); of a range a range, which is sent as its ends."""
        if self.sequence is not None:
            return self.sequence[start:stop]
        drawn = self.drawn
        return [drawn[index] for index in range(start, stop)]

    def item(self, index: int) -> Any:
        """One item."""
        return self.drawn[index] if self.sequence is None else self.sequence[index]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the workers of a pool are to be like.

    `start_method` is one of multiprocessing's names, or None where nobody chose; `threads` is for their
    numerical libraries; `function` is the one that will be run, where it is known before the workers start;
    `logs` is for an engine whose workers are processes, which give it their records.
    """

    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    start_method: str | None = None
    threads: ThreadLimits | None = None
    function: Callable[..., Any] | None = None
    logs: Forwarding | None = None
    name: str = "parallelkit"


class Crew(Protocol):
    """The workers of one pool."""

    def register(self, job: int, work: Work) -> None:
        """A call begins; its chunks come with `run`."""
        ...

    def forget(self, job: int) -> None:
        """A call is over."""
        ...

    def start(self, worker: int) -> None:
        """Begin to start a worker; it may be given chunks from now on."""
        ...

    def run(self, worker: int, chunk: Chunk) -> None:
        """Hand a chunk to a worker; never blocks."""
        ...

    def observe(self, worker: int) -> Event:
        """Tell where a worker is, as `Observed`."""
        ...

    def peek(self, worker: int) -> None:
        """Have `collect` tell what a worker has done and not sent yet."""
        ...

    def revoke(self, worker: int) -> Event:
        """Take back what a worker has not started, as far as it was handed to it until now: `Revoked`."""
        ...

    def measure(self, worker: int) -> Event:
        """Tell what memory a worker holds, as `Measured`."""
        ...

    def stop(self, worker: int) -> None:
        """Let a worker that holds nothing end by itself."""
        ...

    def kill(self, worker: int, *, force: bool) -> None:
        """End a worker and all that it started, politely or by force; never blocks."""
        ...

    def wait(self, timeout: float | None) -> Any:
        """Sleep until something happened, `wake` was called, or `timeout` seconds have passed.

        Called without the driver's lock and by one thread at a time.
        """
        ...

    def collect(self, happened: Any) -> list[Event]:
        """What happened, from what `wait` returned; and what the calls above noticed."""
        ...

    def usage(self) -> Usage:
        """What the workers have used until now, those that are gone included."""
        ...

    def wake(self) -> None:
        """End a `wait` in another thread."""
        ...

    def close(self) -> None:
        """Let go of everything; all workers have ended by now, or are ended at once.

        But for what `wait` sleeps on, in another thread perhaps. Where this raises, it is called once more: a
        signal handler's exception may have struck in its midst.
        """
        ...

    def release(self) -> None:
        """Close what `wait` sleeps on. Called after `close`, when no other thread is in `wait`."""
        ...


@runtime_checkable
class Engine(Protocol):
    """A way to run workers; `most_workers` is how many it can make use of, None: any number."""

    name: str
    most_workers: int | None

    def open(self, setup: Setup) -> Crew:
        """Make a crew that has no worker yet. Raises what is wrong with `setup`."""
        ...
