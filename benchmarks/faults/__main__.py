"""What is measured, for whom, and the goals: `python -m faults [--repeat N] [--only PART]`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import catalogue, outside, page, probing
from .contestants import ALL, METHODS, OURS, Contestant
from .page import Row

#: A contestant's repetition may take so long besides what is measured, in seconds.
_START_SECONDS = 10.0
#: So many idle pools are looked at at the same time.
_IDLE_AT_ONCE = 10
#: So many faults of the catalogue happen at the same time: nearly all of it is waiting.
_FAULTS_AT_ONCE = 3


def _pairs(contestants: tuple[Contestant, ...] = ALL) -> Iterator[tuple[Contestant, str]]:
    """Each contestant with its first start method."""
    for contestant in contestants:
        yield contestant, contestant.methods[0]


def _of_each(method: str, row: Row) -> Iterator[tuple[Contestant, str]]:
    """Each contestant with `method`; or with its own, where the table comes to fork."""
    for contestant in ALL:
        if method in contestant.methods:
            yield contestant, method
        elif method == "fork":
            yield contestant, contestant.methods[0]
        else:
            row.cells[contestant.name] = "see fork"


def _ask(contestant: Contestant, method: str, figure: str, repeat: int) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    while len(answers) < repeat and (not answers or "value" in answers[-1]):
        left = repeat - len(answers)
        bound = left * (probing.BOUND + _START_SECONDS)
        more = probing.ask("figure", contestant.name, method, figure, left, bound=bound)
        answers += more or [{"instead": f"hangs (> {bound:g} s)"}]
    return answers


def _deaths(repeat: int) -> Iterator[Row]:
    for how in ("SIGKILL", "os._exit"):
        row = Row(f"a death by {how}, to the error", "ms", 0.050)
        for contestant, method in _pairs():
            row.add(contestant.name, _ask(contestant, method, how, repeat))
        yield row
    for method in METHODS:
        goal = 0.100 if method == "fork" else None
        row = Row(f"a death, to the next result ({method})", "ms", goal)
        for contestant, own in _of_each(method, row):
            row.add(contestant.name, _ask(contestant, own, "replacement", repeat))
        yield row


def _timeouts(repeat: int) -> Iterator[Row]:
    able = tuple(contestant for contestant in ALL if contestant.has_task_timeout)
    row = Row("a timeout, to the error", "ms", 0.050)
    for contestant, method in _pairs(able):
        row.add(contestant.name, _ask(contestant, method, "timeout", repeat))
    yield row
    stubborn = Row("the same, SIGTERM ignored", "ms", 1.050)
    others = Row("slowest round trip of another task meanwhile", "ms", 0.050)
    for contestant, method in _pairs(able):
        answers = _ask(contestant, method, "stubborn", repeat)
        for row, key in ((stubborn, "seconds"), (others, "slowest")):
            row.add(contestant.name, [_part(found, key) for found in answers])
    yield from (stubborn, others)


def _part(found: dict[str, Any], key: str) -> dict[str, Any]:
    value = found.get("value")
    return {"value": value[key]} if isinstance(value, dict) else found


def _interrupts(repeat: int) -> Iterator[Row]:
    rows = {
        "value": Row("Ctrl-C, to the KeyboardInterrupt", "ms", 0.200),
        "ended": Row("Ctrl-C, to the program's end", "ms"),
        "lines": Row("lines on the terminal after Ctrl-C, at most", "", 0),
    }
    for contestant, method in _pairs():
        answers = _until_it_fails(functools.partial(outside.interrupt, contestant, method), repeat)
        for key, row in rows.items():
            row.add(contestant.name, answers, key)
        rows["lines"].cells[contestant.name] = [max(found["lines"] for found in answers)]
    yield from rows.values()


def _orphans(repeat: int) -> Iterator[Row]:
    for method in METHODS:
        for busy in (False, True):
            row = Row(f"parent killed, {'busy' if busy else 'idle'} ({method}), to all gone", "ms", 1.0)
            for contestant, own in _of_each(method, row):
                measure = functools.partial(outside.orphans, contestant, own, busy=busy)
                answers = _until_it_fails(measure, repeat)
                row.add(contestant.name, answers)
            yield row


def _until_it_fails(measure: Callable[[], dict[str, Any]], repeat: int) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    while len(answers) < repeat and (not answers or "value" in answers[-1]):
        answers.append(measure())
    return answers


def _wakeups(repeat: int) -> Iterator[Row]:
    row = Row(f"wake-ups of {outside.IDLE_WORKERS} idle workers in {outside.IDLE_SECONDS:g} s", "", 4)
    for contestant, method in _pairs():
        counts: list[float] = []
        while len(counts) < repeat:
            counts += outside.wakeups(contestant, method, min(_IDLE_AT_ONCE, repeat - len(counts)))
        row.cells[contestant.name] = counts
    yield row


def _memory(repeat: int) -> Iterator[Row]:
    for method in METHODS:
        row = Row(f"memory beyond the limit ({method})", "%", 20)
        row.add(OURS.name, _ask(OURS, method, f"memory {method}", repeat))
        yield row


_FIGURES: dict[str, Callable[[int], Iterator[Row]]] = {
    "death": _deaths,
    "timeout": _timeouts,
    "interrupt": _interrupts,
    "orphans": _orphans,
    "wakeups": _wakeups,
    "memory": _memory,
}


def _verdicts() -> page.Verdicts:
    def judge(case: tuple[int, Contestant, str]) -> tuple[tuple[str, str], dict[str, bool]]:
        number, contestant, method = case
        # Three waits, and what the pool takes to start.
        answers = probing.ask(
            "fault", contestant.name, method, number, bound=6 * probing.BOUND + _START_SECONDS
        )
        found = {
            question: bool(value)
            for answer in answers
            for question, value in answer.items()
            if question in catalogue.QUESTIONS
        }
        return (catalogue.FAULTS[number].name, contestant.name), found

    cases = [(number, *pair) for number in range(len(catalogue.FAULTS)) for pair in _pairs()]
    with ThreadPoolExecutor(_FAULTS_AT_ONCE) as threads:
        return dict(threads.map(judge, cases))


def main() -> None:
    """Measure, and print or write what has come out."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="runs a figure (20)")
    parser.add_argument("--only", choices=[*_FIGURES, "catalogue"], help="one part, printed")
    parser.add_argument("--write", type=Path, help="the page to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Programs that were started before find their byte code; no start here is to compile all again.
        if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
            os.environ["PYTHONPYCACHEPREFIX"] = folder
        _measure(given)


def _measure(given: argparse.Namespace) -> None:
    rows: list[Row] = []
    for name, measure in _FIGURES.items():
        if given.only in (None, name):
            for row in measure(given.repeat):
                print(page.figures([row]), file=sys.stderr, flush=True)
                rows.append(row)
    verdicts = _verdicts() if given.only in (None, "catalogue") else {}
    if given.only is not None:
        print(page.goals(rows) if rows else page.faults(verdicts))
        return
    text = page.page(rows, verdicts, given.repeat)
    if given.write is None:
        print(text)
    else:
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
