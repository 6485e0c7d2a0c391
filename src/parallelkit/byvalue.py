"""Pickles by value what pickle refers to by name: lambdas, closures, classes of a function. With cloudpickle.

What this adds to cloudpickle's own pickler: a class that comes back to the process that made it is the one
that is there, as it is. (cloudpickle sets its attributes to the copies that went through the other process,
whose methods see no global of this one any more.) Code keeps the name of its file, so that tracebacks show
its lines. (cloudpickle 3.1 has "<dynamic-code>" in its place.) And a subclass can say which functions and
classes of `__main__` go by name all the same; see `interactive`.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import weakref
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from types import CodeType, FunctionType
from typing import Any, TypeAlias

#: The classes that were sent from here, and those that came here. A class is in one of them at the most.
_sent: weakref.WeakSet[type] = weakref.WeakSet()
_received: weakref.WeakSet[type] = weakref.WeakSet()


def cloudpickle() -> Any:
    """The module, or None where it is not installed."""
    try:
        import cloudpickle as module
    except ImportError:
        return None
    return module


#: As `pickle.Pickler` takes them.
BufferCallback: TypeAlias = Callable[[pickle.PickleBuffer], bool]
Reducers: TypeAlias = Mapping[type, Callable[[Any], Any]]


def dumps(
    obj: object, buffer_callback: BufferCallback | None = None, reducers: Reducers | None = None
) -> bytes | None:
    """The pickle of `obj` by value; None where cloudpickle is not installed.

    reducers: what a pickler's `dispatch_table` has besides cloudpickle's own.

    >>> data = dumps(lambda x: x + 1)
    >>> data is None or pickle.loads(data)(1)
    2
    """
    cls = pickler_class()
    if cls is None:
        return None
    file = io.BytesIO()
    pickler = cls(file, 5, buffer_callback=buffer_callback)
    _add(pickler, reducers)
    pickler.dump(obj)
    return file.getvalue()


def _add(pickler: Any, reducers: Reducers | None) -> None:
    if reducers:
        pickler.dispatch_table = ChainMap(dict(reducers), pickler.dispatch_table)


def pickler_class() -> Any:
    """The class of the picklers, called as `pickle.Pickler`; None where cloudpickle is not installed."""
    module = cloudpickle()
    return None if module is None else _class_over(module.Pickler)


@functools.cache
def _class_over(base: Any) -> Any:
    class ByValuePickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is CodeType:
                make, arguments = self.dispatch_table[CodeType](obj)
                return _make_code, (make, arguments, obj.co_filename)
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6:
                if obj not in _received:
                    _sent.add(obj)
                *rest, set_state = reduced
                return (*rest, functools.partial(_set_class_state, set_state))
            return reduced

    return ByValuePickler


def _make_code(make: Callable[..., CodeType], arguments: tuple[Any, ...], filename: str) -> CodeType:
    return make(*arguments).replace(co_filename=filename)


def _set_class_state(set_state: Callable[[type, Any], object], cls: type, state: Any) -> None:
    if cls not in _sent:
        _received.add(cls)
        set_state(cls, state)


@functools.cache
def _main_class_over(base: Any) -> Any:
    class MainPickler(base):  # type: ignore[misc]
        """Sends what `__main__` has by name, but for what `inline` names; tells what a reader has to have.

        names: of what goes by name. globals: of what the functions use.
        """

        def __init__(
            self,
            inline: Collection[str],
            buffer_callback: BufferCallback | None,
            reducers: Reducers | None,
        ) -> None:
            self.file = io.BytesIO()
            super().__init__(self.file, 5, buffer_callback=buffer_callback)
            _add(self, reducers)
            self.names: list[str] = []
            self.globals: list[str] = []
            self._inline = inline
            self._scope = vars(sys.modules["__main__"])

        def reducer_override(self, obj: Any) -> Any:
            name = main_name(obj)
            if name is not None and name not in self._inline:
                self.names.append(name)
                return NotImplemented
            if isinstance(obj, CACHED):
                return _cached, (obj.__wrapped__, obj.cache_parameters())
            if isinstance(obj, FunctionType) and obj.__code__ is _DISPATCHING:
                return _dispatching, (dict(obj.registry),)  # type: ignore[attr-defined]
            reduced = super().reducer_override(obj)
            if not isinstance(obj, FunctionType) or obj.__globals__ is not self._scope:
                return reduced
            return self._in_main(reduced) if isinstance(reduced, tuple) else reduced

        def _in_main(self, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
            # The new function is to see the reader's `__main__`, and not globals of its own.
            make, (code, _, *arguments), (attributes, slots), *rest = reduced
            self.globals += slots["__globals__"]
            return (make, (code, _MAIN, *arguments), (attributes, {**slots, "__globals__": {}}), *rest)

    return MainPickler


def main_pickler(
    inline: Collection[str] = (),
    *,
    buffer_callback: BufferCallback | None = None,
    reducers: Reducers | None = None,
) -> Any:
    """A `MainPickler`, to be used once. cloudpickle has to be there."""
    return _main_class_over(pickler_class())(inline, buffer_callback, reducers)


#: What `functools` makes, which neither pickle nor cloudpickle sends by value.
CACHED = type(functools.lru_cache(lambda: None))
_DISPATCHING = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]


def main_name(obj: Any) -> str | None:
    """The top-level name under which a pickle may refer to a function or class of `__main__`, or None."""
    if not isinstance(obj, (type, FunctionType, CACHED)) or getattr(obj, "__module__", None) != "__main__":
        return None
    path = getattr(obj, "__qualname__", "").split(".")
    try:
        found = functools.reduce(getattr, path, sys.modules["__main__"])
    except AttributeError:
        return None
    return path[0] if found is obj else None


class _MainGlobals:
    def __reduce__(self) -> Any:
        return _main_globals, ()


_MAIN = _MainGlobals()


def _main_globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _dispatching(registry: dict[type, Callable[..., Any]]) -> Any:
    function = functools.singledispatch(registry.pop(object))
    for cls, implementation in registry.items():
        function.register(cls, implementation)
    return function
