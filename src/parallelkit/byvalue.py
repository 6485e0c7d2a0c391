"""Pickles by value what pickle refers to by name: lambdas, closures, classes of a function. With cloudpickle.

What this adds to cloudpickle's own pickler:

- A class that comes back to the process that made it is the one that is there, as it is. (cloudpickle sets
  its attributes to the copies that went through the other process, whose methods see no global of this one
  any more.)
- A class with `__slots__` has slots there, too, so that its instances can come back.
- Code keeps the name of its file, so that a traceback shows the line. (cloudpickle says "<dynamic-code>".)
- A `cached_property` can be sent by Python 3.11, which has a lock in it.

And a subclass can say which functions and classes of `__main__` go by name all the same; see `interactive`.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import io
import pickle
import sys
import typing
import weakref
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from types import CodeType, FunctionType
from typing import Any, NewType, ParamSpec, TypeAlias, TypeVarTuple

from typing_extensions import TypeAliasType

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
            if isinstance(obj, CodeType):
                return _code, (*self.dispatch_table[CodeType](obj), obj.co_filename)
            if type(obj) is functools.cached_property:
                return _cached_property, (obj.func, obj.attrname)
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6:
                if obj not in _received:
                    _sent.add(obj)
                make, arguments, *rest, set_state = reduced
                if "__slots__" in vars(obj) and not issubclass(obj, _OWN_SLOTS):
                    kind, name, bases, namespace, *more = arguments
                    arguments = kind, name, bases, {**namespace, "__slots__": vars(obj)["__slots__"]}, *more
                return (make, arguments, *rest, functools.partial(_set_class_state, set_state))
            return reduced

    return ByValuePickler


#: Made in ways of their own: an Enum from its members; and a NamedTuple refuses to be given slots.
_OWN_SLOTS = (enum.Enum, tuple)


def _code(make: Callable[..., CodeType], arguments: tuple[Any, ...], file: str) -> CodeType:
    return make(*arguments).replace(co_filename=file)


def _cached_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    made.attrname = name
    return made


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
            if isinstance(obj, _TYPING) and obj.__module__ == "__main__":
                return _reduced_typing(obj)
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


#: What annotations are made of, which goes by name, too.
_ALIASES = (TypeAliasType, getattr(typing, "TypeAliasType", TypeAliasType))  # not the same before 3.14
_TYPING = (NewType, ParamSpec, TypeVarTuple, *_ALIASES)
_NAMED = (type, FunctionType, CACHED, *_TYPING)


def main_name(obj: Any) -> str | None:
    """The top-level name under which a pickle may refer to what `__main__` has, a function say; or None."""
    if not isinstance(obj, _NAMED) or getattr(obj, "__module__", None) != "__main__":
        return None
    path = str(getattr(obj, "__qualname__", obj.__name__)).split(".")
    try:
        found = functools.reduce(getattr, path, sys.modules["__main__"])
    except AttributeError:
        return None
    return path[0] if found is obj else None


@functools.lru_cache(4096)
def globals_of(code: CodeType) -> frozenset[str]:
    """The global names that a function's code has, with those of the functions in it."""
    names: set[str] = set()
    for step in dis.get_instructions(code):
        if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            names.add(step.argval)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            names |= globals_of(part)
    return frozenset(names)


class _MainGlobals:
    def __reduce__(self) -> Any:
        return _main_globals, (vars(sys.modules["__main__"]).get("__package__"),)


_MAIN = _MainGlobals()


def _main_globals(package: str | None) -> dict[str, Any]:
    scope = vars(sys.modules["__main__"])
    if package:
        scope["__package__"] = package  # for `from . import` in a function of `python -m package`
    return scope


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _dispatching(registry: dict[type, Callable[..., Any]]) -> Any:
    function = functools.singledispatch(registry.pop(object))
    for cls, implementation in registry.items():
        function.register(cls, implementation)
    return function


def _reduced_typing(obj: Any) -> tuple[Any, ...]:
    if isinstance(obj, NewType):
        return _typing, (NewType, obj.__name__, obj.__supertype__)
    kind: Callable[..., Any] = type(obj)
    if isinstance(obj, _ALIASES):
        make = functools.partial(kind, type_params=obj.__type_params__)
        return _typing, (make, obj.__name__, obj.__value__)
    return _typing, (kind, obj.__name__)


def _typing(make: Callable[..., Any], name: str, *arguments: Any) -> Any:
    made = make(name, *arguments)
    with contextlib.suppress(AttributeError):  # an alias has that of who makes it
        made.__module__ = "__main__"
    return made
