"""A face of parallelkit with multiprocessing's names, for code that says `import multiprocessing`."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import parallelkit

from . import translation

#: Modules of multiprocessing whose classes are public under the module's name, too.
_SUBMODULES = ("connection", "context", "pool", "process", "queues", "synchronize")
#: What CPython's tests import of multiprocessing. It is loaded before anything is replaced: none of
#: multiprocessing's own modules is to see this library.
_REAL = (
    "connection", "context", "dummy", "heap", "managers", "pool", "process", "queues", "reduction",
    "resource_sharer", "resource_tracker", "shared_memory", "sharedctypes", "synchronize", "util",
)  # fmt: skip


class Overlay(ModuleType):
    """A module with some of another one's names replaced.

    Setting other names goes through to it, so that state that a test sets is where multiprocessing looks.
    """

    def __init__(self, real: ModuleType, replacements: dict[str, Any]) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(replacements, __path__=getattr(real, "__path__", None), __spec__=real.__spec__)
        self.__dict__["_real"] = real
        self.__dict__["_replaced"] = frozenset(replacements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__["_replaced"]:
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_real"], name, value)


def _own(module: ModuleType, names: list[str]) -> dict[str, Any]:
    """What parallelkit itself defines under these names, not what it imported from multiprocessing."""
    found = {}
    for name in names:
        value = getattr(module, name, None)
        where = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and where.partition(".")[0] == "parallelkit":
            found[name] = value
    return found


def overlays(*, baseline: bool = False) -> dict[str, ModuleType]:
    """The modules to put into `sys.modules`, by their names; `baseline`: multiprocessing's own."""
    for name in _REAL:
        importlib.import_module(f"multiprocessing.{name}")
    if baseline:
        return {"multiprocessing": multiprocessing}
    found: dict[str, ModuleType] = {}
    top = {
        name: getattr(parallelkit, name) for name in multiprocessing.__all__ if name in parallelkit.__all__
    }
    top["Condition"] = translation.Condition
    for name in _SUBMODULES:
        real = importlib.import_module(f"multiprocessing.{name}")
        try:
            ours = importlib.import_module(f"parallelkit.{name}")
        except ModuleNotFoundError:
            continue
        overlay = Overlay(real, _own(ours, dir(real)))
        found[f"multiprocessing.{name}"] = top[name] = overlay
    found["multiprocessing"] = Overlay(multiprocessing, top)
    return found


@contextlib.contextmanager
def installed(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Within the block, `import multiprocessing` finds these."""
    before = {name: sys.modules[name] for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        sys.modules.update(before)
