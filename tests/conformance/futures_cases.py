"""The test classes of `test.test_concurrent_futures`, with this library's executor.

Like `cases`, this is imported by the runner and by the processes that a test starts by spawn.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures._base
import contextlib
import gc
import importlib
import importlib.util
import multiprocessing
import os
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from parallelkit.futures import Future

from . import translation

SOURCE = "test.test_concurrent_futures"
BASELINE = bool(os.environ.get("CONFORMANCE_BASELINE"))
#: The folder of another interpreter's tests, for one that came without them.
FOREIGN = os.environ.get("CONFORMANCE_FOREIGN")
#: From Python 3.12 on it is a package of these.
_PARTS = (
    "test_as_completed", "test_deadlock", "test_future", "test_init", "test_process_pool", "test_shutdown",
    "test_wait",
)  # fmt: skip
_PREFIX = ""
if FOREIGN:
    importlib.import_module("test").__path__.append(FOREIGN)
    _PREFIX = f"import test; test.__path__.append({FOREIGN!r})\n"
# The standard library does without cloudpickle: what it cannot pickle is to fail here, too.
sys.modules["cloudpickle"] = None  # type: ignore[assignment]


def _rewritten(run: Any) -> Any:
    """Programs that a test runs in an interpreter of its own change by their import line, too."""

    def assert_python_ok(*args: str, **options: Any) -> Any:
        changed = (a.replace("from concurrent.futures import", "from parallelkit import") for a in args)
        return run(*(_PREFIX + a if "import" in a else a for a in changed), **options)

    return assert_python_ok


def _load() -> list[Any]:
    """CPython's modules, which find this library's classes where they look for the standard library's."""
    futures: Any = concurrent.futures
    standard = futures._base.Future
    if not BASELINE:
        futures.ProcessPoolExecutor = translation.ProcessPoolExecutor
        futures._base.Future = Future
        script_helper: Any = importlib.import_module("test.support.script_helper")
        script_helper.assert_python_ok = _rewritten(script_helper.assert_python_ok)
    try:
        whole = importlib.import_module(SOURCE)
        if not hasattr(whole, "__path__"):
            return [whole]
        return [importlib.import_module(f"{SOURCE}.{part}") for part in _PARTS]
    finally:
        futures._base.Future = standard


# A process that a test starts needs the tests' functions only, which it imports as it unpickles them.
_modules = _load() if multiprocessing.parent_process() is None else []


def test_class(name: str) -> type[unittest.TestCase] | None:
    """The class that CPython makes of a mixin for the start method in use; None where there is none."""
    method = (multiprocessing.get_start_method(allow_none=True) or "fork").capitalize()
    stem = name.removesuffix("Mixin").removesuffix("Tests").removesuffix("Test")
    for module in _modules:
        for full in (f"ProcessPool{method}{stem}Test", name):
            found = getattr(module, full, None)
            if isinstance(found, type) and issubclass(found, unittest.TestCase):
                return found
    return None


def uses() -> Iterator[tuple[str, Any]]:
    """What the tests use of `concurrent.futures`, by name."""
    yield "ProcessPoolExecutor", getattr(test_class("WaitTests"), "executor_type", None)
    yield "Future", next(module.Future for module in _modules if hasattr(module, "FutureTests"))


@contextlib.contextmanager
def around(test: str) -> Iterator[None]:
    """What is to be in force while a test runs."""
    yield
    gc.collect()  # a test that fails leaves an executor open, which its own frames keep
