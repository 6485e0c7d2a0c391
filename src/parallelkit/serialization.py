"""Objects to bytes and back: pickle, and cloudpickle for what pickle cannot do; and who was to blame."""

from __future__ import annotations

import functools
import pickle
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any

from typing_extensions import Buffer

from .errors import ResultError, SerializationError


def loads(data: Buffer, buffers: Iterable[Any] = ()) -> Any:
    """The object that `dumps` was given; `buffers` are those that travelled beside the pickle."""
    return pickle.loads(data, buffers=buffers)


#: Buffers from this size on travel beside the pickle and not in it, in bytes.
LARGE = 1 << 15
#: The search for a culprit gives up after so many objects.
_SEARCH_MOST = 2000
_SEARCH_DEPTH = 12


def dumps(
    obj: object,
    buffers: list[pickle.PickleBuffer] | None = None,
    pickler: Callable[..., bytes] = pickle.dumps,
) -> bytes:
    """The pickle of `obj`, by cloudpickle where plain pickle fails and cloudpickle is installed.

    With `buffers`, large buffers are appended there and are not in the pickle. `pickler` is called as
    `pickle.dumps` is.

    >>> loads(dumps([1, 2]))
    [1, 2]
    """
    keep = None if buffers is None else _keeper(buffers)
    try:
        return pickler(obj, 5, buffer_callback=keep)
    except Exception:
        if buffers:
            buffers.clear()
        data = _cloudpickle(obj, keep)
        if data is None:
            raise
        return data


def _keeper(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    def in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            small = buffer.raw().nbytes < LARGE
        except BufferError:  # not contiguous
            return True
        if not small:
            buffers.append(buffer)
        return small

    return in_band


def _cloudpickle(obj: object, keep: Callable[[pickle.PickleBuffer], bool] | None) -> bytes | None:
    try:
        import cloudpickle
    except ImportError:
        return None
    data: bytes = cloudpickle.dumps(obj, 5, buffer_callback=keep)
    return data


def can_be_sent(function: Callable[..., Any]) -> bool:
    """Whether a fresh interpreter could rebuild `function`.

    >>> can_be_sent(len)
    True
    """
    try:
        dumps(function, [])
    except Exception:
        return False
    main = sys.modules.get("__main__")
    if getattr(function, "__module__", None) != "__main__" or main is None:
        return True
    # What lives in __main__ is pickled by its name: a fresh interpreter has it where __main__ is a file
    # or module that can be run again.
    return getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")


def error(what: str, obj: object, cause: BaseException, *, index: int | None = None) -> SerializationError:
    """The error that says what of `obj` could not be sent or read, and why.

    `obj` is None where only `cause` is known.

    >>> print(error("item", {"f": [1, lambda: 0]}, TypeError("no")).path)
    item['f'][1]
    """
    path = what
    if obj is not None:
        path += _culprit(obj)
    reason = f"{type(cause).__name__}: {_text(cause)}"
    if what == "result":
        value = reprlib.repr(obj)
        made: SerializationError = ResultError(path=path, reason=reason, exc=_short(cause), value=value)
    else:
        made = SerializationError(what=what, path=path, reason=reason, index=index)
    made.__cause__ = cause
    return made


def _text(cause: BaseException) -> str:
    try:
        return str(cause)
    except Exception:
        return "(its text cannot be had)"


def _fails(obj: object) -> bool:
    try:
        dumps(obj)
    except Exception:
        return True
    return False


def _culprit(root: object) -> str:
    """The way from `root` to the innermost part that fails to pickle."""
    path, obj = "", root
    seen = {id(root)}
    left = _SEARCH_MOST
    for _ in range(_SEARCH_DEPTH):
        for step, part in _parts(obj):
            left -= 1
            if left < 0:
                return path
            if type(part) in _ATOMS or id(part) in seen or not _fails(part):
                continue
            seen.add(id(part))
            path, obj = path + step, part
            break
        else:
            return path
    return path


_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


def _parts(obj: object) -> Iterator[tuple[str, object]]:
    """The parts of an object, each with how to write the way to it. Never raises."""
    try:
        yield from _parts_of(obj)
    except Exception:
        return


def _parts_of(obj: object) -> Iterable[tuple[str, object]]:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"[{_short(key)}]", value
            yield f" key {_short(key)}", key
    elif isinstance(obj, (list, tuple)):
        names = getattr(obj, "_fields", None)
        for at, value in enumerate(obj):
            yield (f".{names[at]}" if names else f"[{at}]"), value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f" member {_short(value)}", value
    elif isinstance(obj, functools.partial):
        yield ".func", obj.func
        for at, value in enumerate(obj.args):
            yield f".args[{at}]", value
        for name, value in obj.keywords.items():
            yield f".keywords[{_short(name)}]", value
    elif isinstance(obj, MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            yield f".{name}", cell.cell_contents
    elif not isinstance(obj, type):
        for name, value in list(getattr(obj, "__dict__", {}).items()):
            yield f".{name}", value
        for cls in type(obj).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else tuple(slots):
                if hasattr(obj, name):
                    yield f".{name}", getattr(obj, name)


def _short(obj: object) -> str:
    try:
        text = repr(obj)
    except Exception:
        text = f"<{type(obj).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."
