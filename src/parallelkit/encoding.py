"""An object as a message: a pickle with its large buffers beside it, or large bytes as they are.

The reducers that were registered with `multiprocessing` count, so that connections, sockets and what other
libraries registered travel as they do there.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias, cast

from . import serialization

__all__ = [
    "BYTEARRAY",
    "BYTES",
    "PICKLE",
    "PICKLE_AND_BUFFERS",
    "Message",
    "Part",
    "advance",
    "decode",
    "encode",
]

Part: TypeAlias = "bytes | bytearray | memoryview"

#: What the body of a message is.
PICKLE, PICKLE_AND_BUFFERS, BYTES, BYTEARRAY = range(4)

#: What a ForkingPickler looks up, which makes such a chain anew for each object.
_REDUCERS = ChainMap[Any, Any](ForkingPickler._extra_reducers, copyreg.dispatch_table)  # type: ignore[attr-defined]
#: Neither these nor a small container of them has a reducer or a buffer, which makes their pickling simpler.
_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


_FEW = 16

#: One object, ready to travel: what its body is, the body, and the buffers beside it. No class, as the making
#: of one costs as much as the pickling of a small object.
Message: TypeAlias = "tuple[int, Part, Sequence[Part]]"


def encode(obj: object) -> Message:
    """The message for `obj`. SerializationError where it cannot be pickled, naming what of it cannot.

    >>> decode(encode([1, 2]))
    [1, 2]
    """
    cls = type(obj)
    if cls is bytes and len(cast("bytes", obj)) >= serialization.LARGE:
        return BYTES, cast("bytes", obj), ()
    if cls is bytearray and len(cast("bytearray", obj)) >= serialization.LARGE:
        return BYTEARRAY, cast("bytearray", obj), ()
    if cls in _ATOMS or _is_plain(obj, cls):
        return PICKLE, pickle.dumps(obj, 5), ()
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = serialization.dumps(obj, buffers, _dumps)
    except Exception as error:
        raise serialization.error("item", obj, error) from error
    if not buffers:
        return PICKLE, body, ()
    return PICKLE_AND_BUFFERS, body, [buffer.raw() for buffer in buffers]


def _is_plain(obj: Any, cls: type) -> bool:
    if cls is tuple or cls is list:
        parts = obj
    elif cls is dict:
        if not _ATOMS.issuperset(map(type, obj)):
            return False
        parts = obj.values()
    else:
        return False
    if _ATOMS.issuperset(map(type, parts)):
        return True
    if len(parts) > _FEW:
        return False
    for part in parts:
        inner = type(part)
        if inner not in _ATOMS:
            if inner is dict:
                if not _ATOMS.issuperset(map(type, part)):
                    return False
                part = part.values()
            elif inner is not list and inner is not tuple:
                return False
            if not _ATOMS.issuperset(map(type, part)):
                return False
    return True


def _dumps(obj: object, protocol: int, buffer_callback: Callable[[pickle.PickleBuffer], Any]) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(obj)
    return file.getvalue()


def decode(message: Message) -> Any:
    """The object that a message holds."""
    kind, body, buffers = message
    if kind <= PICKLE_AND_BUFFERS:
        return pickle.loads(body, buffers=buffers)
    return body


def advance(left: list[memoryview], count: int) -> list[memoryview]:
    """What is left of some buffers after `count` bytes of them are done."""
    at = 0
    while at < len(left) and count >= len(left[at]):
        count -= len(left[at])
        at += 1
    rest = left[at:]
    if count:
        rest[0] = rest[0][count:]
    return rest
