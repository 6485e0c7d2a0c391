"""From a death, a deadline and a Ctrl-C to the error: the probes of benchmarks/faults, one a round."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import faults.contestants
from faults import outside, probing

from ..contestants import FUTURES, LOKY, MPIRE, PEBBLE, POOL, Contestant, Open, each
from ..workloads import Figure, Instead, Round, Seat, Session, Workload

#: As the probes call those who are measured.
_NAMES = {
    "parallelkit.Pool": "parallelkit",
    POOL.name: "mp.Pool",
    FUTURES.name: "ProcessPoolExecutor",
    LOKY.name: "loky",
    MPIRE.name: "mpire",
    PEBBLE.name: "Pebble",
}
#: A probe's program may take so many seconds besides what it measures.
_START_SECONDS = 10.0


def _figure(figure: str) -> Session:
    @contextlib.contextmanager
    def session(seat: Seat) -> Iterator[Round]:
        name, method = _NAMES[seat.contestant.name], seat.contestant.method

        def once() -> Figure:
            if figure == "interrupt":
                answers = [outside.interrupt(faults.contestants.named(name), method)]
            else:
                bound = probing.BOUND + _START_SECONDS
                answers = probing.ask("figure", name, method, figure, 1, bound=bound)
            answer: dict[str, Any] = answers[0] if answers else {}
            if "value" not in answer:
                raise Instead(answer.get("instead", f"hangs (> {probing.BOUND:g} s)"))
            return Figure(answer["value"], _beside(answer))

        yield once

    return session


def _beside(answer: dict[str, Any]) -> dict[str, float]:
    """What else there is to say of a Ctrl-C."""
    if "left" not in answer:
        return {}
    ended = answer.get("ended", probing.BOUND)
    return {"to the program's end, ms": 1000 * ended, "processes left then": answer["left"]}


def _no_runner(*_: object) -> Any:
    raise NotImplementedError("the probes open their own")


_OPEN: Open = _no_runner
_OURS = Contestant("parallelkit.Pool", "ours", _OPEN)
_ALL = each((*(replace(peer, open=_OPEN) for peer in (POOL, FUTURES, LOKY, MPIRE, PEBBLE)), _OURS))


def _workload(name: str, title: str, figure: str, *names: str) -> Workload:
    contestants = [contestant for contestant in _ALL if not names or contestant.name in (*names, _OURS.name)]
    return Workload(
        "faults", name, title, contestants, _figure(figure), rounds=3, quick_rounds=1, warmups=0,
        note="docs/faults.md has more of these, each from more runs. joblib's workers are loky's.",
    )  # fmt: skip


WORKLOADS = (
    _workload("death", "from a worker's SIGKILL to the error", "SIGKILL"),
    _workload("deadline", "from a task's deadline to the error", "timeout", MPIRE.name, PEBBLE.name),
    _workload("Ctrl-C", "from Ctrl-C to the KeyboardInterrupt", "interrupt"),
)
