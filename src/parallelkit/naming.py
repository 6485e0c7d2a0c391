"""The note that says which item an exception is about."""

from __future__ import annotations

import itertools
import reprlib
import threading

from . import tracebacks
from .engines import Style, Work
from .errors import SerializationError

_numbers = itertools.count(1)


class _Short(reprlib.Repr):
    """Writes an item into a note: shortened, as it may be large, but a path stays whole."""

    def repr_bytes(self, item: bytes, level: int) -> str:
        # Cut off first: all of it would take four times the memory.
        return self.repr_instance(item[: self.maxother], level)

    repr_bytearray = repr_bytes


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = 160


class _Note(str):
    """A note that was added in this process, by the call with this number."""

    call: int = 0


class Namer:
    """Adds to the exceptions of one call which of its items they are about.

    >>> error = ValueError("no such tea")
    >>> Namer(Work(len, Style.CALL, ["milk", "tea"])).name(1, error)
    >>> error.__notes__
    ["parallelkit: item 1: 'tea'"]
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._number = next(_numbers)

    def name(self, index: int, exception: BaseException) -> None:
        """Add the note; runs code of the item and of the exception, and raises nothing of theirs."""
        if self._work.style is Style.APPLY:
            text = f"in the call of {self._function()}"
        else:
            if isinstance(exception, SerializationError) and exception.index is None:
                exception.index = index  # a worker knows the place in its chunk only
            text = f"item {index}: {self._item(index)}"
        note = _Note(f"parallelkit: {text}")
        note.call = self._number
        _drop_earlier(exception, self._number)
        tracebacks.add_note(exception, note)

    def _item(self, index: int) -> str:
        try:
            return _short.repr(self._work.item(index))
        except BaseException as error:
            _pass_on_interrupt(error)
            return f"(its repr raised {type(error).__name__})"

    def _function(self) -> str:
        function = self._work.function
        try:
            return str(getattr(function, "__qualname__", None) or _short.repr(function))
        except BaseException as error:
            _pass_on_interrupt(error)
            return f"an instance of {type(function).__qualname__}"


def _pass_on_interrupt(error: BaseException) -> None:
    """A Ctrl-C goes to the main thread only: in another one it is the item's own."""
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error


def _drop_earlier(exception: BaseException, call: int) -> None:
    """Without workers of their own, several items may raise one object: the last of them names it.

    A note of a call that began later is of a call in this one's item, and stays.
    """
    notes = tracebacks.notes_of(exception)
    if isinstance(notes, list):
        notes[:] = [note for note in notes if not (type(note) is _Note and note.call <= call)]
