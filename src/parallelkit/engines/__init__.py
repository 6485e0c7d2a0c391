"""The ways to run workers, and which of them is meant.

`base` says what an engine is; `processes` is the default; `serial` and `threads` stay in this process.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .base import Crew, Engine, Setup, Style, Work

if TYPE_CHECKING:
    from .processes import ProcessesEngine
    from .serial import SerialEngine
    from .threads import ThreadsEngine

__all__ = [
    "Crew",
    "Engine",
    "ProcessesEngine",
    "SerialEngine",
    "Setup",
    "Style",
    "ThreadsEngine",
    "Work",
    "resolve",
    "using",
]

#: The environment variable that sets the default engine.
VARIABLE = "PARALLELKIT_ENGINE"

#: By the names of their modules, too; imported when they are asked for, as a worker needs none of them.
_CLASSES = {"processes": "ProcessesEngine", "threads": "ThreadsEngine", "serial": "SerialEngine"}
_default: contextvars.ContextVar[Engine | None] = contextvars.ContextVar("parallelkit_engine", default=None)


def resolve(engine: str | Engine | None) -> Engine:
    """The engine of that name; without one that of `using`, of PARALLELKIT_ENGINE, or processes.

    >>> resolve("serial")
    SerialEngine()
    >>> resolve("thread")
    Traceback (most recent call last):
    ValueError: engine must be 'processes', 'threads', 'serial' or an Engine, not 'thread'
    """
    if engine is None:
        chosen = _default.get()
        if chosen is not None:
            return chosen
        name = os.environ.get(VARIABLE) or "processes"
        return _named(name, VARIABLE)
    if isinstance(engine, str):
        return _named(engine, "engine")
    if isinstance(engine, Engine) and not isinstance(engine, type):
        return engine
    raise TypeError(f"engine must be a name or an Engine, not {engine!r}")


def _named(name: str, what: str) -> Engine:
    if name in _CLASSES:
        return _engine(name)
    names = ", ".join(map(repr, _CLASSES))
    raise ValueError(f"{what} must be {names} or an Engine, not {name!r}")


@functools.cache
def _engine(name: str) -> Engine:
    engine: Engine = __getattr__(_CLASSES[name])()
    return engine


def __getattr__(name: str) -> Any:
    for module, cls in _CLASSES.items():
        if cls == name:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def using(engine: str | Engine) -> Iterator[Engine]:
    """Within the block, use `engine` where a call names none.

    The choice holds in this thread and task (it is a context variable), not in others.

    >>> import parallelkit
    >>> with parallelkit.using("serial"):
    ...     parallelkit.pool_map(lambda x: x + 1, [1, 2])
    [2, 3]
    """
    chosen = resolve(engine)
    token = _default.set(chosen)
    try:
        yield chosen
    finally:
        _default.reset(token)
