"""CPython's own tests of multiprocessing, against our classes; see the package `conformance`."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from conformance import expectations, harness

OURS = {
    "Barrier", "BoundedSemaphore", "Condition", "Connection", "Event", "JoinableQueue", "Lock", "Pipe",
    "Pool", "Process", "Queue", "RLock", "Semaphore", "SimpleQueue", "wait",
}  # fmt: skip


#: The fresh interpreters of the others would take half the time of the whole suite.
METHODS = harness.METHODS if "PARALLELKIT_CONFORMANCE" in os.environ else harness.METHODS[:1]


# The start methods side by side, as these tests mostly sleep.
@pytest.fixture(scope="module")
def of_multiprocessing() -> dict[str, harness.Results]:
    return harness.run(METHODS, [harness.GROUPS])


@pytest.fixture(scope="module")
def of_the_executor() -> dict[str, harness.Results]:
    return harness.run(METHODS, [harness.EXECUTOR_GROUPS])


@pytest.fixture(params=harness.METHODS)
def method(request: pytest.FixtureRequest) -> str:
    if request.param not in METHODS:
        pytest.skip("takes long: PARALLELKIT_CONFORMANCE=1 runs it, as CI does")
    return str(request.param)


def _needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not harness.available(module), reason=f"this interpreter came without test.{module}"
    )


@pytest.mark.timeout(300)
@_needs("_test_multiprocessing")
def test_what_multiprocessing_is_tested_for(
    method: str, of_multiprocessing: dict[str, harness.Results]
) -> None:
    results = of_multiprocessing[method]
    assert results.replaced >= OURS
    _check(results, method, harness.CLASSES, harness.OWN)
    passed, failed, _ = results.counts(method, harness.OWN)
    assert passed / (passed + failed) > 0.95


@pytest.mark.timeout(300)
@_needs("test_concurrent_futures")
def test_what_the_executor_is_tested_for(method: str, of_the_executor: dict[str, harness.Results]) -> None:
    results = of_the_executor[method]
    assert results.replaced >= {"Future", "ProcessPoolExecutor"}
    _check(results, method, harness.EXECUTOR)


def _check(results: harness.Results, start_method: str, *shares: Collection[str]) -> None:
    """What does not pass is listed, what is listed does not pass, and 95 % of each share do."""
    ran = set(shares[0])
    listed = {
        name: entry
        for name, entry in expectations.listed(start_method).items()
        if name.partition(".")[0] in ran
    }
    unlisted = {name: text for name, text in results.failed.items() if name not in listed}
    assert not unlisted, "\n\n".join(f"{name}\n{text}" for name, text in unlisted.items())
    passing = [name for name, entry in listed.items() if name in results.passed and not entry.varies]
    assert not passing, "listed in expected.toml, but they pass"
    assert listed.keys() <= {*results.passed, *results.failed, *results.skipped}, "there is no such test"
    for classes in shares:
        passed, failed, _ = results.counts(start_method, classes)
        assert passed / (passed + failed) >= 0.95


def test_the_page_says_what_is_expected() -> None:
    written = expectations.PAGE.read_text("utf-8")
    expected = expectations.page(harness.KINDS)
    assert written == expected, "docs/conformance.md is old: run `make conformance`"


def test_each_difference_is_listed_once() -> None:
    tests = [d.test for d in expectations.differences()]
    assert len(tests) == len(set(tests))


def _collected(tmp_path: Path, *records: dict[str, Any]) -> tuple[harness.Results, list[str], set[str]]:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"test": "cut sho')
    results = harness.Results()
    planned, ended = harness._collect(path, "exit code -11", results)
    return results, planned, ended


PLAN: dict[str, Any] = {"planned": ["T.a", "T.b", "T.c"], "replaced": ["Pool"]}
A: list[dict[str, Any]] = [
    {"test": "T.a", "outcome": "started"},
    {"test": "T.a", "outcome": "passed", "detail": "", "seconds": 0.5},
]


def test_a_test_that_ends_the_runner_has_failed_and_the_next_ones_are_still_to_run(tmp_path: Path) -> None:
    results, planned, ended = _collected(tmp_path, PLAN, *A, {"test": "T.b", "outcome": "started"})
    assert results.passed == {"T.a": 0.5}
    assert results.failed == {"T.b": "it did not end: exit code -11"}
    assert [name for name in planned if name not in ended] == ["T.c"]


def test_tests_whose_class_could_not_be_set_up_have_failed(tmp_path: Path) -> None:
    fixture = {"fixture": "setUpClass (T)", "detail": "OSError: no"}
    results, planned, ended = _collected(tmp_path, PLAN, *A, fixture, {"finished": True})
    assert results.failed.keys() == {"T.b", "T.c"}
    assert "OSError: no" in results.failed["T.b"]
    assert ended == set(planned)


def test_what_passes_now_and_then_counts_as_not_passed() -> None:
    results = harness.Results(passed={"_TestProcess.test_parent_process": 1.0, "_TestProcess.test_kill": 1.0})
    assert results.counts("fork") == (1, 1, 0)
