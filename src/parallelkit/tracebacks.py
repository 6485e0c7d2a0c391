"""Exceptions to bytes and back, with their tracebacks, causes, notes and members.

The bytes are a pickle of plain types: a table of nodes, one for each exception that can be reached, and in
each node the exception in one of three forms. `plain`: a builtin with plain arguments. `whole`: its own
pickle, where that brings back all of it. Else it is taken apart into class, arguments, attributes and fields,
each a pickle by itself, so that what cannot be sent damages that piece only. What cannot be rebuilt damages
its own node only, which becomes a `RemoteError`. Neither direction raises.
"""

from __future__ import annotations

import functools
import io
import pickle
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import byvalue, serialization
from .errors import RemoteError
from .rebuilding import HEAP_TYPE, NO_NODE, Frame, Rebuilding, Unpickler, text_of

__all__ = ["add_note", "dumps", "loads", "notes_of"]

#: More of `AttributeError.obj` is not sent, in bytes: it only serves to suggest another name.
_LARGEST_OBJ = 1 << 16
_LONGEST_REPR = 1000


def dumps(exception: BaseException) -> bytes:
    """The bytes of an exception and of all that belongs to it.

    >>> loads(dumps(KeyError("k")))
    KeyError('k')
    """
    try:
        table = _Table()
        table.number(exception)
        for error in table.errors:  # which grows meanwhile
            table.nodes.append(_describe(error, table))
        return pickle.dumps(table.nodes, 5)
    except KeyboardInterrupt:
        raise
    except BaseException as why:  # whatever the exception's own methods may do
        bare = ValueError(f"({_class_name(exception)} cannot be looked into: {type(why).__name__})")
        node = _outline(bare, _Table()) | {"name": _class_name(exception), "frames": _frames(exception)}
        return pickle.dumps([node], 5)


def loads(data: bytes) -> BaseException:
    """The exception that `dumps` was given; `RemoteError` where it cannot be rebuilt here.

    >>> error = loads(dumps(OSError(2, "No such file or directory", "a.txt")))
    >>> error.filename
    'a.txt'
    """
    try:
        return Rebuilding(pickle.loads(data)).all()[0]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        printed = "".join(traceback.format_exception(error))
        return RemoteError(type_name="exception", text="it could not be read", traceback=printed)


def add_note(exception: BaseException, text: str) -> None:
    """Add a note; where the exception does not let itself be changed, there is none.

    >>> error = ValueError(1)
    >>> add_note(error, "look here")
    >>> error.__notes__
    ['look here']
    """
    notes = notes_of(exception)
    try:
        if isinstance(notes, list):
            notes.append(text)
        else:
            BaseException.__setattr__(exception, "__notes__", [text])
    except Exception:
        return


def notes_of(exception: BaseException) -> Any:
    """The very list of an exception's notes; None, or anything else, where it has none that can be had."""
    return _fetch(exception, "__notes__")


class _Table:
    """The exceptions on their way into the bytes, each under its number."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.nodes: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def number(self, error: BaseException | None) -> int:
        if error is None:
            return NO_NODE
        known = self._numbers.get(id(error))
        if known is None:
            known = self._numbers[id(error)] = len(self.errors)
            self.errors.append(error)
        return known

    def pickle(self, value: object) -> bytes:
        """A pickle in which exceptions are references to their nodes."""

        def reference(obj: object) -> int | None:
            return self.number(obj) if isinstance(obj, BaseException) else None

        return _dump(value, reference)

    def find(self, number: int) -> BaseException:
        return self.errors[number]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[object], int | None]) -> None:
        super().__init__(file, 5)
        self._reference = reference

    def persistent_id(self, obj: object) -> int | None:
        return self._reference(obj)


def _dump(value: object, reference: Callable[[object], int | None]) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, reference).dump(value)
    except Exception:
        by_value = _by_value()
        if by_value is None:
            raise
        file = io.BytesIO()
        by_value(file, reference).dump(value)
    return file.getvalue()


def _by_value() -> Callable[[io.BytesIO, Callable[[object], int | None]], Any] | None:
    base = byvalue.pickler_class()
    return None if base is None else _by_value_class(base)


@functools.cache
def _by_value_class(base: Any) -> Any:
    def start(self: Any, file: io.BytesIO, reference: Callable[[object], int | None]) -> None:
        base.__init__(self, file, 5)
        self._reference = reference

    members = {"__init__": start, "persistent_id": lambda self, obj: self._reference(obj)}
    return type("_ByValuePickler", (base,), members)


def _describe(error: BaseException, table: _Table) -> dict[str, Any]:
    node = _outline(error, table)
    if _is_plain(error):
        node["plain"] = (type(error).__name__, error.args)
        return node
    try:
        whole = _whole(error)
        if whole is not None:
            node["whole"] = whole
            return node
    except KeyboardInterrupt:
        raise
    except BaseException:  # the exception's own methods may raise anything
        pass
    _take_apart(error, node, table)
    return node


def _outline(error: BaseException, table: _Table) -> dict[str, Any]:
    """What is the same for all forms."""
    return {
        "name": _class_name(error),
        "text": text_of(error),
        "frames": _frames(error),
        "cause": table.number(error.__cause__),
        "context": table.number(error.__context__),
        "suppress": error.__suppress_context__,
        "notes": [text_of(note) for note in _notes(error)],
    }


_PLAIN = frozenset(
    {
        ArithmeticError,
        AssertionError,
        BufferError,
        EOFError,
        Exception,
        FloatingPointError,
        IndexError,
        KeyboardInterrupt,
        KeyError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OverflowError,
        RecursionError,
        ReferenceError,
        RuntimeError,
        TypeError,
        ValueError,
        ZeroDivisionError,
    }
)
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})


def _is_plain(error: BaseException) -> bool:
    return (
        type(error) in _PLAIN
        and not (error.__dict__.keys() - {"__notes__"})
        and all(type(argument) in _ATOMS for argument in error.args)
    )


def _whole(error: BaseException) -> bytes | None:
    """The exception's own pickle, if that brings all of it back, and refers to no other exception.

    With other exceptions in it there may be cycles, which only what is taken apart can be rebuilt from.
    """
    others = False

    def reference(obj: object) -> int | None:
        nonlocal others
        if not isinstance(obj, BaseException) or obj is error:
            return None
        others = True
        return 0

    data = _dump(error, reference)
    if others:
        return None
    copy = pickle.loads(data)
    survives = (
        type(copy) is type(error)
        and _same(copy.args, error.args)
        and text_of(copy) == text_of(error)
        and _same(_state(copy), _state(error))
        and _same(dict(_fields(copy)), dict(_fields(error)))
    )
    return data if survives else None


def _same(one: object, other: object) -> bool:
    """Whether two values look the same. What tells its address does not, and is taken apart: no harm."""
    return repr(one) == repr(other)


def _take_apart(error: BaseException, node: dict[str, Any], table: _Table) -> None:
    """Describe an exception by its class, arguments, attributes and fields, one by one."""
    try:
        if isinstance(error, BaseExceptionGroup):
            node["members"] = (error.message, [table.number(e) for e in error.exceptions])
        node["class"] = _dump(type(error), lambda _: None)
        pickle.loads(node["class"])
        node["args"] = [_piece(argument, table) for argument in error.args]
        node["state"] = {name: _piece(value, table) for name, value in _state(error).items()}
        node["fields"] = {name: _piece(value, table, name) for name, value in _fields(error)}
    except KeyboardInterrupt:
        raise
    except BaseException:
        node.pop("class", None)


def _piece(value: object, table: _Table, name: str = "") -> bytes | tuple[str, str]:
    """A pickle; or, for what has none, its repr and why not."""
    try:
        data = table.pickle(value)
        Unpickler(data, table.find).load()
        if name == "obj" and len(data) > _LARGEST_OBJ:
            raise ValueError("too large to be sent along")
    except KeyboardInterrupt:
        raise
    except BaseException as why:
        return serialization.shortened(value, _LONGEST_REPR), f"{type(why).__name__}: {text_of(why)}"
    return data


def _state(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in error.__dict__.items() if name != "__notes__"}


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What C code and `__slots__` keep outside of `__dict__`."""
    for cls in type(error).__mro__:
        if cls in (BaseException, BaseExceptionGroup, object):
            continue
        for name, member in list(vars(cls).items()):
            if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                if name in ("__dict__", "__weakref__"):
                    continue
                try:
                    value = member.__get__(error, type(error))
                except AttributeError:
                    continue
                # In C, None stands for what was never set; set to None it would be printed.
                if value is not None or cls.__flags__ & HEAP_TYPE:
                    yield name, value


def _fetch(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name)
    except Exception:
        return None


def _notes(error: BaseException) -> list[Any]:
    notes = _fetch(error, "__notes__")
    return list(notes) if isinstance(notes, (list, tuple)) else []


def _class_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _frames(error: BaseException) -> list[Frame]:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code, scope = trace.tb_frame.f_code, trace.tb_frame.f_globals
        name, file = scope.get("__name__"), scope.get("__file__")
        line: int | None = trace.tb_lineno  # None for code that stands in no line
        frames.append(
            (
                code.co_filename,
                code.co_name,
                code.co_firstlineno if line is None else line,
                name if isinstance(name, str) else "",
                file if isinstance(file, str) else "",
            )
        )
        trace = trace.tb_next
    return frames
