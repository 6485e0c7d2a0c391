"""What does not pass, from expected.toml, and docs/conformance.md, which is made from it."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "conformance.md"
FIGURES = HERE / "figures.json"

_HEAD = """\
# Conformance

CPython's own tests of multiprocessing are run against parallelkit's classes: from
`test._test_multiprocessing` of the interpreter that runs them, with `Process`, `Pool`, `Queue` and the rest
replaced, and with each start method. So are those of `concurrent.futures.ProcessPoolExecutor`, from
`test.test_concurrent_futures`. The test suite does it with the first start method, CI with all of them, and
`make conformance` writes this page.

The test classes for what this library has of its own are {own}.

Others test what is multiprocessing's own and is used together with these classes, or the interpreter:
{others}.

Of those that CPython runs with processes, managers and threads, the tests for processes are run. Three things
are arranged: a program that a test runs in an interpreter of its own imports `parallelkit`; where a test
looks at the private semaphores of a `Condition`, it finds the counts that ours has; and there is no
cloudpickle, so that what multiprocessing cannot pickle cannot be pickled here.

The classes for the executor are {executor}.

Of the executor's tests those for processes are run, and those of the `Future`, which is ours. A program of
a test imports `parallelkit` there, too; and where a test waits for the private threads of an executor to end,
it waits for ours. An interpreter that came without these tests has no line of them here.

| Python | start method | classes | pass | do not pass | skipped by CPython | pass of what ran |
| --- | --- | --- | ---: | ---: | ---: | ---: |
{figures}

## What does not pass

{differs}
A test that is not listed here and fails, fails our suite, and so does one that is listed and passes, but for
those that pass now and then. These are counted above among those that do not pass.
"""
_LABELS = {"own": "of this library", "others": "others", "executor": "executor"}
#: What passed, did not pass and was skipped, by kind of class: "own", "others" and "executor".
Figures = dict[str, tuple[int, int, int]]
_KINDS = {"improvement": "A deliberate improvement", "private": "Private to CPython's implementation"}


@dataclass(frozen=True)
class Difference:
    """One test that does not pass, and why."""

    test: str
    kind: str
    reason: str
    methods: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    #: Whether it passes now and then.
    varies: bool = False
    #: How long it may take until it is known that it does not pass, in seconds.
    limit: float | None = None

    def applies(self, method: str, python: str) -> bool:
        """Whether it is so with this start method, on this Python ("3.13")."""
        return (not self.methods or method in self.methods) and (not self.pythons or python in self.pythons)


def differences() -> list[Difference]:
    """What expected.toml lists. ValueError where an entry is not complete."""
    found = []
    for entry in tomllib.loads((HERE / "expected.toml").read_text("utf-8"))["differs"]:
        entry["methods"] = tuple(entry.get("methods", ()))
        entry["pythons"] = tuple(entry.get("pythons", ()))
        difference = Difference(**entry)
        if difference.kind not in _KINDS or len(difference.reason) < 20:
            raise ValueError(f"expected.toml: {difference.test} needs a kind and a reason")
        found.append(difference)
    return found


def listed(method: str) -> dict[str, Difference]:
    """What is listed for a start method on this Python, by the name of the test."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {d.test: d for d in differences() if d.applies(method, python)}


def page(kinds: Mapping[str, Iterable[str]]) -> str:
    """The text of docs/conformance.md."""
    rows = []
    for name, figures in sorted(json.loads(FIGURES.read_text("utf-8")).items()):
        python, method = name.split()
        for kind, label in _LABELS.items():
            passed, failed, skipped = figures.get(kind, (0, 0, 0))
            if not passed:
                continue
            share = f"{passed / (passed + failed):.1%}".replace("%", " %")
            rows.append(f"| {python} | {method} | {label} | {passed} | {failed} | {skipped} | {share} |")
    parts = []
    for kind, title in _KINDS.items():
        entries = [d for d in differences() if d.kind == kind]
        if entries:
            parts.append(f"### {title}\n\n" + "".join(map(_item, entries)))
    return _HEAD.format(
        own=_names(kinds["own"], len("The test classes for what this library has of its own are ")),
        others=_names(kinds["others"], 0),
        executor=_names(kinds["executor"], len("The classes for the executor are ")),
        figures="\n".join(rows),
        differs="\n".join(parts),
    )


def _names(classes: Iterable[str], indent: int) -> str:
    names = [f"`{name}`" for name in sorted(classes, key=lambda name: name.lstrip("_"))]
    return _wrapped(f"{', '.join(names[:-1])} and {names[-1]}", indent).lstrip()


def _item(difference: Difference) -> str:
    where = [", ".join(words) for words in (difference.methods, difference.pythons) if words]
    only = f" (only {', '.join(where)})" if where else ""
    only += " (passes now and then)" if difference.varies else ""
    text = f"`{difference.test}`{only}: {' '.join(difference.reason.split())}"
    return f"- {_wrapped(text, 2).lstrip()}\n"


def _wrapped(text: str, indent: int) -> str:
    lines, line = [], " " * indent
    for word in text.split():
        if len(line) + len(word) > 108:
            lines.append(line.rstrip())
            line = "  " if indent == 2 else ""
        line += word + " "
    return "\n".join([*lines, line.rstrip()])


def write(counts: dict[str, Figures], kinds: Mapping[str, Iterable[str]]) -> None:
    """Replace the figures of these runs (by "3.11.7 fork") and write the page."""
    known = json.loads(FIGURES.read_text("utf-8")) if FIGURES.exists() else {}
    known.update(counts)
    FIGURES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(kinds), "utf-8")
