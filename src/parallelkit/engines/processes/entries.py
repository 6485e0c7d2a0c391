"""What results look like on their way: in the log of a worker's status page, and in a frame.

::

    ends     u32 each  what each entry is; 0: the result was None
    numbers  i64 or double each, for the entries that are an INT, a BOOL or a FLOAT
    log      bytes     the other entries, one behind the other

An end is one of INT, BOOL and FLOAT, or where the entry ends in the log: a pickle, with the bit FAILED where
it is that of an exception, or with the bit PLAIN what `plain` gives. What does not fit into the log is sent
at once: in the frame, LARGE marks that it is in as many buffers as the number in the place of the end says.

Each result is written for itself, as a worker may die behind each, and one that cannot be read fails alone.
That is dear for small ones, so the usual ones are not pickled. Numbers are written down, and None costs
nothing at all. Texts, bytes and tuples of scalars are marshalled: in half the time, and in a form where one
behind the other they are the body of a list, which is read at once.
"""

from __future__ import annotations

import marshal
import pickle
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ... import serialization, tracebacks

FAILED, LARGE, PLAIN = 1 << 31, 1 << 30, 1 << 28
INT, BOOL, FLOAT = 1 << 29, (1 << 29) + 1, (1 << 29) + 2
#: So many entries there are at the most.
LOG_ENTRIES = 4096

_HEAD = struct.Struct("=dI")
_END = struct.Struct("=I")
_ALL_INTS, _ALL_FLOATS = (_END.pack(kind) * LOG_ENTRIES for kind in (INT, FLOAT))


_NUMBERS = frozenset({type(None), bool, int, float, complex})
_SCALARS = _NUMBERS | {str, bytes}
#: Larger ones are pickled, which writes down once what is in a tuple several times; in bytes of memory.
_PLAIN_MOST = 1 << 15
#: The search for what is no scalar, and for what is large, ends there.
_TUPLE_MOST = 256
#: The last version in which nothing refers to what was written before it.
_MARSHAL_VERSION = 2
_LIST = struct.Struct("<cI")


def plain(value: Any) -> bytes | None:
    """A small scalar, or a small tuple of scalars, as bytes; None for all else, subclasses included.

    >>> plain([1]) is None
    True
    """
    kind = type(value)
    if kind is tuple:
        if len(value) > _TUPLE_MOST or not _small_scalars(value):
            return None
    elif kind is str or kind is bytes:
        if len(value) > _PLAIN_MOST:
            return None
    elif kind is not int and kind is not complex:
        return None
    return marshal.dumps(value, _MARSHAL_VERSION)


def _small_scalars(values: tuple[Any, ...]) -> bool:
    try:
        if _NUMBERS.issuperset(map(type, values)):
            return True
        return _SCALARS.issuperset(map(type, values)) and sum(map(sys.getsizeof, values)) <= _PLAIN_MOST
    except Exception:  # a class without a hash
        return False


class Entries(NamedTuple):
    """Some results; the bytes are empty where all of them are None.

    >>> Entries(2, b"", b"", b"").values(())
    ([None, None], None)
    """

    size: int
    ends: bytes
    numbers: bytes
    log: bytes

    def pack(self, seconds: float) -> bytes:
        """The body of a frame; the results took `seconds`."""
        return b"".join((_HEAD.pack(seconds, self.size), self.ends, self.numbers, self.log))

    @classmethod
    def unpack(cls, body: bytes) -> tuple[float, Entries]:
        """The opposite of `pack`.

        >>> Entries.unpack(Entries(2, b"", b"", b"").pack(0.5))
        (0.5, Entries(size=2, ends=b'', numbers=b'', log=b''))
        """
        seconds, count = _HEAD.unpack_from(body)
        begin = _HEAD.size
        if len(body) == begin:
            return seconds, cls(count, b"", b"", b"")
        numbers = begin + 4 * count
        log = numbers + 8 * count
        return seconds, cls(count, body[begin:numbers], body[numbers:log], body[log:])

    @classmethod
    def large(cls, buffers: int, flag: int) -> Entries:
        """One result that is in so many buffers."""
        return cls(1, _END.pack(buffers | LARGE | flag), bytes(8), b"")

    def values(self, buffers: Sequence[Any]) -> tuple[list[Any], dict[int, BaseException] | None]:
        """The results, and the exceptions of those that failed, by their place in the list."""
        ends = self.ends
        if not ends:
            return [None] * self.size, None
        if ends == _ALL_INTS[: len(ends)]:
            return memoryview(self.numbers).cast("q").tolist(), None
        if ends == _ALL_FLOATS[: len(ends)]:
            return memoryview(self.numbers).cast("d").tolist(), None
        places = struct.unpack(f"={self.size}I", ends)
        if min(places) >= PLAIN and max(places) < INT:
            body = _LIST.pack(b"[", self.size) + self.log[: places[-1] & ~PLAIN]
            try:
                return marshal.loads(body), None
            except Exception:
                pass  # one by one, those that can be read are had
        return self._mixed(places, buffers)

    def _mixed(
        self, places: Sequence[int], buffers: Sequence[Any]
    ) -> tuple[list[Any], dict[int, BaseException] | None]:
        values: list[Any] = []
        failures: dict[int, BaseException] = {}
        log, loads, add = self.log, pickle.loads, values.append
        begin = 0
        for index, end in enumerate(places):
            if not end:
                add(None)
                continue
            try:
                if end < PLAIN:
                    data = log[begin:end]
                    begin = end
                    add(loads(data))
                    continue
                if end < INT:
                    data = log[begin : end & ~PLAIN]
                    begin = end & ~PLAIN
                    add(marshal.loads(data))
                    continue
                if end < LARGE:
                    add(self._number(index, end))
                    continue
                rest = buffers
                if end & LARGE:
                    data, *rest = buffers
                else:
                    data = log[begin : end & ~FAILED]
                    begin = end & ~FAILED
                if end & FAILED:
                    failures[index] = tracebacks.loads(bytes(data))
                    add(None)
                else:
                    add(serialization.loads(data, rest))
            except BaseException as error:
                failures[index] = serialization.error("result", None, error)
                add(None)
        return values, failures or None

    def _number(self, index: int, end: int) -> float | bool:
        numbers = memoryview(self.numbers).cast("d" if end == FLOAT else "q")
        number: float = numbers[index]
        return bool(number) if end == BOOL else number
