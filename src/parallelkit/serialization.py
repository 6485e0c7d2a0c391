"""Objects to bytes and back: pickle, and cloudpickle for what pickle cannot do; and who was to blame."""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from . import byvalue
from .errors import ResultError, SerializationError
from .rebuilding import text_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Pickles an object; large buffers are appended to the list and are not in the pickle.
Dumps: TypeAlias = Callable[[object, "list[pickle.PickleBuffer]"], bytes]


def loads(data: Buffer | None, buffers: Collection[Any] = ()) -> Any:
    """The object that `dumps` was given; `buffers` are those that travelled beside the pickle.

    MemoryError where one of them is None, as there was no memory for it when it arrived.
    """
    if data is None or None in buffers:
        raise MemoryError("there was no memory for it where it arrived")
    return pickle.loads(data, buffers=buffers)


#: Buffers from this size on travel beside the pickle and not in it, in bytes.
LARGE = 1 << 15
#: The search for a culprit gives up after so many objects.
_SEARCH_MOST = 2000
_SEARCH_DEPTH = 12


def dumps(obj: object, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
    """The pickle of `obj`, by cloudpickle where plain pickle fails and cloudpickle is installed.

    With `buffers`, large buffers are appended there and are not in the pickle.

    >>> loads(dumps([1, 2]))
    [1, 2]
    """
    if buffers is not None:
        return _picklers.dumps(obj, buffers)
    try:
        return pickle.dumps(obj, 5)
    except Exception:
        data = _by_value(obj, None)
        if data is None:
            raise
        return data


class Picklers:
    """Makes pickles with picklers that are used again: to make one costs as much as to pickle a small object.

    reducers: as a pickler's `dispatch_table`; None for `copyreg`'s. by_value: what makes a pickle where that
    fails, of the object and the list of buffers, or None; by default cloudpickle, where that is installed.
    """

    def __init__(
        self,
        reducers: Mapping[type, Callable[[Any], Any]] | None = None,
        by_value: Callable[[object, list[pickle.PickleBuffer]], bytes | None] | None = None,
    ) -> None:
        self._reducers = reducers
        self._by_value = by_value or _by_value
        self._idle: list[_Pickler] = []

    def dumps(self, obj: object, buffers: list[pickle.PickleBuffer]) -> bytes:
        """The pickle of `obj` without its large buffers, which are appended to `buffers`."""
        try:
            pickler = self._idle.pop()
        except IndexError:
            pickler = _Pickler(self._reducers)
        # Where pickling fails, this one is not used again: nobody knows what it has in its memo.
        try:
            pickler.dump(obj)
        except Exception:
            data = self._by_value(obj, buffers)
            if data is None:
                raise
            return data
        pieces = pickler.pieces
        body = pieces.pop() if len(pieces) == 1 else b"".join(pieces)
        if pickler.buffers:
            buffers += pickler.buffers
            pickler.buffers.clear()
        # A large object leaves a large memo behind, and to clear that would cost each small one after it.
        if not pieces and len(body) < LARGE:
            pickler.clear_memo()
            self._idle.append(pickler)
        return body


class _Pickler:
    """A pickler, with the pieces that it writes and the large buffers that it found."""

    __slots__ = ("buffers", "clear_memo", "dump", "pieces")

    def __init__(self, reducers: Mapping[type, Callable[[Any], Any]] | None) -> None:
        self.pieces: list[bytes] = []
        self.buffers: list[pickle.PickleBuffer] = []
        file: Any = SimpleNamespace(write=self.pieces.append)
        pickler = pickle.Pickler(file, 5, buffer_callback=keeper(self.buffers))
        if reducers is not None:
            pickler.dispatch_table = reducers
        self.dump, self.clear_memo = pickler.dump, pickler.clear_memo


def _by_value(obj: object, buffers: list[pickle.PickleBuffer] | None) -> bytes | None:
    """What cloudpickle makes of an object that pickle fails for; None where that is not installed."""
    return byvalue.dumps(obj, None if buffers is None else keeper(buffers))


_picklers = Picklers()


def keeper(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """A pickler's `buffer_callback`: the large ones are appended to `buffers`, and not in the pickle."""

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            small = buffer.raw().nbytes < LARGE
        except BufferError:  # not contiguous
            return True
        if not small:
            buffers.append(buffer)
        return small

    return in_band


def error(
    what: str, obj: object, cause: BaseException, *, index: int | None = None, attempt: Dumps | None = None
) -> SerializationError:
    """The error that says what of `obj` could not be sent or read, and why.

    `obj` is None where only `cause` is known; of an initializer, a tuple of it and its arguments; of a
    single call, a tuple of its arguments and its keyword arguments, or a process. `attempt` is what
    failed, where that was not `dumps`.

    >>> print(error("item", {"f": [1, (n for n in "ab")]}, TypeError("no")).path)
    item['f'][1]
    """
    path = what
    if obj is not None:
        path += _culprit(obj, attempt)
    for inner, name in _PARTS.items():
        if path.startswith(inner):
            path = name + path.removeprefix(inner)
            break
    reason = f"{type(cause).__name__}: {text_of(cause)}"
    if what == "result":
        made: SerializationError = ResultError(
            path=path, reason=reason, exc=shortened(cause, 160), value=shortened(obj)
        )
    else:
        made = SerializationError(what=what, path=path, reason=reason, index=index)
    made.__cause__ = cause
    return made


#: What is sent as one, and what its parts are to the caller.
_PARTS = {
    "initializer[0]": "initializer",
    "initializer[1]": "initargs",
    "call[0]": "args",
    "call[1]": "kwds",
    "call._target": "target",
    "call._args": "args",
    "call._kwargs": "kwargs",
}


def _fails(obj: object, attempt: Callable[..., object]) -> bool:
    try:
        attempt(obj, [])
    except KeyboardInterrupt:
        raise
    except BaseException:  # an object's own methods may raise anything
        return True
    return False


def _culprit(root: object, attempt: Callable[..., object] | None) -> str:
    """The way from `root` to the innermost part that fails to pickle."""
    path, obj = "", root
    seen = {id(root)}
    left = _SEARCH_MOST
    for _ in range(_SEARCH_DEPTH):
        if attempt in (None, dumps) and type(obj) is FunctionType:
            attempt = _by_value  # as it failed by name, what it uses of `__main__` goes by value, too
        for step, part in _parts(obj):
            left -= 1
            if left < 0:
                return path
            if type(part) in _ATOMS or id(part) in seen or not _fails(part, attempt or dumps):
                continue
            seen.add(id(part))
            path, obj = path + step, part
            break
        else:
            return path
    return path


_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


def _parts(obj: object) -> Iterator[tuple[str, object]]:
    """The parts of an object, each with how to write the way to it: as many as it shows."""
    try:
        yield from _parts_of(obj)
    except (Exception, SystemExit):
        return


def _parts_of(obj: object) -> Iterable[tuple[str, object]]:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"[{shortened(key)}]", value
            yield f" key {shortened(key)}", key
    elif isinstance(obj, (list, tuple)):
        names = getattr(obj, "_fields", None)
        for at, value in enumerate(obj):
            yield (f".{names[at]}" if names else f"[{at}]"), value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f" member {shortened(value)}", value
    elif isinstance(obj, functools.partial):
        yield ".func", obj.func
        for at, value in enumerate(obj.args):
            yield f".args[{at}]", value
        for name, value in obj.keywords.items():
            yield f".keywords[{shortened(name)}]", value
    elif isinstance(obj, MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, FunctionType):
        if byvalue.cloudpickle() is not None:  # else it is the function itself that has no pickle
            yield from _parts_of_function(obj)
    elif isinstance(obj, type):
        if byvalue.cloudpickle() is not None:
            yield from _parts_of_class(obj)
    else:
        obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # raises where it refuses by itself, for no part of it
        for name, value in list(getattr(obj, "__dict__", {}).items()):
            yield f".{name}", value
        for cls in type(obj).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else tuple(slots):
                if hasattr(obj, name):
                    yield f".{name}", getattr(obj, name)
        if byvalue.cloudpickle() is not None:
            yield ".__class__", type(obj)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What cloudpickle sends along with a function."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is empty as yet
            yield f".{name}", cell.cell_contents
    for name in sorted(byvalue.globals_of(function.__code__)):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]
    for at, value in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{at}]", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", value


def _parts_of_class(cls: type) -> Iterator[tuple[str, object]]:
    """What cloudpickle sends along with a class."""
    for name, value in list(vars(cls).items()):
        if isinstance(value, (staticmethod, classmethod)):
            yield f".{name}", value.__func__
        elif isinstance(value, property):
            yield f".{name}", value.fget
        elif isinstance(value, FunctionType) or not name.startswith("__"):
            yield f".{name}", value
    for base in cls.__bases__:
        yield f".__bases__[{base.__name__}]", base


def shortened(obj: object, most: int = 40) -> str:
    """The `repr` of something that may not have one, of at most so many characters."""
    try:
        text = repr(obj)
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = f"<{type(obj).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."
