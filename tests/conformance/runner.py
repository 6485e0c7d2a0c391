"""Run tests in this process: `python -m conformance.runner RESULTS START_METHOD TEST...`.

A test is named "Class.test_name", a class stands for all its tests. RESULTS is a file of JSON lines: first
the names of all tests that are to run, then one line as a test begins and one as it ends.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import sys
import time
import traceback
import unittest
from collections.abc import Iterator
from typing import Any, TextIO

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])

from . import cases, expectations, substitution

#: A test that takes longer, in seconds, is ended together with this process, after a dump of its stacks.
TEST_LIMIT = 40.0
#: These import from multiprocessing while they run.
_IMPORTING = ("TestWait.", "_TestQueue.test_no_import_lock_contention")


class Report(unittest.TestResult):
    """Writes what happens to a file, line by line, so that it is there whatever ends this process."""

    def __init__(self, file: TextIO, names: dict[type, str]) -> None:
        super().__init__()
        self._file = file
        self._names = names
        self._listed = expectations.listed(multiprocessing.get_start_method())
        self._outcome: tuple[str, str] = ("passed", "")
        self._began = 0.0

    def _write(self, **record: Any) -> None:
        print(json.dumps(record), file=self._file, flush=True)

    def name(self, test: unittest.TestCase) -> str:
        return f"{self._names[type(test)]}.{test._testMethodName}"

    def startTest(self, test: unittest.TestCase) -> None:
        listed = self._listed.get(self.name(test))
        limit = listed.limit if listed is not None and listed.limit is not None else TEST_LIMIT
        faulthandler.dump_traceback_later(limit, exit=True)
        self._outcome = ("passed", "")
        self._began = time.monotonic()
        self._write(test=self.name(test), outcome="started")
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        outcome, detail = self._outcome
        seconds = round(time.monotonic() - self._began, 3)
        self._write(test=self.name(test), outcome=outcome, detail=detail, seconds=seconds)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._outcome = ("skipped", reason)

    def addFailure(self, test: Any, err: Any) -> None:
        self._failed(test, err)

    def addError(self, test: Any, err: Any) -> None:
        self._failed(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._failed(test, err)

    def _failed(self, test: Any, err: Any) -> None:
        detail = "".join(traceback.format_exception(*err))
        if isinstance(test, unittest.TestCase):
            self._outcome = ("failed", detail)
        else:  # setUpClass and the like: its tests do not run, which the harness sees
            self._write(fixture=str(test), detail=detail)


def _tests(words: list[str]) -> tuple[list[unittest.TestCase], dict[type, str]]:
    loader = unittest.TestLoader()
    names: dict[type, str] = {}
    tests: list[unittest.TestCase] = []
    for word in words:
        name, _, method = word.partition(".")
        kind = cases.test_class(name)
        if kind is None:
            continue
        names[kind] = name
        tests += [kind(m) for m in ([method] if method else loader.getTestCaseNames(kind))]
    return tests, names


class _Importing(unittest.TestSuite):
    """A suite of a test that imports from multiprocessing while it runs, which finds the replacement."""

    def __init__(self, test: unittest.TestCase) -> None:
        super().__init__([test])

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        with substitution.installed(cases.overlays):
            return super().run(result, debug)


def _names() -> Iterator[tuple[str, Any]]:
    """What the tests use of multiprocessing, by name."""
    source = cases.source
    for name in dir(source.ProcessesMixin):
        yield name, getattr(source.ProcessesMixin, name)
    yield "SimpleQueue", source.multiprocessing.SimpleQueue
    yield "Connection", source.multiprocessing.connection.Connection
    yield "wait", source.wait


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith(("parallelkit", "conformance"))


def main(results: str, words: list[str]) -> None:
    """Run the tests and write what becomes of them to the file `results`."""
    tests, names = _tests(words)
    with open(results, "a") as file:
        report = Report(file, names)
        replaced = sorted(name for name, value in _names() if _is_ours(value))
        report._write(planned=[report.name(test) for test in tests], replaced=replaced)
        suite = unittest.TestSuite(
            _Importing(test) if report.name(test).startswith(_IMPORTING) else test for test in tests
        )
        suite.run(report)
        report._write(finished=True)


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], sys.argv[3:])
