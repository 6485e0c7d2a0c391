"""Run tests in this process: `python -m conformance.runner RESULTS START_METHOD CASES TEST...`.

CASES is `cases` or `futures_cases`. A test is named "Class.test_name", a class stands for all its tests.
RESULTS is a file of JSON lines: first the names of all tests that are to run, then one line as a test begins
and one as it ends.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import multiprocessing
import sys
import time
import traceback
import unittest
from typing import Any, TextIO

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])

from . import expectations

#: Where the classes of these tests are: `cases` or `futures_cases`. In a process that a test starts by spawn,
#: this module is imported, too, and brings with it what such a process needs.
cases: Any = importlib.import_module(f"conformance.{sys.argv[3]}")

#: A test that takes longer, in seconds, is ended together with this process, after a dump of its stacks.
TEST_LIMIT = 40.0


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


class _Around(unittest.TestSuite):
    """A suite of one test and what is to be in force while it runs."""

    def __init__(self, test: unittest.TestCase, name: str) -> None:
        super().__init__([test])
        self._name = name

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        with cases.around(self._name):
            return super().run(result, debug)


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith(("parallelkit", "conformance"))


def main(results: str, words: list[str]) -> None:
    """Run the tests and write what becomes of them to the file `results`."""
    tests, names = _tests(words)
    with open(results, "a") as file:
        report = Report(file, names)
        replaced = sorted(name for name, value in cases.uses() if _is_ours(value))
        report._write(planned=[report.name(test) for test in tests], replaced=replaced)
        suite = unittest.TestSuite(_Around(test, report.name(test)) for test in tests)
        tests.clear()  # as with CPython's own runner, what a test made goes with its end
        suite.run(report)
        report._write(finished=True)


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], sys.argv[4:])
