"""Starts the runners, some at a time, and collects what they report."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import expectations

TESTS = Path(__file__).parents[1]
#: Seconds for one runner. Each test is bounded by less, see the runner.
LIMIT = 240.0
METHODS = multiprocessing.get_all_start_methods()
#: So many runners at a time: most of their tests sleep most of the time.
AT_ONCE = 5
Groups = tuple[tuple[str, ...], ...]
#: Classes that are run together in one process, about as long as each other.
GROUPS: Groups = (
    ("_TestProcess", "_TestSubclassingProcess", "_TestAtExit"),
    ("_TestBarrier", "_TestLock", "_TestSemaphore", "_TestEvent", "_TestPollEintr"),
    ("TestWait",),
    ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime", "TestInitializers"),
    ("_TestConnection", "_TestPoll", "_TestPicklingConnections", "TestTimeouts", "TestIgnoreEINTR"),
    ("_TestCondition", "_TestQueue", "TestSimpleQueue"),
    ("TestStartMethod", "TestStdinBadfiledescriptor", "TestCloseFds"),
    ("_TestValue", "_TestArray", "_TestSharedCTypes"),
)
CLASSES = tuple(name for group in GROUPS for name in group)
#: The same of `test.test_concurrent_futures`, of which the classes for processes are run.
EXECUTOR_GROUPS: Groups = (
    ("ProcessPoolExecutorTest",),
    ("WaitTests",),
    ("ProcessPoolShutdownTest", "AsCompletedTests"),
    ("ExecutorDeadlockTest", "InitializerMixin", "FailingInitializerMixin", "FailingInitializerResourcesTest",
     "FutureTests"),
)  # fmt: skip
EXECUTOR = tuple(name for group in EXECUTOR_GROUPS for name in group)
#: Those that test what is multiprocessing's own and only handed on, or the interpreter.
OTHERS = frozenset({
    "_TestArray", "_TestAtExit", "TestCloseFds", "TestIgnoreEINTR", "_TestPollEintr", "_TestSharedCTypes",
    "TestStartMethod", "TestStdinBadfiledescriptor", "_TestValue", "TestWait",
})  # fmt: skip
OWN = tuple(name for name in CLASSES if name not in OTHERS)
KINDS: dict[str, Collection[str]] = {"own": OWN, "others": OTHERS, "executor": EXECUTOR}
SUITES = (GROUPS, EXECUTOR_GROUPS)
#: Where CPython has them: those of multiprocessing, and those of the executor.
MODULES = ("_test_multiprocessing", "test_concurrent_futures")


@dataclass
class Results:
    """What became of the tests of one start method; details by the names of tests."""

    passed: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    #: The names of multiprocessing for which this library's classes stood.
    replaced: set[str] = field(default_factory=set)
    #: What failed at first, and passed alone.
    repeated: set[str] = field(default_factory=set)

    def counts(self, method: str, classes: Collection[str] = CLASSES + EXECUTOR) -> tuple[int, int, int]:
        """How many of the classes' tests passed, did not pass, were skipped.

        What passes now and then counts as not passed.
        """
        varying = {d.test for d in expectations.listed(method).values() if d.varies}

        def count(names: Iterable[str]) -> int:
            return sum(name.partition(".")[0] in classes for name in names)

        passed = count(self.passed.keys() - varying)
        return passed, count(self.passed) + count(self.failed) - passed, count(self.skipped)

    def add(self, other: Results) -> None:
        """Take over another's results."""
        self.passed.update(other.passed)
        self.failed.update(other.failed)
        self.skipped.update(other.skipped)
        self.replaced |= other.replaced
        self.repeated |= other.repeated


def available(module: str) -> bool:
    """Whether the interpreter has its own tests: some distributions leave them out, or some of them.

    With the folder of another one's in CONFORMANCE_FOREIGN, the tests of the executor are taken from there.
    """
    if importlib.util.find_spec("test") is None:
        return False
    foreign = module == MODULES[True] and bool(os.environ.get("CONFORMANCE_FOREIGN"))
    return foreign or importlib.util.find_spec(f"test.{module}") is not None


def module_of(groups: Groups) -> str:
    """The module of CPython's that has them."""
    return MODULES[groups[0][0].partition(".")[0] in EXECUTOR]


def run(
    methods: Collection[str], suites: Collection[Groups], *, baseline: bool = False
) -> dict[str, Results]:
    """Run the suites with each of the start methods, each group in a process of its own, some at a time.

    What fails and is not listed is run again alone, and has failed if it fails again: many of these tests
    sleep for 0.1 s and expect others to have got on meanwhile.
    """
    results = {method: Results() for method in methods}
    work = [(method, group) for method in methods for groups in suites for group in groups]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        # Those that take longest go first: fresh interpreters, and the executor's, which sleep most.
        work.sort(key=lambda pair: (METHODS.index(pair[0]), pair[1][0] in EXECUTOR), reverse=True)
        found = threads.map(lambda pair: run_group(*pair, baseline=baseline), work)
        for (method, _), part in zip(work, found, strict=True):
            results[method].add(part)
    for method, result in results.items():
        unlisted = sorted(result.failed.keys() - expectations.listed(method).keys())
        for suite in (True, False):
            names = [name for name in unlisted if (name.partition(".")[0] in EXECUTOR) is suite]
            if names:
                again = run_group(method, names, baseline=baseline)
                result.repeated |= set(again.passed)
                result.passed.update(again.passed)
                for name in again.passed:
                    del result.failed[name]
    return results


def run_group(method: str, words: Iterable[str], *, baseline: bool = False) -> Results:
    """Run tests in one process; where one of them ends it, the rest in another."""
    results = Results()
    left = list(words)
    while left:
        with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as folder:
            ending = _run_process(Path(folder), method, left, baseline=baseline)
            planned, ended = _collect(Path(folder, "results.jsonl"), ending, results)
        left = [name for name in planned if name not in ended]
        if left and not ended:
            results.failed.update(dict.fromkeys(left, ending))
            break
    return results


def _run_process(folder: Path, method: str, words: list[str], *, baseline: bool) -> str:
    """Run one runner in the folder; return how it ended, with the end of what it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"}
    environment["CONFORMANCE_BASELINE"] = "1" if baseline else ""
    cases = "futures_cases" if words[0].partition(".")[0] in EXECUTOR else "cases"
    environment["TMPDIR"] = str(folder)  # what is made there by who is killed goes with it
    log = folder / "log"
    work = folder / "work"
    work.mkdir()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "conformance.runner",
                str(folder / "results.jsonl"),
                method,
                cases,
                *words,
            ],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ending = f"exit code {process.wait(LIMIT)}"
        except subprocess.TimeoutExpired:
            ending = f"the runner took longer than {LIMIT:g} s"
        finally:
            _end_session(process)
    return f"{ending}\n{log.read_text(errors='replace')[-6000:]}"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            # A line that was cut short is the last one of a runner that was killed.
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def _collect(path: Path, ending: str, results: Results) -> tuple[list[str], set[str]]:
    """Add what a runner reported; return the tests that it was to run, and those that need not run again."""
    planned: list[str] = []
    ended: set[str] = set()
    running, finished = "", False
    fixtures = []
    for record in _records(path):
        planned = record.get("planned", planned)
        results.replaced |= set(record.get("replaced", ()))
        finished = finished or "finished" in record
        if "fixture" in record:
            fixtures.append(f"{record['fixture']}\n{record['detail']}")
        if "test" not in record:
            continue
        name, outcome = record["test"], record["outcome"]
        if outcome == "started":
            running = name
            continue
        running = ""
        ended.add(name)
        if outcome == "passed":
            results.passed[name] = record["seconds"]
        else:
            {"failed": results.failed, "skipped": results.skipped}[outcome][name] = record["detail"]
    if running:
        results.failed[running] = f"it did not end: {ending}"
        ended.add(running)
    if finished:  # what was not run then, its class could not be set up for
        missing = [name for name in planned if name not in ended]
        results.failed.update(dict.fromkeys(missing, "\n".join(fixtures)))
        ended.update(missing)
    return planned, ended


def main() -> None:
    """`python -m conformance.harness [METHOD...] [TEST...]`: run them, and print what failed.

    With --baseline against multiprocessing itself; with --write the figures go into docs/conformance.md.
    """
    methods = [word for word in sys.argv[1:] if word in METHODS]
    words = [word for word in sys.argv[1:] if word not in METHODS and not word.startswith("--")]
    counts: dict[str, expectations.Figures] = {}
    suites = [groups for groups in (((tuple(words),),) if words else SUITES) if available(module_of(groups))]
    start = time.monotonic()
    for method, results in run(methods or METHODS, suites, baseline="--baseline" in sys.argv).items():
        for name, detail in results.failed.items():
            print(f"---- {method} {name}\n{detail}")
        slowest = sorted(results.passed.items(), key=lambda item: -item[1])[:10]
        print("slowest:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in slowest))
        print("replaced:", *sorted(results.replaced))
        print("failed:", *sorted(results.failed))
        print("failed at first:", *sorted(results.repeated))
        passed, failed, skipped = results.counts(method)
        kinds = {kind: results.counts(method, classes) for kind, classes in KINDS.items()}
        counts[f"{platform.python_version()} {method}"] = kinds
        print(
            f"{method}: {passed} passed, {failed} did not, {skipped} skipped, "
            f"{passed / max(1, passed + failed):.1%}; {kinds}"
        )
    print(f"{time.monotonic() - start:.1f} s")
    if "--write" in sys.argv:
        expectations.write(counts, KINDS)


if __name__ == "__main__":
    main()
