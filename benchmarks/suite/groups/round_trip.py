"""One call at a time on warm workers, beside a raw ping-pong."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from ..contestants import JOBLIB, OURS_WARM, PEERS, each, limit, slow
from ..workloads import Figure, Round, Seat, Workload

_CALLS = 400
#: As long as a small call is, pickled.
_MESSAGE = bytes(64)


@contextlib.contextmanager
def _session(seat: Seat) -> Iterator[Round]:
    calls = seat.size(_CALLS)
    with contextlib.ExitStack() as opened:
        if seat.contestant.kind == "limit":
            call: Callable[[], object] = opened.enter_context(_ping_pong())
        else:
            runner = opened.enter_context(seat.warm())

            def call() -> object:
                return runner.call(abs, -1)

        right = call()

        def many() -> int:
            return sum(call() == right for _ in range(calls))

        def once() -> Figure:
            call()
            return Figure(seat.timed(many, lambda count: count == calls).seconds / _CALLS)

        yield once


@contextlib.contextmanager
def _ping_pong() -> Iterator[Callable[[], object]]:
    """A process that sends back what it is sent."""
    mine, other = socket.socketpair()
    with mine, other:
        child = os.fork()
        if not child:
            mine.close()
            while message := other.recv(len(_MESSAGE)):
                other.send(message)
            os._exit(0)
        other.close()

        def there_and_back() -> None:
            mine.send(_MESSAGE)
            mine.recv(len(_MESSAGE))

        yield there_and_back
        mine.close()
        os.waitpid(child, 0)


WORKLOADS = (
    Workload(
        "round trip", "call", "one call on a warm pool",
        slow((*each((*PEERS, *OURS_WARM)), limit("socketpair ping-pong")), 8, JOBLIB.name),
        _session, rounds=9, quick_rounds=5, note=f"The mean of {_CALLS} calls of `abs`, one after the other.",
    ),
)  # fmt: skip
