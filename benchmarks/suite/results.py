"""A run, as its JSON tells it, and what may be said of it: ratios, and whether two runs may be compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

#: Where these differ, figures may not be compared: the memory in GiB, as kernels keep some for themselves.
FINGERPRINT = ("cpu", "cpus", "memory_bytes", "architecture", "system", "kernel", "python")
#: A contestant with none of these has a way of its own, and is compared with all.
START_METHODS = ("fork", "forkserver", "spawn")


class DifferentMachinesError(ValueError):
    """Runs of different machines, or of different Pythons or kernels, are not compared."""


class NotARunError(ValueError):
    """The file is not what `make bench` writes."""


@dataclass(frozen=True)
class Result:
    """What one contestant has come to at one workload.

    Not `compared`: its times say nothing. Not `paired`: rounds with the same number have nothing in common.
    """

    group: str
    workload: str
    title: str
    contestant: str
    kind: str
    method: str = ""
    note: str = ""
    seconds: tuple[float, ...] = ()
    extras: dict[str, list[float]] = field(default_factory=dict)
    scaled: int = 1
    ideal: float | None = None
    ideal_share: float | None = None
    items: int | None = None
    bytes: int | None = None
    warmups: int = 1
    compared: bool = True
    paired: bool = True
    instead: str | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def name(self) -> str:
        """The contestant with its start method."""
        return f"{self.contestant} ({self.method})" if self.method else self.contestant

    def over(self, other: Result) -> float:
        """How many times as long as the other it takes: the median of the ratios of rounds in turn."""
        if not self.paired:
            return self.median / other.median
        return statistics.median(mine / its for mine, its in zip(self.seconds, other.seconds, strict=False))


@dataclass(frozen=True)
class Run:
    """All results of one run of the suite, on one machine; or what `combined` makes of its `parts`."""

    machine: dict[str, Any]
    commit: dict[str, Any]
    date: str
    quick: bool
    results: Sequence[Result]
    parts: Sequence[Run] = ()

    def workloads(self) -> dict[tuple[str, str], list[Result]]:
        """The results of each workload, those with figures first, the fastest on top."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            found.setdefault((result.group, result.workload), []).append(result)
        return {
            key: sorted(results, key=lambda result: result.median if result.seconds else float("inf"))
            for key, results in found.items()
        }

    def find(self, group: str, workload: str, contestant: str, method: str) -> Result | None:
        """One of them, where it has figures."""
        for result in self._measured(group, workload):
            if (result.contestant, result.method) == (contestant, method):
                return result
        return None

    def methods_of(self, group: str, workload: str, contestant: str) -> list[str]:
        """The start methods with which it was measured."""
        return [
            result.method for result in self._measured(group, workload) if result.contestant == contestant
        ]

    def failed(self, group: str, workload: str, contestant: str, method: str) -> str | None:
        """What happened to it in place of figures; None where it has some, or was not asked."""
        wanted = (group, workload, contestant, method)
        for result in self.results:
            if (result.group, result.workload, result.contestant, result.method) == wanted:
                return result.instead
        return None

    def peers(self, of: Result) -> list[Result]:
        """The peers with the same start method, or with a way of their own, the fastest first."""
        comparable = [
            result
            for result in self._measured(of.group, of.workload)
            if result.kind == "peer" and _comparable(result.method, of.method)
        ]
        return sorted(comparable, key=lambda result: result.median)

    def best_peer(self, of: Result) -> Result | None:
        """The fastest of `peers`."""
        return next(iter(self.peers(of)), None)

    def limit(self, of: Result) -> Result | None:
        """What the machine itself needs for the same."""
        limits = (result for result in self._measured(of.group, of.workload) if result.kind == "limit")
        return next(limits, None)

    def ideals(self, of: Result) -> list[float]:
        """For each round the seconds below which it cannot be done; empty where that is not known.

        Where that is a share of what `serial` takes, of the same round: a slow minute hits both.
        """
        if of.ideal_share is None:
            return [] if of.ideal is None else [of.ideal] * len(of.seconds)
        serial = next((one for one in self._measured(of.group, of.workload) if one.kind == "serial"), None)
        return [] if serial is None else [of.ideal_share * seconds for seconds in serial.seconds]

    def above_ideal(self, of: Result) -> float | None:
        """By how many seconds it takes longer than it has to."""
        pairs = list(zip(of.seconds, self.ideals(of), strict=False))
        return statistics.median(mine - ideal for mine, ideal in pairs) if pairs else None

    def over_ideal(self, of: Result) -> float | None:
        """How many times as long as it has to it takes."""
        pairs = list(zip(of.seconds, self.ideals(of), strict=False))
        return statistics.median(mine / ideal for mine, ideal in pairs) if pairs else None

    def _measured(self, group: str, workload: str) -> list[Result]:
        return [
            result
            for result in self.results
            if (result.group, result.workload) == (group, workload) and result.seconds
        ]


def _comparable(peer: str, other: str) -> bool:
    return peer == other or peer not in START_METHODS or other not in START_METHODS


def read(path: Path) -> Run:
    """The run that a file holds; `NotARunError` where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        machine = content["machine_info"]
        missing = [key for key in FINGERPRINT if key not in machine]
        if missing:
            raise NotARunError(f"{path.name} does not tell of its machine: it lacks {', '.join(missing)}")
        results = [_result(entry) for entry in content["benchmarks"]]
        results += [Result(**failure) for failure in content["failures"]]
        return Run(machine, content["commit_info"], content["datetime"], content["quick"], results)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise NotARunError(f"{path.name} is not what `make bench` writes: {error!r}") from error


def _result(entry: dict[str, Any]) -> Result:
    seconds = tuple(entry["stats"]["data"])
    about = dict(entry["extra_info"])
    if "workload" in about:
        return Result(**about, seconds=seconds)
    # The primitives have tests of their own, which pytest-benchmark runs itself.
    parameters = entry["params"]
    contestant = parameters.get("kit") or parameters["library"]
    kind = "ours" if contestant == "parallelkit" else "peer"
    return Result(
        "primitives", entry["group"], entry["group"], contestant, kind, seconds=seconds, paired=False
    )


def combined(runs: Sequence[Run]) -> Run:
    """One run of several of one machine: a workload comes from the last of them that has it.

    Ratios are of results of one workload, so each of them is of one run still. `NotARunError` where the last
    one has not measured all that an earlier one has, or not the same versions.
    """
    same_machine(runs)
    if len(runs) == 1:
        return runs[0]
    last: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.machine["versions"] != runs[0].machine["versions"]:
            raise NotARunError("these runs are of different versions of the libraries: measure all with one")
        for key, results in run.workloads().items():
            before = {result.name for result in last[key].workloads()[key]} if key in last else set()
            missing = before - {result.name for result in results}
            if missing:
                raise NotARunError(
                    f"the later run of {', '.join(key)} lacks {', '.join(sorted(missing))}: "
                    "what is measured again is to be measured with all contestants"
                )
            last[key] = run
    parts = [
        replace(run, results=[result for result in run.results if last[result.group, result.workload] is run])
        for run in runs
    ]
    results = [result for part in parts for result in part.results]
    quick = any(part.quick for part in parts)
    return replace(runs[-1], results=results, quick=quick, parts=[part for part in parts if part.results])


def _rounded(machine: dict[str, Any], key: str) -> object:
    return round(machine[key] / (1 << 30)) if key == "memory_bytes" else machine[key]


def same_machine(runs: Iterable[Run]) -> None:
    """`DifferentMachinesError` where figures of these runs may not be compared."""
    first, *others = runs
    for other in others:
        different = [
            f"{key}: {first.machine[key]} and {other.machine[key]}"
            for key in FINGERPRINT
            if _rounded(first.machine, key) != _rounded(other.machine, key)
        ]
        if different:
            raise DifferentMachinesError(
                "these runs are of different machines, and figures of different machines are not compared: "
                + "; ".join(different)
                + ". Run both on one machine."
            )
