"""An object as a message: a pickle with its large buffers beside it, or large bytes as they are.

The reducers that were registered with `multiprocessing` count, so that connections, sockets and what other
libraries registered travel as they do there.
"""

from __future__ import annotations

import copyreg
import pickle
from collections import ChainMap
from collections.abc import Sequence
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
_picklers = serialization.Picklers(_REDUCERS)
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
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = _picklers.dumps(obj, buffers)
    except Exception as error:
        raise serialization.error("item", obj, error) from error
    if not buffers:
        return PICKLE, body, ()
    return PICKLE_AND_BUFFERS, body, [buffer.raw() for buffer in buffers]


def decode(message: Message) -> Any:
    """The object that a message holds."""
    kind, body, buffers = message
    if kind == PICKLE:
        return pickle.loads(body)
    if kind == PICKLE_AND_BUFFERS:
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
