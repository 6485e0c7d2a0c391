"""A chunk and the function of its call in frames, and who is to blame where something cannot be pickled."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from typing import Any

from ... import serialization, tracebacks
from ...scheduler import Chunk
from ..base import Style, Work
from . import protocol as p
from .shared import LEAST, SharedBuffers, pack_body
from .transport import Part, pack


class Definition:
    """The function of a call, pickled once; large buffers in it are shared, where the system can do that."""

    def __init__(self, dumps: serialization.Dumps, work: Work) -> None:
        """SerializationError where the function cannot be pickled."""
        try:
            self._data, self._raw = _pickled(dumps, work.function)
        except BaseException as error:
            raise serialization.error("function", work.function, error, attempt=dumps) from error
        self._style = work.style
        self.shared: SharedBuffers | None = None
        if sum(view.nbytes for view in self._raw) >= LEAST:
            with contextlib.suppress(OSError):
                self.shared = SharedBuffers(self._raw)
                self._raw.clear()

    def parts(self, job: int) -> list[Part]:
        """The frame. Where its buffers are shared, it is to be sent with their descriptor."""
        if self.shared is not None:
            return pack(p.SHARED, job, self._style, pack_body(self.shared.sizes, self._data))
        return pack(p.DEFINE, job, self._style, self._data, self._raw)


def pack_single(dumps: serialization.Dumps, chunk: Chunk, work: Work) -> list[Part]:
    """A call of its own, with its function: nothing to define, nothing to forget.

    Empty where it cannot be pickled so, or could not be read: in parts it is seen which is to blame.
    """
    if chunk.piecewise:
        return []
    try:
        data, raw = _pickled(dumps, (work.function, work.item(chunk.start)))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return []
    return pack(p.SINGLE, chunk.id, chunk.job, data, raw)


def pack_items(
    dumps: serialization.Dumps, chunk: Chunk, items: Sequence[Any], eager: int, style: Style
) -> list[Part]:
    """The items of a chunk: together, or where that fails one by one, with failures in their places."""
    if not chunk.piecewise:
        try:
            data, raw = _pickled(dumps, items)
        except KeyboardInterrupt:
            raise
        except BaseException:
            pass  # one of them cannot be pickled: the others can, one by one
        else:
            return pack(p.BATCH | eager, chunk.id, chunk.job, data, raw)
    pieces: list[p.ItemPiece] = []
    large: list[memoryview] = []
    for index, item in enumerate(items, chunk.start):
        piece, views = _item_piece(dumps, None if style is Style.APPLY else index, item)
        pieces.append(piece)
        large += views
    return pack(p.PIECES | eager, chunk.id, chunk.job, pickle.dumps(pieces, 5), large)


def _item_piece(
    dumps: serialization.Dumps, index: int | None, item: object
) -> tuple[p.ItemPiece, list[memoryview]]:
    try:
        data, raw = _pickled(dumps, item)
        return (data, len(raw)), raw
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "call" if index is None else "item"
        failure = serialization.error(what, item, error, index=index, attempt=dumps)
        return (None, tracebacks.dumps(failure)), []


def _pickled(dumps: serialization.Dumps, obj: object) -> tuple[bytes, list[memoryview]]:
    """The pickle, and the large buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    data = dumps(obj, buffers)
    return data, [buffer.raw() for buffer in buffers]
