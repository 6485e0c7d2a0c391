"""The programs of docs/tutorial.md: two processes together and in turn, and the pool of five."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import parallelkit

from .. import tasks
from ..contestants import FORK, SERIAL, WORKERS, Contestant, Open, each
from ..workloads import Figure, Round, Seat, Session, Workload

#: The document's seconds.
_SHORT, _LONG, _POOLED = 4, 6, 1
#: The same as units of work, which `tasks.spin` does.
_SHORT_UNITS, _LONG_UNITS, _POOLED_UNITS = 40, 60, 20
_FIVE = 5


def _no_runner(*_: object) -> Any:
    raise NotImplementedError("the document has programs of its own")


_OPEN: Open = _no_runner
_PAIR = (Contestant("multiprocessing", "peer", _OPEN), Contestant("parallelkit", "ours", _OPEN))
_KITS: dict[str, Any] = {"multiprocessing": multiprocessing, "parallelkit": parallelkit}


def work(seconds: float) -> None:
    """A worker of the document."""
    print("work")
    tasks.sleep(seconds)
    print("end of work")


def fail(seconds: float) -> None:
    """The one with the mistake in it."""
    work(seconds)
    _ = 0 / 0


def _together(kit: Any, target: Callable[[Any], object], short: float, long: float) -> None:
    processes = [kit.Process(target=target, args=(long_or_short,)) for long_or_short in (short, long)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _in_turn(kit: Any, target: Callable[[Any], object], short: float, long: float) -> None:
    for long_or_short in (short, long):
        process = kit.Process(target=target, args=(long_or_short,))
        process.start()
        process.join()
        assert process.exitcode == 0


def _pool(kit: Any, workers: int, functions: list[Callable[[Any], object]], argument: float) -> None:
    pool = kit.Pool(workers)
    for function in functions:
        pool.apply_async(function, (argument,))
    pool.close()
    with contextlib.suppress(ExceptionGroup):  # parallelkit tells of the mistake
        pool.join()


def _session(
    program: Callable[..., None], *arguments: Any, alone: Callable[[], object] | None = None
) -> Session:
    @contextlib.contextmanager
    def session(seat: Seat) -> Iterator[Round]:
        def once() -> Figure:
            if seat.contestant is SERIAL or seat.contestant.name == SERIAL.name:
                assert alone is not None
                return seat.timed(alone, lambda _: True)
            kit = _KITS[seat.contestant.name].get_context(seat.contestant.method)
            return seat.timed(lambda: program(kit, *arguments), lambda _: True)

        yield once

    return session


def _spin_both() -> None:
    tasks.spin(_SHORT_UNITS)
    tasks.spin(_LONG_UNITS)


def _spin_five() -> None:
    for _ in range(_FIVE):
        tasks.spin(_POOLED_UNITS)


_WITH_SERIAL = (*each((SERIAL,)), *each(_PAIR))
_SLEEPING: dict[str, Any] = {"contestants": each(_PAIR, FORK), "rounds": 2, "warmups": 0, "quick": False}
_WORKING: dict[str, Any] = {"contestants": _WITH_SERIAL, "rounds": 5, "quick_rounds": 2, "quick": True}
WORKLOADS = (
    Workload(
        "document", "together", "two processes that sleep 4 s and 6 s, together",
        session=_session(_together, work, _SHORT, _LONG), ideal=_LONG, **_SLEEPING,
    ),
    Workload(
        "document", "in turn", "the same, in turn",
        session=_session(_in_turn, work, _SHORT, _LONG), ideal=_SHORT + _LONG, **{**_SLEEPING, "rounds": 1},
    ),
    Workload(
        "document", "pool", "the pool of five that sleep 1 s, one of them with a mistake, on five workers",
        session=_session(_pool, _FIVE, [work] * (_FIVE - 1) + [fail], _POOLED), ideal=_POOLED, **_SLEEPING,
    ),
    Workload(
        "document", "together, working", "two processes that work, 2 parts and 3 parts, together",
        session=_session(_together, tasks.spin, _SHORT_UNITS, _LONG_UNITS, alone=_spin_both),
        ideal_share=_LONG_UNITS / (_SHORT_UNITS + _LONG_UNITS),
        note="The ideal is three fifths of what `serial` takes.", **_WORKING,
    ),
    Workload(
        "document", "in turn, working", "the same, in turn",
        session=_session(_in_turn, tasks.spin, _SHORT_UNITS, _LONG_UNITS, alone=_spin_both),
        ideal_share=1.0, note="The ideal is what `serial` takes.", **_WORKING,
    ),
    Workload(
        "document", "pool, working", f"five that work, on {WORKERS} workers",
        session=_session(_pool, WORKERS, [tasks.spin] * _FIVE, _POOLED_UNITS, alone=_spin_five),
        ideal_share=math.ceil(_FIVE / WORKERS) / _FIVE,
        note="The ideal is what the worker with the most of the five needs, by the time of `serial`.",
        **_WORKING,
    ),
)  # fmt: skip
