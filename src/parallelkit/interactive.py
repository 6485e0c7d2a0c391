"""Sends functions and classes of a `__main__` that a fresh interpreter cannot run again, or is not to.

A notebook's `__main__`, say, or that of `python -c`, of standard input, of a package or a zip file; or any
one, with `ProcessesEngine(import_main=False)`. Pickle refers to what it has by name, which means nothing
elsewhere. With cloudpickle, a pickle that refers to it brings along what it refers to, and what that uses,
and sets it in the reader's own `__main__`:

    in the notebook                          in the worker
      def helper(x): return x * factor         main.factor = 3, main.helper = <function>
      def work(x): return helper(x)            main.work = <function>
      pool.map(work, ...)                      call main.work

So names mean the same on both sides: what comes back is an instance of the notebook's own class, and what an
initializer sets is there for the functions.

1. What is sent is as it is at the call, so a function that was defined anew runs anew.
2. A value is set in the worker where it is not the one that was set the last time. So what a worker has
   changed itself, as by an initializer, stays until the notebook changes it, too.
3. A forked worker has `__main__` already. It is sent what is not the object that was there when the first of
   them was forked, and what has been another one since. (Lists and the like that were changed in place are
   not seen, as with multiprocessing.)
4. Without cloudpickle a fresh interpreter fails to find the name, and says so. A forked worker would find the
   old function; so where that is not today's, it is refused here.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from . import byvalue, serialization
from .byvalue import main_name

_NAME = b"__main__"


def can_be_run_again() -> bool:
    """Whether a fresh interpreter would run the program's `__main__`, and all of it.

    Not that of a notebook, of standard input or of `python -c`, nor what was typed after `python -i`. Nor
    that of a package, a folder or a zip file, which multiprocessing leaves alone.
    """
    main = sys.modules.get("__main__")
    if hasattr(sys, "ps1") or sys.flags.inspect:
        return False
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return not (spec.name == "__main__" or spec.name.endswith(".__main__"))
    file = getattr(main, "__file__", None)
    return isinstance(file, str) and os.path.exists(file)


def can_be_sent(function: Callable[..., Any]) -> bool:
    """Whether a fresh interpreter could rebuild `function`.

    >>> can_be_sent(len)
    True
    """
    try:
        data = serialization.dumps(function)
        if _NAME not in data or can_be_run_again():
            return True
        if byvalue.cloudpickle() is None:
            return not _names_in(function)
        Mirror().by_value(function, [])
    except Exception:
        return False
    return True


def needs_definitions(data: bytes) -> bool:
    """Whether a fresh interpreter needs what `__main__` has to read this pickle, and can be sent it."""
    return _NAME in data and not can_be_run_again() and byvalue.cloudpickle() is not None


def dumps_by_value(obj: object, reducers: byvalue.Reducers) -> bytes:
    """The pickle of `obj` for a fresh interpreter, by cloudpickle, which has to be there."""
    if not can_be_run_again():
        return Mirror(reducers).by_value(obj, None)
    data = byvalue.dumps(obj, reducers=reducers)
    assert data is not None
    return data


@contextmanager
def without_lost_file() -> Iterator[None]:
    """Have no fresh interpreter look for a file of `__main__` that is not there: it would fail.

    That of standard input is "<stdin>". What several threads start at once is started without it.
    """
    global _without_file, _lost_file
    main = vars(_main())
    with _file_lock:
        file = main.get("__file__")
        if main.get("__spec__") is None and isinstance(file, str) and not os.path.exists(file):
            _lost_file = main.pop("__file__")
        _without_file += 1
    try:
        yield
    finally:
        with _file_lock:
            _without_file -= 1
            if not _without_file and _lost_file is not None:
                main["__file__"], _lost_file = _lost_file, None


_file_lock = threading.Lock()
_without_file = 0
_lost_file: str | None = None


def _forget_other_threads() -> None:
    """In a forked child: the threads that were starting something are not there."""
    global _file_lock, _without_file, _lost_file
    _file_lock = threading.Lock()
    _without_file = 0
    if _lost_file is not None:
        vars(_main())["__file__"], _lost_file = _lost_file, None


os.register_at_fork(after_in_child=_forget_other_threads)


class _References(pickle.Pickler):
    """Notes which names of `__main__` a pickle refers to."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), 5, buffer_callback=lambda _: None)
        self.names: list[str] = []

    def reducer_override(self, obj: Any) -> Any:
        name = main_name(obj)
        if name is not None:
            self.names.append(name)
        return NotImplemented


def _names_in(obj: object) -> list[str]:
    finder = _References()
    finder.dump(obj)
    return finder.names


class Mirror:
    """Pickles objects for readers whose `__main__` is a mirror of ours.

    reducers: as of a pickler's `dispatch_table`, for what only multiprocessing can send.
    """

    def __init__(self, reducers: byvalue.Reducers | None = None) -> None:
        self._reducers = reducers
        self._picklers = serialization.Picklers(reducers, by_value=lambda *_: None)
        #: For readers that are forks: what `__main__` had when the first was made.
        #: Whether a value is the one, by its name. Without what has been sent since.
        self._inherited: dict[str, Callable[[object], bool]] | None = None

    def inherit(self) -> None:
        """The readers are forks of this process from now on."""
        if self._inherited is None:
            self._inherited = {name: _recognizer(value) for name, value in vars(_main()).items()}

    def dumps(self, obj: object, buffers: list[pickle.PickleBuffer]) -> bytes:
        """As `serialization.dumps`."""
        large: list[pickle.PickleBuffer] = []
        try:
            data = self._picklers.dumps(obj, large)
        except Exception:
            if byvalue.cloudpickle() is None:
                raise
        else:
            if _NAME not in data or not self._is_news(obj):
                buffers += large
                return data
        return self.by_value(obj, buffers)

    def _is_news(self, obj: object) -> bool:
        """Whether readers have to be sent something of `__main__`, which they can be sent."""
        if self._inherited is None:
            return byvalue.cloudpickle() is not None
        changed = [name for name in self._reached(_names_in(obj)) if not self._has(name)]
        if changed and byvalue.cloudpickle() is None:
            changed = [name for name in changed if isinstance(vars(_main())[name], (type, FunctionType))]
            if changed:
                raise pickle.PicklingError(
                    f"{changed[0]} of __main__ was defined after the workers had been forked, "
                    "which have another one or none"
                )
        return bool(changed)

    def _has(self, name: str) -> bool:
        """Whether the readers have inherited what `__main__` has under that name."""
        if self._inherited is None or name not in self._inherited:
            return False
        return self._inherited[name](vars(_main())[name])

    @staticmethod
    def _reached(names: list[str]) -> list[str]:
        """These names, and those that their functions and classes use."""
        scope = vars(_main())
        found: dict[str, None] = {}
        left = deque(names)
        while left:
            name = left.popleft()
            if name in scope and name not in found:
                found[name] = None
                left += _uses(scope[name])
        return list(found)

    def by_value(self, obj: object, buffers: list[pickle.PickleBuffer] | None) -> bytes:
        """As `serialization.dumps`, with what readers need of `__main__`. cloudpickle has to be there."""
        large: list[pickle.PickleBuffer] = []
        keeper = None if buffers is None else serialization.keeper(large)
        pickler = byvalue.main_pickler(buffer_callback=keeper, reducers=self._reducers)
        pickler.dump(obj)
        data = pickler.file.getvalue()
        definitions = self._definitions([*pickler.names, *pickler.globals])
        if not definitions:
            if buffers is not None:
                buffers += large
            return bytes(data)
        parts = [(name, pickle.PickleBuffer(body)) for name, body in definitions.items()]
        message = _Message(parts, pickle.PickleBuffer(data), large)
        keeper = None if buffers is None else serialization.keeper(buffers)
        return pickle.dumps(message, 5, buffer_callback=keeper)

    def _definitions(self, names: list[str]) -> dict[str, bytes]:
        """The pickles of what these names stand for and of what that uses, in the order to load them in."""
        scope = vars(_main())
        found: dict[str, bytes] = {}
        seen: set[str] = set()
        left = deque(names)
        while left:
            name = left.popleft()
            if name in seen or name not in scope:
                continue
            seen.add(name)
            if self._has(name):
                left += _uses(scope[name])
            else:
                left += self._define(name, found, ())
        return found

    def _define(self, name: str, found: dict[str, bytes], under_way: tuple[str, ...]) -> list[str]:
        """Add the pickle of one, after those that it refers to; return the names that its functions use."""
        if name in found or name in under_way or self._has(name):
            return [name]
        # Who refers to each other cannot both be first: the one that is under way goes along.
        under_way = (*under_way, name)
        pickler = byvalue.main_pickler(under_way, reducers=self._reducers)
        try:
            pickler.dump(vars(_main())[name])
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise pickle.PicklingError(f"{name} of __main__: {error}") from error
        used = list(pickler.globals)
        for other in pickler.names:
            used += self._define(other, found, under_way)
        found[name] = pickler.file.getvalue()
        if self._inherited is not None:
            self._inherited.pop(name, None)  # no reader that gets this has it any more
        return used


def _main() -> Any:
    return sys.modules["__main__"]


def _recognizer(value: object) -> Callable[[object], bool]:
    """Tells whether an object is `value`, which is not kept alive where that can be helped."""
    try:
        reference = weakref.ref(value)
    except TypeError:
        return lambda other: other is value
    return lambda other: other is not None and reference() is other  # a dead one gives None


def _uses(value: object) -> set[str]:
    """The global names that a function or class may use, as far as its code tells."""
    names: set[str] = set()
    seen: set[int] = set()
    left: deque[object] = deque([value])
    while left:
        part = left.popleft()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, FunctionType):
            if part.__globals__ is vars(_main()):
                names |= byvalue.globals_of(part.__code__)
            left += part.__defaults__ or ()
            left += (part.__kwdefaults__ or {}).values()
            for cell in part.__closure__ or ():
                try:
                    left.append(cell.cell_contents)
                except ValueError:  # it is empty as yet
                    continue
        elif isinstance(part, type):
            if part.__module__ == "__main__":
                left += part.__bases__
                left += list(vars(part).values())
                names |= {name for name in (main_name(part),) if name is not None}
        elif isinstance(part, (staticmethod, classmethod, byvalue.CACHED)):
            left.append(part.__wrapped__)
        elif isinstance(part, property):
            left += (part.fget, part.fset, part.fdel)
    return names


class _Message:
    """Pickled, it is the object that `data` is the pickle of, behind the `definitions` that this needs."""

    def __init__(self, definitions: Any, data: Any, buffers: Any) -> None:
        self._parts = definitions, data, buffers

    def __reduce__(self) -> Any:
        return _load, self._parts


#: The digests of the definitions that were set in this process's `__main__`.
_set: dict[str, bytes] = {}


def _load(definitions: list[tuple[str, Any]], data: Any, buffers: list[Any]) -> Any:
    scope = vars(_main())
    for name, body in definitions:
        import hashlib  # which costs each program 3 ms, and few need it

        digest = hashlib.blake2b(body, digest_size=16).digest()
        if _set.get(name) != digest:
            scope[name] = pickle.loads(body)
            _set[name] = digest
    return pickle.loads(data, buffers=buffers)
