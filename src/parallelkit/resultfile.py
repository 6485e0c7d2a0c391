"""A file in memory through which a process leaves its result, for a parent that may never ask.

The parent makes the file and the child inherits it. Writing never blocks, so the child can end whether or
not anybody reads. Nothing is read before the child is dead, and nothing is unpickled before it is asked
for. What a killed child had half written is no result, because the header is written last. A child that has
closed all descriptors has the file from its parent's, by /proc; what cannot be written is no result, either.

    0   kind, number of parts          16 bytes
    16  length of each part            8 bytes each
        the parts, each aligned        a pickle and its large buffers; or the bytes of an exception
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import serialization, tracebacks

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEADER = struct.Struct("<QQ")
#: What numpy and its kin like their memory aligned to, in bytes.
_ALIGNMENT = 64

VALUE = 1
RAISED = 2
#: The target returned something that cannot be pickled; the part is the error that says so.
UNSENDABLE = 3


class Result:
    """What a process has left, as bytes until somebody asks."""

    def __init__(self, kind: int, parts: Sequence[memoryview]) -> None:
        self.kind: int = kind
        self._parts = parts
        self._value: Any = None
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self._lock = threading.RLock()

    @property
    def exitcode(self) -> int:
        """What multiprocessing makes of it, for a parent that cannot learn the true one."""
        error = self.error() if self.kind == RAISED else None
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            return (error.code or 0) & 0xFF
        return int(error is not None)

    def value(self) -> Any:
        """What the target returned; None where there is an `error`."""
        self._load()
        return self._value

    def error(self) -> BaseException | None:
        """What the target raised, or why its result cannot be had; with the traceback it came with."""
        self._load()
        error = self._error
        return None if error is None else BaseException.with_traceback(error, self._trace)

    def _load(self) -> None:
        with self._lock:
            if self._parts:
                first, *buffers = self._parts
                self._parts = ()
                self._unpickle(first, buffers)

    def _unpickle(self, first: memoryview, buffers: Sequence[memoryview]) -> None:
        if self.kind != VALUE:
            self._error = tracebacks.loads(bytes(first))
        else:
            try:
                self._value = serialization.loads(first, buffers)
            except Exception as error:
                self.kind = UNSENDABLE
                self._error = serialization.error("result", None, error)
        self._trace = self._error.__traceback__ if self._error is not None else None


class ResultFile:
    """The parent's end."""

    def __init__(self) -> None:
        self.fd: int = _new_file()
        self.writer: Writer = Writer(self.fd)
        self._close = weakref.finalize(self, _close_in, os.getpid(), self.fd)
        self._close.atexit = False

    def take(self) -> Result | None:
        """What was left there, and close the file. None where nothing, or only half of it, was left."""
        try:
            return self._read()
        finally:
            # Whoever has inherited the descriptor would keep the memory.
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)
            self._close()

    def close(self) -> None:
        """Close the file; its content is lost."""
        self._close()

    def _read(self) -> Result | None:
        header = os.pread(self.fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return None
        kind, count = _HEADER.unpack(header)
        if kind == 0:
            return None
        lengths = struct.unpack(f"<{count}Q", os.pread(self.fd, 8 * count, _HEADER.size))
        parts = []
        offset = _aligned(_HEADER.size + 8 * count)
        for length in lengths:
            part = memoryview(bytearray(length))
            _all(lambda left, at: os.preadv(self.fd, [left], at), part, offset)
            parts.append(part)
            offset = _aligned(offset + length)
        return Result(kind, parts)


class Writer:
    """The child's end, which is pickled only while a process is being spawned.

    The target may close all descriptors, as a daemon does, and open files of its own: its number is then
    another file's. The parent has the right one open all the same.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._key = _key(os.fstat(fd))
        self._at_parent = f"/proc/{os.getpid()}/fd/{fd}"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fd": DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._fd = state["_fd"].detach()
        os.set_inheritable(self._fd, False)

    def value(self, value: object) -> None:
        """Leave a value, as `write_value` does; where that is not possible, nothing."""
        # The process has done its work: it ends as it would without this.
        with contextlib.suppress(Exception):
            write_value(self._open(), value)

    def error(self, error: BaseException, own_files: frozenset[str]) -> None:
        """Leave an exception, as `write_error` does; where that is not possible, nothing."""
        with contextlib.suppress(Exception):
            write_error(self._open(), error, own_files)

    def _open(self) -> int:
        with contextlib.suppress(OSError):
            if _key(os.fstat(self._fd)) == self._key:
                return self._fd
        # Looked at before it is opened, as to open another file can have effects.
        if _key(os.stat(self._at_parent)) != self._key:
            raise FileNotFoundError(self._at_parent)
        self._fd = os.open(self._at_parent, os.O_RDWR | os.O_CLOEXEC)
        return self._fd


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def write_value(fd: int, value: object) -> None:
    """Leave a value; where it cannot be pickled, the error that says why."""
    buffers: list[Any] = []
    try:
        data = serialization.dumps(value, buffers)
        _write(fd, VALUE, [data, *(buffer.raw() for buffer in buffers)])
    except Exception as error:
        failure = serialization.error("result", value, error)
        _write(fd, UNSENDABLE, [tracebacks.dumps(failure)])


def write_error(fd: int, error: BaseException, own_files: frozenset[str]) -> None:
    """Leave an exception; the traceback begins behind the frames of `own_files`."""
    whole = trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in own_files:
        trace = trace.tb_next
    try:
        BaseException.with_traceback(error, trace or whole)
        data = tracebacks.dumps(error)
    finally:
        BaseException.with_traceback(error, whole)
    _write(fd, RAISED, [data])


def _write(fd: int, kind: int, parts: Sequence[Buffer]) -> None:
    views = [memoryview(part).cast("B") for part in parts]
    offset = _aligned(_HEADER.size + 8 * len(views))
    for view in views:
        _all(lambda left, at: os.pwrite(fd, left, at), view, offset)
        offset = _aligned(offset + view.nbytes)
    os.pwrite(fd, struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views)), _HEADER.size)
    os.pwrite(fd, _HEADER.pack(kind, len(views)), 0)


def _all(call: Callable[[memoryview, int], int], view: memoryview, offset: int) -> None:
    """Repeat a read or a write until it is complete: the system does at most 2 GiB at a time."""
    done = 0
    while done < view.nbytes:
        step = call(view[done:], offset + done)
        if step == 0:
            raise EOFError(f"the result ends after {done} of {view.nbytes} bytes")
        done += step


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _close_in(owner: int, fd: int) -> None:
    # A forked child may have closed all descriptors, and have another under that number.
    if os.getpid() == owner:
        os.close(fd)


def _new_file() -> int:
    with contextlib.suppress(AttributeError, OSError):
        return os.memfd_create("parallelkit-result", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
