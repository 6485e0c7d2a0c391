"""The page: what was measured, as Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import catalogue, inside, outside, probing, tasks
from .contestants import ALL, OURS

#: What a contestant has no such thing for.
NOTHING = "no such thing"


@dataclass
class Row:
    """One figure, for each contestant that was asked: the values, or what happened instead of them."""

    name: str
    unit: str  # "ms", "%", "" for a plain number
    goal: float | None = None
    cells: dict[str, list[float] | str] = field(default_factory=dict)

    def add(self, contestant: str, answers: Sequence[dict[str, Any]], key: str = "value") -> None:
        """Take in the answers of a probe."""
        instead = [str(found["instead"]) for found in answers if "instead" in found]
        values = [float(found[key]) for found in answers if key in found]
        if instead:
            self.cells[contestant] = instead[0]
        elif len(values) < len(answers) or not values:
            self.cells[contestant] = f"hangs (> {probing.BOUND:g} s)"
        else:
            self.cells[contestant] = values

    def show(self, contestant: str) -> str:
        """The cell of one contestant."""
        cell = self.cells.get(contestant, NOTHING)
        return cell if isinstance(cell, str) else self.number(statistics.median(cell))

    def number(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "ms":
            milliseconds = value * 1000
            return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"
        return f"{value:.1f} %" if self.unit == "%" else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(rows: Sequence[Row]) -> str:
    """All contestants, by their medians."""
    names = [contestant.name for contestant in ALL]
    return _table(["", *names], [[row.name, *(row.show(name) for name in names)] for row in rows])


def goals(rows: Sequence[Row]) -> str:
    """Our own figures beside what they should be at most."""
    lines = []
    for row in rows:
        values = row.cells.get(OURS.name)
        if row.goal is None or values is None:
            continue
        if isinstance(values, str):
            lines.append([row.name, row.number(row.goal), values, "", "", "no"])
            continue
        median = statistics.median(values)
        reached = "yes" if median <= row.goal else "no"
        counted = [
            row.number(row.goal),
            row.number(median),
            row.number(max(values)),
            str(len(values)),
            reached,
        ]
        lines.append([row.name, *counted])
    return _table(["", "goal, at most", "median", "worst", "runs", "reached"], lines)


Verdicts = dict[tuple[str, str], dict[str, bool]]


def faults(verdicts: Verdicts) -> str:
    """The catalogue: what each contestant makes of each fault."""
    names = [contestant.name for contestant in ALL if any(name == contestant.name for _, name in verdicts)]
    rows, counts = [], dict.fromkeys(names, 0)
    for fault in catalogue.FAULTS:
        row = [fault.name]
        for name in names:
            found = verdicts.get((fault.name, name), {})
            answers = [found.get(question, False) for question in catalogue.QUESTIONS]
            counts[name] += all(answers)
            row.append(" ".join("yes" if answer else "no" for answer in answers))
        rows.append(row)
    total = [f"**all three, of {len(rows)}**", *(f"**{counts[name]}**" for name in names)]
    return _table(["fault", *names], [*rows, total])


def page(rows: Sequence[Row], verdicts: Verdicts, repeat: int) -> str:
    """All of it."""
    return f"""# What faults cost, measured

Written by `make faults`; nothing here is typed by hand. How each figure is taken is in `benchmarks/faults/`,
and what is promised in [guarantees.md](guarantees.md).

{_machine()}

Each figure is the median of {repeat} runs, each on a new pool. Each contestant runs in a program of its own.
What had not come after {probing.BOUND:g} s is said to hang. Where no start method is named it is fork; loky
has its own.

## The goals

{goals(rows)}
## With the others

{figures(rows)}
- **a death, to the error**: a worker notes the time and ends; its caller waits in `get` or `result`.
- **a death, to the next result**: a pool of one worker; a task is handed in as soon as the worker is dead.
  loky makes a new executor then, and what was in the old one is lost.
- **a timeout**: {inside.TASK_TIMEOUT:g} s for a task that sleeps. With SIGTERM ignored there are round trips
  on the other worker all the time until the error is there, and the slowest of them is shown.
- **Ctrl-C**: in a terminal, in the midst of a map call with two tasks. Lines: what is on the terminal then,
  beside `^C`.
- **parent killed**: until two workers and a process that each of them has started are gone.
- **wake-ups**: voluntary context switches of a program with {outside.IDLE_WORKERS} idle workers in
  {outside.IDLE_SECONDS:g} s, those of its helper processes included.
- **memory**: how far beyond a `memory_limit` of {inside.MEMORY_LIMIT // 1_000_000} MB a task was that grew by
  {tasks.GROWTH // 1_000_000} MB/s.

## One catalogue of faults

Each fault strikes a pool of two workers (fork; loky its own), while a neighbour is in the midst of its task.
Three questions: does the task end within {probing.BOUND:g} s in an error (or in its result, if it has one);
is the neighbour's result kept; does the pool do the next tasks?

{faults(verdicts)}"""


def _machine() -> str:
    names = {contestant.name: contestant.distribution for contestant in ALL}
    versions = [
        f"{name} {importlib.metadata.version(distribution)}"
        for name, distribution in names.items()
        if distribution
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    cpus = len(os.sched_getaffinity(0))
    return (
        f"{today}; {system} on {platform.machine()}, {_processor()}, {cpus} CPUs, {_memory_gib():.0f} GiB; "
        f"{platform.python_implementation()} {platform.python_version()}; {', '.join(versions)}; "
        f"load average at the end {os.getloadavg()[0]:.1f}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
