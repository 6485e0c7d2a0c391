"""CPython's own tests of multiprocessing, against our classes; see the package `conformance`."""

from __future__ import annotations

import pytest
from conformance import expectations, harness

OURS = {
    "Barrier", "BoundedSemaphore", "Condition", "Event", "JoinableQueue", "Lock", "Pipe", "Pool", "Process",
    "Queue", "RLock", "Semaphore",
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.skipif(not harness.available(), reason="this interpreter came without its own tests")
def test_what_multiprocessing_is_tested_for(start_method: str) -> None:
    results = harness.run(start_method)
    assert results.replaced >= OURS

    listed = expectations.listed(start_method)
    unlisted = {name: text for name, text in results.failed.items() if name not in listed}
    assert not unlisted, "\n\n".join(f"{name}\n{text}" for name, text in unlisted.items())
    passing = [name for name, entry in listed.items() if name in results.passed and not entry.varies]
    assert not passing, "listed in expected.toml, but they pass"
    assert listed.keys() <= {*results.passed, *results.failed, *results.skipped}, "there is no such test"
    passed, failed, _ = results.counts(start_method)
    assert passed / (passed + failed) > 0.95


def test_the_page_says_what_is_expected() -> None:
    written = expectations.PAGE.read_text("utf-8")
    assert written == expectations.page(harness.CLASSES), "docs/conformance.md is old: run `make conformance`"


def test_each_difference_is_listed_once() -> None:
    tests = [d.test for d in expectations.differences()]
    assert len(tests) == len(set(tests))
