"""Exceptions to bytes and back, with their tracebacks, causes, notes and members.

The bytes are a pickle of plain types: a table of nodes, one for each exception that can be reached, and in
each node the exception's own pickle as bytes. What cannot be rebuilt damages its own node only, which
becomes a `RemoteError`. Neither direction raises.
"""

from __future__ import annotations

import io
import pickle
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import serialization
from .errors import RemoteError

__all__ = ["add_note", "dumps", "loads"]

_Frames = list[tuple[str, str, int, str, dict[str, str]]]
_NO_NODE = -1


def dumps(exception: BaseException) -> bytes:
    """The bytes of an exception and of all that belongs to it.

    >>> loads(dumps(KeyError("k")))
    KeyError('k')
    """
    table = _Table()
    table.number(exception)
    for error in table.errors:  # which grows meanwhile
        table.nodes.append(_describe(error, table))
    return pickle.dumps(table.nodes, 5)


def loads(data: bytes) -> BaseException:
    """The exception that `dumps` was given; `RemoteError` where it cannot be rebuilt here."""
    try:
        nodes: list[dict[str, Any]] = pickle.loads(data)
        return _Rebuilding(nodes).all()[0]
    except Exception as error:
        return RemoteError(type_name="exception", text="it could not be read", traceback=_text_of(error))


def add_note(exception: BaseException, text: str) -> None:
    """Add a note; where the exception does not let itself be changed, there is none."""
    notes = _fetch(exception, "__notes__")
    try:
        if isinstance(notes, list):
            notes.append(text)
        else:
            BaseException.__setattr__(exception, "__notes__", [text])
    except Exception:
        return


# From exceptions to nodes


class _Table:
    """The exceptions on their way into the bytes, each under its number."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.nodes: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def number(self, error: BaseException | None) -> int:
        if error is None:
            return _NO_NODE
        known = self._numbers.get(id(error))
        if known is None:
            known = self._numbers[id(error)] = len(self.errors)
            self.errors.append(error)
        return known

    def pickle(self, obj: object, owner: BaseException) -> bytes:
        """A pickle in which exceptions other than `owner` are references to their nodes."""
        try:
            return _dump(pickle.Pickler, obj, self, owner)
        except Exception:
            try:
                import cloudpickle
            except ImportError:
                cloudpickle = None
            if cloudpickle is None:
                raise
            return _dump(cloudpickle.Pickler, obj, self, owner)


def _dump(base: Any, obj: object, table: _Table, owner: BaseException) -> bytes:
    file = io.BytesIO()
    pickler = type("Pickler", (base,), {"persistent_id": lambda _, o: _reference(o, table, owner)})
    pickler(file, 5).dump(obj)
    return file.getvalue()


def _reference(obj: object, table: _Table, owner: BaseException) -> int | None:
    if isinstance(obj, BaseException) and obj is not owner:
        return table.number(obj)
    return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, find: Callable[[int], BaseException]) -> None:
        super().__init__(io.BytesIO(data))
        self._find = find

    def persistent_load(self, pid: Any) -> BaseException:
        return self._find(pid)


def _describe(error: BaseException, table: _Table) -> dict[str, Any]:
    cls = type(error)
    node: dict[str, Any] = {
        "name": f"{cls.__module__}.{cls.__qualname__}",
        "text": _str(error),
        "frames": list(_frames(error.__traceback__)),
        "cause": table.number(error.__cause__),
        "context": table.number(error.__context__),
        "suppress": error.__suppress_context__,
        "notes": [str(note) for note in _notes(error)],
    }
    if cls.__module__ == "builtins" and _is_plain(error):
        node["plain"] = (cls.__name__, error.args)
        return node
    try:
        whole = table.pickle(error, error)
        if _survives(error, whole, table):
            node["whole"] = whole
            return node
    except RecursionError:
        pass
    except Exception:
        pass
    _take_apart(error, node, table)
    node["printed"] = _text_of(error)
    return node


_PLAIN = frozenset(
    [
        "ArithmeticError",
        "AssertionError",
        "BufferError",
        "EOFError",
        "Exception",
        "FloatingPointError",
        "IndexError",
        "KeyError",
        "LookupError",
        "MemoryError",
        "NotImplementedError",
        "OverflowError",
        "RecursionError",
        "ReferenceError",
        "RuntimeError",
        "TypeError",
        "ValueError",
        "ZeroDivisionError",
        "KeyboardInterrupt",
    ]
)


def _is_plain(error: BaseException) -> bool:
    return (
        type(error).__name__ in _PLAIN
        and not (error.__dict__.keys() - {"__notes__"})
        and all(type(argument) in (str, int, float, bool, type(None)) for argument in error.args)
    )


def _survives(error: BaseException, whole: bytes, table: _Table) -> bool:
    """Whether the exception's own way to be pickled brings all of it back."""
    copy = _Unpickler(whole, lambda number: table.errors[number]).load()
    return (
        type(copy) is type(error)
        and repr(copy.args) == repr(error.args)
        and _str(copy) == _str(error)
        and (copy.__dict__.keys() | {"__notes__"}) == (error.__dict__.keys() | {"__notes__"})
        and all(repr(_fetch(copy, n)) == repr(v) for n, v in _fields(error))
    )


def _take_apart(error: BaseException, node: dict[str, Any], table: _Table) -> None:
    """Describe an exception by its class, arguments, attributes and fields, one by one."""
    try:
        node["class"] = serialization.dumps(type(error))
        node["args"] = [_piece(argument, error, table) for argument in error.args]
        if isinstance(error, BaseExceptionGroup):
            node["members"] = (error.message, [table.number(e) for e in error.exceptions])
        state = {k: v for k, v in error.__dict__.items() if k != "__notes__"}
        node["state"] = {k: _piece(v, error, table) for k, v in state.items()}
        node["fields"] = {k: _piece(v, error, table) for k, v in _fields(error)}
    except Exception:
        node.pop("class", None)


def _piece(value: object, owner: BaseException, table: _Table) -> bytes | str:
    """A pickle, or, for what has none, why not."""
    try:
        data = table.pickle(value, owner)
        _Unpickler(data, lambda number: table.errors[number]).load()
    except Exception as why:
        return f"{type(value).__name__}: {_str(why)}"
    return data


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What C code and `__slots__` keep outside of `__dict__`."""
    for cls in type(error).__mro__:
        if cls in (BaseException, BaseExceptionGroup, object):
            continue
        for name, member in list(vars(cls).items()):
            if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                if name in ("__dict__", "__weakref__", "characters_written"):
                    continue
                try:
                    yield name, member.__get__(error, type(error))
                except AttributeError:
                    continue


def _fetch(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name)
    except Exception:
        return None


def _notes(error: BaseException) -> list[Any]:
    notes = _fetch(error, "__notes__")
    return list(notes) if isinstance(notes, (list, tuple)) else []


def _str(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as why:
        return f"(its text cannot be had: {type(why).__name__})"


def _text_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return f"{type(error).__name__} (its traceback cannot be printed)"


def _frames(trace: types.TracebackType | None) -> Iterator[tuple[str, str, int, str, dict[str, str]]]:
    while trace is not None:
        frame = trace.tb_frame
        code, scope = frame.f_code, frame.f_globals
        known = {
            name: value for name in ("__name__", "__file__") if isinstance(value := scope.get(name), str)
        }
        yield code.co_filename, code.co_name, trace.tb_lineno, code.co_qualname, known
        trace = trace.tb_next


# From nodes to exceptions


class _Rebuilding:
    """The exceptions on their way out of the bytes."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self._nodes = nodes
        self._made: dict[int, BaseException] = {}
        self._under_way: set[int] = set()

    def all(self) -> list[BaseException]:
        made = [self.find(number) for number in range(len(self._nodes))]
        for error, node in zip(made, self._nodes, strict=True):
            _attach(error, node, self)
        return made

    def find(self, number: int) -> BaseException:
        known = self._made.get(number)
        if known is None:
            if number in self._under_way:
                raise pickle.UnpicklingError("an exception that is one of its own arguments")
            self._under_way.add(number)
            node = self._nodes[number]
            try:
                known = self._make(node)
            except Exception as error:
                known = _stand_in(node)
                BaseException.__setattr__(known, "__notes__", [f"not rebuilt: {_str(error)}"])
            self._made[number] = known
        return known

    def _make(self, node: dict[str, Any]) -> BaseException:
        if "plain" in node:
            name, args = node["plain"]
            made: BaseException = getattr(__import__("builtins"), name)(*args)
            return made
        if "whole" in node:
            made = _Unpickler(node["whole"], self.find).load()
            return made
        if "class" not in node:
            return _stand_in(node)
        return self._put_together(node)

    def _put_together(self, node: dict[str, Any]) -> BaseException:
        cls = serialization.loads(node["class"])
        args = tuple(self._load(piece) for piece in node["args"])
        if "members" in node:
            message, members = node["members"]
            made: BaseException = cls.__new__(cls, message, [self.find(n) for n in members])
        else:
            made = cls.__new__(cls, *args)
        made.args = args
        lost = []
        for name, piece in [*node["fields"].items(), *node["state"].items()]:
            if isinstance(piece, bytes):
                _set(made, cls, name, self._load(piece))
            elif name != "obj":
                lost.append(f"parallelkit: attribute {name} was left behind ({piece})")
        node["notes"] = [*node["notes"], *lost]
        return made

    def _load(self, piece: bytes | str) -> Any:
        return _Unpickler(piece, self.find).load() if isinstance(piece, bytes) else f"<{piece}>"


def _set(error: BaseException, cls: type[BaseException], name: str, value: object) -> None:
    for base in cls.__mro__:
        member = vars(base).get(name)
        if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            try:
                member.__set__(error, value)
            except (AttributeError, TypeError, ValueError):
                return
            return
    error.__dict__[name] = value


def _stand_in(node: dict[str, Any]) -> RemoteError:
    printed = node.get("printed")
    if printed is None:
        lines = [f'  File "{file}", line {line}, in {name}\n' for file, name, line, *_ in node["frames"]]
        printed = "".join(lines) + f"{node['name']}: {node['text']}\n"
    name = node["name"].removeprefix("builtins.")
    return RemoteError(type_name=name, text=node["text"], traceback=printed)


def _attach(error: BaseException, node: dict[str, Any], made: _Rebuilding) -> None:
    put = BaseException.__setattr__
    for name, key in (("__cause__", "cause"), ("__context__", "context")):
        if node[key] != _NO_NODE:
            put(error, name, made.find(node[key]))
    put(error, "__suppress_context__", node["suppress"])
    if node["notes"]:
        put(error, "__notes__", [*node["notes"]])
    trace = _trace(node["frames"])
    if trace is not None:
        BaseException.with_traceback(error, trace)


def _trace(frames: _Frames) -> types.TracebackType | None:
    """A real traceback, by tblib."""
    if not frames:
        return None
    from tblib import Traceback

    first = last = None
    for file, name, line, _, known in frames:
        code = types.SimpleNamespace(co_filename=file, co_name=name)
        frame = types.SimpleNamespace(
            f_code=code, f_globals=known, f_lineno=line, f_locals={}, clear=lambda: None
        )
        entry: Any = Traceback(types.SimpleNamespace(tb_frame=frame, tb_lineno=line, tb_next=None))
        if last is None:
            first = entry
        else:
            last.tb_next = entry
        last = entry
    assert first is not None
    trace: types.TracebackType = first.as_traceback()
    return trace
