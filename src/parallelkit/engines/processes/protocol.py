"""What the frames between a parent and its worker mean.

========== === ============================================ ====================== ===================
frame      way a, b                                         body                   buffers
========== === ============================================ ====================== ===================
DEFINE     →   job, style                                   the function's pickle  its large buffers
SHARED     →   job, style                                   sizes, and the pickle  in the file that comes
                                                                                   with it, see `shared`
FORGET     →   job
RANGE      →   chunk, job                                   start, stop (u64 each)
BATCH      →   chunk, job                                   pickle of the items    their large buffers
PIECES     →   chunk, job                                   pickle of pieces       their large buffers
SINGLE     →   chunk, job                                   function and its item  their large buffers
STOP       →
READY      ←
INIT_ERROR ←                                                exception
RESULTS    ←   chunk, position of the first                 `Entries`              those of a large one
SHORT      ←   chunk, position that was not started
UNREADABLE ←   chunk
NO_FUNCTION ←  job                                          exception
========== === ============================================ ====================== ===================

With the bit EAGER a chunk's results are to be sent one by one. Exceptions are `tracebacks.dumps`.

A piece of an item is a tuple: its pickle and how
many of the next buffers belong to it, or, where it could not be pickled, None and the exception.
"""

from __future__ import annotations

from typing import TypeAlias

DEFINE, SHARED, FORGET, RANGE, BATCH, PIECES, SINGLE, STOP = range(1, 9)
READY, INIT_ERROR, RESULTS, SHORT, UNREADABLE, NO_FUNCTION = range(17, 23)
EAGER = 0x80

ItemPiece: TypeAlias = "tuple[bytes, int] | tuple[None, bytes]"
