"""docs/benchmarks.md and its charts, made of the JSON of a run; nothing in them is typed by hand.

python benchmarks/report.py RUN.json --page docs/benchmarks.md    # the charts go into docs/benchmarks/
python benchmarks/report.py RUN.json                              # the goals, on the terminal
python benchmarks/report.py RUN.json PART.json --page ...         # what PART.json has is taken from there
python benchmarks/report.py --compare BEFORE.json AFTER.json      # two runs of one machine
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suite import charts, tables
from suite.results import DifferentMachinesError, NotARunError, Result, Run, combined, read, same_machine

_GROUPS = {
    "document": "The programs of the [tutorial](tutorial.md), and the same with work in place of sleep.",
    "dispatch": "Items that do nothing: what is left is the way there and back.",
    "round trip": "One call at a time, beside a message there and back on a raw socket.",
    "start": "Begin, and end.",
    "payload": "Large things, made anew for each round, beside one copy of the same bytes in memory. "
    "Workers read each page of an array that they get. `parallelkit.pool_map` with fork sends no items, as "
    "its workers inherit them, so it may take less than that copy.",
    "balance": "Skewed tasks, which sleep. The ideal is the longest task, or all of them over the workers.",
    "stream": "A long stream from a generator, and the memory that it takes.",
    "faults": "From the fault to the error.",
    "scale": "More workers, and more items.",
    "primitives": "Locks, queues and pipes beside multiprocessing's. These are not interleaved.",
}

_METHOD = """\
Each contestant runs in a program of its own, with {workers} workers where nothing else is said, written as
its own documentation says (`benchmarks/suite/peers.py`). Rounds take turns: one of each contestant, in an
order that changes, then the next of each, after one that does not count where nothing else is said; so a
minute in which the machine is slow hits all of them. The number of results is checked, and what they are, or
the last of them is. A pool that fails or hangs at its end has no figures either.

A ratio is the median of the ratios of rounds with the same number. The best peer is the one with the least
median among those with the same start method (joblib and loky have their own, and are compared with all);
for a goal it is the one beside which parallelkit comes off worst. A face that fails has not met its goal.
Where "rounds" says *of 1/20*, that contestant got a problem of a twentieth, as it would need too long for all
of it, and what it took is multiplied by twenty. "serial" is one process without a pool; a "limit" is what the
machine needs for the same without any library."""


def page(run: Run, charts_folder: str) -> str:
    """The page, as Markdown."""
    about_quick = "\n\n**A quick run**: few rounds, and not all workloads." if run.quick else ""
    parts = [
        "# Benchmarks\n",
        f"Written by `make bench` from its measurements; nothing here is typed by hand.{about_quick}\n",
        f"{_machine(run)}\n",
        "## How it is measured\n",
        f"{_METHOD.format(workers=run.machine['workers'])}\n",
        "## Goals\n",
        tables.reached(run),
        "## parallelkit's fastest face and the fastest peer\n",
        f"![Ratio of parallelkit's time to the best peer's, for each workload]({charts_folder}/glance.svg)\n",
        "With fork, or with the start method that the workload names; shorter than 1x is faster.\n",
        tables.at_a_glance(run),
    ]
    for group, workloads in _grouped(run).items():
        parts.append(f"## {group.capitalize()}\n")
        parts.append(f"{_GROUPS.get(group, '')}\n")
        parts.append(f"![{group}: the medians as bars]({charts_folder}/{_file(group)})\n")
        for results in workloads:
            parts.append(f"### {_capital(results[0].title)}\n")
            parts.append(tables.workload(run, results))
            notes = [
                results[0].note,
                "" if results[0].warmups else "Without a round before that does not count.",
            ]
            if any(notes):
                parts.append(f"{' '.join(filter(None, notes))}\n")
    return "\n".join(parts)


def _machine(run: Run) -> str:
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gibibytes = machine["memory_bytes"] / (1 << 30)
    hardware = f"{machine['cpu']}, {machine['cpus']} CPUs, {gibibytes:.0f} GiB, {machine['architecture']}"
    software = f"{machine['system']} {machine['kernel']}, {machine['python']}, {versions}"
    measured = "; ".join(_when(part) + _what(part, run) for part in run.parts or (run,))
    return f"{measured}; {hardware}; {software}."


def _when(run: Run) -> str:
    changed = ", changed since" if run.commit.get("dirty") else ""
    return f"{run.date[:10]}, commit {str(run.commit.get('id', 'unknown'))[:12]}{changed}"


def _what(part: Run, run: Run) -> str:
    """What was measured in one of several parts: groups, with workloads where it has not all of them."""
    if not run.parts:
        return ""
    whole = _grouped(run)
    told = [
        group
        if len(found) == len(whole[group])
        else f"{group}: {', '.join(one[0].workload for one in found)}"
        for group, found in _grouped(part).items()
    ]
    return f" ({'; '.join(told)})"


def _grouped(run: Run) -> dict[str, list[list[Result]]]:
    found: dict[str, list[list[Result]]] = {}
    for (group, _), results in run.workloads().items():
        found.setdefault(group, []).append(results)
    return {group: found[group] for group in sorted(found, key=_place)}


def _place(group: str) -> int:
    names = list(_GROUPS)
    return names.index(group) if group in names else len(names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _file(group: str) -> str:
    return f"{group.replace(' ', '-')}.svg"


def _panel(results: Sequence[Result]) -> charts.Panel:
    """The medians, without the other start methods where there is fork."""
    measured = [result for result in results if result.seconds]
    if any(result.method == "fork" for result in measured):
        measured = [result for result in measured if result.method not in ("forkserver", "spawn")]
    shown = [
        charts.Bar(one.contestant, one.median, tables.duration(one.median), one.kind) for one in measured
    ]
    return charts.Panel(_capital(results[0].title), shown)


def write(run: Run, path: Path) -> None:
    """Write the page, and the charts into a folder of its name beside it."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for group, workloads in _grouped(run).items():
        panels = [_panel(results) for results in workloads if results[0].compared]
        (folder / _file(group)).write_text(charts.bars(f"Benchmarks: {group}", panels), encoding="utf-8")
    ratios = [
        charts.Bar(
            f"{first.group}: {first.workload}", ratio, f"{ratio:.2f}x", "ours" if ratio <= 1 else "peer"
        )
        for first, _, ratio in tables.glance(run)
    ]
    glance = charts.Panel("parallelkit's time over the best peer's: to the left is faster", ratios)
    (folder / "glance.svg").write_text(charts.ratios("All workloads", glance), encoding="utf-8")
    path.write_text(page(run, folder.name), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, or compare; 2 where the files cannot be read or compared."""
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="*", metavar="RUN", help="the JSON of a run, and of its parts"
    )
    parser.add_argument("--page", type=Path, help="the page to write")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two runs of one machine"
    )
    given = parser.parse_args(arguments)
    if bool(given.runs) == (given.compare is not None):
        parser.error("give a run, or two to compare")
    try:
        if given.compare:
            before, after = map(read, given.compare)
            same_machine([before, after])
            print(tables.comparison(before, after))
            return 0
        run = combined(list(map(read, given.runs)))
    except (OSError, NotARunError, DifferentMachinesError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tables.reached(run, only_measured=True))
    if given.page is not None:
        write(run, given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
