"""Results as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from . import goals
from .results import START_METHODS, Result, Run

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def duration(seconds: float) -> str:
    """Seconds with three digits, in the unit that fits.

    >>> duration(0.01234), duration(20.5), duration(4e-8)
    ('12.3 ms', '20.5 s', '40.0 ns')
    """
    factor, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    value = seconds / factor
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown: the first column to the left, all others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(run: Run, results: Sequence[Result]) -> list[str]:
    """Those that at least one of the results has something for, besides the usual ones."""
    columns = []
    if any(run.ideals(result) for result in results):
        columns += ["over the ideal", "of the ideal"]
    if any(result.items for result in results):
        columns.append("per item")
    if any(result.bytes for result in results):
        columns.append("GB/s")
    return columns + sorted({name for result in results for name in result.extras})


def _cell(run: Run, result: Result, column: str) -> str:
    above, over = run.above_ideal(result), run.over_ideal(result)
    if column == "over the ideal" and above is not None:
        return f"{1000 * above:+,.1f} ms"
    if column == "of the ideal" and over is not None:
        return f"{over:.3f}x"
    if column == "per item" and result.items:
        return duration(result.median / result.items)
    if column == "GB/s" and result.bytes and result.kind != "serial":  # which moves nothing
        return f"{result.bytes / result.median / 1e9:.2f}"
    if column in result.extras:
        return f"{statistics.median(result.extras[column]):,.2f}".removesuffix(".00")
    return ""


def workload(run: Run, results: Sequence[Result]) -> str:
    """One workload, the fastest on top, what has no figures at the end."""
    columns = _columns(run, results)
    rows = []
    for result in results:
        name = f"**{result.contestant}**" if result.kind == "ours" else result.contestant
        if not result.seconds:
            rows.append([name, result.method, result.instead or "", *[""] * (3 + len(columns))])
            continue
        peer = run.best_peer(result)
        ratio = "" if peer is None or not result.compared else f"{result.over(peer):.2f}x"
        rounds = f"{len(result.seconds)}" + (f", of 1/{result.scaled}" if result.scaled > 1 else "")
        cells = [_cell(run, result, column) for column in columns]
        times = [duration(result.median), duration(min(result.seconds))]
        rows.append([name, result.method, *times, ratio, *cells, rounds])
    return table(["", "start method", "median", "min", "to the best peer", *columns, "rounds"], rows)


def reached(run: Run, *, only_measured: bool = False) -> str:
    """The goals, and whether they are met: with each start method."""
    rows: dict[tuple[goals.Goal, str], dict[str, str]] = {}
    for one in goals.judge(run):
        cells = rows.setdefault((one.goal, one.face), {})
        # What has no start method stands under the first.
        column = one.method or "fork"
        if one.value is None:
            cells[column] = f"{one.instead}: **no**" if one.instead else "not measured"
        else:
            against = f" ({one.against})" if one.against else ""
            cells[column] = f"{one.shown}{against}: {'yes' if one.met else '**no**'}"
    lines = [
        [goal.row, goal.wanted, face, cells.get("fork", ""), cells.get("forkserver", "")]
        for (goal, face), cells in rows.items()
        if not only_measured or set(cells.values()) != {"not measured"}
    ]
    return table(["", "goal", "of", "reached, fork", "reached, forkserver"], lines)


def glance(run: Run) -> list[tuple[Result, Result, float]]:
    """For each workload parallelkit's fastest and the fastest peer, and how many times as long ours takes.

    With fork, which all of them have that have a choice; or with the method that the workload is about.
    What has a deadline for each item besides, or is imported and not used, is not of the same kind.
    """
    found = []
    for results in run.workloads().values():
        first = next((one for one in results if one.seconds and _competes(one, results)), None)
        peer = None if first is None else run.best_peer(first)
        if first is not None and peer is not None and first.compared:
            found.append((first, peer, first.over(peer)))
    return found


def _competes(result: Result, results: Sequence[Result]) -> bool:
    methods = [one.method for one in results if one.kind == "ours" and one.method in START_METHODS]
    usual = result.method == "fork" or "fork" not in methods
    return usual and result.kind == "ours" and not result.contestant.endswith((goals.TIMED, goals.UNUSED))


def at_a_glance(run: Run) -> str:
    """`glance` as a table."""
    rows = [
        [
            f"{first.group}: {first.title}", first.contestant, duration(first.median),
            peer.contestant, duration(peer.median), f"{ratio:.2f}x",
        ]
        for first, peer, ratio in glance(run)
    ]  # fmt: skip
    return table(["", "parallelkit's fastest", "median", "best peer", "median", "ratio"], rows)


def comparison(before: Run, after: Run) -> str:
    """Two runs of one machine, and how the times changed; also what only one of them has."""
    rows = []
    later = {_place(result): result for result in after.results}
    for result in before.results:
        other = later.pop(_place(result), None)
        ratio = ""
        if result.seconds and other is not None and other.seconds:
            ratio = f"{other.median / result.median:.2f}x"
        rows.append([*_told(result), _time(result), _time(other), ratio])
    rows += [[*_told(result), _time(None), _time(result), ""] for result in later.values()]
    return table(["", "contestant", "before", "after", "ratio"], rows)


def _place(result: Result) -> tuple[str, ...]:
    return result.group, result.workload, result.contestant, result.method


def _told(result: Result) -> tuple[str, str]:
    return f"{result.group}: {result.title}", result.name


def _time(result: Result | None) -> str:
    if result is None:
        return "not measured"
    return duration(result.median) if result.seconds else result.instead or ""
