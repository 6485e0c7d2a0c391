"""The test classes: CPython's, bound to this library's classes. Importing this module makes them.

It is imported by the runner and by each process that a test starts, since what a test sends to a process is
pickled by its name in here.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from . import substitution

SOURCE = "test._test_multiprocessing"
#: These import from multiprocessing while they run.
_IMPORTING = ("TestWait.", "_TestQueue.test_no_import_lock_contention")
BASELINE = bool(os.environ.get("CONFORMANCE_BASELINE"))
# multiprocessing does without cloudpickle: what it cannot pickle is to fail here, too.
sys.modules["cloudpickle"] = None  # type: ignore[assignment]
if SOURCE in sys.modules:
    raise ImportError(f"{SOURCE} was imported before its classes were replaced")
overlays = substitution.overlays(baseline=BASELINE)
with substitution.installed(overlays):
    source: Any = importlib.import_module(SOURCE)
# A fork server that has loaded this starts processes with the replacement in place.
source.PRELOAD = [__name__]


def _rewritten(run: Any) -> Any:
    """Programs that a test runs in an interpreter of its own change by their import line, too."""

    def assert_python_ok(*args: str, **options: Any) -> Any:
        return run(
            *(a.replace("from multiprocessing import", "from parallelkit import") for a in args), **options
        )

    return assert_python_ok


if not BASELINE:
    helper = source.test.support.script_helper
    helper.assert_python_ok = _rewritten(helper.assert_python_ok)
source.install_tests_in_module_dict(globals(), multiprocessing.get_start_method(allow_none=True) or "fork")


def test_class(name: str) -> type[unittest.TestCase] | None:
    """The class for one of `harness.CLASSES`: that for processes, not for managers or threads.

    None where CPython's module of this version has no such class.
    """
    found: type[unittest.TestCase] | None
    found = globals().get(f"WithProcesses{name[1:]}" if name.startswith("_") else name)
    return found


def uses() -> Iterator[tuple[str, Any]]:
    """What the tests use of multiprocessing, by name."""
    for name in dir(source.ProcessesMixin):
        yield name, getattr(source.ProcessesMixin, name)
    yield "SimpleQueue", source.multiprocessing.SimpleQueue
    yield "Connection", source.multiprocessing.connection.Connection
    yield "wait", source.wait


def around(test: str) -> contextlib.AbstractContextManager[object]:
    """What is to be in force while a test runs: one that imports then finds the replacement."""
    return substitution.installed(overlays) if test.startswith(_IMPORTING) else contextlib.nullcontext()
